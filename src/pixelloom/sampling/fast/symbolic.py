"""The symbolic tracer: torch.fx's, made safe for threads, which records layers that declare their reads as nodes."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import fx, nn

from pixelloom.layers.compiled import uncompiled
from pixelloom.sampling.fast.convolutions import Observed, altered
from pixelloom.sampling.fast.op_registry import INPLACE


def _in_place(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda value, other: value.tracer.create_proxy("call_function", function, (value, other), {})


_TRACING = threading.RLock()  # concurrent tracers would undo each other's patches

# torch.fx's proxies record ``x += y`` as ``x = x + y``.
_METHODS = {f"__{name}__": _in_place(getattr(operator, name)) for name in INPLACE}
_Proxy: type[fx.Proxy] = type("_Proxy", (fx.Proxy,), _METHODS)


class Tracer(fx.Tracer):
    """Traces into modules, except layers that declare their reads and subclasses of torch.nn's layers.

    While torch.fx traces, it patches ``nn.Module.__call__`` and ``__getattr__`` for the whole process. Calls of other
    threads, which may be drawing, bypass the tracer.
    """

    proxy_buffer_attributes = True  # values derived from a buffer are recomputed for each batch, as with parameters

    def __init__(self, observed: Observed | None = None) -> None:
        super().__init__()
        self._thread, self._observed = threading.get_ident(), observed

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace a network's forward."""
        with _TRACING:
            return super().trace(root, concrete_args)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a layer, or trace into it; compute it when another thread calls."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        if (inner := uncompiled(m)) is not m:
            return inner(*args, **kwargs)
        if m._compiled_call_impl is not None:  # by nn.Module.compile
            forward = m.forward
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Record a parameter or buffer; return the tensor when another thread asks."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is recorded as one node."""
        if hasattr(m, "reads"):
            return True
        if self._observed is not None and not (m._forward_pre_hooks or m._forward_hooks) and altered(m):
            return module_qualified_name in self._observed.modules
        if self._observed is not None and module_qualified_name in self._observed.modules:
            return True
        torch_bases = (base for base in type(m).__mro__ if base.__module__.startswith("torch.nn"))
        return next(torch_bases) not in (nn.Module, nn.Sequential)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that distinguishes in-place operators."""
        return _Proxy(node, self)

    def iter(self, obj: Any) -> Iterator[Any]:
        """Iterate over the results of a chunk or split, whose number the call's arguments state."""
        name, args, kwargs = name_of(obj.node), obj.node.args, obj.node.kwargs
        sizes = argument(args, kwargs, 1, "split_size_or_sections", argument(args, kwargs, 1, "split_size"))
        if name == "split" and isinstance(sizes, Sequence):
            return (obj[i] for i in range(len(sizes)))
        if name == "chunk" and isinstance(chunks := argument(args, kwargs, 1, "chunks"), int):
            return (obj[i] for i in range(chunks))
        return super().iter(obj)


def name_of(call: fx.Node) -> str:
    """The name of a function or method: ``add`` for operator.add, torch.add and Tensor.add alike."""
    name = call.target if isinstance(call.target, str) else call.target.__name__
    return INPLACE.get(name, name)


def argument(args: Sequence[Any], kwargs: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    """An argument of a call, given by name or by position."""
    return kwargs.get(name, args[place] if len(args) > place else default)


def label_of(call: fx.Node) -> str:
    """The name of a layer, or of a function and the module that calls it."""
    if call.op == "call_module":
        return str(call.target)
    stack = list(call.meta.get("nn_module_stack") or {})
    return f"{stack[-1]}.{name_of(call)}" if stack and stack[-1] else name_of(call)


def function_of(call: fx.Node) -> Callable[..., Any]:
    """The out-of-place function of a call: other branches of the network may read its input."""
    target = call.target
    if isinstance(target, str):
        return lambda first, *rest, **more: getattr(first, target)(*rest, **more)
    return getattr(operator, INPLACE[target.__name__]) if target.__name__ in INPLACE else target


def sizes_of(args: Sequence[Any], kwargs: dict[str, Any], total: int) -> Sequence[int]:
    """The sizes of the results of a split of ``total`` features."""
    size = argument(args, kwargs, 1, "split_size_or_sections", argument(args, kwargs, 1, "split_size"))
    return [min(size, total - start) for start in range(0, total, size)] if isinstance(size, int) else size
