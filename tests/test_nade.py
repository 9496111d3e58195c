"""NADE and MADE: by the papers' equations, all that comes before is seen, probabilities, and the fast sampler."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from checks import Bools, check_fast_is_plain, check_sampler, check_world_sums_to_one, earlier, jacobian
from fast_toys import masks, poisoned, random_images
from pixelloom.core.errors import UsageError
from pixelloom.core.rng import image_noise
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.heads.discrete import HeadConfig, make_head
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks import build_network
from pixelloom.networks.pixel.made import MADE, MADEConfig, MaskedLinear
from pixelloom.networks.pixel.nade import NADE, NADEConfig
from pixelloom.runs.recipes import recipe
from pixelloom.sampling import ancestral
from pixelloom.sampling.fast.analysis import Dataflow, assert_autoregressive, receptive_field, schedule
from pixelloom.sampling.fast.sampler import FastSampler, make_plan
from settings import BERNOULLI, BINARY_WORLD, COLOR_WORLD, INDEPENDENT, ORDERED, live

Array = npt.NDArray[np.float64]
World = tuple[BaseModel, HeadConfig, ImageSpec]

_NADE, _MADE = NADEConfig(hidden=6), MADEConfig(hidden=3, layers=2)
_DEEP = MADEConfig(hidden=2, layers=3, direct=True, dropout=0.3)
WORLDS: dict[str, World] = {
    "nade": (_NADE, BERNOULLI, ImageSpec(1, 4, 5, 2)),
    "nade, levels": (_NADE, ORDERED, ImageSpec(1, 5, 4, 3)),
    "nade, ordered": (_NADE, ORDERED, ImageSpec(3, 3, 4, 3)),
    "nade, Bernoulli, three channels": (_NADE, BERNOULLI, ImageSpec(3, 4, 3, 2)),
    "nade, independent": (_NADE, INDEPENDENT, ImageSpec(3, 4, 3, 4)),
    "nade, a row": (_NADE, ORDERED, ImageSpec(2, 1, 5, 3)),
    "nade, a column": (_NADE, BERNOULLI, ImageSpec(1, 6, 1, 2)),
    "nade, a pixel": (_NADE, ORDERED, ImageSpec(3, 1, 1, 4)),
    "made": (_MADE, BERNOULLI, ImageSpec(1, 4, 5, 2)),
    "made, levels": (_DEEP, ORDERED, ImageSpec(1, 5, 4, 3)),
    "made, ordered": (_MADE, ORDERED, ImageSpec(3, 3, 4, 3)),
    "made, Bernoulli, three channels": (_DEEP, BERNOULLI, ImageSpec(3, 4, 3, 2)),
    "made, independent": (_DEEP, INDEPENDENT, ImageSpec(3, 4, 3, 4)),
    "made, a row": (_MADE, ORDERED, ImageSpec(2, 1, 5, 3)),
    "made, a column": (_DEEP, BERNOULLI, ImageSpec(1, 6, 1, 2)),
    "made, a pixel": (_MADE, ORDERED, ImageSpec(3, 1, 1, 4)),
}
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def name_of(config: BaseModel) -> str:
    return "nade" if isinstance(config, NADEConfig) else "made"


def fresh(world: World) -> PixelModel:
    config, head, image = world
    torch.manual_seed(0)
    scaling = Scaling.symmetric()
    return PixelModel.build(
        PixelDescription(network=name_of(config), model=config, head=head, image=image, scaling=scaling)
    )


def alive(network: nn.Module, seed: int = 0) -> nn.Module:
    """As if trained: weights of a value are as large as those of any other."""
    live(network, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in ("enter", "leave") if isinstance(network, NADE) else ():
            parameter = network.get_parameter(name)
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def model_of(world: World, seed: int = 0) -> PixelModel:
    model = fresh(world)
    alive(model.network, seed).double()
    return model


def network_of(world: World, classes: int = 0, seed: int = 0) -> nn.Module:
    config, head, spec = world
    made = make_head(head, spec)
    network = build_network(
        name_of(config), config, spec, outputs=made.outputs, groups=made.groups, classes=classes
    )  # fmt: skip
    return alive(network, seed).double()


# What depends on what


@each_world
def test_sees_all_before_and_nothing_else(world: World) -> None:
    """In raster order and then in the order of the channels: by what layers say, and by gradients."""
    spec = world[2]
    groups = make_head(world[1], spec).groups
    expected = earlier(spec, groups > 1)
    seen: Bools = np.zeros_like(expected)
    for seed in range(6):
        network = network_of(world, seed=seed)
        seen |= jacobian(network, spec, seed) != 0
    np.testing.assert_array_equal(seen, expected)
    assert_autoregressive(network, spec, groups=groups)
    last = expected.reshape(*spec.shape, *spec.shape)[-1]
    for position in {(0, 0), (spec.height - 1, 0), (spec.height - 1, spec.width - 1)}:
        np.testing.assert_array_equal(receptive_field(network, spec, position, groups), last[position])
    values = spec.dims if groups > 1 else spec.height * spec.width
    assert schedule(Dataflow(network, spec.shape, groups)).steps == values


# The papers' equations


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("name", [name for name in WORLDS if name.startswith("nade")])
def test_nade_follows_its_algorithm(name: str) -> None:
    """One value after the other: h from a, p from h, and the value's column of W added to a."""
    _, head, spec = WORLDS[name]
    network = network_of(WORLDS[name], classes=2)
    ordered = make_head(head, spec).groups > 1
    p = {key: value.numpy() for key, value in network.state_dict().items()}
    share = len(p["bias"]) // spec.channels
    x = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([2, 0])
    found = network(x, labels).detach().numpy()
    assert np.abs(found).max() > 1
    for image, label, out in zip(x.numpy(), labels, found, strict=True):
        a = p["hidden_bias"][:, 0, 0] + p["classes.weight"][int(label)]
        for y, u in np.ndindex(spec.height, spec.width):
            h = sigmoid(a)
            for c in range(spec.channels):
                if ordered:
                    h = sigmoid(a)
                for o in range(c * share, (c + 1) * share):
                    expected = p["leave"][o, :, y, u] @ h + p["bias"][o, y, u]
                    np.testing.assert_allclose(out[o, y, u], expected, rtol=1e-9, atol=1e-10)
                a = a + p["enter"][c, :, y, u] * image[c, y, u]


@pytest.mark.parametrize("name", ["made", "made, levels", "made, independent", "made, a column", "made, ordered"])
def test_made_follows_its_masks(name: str) -> None:
    """Dense layers over the whole line of values, with a mask from the degrees of the units: those of pixel i know the
    i pixels before it."""
    config, _, spec = WORLDS[name]
    assert isinstance(config, MADEConfig)
    network = network_of(WORLDS[name], classes=2)
    p = {key: value.numpy() for key, value in network.state_dict().items()}
    positions = spec.height * spec.width

    def degrees(per_pixel: int) -> Array:
        return np.repeat(np.arange(positions), per_pixel)

    def dense(x: Array, name: str, units: int, known: Array) -> Array:
        """``known`` is how many pixels each input needs to be known."""
        mask = known[None, :] <= degrees(units)[:, None]
        return (p[f"{name}.weight"] * mask) @ x + p[f"{name}.bias"]

    x = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([2, 1])
    kept: dict[str, Tensor] = {}
    network.last.register_forward_hook(lambda module, args, out: kept.update(last=out))
    found = network(x, labels)
    last = len(p["last.bias"]) // positions
    for image, label, out in zip(x.numpy(), labels, (kept["last"] if name == "made, ordered" else found), strict=True):
        line = image.transpose(1, 2, 0).reshape(-1)  # pixel by pixel, channel by channel
        pixels = degrees(spec.channels) + 1  # pixel i is among the first i + 1
        h, known = line, pixels
        for number in range(config.layers):
            h = dense(h, f"layers.{number}", config.hidden, known)
            h = np.maximum(h + np.tile(p[f"classes.{number}.weight"][int(label)], positions), 0)
            known = degrees(config.hidden)
        expected = dense(h, "last", last, known)
        if config.direct and name != "made, ordered":
            expected += dense(line, "direct", last, pixels)
        grid = expected.reshape(spec.height, spec.width, -1).transpose(2, 0, 1)
        assert np.abs(grid).max() > 0.3
        np.testing.assert_allclose(out.detach().numpy(), grid, rtol=1e-9, atol=1e-10)


def test_masked_weights_neither_matter_nor_move() -> None:
    for mask, count in (("A", 12 * 11 // 2), ("B", 12 * 13 // 2)):
        layer = MaskedLinear(2, 3, 12, mask=mask)  # type: ignore[arg-type]
        x = torch.randn(4, 2, 3, 4, generator=torch.Generator().manual_seed(0))
        before, version = layer.weight.detach().clone(), layer.weight._version
        out = layer(x, x, x)
        out.square().sum().backward()
        assert layer.weight._version == version
        assert layer.weight.grad is not None
        assert int((layer.weight.grad != 0).sum()) == 2 * 3 * count
        with torch.no_grad():
            layer.weight[layer.weight.grad == 0] = 1e3
            assert torch.equal(layer(x, x, x), out)
            assert not torch.equal(layer.weight, before)
            layer.weight[layer.weight.grad != 0] += 1
            assert not torch.equal(layer(x, x, x), out)


@pytest.mark.parametrize("mask", ["A", "B"])
def test_outputs_asked_for_alone_are_those_of_the_whole(mask: Any) -> None:
    """Any set of positions, from inputs of which the rest is not known."""
    layer = MaskedLinear(2, 3, 12, mask=mask).double()
    live(layer)
    x = torch.randn(4, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = layer(x, x, x).flatten(2).transpose(1, 2)
    line, own = x.flatten(2).transpose(1, 2), mask == "B"
    for places in ([0], [5], [11], [0, 1], [2, 7, 3], list(range(12))):
        ends = torch.tensor(places) + own
        last = max(1, int(ends.max()))
        allowed = torch.arange(last) < ends[:, None]
        read = line[:, :last].masked_fill(~allowed.any(0)[:, None], torch.nan)
        found = layer.attend(line[:, places] * torch.nan, read, read, None if bool(allowed.all()) else allowed)
        torch.testing.assert_close(found, whole[:, places], rtol=1e-12, atol=1e-12)


# Probabilities


@pytest.mark.parametrize("config", [_NADE, _MADE, _DEEP], ids=["nade", "made", "deep"])
@pytest.mark.parametrize(
    ("head", "image"),
    [(BERNOULLI, BINARY_WORLD), (ORDERED, COLOR_WORLD), (INDEPENDENT, COLOR_WORLD)],
    ids=["binary", "ordered", "independent"],
)
def test_probabilities_of_all_images_sum_to_one(config: BaseModel, head: HeadConfig, image: ImageSpec) -> None:
    check_world_sums_to_one(model_of((config, head, image)))


@pytest.mark.parametrize("config", [_NADE, _MADE], ids=name_of)
def test_draws_follow_the_probabilities(config: BaseModel) -> None:
    check_sampler(model_of((config, BERNOULLI, BINARY_WORLD)), n=4000)


# The fast sampler


@each_world
def test_fast_images_equal_the_plain_ones(world: World) -> None:
    model = model_of(world)
    with poisoned():
        images = check_fast_is_plain(model, n=3)
        check_fast_is_plain(model, n=2, seed=8)
    assert model.spec.dims < 12 or len(images.unique(dim=0)) > 1


@pytest.mark.parametrize("name", ["nade, ordered", "nade, independent", "made, levels", "made, ordered"])
@pytest.mark.parametrize("place", ["the top", "the right", "scattered", "different in each"])
def test_partly_known_images(name: str, place: str) -> None:
    model = model_of(WORLDS[name])
    mask, given = masks(model.spec, 3)[place], random_images(model.spec, 3)
    with poisoned():
        images = check_fast_is_plain(model, given=given, mask=mask)
    known = mask.expand_as(given)
    assert torch.equal(images[known], given[known])


@pytest.mark.parametrize("name", ["nade", "nade, ordered", "made", "made, independent"])
def test_fast_images_of_classes(name: str) -> None:
    """Each image has its own label; other labels, other images."""
    _, head, spec = WORLDS[name]
    made, network = make_head(head, spec), network_of(WORLDS[name], classes=4)

    def model_space(levels: Tensor) -> Tensor:
        return to_model(levels, spec.levels, Scaling.symmetric()).double()

    drawn = []
    for labels in (torch.tensor([3, 0, 4, 1]), torch.tensor([1, 4, 0, 3])):
        noise = image_noise(spec, 0, 0, 4)
        plan = make_plan(network, made, spec, conditioning={"labels": labels})
        sampler = FastSampler(plan, made, spec, model_space, torch.float64, torch.device("cpu"))
        with poisoned():
            drawn.append(sampler.sample(noise, conditioning={"labels": labels}))
        plain = ancestral.sample(lambda levels, labels=labels: network(model_space(levels), labels), made, spec, noise)
        assert torch.equal(drawn[-1], plain)
    assert not torch.equal(*drawn)


# Before training, parameters, configuration


@each_world
def test_first_prediction_is_uniform_and_every_parameter_learns(world: World) -> None:
    spec = world[2]
    images = random_images(spec, 8)
    model = fresh(world)
    assert not model.predict(images).detach().any()
    expected = -spec.dims * math.log(spec.levels)
    assert model.log_prob(images).tolist() == pytest.approx([expected] * 8, rel=1e-6)
    network = network_of(world, classes=2)
    params = network(to_model(images, spec.levels, Scaling.symmetric()).double(), torch.arange(8) % 3)
    model.head.nats(params, images).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert spec.dims < 12 or bool((parameter.grad != 0).any()), name


def test_parameters_by_hand() -> None:
    """NADE's hidden units for binarized MNIST are the paper's."""
    spec = ImageSpec(1, 28, 28, 2)
    nade = NADE(NADEConfig(), spec, outputs=1, groups=1)
    assert sum(p.numel() for p in nade.parameters()) == 2 * 500 * 784 + 500 + 784
    made = MADE(MADEConfig(hidden=2, layers=1), spec, outputs=1, groups=1)
    assert sum(p.numel() for p in made.parameters()) == 2 * 784**2 + 2 * 784 + 2 * 784**2 + 784


@pytest.mark.parametrize("name", ["nade", "made"])
def test_the_recipe_is_of_its_network(name: str) -> None:
    run = recipe(name)
    assert (run.network, run.recipe) == (name, name)
    network = build_network(name, run.model, ImageSpec(1, 28, 28, 2), outputs=1, groups=1)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(torch.zeros(2, 1, 28, 28))
    assert out.shape == (2, 1, 28, 28)


@pytest.mark.parametrize(
    ("config", "settings", "complaint"),
    [
        (NADEConfig, {"hidden": 0}, "greater than or equal to 1"),
        (NADEConfig, {"layers": 2}, "Extra inputs are not permitted"),
        (MADEConfig, {"layers": 0}, "greater than or equal to 1"),
        (MADEConfig, {"dropout": 1.0}, "less than 1"),
    ],
)
def test_settings_that_make_no_network_are_refused(
    config: type[BaseModel], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config.model_validate(settings)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="7 outputs cannot be shared among 3 image channels"):
        build_network("nade", _NADE, ImageSpec(3, 4, 4, 2), outputs=7, groups=3)
    for name, config in (("nade", _NADE), ("made", _MADE)):
        spec, x = ImageSpec(1, 4, 4, 2), torch.zeros(1, 1, 4, 4)
        with pytest.raises(UsageError, match="labels: this network was built with labels and must be given them"):
            build_network(name, config, spec, outputs=1, groups=1, classes=2)(x)
        with pytest.raises(UsageError, match="labels: this network was built without labels"):
            build_network(name, config, spec, outputs=1, groups=1)(x, torch.tensor([0]))
