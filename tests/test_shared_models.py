"""Callbacks, threads and several samplers share one model, and no image changes.

Noise and conditioning are arguments of each call (:mod:`pixelloom.models.pixel`); the checks are in ``checks.py``, and
``test_mutations.py`` shows that a conditioning kept on the model, or buffers that two calls share, turn them red.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from checks import (
    Method,
    check_callbacks_change_nothing,
    check_layers_put_in_place_are_drawn_by,
    check_samplers_do_not_mix,
    check_threads_do_not_mix,
)
from fast_toys import random_images
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks.pixel.gated import GatedPixelCNNConfig
from pixelloom.networks.pixel.made import MADEConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from settings import live

GRAY = ImageSpec(1, 6, 4, 5)
CLASSES = 3
PIXELCNN = PixelCNNConfig(channels=8, hidden=4, blocks=2, kernel=3, first_kernel=3)
GATED = GatedPixelCNNConfig(channels=6, layers=2, kernel=3, condition_kernels=(3,))


def model_of(network: str, config: Any, *, classes: int = 0, condition: str = "none") -> PixelModel:
    """Random weights, embeddings of classes among them, in float64."""
    model = PixelModel.build(
        PixelDescription(
            network=network,
            model=config,
            head=HeadConfig(kind="categorical"),
            image=GRAY,
            scaling=Scaling.symmetric(),
            classes=classes,
            condition=condition,
        )
    )
    torch.manual_seed(0)
    live(model.network)
    for parameter in model.network.parameters():
        if parameter.ndim == 2 and classes and len(parameter) == classes + 1:
            nn.init.normal_(parameter, std=0.7)
    model.network.double()
    return model


def of_classes() -> tuple[PixelModel, list[dict[str, Any]]]:
    """Draws that differ in class, guidance, temperature and known pixels."""
    model = model_of("pixelcnn", PIXELCNN, classes=CLASSES)
    mask = torch.zeros(1, *GRAY.shape, dtype=torch.bool)
    mask[..., :2, :] = True
    calls = [
        {"labels": torch.tensor([0, 1, 2, 3, 1])},
        {"labels": 2, "guidance": 2.0},
        {"labels": 0, "temperature": 0.5, "seed": 7},
        {"labels": 1, "given": random_images(GRAY, 1), "mask": mask},
    ]
    return model, calls


def of_images() -> tuple[PixelModel, list[dict[str, Any]]]:
    """Draws that differ in class and conditioning image."""
    model = model_of("gated-pixelcnn", GATED, classes=CLASSES, condition="downsample@2")
    assert model.condition is not None
    seen = model.condition.of(random_images(GRAY, 5))
    return model, [{"labels": 1, "condition": seen}, {"labels": 2, "condition": seen.flip(0)}]


def of_orders() -> tuple[PixelModel, list[dict[str, Any]]]:
    """Draws that differ in class, from a model whose images each have an order of their own."""
    config = MADEConfig(hidden=2, layers=2, direct=True, orders=3)
    model = model_of("made", config, classes=CLASSES)
    return model, [{"labels": 0}, {"labels": 1, "seed": 3}, {"labels": 2, "guidance": 1.0}]


def of_nothing() -> tuple[PixelModel, list[dict[str, Any]]]:
    """Draws of an unconditional model, which reuses its buffers from batch to batch."""
    return model_of("pixelcnn", PIXELCNN), [{"seed": 0}, {"seed": 1}, {"seed": 2, "temperature": 0.7}]


Case = Callable[[], tuple[PixelModel, list[dict[str, Any]]]]
CASES: list[Case] = [of_classes, of_images, of_orders, of_nothing]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
each_method = pytest.mark.parametrize("method", ["fast", "plain"])


@each_method
@each_case
def test_a_callback_that_draws_changes_no_image(case: Case, method: Method) -> None:
    check_callbacks_change_nothing(*case(), method)


@each_method
@each_case
def test_threads_that_share_a_model_change_no_image(case: Case, method: Method) -> None:
    check_threads_do_not_mix(*case(), method)


def test_the_callback_of_the_report_changes_no_image() -> None:
    """Making a sampler within a callback is enough to lose a conditioning that the model keeps."""
    model, _ = of_classes()
    expected = model.sample(4, labels=2, method="plain")
    assert torch.equal(model.sample(4, labels=2, method="plain", on_step=lambda *_: model.fast_sampler()), expected)
    assert torch.equal(model.sample(4, labels=2, on_step=lambda *_: model.fast_sampler()), expected)


def test_two_samplers_of_one_model_and_one_sampler_in_two_calls() -> None:
    check_samplers_do_not_mix(*of_classes())


def test_replaced_layers_are_used() -> None:
    check_layers_put_in_place_are_drawn_by(partial(model_of, "pixelcnn", PIXELCNN))


@pytest.mark.parametrize("method", ["fast", "plain"])
def test_images_are_a_function_of_noise_that_is_given(method: Method) -> None:
    """Rows of one noise give one image, and each value the inverse of its distribution: level 0 where noise is 0."""
    model = model_of("pixelcnn", PIXELCNN)
    noise = torch.rand(4, *GRAY.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise[2:] = noise[:2]
    images = model.draw(noise, method=method)
    assert torch.equal(images[2:], images[:2])
    assert not model.draw(torch.zeros_like(noise), method=method).any()
