"""Recorded calls: a function of tensors as a list of torch calls with preallocated results.

A step of the sampler has dozens of operations on small tensors, and most of their time is overhead: Python code around
them, views, and allocation of results. So a function is run once while a dispatch mode records what it calls. Views are
made at this time only, results get memory of their own, and what depends on weights alone is kept as a constant. What
remains is a list of bound calls such as ``torch.add(a, b, out=c)``, which is run at each step.

This is the equivalent of a CUDA graph, with its conditions: the function must call the same operations every time, and
must not look at values. A function that reads a number out of a tensor is not recorded, and is called itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Calls: TypeAlias = list[Callable[[], object]]
"""Bound calls, run in order."""

TRUSTED = (
    "torch", "pixelloom.layers", "pixelloom.networks", "pixelloom.heads", "pixelloom.models",
    "pixelloom.sampling.fast.passes", "_operator", "builtins",
)  # fmt: skip
_CHUNK = 1 << 16  # bytes
_COPIES = ("_to_copy", "clone", "contiguous")


class NotRecordable(Exception):  # noqa: N818  # not an error: the function is called itself
    """Ends a recording."""


class Scratch:
    """Memory of intermediate results. Functions share it, since each needs its own only while it runs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._chunks: list[Tensor] = []
        self._chunk, self._offset = 0, 0

    def reset(self) -> None:
        """Begin another function."""
        self._chunk, self._offset = 0, 0

    def like(self, value: Tensor) -> Tensor:
        """A tensor with the shape, strides and precision of another one."""
        extent = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True)) if value.numel() else 0
        return self.take((extent,), value.dtype).as_strided(value.shape, value.stride())

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor."""
        extent = math.prod(shape)
        size = max(64, -(-extent * dtype.itemsize // 64) * 64)  # a multiple of 64 bytes
        while self._chunk < len(self._chunks) and self._offset + size > len(self._chunks[self._chunk]):
            self._chunk, self._offset = self._chunk + 1, 0
        if self._chunk == len(self._chunks):
            self._chunks.append(torch.zeros(max(size, _CHUNK), dtype=torch.uint8, device=self.device))
        part = self._chunks[self._chunk][self._offset : self._offset + size].view(dtype)
        self._offset += size
        return part[:extent].view(*shape)


@dataclass
class Op:
    """One call.

    Attributes:
        function: the torch function.
        args: its arguments.
        kwargs: its keyword arguments, ``out`` excepted.
        outs: its results; none if it works in place.
        takes_out: whether it takes the argument ``out``, else its results are copied.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: list[Tensor] = field(default_factory=list)
    takes_out: bool = False

    def call(self, used: Sequence[Tensor] | None = None) -> Callable[[], object]:
        """The bound call; ``used`` are the results that someone reads, None for all."""
        if not self.outs:
            return partial(self.function, *self.args, **self.kwargs)
        if self.takes_out:
            return partial(self.function, *self.args, **self.kwargs, out=self.outs[0])
        return partial(_copy_results, partial(self.function, *self.args, **self.kwargs), self._pairs(used))

    def _pairs(self, used: Sequence[Tensor] | None) -> list[tuple[int, Tensor]]:
        return [(i, out) for i, out in enumerate(self.outs) if used is None or is_one_of(out, used)]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations on inputs, and on what depends on them.

    Attributes:
        moving: tensors that have other values at each run.
        ops: calls so far.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Hide nothing from torch.compile: the wrapper that does imports torch._dynamo, a second at the first call."""
        return False

    def __init__(self, inputs: Sequence[Tensor], scratch: Scratch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moving, self.scratch = list(inputs), scratch
        self.ops: list[Op] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and record it if its result may differ from run to run."""
        kwargs = kwargs or {}
        moves = any(self._moves(value) for value in _tensors((args, kwargs)))
        if func._schema.is_mutable:
            # A constant that is changed in place would be changed again by the next run.
            if not moves or not isinstance(args[0], Tensor) or not self._moves(args[0]):
                raise NotRecordable
            method = getattr(args[0], _name(func), None)
            out = func(*args, **kwargs)
            if method is None or out is not args[0]:
                raise NotRecordable
            self.ops.append(Op(method, args[1:], kwargs))
            return out
        out = func(*args, **kwargs)
        if not moves:
            return out
        results = list(_tensors(out))
        if len(results) != (len(out) if isinstance(out, tuple | list) else 1):  # as ``item``
            raise NotRecordable
        if any(result.alias_info is not None for result in func._schema.returns):
            if not all(map(self._moves, results)):  # a copy, as of ``reshape`` where autograd is off altogether
                raise NotRecordable
            return out  # views
        if len(results) > 1:
            self.moving += results
            norm = _name(func) == "native_layer_norm"
            self.ops.append(Op(torch.native_layer_norm if norm else func, args, kwargs, results))
            return out
        value = self.scratch.like(out)
        self.moving.append(value)
        self.ops.append(_with_out(func, args, kwargs, value, out))
        value.copy_(out)
        return value

    def _moves(self, value: Tensor) -> bool:
        return is_one_of(value, self.moving)


@dataclass
class Recording:
    """The calls of a function, and its result."""

    ops: list[Op]
    result: Tensor

    def calls(self) -> Calls:
        """The calls in order."""
        used = [*_tensors([(op.args, op.kwargs) for op in self.ops]), self.result]
        return [op.call(used) for op in self.ops]

    def into(self, out: Tensor) -> Calls:
        """The calls that put the result into a tensor of its shape."""
        if self.ops and any(self.result is result for result in self.ops[-1].outs) and self.ops[-1].outs:
            last = self.ops[-1]
            position = next(i for i, result in enumerate(last.outs) if result is self.result)
            outs = [*last.outs]
            outs[position] = out
            whole = Recording([*self.ops[:-1], Op(last.function, last.args, last.kwargs, outs, last.takes_out)], out)
            return whole.calls()
        return [*self.calls(), partial(out.copy_, self.result)]

    def template(self, inputs: Sequence[Tensor]) -> Callable[[Sequence[Tensor], Tensor], Callable[[], object]] | None:
        """A function (inputs, out) -> call, if the recording is a single call on the inputs themselves."""
        if len(self.ops) != 1 or not self.ops[0].takes_out or self.result is not self.ops[0].outs[0]:
            return None
        op = self.ops[0]
        places = [next((i for i, one in enumerate(inputs) if one is arg), None) for arg in op.args]
        found = [place for place in places if place is not None]
        if len(found) != len(inputs) or any(isinstance(value, list | tuple) for value in op.args):
            return None
        if op.kwargs:
            function: Callable[..., Any] = partial(op.function, **op.kwargs)
        else:
            function = op.function
        if found == list(range(len(op.args))):
            return lambda values, out: partial(function, *values, out=out)
        fixed = list(zip(places, op.args, strict=True))
        return lambda values, out: partial(function, *[a if p is None else values[p] for p, a in fixed], out=out)


def record(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], scratch: Scratch, origin: Any
) -> Recording | None:
    """Record a function of tensors whose memory stays where it is.

    Args:
        function: of the tensors.
        inputs: the tensors.
        scratch: memory of intermediate results.
        origin: the function or module that computes, which must be one of torch or of this package.

    Returns:
        None if the function cannot be recorded.
    """
    scratch.reset()
    if not _trusted(origin):
        return None
    try:
        with torch.no_grad(), _Recorder(inputs, scratch) as recorder:
            result = function(*inputs)
    except NotRecordable:
        return None
    return Recording(recorder.ops, result)


def _trusted(function: Any) -> bool:
    """Whether a function is known to call the same operations every time: those of torch and of the networks here."""
    while isinstance(function, partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    if owner is None or type(owner).__name__ == "module":
        owner = function
    module = getattr(owner, "__module__", None) or type(owner).__module__
    return module.startswith(TRUSTED)


def _with_out(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor, expected: Tensor) -> Op:
    """The call that writes a result into ``value``: by a function of torch where one gives what is expected."""
    name = _name(func)
    if name in _COPIES:
        return Op(value.copy_, (args[0],), {})
    if name == "relu":
        return Op(torch.clamp_min, (args[0], 0), {}, [value], takes_out=True)
    for home in (torch, torch._C._nn, torch.special):
        function = getattr(home, name, None)
        if function is None:
            continue
        try:
            function(*args, **kwargs, out=value)
        except (TypeError, RuntimeError):
            continue
        same = (value == expected) | (value.isnan() & expected.isnan())
        if value.shape == expected.shape and bool(same.all()):
            return Op(function, args, kwargs, [value], takes_out=True)
    return Op(func, args, kwargs, [value])


def _copy_results(run: Callable[[], Any], pairs: list[tuple[int, Tensor]]) -> None:
    """Run a function without an argument ``out``, and copy those of its results that are read."""
    results = run()
    if isinstance(results, Tensor):
        results = (results,)
    for index, out in pairs:
        out.copy_(results[index])


def _name(func: Any) -> str:
    name: str = func._schema.name.split("::")[-1]
    return name


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors inside any nesting."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def tensors_of(call: Callable[..., object]) -> Iterator[Tensor]:
    """The tensors that a bound call reads and writes, as far as it names them."""
    while isinstance(call, partial):
        yield from _tensors((call.args, call.keywords))
        call = call.func
    if isinstance(owner := getattr(call, "__self__", None), Tensor):
        yield owner


def is_one_of(value: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether a tensor shares its memory with one of others."""
    return any(value.untyped_storage() is other.untyped_storage() for other in others)
