"""Pretrained models attain the figures of their cards on the published test images."""

from __future__ import annotations

import re

import pytest

import pixelloom as pl
from pixelloom.models import pretrained

pytestmark = pytest.mark.data
each_model = pytest.mark.parametrize("name", pretrained.MODELS)


@each_model
def test_some_test_images_have_the_stated_likelihood(name: str) -> None:
    found = pl.evaluate(pl.load(name), limit=pretrained.CHECKED)
    assert found.nats_per_image == pytest.approx(pretrained.MODELS[name].check, rel=1e-4)


@pytest.mark.slow
@each_model
def test_the_result_is_that_of_the_test_split(name: str) -> None:
    promised = pretrained.MODELS[name]
    found = pl.evaluate(pl.load(name), limit=promised.n)
    value = found.nats_per_image if "nats/image" in promised.result else found.bits_per_dim
    shown = re.match(r"[\d.]+", promised.result)
    assert shown is not None
    assert found.n == promised.n
    assert value == pytest.approx(float(shown[0]), abs=0.006 if "nats/image" in promised.result else 0.0006)
