"""What layers say they read: each kind of positions against plain loops, the masked convolution against itself."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pixelloom.layers.blocks import ChannelNorm, GatedBlock, Normalize, ResidualBlock
from pixelloom.layers.blocks import Positions as LearnedPositions
from pixelloom.layers.masked_conv import Mask, MaskedConv2d
from pixelloom.layers.reads import HERE, Closure, Earlier, Offsets, OwnRow, Position, Positions, Read, Size, box
from profiles import examples
from settings import live

Bools = npt.NDArray[np.bool_]


# Positions


def read_by(where: Positions, position: Position, size: Size) -> set[Position]:
    """By the words of each kind's definition, one position at a time, those beyond the edge left out."""
    y, x = position
    everywhere = {(v, u) for v in range(size[0]) for u in range(size[1])}
    if isinstance(where, Offsets):
        bases = (Fraction(p * s, u) for p, s, u in zip(position, where.stride, where.up, strict=True))
        row, column = (math.floor(base) for base in bases)
        return {(row + dy, column + dx) for dy, dx in where.taps} & everywhere
    if isinstance(where, Closure):  # what a state is carried from, and what those states are carried from
        found, todo = {position}, [position]
        while todo:
            v, u = todo.pop()
            new = {(v + dy, u + dx) for dy, dx in where.steps} & everywhere - found
            found |= new
            todo += new
        return found
    if isinstance(where, Earlier):
        return {q for q in everywhere if q < position or (where.own and q == position)}
    assert isinstance(where, OwnRow)
    return {(v, u) for v, u in everywhere if v == y and (u < x or (where.own and u == x))}


sides = st.integers(1, 6)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
taps = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=6, unique=True)
steps = st.tuples(st.integers(-2, 0), st.integers(-2, 2)).filter(lambda step: step < (0, 0))


@st.composite
def readings(draw: st.DrawFn) -> tuple[Positions, Size, Size]:
    """(positions, size of the input, size of the output)."""
    kind = draw(st.sampled_from(("offsets", "strided", "up", "strided up", "earlier", "row", "closure")))
    size = draw(sides), draw(sides)
    if kind == "closure":
        return Closure(tuple(draw(st.lists(steps, min_size=1, max_size=3, unique=True)))), size, size
    if kind in ("earlier", "row"):
        return (Earlier if kind == "earlier" else OwnRow)(draw(st.booleans())), size, size
    stride = draw(pairs) if "strided" in kind else (1, 1)
    up = draw(pairs) if "up" in kind else (1, 1)
    return Offsets(tuple(draw(taps)), stride, up), size, (draw(sides), draw(sides))


@examples(60)
@given(readings())
def test_of_lists_what_the_definition_says(reading: tuple[Positions, Size, Size]) -> None:
    where, size, outputs = reading
    for position in np.ndindex(*outputs):
        listed = where.of(position, size)
        inside = [(y, x) for y, x in listed if 0 <= y < size[0] and 0 <= x < size[1]]
        assert len(inside) == len(set(inside))
        assert set(inside) == read_by(where, position, size)
        if isinstance(where, Offsets):
            assert len(listed) == len(where.taps)  # one for each tap, in their order, whatever lies beyond the edge
            assert [(y - listed[0][0], x - listed[0][1]) for y, x in listed] == [
                (dy - where.taps[0][0], dx - where.taps[0][1]) for dy, dx in where.taps
            ]
        else:
            assert listed == sorted(listed)


@examples(60)
@given(readings(), st.integers(0, 2**32 - 1), st.integers(-3, 3))
def test_latest_is_the_largest_of_what_is_read(reading: tuple[Positions, Size, Size], seed: int, nothing: int) -> None:
    where, size, outputs = reading
    values = np.random.default_rng(seed).integers(nothing, nothing + 9, (2, *size))
    before = values.copy()
    expected = np.full((2, *outputs), nothing)
    for plane, (y, x) in ((plane, p) for plane in range(2) for p in np.ndindex(*outputs)):
        read = read_by(where, (y, x), size)
        expected[plane, y, x] = max((int(values[plane][q]) for q in read), default=nothing)
    found = where.latest(values, outputs, nothing)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(where.latest(values[0], outputs, nothing), expected[0])
    assert found.dtype == np.int64
    np.testing.assert_array_equal(values, before)  # whose values they are must not find them changed


@examples(60)
@given(readings(), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_back_marks_what_marked_outputs_read(reading: tuple[Positions, Size, Size], seed: int, share: float) -> None:
    where, size, outputs = reading
    marked = np.random.default_rng(seed).random((2, *outputs)) < share
    before = marked.copy()
    expected = np.zeros((2, *size), bool)
    for plane, y, x in np.argwhere(marked):
        for q in read_by(where, (int(y), int(x)), size):
            expected[plane][q] = True
    found = where.back(marked, size)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(where.back(marked[1], size), expected[1])
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(marked, before)


@examples(60)
@given(readings())
def test_rows_bound_what_a_row_reads(reading: tuple[Positions, Size, Size]) -> None:
    where, size, outputs = reading
    for row in range(outputs[0]):
        listed = {y for column in range(outputs[1]) for y, _ in where.of((row, column), size)}
        first, last = where.rows(row)
        if isinstance(where, Offsets):
            assert (first, last) == (min(listed), max(listed))
        else:
            assert listed <= set(range(first, last + 1))
            assert last == row
            upwards = isinstance(where, Earlier) or (isinstance(where, Closure) and any(dy for dy, _ in where.steps))
            assert first == (0 if upwards else row)


def test_upsampling_shares_and_downsampling_skips() -> None:
    """Values by hand, apart from any formula."""
    assert Offsets(((0, 0),), up=(2, 2)).latest(np.array([[1, 2], [3, 4]]), (4, 3), 0).tolist() == [
        [1, 1, 2],
        [1, 1, 2],
        [3, 3, 4],
        [3, 3, 4],
    ]
    assert Offsets(((0, 0), (-1, 0)), stride=(2, 2)).of((2, 1), (9, 9)) == [(4, 2), (3, 2)]
    assert Offsets(((0, 1),), up=(1, 3)).of((0, 5), (1, 2)) == [(0, 2)]
    assert OwnRow(own=False).latest(np.array([[5, 1, 7, 2]]), (1, 4), -1).tolist() == [[-1, 5, 5, 7]]
    assert Earlier().latest(np.array([[5, 1], [7, 2]]), (2, 2), -1).tolist() == [[-1, 5], [5, 7]]
    carried = Closure(((0, -1), (-1, 1)))  # to the left, and up to the right: from there on to the left again
    assert carried.of((2, 0), (3, 4)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    assert Earlier().back(np.array([[False, False], [True, False]]), (2, 2)).tolist() == [[True, True], [False, False]]


def test_what_is_read_alike_is_equal() -> None:
    """Layers that read alike share what was worked out for one of them."""
    assert Offsets(((0, 0),)) == HERE
    assert len({Offsets(((0, 0),)), HERE, Offsets(((0, 0),), up=(2, 2)), Offsets(((0, 0),), stride=(2, 2))}) == 3
    assert len({Closure(((0, -1),)), Closure(((-1, 0),)), Closure(((0, -1),))}) == 2
    assert len({Earlier(), Earlier(own=True), OwnRow(own=False), OwnRow(), Earlier(own=False), OwnRow(own=True)}) == 4


@pytest.mark.parametrize("step", [(0, 0), (0, 1), (1, 0), (1, -1)])
def test_a_state_is_carried_from_what_comes_before(step: Position) -> None:
    with pytest.raises(ValueError, match="a recurrence carries what comes before in raster order"):
        Closure(((0, -1), step))


def test_a_box_has_both_ends() -> None:
    assert box(-1, 0, -1, 1) == ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1))
    assert box(0, 0, 0, 0) == ((0, 0),)
    assert box(0, 0, 0, -1) == box(0, -1, 0, 0) == ()


# Layers


def support(layer: nn.Module, features: int, size: Size) -> Bools:
    """Where the gradient of a layer is not zero: [out, H, W, in, H, W]."""
    x = torch.randn(1, features, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x.clone()), x)
    assert isinstance(jacobian, Tensor)
    return (jacobian[0, :, :, :, 0] != 0).numpy()


def declared(reads: tuple[Read, ...], outputs: int, features: int, size: Size) -> Bools:
    """The same by what a layer says, for a layer that keeps the grid."""
    found = np.zeros((outputs, *size, features, *size), bool)
    for read in reads:
        assert not isinstance(read.features, str)
        who = np.ones((outputs, features), bool) if read.features is None else read.features.numpy()
        assert who.dtype == np.bool_
        for y, x in np.ndindex(*size):
            for v, u in read_by(read.where, (y, x), size):
                found[:, y, x, :, v, u] |= who
    return found


LAYERS = [
    (k, m, g, c, s) for k in (1, 3, 5) for m in ("A", "B") for g, c in ((1, 1), (3, 1), (3, 2)) for s in ((4, 5),)
]
each_layer = pytest.mark.parametrize(("kernel", "mask", "groups", "copies", "size"), [*LAYERS, (7, "B", 3, 1, (1, 3))])


def masked(kernel: int, mask: Mask, groups: int, copies: int, bias: bool = True) -> MaskedConv2d:
    layer = MaskedConv2d(5, 4 * copies, kernel, mask=mask, groups=groups, copies=copies, bias=bias).double()
    live(layer)
    with torch.no_grad():
        layer.weight[layer.weight == 0] = 1.0
    return layer


@each_layer
def test_a_masked_convolution_reads_what_it_says(kernel: int, mask: Mask, groups: int, copies: int, size: Size) -> None:
    layer = masked(kernel, mask, groups, copies)
    said = declared(layer.reads(), 4 * copies, 5, size)
    np.testing.assert_array_equal(said, support(layer, 5, size))
    assert said.any() == ((kernel, mask, groups) != (1, "A", 1))


@each_layer
@pytest.mark.parametrize("bias", [True, False])
def test_a_kernel_applied_by_a_plain_loop_is_the_forward_pass(
    kernel: int, mask: Mask, groups: int, copies: int, size: Size, bias: bool
) -> None:
    layer = masked(kernel, mask, groups, copies, bias)
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    found = layer.kernel()
    assert len(found.taps) == len(set(found.taps)) == len(found.weight)
    out = torch.zeros(2, 4 * copies, *size, dtype=torch.float64)
    for y, u in np.ndindex(*size):
        for (dy, dx), weight in zip(found.taps, found.weight, strict=True):
            if 0 <= y + dy < size[0] and 0 <= u + dx < size[1]:
                out[:, :, y, u] += x[:, :, y + dy, u + dx] @ weight
    if bias:
        assert found.bias is not None
        out += found.bias[:, None, None]
    else:
        assert found.bias is None
    torch.testing.assert_close(out, layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_taps_that_are_declared_are_those_of_the_kernel(kernel: int, mask: Mask) -> None:
    layer = masked(kernel, mask, 3, 1)
    read = [tap for read in layer.reads() if isinstance(read.where, Offsets) for tap in read.where.taps]
    assert sorted(read) == sorted(layer.kernel().taps)
    assert len(read) == kernel**2 // 2 + 1


def test_a_kernel_is_as_live_as_the_weights() -> None:
    layer = masked(3, "B", 3, 1)
    before = layer.kernel().weight.clone()
    with torch.no_grad():
        layer.weight.mul_(2)
    torch.testing.assert_close(layer.kernel().weight, 2 * before)
    hidden = ~layer.mask.bool()
    with torch.no_grad():
        layer.weight[hidden] = 1e3
    torch.testing.assert_close(layer.kernel().weight, 2 * before)  # masked weights are not in it


def test_a_norm_reads_all_features_of_its_position_or_of_its_group() -> None:
    np.testing.assert_array_equal(declared(Normalize().reads(), 4, 4, (2, 3)), support(Normalize(), 4, (2, 3)))
    grouped = support(live(ChannelNorm(6, groups=3).double()), 6, (1, 1))[:, 0, 0, :, 0, 0]
    np.testing.assert_array_equal(grouped, np.kron(np.eye(3), np.ones((2, 2))) > 0)


def test_layers_that_declare_nothing_act_on_each_position_alone() -> None:
    """Within the blocks of the house, by the gradient of each layer."""
    blocks = {
        "gated": GatedBlock(4, 3, 3, norm="channel", bias=True, groups=1, dropout=0.0),
        "residual": ResidualBlock(4, 3, 3, activation="after", norm="batch", bias=True, groups=1),
        "positions": LearnedPositions(4, 3, 3),
    }
    y, x = np.indices((3, 3))
    apart = (y[:, :, None, None] != y) | (x[:, :, None, None] != x)
    found = set()
    for block in blocks.values():
        for layer in block.eval().double().modules():
            if not hasattr(layer, "reads") and not list(layer.children()):
                mixed = support(live(layer), getattr(layer, "num_features", 4), (3, 3)).any(axis=(0, 3))
                assert not mixed[apart].any(), layer
                assert mixed[~apart].any(), layer
                found.add(type(layer).__name__)
    assert found == {"Dropout", "BatchNorm2d", "ReLU", "Positions"}
