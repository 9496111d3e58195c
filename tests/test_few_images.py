"""Runs on a handful of images: both families train, say what that means, and keep a model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelloom as pl
from commands import Command, caller
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.models.gan import GANModel
from pixelloom.models.pixel import PixelModel
from small_models import TINY

QUICK = ["--train.batch", 4, "--images", 24, "--threads", 1, "--samples", 4, "--train.precision", "fp32"]
GAN = ["--model.generator-width", 2, "--model.discriminator-width", 2, "--model.latent", 3]
PIXEL = [word for field, value in TINY.items() for word in (f"--{field}", value)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def folder(n: int) -> Path:
    """A folder of n different images, gray, 16x16."""
    path = Path(f"images{n}")
    path.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (n, 16, 16), dtype=np.uint8)):
        Image.fromarray(pixels).save(path / f"{i}.png")
    return path


def warnings(err: str) -> list[str]:
    return [line.removeprefix("warning: ") for line in err.splitlines() if line.startswith("warning: ")]


def counts(err: str) -> tuple[int, int, int]:
    """Images of each split, by the log."""
    (found,) = re.findall(r"(\d+) train, (\d+) val, (\d+) test images", err)
    train, val, test = map(int, found)
    return train, val, test


@pytest.mark.parametrize("n", [3, 5, 21])
def test_a_gan_of_few_images_keeps_its_last_model(n: int, run: Command) -> None:
    data = folder(n)
    done = run("train", "dcgan", "--data", data, "--out", "run", *QUICK, *GAN)
    assert done.code == 0, done.err
    train, val, test = counts(done.err)
    assert train + val + test == n
    assert warnings(done.err) == [
        f"{data}: training images: only {train} (the others are left out, for validation and test). "
        "Samples will repeat them. KID needs 20 images and cannot be estimated, so the last model is kept"
    ]
    assert "last model, not validated, at step 6; model in run" in done.err
    assert "validation after" not in done.err
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert not [name for line in lines for name in line if "kid" in name]
    model = pl.load("run")
    assert isinstance(model, GANModel)
    about = model.description.training
    assert (about.images, about.validation.metrics, about.validation.n) == (24, {}, 0)
    assert about.counts == {"train": train, "val": val, "test": test}
    weights, meta = load_tensors(Path("run/checkpoints/step-000000006.safetensors"))
    assert (meta["state"]["best"], meta["state"]["best_step"]) == (0.0, 6)
    ends = dict(model.network.named_parameters())
    assert ends
    assert all(torch.equal(weights[f"ema/{name}"], value) for name, value in ends.items())
    assert not Path("run/last").exists()
    assert "| chosen on | nothing, the last model is kept |" in Path("run/model/README.md").read_text()
    assert len(list(Path("run/samples").glob("*.png"))) >= 2  # the grid, and real images above generated ones
    for command in (("info", "run"), ("sample", "run", "-n", 2), ("compare", "run", "--out", "page")):
        assert run(*command).code == 0
    done = run("evaluate", "run")
    assert (done.code, done.out) == (3, "")
    assert f"kid: {test} real images are too few" in done.err
    done = run("train", "--resume", "--out", "run", "--images", 32)
    assert done.code == 0, done.err
    assert pl.load("run").description.training.images == 32


def test_a_gan_of_few_images_is_told_of_augmentation_that_is_off(run: Command) -> None:
    done = run("train", "dcgan", "--data", folder(3), "--out", "run", *QUICK, *GAN, "--augment.translation", 0)
    assert done.code == 0, done.err
    assert "so the last model is kept; turn on differentiable augmentation (" in warnings(done.err)[0]


@pytest.mark.parametrize("n", [3, 5])
def test_a_pixel_model_of_few_images(n: int, run: Command) -> None:
    data = folder(n)
    done = run("train", "pixelcnn", "--data", data, "--out", "run", *QUICK, *PIXEL)
    assert done.code == 0, done.err
    train, val, test = counts(done.err)
    assert train + val + test == n
    assert warnings(done.err) == [
        f"{data}: training images: only {train}, and {val} for validation. "
        "The model will repeat the training images, and its validation says little about others"
    ]
    model = pl.load("run")
    assert isinstance(model, PixelModel)
    assert model.description.training.validation.n == val > 0


@pytest.mark.parametrize("network", ["dcgan", "pixelcnn"])
@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images_are_refused_with_a_way_on(n: int, network: str, run: Command) -> None:
    """Each of three splits needs an image that the others lack."""
    data = folder(n)
    done = run("train", network, "--data", data, "--out", "run")
    assert (done.code, done.out) == (3, "")
    few = f"{data}: {n} distinct image{'s' * (n > 1)} cannot fill 3 splits"
    assert done.err == f"pixelloom: {few}; at least 3 are needed, such as crops of a large image\n"
    assert not Path("run").exists()
