"""Lowering: a traced network becomes a network of integers.

A value x of the network is represented by an integer n with x = n 2^-e; e belongs to the node and is chosen so that
1.25 times the largest magnitude over the calibration images fits. Larger values are clamped, at both ends alike: that
costs bits, never exactness. There are two widths:

    act    bits of what linear layers read
    pre    bits of sums, of skip connections, of what tables read, and of the parameters of the head

A linear layer has integer weights w 2^k, with one k per output feature. Its proof of exactness is the bound

    sum over taps and inputs of |w| max|n|  +  |bias|  <  2^24,

under which every partial sum is an integer that float32 and float64 represent, in whatever order it is taken. Where the
bound is exceeded, k of this feature is lowered; this is counted as a cut.

Source: Balle, Johnston and Minnen 2019, "Integer networks for data compression with latent-variable models".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pixelloom.codec.operations import IntegerNode, here
from pixelloom.codec.parallel import readers_of
from pixelloom.core.errors import ModelError
from pixelloom.layers.reads import Kernel
from pixelloom.sampling.fast import ir
from pixelloom.sampling.fast.ir import Node, Operand


@dataclass(frozen=True)
class Profile:
    """Widths of a lowered network.

    Attributes:
        act: bits of what linear layers read, with sign.
        weight: bits of weights, with sign.
        pre: bits of all other values, with sign.
        bound: every intermediate result is below it.
    """

    act: int = 12
    weight: int = 12
    pre: int = 14
    bound: int = 1 << 24


PROFILES = {1: Profile(), 2: Profile(act=16, weight=14, pre=16, bound=1 << 53)}
"""Number of a profile, which files name -> widths. The first is exact in float32 and float64, the second in float64."""

MARGIN = 1.25  # room above the largest calibrated magnitude
_FINEST = 30  # largest exponent of a scale


@dataclass(frozen=True)
class Value:
    """A node of the lowered network that stands for a value of the network: x = n * scale.

    Attributes:
        number: of the node.
        scale: of its integers.
        exponent: e where scale is 2^-e; None for the image.
        low: smallest possible integer.
        high: largest possible integer.
    """

    number: int
    scale: float
    exponent: int | None
    low: int
    high: int

    @property
    def e(self) -> int:
        """The exponent of an aligned value."""
        assert self.exponent is not None
        return self.exponent

    @property
    def largest(self) -> int:
        """The largest possible magnitude, at least 1."""
        return max(abs(self.low), abs(self.high), 1)


class Lowering:
    """Nodes under construction.

    Args:
        nodes: of the network, batch norms folded.
        largest: largest magnitude of each node over the calibration images.
        parameters: largest magnitude of each output feature.
        exponents: of the output, from these magnitudes.
        image: integers of the levels, int64 [L].
        scale: of these integers.
        profile: widths.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        largest: Sequence[float],
        output_exponents: Tensor,
        image: Tensor,
        scale: float,
        profile: Profile,
    ) -> None:
        self.nodes, self.largest, self.profile = nodes, largest, profile
        self.output_exponents, self.image, self.scale = output_exponents, image, scale
        self.readers = readers_of([node.inputs for node in nodes])
        self.out: list[IntegerNode] = []
        self.values: dict[int, Value] = {}
        self.cuts = 0
        self._narrowed: dict[tuple[int, int], Value] = {}
        self._aligned: dict[int, Value] = {}

    def run(self, rules: Callable[[Lowering, int], Value]) -> list[IntegerNode]:
        """Lower all nodes by a function that lowers one.

        Raises:
            ModelError: for a node without a rule.
        """
        for number in range(len(self.nodes)):
            self.values[number] = rules(self, number)
        self._finish()
        return self.out

    # Nodes

    def emit(
        self,
        kind: str,
        like: Node,
        sources: Sequence[int],
        edges: tuple[ir.Edge, ...],
        bounds: tuple[int, int],
        scale: int,
        *,
        features: int | None = None,
        size: tuple[int, int] | None = None,
        numbers: dict[str, Any] | None = None,
        tensors: dict[str, Tensor] | None = None,
    ) -> Value:
        """Append a node; ``scale`` is its exponent."""
        self.out.append(
            IntegerNode(
                kind, like.name, tuple(sources), edges, features or like.features, size or like.size, *bounds,
                numbers or {}, tensors or {},
            )
        )  # fmt: skip
        return Value(len(self.out) - 1, 2.0**-scale, scale, *bounds)

    def edges(self, node: Node, sources: Sequence[Value]) -> tuple[ir.Edge, ...]:
        """The reads of a node, of these nodes instead of its inputs."""
        found, left = [], list(range(len(node.inputs)))
        for edge in node.edges:
            # Elementwise functions and concatenations have one edge for each input, and layers count their inputs.
            fitting = [i for i in left if node.inputs[i] == edge.source] or [edge.input]
            index = edge.input if edge.input in fitting else fitting[0]
            if isinstance(node.operation, ir.Elementwise | ir.Concat):
                left.remove(index)
            found.append(replace(edge, source=sources[index].number))
        return tuple(found)

    def inputs(self, node: Node) -> list[Value]:
        """The lowered inputs."""
        return [self.values[source] for source in node.inputs]

    # Widths

    def bits(self, number: int) -> int:
        """``act`` where linear layers and gates alone read a node, directly or through concatenations, else ``pre``."""
        return self.profile.act if self._narrow_readers(number) else self.profile.pre

    def _narrow_readers(self, number: int) -> bool:
        if not self.readers[number]:
            return False
        for reader in self.readers[number]:
            operation = self.nodes[reader].operation
            passes = isinstance(operation, ir.Concat | ir.Shift | ir.Shuffle) and self._narrow_readers(reader)
            if not (isinstance(operation, ir.Linear | ir.Attention) or is_product(operation) or passes):
                return False
        return True

    def exponent(self, largest: float, bits: int, margin: float = MARGIN) -> int:
        """The largest e such that ``margin * largest * 2^e`` has this many bits with its sign."""
        if largest <= 0:
            return 0
        return min(_FINEST, math.floor(math.log2(((1 << (bits - 1)) - 1) / (margin * largest))))

    def range(self, number: int, bits: int) -> tuple[int, tuple[int, int]]:
        """Exponent and bounds for the calibrated values of a node."""
        most = (1 << (bits - 1)) - 1
        return self.exponent(self.largest[number], bits), (-most, most)

    def narrow(self, value: Value, number: int, bits: int) -> Value:
        """A value with at most this many bits; ``number`` is the node of the network that it stands for."""
        most = (1 << (bits - 1)) - 1
        if value.largest <= most:
            return value
        key = (value.number, bits)
        if key not in self._narrowed:
            exponent = self.exponent(self.largest[number], bits)
            if value.exponent is not None:
                exponent = min(exponent, value.exponent)
            bounds = (max(-most, value.low), min(most, value.high))
            self._narrowed[key] = self.rescaled(value, exponent, bounds)
        return self._narrowed[key]

    def aligned(self, value: Value, number: int) -> Value:
        """A value whose scale is a power of two: the image has another one."""
        if value.exponent is not None:
            return value
        if value.number not in self._aligned:
            exponent, bounds = self.range(number, self.profile.pre)
            self._aligned[value.number] = self.rescaled(value, exponent, bounds)
        return self._aligned[value.number]

    def rescaled(self, value: Value, exponent: int, bounds: tuple[int, int]) -> Value:
        """The same value with another exponent."""
        node = self.out[value.number]
        ratio = value.scale * 2.0**exponent
        multiplier, shift = as_integer(ratio, (self.profile.bound - 1) // value.largest)
        like = Node(node.name, ir.Image(), (), (), node.features, node.size)
        tensors = {"multiplier": torch.tensor([[[multiplier]]]), "shift": torch.tensor([[[-shift]]])}
        return self.emit(
            "rescale", like, [value.number], here((value.number,), node.features), bounds, exponent, tensors=tensors
        )

    def converted(self, value: Value, exponent: int) -> Value:
        """The same value with another exponent, all of its range kept."""
        if value.exponent == exponent:
            return value
        factor = 2.0 ** (exponent - value.e)
        return self.rescaled(value, exponent, (math.floor(value.low * factor), math.ceil(value.high * factor)))

    # Linear layers

    def linear(self, node: Node, source: Value, kernel: Kernel, exponents: Tensor, bounds: tuple[int, int]) -> Value:
        """A linear layer and the rounding of its sums to integers of these exponents, int64 [out] or one."""
        weight = kernel.weight.detach().double() * source.scale  # [taps, in, out]
        bias = torch.zeros(weight.shape[2]).double() if kernel.bias is None else kernel.bias.detach().double()
        most = (1 << (self.profile.weight - 1)) - 1
        peak = weight.abs().amax((0, 1)) if weight.numel() else torch.zeros_like(bias)
        finest = torch.full_like(peak, float(_FINEST))
        k = torch.where(peak > 0, torch.floor(torch.log2(most / peak.clamp(min=1e-300))), finest).clamp(max=_FINEST)
        k = torch.minimum(k, torch.floor(torch.log2((self.profile.bound / 4) / bias.abs().clamp(min=1e-300))))
        wanted = k.clone()
        while True:
            whole, offset = (weight * 2**k).round(), (bias * 2**k).round()
            sums = whole.abs().sum((0, 1)) * source.largest + offset.abs()
            over = sums >= self.profile.bound
            if not bool(over.any()):
                break
            k = torch.where(over, k - 1, k)
        self.cuts += int((k < wanted).sum())
        largest = int(sums.max())
        taps = [list(tap) for tap in kernel.taps]
        total = self.emit(
            "linear", node, [source.number], self.edges(node, [source]), (-largest, largest), 0,
            numbers={"taps": taps, "stride": list(kernel.stride)},
            tensors={"weight": whole.to(torch.int16), "bias": offset.long()},
        )  # fmt: skip
        shift = (exponents.double() - k).view(-1, 1, 1)
        like = Node(node.name, ir.Image(), (), (), node.features, node.size)
        return self.emit(
            "rescale", like, [total.number], here((total.number,), node.features), bounds,
            int(exponents.max()) if exponents.numel() else 0,
            tensors={"multiplier": torch.ones_like(shift), "shift": shift},
        )  # fmt: skip

    def _finish(self) -> None:
        """Bring an output that is no linear layer to the exponents of the head."""
        last = self.values[len(self.nodes) - 1]
        if isinstance(self.nodes[-1].operation, ir.Linear):
            return
        node, most = self.out[last.number], (1 << (self.profile.pre - 1)) - 1
        shift = (self.output_exponents.double() - last.e).view(-1, 1, 1)
        like = Node(node.name, ir.Image(), (), (), node.features, node.size)
        self.emit(
            "rescale", like, [last.number], here((last.number,), node.features), (-most, most), 0,
            tensors={"multiplier": torch.ones_like(shift), "shift": shift},
        )  # fmt: skip


def name_of(operation: ir.Elementwise) -> str:
    """The name of a function or of a module's class, in lower case."""
    function = operation.function
    return str(getattr(function, "__name__", type(function).__name__)).strip("_").lower()


def is_product(operation: ir.Operation) -> bool:
    """Whether an operation multiplies two values."""
    return (
        isinstance(operation, ir.Elementwise)
        and name_of(operation) == "mul"
        and all(isinstance(value, Operand) for value in operation.args)
    )


def as_integer(ratio: float, most: int) -> tuple[int, int]:
    """(m, s) with m 2^-s nearest to a ratio, m at most ``most``; exact for powers of two."""
    mantissa, exponent = math.frexp(ratio)
    if mantissa == 0.5:
        return 1, 1 - exponent
    shift = 0
    while round(ratio * 2.0 ** (shift + 1)) <= most and shift < 60:
        shift += 1
    found = round(ratio * 2.0**shift)
    if found < 1:
        raise ModelError(f"a value with the scale {ratio:g}: too small to be lowered")
    return found, shift
