"""Executors: one function per feature group, from a wavefront to the group's value [M, features].

M = positions * images, ordered by position, then image. A linear layer is one matrix product per row of taps,

    out = bias + sum over rows r of taps    view_r [M, taps_r * in] @ weight_r [taps_r * in, out]

where view_r lies in the cache (:mod:`pixelloom.sampling.fast.layout`). Elementwise functions, concatenations and 1x1
convolutions take slots of the same step. Other operations copy what they read out of the caches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.layers.reads import Earlier, Kernel, Offsets, Position, Positions
from pixelloom.sampling.fast import ir
from pixelloom.sampling.fast.attention_executor import attention
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.ir import Constant, Constants, Node, Operand
from pixelloom.sampling.fast.planner import FeatureGroup, Gather, Plan
from pixelloom.sampling.fast.recurrence_executor import recurrence
from pixelloom.sampling.fast.wavefronts import Columns, Segment, Wavefront, ranges_of

_T = TypeVar("_T")

Executor: TypeAlias = Callable[[Wavefront], Tensor]
"""Computes the value of a feature group at the positions of a wavefront, [M, features]."""


@dataclass(frozen=True)
class Context:
    """The state that the executors of one batch share.

    Attributes:
        plan: what is executed.
        images: batch size.
        dtype: of the features.
        device: of the features.
        caches: by node.
        slots: values of the step, by slot.
        constants: values of the batch's constants.
        tables: index tables, see :meth:`cached`.
    """

    plan: Plan
    images: int
    dtype: torch.dtype
    device: torch.device
    caches: dict[int, Cache]
    slots: list[Tensor | None]
    constants: Constants
    tables: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def cached(self, key: tuple[Any, ...], make: Callable[[], _T]) -> _T:
        """An index table that depends on positions alone. CUDA keeps it: a captured graph cannot copy from the host."""
        if self.device.type != "cuda":
            return make()
        if key not in self.tables:
            self.tables[key] = make()
        found: _T = self.tables[key]
        return found

    def index(self, columns: Columns) -> Tensor:
        """Feature numbers on the device of the weights."""
        return torch.from_numpy(columns).to(self.device)


def executor_of(context: Context, group: FeatureGroup) -> Executor:
    """The executor of a feature group, with the current weights of the network."""
    node = context.plan.nodes[group.node]
    operands = [gather_executor(context, gather) for gather in context.plan.gathers[group.slot]]
    select = _selection(group.columns, node.features)
    match node.operation:
        case ir.Elementwise():
            return _elementwise(context, node.operation, group, operands)
        case ir.Concat() if len(operands) == 1:
            return operands[0]
        case ir.Concat():
            return lambda wavefront: torch.cat([f(wavefront) for f in operands], dim=1)
        case ir.Linear() if operands:
            return _pointwise_linear(context, node.operation.kernel(), group, operands[0])
        case ir.Linear():
            return _linear(context, node, node.operation.kernel(), group)
        case ir.Pointwise(module=module):
            rows: Any = getattr(module, "rows", None)  # the module on [M, features]
            if rows is not None:
                return lambda wavefront: select(rows(*(f(wavefront) for f in operands)))
            # The module takes and gives [M, features, 1, 1].
            return lambda wavefront: select(module(*(f(wavefront)[:, :, None, None] for f in operands))[:, :, 0, 0])
        case ir.Shift(where=where):
            return _shift(context, node, where, group)
        case ir.Shuffle(factor=factor):
            return _shuffle(context, node, factor, group)
        case ir.Recurrence():
            return _recurrence(context, group, node.operation, operands[0])
        case ir.Attention():
            return _attention(context, node, node.operation, operands[0])
        case ir.Custom(at=at):
            return lambda wavefront: select(at(*_gather_reads(context, node, wavefront)))
        case _:
            raise AssertionError(node)


def gather_executor(context: Context, gather: Gather) -> Executor:
    """Features of another node at the same positions, from a slot or from its cache."""
    if gather.slot is None or gather.within is None:
        cache, ranges = context.caches[gather.node], ranges_of(gather.columns)
        return lambda wavefront: cache.read(wavefront, ranges)
    group = next(group for group in context.plan.feature_groups[gather.node] if group.slot == gather.slot)
    slot, select = gather.slot, _selection(gather.within, len(group.columns))

    def value(wavefront: Wavefront) -> Tensor:
        found = context.slots[slot]
        assert found is not None
        return select(found)

    return value


# Elementwise functions


def _elementwise(
    context: Context, operation: ir.Elementwise, group: FeatureGroup, operands: list[Executor]
) -> Executor:
    """A function of operands and constants, which are cut to the features of the group."""

    def argument(value: Any) -> Executor:
        if isinstance(value, Operand):
            return operands[value.index]
        if isinstance(value, Constant):
            return _constant(context, context.constants.resolve(value), group)
        return lambda wavefront: value

    args = [argument(value) for value in operation.args]
    kwargs = {name: argument(value) for name, value in operation.kwargs.items()}
    function = operation.function
    if not kwargs:
        return lambda wavefront: function(*(a(wavefront) for a in args))
    return lambda wavefront: function(
        *(a(wavefront) for a in args), **{name: a(wavefront) for name, a in kwargs.items()}
    )


def _constant(context: Context, value: Any, group: FeatureGroup) -> Executor:
    """A constant that broadcasts to [B, features, H, W], cut to the features of a group and to each wavefront.

    Raises:
        UsageError: for conditioning of another number of images than the batch has.
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return lambda wavefront: value
    value = value.detach().to(context.device, context.dtype if value.is_floating_point() else None)
    value = value.reshape(*[1] * (4 - value.ndim), *value.shape)  # prepend dimensions of 1: [B or 1, F or 1, H, W]
    if len(value) not in (1, context.images):  # it could broadcast silently, or fail later
        name = context.plan.nodes[group.node].name
        raise UsageError(f"{name}: what is given is for {len(value)} images, a batch has {context.images}")
    if value.shape[1] > 1:
        value = value[:, context.index(group.columns)]
    if value.shape[2:] == (1, 1):
        rows = value.flatten(1)  # [B or 1, features, 1, 1] -> [B or 1, features]
        if len(rows) == 1:
            return lambda wavefront: rows[0]
        # [B, features] -> [positions, B, features] -> [M, features]
        return lambda wavefront: rows.expand(wavefront.rows // len(rows), *rows.shape).flatten(0, 1)
    size = context.plan.nodes[group.node].size
    # [B or 1, features, H, W] -> [B or 1, features, H * W] -> [H * W, B or 1, features]
    planes = value.expand(*value.shape[:2], *size).flatten(2).permute(2, 0, 1).contiguous()
    return lambda wavefront: wavefront.gather(planes)


# Linear layers


def _pointwise_linear(context: Context, kernel: Kernel, group: FeatureGroup, operand: Executor) -> Executor:
    """A 1x1 convolution: one matrix product on a slot."""
    weight, bias = _weights(context, kernel, group)
    inputs = context.index(context.plan.gathers[group.slot][0].columns)
    matrix = weight[kernel.taps.index((0, 0)), inputs].contiguous()  # [taps, in, out] -> [in, out]
    return lambda wavefront: _affine(bias, operand(wavefront), matrix)


def _linear(context: Context, node: Node, kernel: Kernel, group: FeatureGroup) -> Executor:
    """A convolution: matrix products of views of the cache, one per row of taps."""
    weight, bias = _weights(context, kernel, group)
    # Per row of taps, [(taps - 1) * in + features, out]: all features of the taps but for the last one.
    rows = [
        (row, torch.cat((weight[row.indices[:-1]].flatten(0, 1), weight[row.indices[-1], : row.features])))
        for row in _tap_rows(node, kernel, group.columns)
    ]
    if not rows:  # as in the first of ordered channels, which reads nothing of its own pixel
        zero = torch.zeros(weight.shape[2], dtype=context.dtype, device=context.device) if bias is None else bias
        return lambda wavefront: zero.expand(wavefront.rows, -1)
    cache = context.caches[node.edges[0].source]

    def product(segment: Segment) -> Tensor:
        def operand(row: _TapRow) -> Tensor:
            view = cache.view(segment, slice(0, row.features), len(row.indices), row.first, kernel.stride)
            return view.flatten(0, -2)  # [n, images, k] or [n * images, k] -> [n * images, k]

        (row, matrix), *others = rows
        out = _affine(bias, operand(row), matrix)
        for row, matrix in others:
            out.addmm_(operand(row), matrix)
        return out

    return lambda wavefront: _concat([product(segment) for segment in wavefront.segments])


def _weights(context: Context, kernel: Kernel, group: FeatureGroup) -> tuple[Tensor, Tensor | None]:
    """Weight [taps, in, out] and bias [out] of the output features of a group."""
    columns = context.index(group.columns)
    weight = kernel.weight.detach().to(context.device, context.dtype)[:, :, columns]
    bias = None if kernel.bias is None else kernel.bias.detach().to(context.device, context.dtype)[columns]
    return weight, bias


class _TapRow(NamedTuple):
    """Horizontally adjacent taps, whose features are contiguous in the cache.

    Attributes:
        first: offset of the first tap.
        features: number of features that are read at the last tap; at the others, all.
        indices: of the taps in the kernel.
    """

    first: Position
    features: int
    indices: list[int]


def _tap_rows(node: Node, kernel: Kernel, columns: Columns) -> list[_TapRow]:
    """The taps that some columns read, in rows.

    A tap of which only the first features are read ends its row, as the features after them may not be ready yet. With
    3x3 taps of type B and one channel: (-1, -1 .. 1) and (0, -1 .. 0).
    """
    whole = kernel.weight.shape[1]
    features: dict[Position, int] = {}
    for edge in node.edges:
        assert isinstance(edge.where, Offsets)
        used = None if edge.features is None else np.flatnonzero(edge.features.cpu().numpy()[columns].any(0))
        last = whole if used is None else int(used[-1]) + 1 if len(used) else 0
        for tap in edge.where.taps:
            features[tap] = max(features.get(tap, 0), last)
    rows: list[_TapRow] = []
    for index, tap in enumerate(kernel.taps):
        last = features.get(tap, 0)
        if not last:
            continue
        if rows:
            first, before, indices = rows[-1]
            if before == whole and tap == (first[0], first[1] + len(indices)):
                rows[-1] = _TapRow(first, last, [*indices, index])
                continue
        rows.append(_TapRow(tap, last, [index]))
    return rows


# Features of other positions


def _shift(context: Context, node: Node, where: Offsets, group: FeatureGroup) -> Executor:
    """The same features at another position: a view of the cache, or, when upsampling, a copy."""
    cache, ranges = context.caches[node.inputs[0]], ranges_of(group.columns)
    if where.up == (1, 1):
        return lambda wavefront: cache.read(wavefront, ranges, where.taps[0], where.stride)
    select = _selection(group.columns, node.features)
    return lambda wavefront: select(_gather_reads(context, node, wavefront)[0][:, 0])


def _shuffle(context: Context, node: Node, factor: int, group: FeatureGroup) -> Executor:
    """Of the r * r features per output feature, the one that the position within its input position selects."""
    first = context.index(group.columns) * factor**2  # [features]

    def run(wavefront: Wavefront) -> Tensor:
        phase = context.cached(("phase", node.inputs, factor, wavefront), partial(_phases, context, wavefront, factor))
        found = _gather_reads(context, node, wavefront)[0][:, 0]
        values = found.view(-1, context.images, found.shape[1])  # [M, in] -> [positions, images, in]
        # [features] + [positions, 1] -> [positions, images, features]
        columns = (first + phase[:, None])[:, None].expand(-1, context.images, -1)
        return values.gather(2, columns).flatten(0, 1)  # [positions, images, features] -> [M, features]

    return run


def _phases(context: Context, wavefront: Wavefront, factor: int) -> Tensor:
    """Index of each position among the r * r positions that share an input position, int64 [positions]."""
    return torch.tensor([y % factor * factor + x % factor for y, x in wavefront.positions], device=context.device)


def _gather_reads(context: Context, node: Node, wavefront: Wavefront) -> list[Tensor]:
    """Copy what each position reads: per input [M, N, features], and at last bool [M, N], whether a read exists."""
    inputs, present = [], torch.empty(0)
    for number, source in enumerate(node.inputs):
        reads = [edge.where for edge in node.edges if edge.input == number]
        make = partial(_reads, context, reads, wavefront.positions, context.plan.nodes[source].size)
        rows, columns, present = context.cached(("reads", tuple(reads), source, wavefront), make)
        found = context.caches[source].gather(rows, columns, present)  # [images, positions, N, features]
        inputs.append(found.transpose(0, 1).flatten(0, 1))  # -> [M, N, features]
    # [positions, N] -> [positions, images, N] -> [M, N]
    return [*inputs, present[:, None].expand(-1, context.images, -1).flatten(0, 1)]


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


# Recurrences and attention


def _recurrence(context: Context, group: FeatureGroup, operation: ir.Recurrence, operand: Executor) -> Executor:
    states = context.caches[group.node]
    return recurrence(operation.step, operation.carried, operand, states, ranges_of(group.columns))


def _attention(context: Context, node: Node, operation: ir.Attention, query: Executor) -> Executor:
    keys, values = (context.caches[source] for source in node.inputs[1:])
    where = next(edge.where for edge in node.edges if edge.input)
    assert isinstance(where, Earlier)
    return attention(operation.attend, where, node.size, query, keys, values)


# Matrices


def _concat(rows: list[Tensor]) -> Tensor:
    """Concatenate rows; without a copy where there is nothing to join."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _affine(bias: Tensor | None, values: Tensor, matrix: Tensor) -> Tensor:
    """values @ matrix + bias"""
    return values @ matrix if bias is None else torch.addmm(bias, values, matrix)


def _selection(columns: Columns, features: int) -> Callable[[Tensor], Tensor]:
    """A function that selects columns of a matrix; without a copy where they are all or one range."""
    if len(columns) == features and np.array_equal(columns, np.arange(features)):
        return lambda value: value
    ranges = ranges_of(columns)
    if len(ranges) == 1:
        chosen = ranges[0][0]
        return lambda value: value[:, chosen]
    return lambda value: torch.cat([value[:, chosen] for chosen, _ in ranges], dim=1)
