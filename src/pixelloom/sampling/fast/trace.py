"""Tracing: a network's ``forward``, followed once by torch.fx, becomes a list of nodes.

Input: a module and the shape of its images. Output: nodes in topological order, with their reads. Layers that mix
positions declare their reads (:mod:`pixelloom.layers.reads`). Operations that are known to act on each position alone
need no declaration: arithmetic, activations, 1x1 convolutions, batch norms with running statistics, chunks and
concatenations of features. Any other operation is an error that names it, since a wrong assumption would give wrong
images or leak the future.

The values of the torch.fx graph are references to nodes, constants (functions of parameters and conditioning), and
Python values. Example tensors carry the shapes. An in-place operation is recorded as a new node, and all references to
the overwritten tensor are redirected to it.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pixelloom.core.errors import ModelError
from pixelloom.core.types import Conditioning
from pixelloom.layers.compiled import uncompiled
from pixelloom.layers.reads import HERE, Kernel, Read
from pixelloom.sampling.fast.convolutions import (
    Convolution,
    Observed,
    altered,
    conv2d_arguments,
    needs_observation,
    observe,
)
from pixelloom.sampling.fast.ir import (
    Concat,
    Constant,
    Constants,
    Edge,
    Elementwise,
    Image,
    Linear,
    Node,
    Operand,
    Operation,
    Shuffle,
)
from pixelloom.sampling.fast.op_registry import (
    ELEMENTWISE,
    ELEMENTWISE_MODULES,
    IDENTITY,
    IDENTITY_MODULES,
    INPLACE,
    affine,
    operation_of,
    pixel_shuffle,
)
from pixelloom.sampling.fast.random_twin import evaluated
from pixelloom.sampling.fast.symbolic import Tracer, argument, function_of, label_of, name_of, sizes_of


def trace(network: nn.Module, shape: tuple[int, int, int], conditioning: Conditioning | None = None) -> list[Node]:
    """Trace a network.

    Args:
        network: maps [B, C, H, W] to [B, outputs, H, W].
        shape: (C, H, W).
        conditioning: further arguments of ``forward``, for one image; only names and shapes are used. Values that
            depend on them alone become constants. Arguments that are not given take their defaults.

    Returns:
        The nodes: first the image, last the output, each after its inputs.

    Raises:
        ModelError: if the reads of a layer or function are unknown, or the forward pass cannot be traced.
    """
    network, given = uncompiled(network), conditioning or {}
    with evaluated(network):
        if Tracer().is_leaf_module(network, ""):  # a single layer
            network = nn.Sequential(network)
        observed = observe(network, _image_of(network, shape), given) if needs_observation(network) else None
        try:
            graph = Tracer(observed).trace(network, concrete_args=_defaults(network, given))
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
            raise ModelError(
                f"the network's forward cannot be followed: {error}. Put what a graph cannot say into a module that "
                "declares its reads, see pixelloom.layers.reads"
            ) from error
        return _GraphBuilder(network, shape, given, observed or Observed()).build(graph)


def _image_of(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """One image of zeros, [1, C, H, W], in the precision and on the device of the weights."""
    first = next(network.parameters(), torch.empty(0))
    return torch.zeros(1, *shape, dtype=first.dtype, device=first.device)


def _defaults(network: nn.Module, given: Collection[str]) -> dict[str, Any] | None:
    """The defaults of the arguments after the image that are not given."""
    _, *more = inspect.signature(network.forward).parameters.values()
    left = {p.name: p.default for p in more if p.name not in given and p.default is not inspect.Parameter.empty}
    return left or None


@dataclass(frozen=True)
class _Ref:
    """A reference to a node, with a tensor of the shape of its value."""

    node: int
    example: Tensor


class _GraphBuilder:
    """Interprets the calls of a torch.fx graph and appends nodes."""

    def __init__(
        self, network: nn.Module, shape: tuple[int, int, int], conditioning: Conditioning, observed: Observed
    ) -> None:
        self.network, self.known, self.observed = network, Constants(conditioning), observed
        self.nodes: list[Node] = []
        self.overwritten: dict[int, _Ref] = {}
        self.calls: Counter[str] = Counter()  # of plain convolutions by path, and of F.conv2d by the empty path
        self.image = _image_of(network, shape)

    def build(self, graph: fx.Graph) -> list[Node]:
        """Interpret a graph; returns the nodes that the output depends on."""
        env: dict[fx.Node, Any] = {}
        for call in graph.nodes:
            args = fx.node.map_arg(call.args, lambda n: self._current(env[n]))
            kwargs = fx.node.map_arg(call.kwargs, lambda n: self._current(env[n]))
            try:
                env[call] = self._call(call, args, dict(kwargs))
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
                raise ModelError(f"{label_of(call)}: cannot be followed: {error}") from error
            if call.op == "output":
                return self._live(env[call])
        raise ModelError("the network's forward returns nothing")

    def _current(self, value: Any) -> Any:
        """The value that a tensor holds now, after in-place operations."""
        while isinstance(value, _Ref) and value.node in self.overwritten:
            value = self.overwritten[value.node]
        return value

    def _overwrite(self, ref: _Ref, value: _Ref) -> _Ref:
        """Record an in-place operation: all references to the tensor refer to the new value."""
        slices = [node for node in self.nodes if isinstance(node.operation, Concat) and len(node.inputs) == 1]
        if any(one is self.nodes[ref.node] or ref.node in one.inputs for one in slices):
            raise ModelError(f"{self.nodes[value.node].name}: works in place on a tensor cut into parts; use a copy")
        self.overwritten[ref.node] = value
        return value

    def _call(self, call: fx.Node, args: Any, kwargs: dict[str, Any]) -> Any:
        if call.op == "placeholder":
            if self.nodes:
                return self._argument(str(call.target))
            return self._add(str(call.target), Image(), (), (), self.image)
        if call.op == "get_attr":
            path = str(call.target)
            return Constant(lambda _: operator.attrgetter(path)(self.network))
        if call.op == "output":
            if not isinstance(args[0], _Ref):
                raise ModelError("the network's forward must return one tensor that depends on the image")
            return args[0]
        if call.op == "call_module":
            if kwargs:
                raise ModelError(f"{call.target}: a layer's inputs must be given by position, not by name")
            return self._module(str(call.target), self.network.get_submodule(str(call.target)), args)
        return self._function(call, args, kwargs)

    def _argument(self, target: str) -> Constant:
        """An argument of ``forward`` after the image. torch.fx appends a number to the name of one with a default."""
        if target in self.known.conditioning:
            return Constant(lambda known: known.conditioning[target], conditioned=True)
        defaults = _defaults(self.network, self.known.conditioning) or {}
        name = target if target in defaults else target.removesuffix("_1")
        if name in defaults:
            return Constant(lambda _: defaults[name])
        raise ModelError(f"the network's forward takes more than the image: {target}")

    # Modules

    def _module(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> _Ref | Constant:
        if not _refs(args):  # independent of the image, as the embedding of a label is
            return Constant.apply(module, args)
        if not all(isinstance(arg, _Ref) for arg in args):
            raise ModelError(f"{name}: a layer's inputs must be tensors that depend on the image")
        kind = type(module)
        if kind in IDENTITY_MODULES:
            return args[0]  # type: ignore[no-any-return]
        known = kind in ELEMENTWISE_MODULES or kind in (nn.BatchNorm2d, nn.PixelShuffle)
        known = known or (kind is nn.Conv2d and not altered(module)) or name in self.observed.modules
        if not hasattr(module, "reads") and (not known or getattr(module, "padding_mode", "zeros") != "zeros"):
            raise ModelError(
                f"{name} ({kind.__name__}): does not say which positions it reads. Give it a method reads(), see "
                "pixelloom.layers.reads"
            )
        if kind is nn.BatchNorm2d and module.running_mean is None:
            raise ModelError(f"{name}: a batch norm without running statistics mixes the images of a batch")
        example: Tensor = module(*(arg.example for arg in args))
        if hasattr(module, "reads"):
            return self._declared(name, module, args, example)
        if kind in ELEMENTWISE_MODULES:
            if not getattr(module, "inplace", False):
                return self._elementwise(name, module, args, {}, example)
            out_of_place: Any = copy.copy(module)
            out_of_place.inplace = False
            return self._overwrite(args[0], self._elementwise(name, out_of_place, args, {}, example))
        if isinstance(module, nn.BatchNorm2d):
            scale, shift = Constant(lambda _: affine(module)[0]), Constant(lambda _: affine(module)[1])
            scaled = self._elementwise(name, operator.mul, (args[0], scale), {}, example)
            return self._elementwise(name, operator.add, (scaled, shift), {}, example)
        if isinstance(module, nn.PixelShuffle):
            edge = Edge(args[0].node, *pixel_shuffle(module, example.shape[1]))
            return self._add(name, Shuffle(module.upscale_factor), args, (edge,), example)
        if name in self.observed.modules:
            found, of = self.observed.modules[name], args[0].example
            found.check(name, module, of)
            return self._convolution(name, found, args, partial(found.current_kernel, name, module, of), example)
        assert isinstance(module, nn.Conv2d)
        found = Convolution.of(module)
        if layers := self.observed.layers.get(name):  # its weights may be masked in the forward of a module around it
            found = layers[self.calls[name]]
            self.calls[name] += 1
        return self._convolution(name, found, args, lambda: found.kernel(module.weight, module.bias), example)

    def _convolution(
        self, name: str, found: Convolution, args: Sequence[Any], kernel: Callable[[], Kernel], example: Tensor
    ) -> _Ref:
        edges = [Edge(args[0].node, where, features) for where, features in found.reads()]
        return self._add(name, Linear(kernel), args[:1], edges, example)

    def _conv2d(self, label: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Ref | None:
        """A call of ``F.conv2d`` with weights that do not depend on the image or the conditioning."""
        x, weight, bias, *window = conv2d_arguments(args, kwargs)
        number = self.calls[""]
        self.calls[""] += 1
        constants = [value for value in (weight, bias) if isinstance(value, Constant)]
        alone = isinstance(x, _Ref) and not _refs((weight, bias)) and not any(c.conditioned for c in constants)
        if not alone or number >= len(self.observed.functions):
            return None
        found = self.observed.functions[number]

        def kernel() -> Kernel:
            return found.kernel(*Constants().resolve((weight, bias)))

        example = F.conv2d(x.example, *self.known.resolve((weight, bias)), *window)
        return self._convolution(label, found, (x,), kernel, example)

    def _declared(self, name: str, module: Any, args: tuple[Any, ...], example: Tensor) -> _Ref:
        reads: tuple[Read, ...] = module.reads()
        edges = []
        for read in reads:
            same = torch.eye(example.shape[1], dtype=torch.bool) if isinstance(read.features, str) else read.features
            edges.append(Edge(args[read.input].node, read.where, same, read.input))
        operation = operation_of(module, reads)
        if operation is None:
            raise ModelError(f"{name} ({type(module).__name__}): says what it reads, but not how it computes an output")
        return self._add(name, operation, args, edges, example)

    # Functions

    def _function(self, call: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, label = name_of(call), label_of(call)
        if name == "getitem" and isinstance(args[0], tuple):
            return args[0][args[1]]
        if not _refs((args, kwargs)):
            return Constant.apply(function_of(call), args, kwargs)
        if name in IDENTITY:
            if "dropout" in name and argument(args, kwargs, 2, "training", kwargs.get("train", True)):
                raise ModelError(f"{label}: drops features in evaluation mode too; give it training=self.training")
            return args[0]
        if name in ELEMENTWISE:
            inplace = kwargs.pop("inplace", False) or getattr(call.target, "__name__", "") in INPLACE
            function = function_of(call)
            example = function(*self._examples(args), **self._examples(kwargs))
            value = self._elementwise(label, function, args, kwargs, example)
            return self._overwrite(args[0], value) if inplace and isinstance(args[0], _Ref) else value
        found = None
        if name in ("cat", "concat", "concatenate"):
            tensors = argument(args, kwargs, 0, "tensors")
            if all(isinstance(one, _Ref) for one in tensors) and argument(args, kwargs, 1, "dim", 0) in (1, -3):
                origin = [(i, f) for i, one in enumerate(tensors) for f in range(one.example.shape[1])]
                found = self._concat(label, tensors, origin)
        elif name == "conv2d":
            found = self._conv2d(label, args, kwargs)
        elif name in ("chunk", "split", "getitem"):
            found = self._slices(label, name, args, kwargs)
        if found is None:
            raise ModelError(
                f"{label}: the function {name!r} is not known to act on each position alone; put it into a module that "
                "declares its reads, see pixelloom.layers.reads"
            )
        return found

    def _slices(self, label: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A chunk, a split, or a range of features; None for any other index."""
        source: _Ref = argument(args, kwargs, 0, "input", kwargs.get("tensor"))
        numbers = list(range(source.example.shape[1]))
        if name == "getitem":
            index, whole = args[1] if isinstance(args[1], tuple) else (args[1],), slice(None)
            if len(index) < 2 or any(i != whole for i in (index[0], *index[2:])) or not isinstance(index[1], slice):
                return None
            return self._concat(label, [source], [(0, f) for f in numbers[index[1]]])
        if argument(args, kwargs, 2, "dim", 0) not in (1, -3):
            return None
        features = torch.tensor(numbers)
        if name == "chunk":
            pieces = features.chunk(argument(args, kwargs, 1, "chunks"))
        else:
            pieces = torch.split_with_sizes(features, list(sizes_of(args, kwargs, len(numbers))))
        return tuple(self._concat(label, [source], [(0, int(f)) for f in piece]) for piece in pieces)

    def _concat(self, name: str, sources: Sequence[_Ref], origin: list[tuple[int, int]]) -> _Ref:
        edges = []
        for i, source in enumerate(sources):
            if source.example.shape[2:] != sources[0].example.shape[2:]:
                raise ModelError(f"{name}: joins grids of {_shape(source.example)} and {_shape(sources[0].example)}")
            features = torch.zeros(len(origin), source.example.shape[1], dtype=torch.bool)
            for out, (j, feature) in enumerate(origin):
                if i == j:
                    features[out, feature] = True
            edges.append(Edge(source.node, HERE, features))
        example = sources[0].example.new_empty(0, len(origin), *sources[0].example.shape[2:])
        return self._add(name, Concat(tuple(origin)), sources, edges, example)

    def _elementwise(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], example: Tensor
    ) -> _Ref:
        sources: list[_Ref] = []

        def slot(value: Any) -> Any:
            if not isinstance(value, _Ref):
                return value
            sources.append(value)
            return Operand(len(sources) - 1)

        args, kwargs = tuple(map(slot, args)), {key: slot(value) for key, value in kwargs.items()}
        edges = []
        for source in sources:
            features = source.example.shape[1]
            if source.example.shape[2:] != example.shape[2:] or features not in (1, example.shape[1]):
                raise ModelError(f"{name}: joins grids of {_shape(source.example)} and {_shape(example)}")
            edges.append(Edge(source.node, HERE, torch.eye(features, dtype=torch.bool) if features > 1 else None))
        return self._add(name, Elementwise(function, args, kwargs), sources, edges, example)

    def _add(
        self, name: str, operation: Operation, inputs: Sequence[_Ref], edges: Sequence[Edge], example: Tensor
    ) -> _Ref:
        if example.ndim != 4:
            raise ModelError(f"{name}: gives {example.ndim} dimensions, not [B, features, H, W]")
        features, height, width = example.shape[1:]
        refs = tuple(ref.node for ref in inputs)
        self.nodes.append(Node(name, operation, refs, tuple(edges), features, (height, width)))
        return _Ref(len(self.nodes) - 1, example)

    def _examples(self, value: Any) -> Any:
        """Example tensors of references and constants; of a constant per image, the first, so that shapes match."""

        def example(v: Any) -> Any:
            if isinstance(v, _Ref):
                return v.example
            return v[:1] if isinstance(v, Tensor) and v.ndim == 4 else v

        return fx.node.map_aggregate(self.known.resolve(value), example)

    def _live(self, output: _Ref) -> list[Node]:
        """Eliminate dead code: the image and the nodes that the output depends on, the output last."""
        live, todo = {0}, [output.node]
        while todo:
            node = todo.pop()
            if node not in live:
                live.add(node)
                todo += self.nodes[node].inputs
        renumbered = {old: new for new, old in enumerate(sorted(live))}
        return [self.nodes[old].with_inputs(renumbered) for old in renumbered]


def _refs(value: Any) -> list[_Ref]:
    """All references inside any nesting."""
    found: list[_Ref] = []
    fx.node.map_aggregate(value, lambda v: found.append(v) if isinstance(v, _Ref) else None)
    return found


def _shape(example: Tensor) -> str:
    return "x".join(map(str, example.shape[1:]))
