"""From a schedule to what is computed at each step, what is kept for later steps, and for how long.

Positions that are computed at the same step are cut into *segments*, in which neighbors have a constant distance: the
wavefront of a masked convolution is one such line. A *part* of a node is the features of it that are ready at the same
steps; the groups of a network with ordered channels are parts.

A part's value is handed on directly to what reads it at the same positions and step. Only what others read later, or at
other positions, is kept, in a *cache* of image rows, features last:

    address(y, image, x) = y * (images * pitch + skew) + image * pitch + x

A row of taps is contiguous in it. The margin to the left of a row is the one to the right of the row before. ``skew``
is the number of columns that a wavefront moves left from one row to the next: with it, the same position of all images
and all positions of a wavefront lie at one constant distance, and one matrix product reads them all in place.

Rows that nobody will read again are released: a cache holds twice the rows that are alive at once, and when it is full
the live ones move to its top.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pixelloom.core.types import Conditioning
from pixelloom.layers.reads import HERE, Earlier, Offsets, Positions, Values
from pixelloom.sampling.fast.analysis import NEVER, Schedule
from pixelloom.sampling.fast.ir import Attention, Constant, Constants, Each, Join, Linear, Local, Recurrence

Columns: TypeAlias = npt.NDArray[np.int64]
"""Numbers of features, ascending."""


Runs: TypeAlias = list[tuple[slice, slice]]
"""Columns as ranges of neighbors, each with the range of their places among the columns."""


@dataclass(frozen=True)
class Segment:
    """Positions (y + i dy, x + i dx) for i = 0 .. n - 1."""

    y: int
    x: int
    dy: int
    dx: int
    n: int


@dataclass(frozen=True)
class Wave:
    """When a grid of positions is computed: ``ready`` [height, width], and the segments of each step."""

    ready: Values
    segments: dict[int, tuple[Segment, ...]]

    @cached_property
    def lowest(self) -> dict[int, int]:
        """Step -> the row nearest to the bottom of the image that is computed at it."""
        return {step: max(s.y + s.dy * (s.n - 1) for s in segments) for step, segments in self.segments.items()}


@dataclass(frozen=True)
class FeatureGroup:
    """Features of a node that are computed together. ``slot`` numbers the parts of the whole plan."""

    node: int
    columns: Columns
    wave: int
    slot: int


@dataclass(frozen=True)
class Gather:
    """Features of another node at the reader's own positions: from a value of this step, or from the node's cache.

    Attributes:
        node: whose features.
        columns: which ones.
        slot: the part to take them from, None for the cache.
        within: their places among the columns of that part.
    """

    node: int
    columns: Columns
    slot: int | None
    within: Columns | None


@dataclass
class CacheLayout:
    """Where the features of a node are kept; see the head of this file."""

    features: int
    width: int
    rows: int = 0
    top: int = 0
    bottom: int = 0
    margin: int = 0
    skew: int = 0
    tokens: bool = False
    """Whether each image lies in one piece, row after row, as attention reads it; then there are no margins."""
    moves: dict[int, int] = field(default_factory=dict)
    """Step -> by how many rows the contents move up before it."""

    @property
    def pitch(self) -> int:
        """Positions from one image's row to the next image's."""
        return self.width + self.margin


def cut(positions: npt.NDArray[np.int64]) -> tuple[Segment, ...]:
    """Positions [n, 2] in raster order as few segments."""
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


def wave_of(ready: Values) -> Wave:
    """The segments of each step."""
    positions = np.argwhere(ready != NEVER)
    times = ready[ready != NEVER]
    order = np.argsort(times, kind="stable")
    steps, starts = np.unique(times[order], return_index=True)
    ends = [*starts[1:], len(order)]
    wavefronts = (positions[order[a:b]] for a, b in zip(starts, ends, strict=True))
    return Wave(ready, {int(step): cut(wavefront) for step, wavefront in zip(steps, wavefronts, strict=True)})


def runs_of(columns: Columns) -> Runs:
    """Columns as few ranges."""
    edges = [0, *(np.flatnonzero(np.diff(columns) != 1) + 1).tolist(), len(columns)]
    return [(slice(int(columns[a]), int(columns[b - 1]) + 1), slice(a, b)) for a, b in pairwise(edges)]


class Plan:
    """What to compute at each step and where to keep it, for batches of any size.

    Attributes:
        parts: of each node, in the order in which they are computed.
        waves: distinct ones; parts name theirs by number.
        caches: layout for each node that is read later or elsewhere.
        conditioned: names of what the network is conditioned on.
        pixels: for each group of channels that is drawn together, its wave, its channels and the features of the output
            that its distribution is read from.
    """

    def __init__(self, schedule: Schedule, conditioning: Conditioning | None = None) -> None:
        self.schedule, self.nodes = schedule, schedule.flow.nodes
        self.waves: list[Wave] = []
        self._numbers: dict[tuple[bytes, tuple[int, ...]], int] = {}
        self.parts: list[list[FeatureGroup]] = []
        self.caches: dict[int, CacheLayout] = {0: self._layout(0)}
        self._readers: dict[int, list[tuple[Positions, int]]] = {0: []}
        slots = 0
        for number in range(len(self.nodes)):
            self.parts.append(self._parts_of(number, slots))
            slots += len(self.parts[-1])
        self.slots = slots
        self.pixels = self._pixels()
        self.gathers: dict[int, list[Gather]] = {
            part.slot: self._gathers(part) for parts in self.parts[1:] for part in parts
        }
        self.drawn = [self.gather(len(self.nodes) - 1, columns, wave) for wave, _, columns in self.pixels]
        for node, layout in self.caches.items():
            self._lay_out(node, layout)
        self.conditioned = frozenset(conditioning or ())
        self._conditioning = self._conditioning_per_image(Constants(conditioning))

    # Parts and waves

    def _wave(self, ready: Values) -> int:
        key = (ready.tobytes(), ready.shape)
        if key not in self._numbers:
            self._numbers[key] = len(self.waves)
            self.waves.append(wave_of(ready))
        return self._numbers[key]

    def _parts_of(self, number: int, slots: int) -> list[FeatureGroup]:
        labels, ready = self.schedule.flow.labels[number], self.schedule.ready[number]
        columns_of: dict[int, list[int]] = {}
        for label, line in enumerate(ready):
            if (line != NEVER).any():
                columns_of.setdefault(self._wave(line), []).extend(np.flatnonzero(labels == label).tolist())
        return [
            FeatureGroup(number, np.sort(columns), wave, slots + i)
            for i, (wave, columns) in enumerate(columns_of.items())
        ]

    def _pixels(self) -> list[tuple[int, tuple[int, ...], Columns]]:
        """Pixels are drawn at the step at which all that predicts them is ready, one before they can be read."""
        flow, ready = self.schedule.flow, self.schedule.ready[0]
        drawn = np.where(ready == NEVER, NEVER, ready - 1)
        outputs, share = self.nodes[-1].features, self.nodes[-1].features // flow.groups
        groups = [(tuple(range(flow.shape[0])), np.arange(outputs))]
        if flow.groups > 1:
            groups = [((c,), np.arange(c * share, (c + 1) * share)) for c in range(flow.groups)]
        return [
            (self._wave(drawn[channels[0]]), channels, columns)
            for channels, columns in groups
            if (drawn[channels[0]] != NEVER).any()
        ]

    # Who reads what from where

    def _gathers(self, part: FeatureGroup) -> list[Gather]:
        """What a part reads at its own positions: one gather an input, none for what is gathered from elsewhere."""
        node = self.nodes[part.node]
        if isinstance(node.operation, Each):
            return [
                self.gather(i, part.columns if self.nodes[i].features > 1 else np.array([0]), part.wave)
                for i in node.inputs
            ]
        if isinstance(node.operation, Join):
            origins = [node.operation.origin[column] for column in part.columns]
            runs = [0, *(i for i in range(1, len(origins)) if origins[i][0] != origins[i - 1][0]), len(origins)]
            return [
                self.gather(node.inputs[origins[a][0]], np.array([f for _, f in origins[a:b]]), part.wave)
                for a, b in pairwise(runs)
            ]
        here = all(edge.where == HERE for edge in node.edges)
        if isinstance(node.operation, Local) or (isinstance(node.operation, Linear) and here):
            found = [(i, self._read_here(part, edge_source=i)) for i in node.inputs]
            return [self.gather(i, columns, part.wave) for i, columns in found if len(columns)]
        if isinstance(node.operation, Recurrence):
            self._keep(part.node, Offsets(node.operation.carried), part.wave)
            return [self.gather(node.inputs[0], self._every(node.inputs[0]), part.wave)]
        if isinstance(node.operation, Attention):
            for source in node.inputs[1:]:
                self._keep(source, Earlier(own=True), part.wave)
            return [self.gather(node.inputs[0], self._every(node.inputs[0]), part.wave)]
        for edge in node.edges:
            self._keep(edge.source, edge.where, part.wave)
        return []

    def _every(self, node: int) -> Columns:
        return np.arange(self.nodes[node].features)

    def _read_here(self, part: FeatureGroup, edge_source: int) -> Columns:
        """Features of a source that a layer at its own position reads; all of them if it is more than a kernel."""
        node, every = self.nodes[part.node], self._every(edge_source)
        if isinstance(node.operation, Local):
            return every
        used = np.zeros(len(every), bool)
        for edge in node.edges:
            used |= True if edge.features is None else edge.features.cpu().numpy()[part.columns].any(0)
        return np.flatnonzero(used)

    def gather(self, node: int, columns: Columns, wave: int) -> Gather:
        """From the part that holds all the columns and is computed in the same wave, or else from the cache."""
        for part in self.parts[node] if node else ():
            if part.wave == wave and np.isin(columns, part.columns).all():
                return Gather(node, columns, part.slot, np.searchsorted(part.columns, columns))
        self._keep(node, HERE, wave)
        return Gather(node, columns, None, None)

    def _keep(self, node: int, where: Positions, wave: int) -> None:
        self.caches.setdefault(node, self._layout(node))
        self._readers.setdefault(node, []).append((where, wave))

    def _layout(self, node: int) -> CacheLayout:
        return CacheLayout(self.nodes[node].features, self.nodes[node].size[1])

    # Caches

    def _lay_out(self, number: int, layout: CacheLayout) -> None:
        """Margins as wide as readers reach beyond the edge, and the skew of most wavefronts."""
        height, width = self.nodes[number].size
        slopes: Counter[int] = Counter()
        for where, wave in self._readers[number]:
            ready = self.waves[wave].ready
            layout.top = max(layout.top, -where.rows(0)[0])
            layout.bottom = max(layout.bottom, where.rows(len(ready) - 1)[1] - height + 1)
            if isinstance(where, Offsets):
                columns = [dx for _, dx in where.taps]
                end = (ready.shape[1] - 1) * where.stride[1] // where.up[1]
                layout.margin = max(layout.margin, -min(columns), end + max(columns) - width + 1)
            for segments in self.waves[wave].segments.values():
                for segment in segments:
                    if segment.dy == 1 and segment.n > 1:
                        slopes[-segment.dx] += segment.n
        earlier = [isinstance(where, Earlier) for where, _ in self._readers[number]]
        layout.tokens = any(earlier) and layout.margin == layout.top == layout.bottom == 0
        if slopes:
            layout.skew = max(0, slopes.most_common(1)[0][0])
        layout.rows = layout.top + height + layout.bottom
        if number and not layout.bottom and not layout.tokens:
            self._release(number, layout)

    def _release(self, number: int, layout: CacheLayout) -> None:
        """Plan a cache of twice the rows that are alive at once, and when its contents move up."""
        steps = self.schedule.steps
        last_read = np.full(layout.rows, NEVER)  # rows of the margin above the image come first
        highest = np.full(steps, NEVER)  # last row touched up to each step: a reader may meet the margin of a new row
        writers: list[tuple[Positions, int]] = [(HERE, part.wave) for part in self.parts[number]]
        for where, wave in (*self._readers[number], *writers):
            ready = self.waves[wave].ready
            reach = [(first + layout.top, last + layout.top) for first, last in map(where.rows, range(len(ready)))]
            for (first, last), line in zip(reach, ready, strict=True):
                last_read[first : last + 1] = np.maximum(last_read[first : last + 1], line.max())
            for step, row in self.waves[wave].lowest.items():
                highest[step] = max(highest[step], reach[row][1])
        highest = np.maximum.accumulate(highest)
        # The first row that somebody still touches at a step or later.
        read = last_read[None, :] >= np.arange(steps)[:, None]
        lowest = np.where(read.any(axis=1), read.argmax(axis=1), layout.rows)
        alive = int((highest - lowest + 1).max())
        if alive < 1 or 2 * alive >= layout.rows:
            return
        layout.rows, first = 2 * alive, 0
        for step in range(steps):
            if highest[step] - first >= layout.rows:
                layout.moves[step] = int(lowest[step]) - first
                first = int(lowest[step])

    def values_per_image(self) -> int:
        """Numbers that are held for one image: by all caches, and of what the network is conditioned on."""
        caches = sum(layout.rows * layout.pitch * layout.features for layout in self.caches.values())
        return caches + self._conditioning

    @torch.no_grad()
    def _conditioning_per_image(self, known: Constants) -> int:
        """Numbers of the conditioning, as operations take it: planes as large as the node, or one for each feature."""
        held = 0
        for node in self.nodes:
            given = (*node.operation.args, *node.operation.kwargs.values()) if isinstance(node.operation, Each) else ()
            for value in (known.of(c) for c in given if isinstance(c, Constant) and c.conditioned):
                features, size = value.shape[-3], tuple(value.shape[-2:])
                held += features * (1 if size == (1, 1) else math.prod(node.size))
        return held

    def values_at_once(self) -> int:
        """Numbers that the parts hold for one image at the busiest step."""
        return int(self.values_of_steps.max(initial=0))

    @cached_property
    def values_of_steps(self) -> npt.NDArray[np.int64]:
        """Numbers that the parts compute for one image at each step."""
        held = np.zeros(self.schedule.steps, np.int64)
        for part in (part for parts in self.parts[1:] for part in parts):
            for step, segments in self.waves[part.wave].segments.items():
                held[step] += len(part.columns) * sum(segment.n for segment in segments)
        return held

    @cached_property
    def grain(self) -> float:
        """Multiply-adds for one image in a part at a step, on average: how much an operation does at a time."""
        products, tasks = 0, 0
        for part in (part for parts in self.parts[1:] for part in parts):
            node, wave = self.nodes[part.node], self.waves[part.wave]
            tasks += len(wave.segments)
            if isinstance(node.operation, Linear):
                weight = node.operation.kernel().weight
                products += int((wave.ready != NEVER).sum()) * weight.shape[0] * weight.shape[1] * len(part.columns)
        return products / max(1, tasks)
