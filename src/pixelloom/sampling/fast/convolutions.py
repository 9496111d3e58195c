"""Convolutions of any origin: subclasses of ``nn.Conv2d``, ``F.conv2d``, weights with masks, hooks or parametrizations.

What they read is observed rather than declared. A copy of the network gets random weights and runs twice, and each call
of ``conv2d`` is recorded with the weights that it multiplies. An entry that is zero for all random weights is masked,
whatever the mask is called, whether it multiplies the weights in place or not, and even if it is built in ``forward``.
Masks are buffers, plain tensors, or parameters of zeros and ones that are not trained; they keep their values.

A module *is* a convolution if it calls ``conv2d`` once, on its own input, and returns the result; the values are
compared too (:meth:`Convolution.check`). Its weights at sampling time are those that another such call multiplies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pixelloom.core.errors import ModelError
from pixelloom.core.types import Conditioning
from pixelloom.layers.reads import Kernel, Offsets, Position
from pixelloom.sampling.fast.random_twin import random_twin, randomize

_DRAWS = 2  # of random weights; one of them could make a sum zero


@dataclass(frozen=True)
class Window:
    """The window of a convolution, [rows, columns] each."""

    kernel: tuple[int, int]
    stride: Position = (1, 1)
    padding: Position = (0, 0)
    dilation: Position = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, weight: Tensor, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Window:
        """The window of a call of ``conv2d``."""
        kernel, (dh, dw) = (weight.shape[2], weight.shape[3]), _pair(dilation)
        if isinstance(padding, str):
            # "same" pads dilation * (kernel - 1) in all, the larger half at the end.
            padding = (dh * (kernel[0] - 1) // 2, dw * (kernel[1] - 1) // 2) if padding == "same" else 0
        return cls(kernel, _pair(stride), _pair(padding), (dh, dw), groups)

    @property
    def taps(self) -> tuple[Position, ...]:
        """Offsets of the kernel's entries, row by row."""
        (dh, dw), (ph, pw) = self.dilation, self.padding
        return tuple((y * dh - ph, x * dw - pw) for y in range(self.kernel[0]) for x in range(self.kernel[1]))

    def dense(self, weight: Tensor) -> Tensor:
        """Weights [out, in / groups, kh, kw] -> [taps, in, out], zero between different groups."""
        taps = weight.flatten(2).permute(2, 1, 0)  # [out, in / groups, taps] -> [taps, in / groups, out]
        if self.groups == 1:
            return taps
        n, of_group, out = taps.shape
        whole = weight.new_zeros(n, self.groups * of_group, out)
        for group in range(self.groups):
            outputs = slice(group * out // self.groups, (group + 1) * out // self.groups)
            whole[:, group * of_group : (group + 1) * of_group, outputs] = taps[:, :, outputs]
        return whole


@dataclass(frozen=True)
class Convolution:
    """A convolution and the entries of its weights that are not masked.

    Attributes:
        window: positions of the kernel.
        seen: bool [out, in / groups, kh, kw], true where a weight is not masked.
    """

    window: Window
    seen: Tensor

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Convolution:
        """An ordinary convolution, without a mask."""
        window = Window.of(conv.weight, conv.stride, conv.padding, conv.dilation, conv.groups)
        return cls(window, torch.ones(conv.weight.shape, dtype=torch.bool))

    def reads(self) -> Iterator[tuple[Offsets, Tensor | None]]:
        """Positions with the features [out, in] that are read there; None if each output feature reads all."""
        patterns: dict[bytes, list[int]] = defaultdict(list)
        dense = self.window.dense(self.seen).transpose(1, 2)  # [taps, in, out] -> [taps, out, in]
        for number, features in enumerate(dense):
            if features.any():
                patterns[features.numpy().tobytes()].append(number)
        for numbers in patterns.values():
            features = dense[numbers[0]]
            where = Offsets(tuple(self.window.taps[number] for number in numbers), self.window.stride)
            yield where, None if features.all() else features.contiguous()

    def kernel(self, weight: Tensor, bias: Tensor | None) -> Kernel:
        """The taps that are read, with masked weights set to zero."""
        seen = self.seen.to(weight.device)
        dense = self.window.dense(weight if seen.all() else torch.where(seen, weight, 0))
        kept = self.seen.flatten(2).any(0).any(0).nonzero().flatten().tolist()  # [out, in, taps] -> numbers of taps
        taps = self.window.taps
        return Kernel([taps[n] for n in kept], dense[kept], bias, self.window.stride)

    def current_kernel(self, name: str, module: nn.Module, example: Tensor) -> Kernel:
        """The kernel of a module that is this convolution, from a call with zeros of the shape of an example.

        Raises:
            ModelError: if a weight that was masked is not zero any more.
        """
        with torch.no_grad(), Recorder() as recorder:
            module(torch.zeros_like(example))
        call = recorder.calls[0]
        if bool((call.weight[~self.seen.to(call.weight.device)] != 0).any()):
            raise ModelError(f"{name}: its mask has changed since the network was analyzed; make the model again")
        return self.kernel(call.weight, call.bias)

    def check(self, name: str, module: nn.Module, example: Tensor) -> None:
        """Compare a module with this convolution on a random input.

        Raises:
            ModelError: if they differ.
        """
        x = torch.rand(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
        with torch.no_grad(), Recorder() as recorder:
            out = module(x.clone())
        call, w = recorder.calls[0], self.window
        seen = self.seen.to(call.weight.device)
        padded = {"stride": w.stride, "padding": call.padding, "dilation": w.dilation, "groups": w.groups}
        expected = F.conv2d(x, torch.where(seen, call.weight, 0), call.bias, **padded)
        if not torch.allclose(out, expected, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ModelError(f"{name} ({type(module).__name__}): is not the convolution by its masked weights")


@dataclass(frozen=True)
class _Call:
    """A call of ``conv2d``, and the modules around it, outermost first."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    padding: Any
    window: Window
    out: Tensor
    within: tuple[str, ...]


class Recorder(TorchFunctionMode):
    """Records calls of ``conv2d`` in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.stack: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, and record it if it is a convolution."""
        out = func(*args, **(kwargs or {}))
        if func is F.conv2d:
            given = conv2d_arguments(args, kwargs or {})
            x, weight, bias, *window = given
            # A copy: weights that are multiplied in place have other values later.
            self.calls.append(
                _Call(x, weight.detach().clone(), bias, window[1], Window.of(weight, *window), out, tuple(self.stack))
            )
        return out


def conv2d_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Input, weight, bias, stride, padding, dilation and groups of a call of ``conv2d``."""
    names = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    return list((names | dict(zip(names, args, strict=False)) | dict(kwargs)).values())


@dataclass
class Observed:
    """The convolutions of a network's forward.

    Attributes:
        modules: path -> the convolution that a module is, see the top of this file.
        layers: path -> convolutions of the calls of a plain ``nn.Conv2d`` inside of other modules, in order.
        functions: those of other calls of ``conv2d``, in order.
    """

    modules: dict[str, Convolution] = field(default_factory=dict)
    layers: dict[str, list[Convolution]] = field(default_factory=lambda: defaultdict(list))
    functions: list[Convolution] = field(default_factory=list)


def needs_observation(network: nn.Module) -> bool:
    """Whether a network has modules of other origin than torch and this package, or convolutions with hooks."""
    return any(
        type(module).__module__.split(".")[0] not in ("torch", "pixelloom") or altered(module)
        for module in network.modules()
    )


def altered(module: nn.Module) -> bool:
    """Whether a module is a convolution with hooks, or of a subclass, whose weights may not be its ``weight``."""
    if not isinstance(module, nn.Conv2d):
        return False
    return type(module) is not nn.Conv2d or bool(module._forward_pre_hooks or module._forward_hooks)


def observe(network: nn.Module, image: Tensor, conditioning: Conditioning) -> Observed:
    """Record the convolutions of a network with random weights; nothing if it cannot be copied or run."""
    try:
        twin = random_twin(network)
        runs = []
        for seed in range(_DRAWS):
            randomize(twin, seed)
            runs.append(_record(twin, image, conditioning))
    except Exception:
        return Observed()
    first, *others = runs
    if any(len(calls) != len(first[0]) for calls, _ in others):
        return Observed()
    found = Observed()
    whole = set.intersection(*(modules for _, modules in runs))
    plain = {path for path, module in network.named_modules() if type(module) is nn.Conv2d and not altered(module)}
    declared = {path for path, module in network.named_modules() if hasattr(module, "reads")}
    for call, *again in zip(*(calls for calls, _ in runs), strict=True):
        seen = call.weight != 0
        for other in again:
            seen = seen | (other.weight != 0)
        convolution = Convolution(call.window, seen.cpu())
        owner = next((path for path in call.within if path in declared or path in whole or path in plain), None)
        if owner is None:
            found.functions.append(convolution)
        elif owner in plain:
            found.layers[owner].append(convolution)
        elif owner in whole:
            before = found.modules.setdefault(owner, convolution)
            if before.window != convolution.window or not torch.equal(before.seen, convolution.seen):
                return Observed()
    return found


def _record(network: nn.Module, image: Tensor, conditioning: Conditioning) -> tuple[list[_Call], set[str]]:
    """Run a network; returns the calls of ``conv2d``, and the paths of the modules that are convolutions."""
    recorder, whole, other = Recorder(), set[str](), set[str]()
    inputs: list[tuple[int, Any]] = []  # per module on the stack: number of earlier calls, and its input
    declared = tuple(path for path, module in network.named_modules() if hasattr(module, "reads"))

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recorder.stack.append(path)
            inputs.append((len(recorder.calls), args[0] if len(args) == 1 and not kwargs else None))

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            recorder.stack.pop()
            start, x = inputs.pop()
            calls = recorder.calls[start:]
            alone = len(calls) == 1 and calls[0].x is x and calls[0].out is out
            container = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Conv2d)
            declares = any(p == path or p.startswith(f"{path}.") for p in declared)
            (whole if alone and path and not container and not declares else other).add(path)

        return hook

    handles = []
    for path, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(enter(path), prepend=True, with_kwargs=True))
        handles.append(module.register_forward_hook(leave(path)))
    try:
        with torch.no_grad(), recorder:
            network(image, **conditioning)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.calls, whole - other


def _pair(value: Any) -> tuple[int, int]:
    """(rows, columns) of one number for both, a sequence of one, or a pair."""
    values = tuple(value) if isinstance(value, list | tuple | torch.Size) else (value,)
    return (int(values[0]), int(values[-1]))
