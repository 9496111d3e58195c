"""Wavefronts: the positions of a grid that are computed at one step, cut into segments.

In a *segment*, consecutive positions have a constant distance. All wavefronts of a grid are a *sweep* over it. With
ready(y, x) = x + 4y on 28x28 pixels, the wavefront of step 50 is one segment of seven positions: (6, 26), (7, 22), ...,
(12, 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelloom.layers.reads import Position, Values
from pixelloom.sampling.fast.analysis import NEVER

Columns: TypeAlias = npt.NDArray[np.int64]
"""Numbers of features, ascending."""


Ranges: TypeAlias = list[tuple[slice, slice]]
"""Columns as contiguous ranges, each with the range of their indices among the columns."""


@dataclass(frozen=True)
class Segment:
    """Positions (y + i dy, x + i dx) for i = 0 .. n - 1."""

    y: int
    x: int
    dy: int
    dx: int
    n: int


@dataclass(frozen=True)
class Sweep:
    """The wavefronts of a grid: the step of each position, ``ready`` [height, width], and the segments of each step."""

    ready: Values
    segments: dict[int, tuple[Segment, ...]]

    @cached_property
    def most(self) -> int:
        """Number of positions of the largest wavefront."""
        return max((sum(s.n for s in segments) for segments in self.segments.values()), default=0)

    @cached_property
    def lowest(self) -> dict[int, int]:
        """Step -> largest row index of its wavefront."""
        return {step: max(s.y + s.dy * (s.n - 1) for s in segments) for step, segments in self.segments.items()}


@dataclass(frozen=True)
class Wavefront:
    """The wavefront of one step for a batch: M = positions * images rows of a matrix, ordered by position, then image.

    Attributes:
        segments: its positions.
        images: number of images of the batch.
        width: of the grid.
    """

    segments: tuple[Segment, ...]
    images: int
    width: int

    @cached_property
    def rows(self) -> int:
        """M"""
        return self.images * sum(segment.n for segment in self.segments)

    @property
    def positions(self) -> list[Position]:
        """The positions in order."""
        return [(s.y + i * s.dy, s.x + i * s.dx) for s in self.segments for i in range(s.n)]

    def gather(self, planes: Tensor) -> Tensor:
        """Read the positions of a tensor [H * W, images or 1, n] -> [M, n]."""
        found = [view.expand(-1, self.images, -1) for view in self._views(planes)]
        return (found[0] if len(found) == 1 else torch.cat(found)).flatten(0, 1)  # [positions, images, n] -> [M, n]

    def scatter(self, planes: Tensor, rows: Tensor) -> None:
        """Write [M, n] to the positions of a tensor [H * W, images, n]."""
        start = 0
        for view in self._views(planes):
            end = start + view.shape[0] * self.images
            view.copy_(rows[start:end].view(view.shape))  # [positions * images, n] -> [positions, images, n]
            start = end

    def _views(self, planes: Tensor) -> list[Tensor]:
        """Per segment a strided slice [positions, images, n]: position (y, x) is row y * width + x of the planes."""
        views = []
        for s in self.segments:
            step = max(1, s.dy * self.width + s.dx)
            first = s.y * self.width + s.x
            views.append(planes[first : first + step * (s.n - 1) + 1 : step])
        return views


def cut(positions: npt.NDArray[np.int64]) -> tuple[Segment, ...]:
    """Cut positions [n, 2] in raster order greedily into segments."""
    segments: list[Segment] = []
    start = 0
    steps = np.diff(positions, axis=0)
    while start < len(positions):
        end = start + 1
        if end < len(positions):
            differing = np.flatnonzero((steps[start:] != steps[start]).any(axis=1))
            end = start + 1 + int(differing[0]) if len(differing) else len(positions)
        (y, x), (dy, dx) = positions[start], steps[start] if end - start > 1 else (1, 0)
        segments.append(Segment(int(y), int(x), int(dy), int(dx), end - start))
        start = end
    return tuple(segments)


def sweep_of(ready: Values) -> Sweep:
    """Group the positions of a grid by step."""
    positions = np.argwhere(ready != NEVER)
    times = ready[ready != NEVER]
    order = np.argsort(times, kind="stable")
    steps, starts = np.unique(times[order], return_index=True)
    ends = [*starts[1:], len(order)][: len(starts)]  # none of a grid where nothing is computed
    wavefronts = (positions[order[a:b]] for a, b in zip(starts, ends, strict=True))
    return Sweep(ready, {int(step): cut(wavefront) for step, wavefront in zip(steps, wavefronts, strict=True)})


def shapes_of(segments: tuple[Segment, ...], period: int) -> tuple[int, ...]:
    """Segments relative to the first position, and the place of that position in a period."""
    first = segments[0]
    found = [first.y % period, first.x % period]
    for s in segments:
        found += [s.y - first.y, s.x - first.x, s.dy, s.dx, s.n]
    return tuple(found)


def ranges_of(columns: Columns) -> Ranges:
    """Columns as few contiguous ranges: [2, 3, 7] is [(2:4, 0:2), (7:8, 2:3)]."""
    edges = [0, *(np.flatnonzero(np.diff(columns) != 1) + 1).tolist(), len(columns)]
    return [(slice(int(columns[a]), int(columns[b - 1]) + 1), slice(a, b)) for a, b in pairwise(edges)]
