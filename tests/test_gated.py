"""Gated PixelCNN: by the paper's words, no blind spot; conditioning on classes and images; classes of PixelCNN."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from checks import Bools, all_images, check_fast_is_plain, check_world_sums_to_one, earlier, jacobian
from fast_toys import masks, poisoned, random_images
from pixelloom.core.errors import UsageError
from pixelloom.core.rng import image_noise
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.heads.discrete import Head, HeadConfig, make_head
from pixelloom.layers.shifted_conv import BoxConv2d
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks import build_network
from pixelloom.networks.pixel.gated import GatedPixelCNN, GatedPixelCNNConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNN, PixelCNNConfig
from pixelloom.runs.recipes import RECIPES, recipe
from pixelloom.sampling import ancestral
from pixelloom.sampling.fast.analysis import Dataflow, assert_autoregressive, receptive_field
from pixelloom.sampling.fast.causality import NotAutoregressiveError
from pixelloom.sampling.fast.sampler import FastSampler, make_plan
from settings import BERNOULLI, BINARY_WORLD, COLOR_WORLD, INDEPENDENT, ORDERED, live

Array = npt.NDArray[np.float64]

SMALL = GatedPixelCNNConfig(channels=6, layers=3, first_kernel=5, kernel=3, condition_kernels=(3,))
DEEP = GatedPixelCNNConfig(channels=6, layers=5, first_kernel=3, kernel=3, hidden=9)
WIDE = GatedPixelCNNConfig(channels=8, layers=2, first_kernel=3, kernel=5, positions=True, dropout=0.3)
WORLDS = {
    "Bernoulli": (SMALL, BERNOULLI, ImageSpec(1, 5, 6, 2)),
    "categorical": (WIDE, ORDERED, ImageSpec(1, 6, 5, 7)),
    "Bernoulli, three channels": (WIDE, BERNOULLI, ImageSpec(3, 4, 5, 2)),
    "ordered": (SMALL, ORDERED, ImageSpec(3, 5, 4, 4)),
    "independent": (SMALL, INDEPENDENT, ImageSpec(3, 4, 4, 5)),
    "a row": (SMALL, ORDERED, ImageSpec(3, 1, 7, 3)),
    "a column": (WIDE, BERNOULLI, ImageSpec(1, 7, 1, 2)),
    "a pixel": (SMALL, ORDERED, ImageSpec(3, 1, 1, 4)),
}
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
World = tuple[GatedPixelCNNConfig, HeadConfig, ImageSpec]


def model_of(world: World, seed: int = 0) -> PixelModel:
    """As if trained, in float64."""
    config, head, image = world
    scaling = Scaling.symmetric()
    description = PixelDescription(network="gated-pixelcnn", model=config, head=head, image=image, scaling=scaling)
    model = PixelModel.build(description)
    live(model.network, seed).double()
    return model


class Conditioned(nn.Module):
    """A network with the same label and conditioning image for every image of a batch."""

    def __init__(self, network: nn.Module, label: int | None = None, condition: Tensor | None = None) -> None:
        super().__init__()
        self.network, self.label, self.condition = network, label, condition

    def given(self, n: int) -> dict[str, Tensor]:
        """The conditioning of n images."""
        labels = {} if self.label is None else {"labels": torch.full((n,), self.label)}
        return labels if self.condition is None else labels | {"condition": self.condition.expand(n, -1, -1, -1)}

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x, **self.given(len(x)))
        return out


def conditional(world: World, classes: int = 4, condition: int = 2, seed: int = 0) -> tuple[nn.Module, Head]:
    """A network conditioned on a class and an image, in float64, and its head."""
    config, head_config, image = world
    head = make_head(head_config, image)
    options = {"outputs": head.outputs, "groups": head.groups, "classes": classes, "condition": condition}
    return live(GatedPixelCNN(config, image, **options), seed).double().eval(), head


def contexts(spec: ImageSpec, n: int, channels: int = 2) -> Tensor:
    """Conditioning images [n, channels, H, W]."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, channels, spec.height, spec.width, generator=generator, dtype=torch.float64)


# What depends on what


def dependences(network: nn.Module, spec: ImageSpec, expected: Bools) -> Bools:
    """Where a gradient is not zero, [C * H * W, C * H * W], for some of a few random weights and images."""
    seen = np.zeros_like(expected)
    for seed in range(9):
        seen |= jacobian(live(network, seed).eval(), spec, seed) != 0
        if not (expected & ~seen).any():
            break
    return seen


@each_world
def test_is_autoregressive(world: World) -> None:
    model = model_of(world)
    Dataflow(model.network, model.spec.shape, model.head.groups).check()
    assert_autoregressive(model.network, model.spec, groups=model.head.groups)


@pytest.mark.parametrize("name", ["Bernoulli", "ordered", "independent", "a row"])
def test_is_autoregressive_under_any_conditioning(name: str) -> None:
    _, _, spec = WORLDS[name]
    network, head = conditional(WORLDS[name])
    conditioned = Conditioned(network, 2, contexts(spec, 1))
    Dataflow(network, spec.shape, head.groups, conditioned.given(1)).check()
    assert_autoregressive(conditioned, spec, groups=head.groups, by="gradient")


@pytest.mark.parametrize(
    ("head", "channels"), [(BERNOULLI, 1), (ORDERED, 3), (INDEPENDENT, 3)], ids=["one", "ordered", "independent"]
)
def test_no_blind_spot(head: HeadConfig, channels: int) -> None:
    """Every value sees all before it, in raster order and then in the order of the channels, and nothing else."""
    spec = ImageSpec(channels, 4, 5, 2)
    made = make_head(head, spec)
    network = GatedPixelCNN(DEEP, spec, outputs=made.outputs, groups=made.groups)
    expected = earlier(spec, made.groups > 1)
    np.testing.assert_array_equal(dependences(network, spec, expected), expected)
    last = expected.reshape(*spec.shape, *spec.shape)[-1]
    for position in ((0, 0), (1, 2), (2, 0), (3, 0), (3, 4)):
        found = receptive_field(network, spec, position, made.groups)
        np.testing.assert_array_equal(found, last[position])


@pytest.mark.parametrize(("first", "kernel", "layers"), [(3, 3, 1), (5, 3, 2), (3, 5, 3), (7, 3, 1)])
def test_a_shallow_one_sees_a_box_above_and_the_row_beside(first: int, kernel: int, layers: int) -> None:
    """By geometry. Above, the vertical stack reaches as far as its radii, and a row further; each step of the
    horizontal stack to the left takes with it what the vertical stack knew there, which had a layer less to look about.
    """
    spec = ImageSpec(1, 6, 9, 2)
    radii = [first // 2] + [kernel // 2] * (layers - 1)
    expected = np.zeros((6, 9, 6, 9), bool)
    for y, x, v, u in np.ndindex(6, 9, 6, 9):
        up, right = y - v, u - x
        if up == 0:
            expected[y, x, v, u] = -sum(radii) <= right < 0
        if up > 0:
            # Layer k of the vertical stack is read up to sum(radii[k:]) further left.
            reach = [sum(radii[:k]) for k in range(1, layers + 1)]
            expected[y, x, v, u] = any(up <= r + 1 and -reach[-1] <= right <= r for r in reach)
    config = GatedPixelCNNConfig(channels=8, layers=layers, first_kernel=first, kernel=kernel)
    network = GatedPixelCNN(config, spec, outputs=1, groups=1)
    flat = expected.reshape(54, 54)
    np.testing.assert_array_equal(dependences(network, spec, flat), flat)


def test_a_vertical_stack_that_reads_its_own_row_is_named() -> None:
    network, spec = GatedPixelCNN(SMALL, BINARY_WORLD, outputs=1, groups=1), ImageSpec(1, 4, 4, 2)
    network.set_submodule("layers.0.vertical", BoxConv2d(1, 12, top=-2, bottom=0, left=-2, right=2))
    with pytest.raises(NotAutoregressiveError, match=r"layers\.0\.vertical: reads x at offset"):
        assert_autoregressive(network, spec, by="schedule")


# The paper's equations, position by position


def summed(x: Array, weight: Array, bias: Array | float, top: int, left: int) -> Array:
    """bias + sum over taps of weight[:, :, i, j] x[y + top + i, x + left + j], zeros beyond the edge: [out, H, W]."""
    _, height, width = x.shape
    out = np.zeros((len(weight), height, width))
    for y, u, i, j in np.ndindex(height, width, *weight.shape[2:]):
        v, w = y + top + i, u + left + j
        if 0 <= v < height and 0 <= w < width:
            out[:, y, u] += weight[:, :, i, j] @ x[:, v, w]
    return out + np.reshape(bias, (-1, 1, 1))


def within(weight: Array, groups: int, first: bool, copies: int = 1) -> Array:
    """A 1x1 kernel of mask A or B: channel c of the output reads those before it, and with mask B its own."""
    outs, ins = len(weight) // copies, weight.shape[1]
    masked = weight.copy()
    for o, i in np.ndindex(weight.shape[:2]):
        mine, read = o % outs * groups // outs, i * groups // ins
        if read > mine or (first and read == mine):
            masked[o, i] = 0
    return masked


def gate(a: Array) -> Array:
    """tanh(W_f * x) . sigmoid(W_g * x), eq. 2"""
    f, g = np.split(a, 2)
    return np.tanh(f) / (1 + np.exp(-g))


def by_the_paper(
    p: dict[str, Array], config: GatedPixelCNNConfig, groups: int, x: Array, label: int, context: Array
) -> Array:
    """[C, H, W] -> [outputs, H, W], by loops."""
    s = context
    for k, side in enumerate(config.condition_kernels):
        r = side // 2
        s = summed(s, p[f"spatial.{2 * k}.weight"], p[f"spatial.{2 * k}.bias"], -r, -r)
        s = s / (1 + np.exp(-s))
    v, h = x, x
    for number in range(config.layers):
        layer, first = f"layers.{number}.", number == 0
        r = (config.first_kernel if first else config.kernel) // 2
        above = summed(v, p[layer + "vertical.weight"], p[layer + "vertical.bias"], -r - first, -r)
        above += p[layer + "above.classes.weight"][label][:, None, None]
        above += summed(s, p[layer + "above.spatial.weight"], 0.0, 0, 0)
        assert p[layer + "horizontal.row.weight"].shape[3] == r + (groups == 1 and not first)
        beside = summed(h, p[layer + "horizontal.row.weight"], p[layer + "horizontal.row.bias"], 0, -r)
        if groups > 1:
            beside += summed(h, within(p[layer + "horizontal.pixel.weight"], groups, first, copies=2), 0.0, 0, 0)
        beside += summed(above, p[layer + "link.weight"], p[layer + "link.bias"], 0, 0)
        beside += p[layer + "beside.classes.weight"][label][:, None, None]
        beside += summed(s, p[layer + "beside.spatial.weight"], 0.0, 0, 0)
        branch = summed(gate(beside), within(p[layer + "up.weight"], groups, False), p[layer + "up.bias"], 0, 0)
        v, h = gate(above), branch if first else h + branch
        if first and config.positions:
            v = v + p["above.rows"] + p["above.columns"]
            h = h + p["beside.rows"] + p["beside.columns"]
    h = summed(np.maximum(h, 0), within(p["head.1.weight"], groups, False), p["head.1.bias"], 0, 0)
    return summed(np.maximum(h, 0), within(p["output.weight"], groups, False), p["output.bias"], 0, 0)


@pytest.mark.parametrize("name", ["Bernoulli", "categorical", "ordered", "independent", "a column"])
def test_follows_the_equations(name: str) -> None:
    config, _, spec = WORLDS[name]
    network, head = conditional(WORLDS[name])
    x = torch.randn(3, *spec.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels, condition = torch.tensor([3, 0, 4]), contexts(spec, 3)
    found = network(x, labels, condition).detach().numpy()
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    assert np.abs(found).max() > 0.5
    for image, label, context, out in zip(x, labels, condition, found, strict=True):
        expected = by_the_paper(weights, config, head.groups, image.numpy(), int(label), context.numpy())
        np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-10)


def test_groups_of_a_pixel_are_kept_apart() -> None:
    """Moving one channel of a pixel changes what is said of later channels of that pixel, and of no others."""
    model = model_of(WORLDS["ordered"])
    base = random_images(model.spec, 40)
    for c in range(3):
        moved = base.clone()
        moved[:, c, 2, 2] = 3 - base[:, c, 2, 2]
        with torch.no_grad():
            before, after = (model.head.table(model.predict(x))[:, :, :, 2, 2] for x in (base, moved))
        assert (before != after).any(2).any(0).tolist() == [other > c for other in range(3)]


# Probabilities


@pytest.mark.parametrize(
    "world",
    [(SMALL, BERNOULLI, BINARY_WORLD), (WIDE, ORDERED, COLOR_WORLD), (SMALL, INDEPENDENT, COLOR_WORLD)],
    ids=["binary", "ordered", "independent"],
)
def test_probabilities_of_all_images_sum_to_one(world: World) -> None:
    check_world_sums_to_one(model_of(world))


def test_probabilities_sum_to_one_for_every_class_and_image() -> None:
    network, head = conditional((SMALL, ORDERED, BINARY_WORLD))
    images = all_images(BINARY_WORLD)
    x = to_model(images, 2, Scaling.symmetric()).double()
    tables = []
    for label, context in itertools.product(range(5), contexts(BINARY_WORLD, 2)):
        params = network(x, torch.full((16,), label), context.expand(16, -1, -1, -1))
        tables.append(head.table(params).gather(2, images[:, :, None].long()).flatten(1).prod(1).detach())
    found = torch.stack(tables)
    torch.testing.assert_close(found.sum(1), torch.ones(10, dtype=torch.float64), rtol=1e-12, atol=0)
    assert float((found[:, None] - found).abs().amax(2).add(torch.eye(10)).min()) > 1e-3, "some are alike"


# The fast sampler


@each_world
def test_fast_images_equal_the_plain_ones(world: World) -> None:
    model = model_of(world)
    with poisoned():
        images = check_fast_is_plain(model, n=3)
        check_fast_is_plain(model, n=2, seed=8)
    assert model.spec.dims < 10 or len(images.unique(dim=0)) > 1


@pytest.mark.parametrize("name", ["categorical", "ordered"])
@pytest.mark.parametrize("place", ["the top", "scattered", "different in each", "all but the last value"])
def test_partly_known_images(name: str, place: str) -> None:
    model = model_of(WORLDS[name])
    mask, given = masks(model.spec, 3)[place], random_images(model.spec, 3)
    images = check_fast_is_plain(model, given=given, mask=mask)
    known = mask.expand_as(given)
    assert torch.equal(images[known], given[known])


def drawn(network: nn.Module, head: Head, spec: ImageSpec, given: dict[str, Tensor], n: int, seed: int = 0) -> Tensor:
    """Images of the fast sampler, once they are those of the plain loop."""

    def model_space(levels: Tensor) -> Tensor:
        return to_model(levels, spec.levels, Scaling.symmetric()).double()

    noise = image_noise(spec, seed, 0, n)
    plan = make_plan(network, head, spec, conditioning=given)
    sampler = FastSampler(plan, head, spec, model_space, torch.float64, torch.device("cpu"))
    with poisoned():
        fast = sampler.sample(noise, conditioning=given)
    plain = ancestral.sample(lambda levels: network(model_space(levels), **given), head, spec, noise)
    assert torch.equal(fast, plain), f"{int((fast != plain).sum())} of {plain.numel()} values differ"
    return fast


@each_world
def test_fast_images_of_classes_and_conditioning_images(world: World) -> None:
    """Each image has its own label and image; others give other images."""
    spec = world[2]
    network, head = conditional(world)
    labels, condition = torch.tensor([3, 0, 4, 1, 2]), contexts(spec, 5)
    images = drawn(network, head, spec, {"labels": labels, "condition": condition}, 5)
    for other in ({"labels": labels.flip(0)}, {"condition": condition.flip(0)}):
        changed = drawn(network, head, spec, {"labels": labels, "condition": condition} | other, 5)
        assert spec.dims < 10 or not torch.equal(changed, images)


@pytest.mark.parametrize(("classes", "condition"), [(4, 0), (0, 2)], ids=["class", "image"])
@pytest.mark.parametrize("name", ["Bernoulli", "ordered"])
def test_fast_images_after_one_thing_alone(name: str, classes: int, condition: int) -> None:
    spec = WORLDS[name][2]
    network, head = conditional(WORLDS[name], classes, condition)
    one_for_all = contexts(spec, 1)
    for seed in range(2):
        drawn(network, head, spec, {"labels": torch.tensor([1, 4])} if classes else {"condition": one_for_all}, 2, seed)


@pytest.mark.parametrize(("classes", "condition"), [(4, 0), (0, 2)], ids=["class", "image"])
def test_fast_images_need_something_for_each_image(classes: int, condition: int) -> None:
    spec = WORLDS["Bernoulli"][2]
    network, head = conditional(WORLDS["Bernoulli"], classes, condition)
    given = {"labels": torch.tensor([1, 4])} if classes else {"condition": contexts(spec, 2)}
    with pytest.raises(UsageError, match="what is given is for 2 images, a batch has 4"):
        drawn(network, head, spec, given, 4)


# Conditioning


def test_any_pixel_of_a_conditioning_image_may_be_read() -> None:
    """Also to the right of a pixel and below, as far as its own convolutions reach."""
    spec = ImageSpec(1, 7, 7, 2)
    config = SMALL.model_copy(update={"layers": 1, "condition_kernels": (3, 3)})
    network, _ = conditional((config, BERNOULLI, spec))
    context = contexts(spec, 1).requires_grad_()
    network(torch.zeros(1, 1, 7, 7, dtype=torch.float64), torch.tensor([0]), context)[0, 0, 3, 3].backward()
    assert context.grad is not None
    field = (context.grad != 0).any(1)[0].int()
    expected = torch.zeros(7, 7, dtype=torch.int32)
    expected[1:6, 1:6] = 1
    assert torch.equal(field, expected)


def test_before_training_conditioning_does_not_matter() -> None:
    """A network starts as an unconditional one; the same seed gives the same layers."""
    spec, x = ImageSpec(1, 5, 5, 2), torch.randn(2, 1, 5, 5)
    network = GatedPixelCNN(SMALL, spec, outputs=1, groups=1, classes=3, condition=2)
    nn.init.normal_(network.output.weight)
    a, b = (network(x, torch.tensor([k, k]), torch.randn(2, 2, 5, 5)) for k in range(2))
    assert torch.equal(a, b)
    assert float(a.detach().abs().max()) > 0.1


def test_what_is_missing_or_unknown_is_refused() -> None:
    spec, x = ImageSpec(1, 4, 4, 2), torch.zeros(1, 1, 4, 4)
    labels, condition = torch.tensor([0]), torch.zeros(1, 2, 4, 4)
    plain = GatedPixelCNN(SMALL, spec, outputs=1, groups=1)
    conditioned = GatedPixelCNN(SMALL, spec, outputs=1, groups=1, classes=3, condition=2)
    with pytest.raises(UsageError, match="labels: this network was built without labels"):
        plain(x, labels)
    with pytest.raises(UsageError, match="condition: this network was built without condition"):
        plain(x, condition=condition)
    with pytest.raises(UsageError, match="labels: this network was built with labels and must be given them"):
        conditioned(x, condition=condition)
    with pytest.raises(UsageError, match="condition: this network was built with condition and must be given"):
        conditioned(x, labels)
    with pytest.raises(UsageError, match="labels: this network was built with labels and must be given them"):
        Dataflow(conditioned, spec.shape, conditioning={"condition": condition})


def test_the_configuration_may_set_the_channels_of_the_conditioning_image() -> None:
    spec, x, labels, context = BINARY_WORLD, torch.randn(2, 1, 2, 2), torch.tensor([3, 0]), torch.randn(2, 2, 2, 2)
    by_config = GatedPixelCNN(SMALL.model_copy(update={"condition": 2}), spec, outputs=1, groups=1, classes=3)
    by_argument = GatedPixelCNN(SMALL, spec, outputs=1, groups=1, classes=3, condition=2)
    a, b = (live(network)(x, labels, context) for network in (by_config, by_argument))
    assert torch.equal(a, b)
    assert not torch.equal(a, by_config(x, labels, context + 1))


# Before training, parameters, configuration


@each_world
def test_first_prediction_is_uniform(world: World) -> None:
    config, head, image = world
    made = make_head(head, image)
    network = build_network("gated-pixelcnn", config, image, outputs=made.outputs, groups=made.groups)
    levels = random_images(image, 2)
    nats = made.nats(network(to_model(levels, image.levels, Scaling.symmetric())), levels)
    torch.testing.assert_close(nats, torch.full_like(nats, math.log(image.levels)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["Bernoulli", "categorical", "ordered"])
def test_every_parameter_learns(name: str) -> None:
    spec = WORLDS[name][2]
    network, head = conditional(WORLDS[name], classes=1)
    levels = random_images(spec, 8)
    x = to_model(levels, spec.levels, Scaling.symmetric()).double()
    head.nats(network(x, torch.arange(8) % 2, contexts(spec, 8)), levels).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool((parameter.grad != 0).any()), parameter_name


def test_dropout_acts_in_training_only() -> None:
    model = model_of(WORLDS["categorical"])
    images = random_images(model.spec, 2)
    assert torch.equal(model.predict(images), model.predict(images))
    model.network.train()
    assert not torch.equal(model.predict(images), model.predict(images))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kernel": 4}, "an odd side such as 5, not 4"),
        ({"first_kernel": 1}, "greater than or equal to 3"),
        ({"layers": 0}, "greater than or equal to 1"),
        ({"condition_kernels": (3, 2)}, "an odd side such as 3, not 2"),
        ({"blocks": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        GatedPixelCNNConfig.model_validate(settings)


def test_too_few_features_for_the_channels_are_refused() -> None:
    with pytest.raises(UsageError, match="2 features cannot be shared among 3 image channels"):
        build_network("gated-pixelcnn", GatedPixelCNNConfig(channels=2), COLOR_WORLD, outputs=12, groups=3)


def test_the_recipe_is_the_network_of_the_paper_made_small() -> None:
    run = recipe("gated-pixelcnn")
    assert (run.network, run.data.source, "gated-pixelcnn" in RECIPES) == ("gated-pixelcnn", "binarized-mnist", True)
    p, n, layers, first = (getattr(run.model, name) for name in ("channels", "kernel", "layers", "first_kernel"))
    network = build_network("gated-pixelcnn", run.model, ImageSpec(1, 28, 28, 2), outputs=1, groups=1)
    # Half of each kernel counts: ceil(n / 2) rows of the vertical one, ceil(n / 2) taps of the horizontal one.
    half, half_first = (n + 1) // 2, (first + 1) // 2
    vertical = 2 * p * (half_first * first + 1) + (layers - 1) * 2 * p * (half * n * p + 1)
    horizontal = 2 * p * (half_first - 1 + 1) + (layers - 1) * 2 * p * (half * p + 1)
    link, up = 2 * p * (2 * p + 1), p * (p + 1)
    head, positions = p * (p + 1) + (p + 1), 2 * 2 * 28 * p
    assert (
        sum(q.numel() for q in network.parameters()) == vertical + horizontal + layers * (link + up) + head + positions
    )
    assert_autoregressive(network, ImageSpec(1, 28, 28, 2), by="schedule")


# Classes for PixelCNN

CLASSED = {
    "plain": PixelCNNConfig(block="plain", channels=6, blocks=2, kernel=3, first_kernel=5, norm="batch", bias=False),
    "residual": PixelCNNConfig(block="residual", channels=6, blocks=2, kernel=3, first_kernel=3),
    "gated": PixelCNNConfig(block="gated", channels=6, blocks=2, kernel=3, first_kernel=3, norm="channel"),
}
each_block = pytest.mark.parametrize("block", CLASSED)


@each_block
@pytest.mark.parametrize(("head", "channels"), [(BERNOULLI, 1), (ORDERED, 3)], ids=["one", "ordered"])
def test_pixelcnn_of_classes(block: str, head: HeadConfig, channels: int) -> None:
    """Each class, and no class, has a network of its own that is autoregressive and drawn fast."""
    spec = ImageSpec(channels, 4, 5, 2)
    made = make_head(head, spec)
    options = {"outputs": made.outputs, "groups": made.groups, "classes": 3}
    network = live(build_network("pixelcnn", CLASSED[block], spec, **options)).double().eval()
    labels = torch.tensor([2, 0, 3, 1])
    Dataflow(network, spec.shape, made.groups, {"labels": labels}).check()
    x = torch.randn(1, *spec.shape, dtype=torch.float64).expand(4, -1, -1, -1)
    out = network(x, labels).detach()
    assert len(out.unique(dim=0)) == 4
    for label, one in zip(labels, out, strict=True):
        assert_autoregressive(Conditioned(network, int(label)), spec, groups=made.groups, by="gradient")
        torch.testing.assert_close(network(x[:1], label[None])[0], one, rtol=1e-12, atol=1e-12)
    drawn(network, made, spec, {"labels": labels}, 4)


@each_block
def test_pixelcnn_adds_a_vector_after_the_first_layer_and_before_each_block(block: str) -> None:
    """What a class does is what biases do: of the first layer, and of layers put before the blocks."""
    spec, label = ImageSpec(1, 4, 5, 2), 1
    conditioned = live(PixelCNN(CLASSED[block], spec, outputs=1, groups=1, classes=3)).double().eval()
    state = {name: value for name, value in conditioned.state_dict().items() if "classes" not in name}
    plain = PixelCNN(CLASSED[block], spec, outputs=1, groups=1).double().eval()
    plain.load_state_dict(state)
    vectors = [conditioned.state_dict()[f"classes.{k}.weight"][label][:, None, None] for k in range(3)]
    x = torch.randn(2, *spec.shape, dtype=torch.float64)
    h = plain.enter(plain.first(x) + vectors[0])
    for layer, vector in zip(plain.blocks, vectors[1:], strict=True):
        h = layer(h + vector)
    expected = plain.output(plain.head(h))
    torch.testing.assert_close(conditioned(x, torch.tensor([label] * 2)), expected, rtol=1e-12, atol=1e-12)
    assert float((expected - plain(x)).detach().abs().max()) > 1e-3


def test_pixelcnn_without_classes_is_what_it_was() -> None:
    """Names and, for a seed, values of its parameters; so older weights load."""
    spec, config = ImageSpec(1, 4, 5, 2), PixelCNNConfig(block="plain", channels=4, blocks=1, positions=True)
    states = []
    for classes in (0, 3):
        torch.manual_seed(0)
        states.append(PixelCNN(config, spec, outputs=1, groups=1, classes=classes).state_dict())
    names = ["first.weight", "first.bias", "positions.rows", "positions.columns"]
    assert list(states[0]) == [*names, "blocks.0.0.weight", "blocks.0.0.bias", "output.weight", "output.bias"]
    assert set(states[1]) - set(states[0]) == {"classes.0.weight", "classes.1.weight"}
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert states[1]["classes.0.weight"].shape == (4, 4)  # three classes and none, four features


def test_pixelcnn_refuses_what_it_is_not_built_for() -> None:
    spec, x = ImageSpec(1, 4, 4, 2), torch.zeros(1, 1, 4, 4)
    with pytest.raises(UsageError, match="labels: this network was built without labels"):
        PixelCNN(CLASSED["gated"], spec, outputs=1, groups=1)(x, torch.tensor([0]))
    with pytest.raises(UsageError, match="labels: this network was built with labels"):
        PixelCNN(CLASSED["gated"], spec, outputs=1, groups=1, classes=2)(x)
