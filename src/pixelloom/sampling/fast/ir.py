"""A network as a list of nodes, each saying what it reads and how it is computed.

:func:`pixelloom.sampling.fast.trace.trace` writes it down; :mod:`pixelloom.sampling.fast.analysis` derives from it when each
node can be computed where, and :mod:`pixelloom.sampling.fast.runtime` computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, fx, nn

from pixelloom.core.types import Conditioning
from pixelloom.layers.reads import Kernel, Offsets, Position, Positions


@dataclass(frozen=True)
class Edge:
    """Node ``source`` is read at some positions; ``features`` bool [out, in], None when all are read by all.

    ``input`` tells which of the operation's inputs it is read for: a node may be several.
    """

    source: int
    where: Positions
    features: Tensor | None
    input: int = 0


class Constants:
    """What constants are for one batch: each is worked out once, from the conditioning and the weights of now.

    A plan holds no conditioning. Whoever runs it makes one of these, so batches of the same plan cannot mix.
    """

    def __init__(self, conditioning: Conditioning | None = None) -> None:
        self.conditioning: Conditioning = conditioning or {}
        self._found: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """Constants replaced by their values, inside any nesting."""
        return fx.node.map_aggregate(value, lambda v: self._value(v) if isinstance(v, Constant) else v)

    def forget(self) -> None:
        """Let go of the values, once what is made of them is made."""
        self._found.clear()

    def _value(self, constant: Constant) -> Any:
        if id(constant) not in self._found:  # the plan keeps its constants alive, so no number stands for two
            self._found[id(constant)] = constant.value(self)
        return self._found[id(constant)]


@dataclass(frozen=True)
class Constant:
    """A value that no pixel changes: a function of the conditioning, and of parameters, which training may change.

    ``conditioned`` says whether it depends on the conditioning.
    """

    value: Callable[[Constants], Any]
    conditioned: bool = False

    @classmethod
    def of(cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Constant:
        """What a function gives of constants and other values."""
        parts: list[Any] = []
        fx.node.map_aggregate((args, kwargs or {}), parts.append)
        conditioned = any(isinstance(part, Constant) and part.conditioned for part in parts)
        return cls(lambda known: function(*known.of(args), **known.of(kwargs or {})), conditioned)


@dataclass(frozen=True)
class Each:
    """A function of each position and feature alone; ``args`` and ``kwargs`` name its inputs by :class:`Slot`."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """Stands for input number ``index`` in the arguments of a function."""

    index: int


@dataclass(frozen=True)
class Join:
    """Features of the inputs, chosen and put side by side; a chunk has one input. One (input, feature) per output."""

    origin: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Linear:
    """A layer with a kernel."""

    kernel: Callable[[], Kernel]


@dataclass(frozen=True)
class Local:
    """A module that reads nothing but the same position of its inputs."""

    module: nn.Module


@dataclass(frozen=True)
class Moved:
    """The same features from another place: a shift, or an upsampling."""

    where: Offsets


@dataclass(frozen=True)
class Shuffle:
    """Feature c at (y, x) is feature (c * r + y % r) * r + x % r of the input at (y // r, x // r)."""

    factor: int


@dataclass(frozen=True)
class Recurrence:
    """A state computed from the input here and the states at some offsets."""

    step: Callable[..., Tensor]
    carried: tuple[Position, ...]


@dataclass(frozen=True)
class Attention:
    """Input 0 attends to inputs 1 and 2 at earlier positions; with ``own`` at its own too."""

    attend: Callable[..., Tensor]
    own: bool


@dataclass(frozen=True)
class Gathered:
    """Any function of what is read."""

    at: Callable[..., Tensor]


@dataclass(frozen=True)
class Image:
    """The pixels themselves, in model space."""


Operation: TypeAlias = Image | Each | Join | Linear | Local | Moved | Shuffle | Recurrence | Attention | Gathered


@dataclass(frozen=True)
class Node:
    """One value of the network: features at every position of a grid.

    Attributes:
        name: of the layer, as in ``network.named_modules()``, or of the function and the module that calls it.
        operation: how it is computed.
        inputs: nodes, in the order of the operation's arguments.
        edges: what it reads of them.
        features: their number.
        size: (height, width) of the grid.
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    edges: tuple[Edge, ...]
    features: int
    size: tuple[int, int]
