"""GANs: latent vectors, images, interpolation, attention maps, files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import nn

from gan_toys import PAIRS, awake
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling, from_model
from pixelloom.models.gan import DISCRIMINATOR, GANDescription, GANModel, load_gan
from pixelloom.sampling.latent_noise import labels_of, latents, path, slerp

SPEC = ImageSpec(1, 16, 16, 256)
each_kind = pytest.mark.parametrize("kind", PAIRS)


def built(kind: str, classes: int = 0, image: ImageSpec = SPEC) -> GANModel:
    """Random weights and statistics, as after training."""
    torch.manual_seed(0)
    name, config = PAIRS[kind]
    model = GANModel.build(GANDescription(network=name, model=config, image=image, classes=classes))
    assert model.discriminator is not None
    awake(model.network)
    awake(model.discriminator)
    return model


# Latent vectors


def test_noise_is_standard_normal_and_each_image_has_its_own() -> None:
    z = latents(50, seed=3, first=0, n=400)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.01
    assert torch.equal(latents(50, 3, first=100, n=5), z[100:105])
    assert not torch.isclose(latents(50, 4, 0, 400), z).all(1).any()
    assert len(z.unique(dim=0)) == 400


@pytest.mark.parametrize("t", [0.1, 0.7, 2.0])
def test_truncated_noise_is_the_truncated_normal_of_the_same_numbers(t: float) -> None:
    z, cut = latents(50, 0, 0, 400), latents(50, 0, 0, 400, truncation=t)
    assert cut.abs().max() <= t
    assert stats.kstest(cut.flatten().numpy(), stats.truncnorm(-t, t).cdf).pvalue > 0.01
    assert torch.equal(cut.flatten().argsort(), z.flatten().argsort()) or torch.equal(cut.sign(), z.sign())


def test_a_wide_truncation_changes_nothing() -> None:
    torch.testing.assert_close(latents(9, 0, 0, 9, truncation=9.0), latents(9, 0, 0, 9), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("t", [0.0, -1.0, math.nan])
def test_a_truncation_that_is_none_is_refused(t: float) -> None:
    with pytest.raises(UsageError, match="truncation: must be a positive number"):
        latents(3, 0, 0, 1, truncation=t)


def test_classes_are_equally_likely_and_belong_to_the_image() -> None:
    labels = labels_of(4, 0, 0, 2000)
    assert stats.chisquare(labels.bincount(minlength=4).numpy()).pvalue > 0.01
    assert torch.equal(labels_of(4, 0, 500, 7), labels[500:507])


def test_slerp_turns_at_one_speed_and_keeps_the_length() -> None:
    a, b = torch.tensor([3.0, 0, 0]), torch.tensor([0, 3.0, 0])
    found = slerp(a, b, torch.tensor([0, 1 / 3, 0.5, 1]))
    angle = torch.tensor([0, math.pi / 6, math.pi / 4, math.pi / 2])
    torch.testing.assert_close(found, 3 * torch.stack((angle.cos(), angle.sin(), 0 * angle), 1), rtol=1e-6, atol=1e-6)


def test_slerp_of_one_direction_is_the_line() -> None:
    a = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(slerp(a, 3 * a, torch.tensor([0.0, 0.5, 1.0])), torch.stack((a, 2 * a, 3 * a)))
    assert slerp(a, -a, torch.tensor([0.5])).abs().max() < 1e-6


def test_a_path_passes_its_stops() -> None:
    stops = torch.randn(4, 5)
    found = path(stops, 3)
    assert found.shape == (10, 5)
    torch.testing.assert_close(found[::3], stops)
    for wrong in ((stops[:1], 3), (stops, 0)):
        with pytest.raises(UsageError, match="two or more stops"):
            path(*wrong)


# Images


@each_kind
@pytest.mark.parametrize("classes", [0, 3])
def test_an_image_belongs_to_its_number_in_any_batch(kind: str, classes: int) -> None:
    model = built(kind, classes)
    images = model.sample(7, seed=5)
    assert len(images.flatten(1).unique(dim=0)) == 7
    assert torch.equal(model.sample(3, seed=5, first=4), images[4:])
    near = (model.sample(7, seed=5, batch=2).int() - images.int()).abs()  # sums are taken in another order
    assert near.max() <= 1
    assert torch.equal(model.sample(7, seed=5), images)


@each_kind
def test_an_image_is_the_output_of_the_generator(kind: str) -> None:
    model = built(kind, classes=3)
    labels = torch.tensor([2, 0, 1, 1])
    with torch.no_grad():
        out = model.network(latents(model.latent, 9, 0, 4), labels)
    expected = ((out.double().clamp(-1, 1) + 1) / 2 * 255).round()
    found = model.sample(4, seed=9, labels=labels)
    assert (found.double() - expected).abs().max() <= 1
    assert torch.equal(found, from_model(out, 256, Scaling.symmetric()))
    assert not torch.equal(model.sample(4, seed=9, labels=0), model.sample(4, seed=9, labels=1))


def test_levels_of_a_coarse_image_are_the_nearest() -> None:
    model = built("r3gan", image=ImageSpec(3, 16, 16, 4))
    with torch.no_grad():
        out = model.network(model.latents(6))
    found = model.sample(6)
    assert torch.equal(found.double(), ((out.double() + 1) * 1.5).round().clamp(0, 3))
    assert len(found.unique()) >= 3


def test_the_callback_receives_each_batch() -> None:
    model, seen = built("dcgan"), list[tuple[int, int, torch.Tensor]]()
    images = model.sample(7, batch=3, on_step=lambda *step: seen.append(step))
    assert [(step, steps, len(part)) for step, steps, part in seen] == [(1, 1, 3), (1, 1, 3), (1, 1, 1)]
    assert torch.equal(torch.cat([part for *_, part in seen]), images)


def test_without_labels_each_image_has_a_class_of_its_own() -> None:
    model = built("sngan", classes=3)
    assert torch.equal(model.sample(6, seed=2), model.sample(6, seed=2, labels=labels_of(3, 2, 0, 6)))


def test_interpolation_meets_the_images_and_changes_little_between_steps() -> None:
    model = built("dcgan")
    found = model.interpolate(3, 10, seed=1, first=4).int()
    assert found.shape == (21, *SPEC.shape)
    assert (found[::10] - model.sample(3, seed=1, first=4).int()).abs().max() <= 1
    steps = (found[1:] - found[:-1]).abs().float().mean((1, 2, 3))
    whole = (found[10] - found[0]).abs().float().mean()
    assert steps.max() < whole / 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 0}, "n: must be 1 or more"),
        ({"n": 2, "labels": 1}, "this model is unconditional"),
        ({"n": 2, "seed": -1}, "seed: must be 0 or more"),
        ({"n": 2, "batch": 0}, "batch: must be 1 or more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        built("dcgan").sample(**options)  # type: ignore[arg-type]


def test_wrong_vectors_and_labels_are_refused() -> None:
    model = built("sngan", classes=3)
    with pytest.raises(UsageError, match=r"z: the model takes \[n, 6\], not \[2, 5\]"):
        model.render(torch.zeros(2, 5), 0)
    with pytest.raises(UsageError, match="numbered 0 to 2"):
        model.render(torch.zeros(2, 6), 3)
    with pytest.raises(UsageError, match="a class for each image"):
        model.render(torch.zeros(2, 6))


# Attention


def test_maps_are_those_of_the_images_and_change_none() -> None:
    model = built("sagan")
    z = model.latents(3)
    images, maps = model.attend(z)
    assert torch.equal(images, model.render(z))
    assert [name for name, _ in maps] == [name for name, _ in model.attend(z)[1]]
    assert len(maps) == 2
    for _, weights in maps:
        torch.testing.assert_close(weights.sum((3, 4)), torch.ones(weights.shape[:3]))
    logits, seen = model.attend_to(images)
    x = images.double() / 255 * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(logits, model.discriminator(x.float()), rtol=1e-4, atol=1e-4)
    assert len(seen) == 2


# Files


@each_kind
@pytest.mark.parametrize("classes", [0, 3])
def test_a_saved_model_comes_back_whole(kind: str, classes: int, tmp_path: Path) -> None:
    model = built(kind, classes)
    sha256 = model.save(tmp_path / "model")
    again = load_gan(tmp_path / "model")
    assert again.description == model.description
    assert json.loads((tmp_path / "model/config.json").read_text())["sha256"] == sha256
    assert torch.equal(again.sample(3, seed=1), model.sample(3, seed=1))
    images, labels = model.sample(3), torch.tensor([0, 1, 2]) if classes else None
    assert torch.equal(again.attend_to(images, labels)[0], model.attend_to(images, labels)[0])
    (tmp_path / "model" / DISCRIMINATOR).unlink()
    alone = load_gan(tmp_path / "model")
    assert torch.equal(alone.sample(3, seed=1), model.sample(3, seed=1))
    with pytest.raises(UsageError, match="kept without its discriminator"):
        alone.attend_to(images, labels)


def test_what_is_no_gan_model_is_refused(tmp_path: Path) -> None:
    model = built("dcgan")
    model.save(tmp_path)
    wrong = GANModel(nn.Conv2d(1, 1, 1), model.description)
    wrong.save(tmp_path / "wrong")
    with pytest.raises(ModelError, match="made by another model"):
        load_gan(tmp_path / "wrong")
    content = bytearray((tmp_path / DISCRIMINATOR).read_bytes())
    content[-1] ^= 1
    (tmp_path / DISCRIMINATOR).write_bytes(content)
    with pytest.raises(
        ModelError, match=r"discriminator.safetensors: damaged.* this file; without it the model samples"
    ):
        load_gan(tmp_path)
    (tmp_path / DISCRIMINATOR).unlink()
    assert load_gan(tmp_path).discriminator is None


def test_settings_of_a_network_that_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'dcgan'"):
        GANDescription(network="dcgann", model={}, image=SPEC)
