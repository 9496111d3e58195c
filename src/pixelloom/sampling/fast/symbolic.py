"""torch.fx's tracer, made safe for threads, and stopping at the layers that :mod:`pixelloom.sampling.fast.trace` knows."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import fx, nn

from pixelloom.sampling.fast.op_registry import INPLACE


def _in_place(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda value, other: value.tracer.create_proxy("call_function", function, (value, other), {})


_TRACING = threading.RLock()  # two tracers at once would undo each other's replacements

# By themselves proxies take ``x += y`` for ``x = x + y``.
_METHODS = {f"__{name}__": _in_place(getattr(operator, name)) for name in INPLACE}
_Value: type[fx.Proxy] = type("_Value", (fx.Proxy,), _METHODS)


class Tracer(fx.Tracer):
    """Stops at layers that declare their reads, and at those that torch.nn brings or that are derived from one.

    While torch.fx traces, it replaces ``nn.Module.__call__`` and ``__getattr__`` for the whole process. The calls of
    other threads, which may be drawing, go to the layers themselves.
    """

    proxy_buffer_attributes = True  # what is derived from a buffer is worked out anew, as with parameters

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of a network's forward."""
        with _TRACING:
            return super().trace(root, concrete_args)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A node for a layer, or the calls within; of another thread, its value."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """A node for a parameter or buffer; of another thread, the tensor."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is a node of its own."""
        bricks = (base for base in type(m).__mro__ if base.__module__.startswith("torch.nn"))
        return hasattr(m, "reads") or next(bricks) not in (nn.Module, nn.Sequential)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """One that tells operators in place from others."""
        return _Value(node, self)

    def iter(self, obj: Any) -> Iterator[Any]:
        """Parts of a chunk or split, whose number is in the call."""
        name, args, kwargs = name_of(obj.node), obj.node.args, obj.node.kwargs
        sizes = argument(args, kwargs, 1, "split_size_or_sections", argument(args, kwargs, 1, "split_size"))
        if name == "split" and isinstance(sizes, Sequence):
            return (obj[i] for i in range(len(sizes)))
        if name == "chunk" and isinstance(chunks := argument(args, kwargs, 1, "chunks"), int):
            return (obj[i] for i in range(chunks))
        return super().iter(obj)


def name_of(call: fx.Node) -> str:
    """Of a function or method: ``add`` for operator.add, torch.add and Tensor.add alike."""
    name = call.target if isinstance(call.target, str) else call.target.__name__
    return INPLACE.get(name, name)


def argument(args: Sequence[Any], kwargs: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    """An argument of a call, by its name or its place."""
    return kwargs.get(name, args[place] if len(args) > place else default)
