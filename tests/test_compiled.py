"""``torch.compile`` of the network of a model, whole, in part, or in place, changes no value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import pixelloom as pl
from gan_toys import PAIRS, awake, pair
from gan_toys import spec as gan_spec
from own_networks import InPlace, network_of
from pixelloom.data.pixels import Scaling
from pixelloom.heads.config import HeadConfig
from pixelloom.models.pixel import PixelModel
from pixelloom.models.pixel_description import PixelDescription
from pixelloom.networks import GAN_NETWORKS, PIXEL_NETWORKS
from settings import live

SMALL = {"channels": 6, "blocks": 1, "layers": 1, "hidden": 8, "heads": 2, "values": 4, "keys": 4}
SPEC = pl.ImageSpec(1, 4, 4, 2)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def model_of(name: str, classes: int = 0) -> PixelModel:
    config = PIXEL_NETWORKS[name][0]
    settings = {field: value for field, value in SMALL.items() if field in config.model_fields}
    torch.manual_seed(0)
    model = PixelModel.build(
        PixelDescription(
            network=name,
            model=config.model_validate(settings),
            head=HeadConfig(kind="bernoulli"),
            image=SPEC,
            scaling=Scaling.symmetric(),
            classes=classes,
        )
    )
    live(model.network)
    return model


def check(model: PixelModel, compiled: Any, **options: Any) -> None:
    """Scores and samples of a model are the same with another module in the place of its network."""
    drawn = model.sample(4, **options)
    scored = model.log_prob(drawn, **options)
    model.network = compiled
    assert torch.equal(model.sample(4, **options), drawn)
    assert torch.equal(model.sample(2, method="plain", **options), drawn[:2])
    assert torch.allclose(model.log_prob(drawn, **options), scored, rtol=1e-6)


@pytest.mark.parametrize(("name", "classes"), [*((name, 0) for name in PIXEL_NETWORKS), ("gated-pixelcnn", 3)])
def test_every_network_can_be_compiled(name: str, classes: int) -> None:
    model = model_of(name, classes)
    options = {"labels": 1} if classes else {}
    if not classes:
        pl.assert_autoregressive(torch.compile(model.network, backend="eager"), SPEC, by="schedule")  # type: ignore[arg-type]
    check(model, torch.compile(model.network, backend="eager"), **options)


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
def test_a_backend_that_rewrites_the_network(name: str) -> None:
    model = model_of(name)
    check(model, torch.compile(model.network, backend="aot_eager"))


def test_parts_and_modules_that_are_compiled_in_place() -> None:
    model = model_of("pixelcnn")
    network: Any = model.network
    field = pl.receptive_field(network, SPEC, (2, 2))
    drawn = model.sample(4)
    blocks = network.blocks
    network.blocks = torch.compile(blocks, backend="eager")
    assert torch.equal(model.sample(4), drawn)
    assert (pl.receptive_field(network, SPEC, (2, 2)) == field).all()
    network.blocks = blocks
    network.compile(backend="eager")
    for block in network.blocks:
        block.compile(backend="eager")
    pl.assert_autoregressive(network, SPEC)
    assert torch.equal(PixelModel(network, model.description).sample(4), drawn)


def test_a_compiled_network_of_ones_own() -> None:
    network = network_of(InPlace)
    drawn = pl.PixelModel.of(network, SPEC).sample(4)
    compiled: Any = torch.compile(network, backend="eager")
    pl.assert_autoregressive(compiled, SPEC, by="schedule")
    model = pl.PixelModel.of(compiled, SPEC)
    assert torch.equal(model.sample(4), drawn)
    assert model.description.model.kind.endswith("Sequential")  # that of the module within


@pytest.mark.parametrize("kind", PAIRS)
def test_both_networks_of_every_gan_can_be_compiled(kind: str) -> None:
    assert {name for name, _ in PAIRS.values()} == set(GAN_NETWORKS)
    torch.manual_seed(0)
    generator, discriminator = (awake(network).eval() for network in pair(kind))
    latent: int = generator.latent  # type: ignore[assignment]
    z = torch.randn(3, latent)

    def images_and_scores(first: Any, second: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            images = first(z)
            return images, second(images)

    whole = images_and_scores(generator, discriminator)
    made: list[Any] = [torch.compile(network, backend="eager") for network in (generator, discriminator)]
    assert isinstance(made[0]._orig_mod, nn.Module)
    for found, expected in zip(images_and_scores(*made), whole, strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert whole[0].shape == (3, *gan_spec().shape)
