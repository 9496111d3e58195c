"""Batching: schedules of fewer, larger wavefronts, which cost fewer operations for the same products.

The earliest schedule computes each feature as soon as it can. A layer of a stack that reads only rows above then
computes a position or two at every step, although its values are first needed when the next row is drawn. So features
wait until some of their node are due, and are computed in one wavefront:

    due(node, p)    = min over readers q of step(reader, q)
    step(node, p)   = the last trigger at or before due(node, p)

where the triggers of a row of a node are as few steps as possible such that every position of the row has one in
ready .. due. They are found greedily: in the order of ``due``, a position without a trigger since its ``ready`` gets
one at its ``due``.

Pixels in raster order, one after the other, take more steps than the earliest schedule, but then such a stack computes
whole rows, and at most steps it has nothing to do. The schedule is chosen by the number of operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from pixelloom.layers.reads import HERE, Earlier, Offsets, Position, Positions, Size, Values
from pixelloom.sampling.fast import ir
from pixelloom.sampling.fast.analysis import NEVER, Schedule

_LATE = np.iinfo(np.int64).max
# Operations of a node at a step, counted roughly.
_OPERATIONS = {ir.Linear: 3, ir.Pointwise: 3, ir.Recurrence: 14, ir.Attention: 8, ir.Custom: 20, ir.Concat: 0}
_PER_STEP = 20  # operations to draw the pixels
_RASTER = 1.25  # operations on one position cost less, and their steps have few different shapes


def batched(earliest: Schedule) -> Schedule:
    """The schedule of the lowest cost: the earliest one, or one of those at the top of this file."""
    raster = _late(_in_raster_order(earliest))
    best = min([earliest, _late(earliest)], key=operations)
    cost, least = operations(raster), operations(best)
    idle = cost * best.steps < 0.9 * least * raster.steps  # a step has less to do
    return raster if idle and cost <= _RASTER * least else best


def operations(schedule: Schedule) -> int:
    """The number of operations of all steps, roughly."""
    total = _PER_STEP * schedule.steps
    for node, ready in zip(schedule.flow.nodes[1:], schedule.ready[1:], strict=True):
        steps = {grid.tobytes(): len(np.unique(grid[grid != NEVER])) for grid in ready}  # one group per distinct grid
        total += _OPERATIONS.get(type(node.operation), 1) * sum(steps.values())
    return total


def _in_raster_order(earliest: Schedule) -> Schedule:
    """The schedule that draws one pixel after the other; of ordered channels, one channel after the other."""
    flow, known = earliest.flow, earliest.ready[0] == NEVER
    if flow.groups > 1:
        rank = np.cumsum(~known.transpose(1, 2, 0)).reshape(*flow.shape[1:], flow.shape[0]).transpose(2, 0, 1)
    else:
        rank = np.broadcast_to(np.cumsum(~known[0]).reshape(flow.shape[1:]), flow.shape)
    pixels = np.where(known, 0, rank)  # read from the step after they are drawn on
    found = flow.forward(pixels, 0)
    ready = [np.where(needed == NEVER, NEVER, new) for needed, new in zip(earliest.ready, found, strict=True)]
    return replace(earliest, ready=ready, steps=max(1, int(pixels.max())) if earliest.steps else 0)


def _late(schedule: Schedule) -> Schedule:
    """Each feature when it is due or before, together with others of its class."""
    flow, ready = schedule.flow, schedule.ready
    due = [np.full_like(grid, _LATE) for grid in ready]
    for channel, classes in enumerate(flow.output_classes()):
        drawn = np.where(ready[0][channel] == NEVER, _LATE, ready[0][channel] - 1)
        due[-1][classes] = np.minimum(due[-1][classes], drawn)
    steps: list[Values] = [ready[0]] * len(ready)
    known: dict[tuple[Positions, bytes, Size], Values] = {}
    for number in range(len(ready) - 1, 0, -1):
        operation = flow.nodes[number].operation
        recurrent = isinstance(operation, ir.Recurrence)
        of_class = partial(_of_states, operation.carried) if isinstance(operation, ir.Recurrence) else _triggers
        steps[number] = np.stack([of_class(r, d) for r, d in zip(ready[number], due[number], strict=True)])
        for grid, reads in zip(steps[number], flow.sources[number], strict=True):
            for read in reads:
                where = HERE if recurrent else read.where  # a state reads the input at its own position
                key = where, grid.tobytes(), flow.nodes[read.node].size
                if key not in known:
                    known[key] = _first_reader(where, grid, flow.nodes[read.node].size)
                for one in read.classes:
                    np.minimum(due[read.node][one], known[key], out=due[read.node][one])
    return replace(schedule, ready=steps)


def _triggers(ready: Values, due: Values) -> Values:
    """The steps of the features of a class, [height, width]."""
    out, due = ready.copy(), np.where(due == _LATE, ready, due)
    for row, needed in enumerate(ready != NEVER):
        first, last = ready[row, needed], due[row, needed]
        triggers = [NEVER]
        order = np.argsort(last, kind="stable")
        for begin, end in zip(first[order].tolist(), last[order].tolist(), strict=True):
            if begin > triggers[-1]:
                triggers.append(end)
        out[row, needed] = np.array(triggers)[np.searchsorted(triggers, last, side="right") - 1]
    return out


def _of_states(carried: Sequence[Position], ready: Values, due: Values) -> Values:
    """The steps of states, which are due before those that carry them on, [height, width]."""
    never = due == _LATE  # nobody reads them: last
    last = max(int(due[~never].max(initial=0)), int(ready.max()))
    out, due = ready.copy(), np.where(never, last, due)
    height, width = ready.shape
    for y in reversed(range(height)):
        for dx in (dx for dy, dx in carried if dy == 0):
            order = range(width) if dx > 0 else reversed(range(width))  # readers first
            for x in order:
                if ready[y, x] != NEVER and 0 <= x + dx < width:
                    due[y, x + dx] = min(due[y, x + dx], due[y, x])
        out[y] = _triggers(ready[y : y + 1], due[y : y + 1])[0]
        for dy, dx in carried:
            if dy < 0 <= y + dy:
                for x in range(max(0, -dx), min(width, width - dx)):
                    if ready[y, x] != NEVER:
                        due[y + dy, x + dx] = min(due[y + dy, x + dx], out[y, x])
    return out


def _first_reader(where: Positions, steps: Values, size: Size) -> Values:
    """For each input position, the first step at which a position that reads it is computed; [size]."""
    steps = np.where(steps == NEVER, _LATE, steps)
    out = np.full(size, _LATE)
    if isinstance(where, Offsets):
        for dy, dx in where.taps:
            to_rows, rows = where._pairs(0, dy, steps.shape[0], size[0])
            to_columns, columns = where._pairs(1, dx, steps.shape[1], size[1])
            np.minimum.at(out, (rows[:, None], columns), steps[to_rows, to_columns])
        return out
    if isinstance(where, Earlier):
        flat = out.reshape(-1)  # [H, W] -> [H * W]
        for index, step in enumerate(steps.ravel().tolist()):
            first, end = where.span(divmod(index, size[1]), size)
            np.minimum(flat[first:end], step, out=flat[first:end])
        return out
    for position in np.ndindex(*steps.shape):
        for y, x in where.of(position, size):
            out[y, x] = min(out[y, x], steps[position])
    return out
