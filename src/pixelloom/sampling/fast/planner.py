"""The plan: what is computed at each step, where operands come from, and where results are kept.

Input: the schedule, a step for each feature at each position (:mod:`pixelloom.sampling.fast.analysis`). Output: a
:class:`Plan`, which holds for any weights, batch size and device.

*Feature groups.* The features of a node that are ready at the same steps form a group; the features of one of several
ordered channels are a group, for instance. At each step a group computes one matrix [positions, features], for the
positions of its wavefront (:mod:`pixelloom.sampling.fast.wavefronts`).

*Live ranges.* The value of a group lives in a slot until the step ends, for readers at the same positions and step. For
readers at later steps or other positions it is written to the cache of its node as well
(:mod:`pixelloom.sampling.fast.layout`). The invariant: every value that is needed is computed once, at its step, before
any reader, and is kept until its last reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pixelloom.core.types import Conditioning
from pixelloom.layers.reads import HERE, Earlier, Offsets, Positions, Values
from pixelloom.sampling.fast.analysis import NEVER, Schedule
from pixelloom.sampling.fast.ir import (
    Attention,
    Concat,
    Constant,
    Constants,
    Elementwise,
    Linear,
    Pointwise,
    Recurrence,
)
from pixelloom.sampling.fast.layout import CacheLayout, plan_layout
from pixelloom.sampling.fast.wavefronts import Columns, Sweep, shapes_of, sweep_of


@dataclass(frozen=True)
class FeatureGroup:
    """Features of a node that are computed together.

    Attributes:
        node: number of the node.
        columns: the features.
        sweep: number of the sweep in the plan.
        slot: number of the group in the plan, and of the place of its value during a step.
    """

    node: int
    columns: Columns
    sweep: int
    slot: int


class PixelGroup(NamedTuple):
    """Channels of the image that are drawn together.

    Attributes:
        sweep: number of the sweep in the plan: when each pixel is drawn.
        channels: channels of the image.
        columns: output features that parametrize their distribution.
    """

    sweep: int
    channels: tuple[int, ...]
    columns: Columns


@dataclass(frozen=True)
class Gather:
    """A read of features of another node at the reader's own positions.

    Attributes:
        node: number of the node that is read.
        columns: the features.
        slot: the slot that holds them at this step, None for the node's cache.
        within: their indices among the columns of the group in that slot.
    """

    node: int
    columns: Columns
    slot: int | None
    within: Columns | None


class Plan:
    """What to compute at each step and where to keep it, for batches of any size.

    Everything is derived from shapes: of the nodes, of the schedule, and of the conditioning. Modules are referred to
    for their weights and functions only.

    Attributes:
        feature_groups: per node, in the order of computation.
        sweeps: the distinct ones; groups refer to theirs by number.
        slots: number of feature groups.
        caches: layout per node that is read later or at other positions.
        gathers: slot -> what its group reads at its own positions.
        pixel_groups: groups of channels, in the order in which they are drawn.
        parameters: per pixel group, the read of its distribution's parameters.
        conditioned: names of the conditioning.
    """

    def __init__(self, schedule: Schedule, conditioning: Conditioning | None = None) -> None:
        self.schedule, self.nodes = schedule, schedule.flow.nodes
        self.sweeps: list[Sweep] = []
        self._numbers: dict[tuple[bytes, tuple[int, ...]], int] = {}
        self.feature_groups: list[list[FeatureGroup]] = []
        self._readers: dict[int, list[tuple[Positions, int]]] = {0: []}
        self.slots = 0
        for number in range(len(self.nodes)):
            self.feature_groups.append(self._group_features(number))
            self.slots += len(self.feature_groups[-1])
        self.pixel_groups = self._group_pixels()
        self.gathers: dict[int, list[Gather]] = {group.slot: self._gathers(group) for group in self.computed()}
        self.parameters = [self._gather(len(self.nodes) - 1, pixel.columns, pixel.sweep) for pixel in self.pixel_groups]
        self.caches = {node: self._layout(node) for node in self._readers}
        self.conditioned = frozenset(conditioning or ())
        self._conditioning = self._conditioning_per_image(Constants(conditioning))

    def computed(self) -> Iterator[FeatureGroup]:
        """All feature groups but those of the image, in the order of computation."""
        return (group for groups in self.feature_groups[1:] for group in groups)

    # Feature groups and sweeps

    def _sweep(self, ready: Values) -> int:
        """The number of a sweep; equal ones have the same."""
        key = (ready.tobytes(), ready.shape)
        if key not in self._numbers:
            self._numbers[key] = len(self.sweeps)
            self.sweeps.append(sweep_of(ready))
        return self._numbers[key]

    def _group_features(self, number: int) -> list[FeatureGroup]:
        """Merge the classes of a node that are ready at the same steps."""
        labels, ready = self.schedule.flow.labels[number], self.schedule.ready[number]
        columns_of: dict[int, list[int]] = {}
        for label, grid in enumerate(ready):  # [height, width] per class
            if (grid != NEVER).any():
                columns_of.setdefault(self._sweep(grid), []).extend(np.flatnonzero(labels == label).tolist())
        return [
            FeatureGroup(number, np.sort(columns), sweep, self.slots + i)
            for i, (sweep, columns) in enumerate(columns_of.items())
        ]

    def _group_pixels(self) -> list[PixelGroup]:
        """A pixel is drawn at the step at which its parameters are ready, one step before it can be read."""
        flow, ready = self.schedule.flow, self.schedule.ready[0]
        steps = np.where(ready == NEVER, NEVER, ready - 1)
        outputs, share = self.nodes[-1].features, self.nodes[-1].features // flow.groups
        groups = [(tuple(range(flow.shape[0])), np.arange(outputs))]
        if flow.groups > 1:
            groups = [((c,), np.arange(c * share, (c + 1) * share)) for c in range(flow.groups)]
        return [
            PixelGroup(self._sweep(steps[channels[0]]), channels, columns)
            for channels, columns in groups
            if (steps[channels[0]] != NEVER).any()
        ]

    # Reads: a gather where they lie at the reader's own positions, else a reader of the cache

    def _gathers(self, group: FeatureGroup) -> list[Gather]:
        """The gathers of a group, one per input; none where the executor reads other positions from the cache."""
        node = self.nodes[group.node]
        match node.operation:
            case Elementwise():
                # A single feature is broadcast to all.
                one = np.array([0])
                return [
                    self._gather(i, group.columns if self.nodes[i].features > 1 else one, group.sweep)
                    for i in node.inputs
                ]
            case Concat(origin):
                chosen = [origin[column] for column in group.columns]
                edges = [0, *(i for i in range(1, len(chosen)) if chosen[i][0] != chosen[i - 1][0]), len(chosen)]
                return [
                    self._gather(node.inputs[chosen[a][0]], np.array([f for _, f in chosen[a:b]]), group.sweep)
                    for a, b in pairwise(edges)
                ]
            case Pointwise():
                return [self._gather(i, self._all_columns(i), group.sweep) for i in node.inputs]
            case Linear() if all(edge.where == HERE for edge in node.edges):
                found = [(i, self._columns_read(group, i)) for i in node.inputs]
                return [self._gather(i, columns, group.sweep) for i, columns in found if len(columns)]
            case Recurrence(carried=carried):
                self._add_reader(group.node, Offsets(carried), group.sweep)
                return [self._gather(node.inputs[0], self._all_columns(node.inputs[0]), group.sweep)]
            case Attention():
                for source in node.inputs[1:]:
                    self._add_reader(source, Earlier(own=True), group.sweep)
                return [self._gather(node.inputs[0], self._all_columns(node.inputs[0]), group.sweep)]
            case _:
                for edge in node.edges:
                    self._add_reader(edge.source, edge.where, group.sweep)
                return []

    def _all_columns(self, node: int) -> Columns:
        return np.arange(self.nodes[node].features)

    def _columns_read(self, group: FeatureGroup, source: int) -> Columns:
        """The features of a source that some feature of a group reads."""
        used = np.zeros(self.nodes[source].features, bool)
        for edge in self.nodes[group.node].edges:
            used |= True if edge.features is None else edge.features.cpu().numpy()[group.columns].any(0)
        return np.flatnonzero(used)

    def _gather(self, node: int, columns: Columns, sweep: int) -> Gather:
        """Read the slot of a group with the same sweep that holds all the columns, or else the cache."""
        for group in self.feature_groups[node] if node else ():
            if group.sweep == sweep and np.isin(columns, group.columns).all():
                return Gather(node, columns, group.slot, np.searchsorted(group.columns, columns))
        self._add_reader(node, HERE, sweep)
        return Gather(node, columns, None, None)

    def _add_reader(self, node: int, where: Positions, sweep: int) -> None:
        """Give a node a cache, read at some positions by a sweep."""
        self._readers.setdefault(node, []).append((where, sweep))

    def _layout(self, number: int) -> CacheLayout:
        node = self.nodes[number]
        readers = [(where, self.sweeps[sweep]) for where, sweep in self._readers[number]]
        writers = [self.sweeps[group.sweep] for group in self.feature_groups[number]] if number else []
        return plan_layout(node.features, node.size, readers, writers, self.schedule.steps)

    # Cost

    def values_per_image(self) -> int:
        """Numbers that are stored per image, in all caches and for the conditioning."""
        caches = sum(layout.rows * layout.pitch * layout.features for layout in self.caches.values())
        return caches + self._conditioning

    @torch.no_grad()
    def _conditioning_per_image(self, constants: Constants) -> int:
        """Numbers of the conditioning as operations store it: one per feature, or a plane of the node's size."""
        held = 0
        for node in self.nodes:
            given: tuple[object, ...] = ()
            if isinstance(node.operation, Elementwise):
                given = (*node.operation.args, *node.operation.kwargs.values())
            for value in (constants.resolve(c) for c in given if isinstance(c, Constant) and c.conditioned):
                features, size = value.shape[-3], tuple(value.shape[-2:])
                held += features * (1 if size == (1, 1) else math.prod(node.size))
        return held

    def peak_values_per_image(self) -> int:
        """Numbers that all slots together hold per image at the largest step."""
        return int(self.values_per_step.max(initial=0))

    @cached_property
    def values_per_step(self) -> npt.NDArray[np.int64]:
        """Numbers that are computed per image at each step, int64 [steps]."""
        held = np.zeros(self.schedule.steps, np.int64)
        for group in self.computed():
            for step, segments in self.sweeps[group.sweep].segments.items():
                held[step] += len(group.columns) * sum(segment.n for segment in segments)
        return held

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """For each step the number of a combination of wavefront shapes: steps of the same have the same program."""
        factors = [
            factor
            for node in self.nodes
            for edge in node.edges
            if isinstance(edge.where, Offsets)
            for factor in edge.where.up
        ]
        period = math.lcm(*factors)
        found: list[list[int]] = [[] for _ in range(self.schedule.steps)]
        numbers: dict[tuple[int, ...], int] = {}
        for number, sweep in enumerate(self.sweeps):
            for step, segments in sweep.segments.items():
                if step < len(found):
                    key = shapes_of(segments, period)
                    found[step] += [number, numbers.setdefault(key, len(numbers))]
        return [tuple(step) for step in found]

    @cached_property
    def grain(self) -> float:
        """Mean multiply-adds per image of a feature group at a step: how much work one operation has."""
        products, tasks = 0, 0
        for group in self.computed():
            node, sweep = self.nodes[group.node], self.sweeps[group.sweep]
            tasks += len(sweep.segments)
            if isinstance(node.operation, Linear):
                weight = node.operation.kernel().weight
                products += int((sweep.ready != NEVER).sum()) * weight.shape[0] * weight.shape[1] * len(group.columns)
        return products / max(1, tasks)
