"""Executors: one function per feature group, from a wavefront to the group's value [M, features].

M = positions * images, ordered by position, then image. A linear layer is one matrix product per row of taps,

    out = bias + sum over rows r of taps    view_r [M, taps_r * in] @ weight_r [taps_r * in, out]

where view_r lies in the cache (:mod:`pixelloom.sampling.fast.layout`). Elementwise functions, concatenations and 1x1
convolutions take slots of the same step. Other operations copy what they read out of the caches.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.layers.reads import Earlier, Offsets, Position, Positions
from pixelloom.sampling.fast import ir
from pixelloom.sampling.fast.attention_executor import attention
from pixelloom.sampling.fast.context import Context, Executor, Operand, calls_of, operand_of, selection
from pixelloom.sampling.fast.ir import Constant, Node
from pixelloom.sampling.fast.linear_executor import linear, pointwise_linear
from pixelloom.sampling.fast.planner import FeatureGroup, Plan
from pixelloom.sampling.fast.program import Planes
from pixelloom.sampling.fast.recorder import Calls, record
from pixelloom.sampling.fast.recurrence_executor import recurrence
from pixelloom.sampling.fast.wavefronts import Segment, Wavefront, ranges_of


def executor_of(context: Context, group: FeatureGroup) -> Executor:
    """The executor of a feature group, with the current weights of the network."""
    node = context.plan.nodes[group.node]
    operands = [operand_of(context, gather, group.sweep) for gather in context.plan.gathers[group.slot]]
    match node.operation:
        case ir.Elementwise():
            return _elementwise(context, node.operation, group, operands)
        case ir.Concat() if both_signs(context.plan, group):
            return _both_signs(context, operands[0])
        case ir.Concat():
            return _concat(operands)
        case ir.Linear() if operands:
            return pointwise_linear(context, node.operation.kernel(), group, operands[0])
        case ir.Linear():
            return linear(context, node, node.operation.kernel(), group)
        case ir.Pointwise(module=module) if hasattr(module, "of_both_signs") and len(group.columns) == node.features:
            return _of_both_signs(context, module, group, operands[0])
        case ir.Pointwise(module=module):
            return _function(context, _on_rows(module, group, node.features), module, group, operands)
        case ir.Shift(where=where):
            return _shift(context, node, where, group)
        case ir.Shuffle(factor=factor):
            return _shuffle(context, node, factor, group)
        case ir.Recurrence():
            return recurrence(context, group, node.operation, operands[0])
        case ir.Attention():
            return _attention(context, node, group, node.operation, operands[0])
        case ir.Custom(at=at):
            return _custom(context, node, group, at)
        case _:
            raise AssertionError(node)


# Functions


def _function(
    context: Context, function: Callable[..., Tensor], origin: Any, group: FeatureGroup, operands: Sequence[Operand]
) -> Executor:
    """A function of operands that calls ``origin``: its recorded calls, or itself where it cannot be recorded."""
    fixed = all(operand.fixed for operand in operands)
    recorded: dict[int, tuple[list[Tensor], Calls]] = {}

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        values = [operand.bind(wavefront, calls) for operand in operands]
        rows = wavefront.rows
        if rows not in recorded:
            inputs = values
            if not fixed:  # recorded on copies
                inputs = [
                    value
                    if operand.fixed
                    else context.buffer(("input", group.slot, i), group.sweep, rows, value.shape[1])
                    for i, (operand, value) in enumerate(zip(operands, values, strict=True))
                ]
            recorded[rows] = inputs, calls_of(context, function, origin, inputs, out)
        for own, value in zip(recorded[rows][0], values, strict=True):
            if own is not value:
                calls.append(partial(own.copy_, value))
        calls.extend(recorded[rows][1])
        return out

    return Executor(bind, fixed=fixed)


def _on_rows(module: Any, group: FeatureGroup, features: int) -> Callable[..., Tensor]:
    """A module as a function of matrices [M, features], whose value is that of a group."""
    select = selection(group.columns, features)
    rows = getattr(module, "rows", None)  # the module on [M, features]
    if rows is not None:
        return partial(_selected, select, rows)
    return partial(_selected, select, partial(_on_maps, module))


def _selected(select: Callable[[Tensor], Tensor], function: Callable[..., Tensor], *values: Tensor) -> Tensor:
    return select(function(*values))


def _on_maps(module: Callable[..., Tensor], *values: Tensor) -> Tensor:
    # The module takes and gives [M, features, 1, 1].
    return module(*(value[:, :, None, None] for value in values))[:, :, 0, 0]


def _elementwise(
    context: Context, operation: ir.Elementwise, group: FeatureGroup, operands: Sequence[Operand]
) -> Executor:
    """A function of operands and constants, which are cut to the features of the group."""
    inputs = list(operands)

    def argument(value: Any) -> Any:
        """A placeholder, or a value that is the same at all positions."""
        if not isinstance(value, Constant):
            return value
        found = _constant(context, context.constants.resolve(value), group, len(inputs))
        if not isinstance(found, Operand):
            return found
        inputs.append(found)
        return ir.Operand(len(inputs) - 1)

    args = [argument(value) for value in operation.args]
    kwargs = {name: argument(value) for name, value in operation.kwargs.items()}

    def function(*values: Tensor) -> Tensor:
        def given(value: Any) -> Any:
            return values[value.index] if isinstance(value, ir.Operand) else value

        found: Tensor = operation.function(*map(given, args), **{name: given(v) for name, v in kwargs.items()})
        return found

    examples = [torch.zeros(2, operand.features, dtype=context.dtype, device=context.device) for operand in inputs]
    recording = record(function, examples, context.scratch, operation.function)
    template = None if recording is None else recording.template(examples)
    if template is None:
        return _function(context, function, operation.function, group, inputs)

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        calls.append(template([operand.bind(wavefront, calls) for operand in inputs], out))
        return out

    return Executor(bind, fixed=all(operand.fixed for operand in inputs), strided=True)


def _constant(context: Context, value: Any, group: FeatureGroup, number: int) -> Any:
    """A constant that broadcasts to [B, features, H, W], cut to the features of a group: itself, or an operand where it
    depends on the image or the position.

    Raises:
        UsageError: for conditioning of another number of images than the batch has.
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    value = value.detach().to(context.device, context.dtype if value.is_floating_point() else None)
    value = value.reshape(*[1] * (4 - value.ndim), *value.shape)  # prepend dimensions of 1: [B or 1, F or 1, H, W]
    if len(value) not in (1, context.images):  # it could broadcast silently, or fail later
        name = context.plan.nodes[group.node].name
        raise UsageError(f"{name}: what is given is for {len(value)} images, a batch has {context.images}")
    if value.shape[1] > 1:
        value = value[:, context.index(group.columns)]
    if value.shape[2:] == (1, 1):
        rows = value.flatten(1)  # [B or 1, features, 1, 1] -> [B or 1, features]
        return rows[0] if len(rows) == 1 else Operand(_repeated(rows), fixed=True, features=rows.shape[1])
    size = context.plan.nodes[group.node].size
    # [B or 1, features, H, W] -> [B or 1, features, H * W] -> [H * W, B or 1, features]
    planes = value.expand(*value.shape[:2], *size).flatten(2).permute(2, 0, 1).contiguous()
    features, memory = planes.shape[2], Planes(planes, size[1])

    def at(wavefront: Wavefront, calls: Calls) -> Tensor:
        if wavefront.rows == context.images:  # a single position is broadcast to all images
            return memory.single(wavefront, context.binding)
        views = memory.views(wavefront, context.binding)
        out = context.buffer(("planes", group.slot, number), group.sweep, wavefront.rows, features)
        start = 0
        for view in views:
            part = out[start : start + len(view) * context.images].view(len(view), context.images, features)
            calls.append(partial(part.copy_, view))
            start += len(view) * context.images
        return out

    return Operand(at, fixed=False, features=features)


def _repeated(rows: Tensor) -> Callable[[Wavefront, Calls], Tensor]:
    """Rows [B, features] of the images at each position: [B, features] -> [positions, B, features] -> [M, features]."""
    made: dict[int, Tensor] = {}

    def value(wavefront: Wavefront, calls: Calls) -> Tensor:
        found = made.get(wavefront.rows)
        if found is None:
            found = rows.expand(wavefront.rows // len(rows), *rows.shape).flatten(0, 1)
            made[wavefront.rows] = found
        return found

    return value


def both_signs(plan: Plan, group: FeatureGroup) -> bool:
    """Whether a group is (x, -x), concatenated."""
    node, gathers = plan.nodes[group.node], plan.gathers[group.slot]
    if not isinstance(node.operation, ir.Concat) or len(gathers) != 2:
        return False
    x, negated = gathers
    source = plan.nodes[negated.node]
    negates = isinstance(source.operation, ir.Elementwise) and source.operation.function in (operator.neg, torch.neg)
    return negates and source.inputs == (x.node,) and np.array_equal(x.columns, negated.columns)


def _both_signs(context: Context, operand: Operand) -> Executor:
    """(x, -x) by one product with (1, -1)."""
    signs = torch.tensor([1, -1], dtype=context.dtype, device=context.device)[:, None, None]

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        parts = out.view(len(out), 2, operand.features).transpose(0, 1)  # [M, 2 * features] -> [2, M, features]
        calls.append(partial(torch.mul, operand.bind(wavefront, calls), signs, out=parts))
        return out

    return Executor(bind, fixed=operand.fixed)


def _of_both_signs(context: Context, module: Any, group: FeatureGroup, operand: Operand) -> Executor:
    """A function of (x, -x)."""
    both, own = _both_signs(context, operand), dict[int, Calls]()

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        rows = wavefront.rows
        value = context.buffer(("signs", group.slot), group.sweep, rows, len(group.columns))
        both.bind(wavefront, value, calls)
        if rows not in own:
            own[rows] = calls_of(context, module.of_both_signs, module.of_both_signs, [value], out)
        calls.extend(own[rows])
        return out

    return Executor(bind, fixed=operand.fixed)


def _concat(operands: Sequence[Operand]) -> Executor:
    """Values side by side; a single one is passed on."""
    fixed = all(operand.fixed for operand in operands)
    if len(operands) == 1:
        return Executor(lambda wavefront, out, calls: operands[0].bind(wavefront, calls), fixed=fixed, view=True)

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        calls.append(partial(torch.cat, [operand.bind(wavefront, calls) for operand in operands], 1, out=out))
        return out

    return Executor(bind, fixed=fixed)


# Features of other positions


def _shift(context: Context, node: Node, where: Offsets, group: FeatureGroup) -> Executor:
    """The same features at another position: a view of the cache, or a copy."""
    cache, ranges = context.caches[node.inputs[0]], ranges_of(group.columns)
    tap = where.taps[0]

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        if where.up != (1, 1):
            for part, segment, _ in _coarse(wavefront, out, where):
                for columns, indices in ranges:
                    view = cache.view3(segment, where.up, columns.start, columns.stop - columns.start)
                    calls.append(partial(part[..., indices].copy_, view))
            return out
        if len(ranges) == 1 and len(wavefront.segments) == 1:
            view = cache.view(wavefront.segments[0], ranges[0][0], 1, tap, where.stride)
            if view.ndim == 2:
                return view
        cache.reads(wavefront, ranges, out, calls, tap, where.stride)
        return out

    return Executor(bind, view=True)


def _shuffle(context: Context, node: Node, factor: int, group: FeatureGroup) -> Executor:
    """Of the r * r features per output feature, the one that the position within its input position selects."""
    cache, ranges = context.caches[node.inputs[0]], ranges_of(group.columns)
    where, count = Offsets(((0, 0),), up=(factor, factor)), factor**2

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        for part, segment, phase in _coarse(wavefront, out, where):
            for columns, indices in ranges:
                first = columns.start * count + phase[0] * factor + phase[1]
                view = cache.view3(segment, where.up, first, columns.stop - columns.start, count)
                calls.append(partial(part[..., indices].copy_, view))
        return out

    return Executor(bind)


def _coarse(wavefront: Wavefront, out: Tensor, where: Offsets) -> list[tuple[Tensor, Segment, Position]]:
    """Cut the positions of an upsampling into segments of input positions.

    Every r-th position of a segment, with r the factors' least common multiple, has the same place within its input
    position, and input positions of constant distance.

    Returns:
        Per part its rows [n, images, features] of ``out``, the segment of its input positions under the tap, and the
        place within the input position.
    """
    (up_y, up_x), (tap_y, tap_x) = where.up, where.taps[0]
    period = math.lcm(up_y, up_x)
    parts, start = [], 0
    for s in wavefront.segments:
        end = start + s.n * wavefront.images
        rows = out[start:end].view(s.n, wavefront.images, -1)  # [n * images, features] -> [n, images, features]
        for k in range(min(period, s.n)):
            y, x = s.y + k * s.dy, s.x + k * s.dx
            n = len(range(k, s.n, period))
            segment = Segment(y // up_y + tap_y, x // up_x + tap_x, s.dy * period // up_y, s.dx * period // up_x, n)
            parts.append((rows[k::period], segment, (y % up_y, x % up_x)))
        start = end
    return parts


def _custom(context: Context, node: Node, group: FeatureGroup, at: Callable[..., Tensor]) -> Executor:
    """Any function of what each position reads, which is copied out of the caches."""
    select = selection(group.columns, node.features)

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        context.unkept()
        gathers, present = [], torch.empty(0)
        for number, source in enumerate(node.inputs):
            reads = [edge.where for edge in node.edges if edge.input == number]
            make = partial(_reads, context, reads, wavefront.positions, context.plan.nodes[source].size)
            rows, columns, present = context.cached(("reads", tuple(reads), source, wavefront), make)
            gathers.append(partial(context.caches[source].gather, rows, columns, present))

        def run() -> None:
            # [images, positions, N, features] -> [M, N, features]
            inputs = [gather().transpose(0, 1).flatten(0, 1) for gather in gathers]
            # [positions, N] -> [positions, images, N] -> [M, N]
            seen = present[:, None].expand(-1, context.images, -1).flatten(0, 1)
            out.copy_(select(at(*inputs, seen)))

        calls.append(run)
        return out

    return Executor(bind)


def _reads(
    context: Context, reads: list[Positions], positions: list[Position], size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns that each position reads, and whether they lie inside the image, each [positions, N]."""
    lists = [[q for where in reads for q in where.of(p, size)] for p in positions]
    longest = max(map(len, lists))
    found = np.full((len(lists), longest, 2), -1)
    for row, read in zip(found, lists, strict=True):
        row[: len(read)] = np.array(read).reshape(-1, 2)  # [N, 2], also for N = 0
    inside = ((found >= 0) & (found < size)).all(-1)
    rows, columns = (torch.from_numpy(found[..., i].copy()).to(context.device) for i in (0, 1))
    return rows, columns, torch.from_numpy(inside).to(context.device)


def _attention(context: Context, node: Node, group: FeatureGroup, operation: ir.Attention, query: Operand) -> Executor:
    keys, values = (context.caches[source] for source in node.inputs[1:])
    where = next(edge.where for edge in node.edges if edge.input)
    assert isinstance(where, Earlier)
    return attention(context, group, operation.attend, where, node.size, query, keys, values)
