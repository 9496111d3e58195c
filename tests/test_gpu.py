"""What must hold on a CUDA device. Left out by default; ``pytest -m gpu`` runs it, and fails where there is none.

PIXELLOOM_TEST_DEVICE=cpu runs the same code without one: it shows that the tests can run, and nothing about CUDA.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fast_toys
from checks import check_fast_is_plain
from engine_toys import At, same, weights
from fast_toys import TALL, double, of_make
from inception_toys import picture
from inception_toys import weights as inception_weights
from pixelloom.core.rng import image_noise
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import Split
from pixelloom.data.pixels import Scaling
from pixelloom.data.stream import Stream, batches
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.loop import fit
from pixelloom.engine.signals import Interrupted
from pixelloom.engine.state import Hook, State
from pixelloom.heads.discrete import HeadConfig
from pixelloom.metrics.extractors import Inception, features
from pixelloom.models.pixel import PixelDescription, PixelModel, load_pixel
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from pixelloom.objectives.base import Monitor, Objective, OptimConfig
from pixelloom.objectives.likelihood import likelihood
from pixelloom.runs.config import RunConfig
from pixelloom.runs.recipes import PIXEL_RUNS
from settings import CONFIGS

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("PIXELLOOM_TEST_DEVICE", "cuda")

SMALL = {  # neither square nor even
    "mnist": (1, 9, 7),
    "binarized-mnist": (1, 9, 7),
    "colored-mnist": (3, 7, 5),
    "cifar10": (3, 7, 5),
    "digits": (1, 9, 7),
}
LEVELS = {"mnist": 256, "binarized-mnist": 2, "colored-mnist": 4, "cifar10": 256, "digits": 17}


def _small(config: RunConfig) -> ImageSpec:
    levels = LEVELS[config.data.source] if config.data.binarize == "none" else 2
    return ImageSpec(*SMALL[config.data.source], levels)


SPECS = {name: _small(config) for name, config in PIXEL_RUNS.items()}


@pytest.fixture(autouse=True)
def _needs_the_device() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.fail("tests marked gpu need a CUDA device, and there is none here; leave out '-m gpu'")


def model_of(recipe: str) -> PixelModel:
    """A recipe's network for small images, with logits of deviation 1.5; those of a new network are all zero."""
    config = PIXEL_RUNS[recipe]
    spec = SPECS[recipe]
    torch.manual_seed(0)
    model = PixelModel.build(
        PixelDescription(
            network=config.network, model=config.model, head=config.head, image=spec, scaling=Scaling.symmetric()
        )
    )
    with torch.no_grad():
        for weight in model.network.parameters():
            if weight.ndim > 1 and not weight.any():  # layers that start at zero, so that a network begins as nothing
                weight.normal_(std=weight[0].numel() ** -0.5)
        *_, last = (parameter for parameter in model.network.parameters() if parameter.ndim > 1)
        last *= 1.5 / model.predict(levels_of(spec, 16)).std()
    return model


def levels_of(spec: ImageSpec, n: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, spec.levels, (n, *spec.shape), dtype=np.uint8))


@pytest.mark.parametrize("recipe", SPECS)
def test_the_same_seed_gives_the_same_picture_on_both_devices_and_at_any_batch_size(recipe: str) -> None:
    model = model_of(recipe)
    expected = model.sample(3, seed=3)
    model.to(DEVICE)
    assert torch.equal(model.sample(3, seed=3), expected)
    assert torch.equal(model.sample(3, seed=3, batch=2), expected)
    assert not torch.equal(model.sample(3, seed=4), expected)


# Sampling


@pytest.mark.parametrize("recipe", SPECS)
def test_the_fast_sampler_draws_the_pictures_of_the_plain_loop(recipe: str) -> None:
    model = model_of(recipe).to(DEVICE)
    images = check_fast_is_plain(model, seed=3)
    check_fast_is_plain(model, seed=4, given=images, mask=torch.arange(model.spec.width) % 2 == 0)


def check_batch_after_batch(model: PixelModel) -> None:
    """The first batch at a temperature computes each step, the second records it, those after replay the record.

    Each has noise and known values of its own, some are smaller, and one that stops while recording leaves no trace.
    """
    sampler, spec = model.fast_sampler(), model.spec
    batches = [(1.0, 4, False), (1.0, 4, True), (1.0, 4, False), (1.0, 3, True), (0.7, 4, False), (0.7, 4, True)]

    def stop(done: int, total: int, images: Tensor) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    for seed, (temperature, n, partly) in enumerate([*batches, (0.7, 2, True), (0.7, 4, False), (1.0, 4, False)]):
        noise = image_noise(spec, seed, 0, n)
        known = {"given": levels_of(spec, n).to(DEVICE), "mask": (noise < 0.3).to(DEVICE)} if partly else {}
        if seed in (1, 5):
            with pytest.raises(KeyboardInterrupt):
                sampler.sample(noise.to(DEVICE), temperature=temperature, on_step=stop)
        images = sampler.sample(noise.to(DEVICE), temperature=temperature, **known).cpu()
        expected = model.sample(n, seed=seed, temperature=temperature, method="plain", **known)  # type: ignore[arg-type]
        assert torch.equal(images, expected), f"batch {seed}"


@pytest.mark.parametrize("name", ["mnist-gray", "gated", "gated-rgb-20", "rgb-independent"])
def test_models_draw_batch_after_batch(name: str) -> None:
    check_batch_after_batch(double(CONFIGS[name]).to(DEVICE))


@pytest.mark.parametrize(
    "make",
    [fast_toys.tables, fast_toys.coarser_and_back, fast_toys.the_row_so_far, fast_toys.branches_of_different_delay],
)
def test_networks_with_layers_of_their_own_draw_batch_after_batch(make: fast_toys.Make) -> None:
    check_batch_after_batch(of_make(make).to(DEVICE))


def test_images_whose_rows_are_released_are_drawn_batch_after_batch() -> None:
    model = double(TALL).to(DEVICE)
    assert any(layout.moves for layout in model.fast_sampler().plan.caches.values())
    check_batch_after_batch(model)


# The same on both devices


@pytest.mark.parametrize("recipe", SPECS)
def test_the_likelihood_is_the_same_on_both_devices(recipe: str) -> None:
    model = model_of(recipe)
    images = levels_of(model.spec, 16)
    expected = model.log_prob(images)
    per_dim = expected / model.spec.dims
    assert (per_dim + math.log(model.spec.levels)).abs().median() > 0.05, "a uniform model would be the same anywhere"
    found = model.to(DEVICE).log_prob(images)
    assert found.device.type == "cpu"
    assert (found / model.spec.dims - per_dim).abs().max() < 1e-4


@pytest.mark.parametrize("recipe", SPECS)
def test_a_model_saved_from_the_device_is_the_same_on_the_cpu(recipe: str, tmp_path: Path) -> None:
    model = model_of(recipe)
    model.to(DEVICE).save(tmp_path)
    assert same(load_pixel(tmp_path).network.state_dict(), model.to("cpu").network.state_dict())


SPEC = ImageSpec(1, 8, 8, 4)
NETWORK = PixelCNNConfig(channels=16, blocks=2, kernel=3, positions=True, dropout=0.2)


def objective() -> Objective:
    """A small gated network on noise, with all that draws from generators or sums in parallel."""
    scaling = Scaling.symmetric()
    torch.manual_seed(0)
    model = PixelModel.build(
        PixelDescription(network="pixelcnn", model=NETWORK, head=HeadConfig(), image=SPEC, scaling=scaling)
    )
    optim = OptimConfig(lr=3e-3, warmup=100, decay="cosine", clip=1.0)
    return likelihood(model.network, model.head, SPEC.levels, scaling, optim, Monitor("none", lambda _: {}))


def trained(goal: Objective, precision: str, out: Path | None, *hooks: Hook, resume: bool = False) -> State:
    config = TrainConfig.model_validate(
        {"batch": 16, "images": 640, "device": DEVICE, "precision": precision, "ema": 0.1}
    )
    stream = Stream(Split(levels_of(SPEC, 100).numpy(), levels=SPEC.levels), SPEC, config.batch)
    fabric = make_fabric(config)
    return fit(goal, partial(batches, stream), config, fabric, epoch=100, hooks=hooks, out=out, resume=resume)


class Losses(Hook):
    def __init__(self) -> None:
        self.bits: list[float] = []

    def on_step(self, run: object, stats: object) -> None:
        self.bits.append(stats["bits/dim"])  # type: ignore[index]


def test_training_in_bf16_stays_finite_and_follows_fp32() -> None:
    curves = {}
    for precision in ("fp32", "bf16"):
        goal, losses = objective(), Losses()
        trained(goal, precision, None, losses)
        assert all(w.isfinite().all() and w.dtype == torch.float32 for w in weights(goal).values())
        curves[precision] = torch.tensor(losses.bits)
    assert curves["fp32"][0] == pytest.approx(2.0, abs=1e-5)  # a new network is uniform: log2(4) bits
    assert curves["fp32"].isfinite().all()
    assert not torch.equal(curves["bf16"], curves["fp32"])
    assert (curves["bf16"] - curves["fp32"]).abs().max() < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("step", [3, 20])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(precision: str, step: int, tmp_path: Path) -> None:
    whole = objective()
    trained(whole, precision, tmp_path / "whole")
    again = objective()
    trained(again, precision, tmp_path / "again")
    assert same(weights(whole), weights(again)), "two uninterrupted runs differ"

    stop: Callable[[], None] = partial(os.kill, os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        trained(objective(), precision, tmp_path / "cut", At(step, stop))
    rest = objective()
    state = trained(rest, precision, tmp_path / "cut", resume=True)
    assert state.step == 40
    assert same(weights(whole), weights(rest))
    assert not same(weights(whole), weights(objective()))


def test_features_of_inception_are_those_of_the_cpu(tmp_path: Path) -> None:
    torch.save(inception_weights(), tmp_path / "weights.pth")
    extractor, images = Inception(tmp_path / "weights.pth"), picture(3, 32, 32)
    expected = features(images, 256, extractor)
    found = features(images, 256, extractor.on(torch.device(DEVICE)))
    assert next(extractor.parameters()).device.type == torch.device(DEVICE).type
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
