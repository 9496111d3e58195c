"""Recurrences: what a closure of steps holds, the LSTMs by their equation, topological levels of a wavefront."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pixelloom.layers.reads import Closure, Position, Size
from pixelloom.layers.recurrent import DiagonalLSTM, RasterSum, RowLSTM
from pixelloom.sampling.fast.recurrence_executor import topological_levels
from profiles import examples

Array = npt.NDArray[np.float64]

SIZES = ((4, 5), (5, 3), (1, 6), (6, 1), (1, 1), (2, 7))
MIRRORED = ((0, 1), (-1, 0))


# Closures


def reached(steps: tuple[Position, ...], position: Position, size: Size) -> set[Position]:
    """By the definition: the position, and what any number of steps leads to, all of them within the image."""
    found, todo = {position}, [position]
    while todo:
        y, x = todo.pop()
        for dy, dx in steps:
            q = y + dy, x + dx
            if 0 <= q[0] < size[0] and 0 <= q[1] < size[1] and q not in found:
                found.add(q)
                todo.append(q)
    return found


@st.composite
def walks(draw: st.DrawFn) -> tuple[Closure, Size]:
    """Steps up, and aside in one of the directions; some of them lead across the whole image."""
    sign = draw(st.sampled_from((-1, 1)))
    up = st.tuples(st.integers(-3, -1), st.integers(-7, 7))
    aside = st.tuples(st.just(0), st.integers(1, 7).map(lambda dx: sign * dx))
    steps = draw(st.lists(st.one_of(up, aside), min_size=1, max_size=4, unique=True))
    return Closure(tuple(steps)), (draw(st.integers(1, 5)), draw(st.integers(1, 6)))


@examples(80)
@given(walks(), st.integers(0, 2**32 - 1))
def test_a_closure_is_all_that_its_steps_reach(walk: tuple[Closure, Size], seed: int) -> None:
    where, size = walk
    rng = np.random.default_rng(seed)
    values, marked = rng.integers(-5, 9, (2, *size)), rng.random((2, *size)) < rng.random()
    kept = values.copy(), marked.copy()
    latest, back = np.full((2, *size), -2), np.zeros((2, *size), bool)
    for position in np.ndindex(*size):
        read = reached(where.steps, position, size)
        assert where.of(position, size) == sorted(read)
        first, last = where.rows(position[0])
        assert all(first <= y <= last for y, _ in read)
        for plane in range(2):
            latest[plane][position] = max(-2, *(values[plane][q] for q in read))
            for q in read if marked[plane][position] else ():
                back[plane][q] = True
    np.testing.assert_array_equal(where.latest(values, size, -2), latest)
    np.testing.assert_array_equal(where.latest(values[1], size, -2), latest[1])
    np.testing.assert_array_equal(where.back(marked, size), back)
    np.testing.assert_array_equal(where.back(marked[1], size), back[1])
    np.testing.assert_array_equal(kept[0], values)
    np.testing.assert_array_equal(kept[1], marked)


def test_a_mirrored_closure_by_hand() -> None:
    assert Closure(MIRRORED).of((1, 1), (3, 3)) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert Closure(MIRRORED).latest(np.array([[1, 9, 2], [3, 0, 4]]), (2, 3), -1).tolist() == [[9, 9, 2], [9, 9, 4]]
    assert Closure(((0, -1), (-1, 2))).of((1, 1), (2, 3)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize("step", [(0, 0), (1, 0), (1, -1), (1, 1), (0, -2)])
def test_a_mirrored_recurrence_looks_neither_back_nor_down(step: Position) -> None:
    with pytest.raises(ValueError, match="what comes before in raster order, or in that of the mirrored image, not"):
        Closure((*MIRRORED, step))


# Layers


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def carried_along(x: Array, carried: tuple[Position, ...], cell: int, weight: Array) -> Array:
    """Equation 3, position by position: gates [4h, H, W] -> [h, c] [2h, H, W]. State number ``cell`` gives the cell."""
    h, (height, width) = len(x) // 4, x.shape[1:]
    states: dict[Position, Array] = {}
    columns = range(width)[::-1] if any(dy == 0 and dx > 0 for dy, dx in carried) else range(width)
    for y, u in ((y, u) for y in range(height) for u in columns):
        before = [states.get((y + dy, u + dx), np.zeros(2 * h)) for dy, dx in carried]
        gates = x[:, y, u].copy()
        for number, state in enumerate(before):
            gates += weight[number * h : (number + 1) * h].T @ state[:h]
        o, f, i, g = np.split(gates, 4)
        c = sigmoid(f) * before[cell][h:] + sigmoid(i) * np.tanh(g)
        states[y, u] = np.concatenate((sigmoid(o) * np.tanh(c), c))
    out = np.zeros((2 * h, height, width))
    for (y, u), state in states.items():
        out[:, y, u] = state
    return out


LAYERS = {
    "row": (lambda: RowLSTM(3), ((-1, -1), (-1, 0), (-1, 1)), 1),
    "row, kernel 1": (lambda: RowLSTM(3, 1), ((-1, 0),), 0),
    "row, kernel 5": (lambda: RowLSTM(3, 5), ((-1, -2), (-1, -1), (-1, 0), (-1, 1), (-1, 2)), 2),
    "diagonal": (lambda: DiagonalLSTM(3), ((0, -1), (-1, 0)), 0),
    "mirrored": (lambda: DiagonalLSTM(3, mirrored=True), ((0, 1), (-1, 0)), 0),
}
each_layer = pytest.mark.parametrize("name", LAYERS)
each_size = pytest.mark.parametrize("size", SIZES)


def layer_of(name: str) -> RowLSTM | DiagonalLSTM:
    torch.manual_seed(2)
    return LAYERS[name][0]().double()


def gates(size: Size, images: int = 3, features: int = 12) -> Tensor:
    return torch.randn(images, features, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@each_layer
@each_size
def test_an_lstm_follows_its_equation(name: str, size: Size) -> None:
    layer, (_, carried, cell) = layer_of(name), LAYERS[name]
    x = gates(size)
    found = layer(x).detach().numpy()
    assert found.shape == (3, 6, *size)
    for image, out in zip(x.numpy(), found, strict=True):
        expected = carried_along(image, carried, cell, layer.weight.detach().numpy())
        np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)
    assert layer.carried == carried


@each_size
def test_a_raster_sum_adds_up_all_before_and_itself(size: Size) -> None:
    x = gates(size, features=2)
    lines, found = x.reshape(3, 2, -1), RasterSum(size[1])(x).reshape(3, 2, -1)
    for i in range(lines.shape[2]):
        torch.testing.assert_close(found[:, :, i], sum(lines[:, :, j] for j in range(i + 1)))


@each_size
def test_the_mirrored_layer_is_the_layer_of_the_mirrored_image(size: Size) -> None:
    left, right = layer_of("diagonal"), layer_of("mirrored")
    x = gates(size)
    torch.testing.assert_close(right(x), left(x.flip(3)).flip(3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*LAYERS, "sum"])
@each_size
def test_steps_one_by_one_are_the_forward_pass(name: str, size: Size) -> None:
    layer = RasterSum(size[1]) if name == "sum" else layer_of(name)
    x = gates(size)
    out = layer(x)
    states: dict[Position, Tensor] = {}
    order = sorted(np.ndindex(*size), key=lambda p: (p[0], -p[1] if name == "mirrored" else p[1]))
    for y, u in order:
        before = [states.get((y + dy, u + dx), torch.zeros_like(out[:, :, 0, 0])) for dy, dx in layer.carried]
        states[y, u] = layer.step(x[:, :, y, u], *before)
        torch.testing.assert_close(states[y, u], out[:, :, y, u], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*LAYERS, "sum"])
@each_size
def test_layers_read_what_they_say(name: str, size: Size) -> None:
    """By the gradient of every state at every position."""
    layer: nn.Module = RasterSum(size[1]) if name == "sum" else layer_of(name)
    jacobian = torch.autograd.functional.jacobian(layer, gates(size, images=1))
    assert isinstance(jacobian, Tensor)
    seen = (jacobian != 0)[0, :, :, :, 0].any(dim=3).any(dim=0)  # [H, W, H, W]
    (read,) = layer.reads()
    for position in np.ndindex(*size):
        expected = torch.zeros(size, dtype=torch.bool)
        for q in read.where.of(position, size):
            expected[q] = True
        assert torch.equal(seen[position], expected), position


def test_a_diagonal_layer_and_its_mirror_image_see_all_above_and_one_side_each() -> None:
    left, right = (Closure(layer_of(name).carried).of((2, 1), (4, 4)) for name in ("diagonal", "mirrored"))
    assert left == [(y, x) for y in range(3) for x in range(2)]
    assert right == [(y, x) for y in range(3) for x in range(1, 4)]


@each_layer
def test_sums_are_kept_in_the_precision_of_the_weights(name: str) -> None:
    layer = layer_of(name).float()
    x = gates((4, 5)).bfloat16()
    expected = layer(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@each_layer
def test_any_number_of_images_in_any_memory_format(name: str) -> None:
    layer, x = layer_of(name), gates((4, 5))
    whole = layer(x)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[1:2]), whole[1:2], rtol=1e-12, atol=1e-12)
    assert layer(x[:0]).shape == (0, 6, 4, 5)


@pytest.mark.parametrize("kernel", [0, 2, -1])
def test_a_row_lstm_needs_a_middle(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"so their number must be odd and positive, not {kernel}"):
        RowLSTM(3, kernel)


# Topological levels


@examples(80)
@given(walks(), st.integers(0, 2**32 - 1))
def test_levels_carry_states_of_earlier_levels_and_are_as_few_as_can_be(walk: tuple[Closure, Size], seed: int) -> None:
    """Of any set of positions, in any order: every state that is carried comes from an earlier level."""
    where, size = walk
    rng = np.random.default_rng(seed)
    positions = [(int(y), int(x)) for y, x in np.argwhere(rng.random(size) < rng.random())]
    rng.shuffle(positions)
    positions = [(int(y), int(x)) for y, x in positions]
    levels = topological_levels(positions, where.steps)
    assert sorted(place for level in levels for place, _ in level) == list(range(len(positions)))

    def chain(position: Position) -> int:
        """The longest way back within the set."""
        back = [(position[0] + dy, position[1] + dx) for dy, dx in where.steps]
        return 1 + max((chain(q) for q in back if q in positions), default=0)

    for number, level in enumerate(levels):
        for place, sources in level:
            y, x = positions[place]
            assert chain((y, x)) == number + 1
            for (dy, dx), source in zip(where.steps, sources, strict=True):
                carried = (y + dy, x + dx)
                assert source == (positions.index(carried) if carried in positions else None)


def test_a_row_that_is_known_at_once_is_run_from_the_right() -> None:
    levels = topological_levels([(1, x) for x in range(3)], MIRRORED)
    assert levels == [[(2, (None, None))], [(1, (2, None))], [(0, (1, None))]]
