"""Reads: how a layer that mixes positions declares which inputs each output depends on.

A layer has a method ``reads()`` that returns a tuple of :class:`Read`. Each states which features of which input, at
which positions, an output feature at position p reads. There are four kinds of positions:

    Offsets    a finite window such as the taps of a convolution, with ``stride`` for down- and ``up`` for upsampling
    OwnRow     the positions of the same row up to p: a recurrence along the row
    Earlier    all positions before p in raster order: causal attention
    Closure    all positions reached by repeated steps such as "up" and "left": a recurrence over the image

These determine when a feature can be computed, the receptive field of a pixel, and whether a network is autoregressive
(:mod:`pixelloom.sampling.fast.analysis`). Each kind has the two operations that this takes, on arrays over positions:
``latest`` propagates values forward (the largest value among the positions read), ``back`` propagates marks backward
(the positions that the marked ones read).

A layer also defines how one output is computed from what it reads, in one of these ways:

    kernel()                      a linear layer: its :class:`Kernel`
    step(x, *states)              a recurrence whose state is its output: x [M, in], and the states [M, out] at the
                                  positions of its attribute ``carried``, zeros beyond the edge -> the state [M, out].
                                  Its positions are ``Closure(carried)``
    attend(q, k, v, allowed)      attention of inputs 0, 1 and 2: q [B, n, f], k and v [B, N, f] and allowed, bool
                                  [n, N] or None for all -> [B, n, out]. Positions are HERE for input 0, Earlier for
                                  the others. An optional method ``single(q, keys, values, out)``, with q [B, f] of
                                  one position, keys and values [B, H*W, f] of all and out [B, out], returns a function
                                  (first, end) that puts the attention to this range of positions into out
    at(*inputs, present)          any other layer: for each input a tensor [M, N, features] with the N positions read by
                                  each of M outputs in the order of ``Positions.of``, and ``present``, bool [M, N],
                                  false beyond the edge and where an output reads fewer than N -> [M, out]

A layer that reads a single offset of the same feature (a shift, nearest-neighbor upsampling), or its own position only
(a norm over features), needs none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Values: TypeAlias = npt.NDArray[np.int64]
"""An integer at each position, int64 [..., height, width]."""

Marks: TypeAlias = npt.NDArray[np.bool_]
"""A set of positions, bool [..., height, width]."""

Position: TypeAlias = tuple[int, int]
"""(row, column); as an offset, rows down and columns to the right."""

Size: TypeAlias = tuple[int, int]
"""(height, width) of a grid of positions."""


class Positions(Protocol):
    """The input positions that an output position reads."""

    def latest(self, values: Values, size: Size, nothing: int) -> Values:
        """The largest of the values read by each output position, [..., size]; ``nothing`` where none is read."""

    def back(self, marked: Marks, size: Size) -> Marks:
        """The input positions [..., size] that at least one marked output position reads."""

    def of(self, position: Position, size: Size) -> list[Position]:
        """The positions that one output reads, in the order of ``at``.

        Offsets include positions beyond the edge of the input, so that their number is constant.
        """

    def rows(self, row: int) -> tuple[int, int]:
        """The first and the last input row that an output row reads; they may lie beyond the edge."""


@dataclass(frozen=True)
class Offsets:
    """Output position p reads the input positions floor(p * stride / up) + tap, for each tap.

    Attributes:
        taps: offsets (down, right).
        stride: input positions between neighboring outputs, (rows, columns): downsampling.
        up: outputs per input position, (rows, columns): upsampling.
    """

    taps: tuple[Position, ...]
    stride: Position = (1, 1)
    up: Position = (1, 1)

    def latest(self, values: Values, size: Size, nothing: int) -> Values:
        """The largest value under the taps."""
        out = np.full((*values.shape[:-2], *size), nothing, np.int64)
        for dy, dx in self.taps:
            to_rows, rows = self._pairs(0, dy, size[0], values.shape[-2])
            to_columns, columns = self._pairs(1, dx, size[1], values.shape[-1])
            seen = values[..., rows, :][..., columns]
            part = out[..., to_rows, to_columns]
            out[..., to_rows, to_columns] = np.maximum(part, seen)
        return out

    def back(self, marked: Marks, size: Size) -> Marks:
        """The union of the taps of all marked positions."""
        out = np.zeros((*marked.shape[:-2], *size), np.float32)
        for dy, dx in self.taps:
            # With upsampling, outputs share inputs, so they are summed: rows^T @ marked @ columns, with 0/1 matrices.
            rows, columns = np.zeros((marked.shape[-2], size[0])), np.zeros((marked.shape[-1], size[1]))
            for table, shift, axis in ((rows, dy, 0), (columns, dx, 1)):
                outputs, read = self._pairs(axis, shift, *table.shape)
                table[np.arange(outputs.start, outputs.stop), read] = 1
            out += rows.T @ marked @ columns
        return out > 0

    def of(self, position: Position, size: Size) -> list[Position]:
        """One position per tap, including those beyond the edge."""
        y, x = (p * s // u for p, s, u in zip(position, self.stride, self.up, strict=True))
        return [(y + dy, x + dx) for dy, dx in self.taps]

    def rows(self, row: int) -> tuple[int, int]:
        """The rows of the highest and the lowest tap."""
        here = row * self.stride[0] // self.up[0]
        return here + min(dy for dy, _ in self.taps), here + max(dy for dy, _ in self.taps)

    def _pairs(self, axis: int, shift: int, outputs: int, inputs: int) -> tuple[slice, npt.NDArray[np.int64]]:
        """Along one axis: the outputs, a contiguous range, whose tap lies inside, and the inputs that they read."""
        read = np.arange(outputs) * self.stride[axis] // self.up[axis] + shift
        first, end = np.searchsorted(read, (0, inputs))
        return slice(int(first), int(end)), read[first:end]


@dataclass(frozen=True)
class Earlier:
    """All positions before p in raster order.

    Attributes:
        own: include p.
        above: number of rows above the row of p to include, as in local attention; None for all.
    """

    own: bool = False
    above: int | None = None

    def span(self, position: Position, size: Size) -> tuple[int, int]:
        """The positions as a range in raster order: the first one, and the one after the last."""
        y, x = position
        first = 0 if self.above is None else max(0, y - self.above)
        return first * size[1], y * size[1] + x + self.own

    def latest(self, values: Values, size: Size, nothing: int) -> Values:
        """A running maximum over all positions; with a limit, along the row and over the rows above."""
        if self.above is not None:
            whole = np.broadcast_to(values.max(-1, keepdims=True), values.shape)
            here = _running_maximum(values, self.own, nothing)
            return np.maximum(here, self._rows_above.latest(whole, size, nothing))
        line = values.reshape(*values.shape[:-2], -1)  # [..., H, W] -> [..., H*W]
        return _running_maximum(line, self.own, nothing).reshape(values.shape)

    def back(self, marked: Marks, size: Size) -> Marks:
        """All positions before the last marked one; with a limit, those of its row and of the rows above each mark."""
        if self.above is not None:
            whole = np.broadcast_to(marked.any(-1, keepdims=True), marked.shape)
            return _up_to_last(marked, self.own) | self._rows_above.back(whole, size)
        line = marked.reshape(*marked.shape[:-2], -1)  # [..., H, W] -> [..., H*W]
        return _up_to_last(line, self.own).reshape(marked.shape)

    def of(self, position: Position, size: Size) -> list[Position]:
        """The positions in raster order."""
        return [divmod(i, size[1]) for i in range(*self.span(position, size))]

    def rows(self, row: int) -> tuple[int, int]:
        """From the top, or the highest row within the limit, to this row."""
        return (0 if self.above is None else max(0, row - self.above)), row

    @property
    def _rows_above(self) -> Offsets:
        return Offsets(tuple((-dy, 0) for dy in range(1, (self.above or 0) + 1)))


@dataclass(frozen=True)
class OwnRow:
    """The positions before p in its row; with ``own`` also p."""

    own: bool = True

    def latest(self, values: Values, size: Size, nothing: int) -> Values:
        """A running maximum along each row."""
        return _running_maximum(values, self.own, nothing)

    def back(self, marked: Marks, size: Size) -> Marks:
        """In each row, all positions before the last marked one."""
        return _up_to_last(marked, self.own)

    def of(self, position: Position, size: Size) -> list[Position]:
        """From the left edge to p."""
        return [(position[0], x) for x in range(position[1] + self.own)]

    def rows(self, row: int) -> tuple[int, int]:
        """This row."""
        return row, row


@dataclass(frozen=True)
class Closure:
    """p, and all positions reached from p by any number of steps: the inputs that the state of a recurrence depends on.

    Attributes:
        steps: offsets of the states that a state is computed from. They lead up, or along the row: to the left, or
            instead to the right, as in a recurrence over the mirrored image.
    """

    steps: tuple[Position, ...]

    def __post_init__(self) -> None:
        mirrored = any(dy == 0 and dx > 0 for dy, dx in self.steps)
        if any((dy, -dx if mirrored else dx) >= (0, 0) for dy, dx in self.steps):
            raise ValueError(
                "a recurrence carries what comes before in raster order, or in that of the mirrored image, not "
                f"{self.steps}"
            )

    def latest(self, values: Values, size: Size, nothing: int) -> Values:
        """In the order of the recurrence: the largest of the value at p and those at its steps."""
        out = np.maximum(values, nothing)
        for y in range(size[0]):
            for dy, here, there in self._above(size[1]):
                if y + dy >= 0:
                    out[..., y, here] = np.maximum(out[..., y, here], out[..., y + dy, there])
            for x, other in self._beside(size[1]):
                out[..., y, x] = np.maximum(out[..., y, x], out[..., y, other])
        return out

    def back(self, marked: Marks, size: Size) -> Marks:
        """In the reverse order of the recurrence, propagate each mark to its steps."""
        out = marked.copy()
        for y in reversed(range(size[0])):
            for x, other in reversed(self._beside(size[1])):
                out[..., y, other] |= out[..., y, x]
            for dy, here, there in self._above(size[1]):
                if y + dy >= 0:
                    out[..., y + dy, there] |= out[..., y, here]
        return out

    def of(self, position: Position, size: Size) -> list[Position]:
        """The positions of the closure inside the image, in raster order."""
        mark = np.zeros(size, bool)
        mark[position] = True
        return [(int(y), int(x)) for y, x in np.argwhere(self.back(mark, size))]

    def rows(self, row: int) -> tuple[int, int]:
        """From the top to this row if a step leads up, else this row."""
        return (0 if any(dy < 0 for dy, _ in self.steps) else row), row

    def _above(self, width: int) -> list[tuple[int, slice, slice]]:
        """For each step up: its row offset, the columns of a row, and the columns that these are computed from."""
        return [
            (dy, slice(max(0, -dx), max(0, width - max(0, dx))), slice(max(0, dx), max(0, width + min(0, dx))))
            for dy, dx in self.steps
            if dy < 0
        ]

    def _beside(self, width: int) -> list[tuple[int, int]]:
        """For each step along the row: (column, the column it is computed from), in the order of the recurrence."""
        aside = [dx for dy, dx in self.steps if dy == 0]
        order = reversed(range(width)) if any(dx > 0 for dx in aside) else range(width)
        return [(x, x + dx) for x in order for dx in aside if 0 <= x + dx < width]


def _running_maximum(lines: Values, own: bool, nothing: int) -> Values:
    running = np.maximum(np.maximum.accumulate(lines, axis=-1), nothing)
    if own:
        return running
    return np.concatenate((np.full_like(running[..., :1], nothing), running[..., :-1]), axis=-1)


def _up_to_last(lines: Marks, own: bool) -> Marks:
    later: Marks = np.logical_or.accumulate(lines[..., ::-1], axis=-1)[..., ::-1]
    if own:
        return later
    return np.concatenate((later[..., 1:], np.zeros_like(later[..., :1])), axis=-1)


HERE = Offsets(((0, 0),))
"""The same position: the reads of pointwise layers."""


@dataclass(frozen=True)
class Read:
    """Which input features, at which positions, the output features read.

    Attributes:
        where: the positions.
        features: bool [out, in], true where an output feature reads an input feature; None if each reads all, "same" if
            feature i reads feature i.
        input: index of the input, for a layer with several.
    """

    where: Positions
    features: Tensor | Literal["same"] | None = None
    input: int = 0


class Kernel(NamedTuple):
    """A linear layer: out[p] = bias + sum over taps k of weight[k] applied to input[p * stride + taps[k]]."""

    taps: Sequence[Position]
    weight: Tensor
    """[taps, in, out]"""
    bias: Tensor | None
    stride: Position = (1, 1)


def box(top: int, bottom: int, left: int, right: int) -> tuple[Position, ...]:
    """All offsets of a rectangle, both ends included, row by row: ``box(-1, 1, -1, 1)`` is a 3x3 window."""
    return tuple((dy, dx) for dy in range(top, bottom + 1) for dx in range(left, right + 1))
