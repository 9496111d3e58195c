"""Fine-tuning: a run starts from the weights of another model."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import pixelloom as pl
from pixelloom.core.errors import UsageError
from pixelloom.models.description import DISCRIMINATOR

FEW = {"samples": 0, "data.limit": 200, "train.threads": 1, "train.precision": "fp32", "validation_images": 32}
PIXEL = {**FEW, "model.channels": 8, "model.blocks": 1}
GAN = {**FEW, "data.size": 16, "model.generator_width": 4, "model.discriminator_width": 4, "train.batch": 16}


def still(settings: dict[str, Any], *optimizers: str) -> dict[str, Any]:
    """The settings with rates so low that no weight changes."""
    return settings | {
        f"{name}.{key}": value for name in optimizers for key, value in (("lr", 1e-30), ("weight_decay", 0.0))
    }


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "pixel"
    pl.train("digits", out=folder, images=320, overrides=PIXEL)
    return folder


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "gan"
    pl.train("dcgan", data="digits", out=folder, images=32, overrides=GAN)
    return folder


def test_a_pixel_run_starts_from_the_weights(pixel: Path, tmp_path: Path) -> None:
    first = pl.load(pixel)
    tuned = pl.train("digits", start=pixel, out=tmp_path / "run", images=32, overrides=still(PIXEL, "optim"))
    for key, value in first.network.state_dict().items():
        torch.testing.assert_close(tuned.network.state_dict()[key], value, rtol=0, atol=1e-20)
    before, after = first.description.training.validation, tuned.description.training.validation
    assert after.metrics == pytest.approx(before.metrics, rel=1e-6)
    assert tuned.description.training.start.startswith(f"{pixel}, SHA-256 ")


def test_a_layer_of_another_shape_keeps_its_initialization(
    pixel: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pixelloom")
    settings = still(PIXEL, "optim") | {"data.levels": 4}  # the head has other outputs
    fresh = pl.train("digits", out=tmp_path / "fresh", images=32, overrides=settings)
    caplog.clear()
    tuned = pl.train("digits", start=pixel, out=tmp_path / "run", images=32, overrides=settings)
    old, new, made = (m.network.state_dict() for m in (pl.load(pixel), tuned, fresh))
    other = {key for key in new if old[key].shape != new[key].shape}
    assert 0 < len(other) < len(new)
    for key in new:
        torch.testing.assert_close(new[key], (made if key in other else old)[key], rtol=0, atol=1e-20)
    for text in ("left at their initialization", "not used from"):
        assert all(key in next(m for m in caplog.messages if text in m) for key in other)


def test_nothing_that_fits_and_another_family_are_refused(pixel: Path, gan: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"start: no weight of .* fits this network"):
        pl.train("made", data="digits", start=pixel, out=tmp_path / "a", images=32, overrides=FEW)
    with pytest.raises(UsageError, match=r"start: .* is of the family 'gan' \(dcgan\), this run trains 'pixel'"):
        pl.train("digits", start=gan, out=tmp_path / "b", images=32, overrides=PIXEL)


def test_a_resumed_run_does_not_load_again(pixel: Path, tmp_path: Path) -> None:
    whole = pl.train("digits", start=pixel, out=tmp_path / "whole", images=128, overrides=PIXEL)
    copy = shutil.copytree(pixel / "model", tmp_path / "copy")
    pl.train("digits", start=copy, out=tmp_path / "run", images=128, overrides=PIXEL)
    shutil.rmtree(copy)
    for path in (tmp_path / "run/checkpoints").iterdir():
        if "step-000000004" in path.name:
            path.unlink()  # as a run that was killed before its last step
    again = pl.train(None, out=tmp_path / "run", resume=True)
    for key, value in whole.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], value)
    sha256 = whole.description.training.start.rsplit(" ", 1)[-1]
    assert len(sha256) == 64
    assert again.description.training.start == f"{copy}, SHA-256 {sha256}"


def test_a_gan_starts_from_both_networks(gan: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = still(GAN, "generator", "discriminator") | {"train.ema": "null"}
    first = pl.load(gan)
    tuned = pl.train("dcgan", data="digits", start=gan, out=tmp_path / "run", images=16, overrides=settings)
    for one, two in ((first.network, tuned.network), (first.discriminator, tuned.discriminator)):  # type: ignore[attr-defined]
        for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-20, msg=name)
    (gan / "model" / DISCRIMINATOR).unlink()
    pl.train("dcgan", data="digits", start=gan, out=tmp_path / "alone", images=16, overrides=settings)
    assert any("without its discriminator" in message for message in caplog.messages)
