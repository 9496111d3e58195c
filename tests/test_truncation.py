"""Batch norm of a generator at a truncation: its statistics are those of truncated latent vectors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gan_toys import PAIRS, awake
from pixelloom.core import rng
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling, from_model
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.truncation import BATCH, BATCHES, has_batch_norm
from pixelloom.sampling.latent_noise import labels_of, latents


def model_of(kind: str, classes: int = 0) -> GANModel:
    network, config = PAIRS[kind]
    about = GANDescription(network=network, model=config, image=ImageSpec(1, 16, 16, 256), classes=classes)
    torch.manual_seed(0)
    model = GANModel.build(about)
    awake(model.network)
    return model


@pytest.mark.parametrize(("kind", "classes"), [("dcgan", 0), ("sagan", 0), ("sngan", 3)])
def test_statistics_are_the_means_over_batches_of_truncated_vectors(kind: str, classes: int) -> None:
    model, t = model_of(kind, classes), 0.4
    assert has_batch_norm(model.network)
    network = copy.deepcopy(model.network)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    means: list[list[torch.Tensor]] = [[] for _ in norms]
    variances: list[list[torch.Tensor]] = [[] for _ in norms]

    def note(number: int) -> None:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            means[number].append(inputs[0].mean((0, 2, 3)))
            variances[number].append(inputs[0].var((0, 2, 3)))

        norms[number].register_forward_pre_hook(hook)

    for number, norm in enumerate(norms):
        note(number)
        norm.train()  # normalizes by the statistics of the batch
    with torch.no_grad():
        for i in range(BATCHES):
            z = latents(model.latent, rng.Stream.STANDING, i * BATCH, BATCH, truncation=t)
            network(*((z, labels_of(classes, rng.Stream.STANDING, i * BATCH, BATCH)) if classes else (z,)))
    expected = copy.deepcopy(model.network)
    for norm, mean, variance in zip(
        (layer for layer in expected.modules() if isinstance(layer, nn.BatchNorm2d)), means, variances, strict=True
    ):
        norm.running_mean, norm.running_var = torch.stack(mean).mean(0), torch.stack(variance).mean(0)
    labels = torch.tensor([0, 1, 2, 1, 0]) if classes else None
    z = model.latents(5, seed=3, truncation=t)
    with torch.no_grad():
        images = expected(z) if labels is None else expected(z, labels)
    found = model.sample(5, seed=3, truncation=t, labels=labels).int()
    assert int((found - from_model(images, 256, Scaling.symmetric()).int()).abs().max()) <= 1  # rounding
    assert int((found - model.render(z, labels).int()).abs().max()) > 1  # the statistics of z ~ N(0, 1)


def test_copies_follow_the_weights_and_the_model_stays_as_it_is() -> None:
    model = model_of("dcgan")
    before, plain = {k: v.clone() for k, v in model.network.state_dict().items()}, model.sample(3, seed=1)
    first = model.sample(3, seed=1, truncation=0.5)
    assert torch.equal(model.sample(3, seed=1, truncation=0.5), first)
    assert torch.equal(model.sample(3, seed=1), plain)
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(1.5)
    changed = model.sample(3, seed=1, truncation=0.5)
    fresh = GANModel(copy.deepcopy(model.network), model.description)
    assert torch.equal(changed, fresh.sample(3, seed=1, truncation=0.5))
    assert not torch.equal(changed, first)


def test_a_generator_without_batch_norm_is_used_itself() -> None:
    model = model_of("r3gan")
    assert not has_batch_norm(model.network)
    z = model.latents(4, seed=1, truncation=0.7)
    assert torch.equal(model.sample(4, seed=1, truncation=0.7), model.render(z))
