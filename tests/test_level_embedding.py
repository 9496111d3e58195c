"""A learned vector for each level: every network takes them, in the order of the channels, and stays what it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from checks import check_fast_is_plain, check_world_sums_to_one, earlier, jacobian
from fast_toys import masks, poisoned, random_images
from pixelloom.core.errors import ModelError
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.engine.config import TrainConfig
from pixelloom.heads.discrete import HeadConfig
from pixelloom.layers.level_embedding import Embedded, LevelEmbedding
from pixelloom.models.pixel import PixelDescription, PixelModel, load_pixel
from pixelloom.networks import PIXEL_NETWORKS
from pixelloom.objectives.base import OptimConfig
from pixelloom.runs.config import PixelRun
from pixelloom.runs.train import train
from pixelloom.sampling.fast.analysis import assert_autoregressive, receptive_field
from settings import BERNOULLI, BINARY_WORLD, COLOR_WORLD, INDEPENDENT, ORDERED, live
from test_options import SMALL

each_network = pytest.mark.parametrize("name", PIXEL_NETWORKS)
LOGISTICS = HeadConfig(kind="logistics", mixtures=2)
WORLDS = {
    "binary": (BERNOULLI, ImageSpec(1, 3, 5, 2)),
    "ordered": (ORDERED, ImageSpec(3, 3, 3, 4)),
    "independent": (INDEPENDENT, ImageSpec(2, 4, 3, 5)),
}


def fresh(name: str, head: HeadConfig, spec: ImageSpec, features: int = 3, **settings: Any) -> PixelModel:
    torch.manual_seed(0)
    return PixelModel.build(
        PixelDescription(
            network=name,
            model=PIXEL_NETWORKS[name][0].model_validate(SMALL[name] | settings),
            head=head,
            image=spec,
            scaling=Scaling.numbers(spec.levels),
            embedding=features,
        )
    )


def alive(network: nn.Module, seed: int = 0) -> nn.Module:
    live(network, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("levels.") or name in ("network.enter", "network.leave"):
                parameter.normal_(std=0.7, generator=generator)
    return network


def model_of(name: str, head: HeadConfig, spec: ImageSpec, seed: int = 0, **more: Any) -> PixelModel:
    model = fresh(name, head, spec, **more)
    alive(model.network, seed).double()
    return model


def test_level_numbers_come_out_whole() -> None:
    for levels in (2, 3, 17, 100, 256):
        v = torch.arange(levels, dtype=torch.uint8)
        x = to_model(v, levels, Scaling.numbers(levels))
        torch.testing.assert_close(x, v.float(), rtol=0, atol=1e-4)
        assert torch.equal(x.bfloat16().float(), v.float())  # in half precision too


def test_a_level_is_its_row_of_the_table() -> None:
    for levels, features in ((2, 1), (4, 3), (256, 8)):
        layer = live(LevelEmbedding(levels, features)).double()
        v = torch.arange(levels, dtype=torch.float64).view(1, 1, 1, -1)
        assert torch.equal(layer(v)[0, :, 0].T, layer.get_parameter("weight"))
    layer = LevelEmbedding(3, 2)
    layer.weight.data = torch.tensor([[0.0, 1.0], [2.0, 1.0], [5.0, -1.0]])
    x = torch.tensor([0.25, 1.0, 2.0]).view(1, 1, 1, 3).requires_grad_()
    out = layer(x)
    torch.testing.assert_close(out[0, :, 0].T, torch.tensor([[0.5, 1.0], [2.0, 1.0], [5.0, -1.0]]))
    out[0, 0].sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [2.0, 3.0, 3.0]  # the step to the next level


def test_it_starts_with_near_levels_near_each_other() -> None:
    table = LevelEmbedding(16, 8).weight.detach().double()
    expected = [[math.sqrt(2) * math.cos(math.pi * k * (v + 0.5) / 16) for k in range(1, 9)] for v in range(16)]
    np.testing.assert_allclose(table.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose((table.T @ table / 16).numpy(), np.eye(8), atol=1e-5)  # of unit variance, uncorrelated
    assert len(LevelEmbedding(2, 3).weight.unique(dim=1)[0]) == 1  # two levels have one difference


@each_network
@pytest.mark.parametrize("world", WORLDS)
def test_every_network_keeps_the_order_of_values(name: str, world: str) -> None:
    """By what layers say and by gradients; what may be seen is seen by those without a blind spot."""
    head, spec = WORLDS[world]
    model = model_of(name, head, spec)
    assert_autoregressive(model.network, spec, groups=model.head.groups)
    if name in ("pixel-transformer", "pixelsnail", "nade", "made", "diagonal-bilstm"):
        expected = earlier(spec, model.head.groups > 1)
        seen = np.zeros_like(expected)
        for seed in range(8):
            seen |= jacobian(alive(model.network, seed), spec, seed) != 0
        np.testing.assert_array_equal(seen, expected)
        field = receptive_field(model.network, spec, (2, 2), model.head.groups)
        last = np.ravel_multi_index((spec.channels - 1, 2, 2), spec.shape)
        np.testing.assert_array_equal(field.reshape(-1), expected[last])


@each_network
@pytest.mark.parametrize("world", WORLDS)
def test_fast_images_equal_the_plain_ones(name: str, world: str) -> None:
    model = model_of(name, *WORLDS[world])
    mask, given = masks(model.spec, 2)["scattered"], random_images(model.spec, 2)
    with poisoned():
        images = check_fast_is_plain(model, n=2)
        known = check_fast_is_plain(model, n=2, given=given, mask=mask)
    assert len(images.unique()) > 1
    assert torch.equal(known[mask.expand_as(given)], given[mask.expand_as(given)])


@each_network
@pytest.mark.parametrize(("head", "spec"), [(BERNOULLI, BINARY_WORLD), (ORDERED, COLOR_WORLD)], ids=["binary", "color"])
def test_probabilities_of_all_images_sum_to_one(name: str, head: HeadConfig, spec: ImageSpec) -> None:
    check_world_sums_to_one(model_of(name, head, spec))


@each_network
@pytest.mark.parametrize("world", ["binary", "ordered"])
def test_vectors_that_are_scaled_numbers_make_the_network_without_them(name: str, world: str) -> None:
    """With one feature for each level, its number in [-1, 1], the same weights predict the same."""
    head, spec = WORLDS[world]
    model = model_of(name, head, spec, features=1)
    about = model.description.model_copy(update={"embedding": 0, "scaling": Scaling.symmetric()})
    plain = PixelModel.build(about)
    plain.network.double()
    with torch.no_grad():
        for table in model.network.get_submodule("levels").children():
            table.get_parameter("weight").copy_(torch.linspace(-1, 1, spec.levels, dtype=torch.float64)[:, None])
    plain.network.load_state_dict(model.network.get_submodule("network").state_dict())
    images = random_images(spec, 4)
    torch.testing.assert_close(model.predict(images), plain.predict(images), rtol=1e-5, atol=1e-5)
    assert float(plain.predict(images).detach().std()) > 0.1


def test_each_channel_has_a_table_of_its_own_side_by_side() -> None:
    model = model_of("pixelcnn", ORDERED, ImageSpec(3, 2, 2, 4), features=2)
    seen: list[Tensor] = []
    model.network.get_submodule("network").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = random_images(model.spec, 3)
    model.predict(images)
    tables = [table.get_parameter("weight") for table in model.network.get_submodule("levels").children()]
    for image, planes in zip(images, seen[0], strict=True):
        for c, y, x in np.ndindex(*model.spec.shape):
            vector = tables[c][int(image[c, y, x])].detach()
            torch.testing.assert_close(planes[2 * c : 2 * c + 2, y, x].detach(), vector, rtol=1e-6, atol=1e-6)


def test_every_vector_learns_and_logistics_take_them_too() -> None:
    model = fresh("pixelcnn-pp", LOGISTICS, ImageSpec(3, 6, 6, 8), features=4)
    alive(model.network)
    images = random_images(model.spec, 8)
    model.head.nats(model.predict(images), images).sum().backward()
    for name, parameter in model.network.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name
        if name.startswith("levels."):
            assert bool((parameter.grad != 0).any(1).all()), name  # each level occurs


@pytest.mark.parametrize("name", ["nade", "pixelcnn"])
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model = fresh(name, ORDERED, ImageSpec(3, 3, 4, 4))
    alive(model.network, 3)
    model.save(tmp_path)
    loaded = load_pixel(tmp_path)
    assert loaded.description == model.description
    assert isinstance(loaded.network, Embedded)
    images = random_images(model.spec, 5)
    assert torch.equal(loaded.log_prob(images), model.log_prob(images))
    about = json.loads((tmp_path / "config.json").read_text())
    assert (about["embedding"], about["scaling"]) == (3, {"shift": 0.0, "scale": 1 / 3})


def test_other_scalings_are_refused() -> None:
    model = fresh("nade", BERNOULLI, BINARY_WORLD)
    fields = model.description.model_dump() | {"scaling": Scaling.unit(), "image": ImageSpec(1, 2, 2, 3)}
    with pytest.raises(ValidationError, match=r"embedding=3 takes level indices, .*, not Scaling"):
        PixelDescription.model_validate(fields)


@pytest.mark.slow
def test_a_run_learns_with_them(tmp_path: Path) -> None:
    """Uniform levels of digits are 4.087 bits; a network that sees its vectors is far below after a few images."""
    config = PixelRun(
        network="pixelcnn",
        model={"channels": 24, "blocks": 2, "kernel": 3, "first_kernel": 5},
        data=DataConfig(source="digits"),
        inputs="embedding",
        embedding=4,
        optim=OptimConfig(lr=5e-3),
        train=TrainConfig(batch=32, images=4000, threads=1),
        samples=0,
    )
    model = load_pixel(train(config, tmp_path / "run"))
    assert model.description.embedding == 4
    metrics = model.description.training.validation.metrics
    assert metrics["bits/dim"] < 2.6
    start = LevelEmbedding(17, 4).weight.detach()
    trained = model.network.get_submodule("levels.0").get_parameter("weight").detach()
    assert float((trained - start).abs().max()) > 0.01


def test_damaged_descriptions_are_refused(tmp_path: Path) -> None:
    model = fresh("made", BERNOULLI, BINARY_WORLD)
    model.description = model.description.model_copy(update={"embedding": 2})
    model.save(tmp_path)
    with pytest.raises(ModelError):
        load_pixel(tmp_path)
