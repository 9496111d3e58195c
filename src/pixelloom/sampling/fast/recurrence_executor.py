"""A recurrence at the positions of a wavefront: their inputs, and the states that they carry on.

A state depends on the states at the offsets ``carried``, such as (0, -1) along a row. Where those lie in earlier
wavefronts, they are in the cache, and one call of ``step`` computes the whole wavefront. Where some lie in the same
wavefront, as when inputs of a whole row are ready together, the positions are sorted into topological levels,

    level(p) = 1 + max over carried offsets d with p + d in the wavefront of level(p + d),    0 where there are none

and ``step`` is called once per level, whose states are written to the cache before the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pixelloom.layers.reads import Position
from pixelloom.sampling.fast import ir
from pixelloom.sampling.fast.context import Context, Executor, Operand, calls_of
from pixelloom.sampling.fast.planner import FeatureGroup
from pixelloom.sampling.fast.recorder import Calls
from pixelloom.sampling.fast.wavefronts import Segment, Wavefront, cut, ranges_of

Level: TypeAlias = list[tuple[int, tuple[int | None, ...]]]
"""(index of a position, for each carried offset the index of the position there, None if its state is in the cache)"""


def recurrence(context: Context, group: FeatureGroup, operation: ir.Recurrence, operand: Operand) -> Executor:
    """The executor of a recurrence: ``step`` for one level after the other, which find earlier states in the cache."""
    step, carried = operation.step, operation.carried
    states, ranges, features = context.caches[group.node], ranges_of(group.columns), len(group.columns)
    levels_of: dict[tuple[Segment, ...], list[tuple[Wavefront, list[int]]]] = {}
    recorded: dict[int, tuple[list[Tensor], Calls, Tensor]] = {}
    whole: dict[int, Calls] = {}

    def levels(wavefront: Wavefront) -> list[tuple[Wavefront, list[int]]]:
        """Per level its positions in raster order, and their indices in the wavefront."""
        if wavefront.segments not in levels_of:
            positions = wavefront.positions
            found = []
            for level in topological_levels(positions, carried):
                order = sorted((index for index, _ in level), key=lambda index: positions[index])
                segments = cut(np.array([positions[index] for index in order]))
                found.append((Wavefront(segments, wavefront.images, wavefront.width), order))
            levels_of[wavefront.segments] = found
        return levels_of[wavefront.segments]

    def inputs_of(rows: int) -> list[Tensor]:
        widths = [operand.features, *(features for _ in carried)]
        return [context.buffer(("input", group.slot, i), group.sweep, rows, width) for i, width in enumerate(widths)]

    def recording(rows: int) -> tuple[list[Tensor], Calls, Tensor]:
        """The inputs of ``step`` for a level, its calls, and its value."""
        if rows not in recorded:
            inputs = inputs_of(rows)
            value = context.buffer(("state", group.slot), group.sweep, rows, features)
            recorded[rows] = inputs, calls_of(context, step, step, inputs, value), value
        return recorded[rows]

    def bind_whole(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        x, (own, *before) = operand.bind(wavefront, calls), inputs_of(wavefront.rows)
        if not operand.fixed:
            calls.append(partial(own.copy_, x))
            x = own
        for state, offset in zip(before, carried, strict=True):
            states.reads(wavefront, ranges, state, calls, offset)
        if wavefront.rows not in whole:
            whole[wavefront.rows] = calls_of(context, step, step, [x, *before], out)
        calls.extend(whole[wavefront.rows])
        return out

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        found = levels(wavefront)
        if len(found) == 1:
            return bind_whole(wavefront, out, calls)
        x = operand.bind(wavefront, calls)
        if not operand.fixed:  # a view of a cache moves, but its rows would not
            whole_x = context.buffer(("inputs", group.slot), group.sweep, wavefront.rows, operand.features)
            calls.append(partial(whole_x.copy_, x))
            x = whole_x
        for level, order in found:
            inputs, own, value = recording(level.rows)
            _copy_rows(x, order, context.images, inputs[0], calls)
            for state, offset in zip(inputs[1:], carried, strict=True):
                states.reads(level, ranges, state, calls, offset)
            calls.extend(own)
            states.writes(level, ranges, value, calls)
            _copy_back(value, order, context.images, out, calls)
        return out

    return Executor(bind)


def _copy_rows(value: Tensor, order: Sequence[int], images: int, out: Tensor, calls: Calls) -> None:
    """Copy the rows of some positions."""
    first, last = order[0], order[-1]
    if list(order) == list(range(first, last + 1)):
        calls.append(partial(out.copy_, value[first * images : (last + 1) * images]))
        return
    # [M, features] -> [positions, images, features]
    index = torch.tensor(order, device=value.device)
    whole, part = (rows.view(len(rows) // images, images, -1) for rows in (value, out))
    calls.append(partial(torch.index_select, whole, 0, index, out=part))


def _copy_back(value: Tensor, order: Sequence[int], images: int, out: Tensor, calls: Calls) -> None:
    """Copy rows to those of some positions."""
    for number, index in enumerate(order):
        part = value[number * images : (number + 1) * images]
        calls.append(partial(out[index * images : (index + 1) * images].copy_, part))


def topological_levels(positions: list[Position], carried: tuple[Position, ...]) -> list[Level]:
    """Topological levels of the positions of a wavefront: each carries states of earlier levels only."""
    index = {position: i for i, position in enumerate(positions)}
    mirrored = any(dy == 0 and dx > 0 for dy, dx in carried)
    depth: dict[int | None, int] = {None: -1}
    levels: list[Level] = []
    for y, x in sorted(positions, key=lambda p: (p[0], -p[1] if mirrored else p[1])):  # in the order of the recurrence
        sources = tuple(index.get((y + dy, x + dx)) for dy, dx in carried)
        own = index[y, x]
        depth[own] = 1 + max((depth[one] for one in sources), default=-1)
        if depth[own] == len(levels):
            levels.append([])
        levels[depth[own]].append((own, sources))
    return levels
