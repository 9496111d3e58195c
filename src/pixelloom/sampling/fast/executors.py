"""How each operation of a network is run at the positions of one step.

Values are matrices [M, features], M = positions * images, positions first; an operation's result holds the features of
one part of its node (:mod:`pixelloom.sampling.fast.planner`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.layers.reads import Earlier, Kernel, Offsets, Position, Positions
from pixelloom.sampling.fast.attention_executor import attention
from pixelloom.sampling.fast.caches import Cache, Wavefront
from pixelloom.sampling.fast.ir import (
    Attention,
    Constant,
    Constants,
    Each,
    Gathered,
    Join,
    Linear,
    Local,
    Moved,
    Node,
    Recurrence,
    Shuffle,
    Slot,
)
from pixelloom.sampling.fast.planner import Columns, FeatureGroup, Gather, Plan, Segment, runs_of

_T = TypeVar("_T")

Run: TypeAlias = Callable[[Wavefront], Tensor]
"""The value of one part at the positions of a step."""


@dataclass(frozen=True)
class Context:
    """What operations work on: caches by node, the values of the step by slot, and constants of the batch."""

    plan: Plan
    images: int
    dtype: torch.dtype
    device: torch.device
    caches: dict[int, Cache]
    values: list[Tensor | None]
    constants: Constants

    tables: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def once(self, key: tuple[Any, ...], make: Callable[[], _T]) -> _T:
        """What is made of positions alone. On CUDA it is kept, since a captured step may not copy from the host."""
        if self.device.type != "cuda":
            return make()
        if key not in self.tables:
            self.tables[key] = make()
        found: _T = self.tables[key]
        return found

    def index(self, columns: Columns) -> Tensor:
        """Feature numbers where the weights are."""
        return torch.from_numpy(columns).to(self.device)


def run_of(context: Context, part: FeatureGroup) -> Run:
    """What to run for a part, with the weights that the network has now."""
    node = context.plan.nodes[part.node]
    gathered = [gathering(context, gather) for gather in context.plan.gathers[part.slot]]
    select = _selection(part.columns, node.features)
    match node.operation:
        case Each():
            return _each(context, node.operation, part, gathered)
        case Join() if len(gathered) == 1:
            return gathered[0]
        case Join():
            return lambda wavefront: torch.cat([f(wavefront) for f in gathered], dim=1)
        case Linear() if gathered:
            return _linear_here(context, node.operation.kernel(), part, gathered[0])
        case Linear():
            return _linear(context, node, node.operation.kernel(), part)
        case Local(module=module):
            return lambda wavefront: select(module(*(f(wavefront)[:, :, None, None] for f in gathered))[:, :, 0, 0])
        case Moved(where=where):
            return _moved(context, node, where, part)
        case Shuffle(factor=factor):
            return _shuffle(context, node, factor, part)
        case Recurrence():
            return _recurrence(context, part, node.operation, gathered[0])
        case Attention():
            return _attention(context, node, node.operation, gathered[0])
        case Gathered(at=at):
            return lambda wavefront: select(at(*_gathered(context, node, wavefront)))
        case _:
            raise AssertionError(node)


def gathering(context: Context, gather: Gather) -> Run:
    """Features of another node at the same positions."""
    if gather.slot is None or gather.within is None:
        cache, runs = context.caches[gather.node], runs_of(gather.columns)
        return lambda wavefront: cache.read(wavefront, runs)
    part = next(part for part in context.plan.parts[gather.node] if part.slot == gather.slot)
    slot, select = gather.slot, _selection(gather.within, len(part.columns))

    def value(wavefront: Wavefront) -> Tensor:
        found = context.values[slot]
        assert found is not None
        return select(found)

    return value


# Functions of one feature


def _each(context: Context, operation: Each, part: FeatureGroup, gathered: list[Run]) -> Run:
    """A function of features at one position; constants are cut to the features of the part."""

    def argument(value: Any) -> Run:
        if isinstance(value, Slot):
            return gathered[value.index]
        if isinstance(value, Constant):
            return _constant(context, context.constants.of(value), part)
        return lambda wavefront: value

    args = [argument(value) for value in operation.args]
    kwargs = {name: argument(value) for name, value in operation.kwargs.items()}
    function = operation.function
    if not kwargs:
        return lambda wavefront: function(*(a(wavefront) for a in args))
    return lambda wavefront: function(
        *(a(wavefront) for a in args), **{name: a(wavefront) for name, a in kwargs.items()}
    )


def _constant(context: Context, value: Any, part: FeatureGroup) -> Run:
    """What broadcasts to [B, features, H, W], one for all images or one for each, cut to positions and features."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return lambda wavefront: value
    value = value.detach().to(context.device, context.dtype if value.is_floating_point() else None)
    value = value.reshape(*[1] * (4 - value.ndim), *value.shape)
    if len(value) not in (1, context.images):  # which would be spread over the batch in silence, or fail later
        name = context.plan.nodes[part.node].name
        raise UsageError(f"{name}: what is given is for {len(value)} images, a batch has {context.images}")
    if value.shape[1] > 1:
        value = value[:, context.index(part.columns)]
    if value.shape[2:] == (1, 1):
        rows = value.flatten(1)
        if len(rows) == 1:
            return lambda wavefront: rows[0]
        return lambda wavefront: rows.expand(wavefront.rows // len(rows), *rows.shape).flatten(0, 1)
    size = context.plan.nodes[part.node].size
    planes = value.expand(*value.shape[:2], *size).flatten(2).permute(2, 0, 1).contiguous()
    return lambda wavefront: wavefront.of(planes)


# Linear layers


def _linear_here(context: Context, kernel: Kernel, part: FeatureGroup, read: Run) -> Run:
    """A 1x1 convolution."""
    weight, bias = _weights(context, kernel, part)
    inputs = context.index(context.plan.gathers[part.slot][0].columns)
    matrix = weight[kernel.taps.index((0, 0)), inputs].contiguous()
    return lambda wavefront: _product(bias, read(wavefront), matrix)


def _linear(context: Context, node: Node, kernel: Kernel, part: FeatureGroup) -> Run:
    """Matrix products, one for each row of taps, on features where they lie."""
    weight, bias = _weights(context, kernel, part)
    rows = [
        (tap, count, slice(0, last), torch.cat((weight[taps[:-1]].flatten(0, 1), weight[taps[-1], :last])))
        for tap, count, last, taps in _runs(node, kernel, part.columns)
    ]
    if not rows:  # as the first channel of a pixel reads nothing of the pixel
        nothing = torch.zeros(weight.shape[2], dtype=context.dtype, device=context.device) if bias is None else bias
        return lambda wavefront: nothing.expand(wavefront.rows, -1)
    cache = context.caches[node.edges[0].source]

    def product(segment: Segment) -> Tensor:
        def values(number: int) -> Tensor:
            tap, count, features, _ = rows[number]
            return cache.view(segment, features, count, tap, kernel.stride).flatten(0, -2)

        out = _product(bias, values(0), rows[0][3])
        for number in range(1, len(rows)):
            out.addmm_(values(number), rows[number][3])
        return out

    return lambda wavefront: _joined([product(segment) for segment in wavefront.segments])


def _weights(context: Context, kernel: Kernel, part: FeatureGroup) -> tuple[Tensor, Tensor | None]:
    """Of the features of a part: [taps, in, out] and [out]."""
    columns = context.index(part.columns)
    weight = kernel.weight.detach().to(context.device, context.dtype)[:, :, columns]
    bias = None if kernel.bias is None else kernel.bias.detach().to(context.device, context.dtype)[columns]
    return weight, bias


# Features from other places


def _moved(context: Context, node: Node, where: Offsets, part: FeatureGroup) -> Run:
    cache, runs = context.caches[node.inputs[0]], runs_of(part.columns)
    if where.up == (1, 1):
        return lambda wavefront: cache.read(wavefront, runs, where.taps[0], where.stride)
    select = _selection(part.columns, node.features)
    return lambda wavefront: select(_gathered(context, node, wavefront)[0][:, 0])


def _shuffle(context: Context, node: Node, factor: int, part: FeatureGroup) -> Run:
    first = context.index(part.columns) * factor**2

    def run(wavefront: Wavefront) -> Tensor:
        phase = context.once(("phase", node.inputs, factor, wavefront), partial(_phases, context, wavefront, factor))
        found = _gathered(context, node, wavefront)[0][:, 0]
        values = found.view(-1, context.images, found.shape[1])
        columns = (first + phase[:, None])[:, None].expand(-1, context.images, -1)
        return values.gather(2, columns).flatten(0, 1)

    return run


def _phases(context: Context, wavefront: Wavefront, factor: int) -> Tensor:
    """Which of the features that share an input position each position takes, int64 [n]."""
    return torch.tensor([y % factor * factor + x % factor for y, x in wavefront.positions], device=context.device)


def _recurrence(context: Context, part: FeatureGroup, operation: Recurrence, read: Run) -> Run:
    own, runs, images = context.caches[part.node], runs_of(part.columns), context.images
    known: dict[tuple[Segment, ...], list[_Turn]] = {}

    def run(wavefront: Wavefront) -> Tensor:
        turns = known.get(wavefront.segments) or _turns(wavefront.positions, operation.carried)
        known[wavefront.segments] = turns
        inputs = [read(wavefront), *(own.read(wavefront, runs, tap) for tap in operation.carried)]
        if len(turns) == 1:
            return operation.step(*inputs)
        # Some of these positions carry states of others on, which are not kept yet.
        x, *before = [torch.split(rows, images) for rows in inputs]
        done: dict[int, Tensor] = {}
        for turn in turns:
            states = [
                _joined([rows[place] if (one := source[tap]) is None else done[one] for place, source in turn])
                for tap, rows in enumerate(before)
            ]
            value = operation.step(_joined([x[place] for place, _ in turn]), *states)
            done.update(zip((place for place, _ in turn), torch.split(value, images), strict=True))
        return torch.cat([done[place] for place in range(len(x))])

    return run


_Turn: TypeAlias = list[tuple[int, tuple[int | None, ...]]]
"""(number of a position, for each step the number of the one whose state it carries on, None if that is kept)"""


def _turns(positions: list[Position], carried: tuple[Position, ...]) -> list[_Turn]:
    """The positions of a wavefront in groups, each carrying on states of groups before it only."""
    number = {position: place for place, position in enumerate(positions)}
    rightmost_first = any(dy == 0 and dx > 0 for dy, dx in carried)
    depth: dict[int | None, int] = {None: -1}
    turns: list[_Turn] = []
    for y, x in sorted(positions, key=lambda p: (p[0], -p[1] if rightmost_first else p[1])):  # what is carried on first
        source = tuple(number.get((y + dy, x + dx)) for dy, dx in carried)
        place = number[y, x]
        depth[place] = 1 + max((depth[one] for one in source), default=-1)
        if depth[place] == len(turns):
            turns.append([])
        turns[depth[place]].append((place, source))
    return turns


def _attention(context: Context, node: Node, operation: Attention, query: Run) -> Run:
    keys, values = (context.caches[source] for source in node.inputs[1:])
    where = next(edge.where for edge in node.edges if edge.input)
    assert isinstance(where, Earlier)
    return attention(operation.attend, where, node.size, query, keys, values)


def _gathered(context: Context, node: Node, wavefront: Wavefront) -> list[Tensor]:
    """What is read of each input, copied out position by position, [M, N, features]; then which of it is there."""
    inputs, present = [], torch.empty(0)
    for number, source in enumerate(node.inputs):
        reads = [edge.where for edge in node.edges if edge.input == number]
        make = partial(_reads, context, reads, wavefront.positions, context.plan.nodes[source].size)
        rows, columns, present = context.once(("reads", tuple(reads), source, wavefront), make)
        inputs.append(context.caches[source].at(rows, columns, present).transpose(0, 1).flatten(0, 1))
    return [*inputs, present[:, None].expand(-1, context.images, -1).flatten(0, 1)]


def _reads(
    context: Context, reads: list[Positions], positions: list[Position], size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns that each position reads, and which of them lie inside the image, each [n, N]."""
    lists = [[q for where in reads for q in where.of(p, size)] for p in positions]
    most = max(map(len, lists))
    found = np.full((len(lists), most, 2), -1)
    for row, read in zip(found, lists, strict=True):
        row[: len(read)] = np.array(read).reshape(-1, 2)
    inside = ((found >= 0) & (found < size)).all(-1)
    rows, columns = (torch.from_numpy(found[..., i].copy()).to(context.device) for i in (0, 1))
    return rows, columns, torch.from_numpy(inside).to(context.device)


def _joined(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _product(bias: Tensor | None, values: Tensor, matrix: Tensor) -> Tensor:
    return values @ matrix if bias is None else torch.addmm(bias, values, matrix)


def _selection(columns: Columns, features: int) -> Callable[[Tensor], Tensor]:
    """Takes some columns of a matrix; all of them, or a range, without a copy."""
    if len(columns) == features and np.array_equal(columns, np.arange(features)):
        return lambda value: value
    runs = runs_of(columns)
    if len(runs) == 1:
        chosen = runs[0][0]
        return lambda value: value[:, chosen]
    return lambda value: torch.cat([value[:, run] for run, _ in runs], dim=1)


def _runs(node: Node, kernel: Kernel, columns: Columns) -> list[tuple[Position, int, int, list[int]]]:
    """Rows of neighboring taps as (first tap, number, features read at the last one, numbers of the taps).

    A tap of which only some features are read ends its row: what comes after the last of them may not be known yet.
    """
    features: dict[Position, int] = {}
    for edge in node.edges:
        assert isinstance(edge.where, Offsets)
        used = None if edge.features is None else np.flatnonzero(edge.features.cpu().numpy()[columns].any(0))
        for tap in edge.where.taps:
            whole = kernel.weight.shape[1]
            last = whole if used is None else int(used[-1]) + 1 if len(used) else 0
            features[tap] = max(features.get(tap, 0), last)
    found: list[tuple[Position, int, int, list[int]]] = []
    for number, tap in enumerate(kernel.taps):
        last = features.get(tap, 0)
        if not last:
            continue
        if found:
            first, count, before, taps = found[-1]
            if before == kernel.weight.shape[1] and tap == (first[0], first[1] + count):
                found[-1] = (first, count + 1, last, [*taps, number])
                continue
        found.append((tap, 1, last, [number]))
    return found
