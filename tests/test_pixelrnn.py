"""PixelRNN: by the paper's equations, what each kind sees, probabilities, classes, and the fast sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from checks import Bools, check_fast_is_plain, check_world_sums_to_one, earlier, jacobian
from fast_toys import masks, poisoned, random_images
from pixelloom.core.errors import UsageError
from pixelloom.core.rng import image_noise
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.heads.discrete import HeadConfig, make_head
from pixelloom.layers.recurrent import DiagonalLSTM, RowLSTM
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks import build_network
from pixelloom.networks.pixel.pixelrnn import DiagonalBiLSTMConfig, PixelRNNConfig, RowLSTMConfig
from pixelloom.runs.recipes import recipe
from pixelloom.sampling import ancestral
from pixelloom.sampling.fast.analysis import Dataflow, assert_autoregressive, receptive_field, schedule
from pixelloom.sampling.fast.causality import NotAutoregressiveError
from pixelloom.sampling.fast.sampler import FastSampler, make_plan
from settings import BERNOULLI, BINARY_WORLD, COLOR_WORLD, INDEPENDENT, ORDERED, live

Array = npt.NDArray[np.float64]
World = tuple[PixelRNNConfig, HeadConfig, ImageSpec]

_SMALL: dict[str, Any] = {"hidden": 3, "layers": 2, "first_kernel": 3, "head": 5}
ROW = RowLSTMConfig(**_SMALL)
DIAGONAL = DiagonalBiLSTMConfig(**_SMALL)
WORLDS: dict[str, World] = {
    "row": (ROW, BERNOULLI, ImageSpec(1, 5, 6, 2)),
    "row, ordered": (
        RowLSTMConfig(**_SMALL | {"kernel": 5, "norm": "channel", "positions": True}), ORDERED, ImageSpec(3, 4, 5, 4)
    ),
    "row, independent": (ROW, INDEPENDENT, ImageSpec(3, 5, 4, 3)),
    "row, a row": (ROW, ORDERED, ImageSpec(1, 1, 7, 3)),
    "row, a column": (ROW, BERNOULLI, ImageSpec(1, 7, 1, 2)),
    "diagonal": (DIAGONAL, BERNOULLI, ImageSpec(1, 5, 6, 2)),
    "diagonal, as in the paper": (DiagonalBiLSTMConfig(**_SMALL | {"wrap": False}), ORDERED, ImageSpec(1, 6, 5, 5)),
    "diagonal, ordered": (DIAGONAL, ORDERED, ImageSpec(3, 5, 4, 4)),
    "diagonal, independent": (
        DiagonalBiLSTMConfig(**_SMALL | {"norm": "channel", "positions": True, "head_layers": 0}),
        INDEPENDENT, ImageSpec(3, 4, 5, 3),
    ),
    "diagonal, Bernoulli, three channels": (DIAGONAL, BERNOULLI, ImageSpec(3, 4, 4, 2)),
    "diagonal, a row": (DIAGONAL, ORDERED, ImageSpec(3, 1, 6, 3)),
    "diagonal, a column": (DIAGONAL, ORDERED, ImageSpec(1, 6, 1, 3)),
    "diagonal, a pixel": (DIAGONAL, ORDERED, ImageSpec(3, 1, 1, 4)),
}  # fmt: skip
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def name_of(config: BaseModel) -> str:
    return "row-lstm" if isinstance(config, RowLSTMConfig) else "diagonal-bilstm"


def build(config: BaseModel, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0) -> nn.Module:
    return build_network(name_of(config), config, spec, outputs=outputs, groups=groups, classes=classes)


def fresh(world: World) -> PixelModel:
    config, head, image = world
    torch.manual_seed(0)
    return PixelModel.build(
        PixelDescription(
            network=name_of(config), model=config, head=head, image=image, scaling=Scaling.symmetric()
        )
    )  # fmt: skip


def model_of(world: World, seed: int = 0) -> PixelModel:
    """As if trained, in float64."""
    model = fresh(world)
    live(model.network, seed).double()
    return model


def dependences(network: nn.Module, spec: ImageSpec, expected: Bools) -> Bools:
    """Where a gradient is not zero, [C * H * W, C * H * W], for some of a few random weights and images."""
    seen = np.zeros_like(expected)
    for seed in range(9):
        seen |= jacobian(live(network, seed).eval(), spec, seed) != 0
        if not (expected & ~seen).any():
            break
    return seen


# What depends on what


@each_world
def test_is_autoregressive(world: World) -> None:
    model = model_of(world)
    Dataflow(model.network, model.spec.shape, model.head.groups).check()
    assert_autoregressive(model.network, model.spec, groups=model.head.groups)


@pytest.mark.parametrize(
    ("head", "channels"), [(BERNOULLI, 1), (ORDERED, 3), (INDEPENDENT, 3)], ids=["one", "ordered", "independent"]
)
@pytest.mark.parametrize("layers", [1, 3])
def test_a_single_diagonal_layer_has_no_blind_spot(head: HeadConfig, channels: int, layers: int) -> None:
    """Every value sees all before it, in raster order and then in the order of the channels, and nothing else."""
    spec = ImageSpec(channels, 4, 6, 2)
    made = make_head(head, spec)
    config = DiagonalBiLSTMConfig(hidden=4, layers=layers, first_kernel=3)
    network = build(config, spec, outputs=made.outputs, groups=made.groups)
    expected = earlier(spec, made.groups > 1)
    np.testing.assert_array_equal(dependences(network, spec, expected), expected)
    last = expected.reshape(*spec.shape, *spec.shape)[-1]
    for position in ((0, 0), (1, 0), (2, 0), (2, 3), (3, 5)):
        np.testing.assert_array_equal(receptive_field(network, spec, position, made.groups), last[position])


@pytest.mark.parametrize("kernel", [3, 5])
def test_without_wrap_the_end_of_the_row_above_goes_unseen(kernel: int) -> None:
    """All features of the row above know its other pixels, none knows its last one; the first kernel may reach it."""
    spec = ImageSpec(1, 4, 7, 2)
    config = DiagonalBiLSTMConfig(hidden=4, layers=2, first_kernel=kernel, wrap=False)
    network = build(config, spec, outputs=1, groups=1)
    expected = earlier(spec, ordered=False).reshape(4, 7, 4, 7)
    for y, x in np.ndindex(3, 7 - 1 - kernel // 2):
        expected[y + 1, x, y, 6] = False
    flat = expected.reshape(28, 28)
    np.testing.assert_array_equal(dependences(network, spec, flat), flat)
    for position in ((1, 0), (2, 3), (3, 6)):
        np.testing.assert_array_equal(receptive_field(network, spec, position)[0], expected[position])


@pytest.mark.parametrize(("layers", "kernel", "first"), [(1, 3, 3), (2, 3, 3), (2, 5, 3), (1, 1, 5)])
def test_a_row_lstm_sees_a_triangle(layers: int, kernel: int, first: int) -> None:
    """By the words of the paper: a state looks at a triangle of the rows above, its input to the left in its row."""
    spec, r, n = ImageSpec(1, 6, 9, 2), kernel // 2, first // 2
    pixels = list(np.ndindex(6, 9))
    knows = {  # what the first layer reads of the pixels
        (y, x): {(v, u) for v, u in pixels if (v, u) < (y, x) and y - v <= n and abs(u - x) <= n} for y, x in pixels
    }
    for _ in range(layers):
        knows = {
            (y, x): set().union(
                *(knows[v, w] for v, u in pixels if v <= y and abs(u - x) <= r * (y - v)
                  for w in range(max(0, u - r), u + 1))
            )
            for y, x in pixels
        }  # fmt: skip
    expected = np.array([[q in knows[p] for q in pixels] for p in pixels])
    network = build(
        RowLSTMConfig(hidden=5, layers=layers, kernel=kernel, first_kernel=first), spec, outputs=1, groups=1
    )
    np.testing.assert_array_equal(dependences(network, spec, expected), expected)
    for y, x in ((0, 0), (2, 8), (5, 4)):
        found = receptive_field(network, spec, (y, x))[0]
        np.testing.assert_array_equal(found.flatten(), expected[9 * y + x])


def test_a_second_direction_that_is_not_moved_down_is_found_out() -> None:
    spec = ImageSpec(1, 4, 4, 2)
    network = build(DIAGONAL, spec, outputs=1, groups=1)
    network.set_submodule("layers.1.down", nn.Identity())
    with pytest.raises(NotAutoregressiveError, match=r"layers\.1"):
        assert_autoregressive(network, spec, by="schedule")
    with pytest.raises(NotAutoregressiveError):
        assert_autoregressive(live(network).double(), spec, by="gradient")


def test_steps_of_the_schedule() -> None:
    """A wavefront runs through the rows of a Row LSTM as through a stack of convolutions; each pixel of a Diagonal
    BiLSTM needs the one before."""
    spec = ImageSpec(1, 28, 28, 2)
    row = build(RowLSTMConfig(hidden=1), spec, outputs=1, groups=1)
    assert schedule(Dataflow(row, spec.shape)).steps == 28 + 4 * 27
    diagonal = build(DiagonalBiLSTMConfig(hidden=1, layers=2), spec, outputs=1, groups=1)
    assert schedule(Dataflow(diagonal, spec.shape)).steps == 784


# The paper's equations


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def summed(x: Array, weight: Array, bias: Array, top: int, left: int) -> Array:
    """bias + sum over taps of weight[:, :, i, j] x[y + top + i, x + left + j], zeros beyond the edge: [out, H, W]."""
    out = np.zeros((len(weight), *x.shape[1:])) + bias[:, None, None]
    for y, u, i, j in np.ndindex(*x.shape[1:], *weight.shape[2:]):
        v, w = y + top + i, u + left + j
        if 0 <= v < x.shape[1] and 0 <= w < x.shape[2]:
            out[:, y, u] += weight[:, :, i, j] @ x[:, v, w]
    return out


def lstm(x: Array, before: list[tuple[int, int]], weight: Array) -> Array:
    """Equation 3 for rows from the top and columns from the left; the first state of ``before`` gives the cell."""
    h, (_, height, width) = len(x) // 4, x.shape
    hidden, cell = np.zeros((h, height + 1, width + 8)), np.zeros((h, height + 1, width + 8))
    for y, u in np.ndindex(height, width):  # row -1 and columns beyond the edge stay zero; a margin of 4 on the left
        gates = x[:, y, u].copy()
        for number, (dy, dx) in enumerate(before):
            gates += weight[number * h : (number + 1) * h].T @ hidden[:, y + dy, u + dx + 4]
        o, f, i, g = np.split(gates, 4)
        dy, dx = before[0]
        cell[:, y, u + 4] = sigmoid(f) * cell[:, y + dy, u + dx + 4] + sigmoid(i) * np.tanh(g)
        hidden[:, y, u + 4] = sigmoid(o) * np.tanh(cell[:, y, u + 4])
    return hidden[:, :-1, 4 : 4 + width]


def by_the_paper(p: dict[str, Array], config: PixelRNNConfig, x: Array, label: int) -> Array:
    """[C, H, W] -> features before the output [head, H, W], by loops."""
    k, width = config.first_kernel, x.shape[2]
    kernel = p["first.weight"].copy()  # the rows up to the pixel's own: mask A leaves nothing of it from the pixel on
    kernel[:, :, -1, k // 2 :] = 0
    h = summed(x, kernel, p["first.bias"], -(k // 2), -(k // 2))
    if isinstance(config, DiagonalBiLSTMConfig):
        for y, u in np.ndindex(*x.shape[1:]):
            v, w = divmod(y * width + u - 1, width)
            h[:, y, u] += p["before.bias"] + (p["before.weight"] @ x[:, v, w] if v >= 0 else 0)
    for number in range(config.layers):
        q = {key.removeprefix(f"layers.{number}."): value for key, value in p.items()}
        bias = q["classes.weight"][label][:, None, None]
        if isinstance(config, RowLSTMConfig):
            gates = summed(h, q["enter.weight"], q["enter.bias"], 0, -(config.kernel // 2)) + bias
            middle, n = config.kernel // 2, config.hidden
            parts = [q["lstm.weight"][i * n : (i + 1) * n] for i in range(config.kernel)]
            order = [middle, *(i for i in range(config.kernel) if i != middle)]
            out = lstm(gates, [(-1, i - middle) for i in order], np.concatenate([parts[i] for i in order]))
        else:
            gates = summed(h, q["enter.weight"], q["enter.bias"], 0, 0) + bias
            left, right = np.split(gates, 2)
            out = lstm(left, [(0, -1), (-1, 0)], q["left.weight"])
            mirrored = lstm(right[:, :, ::-1], [(0, -1), (-1, 0)], q["right.weight"])[:, :, ::-1]
            out[:, 1:] += mirrored[:, :-1]
        h = h + summed(out, q["up.weight"], q["up.bias"], 0, 0)
    for number in range(config.head_layers):
        h = summed(np.maximum(h, 0), p[f"head.{2 * number + 1}.weight"], p[f"head.{2 * number + 1}.bias"], 0, 0)
    return h


@pytest.mark.parametrize("name", ["row", "row, a row", "row, a column", "diagonal", "diagonal, ordered"])
def test_follows_the_equations(name: str) -> None:
    config, head, spec = WORLDS[name]
    made = make_head(head, spec)
    network = live(build(config, spec, outputs=made.outputs, groups=made.groups, classes=3)).double()
    x = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([3, 1])
    features = {}
    network.head.register_forward_hook(lambda module, args, out: features.update(out=out))
    found = network(x, labels)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    for image, label, out in zip(x, labels, features["out"].detach().numpy(), strict=True):
        expected = by_the_paper(weights, config, image.numpy(), int(label))
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found, network.output(features["out"], x))


# Probabilities


@pytest.mark.parametrize("config", [ROW, DIAGONAL], ids=name_of)
@pytest.mark.parametrize(
    ("head", "image"),
    [(BERNOULLI, BINARY_WORLD), (ORDERED, COLOR_WORLD), (INDEPENDENT, COLOR_WORLD)],
    ids=["binary", "ordered", "independent"],
)
def test_probabilities_of_all_images_sum_to_one(config: PixelRNNConfig, head: HeadConfig, image: ImageSpec) -> None:
    check_world_sums_to_one(model_of((config, head, image)))


# The fast sampler


@each_world
def test_fast_images_equal_the_plain_ones(world: World) -> None:
    model = model_of(world)
    with poisoned():
        images = check_fast_is_plain(model, n=3)
        check_fast_is_plain(model, n=2, seed=8)
    assert model.spec.dims < 10 or len(images.unique(dim=0)) > 1


@pytest.mark.parametrize("name", ["row, ordered", "diagonal", "diagonal, independent"])
@pytest.mark.parametrize("place", ["the top", "the right", "scattered", "different in each"])
def test_partly_known_images(name: str, place: str) -> None:
    model = model_of(WORLDS[name])
    mask, given = masks(model.spec, 3)[place], random_images(model.spec, 3)
    with poisoned():
        images = check_fast_is_plain(model, given=given, mask=mask)
    known = mask.expand_as(given)
    assert torch.equal(images[known], given[known])


@pytest.mark.parametrize("name", ["row", "diagonal", "diagonal, ordered"])
def test_fast_images_of_classes(name: str) -> None:
    """Each image has its own label; other labels, other images."""
    config, head, spec = WORLDS[name]
    made = make_head(head, spec)
    network = live(build(config, spec, outputs=made.outputs, groups=made.groups, classes=4)).double().eval()

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
    config, head, spec = world
    images = random_images(spec, 8)
    assert not fresh(world).predict(images).detach().any()
    made = make_head(head, spec)
    network = live(build_network(name_of(config), config, spec, outputs=made.outputs, groups=made.groups, classes=2))
    params = network(to_model(images, spec.levels, Scaling.symmetric()), torch.arange(8) % 3)
    made.nats(params, images).sum().backward()
    one_row = spec.height == 1  # then nothing is carried down
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        unused = spec.dims < 10 or (one_row and any(part in name for part in ("lstm", "right", "first")))
        assert unused or bool((parameter.grad != 0).any()), name


def test_cells_remember_from_the_start() -> None:
    """The gates are o, f, i, g; the forget gates of both directions are open."""
    for config, directions in ((ROW, 1), (DIAGONAL, 2)):
        layer = build(config, ImageSpec(1, 4, 4, 2), outputs=1, groups=1).layers[0]
        expected = [0.0] * 3 + [1.0] * 3 + [0.0] * 6
        assert layer.get_parameter("enter.bias").tolist() == expected * directions


def test_layers_and_parameters_by_hand() -> None:
    """The paper's networks for MNIST: 7 layers, h = 16."""
    h, spec = 16, ImageSpec(1, 28, 28, 2)
    first, head = 2 * h * (7 * 4 + 1), 2 * 32 * 33 + 33
    row = build(RowLSTMConfig(), spec, outputs=1, groups=1)
    one = 4 * h * (2 * 2 * h + 1) + 3 * h * 4 * h + 2 * h * (h + 1)
    assert sum(p.numel() for p in row.parameters()) == first + 7 * one + head
    diagonal = build(DiagonalBiLSTMConfig(wrap=False), spec, outputs=1, groups=1)
    one = 8 * h * (2 * h + 1) + 2 * (2 * h * 4 * h) + 2 * h * (h + 1)
    assert sum(p.numel() for p in diagonal.parameters()) == first + 7 * one + head
    assert [type(m) for m in row.modules() if isinstance(m, RowLSTM | DiagonalLSTM)] == [RowLSTM] * 7
    assert [m.mirrored for m in diagonal.modules() if isinstance(m, DiagonalLSTM)] == [False, True] * 7


@pytest.mark.parametrize("name", ["row-lstm", "diagonal-bilstm"])
def test_the_recipe_is_of_its_network(name: str) -> None:
    run = recipe(name)
    assert run.network == name
    assert run.recipe == name
    network = build_network(name, run.model, ImageSpec(1, 28, 28, 2), outputs=1, groups=1)
    x = torch.zeros(2, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        network(x).float().square().sum().backward()


@pytest.mark.parametrize(
    ("config", "settings", "complaint"),
    [
        (RowLSTMConfig, {"kernel": 2}, "an odd side such as 3, not 2"),
        (DiagonalBiLSTMConfig, {"first_kernel": 4}, "an odd side such as 5, not 4"),
        (DiagonalBiLSTMConfig, {"kernel": 3}, "Extra inputs are not permitted"),
        (RowLSTMConfig, {"wrap": True}, "Extra inputs are not permitted"),
        (RowLSTMConfig, {"hidden": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_network_are_refused(
    config: type[BaseModel], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config.model_validate(settings)


def test_the_kinds_are_not_taken_for_each_other_and_labels_are_not_guessed() -> None:
    spec = ImageSpec(1, 4, 4, 2)
    with pytest.raises(UsageError, match="takes a DiagonalBiLSTMConfig, not a RowLSTMConfig"):
        build_network("diagonal-bilstm", ROW, spec, outputs=1, groups=1)
    conditional = build(DIAGONAL, spec, outputs=1, groups=1, classes=3)
    with pytest.raises(UsageError, match="labels: this network was built with labels and must be given them"):
        conditional(torch.zeros(1, 1, 4, 4))
    with pytest.raises(UsageError, match="labels: this network was built without labels"):
        build(ROW, spec, outputs=1, groups=1)(torch.zeros(1, 1, 4, 4), torch.tensor([0]))
