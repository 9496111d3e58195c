"""The operations of a lowered network: functions of integers, held as floating-point numbers of either precision.

Before each rounding, every operation multiplies and adds integers and powers of two below the bound of the profile.
So all results are exact: in float32 and float64, in any order of a sum, with fused multiply-adds or without. Rounding
is to the nearest integer, ties to even (IEEE 754), and is followed by a clamp. Square roots and divisions are taken in
float64, and are correctly rounded (IEEE 754).

A node of a lowered network is an :class:`IntegerNode`. It holds numbers and integer tensors only, and ``KINDS``
(:mod:`pixelloom.codec.kinds`) names the function that makes its operation: a stored network is data and never code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.reads import HERE, Kernel, Offsets
from pixelloom.sampling.fast import ir


@dataclass(frozen=True)
class IntegerNode:
    """One value of a lowered network: integers at every position of a grid.

    Attributes:
        kind: a key of ``KINDS`` (:mod:`pixelloom.codec.kinds`).
        name: of the node of the network that it was lowered from.
        inputs: numbers of nodes.
        edges: what it reads, as in :class:`pixelloom.sampling.fast.ir.Node`.
        features: number of features.
        size: (height, width) of the grid.
        low: smallest possible value.
        high: largest possible value.
        numbers: parameters, JSON values.
        tensors: parameters, integer tensors.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    edges: tuple[ir.Edge, ...]
    features: int
    size: tuple[int, int]
    low: int
    high: int
    numbers: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def largest(self) -> int:
        """The largest possible magnitude."""
        return max(abs(self.low), abs(self.high))


class Lookup:
    """``table[x - low]``, with a copy of the table for each precision."""

    def __init__(self, low: int, table: Tensor) -> None:
        self.low, self.table = low, table
        self._copies: dict[torch.dtype, Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Values of any shape -> same."""
        if x.dtype not in self._copies:
            self._copies[x.dtype] = self.table.to(x.dtype)
        index = x.to(torch.int32) - self.low if self.low else x.to(torch.int32)
        return self._copies[x.dtype].index_select(0, index.flatten()).view(x.shape)


def rounded(x: Tensor, low: int, high: int) -> Tensor:
    """The nearest integers, clamped, in place of a temporary tensor."""
    return x.round_().clamp_(low, high)


def times_powers(multiplier: Tensor, shift: Tensor) -> Tensor:
    """multiplier * 2^shift, exactly, float64; torch.ldexp computes the power by a function that need not be exact."""
    return torch.from_numpy(np.ldexp(multiplier.double().numpy(), shift.to(torch.int32).numpy()))


def power(exponent: int) -> float:
    """2^exponent, exactly."""
    return float(2.0**exponent)


class Rescale:
    """round(x factor), clamped."""

    def __init__(self, node: IntegerNode) -> None:
        self.low, self.high = node.low, node.high

    def __call__(self, x: Tensor, factor: Tensor) -> Tensor:
        """Values and factors that broadcast to them."""
        return rounded(x * factor, self.low, self.high)


class Sum:
    """round(x 2^a + s y 2^b), clamped; s is 1 or -1."""

    def __init__(self, node: IntegerNode) -> None:
        self.low, self.high = node.low, node.high
        self.first = power(node.numbers["shifts"][0])
        self.second = power(node.numbers["shifts"][1]) * node.numbers["sign"]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Values of equal shape, or one feature of either."""
        return rounded(torch.add(x * self.first, y, alpha=self.second), self.low, self.high)


class Product:
    """round(x y 2^a), clamped."""

    def __init__(self, node: IntegerNode) -> None:
        self.low, self.high, self.factor = node.low, node.high, power(node.numbers["shift"])

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Values of equal shape, or one feature of either."""
        return rounded((x * y).mul_(self.factor), self.low, self.high)


class Affine:
    """round((x m + c) 2^a), clamped."""

    def __init__(self, node: IntegerNode) -> None:
        self.low, self.high, self.factor = node.low, node.high, power(node.numbers["shift"])

    def __call__(self, x: Tensor, multiplier: Tensor, constant: Tensor) -> Tensor:
        """Values and constants that broadcast to them."""
        return rounded((x * multiplier + constant).mul_(self.factor), self.low, self.high)


class Embedding(nn.Module):
    """The vector of a level: [B, 1, H, W] -> [B, features, H, W]."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table  # [levels, features]

    def forward(self, x: Tensor) -> Tensor:
        """Levels to vectors."""
        rows = self.table.to(x.dtype)[x[:, 0].long().clamp(0, len(self.table) - 1)]
        return rows.permute(0, 3, 1, 2)  # [B, H, W, features] -> [B, features, H, W]


class Rows(nn.Module):
    """A function of each position, of values with features last."""

    def rows(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., features]"""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, features, H, W]"""
        return self.rows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # to features last, and back


class Padded(Rows):
    """One more feature, a constant."""

    def __init__(self, node: IntegerNode) -> None:
        super().__init__()
        self.value = node.numbers["value"]

    def rows(self, x: Tensor) -> Tensor:
        """[..., features] -> [..., features + 1]"""
        return F.pad(x, (0, 1), value=self.value)


class Crop(nn.Module):
    """The upper left part."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> [B, features, height, width]"""
        return x[:, :, : self.size[0], : self.size[1]]


class BothSigns(Rows):
    """A table at x and at -x, concatenated."""

    def __init__(self, node: IntegerNode) -> None:
        super().__init__()
        self.lookup = _table(node)

    def rows(self, x: Tensor) -> Tensor:
        """[..., features] -> [..., 2 * features]"""
        return self.lookup(torch.cat((x, -x), dim=-1))


class Gate(Rows):
    """round(a table[b] 2^s), clamped, of the two halves (a, b) of the features."""

    def __init__(self, node: IntegerNode) -> None:
        super().__init__()
        self.lookup = _table(node)
        self.low, self.high, self.factor = node.low, node.high, power(node.numbers["shift"])

    def rows(self, x: Tensor) -> Tensor:
        """[..., 2 * features] -> [..., features]"""
        a, b = x.chunk(2, dim=-1)
        return rounded((a * self.lookup(b)).mul_(self.factor), self.low, self.high)


class Normalize(Rows):
    """round((n x - S) 2^k / sqrt(n Q - S^2 + e)), clamped; S and Q are sums of x and x^2 over n features.

    This is a layer norm (Ba et al. 2016), with mean S / n and variance (n Q - S^2) / n^2, and both terms times n.
    """

    def __init__(self, node: IntegerNode) -> None:
        super().__init__()
        self.low, self.high = node.low, node.high
        self.factor, self.epsilon = power(node.numbers["shift"]), float(node.numbers["epsilon"])

    def rows(self, x: Tensor) -> Tensor:
        """[..., features] -> same"""
        wide, n = x.double(), x.shape[-1]
        total = wide.sum(-1, keepdim=True)
        spread = n * wide.square().sum(-1, keepdim=True) - total.square() + self.epsilon
        found = (n * wide - total).mul_(self.factor).div_(spread.sqrt_())
        return rounded(found, self.low, self.high).to(x.dtype)


ROWS: dict[str, Callable[[IntegerNode], Rows]] = {
    "both-signs": BothSigns, "gate": Gate, "normalize": Normalize, "padded": Padded,
}  # fmt: skip
"""Name of a kind that mixes the features of a position -> its function."""


def _linear(node: IntegerNode) -> ir.Operation:
    taps = [tuple(tap) for tap in node.numbers["taps"]]
    stride = tuple(node.numbers["stride"])
    kernel = Kernel(taps, node.tensors["weight"], node.tensors["bias"], stride)
    return ir.Linear(lambda: kernel)


def _unary(
    make: Callable[[IntegerNode], Callable[..., Tensor]], *constants: str
) -> Callable[[IntegerNode], ir.Operation]:
    """An elementwise function of one input and of constants [F or 1, H or 1, W or 1]."""

    def operation(node: IntegerNode) -> ir.Operation:
        args = [ir.Constant(partial(_tensor, node.tensors[name].double())) for name in constants]
        return ir.Elementwise(make(node), (ir.Operand(0), *args), {})

    return operation


def _tensor(value: Tensor, _: ir.Constants) -> Tensor:
    return value


def _factors(node: IntegerNode) -> ir.Operation:
    """Rescaling by integers times powers of two, per feature."""
    factors = times_powers(node.tensors["multiplier"], node.tensors["shift"])
    return ir.Elementwise(Rescale(node), (ir.Operand(0), ir.Constant(partial(_tensor, factors))), {})


def _binary(make: Callable[[IntegerNode], Callable[..., Tensor]]) -> Callable[[IntegerNode], ir.Operation]:
    return lambda node: ir.Elementwise(make(node), (ir.Operand(0), ir.Operand(len(node.inputs) - 1)), {})


def _pointwise(make: Callable[[IntegerNode], nn.Module]) -> Callable[[IntegerNode], ir.Operation]:
    return lambda node: ir.Pointwise(make(node))


def _table(node: IntegerNode) -> Lookup:
    return Lookup(node.numbers["first"], node.tensors["table"])


class Relu:
    """max(x, 0)"""

    def __call__(self, x: Tensor) -> Tensor:
        """Values of any shape -> same."""
        return x.clamp(min=0)


def _shift(node: IntegerNode) -> ir.Operation:
    where = node.edges[0].where
    assert isinstance(where, Offsets)
    return ir.Shift(where)


OPERATIONS: dict[str, Callable[[IntegerNode], ir.Operation]] = {
    "image": lambda _: ir.Image(),
    "linear": _linear,
    "rescale": _factors,
    "table": _unary(_table),
    "relu": _unary(lambda _: Relu()),
    "negative": _unary(lambda _: torch.neg),
    "sum": _binary(Sum),
    "product": _binary(Product),
    "affine": _unary(Affine, "multiplier", "constant"),
    "concat": lambda node: ir.Concat(tuple((int(i), int(f)) for i, f in node.numbers["origin"])),
    "shift": _shift,
    "shuffle": lambda node: ir.Shuffle(node.numbers["factor"]),
    "embedding": _pointwise(lambda node: Embedding(node.tensors["table"])),
    "crop": _pointwise(lambda node: Crop(node.size)),
    **{kind: _pointwise(make) for kind, make in ROWS.items()},
}
"""Name of a kind that acts on positions alone, or by taps -> the operation of a node; :mod:`.kinds` adds the others."""


def here(sources: tuple[int, ...], features: int, same: bool = True) -> tuple[ir.Edge, ...]:
    """Reads at the same position: of the same feature of each input, or of all features."""
    mask = torch.eye(features, dtype=torch.bool) if same else None
    return tuple(ir.Edge(source, HERE, mask, number) for number, source in enumerate(sources))
