"""The intermediate representation: a network as a list of nodes in topological order.

A node is one value of the network, features on a grid of positions. Its operation says how it is computed, and its
edges say which features of which inputs it reads at which positions.

    x -> masked 3x3 convolution -> ReLU        0: Image
                                               1: Linear                reads 0 at (-1, -1), (-1, 0), (-1, 1), (0, -1)
                                               2: Elementwise(relu)     reads 1 at (0, 0), each feature its own

Nodes hold modules and functions that return weights, never the weights: a plan remains valid while training changes
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor, fx, nn

from pixelloom.core.types import Conditioning
from pixelloom.layers.reads import Kernel, Offsets, Position, Positions


@dataclass(frozen=True)
class Edge:
    """A read of another node.

    Attributes:
        source: number of the node that is read.
        where: positions that each output position reads.
        features: which output feature reads which input feature, bool [out, in]; None when each reads all.
        input: index among the operation's inputs, since a node may be several inputs of one operation.
    """

    source: int
    where: Positions
    features: Tensor | None
    input: int = 0


class Constants:
    """Values of constants for one batch, each computed once from its conditioning and the current weights.

    A plan holds no conditioning. Each batch owns one of these, so batches of the same plan cannot mix.
    """

    def __init__(self, conditioning: Conditioning | None = None) -> None:
        self.conditioning: Conditioning = conditioning or {}
        self._values: dict[Constant, Any] = {}

    def resolve(self, value: Any) -> Any:
        """Replace constants by their values, inside any nesting."""
        return fx.node.map_aggregate(value, lambda v: self._value(v) if isinstance(v, Constant) else v)

    def clear(self) -> None:
        """Free the values."""
        self._values.clear()

    def _value(self, constant: Constant) -> Any:
        if constant not in self._values:
            self._values[constant] = constant.value(self)
        return self._values[constant]


@dataclass(frozen=True)
class Constant:
    """A value that does not depend on the image: a function of parameters, buffers and the conditioning.

    Attributes:
        value: computes it.
        conditioned: whether it depends on the conditioning.
    """

    value: Callable[[Constants], Any]
    conditioned: bool = False

    @classmethod
    def apply(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Constant:
        """The constant that a function computes from constants and other values."""
        leaves: list[Any] = []
        fx.node.map_aggregate((args, kwargs or {}), leaves.append)
        conditioned = any(isinstance(leaf, Constant) and leaf.conditioned for leaf in leaves)
        return cls(lambda constants: function(*constants.resolve(args), **constants.resolve(kwargs or {})), conditioned)


@dataclass(frozen=True)
class Elementwise:
    """A function of each position and feature alone; ``args`` and ``kwargs`` refer to inputs by :class:`Operand`."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Operand:
    """Stands for input number ``index`` in the arguments of a function."""

    index: int


@dataclass(frozen=True)
class Concat:
    """Selected features of the inputs, concatenated; a chunk has one input. ``origin``: (input, feature) per output."""

    origin: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Linear:
    """A linear layer; ``kernel`` returns its current weights."""

    kernel: Callable[[], Kernel]


@dataclass(frozen=True)
class Pointwise:
    """A module that mixes features but no positions, as a norm over features does."""

    module: nn.Module


@dataclass(frozen=True)
class Shift:
    """The same features at one other position: a shift, or a nearest-neighbor upsampling."""

    where: Offsets


@dataclass(frozen=True)
class Shuffle:
    """A pixel shuffle: feature c at (y, x) is feature (c * r + y % r) * r + x % r of the input at (y // r, x // r)."""

    factor: int


@dataclass(frozen=True)
class Recurrence:
    """A state computed from the input at the same position and the states at the offsets ``carried``."""

    step: Callable[..., Tensor]
    carried: tuple[Position, ...]


@dataclass(frozen=True)
class Attention:
    """Input 0 attends to inputs 1 and 2 at earlier positions; with ``own`` at its own position too."""

    attend: Callable[..., Tensor]
    own: bool


@dataclass(frozen=True)
class Custom:
    """Any function of the gathered reads, as ``at`` of a layer declares it."""

    at: Callable[..., Tensor]


@dataclass(frozen=True)
class Image:
    """The pixels, in model space."""


Operation: TypeAlias = (
    Image | Elementwise | Concat | Linear | Pointwise | Shift | Shuffle | Recurrence | Attention | Custom
)


@dataclass(frozen=True)
class Node:
    """One value of the network: features at every position of a grid.

    Attributes:
        name: of the layer, as in ``network.named_modules()``, or of the function and the module that calls it.
        operation: how the value is computed.
        inputs: numbers of nodes, in the order of the operation's arguments.
        edges: what the operation reads of its inputs.
        features: number of features.
        size: (height, width) of the grid.
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    edges: tuple[Edge, ...]
    features: int
    size: tuple[int, int]

    def with_inputs(self, renumbered: dict[int, int]) -> Node:
        """The same node where its inputs have new numbers."""
        edges = tuple(replace(edge, source=renumbered[edge.source]) for edge in self.edges)
        return replace(self, inputs=tuple(renumbered[i] for i in self.inputs), edges=edges)
