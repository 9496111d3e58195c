"""The schedule against plain recursion over single features, and the proof of causality against enumerated reads."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from checks import Bools, dependences, reachable
from pixelloom.core.errors import ModelError
from pixelloom.core.types import ImageSpec
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.reads import Earlier, Offsets, Read, Size, box
from pixelloom.sampling.fast.analysis import NEVER, Dataflow, Schedule, assert_autoregressive, receptive_field, schedule
from pixelloom.sampling.fast.causality import NotAutoregressiveError
from pixelloom.sampling.fast.ir import Node, Recurrence
from profiles import examples
from random_networks import (
    Case,
    Mean,
    Recurrent,
    Shift,
    Up,
    Window,
    causal,
    knowledge,
    leaks,
    order,
    outputs_of,
    reads_of,
    too_far,
)
from settings import CONFIGS, Setting, live

Values = npt.NDArray[np.int64]
Key = tuple[int, int, int, int]
"""(node, feature, row, column)"""


def stack(
    *kernels: int,
    first: str = "A",
    channels: int = 1,
    groups: int = 1,
    features: int = 3,
    more: Sequence[nn.Module] = (),
) -> nn.Sequential:
    """Masked convolutions without anything between them, some more layers, and one output per channel."""
    sides = [(channels, "A" if first == "A" else "B"), *((features, "B") for _ in kernels[1:])]
    layers = [
        MaskedConv2d(inputs, features, k, mask=mask, groups=groups)  # type: ignore[arg-type]
        for k, (inputs, mask) in zip(kernels, sides, strict=True)
    ]
    return nn.Sequential(*layers, *more, MaskedConv2d(features, channels, 1, mask="B", groups=groups))


# The oracle: plain recursion over (node, feature, position)


class Oracle:
    """Ready steps and needed values of the nodes of a network, by recursion over single features."""

    def __init__(self, nodes: Sequence[Node], groups: int, known: Bools) -> None:
        self.nodes, self.groups, self.known = nodes, groups, known
        self.memo: dict[Key, int] = {}

    def read(self, key: Key) -> Iterator[Key]:
        """What a feature reads directly."""
        number, feature, y, x = key
        for source, features, (v, u) in reads_of(self.nodes, number, (y, x)):
            for i in range(self.nodes[source].features):
                if features is None or bool(features[feature, i]):
                    yield source, i, v, u
        operation = self.nodes[number].operation
        if isinstance(operation, Recurrence):  # the states that it is carried from
            height, width = self.nodes[number].size
            for dy, dx in operation.carried:
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    yield from ((number, i, y + dy, x + dx) for i in range(self.nodes[number].features))

    def output_classes(self, channel: int, y: int, x: int) -> list[Key]:
        """Outputs that parametrize the distribution of a pixel value."""
        return [(len(self.nodes) - 1, o, y, x) for o in outputs_of(self.nodes, self.groups, channel)]

    def ready(self, key: Key) -> int:
        """The longest path from the pixels, in steps."""
        if key not in self.memo:
            number, feature, y, x = key
            if number:
                self.memo[key] = max((self.ready(k) for k in self.read(key)), default=0)
            elif self.known[feature, y, x]:
                self.memo[key] = 0
            else:
                self.memo[key] = 1 + max(self.ready(k) for k in self.output_classes(feature, y, x))
        return self.memo[key]

    def needed(self) -> set[Key]:
        """All that some unknown pixel's distribution depends on, within its own pass over the network."""
        todo = [k for c, y, x in np.argwhere(~self.known) for k in self.output_classes(int(c), int(y), int(x))]
        found = set(todo)
        while todo:
            for key in self.read(todo.pop()):
                if key not in found:
                    found.add(key)
                    todo.append(key)
        return found


@contextlib.contextmanager
def deep_recursion() -> Iterator[None]:
    """A path leads through every node for each pixel."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def together(flow: Dataflow, needed: set[Key]) -> set[Key]:
    """Features that read alike are one class, and computed together if one of them is needed."""
    found = set()
    for number, feature, y, x in needed:
        labels = flow.labels[number]
        found |= {(number, int(f), y, x) for f in np.flatnonzero(labels == labels[feature]) if number}
    return found


def times(plan: Schedule) -> dict[Key, int]:
    """The schedule feature by feature, without what is not needed."""
    found: dict[Key, int] = {}
    for number, (labels, ready) in enumerate(zip(plan.flow.labels, plan.ready, strict=True)):
        for feature, label in enumerate(labels):
            for y, x in np.ndindex(*ready.shape[1:]):
                if ready[label, y, x] != NEVER:
                    found[number, feature, y, x] = int(ready[label, y, x])
    return found


@st.composite
def partly_known(draw: st.DrawFn) -> tuple[Case, Bools]:
    """A network, and which values of the images are known from the start."""
    case = draw(causal(4))
    share = draw(st.sampled_from((0.0, 0.3, 0.8, 1.0)))
    known = np.random.default_rng(draw(st.integers(0, 99))).random(case.shape) < share
    if draw(st.booleans()):  # a completion: all above some row
        known[:, : draw(st.integers(0, case.shape[1]))] = True
    return case, known


@examples(60)
@given(partly_known())
def test_times_are_the_longest_paths_and_nothing_needless_is_computed(given_: tuple[Case, Bools]) -> None:
    case, known = given_
    flow = Dataflow(case.network, case.shape, case.groups)
    plan = schedule(flow, known)
    oracle = Oracle(flow.nodes, case.groups, known)
    with deep_recursion():
        expected = {key: oracle.ready(key) for key in together(flow, oracle.needed())}
        expected |= {key: oracle.ready(key) for c, y, x in np.argwhere(~known) for key in [(0, int(c), int(y), int(x))]}
    assert times(plan) == expected
    assert plan.steps == max((t for (number, *_), t in expected.items() if number), default=-1) + 1


@examples(60)
@given(partly_known())
def test_nothing_is_read_before_it_is_written(given_: tuple[Case, Bools]) -> None:
    """Directly by loops: all that a value reads is there in time, and something it reads is there just in time."""
    case, known = given_
    flow = Dataflow(case.network, case.shape, case.groups)
    plan = schedule(flow, known)
    found, oracle = times(plan), Oracle(flow.nodes, case.groups, known)
    for key, time in found.items():
        if key[0]:
            read = [0 if k[0] == 0 and known[k[1:]] else found[k] for k in oracle.read(key)]
            assert time == max(read, default=0), key
        else:
            assert not known[key[1:]]
            assert time == 1 + max(found[k] for k in oracle.output_classes(*key[1:])), key
    drawn = {key[1:] for key in found if key[0] == 0}
    assert drawn == {tuple(map(int, place)) for place in np.argwhere(~known)}
    assert set(found.values()) <= set(range(plan.steps + 1))


def test_states_before_a_drawn_pixel_are_computed_though_the_pixels_there_are_known() -> None:
    network = nn.Sequential(MaskedConv2d(1, 2, 3, mask="A"), Recurrent(2, ((-1, 0),)), MaskedConv2d(2, 1, 1, mask="B"))
    known = np.ones((1, 4, 3), bool)
    known[0, 3, 1] = False
    plan = schedule(Dataflow(network, known.shape), known)
    states = next(r for node, r in zip(plan.flow.nodes, plan.ready, strict=True) if node.name == "1")
    assert states[0].tolist() == [[NEVER, 0, NEVER]] * 4
    assert plan.ready[-1][0].tolist() == [[NEVER] * 3] * 3 + [[NEVER, 0, NEVER]]


@examples(25)
@given(causal(7), st.integers(0, 7))
def test_extrapolation_saves_iterations_and_changes_nothing(case: Case, rows: int) -> None:
    flow = Dataflow(case.network, case.shape, case.groups)
    known = np.zeros(case.shape, bool)
    known[:, :rows, ::2] = True
    plan = schedule(flow, known)
    expected = plain_iteration(flow, known)
    for number, (ready, found) in enumerate(zip(expected, plan.ready, strict=True)):
        assert (found[found != NEVER] == ready[found != NEVER]).all(), flow.nodes[number].name
    assert (plan.ready[0] == np.where(known, NEVER, expected[0])).all()


def plain_iteration(flow: Dataflow, known: Bools) -> list[Values]:
    """From zero, one more pixel right at each pass at least."""
    pixels = np.zeros(flow.shape, np.int64)
    while True:
        ready = flow.forward(pixels, 0)
        after = np.stack([ready[-1][classes].max(0) for classes in flow.output_classes()]) + 1
        after[known] = 0
        if (after == pixels).all():
            return ready
        pixels = after


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (stack(7, 7, 7), (1, 20, 21)),
        (stack(3, 5, more=[Mean(3, Earlier())]), (1, 13, 12)),
        (stack(5, 3, more=[Window(3, 3, (-1, 0, -1, 0), (4, 4)), Up(3, (4, 4), (18, 17))]), (1, 18, 17)),
        (stack(3, 3, more=[Window(3, 3, (-1, 0, -1, 0), (3, 1)), Up(3, (3, 1), (20, 6))]), (1, 20, 6)),
        (stack(5, 3, channels=3, groups=3), (3, 9, 14)),
    ],
)
@pytest.mark.parametrize("pattern", ["none", "left", "scattered"])
def test_extrapolation_is_right_in_larger_images(network: nn.Module, shape: tuple[int, int, int], pattern: str) -> None:
    flow = Dataflow(network, shape, shape[0])
    known = np.zeros(shape, bool)
    if pattern == "left":
        known[:, :, : shape[2] // 2] = True
    if pattern == "scattered":
        known = np.random.default_rng(0).random(shape) < 0.4
    plan = schedule(flow, known)
    for ready, found in zip(plain_iteration(flow, known), plan.ready, strict=True):
        assert (found[found != NEVER] == ready[found != NEVER]).all()


def test_extrapolation_saves_most_of_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Dataflow(stack(7, 7, 7), (1, 28, 28))
    forward, passes = flow.forward, [0]

    def counted(*args: Any) -> list[Values]:
        passes[0] += 1
        return forward(*args)

    monkeypatch.setattr(flow, "forward", counted)
    plain_iteration(flow, np.zeros(flow.shape, bool))
    assert passes == [137]  # one per step, and one without a change
    passes[0] = 0
    assert schedule(flow).steps == 136
    assert passes[0] < 20


# Known numbers of steps


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (5, 40), (40, 5), (1, 9), (9, 1), (2, 2)])
def test_steps_of_a_stack_of_equal_kernels(side: int, height: int, width: int) -> None:
    """A pixel waits for the one that its kernel sees r columns to the right in the row above: W + (H - 1)(r + 1)."""
    plan = schedule(Dataflow(stack(side, side, side), (1, height, width)))
    climb = min(side // 2, width - 1)  # the image ends before the kernel does
    assert plan.steps == width + (height - 1) * (climb + 1)
    y, x = np.indices((height, width))
    np.testing.assert_array_equal(plan.ready[0][0], 1 + x + (climb + 1) * y)


@pytest.mark.parametrize(
    ("first", "later", "slope"), [(7, 5, 4), (7, 3, 4), (5, 3, 3), (3, 5, 2), (3, 7, 3), (1, 3, 1)]
)
def test_steps_of_the_first_kernel_and_of_others(first: int, later: int, slope: int) -> None:
    """The first layer must leave the pixel: it climbs by its radius, or it goes left and the next ones climb.

    One row up the view goes max(first, later - 1) columns to the right; a first layer of side 1 sees nothing at all.
    """
    plan = schedule(Dataflow(stack(first, later, later), (1, 28, 28)))
    assert slope == max(first // 2, later // 2 - 1) + 1
    assert plan.steps == (28 + 27 * slope if first > 1 else 1)


def test_steps_that_the_design_promises() -> None:
    sevens = stack(7, *[7] * 7)
    assert schedule(Dataflow(sevens, (1, 28, 28))).steps == 136
    assert schedule(Dataflow(stack(7, *[7] * 5, channels=3, groups=3), (3, 28, 28), 3)).steps == 408
    assert schedule(Dataflow(stack(7, *[7] * 5, channels=3), (3, 28, 28), 1)).steps == 136
    # Where all earlier pixels are read they come one by one. Where it is all earlier features of 3x3 kernels, which do
    # not see the last pixel of the row above, a row begins while that one is drawn.
    pixels = nn.Sequential(Mean(1, Earlier()), MaskedConv2d(1, 1, 3, mask="B"))
    assert schedule(Dataflow(pixels, (1, 28, 28))).steps == 784
    assert schedule(Dataflow(stack(3, 3, more=[Mean(3, Earlier(own=True))]), (1, 28, 28))).steps == 784 - 27
    above = Window(1, 3, (-3, -1, -3, 3))  # a vertical stack needs no special case: whole rows at once
    plan = schedule(Dataflow(nn.Sequential(above, Window(3, 1, (-1, 0, -2, 2))), (1, 28, 20)))
    assert plan.steps == 28
    np.testing.assert_array_equal(plan.ready[0][0], np.arange(1, 29)[:, None].repeat(20, 1))


def test_known_pixels_cost_no_steps() -> None:
    flow = Dataflow(stack(7, 7, 7), (1, 28, 28))
    known = np.zeros((1, 28, 28), bool)
    known[:, :14] = True
    plan = schedule(flow, known)
    assert plan.steps == 28 + 13 * 4
    assert (plan.ready[0][0, :14] == NEVER).all()
    assert plan.ready[0][0, 14, 0] == 1
    assert (plan.ready[-1][0, :14] == NEVER).all()
    known[:] = True
    nothing = schedule(flow, known)
    assert nothing.steps == 0
    assert all((ready == NEVER).all() for ready in nothing.ready)
    known[0, 27, 27] = False
    assert schedule(flow, known).steps == 1


# Receptive fields


@examples(40)
@given(causal(4))
def test_receptive_field_is_what_the_reads_reach(case: Case) -> None:
    channels, height, width = case.shape
    flow = Dataflow(case.network, case.shape, case.groups)
    reach = knowledge(flow.nodes)[-1][outputs_of(flow.nodes, case.groups, channels - 1)].any(0)
    spec = ImageSpec(*case.shape, 2)
    for y, x in {(0, 0), (height // 2, width // 2), (height - 1, width - 1)}:
        field = receptive_field(case.network, spec, (y, x), case.groups)
        np.testing.assert_array_equal(field, reach[y, x].reshape(case.shape))


@pytest.mark.parametrize("setting", CONFIGS.values(), ids=CONFIGS)
def test_receptive_field_is_where_gradients_flow(setting: Setting) -> None:
    spec, groups = setting.image, setting.image.channels if setting.ordered else 1
    expected = reachable(setting)
    flowing = dependences(setting, expected)
    network = setting.model().network
    for y, x in ((0, 0), (2, 1), (spec.height - 1, 0), (spec.height - 1, spec.width - 1)):
        field = receptive_field(network, spec, (y, x), groups)
        last = np.ravel_multi_index((spec.channels - 1, y, x), spec.shape)
        np.testing.assert_array_equal(field.reshape(-1), expected[last])
        np.testing.assert_array_equal(field.reshape(-1), flowing[last])


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_blind_spot_of_a_deep_plain_stack_is_the_cone(radius: int) -> None:
    """Unseen is all that lies further right than the radius for each row above, and nothing else that came before."""
    spec = ImageSpec(1, 6, 11, 2)
    network = stack(*[2 * radius + 1] * 11)
    for i, j in ((5, 0), (5, 4), (3, 10)):
        y, x = np.indices((6, 11))
        seen = ((y < i) & (x - j <= radius * (i - y))) | ((y == i) & (x < j))
        np.testing.assert_array_equal(receptive_field(network, spec, (i, j))[0], seen)
    blind = receptive_field(network, spec, (5, 0))[0]
    assert not blind.all(where=np.indices((6, 11))[0] < 5)


def test_a_position_outside_has_no_field() -> None:
    with pytest.raises(IndexError):
        receptive_field(stack(3, 3), ImageSpec(1, 4, 5, 2), (4, 0))


# Causality


@examples(120)
@given(too_far())
def test_a_layer_that_reads_ahead_is_named(case: Case) -> None:
    flow = Dataflow(case.network, case.shape, case.groups)
    if not leaks(flow.nodes, case.groups):
        flow.check()
        return
    with pytest.raises(NotAutoregressiveError) as caught:
        flow.check()
    assert str(caught.value).startswith(f"{case.wrong}: reads ")
    with pytest.raises(NotAutoregressiveError):
        schedule(flow)
    spec = ImageSpec(*case.shape, 2)
    with pytest.raises(NotAutoregressiveError):
        assert_autoregressive(case.network, spec, groups=case.groups)


@examples(60)
@given(too_far(4))
def test_where_it_was_first_seen_is_true(case: Case) -> None:
    """The named layer does depend on the future at the named position: by enumeration."""
    flow = Dataflow(case.network, case.shape, case.groups)
    assume(leaks(flow.nodes, case.groups))
    with pytest.raises(NotAutoregressiveError) as caught:
        flow.check()
    found = re.search(r"First seen at row (\d+), column (\d+)$", str(caught.value))
    assert found
    row, column = map(int, found.groups())
    numbers = [i for i, node in enumerate(flow.nodes) if node.name == case.wrong]
    when, known = order(case.shape, case.groups).reshape(-1), knowledge(flow.nodes)
    worst = max(when[known[i][:, row, column].any(0)].max(initial=-1) for i in numbers)
    height, width = flow.nodes[numbers[0]].size
    stride = -(-case.shape[1] // height), -(-case.shape[2] // width)
    own = order(case.shape, case.groups)[0, row * stride[0], column * stride[1]]
    assert worst >= own


@examples(100)
@given(causal())
def test_networks_that_keep_causality_pass(case: Case) -> None:
    flow = Dataflow(case.network, case.shape, case.groups)
    assert not leaks(flow.nodes, case.groups)
    flow.check()


def conv3x3() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1)


PLAIN, LATER, ORDERED = stack(3, 3, first="B"), stack(3, more=[conv3x3()]), stack(3, 3, channels=3, groups=3)
UNORDERED = stack(3, channels=3, groups=3, more=[nn.Conv2d(3, 3, 1)])
SPREAD = stack(3, more=[Window(3, 3, (0, 1, 0, 1), (2, 2)), Up(3, (2, 2), (4, 4))])
AHEAD = nn.Sequential(Window(1, 3, (-1, 0, -1, 1)), Shift(3, 1, 0), conv3x3())
OWN, LATE = "its own pixel", "what comes later"
WRONG = {
    "first mask": (PLAIN, (1, 4, 4), 1, "0: reads input at offset (+0, +0)", OWN),
    "first, no mask": (
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)),
        (1, 3, 3),
        1,
        "0: reads input at offset (+1, +1)",
        LATE,
    ),
    "later": (LATER, (1, 4, 4), 1, "1: reads 0 at offset (+1, +1)", LATE),
    "later, one row": (LATER, (1, 1, 4), 1, "1: reads 0 at offset (+0, +1)", LATE),
    "later, one column": (LATER, (1, 4, 1), 1, "1: reads 0 at offset (+1, +0)", LATE),
    "channels": (UNORDERED, (3, 2, 2), 3, "1: reads 0 at offset (+0, +0)", OWN),
    "a step left": (stack(3, more=[Shift(3, 0, -1)]), (1, 3, 5), 1, "1: reads 0 at offset (+0, +1)", LATE),
    "spread": (SPREAD, (1, 4, 4), 1, "1: reads 0 at position (1, 1) of another grid", OWN),
    "itself": (nn.Sequential(Mean(1, Earlier(own=True))), (1, 2, 2), 1, "0: reads input at offset (+0, +0)", OWN),
    "the image": (nn.Identity(), (1, 2, 2), 1, "input: reads input at offset (+0, +0)", OWN),
    "after a shift": (AHEAD, (1, 4, 4), 1, "2: reads 1 at offset (+1, +1)", LATE),
}


@pytest.mark.parametrize(("network", "shape", "groups", "start", "blame"), WRONG.values(), ids=WRONG)
def test_offset_and_layer_of_simple_faults(
    network: nn.Module, shape: tuple[int, int, int], groups: int, start: str, blame: str
) -> None:
    with pytest.raises(NotAutoregressiveError) as caught:
        Dataflow(network, shape, groups).check()
    message = str(caught.value)
    assert message.startswith(f"{start} (rows down, columns right)")
    assert f"depends on {blame}: the network is not autoregressive. First seen at row 0, column 0" in message
    assert message.isascii()


def test_what_is_ahead_of_its_position_may_be_shifted_later() -> None:
    """A layer that sees the pixel itself is no fault if all that it knows is moved on by one."""
    Dataflow(nn.Sequential(AHEAD[0], AHEAD[1], MaskedConv2d(3, 1, 3, mask="B")), (1, 5, 5)).check()
    with pytest.raises(NotAutoregressiveError, match=r"^0: "):
        Dataflow(nn.Sequential(AHEAD[0], MaskedConv2d(3, 1, 3, mask="B")), (1, 5, 5)).check()


class Mixed(nn.Module):
    """The halves of a gate grouped as one: green meets red in the same feature."""

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.first = MaskedConv2d(3, 3, 3, mask="A", groups=3)
        self.mix = MaskedConv2d(3, 6, 3, mask="B", groups=3, copies=copies)
        self.output = MaskedConv2d(3, 3, 1, mask="B", groups=3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.mix(self.first(x)).chunk(2, 1)
        return self.output(a * b)


def test_a_gate_whose_halves_are_grouped_as_one_is_found() -> None:
    Dataflow(Mixed(copies=2), (3, 2, 3), 3).check()
    with pytest.raises(NotAutoregressiveError, match=r"^mul: reads chunk at offset \(\+0, \+0\)"):
        Dataflow(Mixed(copies=1), (3, 2, 3), 3).check()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"gives 2 features on a 4x4 grid, which does not fit images of \(3, 4, 4\)"):
        Dataflow(nn.Sequential(MaskedConv2d(3, 2, 3, mask="A")), (3, 4, 4), 3)
    with pytest.raises(ModelError, match="1: the network gives 1 features on a 2x2 grid"):
        Dataflow(nn.Sequential(MaskedConv2d(1, 1, 3, mask="A"), Window(1, 1, (-1, 0, -1, 0), (2, 2))), (1, 4, 4))
    with pytest.raises(ModelError, match="in 3 channel groups"):
        Dataflow(stack(3, 3, channels=1, groups=1, features=3), (1, 4, 4), 3)


class View(nn.Module):
    """Some grid that reads another in some way."""

    def __init__(self, size: Size, where: Offsets) -> None:
        super().__init__()
        self.size, self.where = size, where

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1, :1, :1].expand(-1, -1, *self.size)

    def reads(self) -> tuple[Read, ...]:
        return (Read(self.where),)

    def at(self, x: Tensor, present: Tensor) -> Tensor:
        raise NotImplementedError


class Views(nn.Module):
    """A grid of 2x8 and one of 4x4, both read alike."""

    def __init__(self, of_image: Offsets, of_views: Offsets) -> None:
        super().__init__()
        self.flat, self.square = View((2, 8), of_image), View((4, 4), of_image)
        self.wide, self.high = View((1, 8), of_views), View((1, 8), of_views)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.flat(x)) + self.high(self.square(x))


def test_grids_of_equal_contents_and_other_shapes_are_distinguished() -> None:
    """Results for a layer are reused for an equal layer, but not on a grid of another shape."""
    flow = Dataflow(Views(Offsets(((0, 0),), up=(9, 9)), Offsets(((2, 0),))), (1, 1, 8))
    values = dict(zip([node.name for node in flow.nodes], flow.forward(np.full((1, 1, 8), 5), NEVER), strict=True))
    assert (values["flat"] == 5).all()
    assert (values["square"] == 5).all()
    assert values["wide"].tolist() == [[[NEVER] * 8]]
    assert values["high"].tolist() == [[[5] * 4 + [NEVER] * 4]]
    flow = Dataflow(Views(Offsets(((0, 0),)), Offsets(box(0, 3, 0, 7))), (1, 1, 8))
    assert flow.backward(np.ones((1, 1, 8), bool))[0].tolist() == [[[True] * 8]]  # of the square only the first four
    flow = Dataflow(Views(Offsets(((0, 4),)), Offsets(box(0, 3, 0, 7))), (1, 1, 8))
    assert flow.backward(np.ones((1, 1, 8), bool))[0].tolist() == [[[False] * 4 + [True] * 4]]


# Networks of any origin


class TutorialConv(nn.Conv2d):
    """As the tutorials write it: ``weight.data`` is multiplied in every forward pass, and nothing is declared."""

    mask: Tensor

    def __init__(self, kind: str, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, kernel // 2, kernel // 2 + (kind == "B") :] = 0
        self.mask[:, :, kernel // 2 + 1 :] = 0

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class SeesBelow(TutorialConv):
    """The rows below the center are forgotten."""

    def __init__(self, kind: str, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(kind, inputs, outputs, kernel)
        self.mask[:, :, kernel // 2 + 1 :] = 1


class NoOwnRow(TutorialConv):
    """The whole center row is cleared, and the wrong half of the rest."""

    def __init__(self, kind: str, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(kind, inputs, outputs, kernel)
        self.mask[:] = 1
        self.mask[:, :, kernel // 2] = 0
        self.mask[:, :, : kernel // 2] = 0


def tutorial(first: type[TutorialConv] = TutorialConv, kind: str = "A", channels: int = 1) -> nn.Module:
    layers = [
        first(kind, channels, 6, 5),
        nn.ReLU(),
        TutorialConv("B", 6, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 2 * channels, 1),
    ]
    return live(nn.Sequential(*layers))


IMAGE = ImageSpec(1, 4, 5, 2)


def test_layers_that_declare_nothing_are_refused_by_schedule_with_what_to_do() -> None:
    network = nn.Sequential(tutorial(), nn.GroupNorm(1, 2))
    for by in (("schedule",), "schedule"):
        with pytest.raises(ModelError, match=r"^1 \(GroupNorm\): does not say which .* method reads\(\), see") as e:
            assert_autoregressive(network, IMAGE, by=by)
        assert not isinstance(e.value, NotAutoregressiveError)
    with pytest.raises(NotAutoregressiveError, match="row 0, column 0 depends on"):  # a norm over all positions
        assert_autoregressive(network, IMAGE)


def test_gradients_distinguish_right_from_wrong_ones() -> None:
    assert_autoregressive(tutorial(), IMAGE, by=("gradient",))
    assert_autoregressive(tutorial(channels=3), ImageSpec(3, 4, 5, 2), by="gradient")
    with pytest.raises(
        NotAutoregressiveError, match="row 0, column 0 depends on channel 0 of the pixel at row 0, column 0"
    ):
        assert_autoregressive(tutorial(kind="B"), IMAGE, by=("gradient",))
    for wrong in (SeesBelow, NoOwnRow):
        with pytest.raises(
            NotAutoregressiveError, match="row 0, column 0 depends on channel 0 of the pixel at row 1, col"
        ):
            assert_autoregressive(tutorial(wrong), IMAGE, by=("gradient",))


@pytest.mark.parametrize("seed", range(5))
def test_a_single_leak_in_the_last_pixel_is_found(seed: int) -> None:
    class Leak(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = TutorialConv("A", 1, 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            corner = F.one_hot(torch.tensor(19), 20).view(4, 5)
            return self.conv(x) + 1e-9 * x * corner

    with pytest.raises(
        NotAutoregressiveError, match="row 3, column 4 depends on channel 0 of the pixel at row 3, column 4"
    ):
        assert_autoregressive(Leak(), IMAGE, by=("gradient",), seed=seed)


def test_channels_in_order_by_gradient() -> None:
    spec, network = ImageSpec(3, 2, 3, 2), live(stack(3, 3, channels=3, groups=3, features=6))
    assert_autoregressive(network, spec, groups=3)
    with pytest.raises(NotAutoregressiveError):  # green reads the red of its own pixel, so they are not independent
        assert_autoregressive(network, spec, groups=1, by=("schedule",))
    message = "row 0, column 0 depends on channel 0 of the pixel at row 0, column 0, which is not before it"
    with pytest.raises(NotAutoregressiveError, match=message):
        assert_autoregressive(network, spec, groups=1, by=("gradient",))
    with torch.no_grad():
        network[0].mask[4, 2, 1, 1] = 1  # a feature of the third group... reads blue, as it must not
    with pytest.raises(NotAutoregressiveError, match="row 0, column 0 depends on channel 2 of the pixel at row 0"):
        assert_autoregressive(network, spec, groups=3, by=("gradient",))


def test_mixed_networks_need_declare_what_mixes_positions_only() -> None:
    class Theirs(nn.Module):
        def __init__(self, first: str) -> None:
            super().__init__()
            self.first = MaskedConv2d(1, 8, 5, mask=first)  # type: ignore[arg-type]
            self.wide, self.norm, self.conv = nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), MaskedConv2d(16, 8, 3, mask="B")
            self.out = nn.Conv2d(8, 2, 1, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            h = h + F.relu(self.conv(self.norm(self.wide(F.elu(h)))))
            return self.out(h)

    assert_autoregressive(live(Theirs("A")), IMAGE)
    for by in ("schedule", "gradient"):
        with pytest.raises(NotAutoregressiveError):
            assert_autoregressive(live(Theirs("B")), IMAGE, by=by)


def test_a_check_of_nothing_is_refused_and_modes_are_kept() -> None:
    for by in ((), ("gradiant",), "schedules"):
        with pytest.raises(ValueError, match="by takes 'schedule', 'gradient' or both"):
            assert_autoregressive(stack(3, 3), IMAGE, by=by)
    network = nn.Sequential(MaskedConv2d(1, 4, 3, mask="A"), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    network.train()
    network[1].eval()  # frozen
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    for by in ("schedule", "gradient"):
        assert_autoregressive(network, IMAGE, by=by)
        assert [layer.training for layer in network] == [True, False, True, True]
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in network.named_buffers())
    assert all(parameter.grad is None for parameter in network.parameters())
