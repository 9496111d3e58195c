"""Pretrained models attain the figures of their cards on the published test images."""

from __future__ import annotations

import json
import re

import pytest

import pixelloom as pl
from pixelloom.models import pretrained
from pixelloom.models.description import CONFIG

pytestmark = pytest.mark.data
each_model = pytest.mark.parametrize("name", pretrained.MODELS)


def is_gan(name: str) -> bool:
    text = (pretrained.folder(name) / CONFIG).read_text(encoding="utf-8")
    return bool(json.loads(text)["family"] == "gan")


each_pixel_model = pytest.mark.parametrize("name", [name for name in pretrained.MODELS if not is_gan(name)])
each_gan = pytest.mark.parametrize("name", [name for name in pretrained.MODELS if is_gan(name)])


@each_pixel_model
def test_some_test_images_have_the_stated_likelihood(name: str) -> None:
    found = pl.evaluate(pl.load(name), limit=pretrained.CHECKED)
    assert found.nats_per_image == pytest.approx(pretrained.MODELS[name].check, rel=1e-4)


@pytest.mark.slow
@each_pixel_model
def test_the_result_is_that_of_the_test_split(name: str) -> None:
    promised = pretrained.MODELS[name]
    found = pl.evaluate(pl.load(name), limit=promised.n)
    value = found.nats_per_image if "nats/image" in promised.result else found.bits_per_dim
    assert found.n == promised.n
    assert value == pytest.approx(stated(promised.result), abs=0.006 if "nats/image" in promised.result else 0.0006)


def stated(result: str) -> float:
    """The number that a result begins with."""
    shown = re.match(r"[\d.]+", result)
    assert shown is not None
    return float(shown[0])


@each_gan
def test_some_samples_have_the_stated_kid(name: str) -> None:
    found = pl.measure(pl.load(name), metrics=("kid",), n=pretrained.CHECKED)[0]
    assert found.value == pytest.approx(pretrained.MODELS[name].check, abs=1e-3)  # rounding may change a level


@pytest.mark.slow
@each_gan
def test_the_samples_have_the_stated_metrics(name: str) -> None:
    promised, model = pretrained.MODELS[name], pl.load(name)
    card = (pretrained.folder(name) / "README.md").read_text(encoding="utf-8")
    metrics = ("kid", "precision", "recall", *(("accuracy",) if "classes" in model.can else ()))
    found = pl.measure(model, metrics=metrics, n=promised.n)
    for result in found:
        if result.name.startswith("accuracy"):
            assert 100 * result.value == pytest.approx(stated(promised.result), abs=0.11)
            continue
        row = re.search(rf"\| {result.name} \| (-?[\d.]+) \(real images: (-?[\d.]+)\)", card)
        assert row is not None
        near = 0.001 if result.name.startswith("kid") else 0.004
        assert (result.value, result.baseline) == pytest.approx((float(row[1]), float(row[2])), abs=near)
