"""-log p of mixtures distributed over pixels, against enumerated prefixes and plain loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import test_completion
from checks import all_images
from pixelloom.core.types import ImageSpec
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models import scoring
from pixelloom.models.order_ensemble import members, sequence
from pixelloom.models.pixel import PixelModel
from pixelloom.networks.pixel.made import MADEConfig
from settings import INDEPENDENT, ORDERED

Array = npt.NDArray[np.float64]
BITS = ImageSpec(1, 3, 3, 2)
COLORS = ImageSpec(2, 2, 2, 3)
LOGISTICS = HeadConfig(kind="logistics", mixtures=2)


def model_of(**more: Any) -> PixelModel:
    """A network whose weights depend on classes and orders."""
    return test_completion.model_of(**more)


def in_order(model: PixelModel, order: int) -> PixelModel:
    """The model with one of its orders alone."""
    return PixelModel(members(model.network)[order], model.description)


def by_enumeration(model: PixelModel, order: int, labels: tuple[int | None, ...]) -> tuple[Array, Array]:
    """-log p(pixel | pixels before it) [N, H * W] and log p of all N images, of the mixture over classes in an order.

    p of a prefix is the sum of the probabilities of all images that begin with it.
    """
    images = all_images(model.spec)
    one = in_order(model, order)
    p = torch.stack([one.log_prob(images, labels=label) for label in labels]).exp().mean(0).tolist()
    places = sequence(model.network, order, model.spec.height * model.spec.width).tolist()
    rows = images.flatten(2).numpy()  # [N, C, H * W]
    nats = np.zeros((len(images), len(places)))
    before = np.ones(len(images))
    for step, place in enumerate(places):
        keys = [row[:, places[: step + 1]].tobytes() for row in rows]
        mass: dict[bytes, float] = {}
        for key, value in zip(keys, p, strict=True):
            mass[key] = mass.get(key, 0.0) + value
        now = np.array([mass[key] for key in keys])
        nats[:, place] = np.log(before) - np.log(now)
        before = now
    return nats, np.log(p)


CASES: dict[str, tuple[dict[str, Any], tuple[int | None, ...]]] = {
    "one order": ({}, (None,)),
    "the null class": ({"classes": 3}, (None,)),
    "classes": ({"classes": 3, "null_class": False}, (0, 1, 2)),
    "classes of color images": ({"spec": COLORS, "head": ORDERED, "classes": 2, "null_class": False}, (0, 1)),
    "orders": ({"orders": 8}, (None,)),
    "orders of MADE": ({"model": MADEConfig(hidden=5, orders=3)}, (None,)),
    "orders and classes": ({"orders": 4, "classes": 2, "null_class": False}, (0, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_pixels_sum_to_the_image_and_are_conditionals_of_the_mixture(name: str) -> None:
    settings, labels = CASES[name]
    model = model_of(**settings)
    images = all_images(model.spec)
    number = len(members(model.network))
    found = scoring.of_pixels(model, images, labels).flatten(1).numpy()
    each = [by_enumeration(model, order, labels) for order in range(number)]
    for i, row in enumerate(found):
        p = [math.exp(log_p[i]) for _, log_p in each]
        total = sum(p)
        divergence = sum(value / total * math.log(value / total * number) for value in p)
        for pixel, nats in enumerate(row):
            shared = sum(value / total * of_order[i, pixel] for value, (of_order, _) in zip(p, each, strict=True))
            assert math.isclose(nats, shared + divergence / len(row), abs_tol=1e-6)
        assert math.isclose(row.sum(), -math.log(total / number), abs_tol=1e-6)
        assert 0 <= divergence <= math.log(number) + 1e-12
    if None in labels:
        torch.testing.assert_close(-torch.from_numpy(found.sum(1)), model.log_prob(images), rtol=0, atol=1e-6)


def test_one_order_and_class_is_what_the_network_says_of_each_value() -> None:
    model = model_of(spec=COLORS, head=ORDERED)
    images = all_images(COLORS)[::97]
    expected = model.nats(images).double().sum(1)
    torch.testing.assert_close(scoring.of_pixels(model, images), expected, rtol=0, atol=1e-6)
    assert scoring.of_pixels(model, images[:0]).shape == (0, 2, 2)


def test_a_mixture_is_no_mean_of_maps() -> None:
    """The members differ, so that neither a mean nor the posterior mean alone would pass."""
    model = model_of(classes=3, null_class=False)
    images = all_images(BITS)
    found = scoring.of_pixels(model, images, (0, 1, 2))
    nats = torch.stack([model.nats(images, labels=label).double().sum(1) for label in range(3)])
    weights = (-nats.flatten(2).sum(2)).softmax(0)
    assert (found - nats.mean(0)).abs().max() > 0.1
    assert (found - torch.einsum("kn,knhw->nhw", weights, nats)).abs().max() > 0.1
    assert all((a - b).abs().max() > 0.1 for a, b in itertools.combinations(nats, 2))


@pytest.mark.parametrize("name", test_completion.ORDERS)
def test_every_network_has_maps_in_one_and_several_orders(name: str) -> None:
    """Pixels sum to -log p of the image."""
    images = all_images(BITS)[::17]
    for orders in (1, 4):
        model = model_of(model=test_completion.ORDERS[name], orders=orders)
        found = scoring.of_pixels(model, images)
        torch.testing.assert_close(-found.sum((1, 2)), model.log_prob(images), rtol=0, atol=1e-6)
        if orders == 1:
            torch.testing.assert_close(found, model.nats(images).double().sum(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", [ORDERED, INDEPENDENT, LOGISTICS])
def test_every_head_has_maps(head: HeadConfig) -> None:
    spec = ImageSpec(3, 2, 2, 8)
    model = model_of(spec=spec, head=head, classes=2, null_class=False)
    images = torch.randint(8, (6, *spec.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = scoring.of_pixels(model, images, (0, 1))
    each = torch.stack([model.log_prob(images, labels=label) for label in (0, 1)])
    torch.testing.assert_close(found.sum((1, 2)), math.log(2) - each.logsumexp(0), rtol=0, atol=1e-5)
