"""What the executors of one batch share: caches, slots, memory of results, and constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.ir import Constants
from pixelloom.sampling.fast.planner import Gather, Plan
from pixelloom.sampling.fast.program import Binding
from pixelloom.sampling.fast.recorder import Calls, Scratch, record
from pixelloom.sampling.fast.wavefronts import Columns, Wavefront, ranges_of

_T = TypeVar("_T")

Bind: TypeAlias = Callable[[Wavefront, Tensor, Calls], Tensor]
"""(wavefront, memory for the value [M, features], calls) -> the value; appends the calls that compute it."""


@dataclass(frozen=True)
class Executor:
    """Binds the calls that compute the value of a feature group.

    Attributes:
        bind: appends the calls of a wavefront.
        fixed: whether these depend on the number of rows only.
        view: whether the value is a view of an operand, without a call, instead of the memory that is given.
        strided: whether the value may be written to memory whose rows are not contiguous, and at each step anew.
    """

    bind: Bind
    fixed: bool = False
    view: bool = False
    strided: bool = False


@dataclass
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
        scratch: memory of intermediate results.
        fixed: slots whose value, at a number of rows, is always the same tensor.
        tables: index tables, see :meth:`cached`.
        binding: the program that is being bound.
    """

    plan: Plan
    images: int
    dtype: torch.dtype
    device: torch.device
    caches: dict[int, Cache]
    slots: list[Tensor | None]
    constants: Constants
    scratch: Scratch
    fixed: set[int] = field(default_factory=set)
    tables: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    binding: Binding | None = None
    _buffers: dict[Any, Tensor] = field(default_factory=dict)

    def bind(self, binding: Binding | None) -> None:
        """Record views for a program from now on, or no more."""
        self.binding = binding
        for cache in self.caches.values():
            cache.binding = binding

    def unkept(self) -> None:
        """Note that the calls of this step hold for it alone."""
        if self.binding is not None:
            self.binding.kept = False

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

    def buffer(self, key: Any, sweep: int, rows: int, features: int) -> Tensor:
        """Memory [rows, features] that stays where it is, of a group of this sweep: at most the rows of its largest
        wavefront.
        """
        whole = self._buffers.get(key)
        if whole is None:
            most = self.images * self.plan.sweeps[sweep].most
            whole = torch.zeros(most, features, dtype=self.dtype, device=self.device)
            self._buffers[key] = whole
        found = self._buffers.get((key, rows))
        if found is None:
            found = self._buffers[key, rows] = whole[:rows]
        return found


@dataclass(frozen=True)
class Operand:
    """A read at the reader's own positions.

    Attributes:
        bind: (wavefront, calls) -> the value [M, features].
        fixed: whether this is always the same tensor at a number of rows, and needs no call.
        features: number of columns of the value.
    """

    bind: Callable[[Wavefront, Calls], Tensor]
    fixed: bool
    features: int


def operand_of(context: Context, gather: Gather, sweep: int) -> Operand:
    """Features of another node at the same positions, from a slot or from its cache.

    Args:
        context: of the batch.
        gather: what is read.
        sweep: that of the reader.
    """
    features = len(gather.columns)
    if gather.slot is None or gather.within is None:
        cache, ranges = context.caches[gather.node], ranges_of(gather.columns)
        return Operand(partial(_of_cache, context, cache, ranges, sweep, gather), False, features)
    group = next(group for group in context.plan.feature_groups[gather.node] if group.slot == gather.slot)
    slot, fixed = gather.slot, gather.slot in context.fixed
    within, slots = gather.within, context.slots
    if len(within) == len(group.columns):

        def value(wavefront: Wavefront, calls: Calls) -> Tensor:
            found = slots[slot]
            assert found is not None
            return found

        return Operand(value, fixed, features)
    ranges = ranges_of(within)
    views: dict[int, Tensor] = {}

    def part(wavefront: Wavefront, calls: Calls) -> Tensor:
        found = slots[slot]
        assert found is not None
        if len(ranges) > 1:
            if not fixed:
                context.unkept()
            return _joined(context, (gather.node, gather.slot, within.tobytes()), sweep, found, ranges, calls)
        if not fixed:
            context.unkept()  # a view of a view does not move
            return found[:, ranges[0][0]]
        rows = wavefront.rows
        if rows not in views:
            views[rows] = found[:, ranges[0][0]]
        return views[rows]

    return Operand(part, fixed and len(ranges) == 1, features)


def _joined(context: Context, key: Any, sweep: int, value: Tensor, ranges: Any, calls: Calls) -> Tensor:
    """Ranges of columns of a matrix, joined."""
    out = context.buffer(("joined", sweep, key), sweep, len(value), ranges[-1][1].stop)
    calls.append(partial(torch.cat, [value[:, columns] for columns, _ in ranges], 1, out=out))
    return out


def _of_cache(
    context: Context, cache: Cache, ranges: Any, sweep: int, gather: Gather, wavefront: Wavefront, calls: Calls
) -> Tensor:
    """A view of the cache where one suffices, else a copy."""
    if len(ranges) == 1 and len(wavefront.segments) == 1:
        view = cache.view(wavefront.segments[0], ranges[0][0])
        if view.ndim == 2:
            return view
    key = ("gathered", gather.node, sweep, gather.columns.tobytes())
    out = context.buffer(key, sweep, wavefront.rows, len(gather.columns))
    cache.reads(wavefront, ranges, out, calls)
    return out


def selection(columns: Columns, features: int) -> Callable[[Tensor], Tensor]:
    """A function that selects columns of a matrix; without a copy where they are all or one range."""
    if len(columns) == features and np.array_equal(columns, np.arange(features)):
        return lambda value: value
    ranges = ranges_of(columns)
    if len(ranges) == 1:
        chosen = ranges[0][0]
        return lambda value: value[:, chosen]
    return lambda value: torch.cat([value[:, chosen] for chosen, _ in ranges], dim=1)


def calls_of(
    context: Context, function: Callable[..., Tensor], origin: Any, inputs: list[Tensor], out: Tensor
) -> Calls:
    """The calls that put the value of a function into ``out``."""
    recording = record(function, inputs, context.scratch, origin)
    if recording is None:
        return [lambda: out.copy_(function(*inputs))]
    return recording.into(out)
