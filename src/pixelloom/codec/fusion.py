"""Fusion: fewer, larger steps that compute the same integers.

Three rewrites, for networks that draw all channels of a pixel at once:

    clusters   nodes that act on each position alone, 1x1 linear layers among them, become one operation, if nothing
               else reads what is between them
    factors    a power of two that rescales the sums of a linear layer is moved into its weights: products with powers
               of two are exact, so that the sums are the same numbers
    gates      table_1[a] table_2[b] of the two halves (a, b) of a value takes one lookup

A clamp whose input cannot exceed it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.codec.kinds import executable
from pixelloom.codec.operations import ROWS, IntegerNode, Lookup, here, power, times_powers
from pixelloom.codec.parallel import readers_of
from pixelloom.layers.reads import Kernel
from pixelloom.sampling.fast import ir

Function = Callable[..., Tensor]
"""Values [..., features] -> value [..., features]."""


class Cluster(nn.Module):
    """A sequence of functions, each of inputs and of results before it.

    Args:
        inputs: number of inputs.
        steps: (function, indices of its arguments, indices that no later function reads); the inputs have the first
            indices, and each function the next one.
    """

    def __init__(self, inputs: int, steps: Sequence[tuple[Function, tuple[int, ...], tuple[int, ...]]]) -> None:
        super().__init__()
        self.inputs, self.steps = inputs, steps

    def rows(self, *inputs: Tensor) -> Tensor:
        """Each [..., features] -> [..., features]"""
        values: list[Any] = list(inputs)
        for function, arguments, dead in self.steps:
            if len(arguments) == 1:
                values.append(function(values[arguments[0]]))
            else:
                values.append(function(*[values[i] for i in arguments]))
            for i in dead:
                values[i] = None
        return cast(Tensor, values[-1])

    def forward(self, *planes: Tensor) -> Tensor:
        """Each [B, features, H, W] -> [B, features, H, W]"""
        return self.rows(*(x.permute(0, 2, 3, 1) for x in planes)).permute(0, 3, 1, 2)  # to features last, and back


class _Constant:
    """Numbers in the precision of a value."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.double()
        self._copies: dict[torch.dtype, Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """In the precision of x."""
        if x.dtype not in self._copies:
            self._copies[x.dtype] = self.value.to(x.dtype)
        return self._copies[x.dtype]


class _Rounded:
    """round(x), clamped where that changes something."""

    def __init__(self, node: IntegerNode, largest: float) -> None:
        self.low, self.high = node.low, node.high
        self.clamps = largest > self.high or -largest < self.low

    def __call__(self, x: Tensor) -> Tensor:
        """Of a temporary tensor, in place."""
        return x.round_().clamp_(self.low, self.high) if self.clamps else x.round_()


class _Linear:
    """A 1x1 linear layer, and the rescaling of its sums if there is one."""

    def __init__(self, node: IntegerNode, after: IntegerNode | None) -> None:
        factor = torch.ones(1, dtype=torch.float64) if after is None else _factor(after)
        weight = node.tensors["weight"].double()[0]  # [1, in, out] -> [in, out]
        self.weight, self.bias = _Constant((weight * factor).T.contiguous()), _Constant(node.tensors["bias"] * factor)
        self.rounded = None if after is None else _Rounded(after, node.largest * float(factor.max()))

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]"""
        sums = F.linear(x, self.weight.like(x), self.bias.like(x))
        return sums if self.rounded is None else self.rounded(sums)


class _Rescale:
    """round(x factor), clamped; the factor may be in x already."""

    def __init__(self, node: IntegerNode, largest: int, *, applied: bool) -> None:
        factor = _factor(node)
        self.factor = None if applied or bool((factor == 1).all()) else _Constant(factor)
        self.rounded = _Rounded(node, largest * float(factor.max()))
        self.whole = not applied

    def __call__(self, x: Tensor) -> Tensor:
        """[..., features] -> same"""
        if self.factor is not None:
            return self.rounded(x * self.factor.like(x))
        return x.clamp(self.rounded.low, self.rounded.high) if self.whole else self._first(x)

    def _first(self, x: Tensor) -> Tensor:
        found = x.round()
        return found.clamp_(self.rounded.low, self.rounded.high) if self.rounded.clamps else found


class _Sum:
    """round(x 2^a + s y 2^b), clamped."""

    def __init__(self, node: IntegerNode, inputs: Sequence[IntegerNode]) -> None:
        a, b = node.numbers["shifts"]
        self.first, self.ratio = power(a), power(b - a) * node.numbers["sign"]
        most = inputs[0].largest * power(a) + inputs[-1].largest * power(b)
        self.whole, self.rounded = min(a, b) >= 0, _Rounded(node, most)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Values of equal shape, or one feature of either."""
        found = torch.add(x, y, alpha=self.ratio)
        if self.first != 1:
            found = found.mul_(self.first)
        if self.whole:
            return found.clamp_(self.rounded.low, self.rounded.high) if self.rounded.clamps else found
        return self.rounded(found)


class _Product:
    """round(x y 2^a), clamped."""

    def __init__(self, node: IntegerNode, inputs: Sequence[IntegerNode]) -> None:
        self.factor = power(node.numbers["shift"])
        self.rounded = _Rounded(node, inputs[0].largest * inputs[-1].largest * self.factor)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Values of equal shape, or one feature of either."""
        return self.rounded((x * y).mul_(self.factor))


class _Affine:
    """round((x m + c) 2^a), clamped."""

    def __init__(self, node: IntegerNode) -> None:
        factor = power(node.numbers["shift"])
        multiplier, constant = (node.tensors[name].double().flatten() for name in ("multiplier", "constant"))
        self.multiplier, self.constant = _Constant(multiplier * factor), _Constant(constant * factor)
        self.rounded = _Rounded(node, torch.inf)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., features or 1] -> [..., features]"""
        return self.rounded(torch.addcmul(self.constant.like(x), x, self.multiplier.like(x)))


class _Gates:
    """round(table_1[a] table_2[b] 2^s), clamped, for the halves (a, b) of the features."""

    def __init__(self, node: IntegerNode, tables: Sequence[IntegerNode]) -> None:
        first, second = (table.tensors["table"].double() for table in tables)
        factor = power(node.numbers["shift"])
        self.table = _Constant(torch.cat((first * factor, second)))
        starts = [-tables[0].numbers["first"], len(first) - tables[1].numbers["first"]]
        self.offset = torch.tensor(starts, dtype=torch.int32).repeat_interleave(node.features)
        self.rounded = _Rounded(node, float(first.abs().max()) * factor * float(second.abs().max()))

    def __call__(self, x: Tensor) -> Tensor:
        """[..., 2 * features] -> [..., features]"""
        index = x.to(torch.int32).add_(self.offset)
        a, b = self.table.like(x).index_select(0, index.view(-1)).view(x.shape).chunk(2, dim=-1)
        return self.rounded(a * b)


def fused(nodes: Sequence[IntegerNode], groups: int) -> list[ir.Node]:
    """The nodes that the parallel pass and the fast sampler execute.

    Args:
        nodes: of a lowered network.
        groups: channel groups of the head. With several, features of a value belong to different steps, and nothing is
            fused.
    """
    if groups > 1:
        return [executable(node) for node in nodes]
    return _Fusion(nodes).run()


class _Fusion:
    def __init__(self, nodes: Sequence[IntegerNode]) -> None:
        self.nodes = nodes
        self.readers = readers_of([node.inputs for node in nodes])
        self.cluster: list[int | None] = [None] * len(nodes)  # the last node of the cluster of each node
        for number in reversed(range(1, len(nodes))):
            if _acts_here(nodes[number]):
                found = {self.cluster[reader] for reader in self.readers[number]}
                (only,) = found if len(found) == 1 else (None,)
                self.cluster[number] = number if only is None else only
        # Linear layers whose only reader applies a power of two
        self.scaled = {
            number: readers[0]
            for number, readers in enumerate(self.readers)
            if nodes[number].kind == "linear" and len(readers) == 1 and _is_shift(nodes[readers[0]])
        }

    def run(self) -> list[ir.Node]:
        out: list[ir.Node] = []
        renumbered: dict[int, int] = {}
        for number, node in enumerate(self.nodes):
            root = self.cluster[number]
            if root is not None and root != number:
                continue
            if root is None:
                made = executable(node)
                if number in self.scaled:
                    factor = _factor(self.nodes[self.scaled[number]])
                    made = replace(made, operation=ir.Linear(partial(_scaled, _kernel(made), factor)))
                made = made.with_inputs(renumbered)
            else:
                made = self._clustered(root, renumbered)
            renumbered[number] = len(out)
            out.append(made)
        return out

    def _clustered(self, root: int, renumbered: dict[int, int]) -> ir.Node:
        members = [number for number in range(root + 1) if self.cluster[number] == root]
        inside = set(members)
        inputs = list(dict.fromkeys(i for number in members for i in self.nodes[number].inputs if i not in inside))
        steps = self._steps(members)
        places = {number: place for place, number in enumerate(inputs)}
        for place, (number, _, _) in enumerate(steps):
            places[number] = len(inputs) + place
        read = [tuple(places[i] for i in arguments) for _, _, arguments in steps]
        last = {i: place for place, arguments in enumerate(read) for i in arguments}
        done = [tuple(i for i, place in last.items() if place == own) for own in range(len(steps))]
        module = Cluster(len(inputs), [(f, a, d) for (_, f, _), a, d in zip(steps, read, done, strict=True)])
        sources = tuple(renumbered[i] for i in inputs)
        node = self.nodes[root]
        edges = here(sources, node.features, same=False)
        return ir.Node(node.name, ir.Pointwise(module), sources, edges, node.features, node.size)

    def _steps(self, members: list[int]) -> list[tuple[int, Function, tuple[int, ...]]]:
        """(number of a node, its function, numbers of its arguments) of a cluster, without what is merged."""
        merged: set[int] = set()
        found: list[tuple[int, Function, tuple[int, ...]]] = []
        for number in reversed(members):
            if number in merged:
                continue
            node = self.nodes[number]
            inputs = [self.nodes[i] for i in node.inputs]
            gate = self._gate(number) if node.kind == "product" else None
            if gate is not None:
                source, tables, between = gate
                merged |= set(between)
                found.append((number, _Gates(node, tables), (source,)))
            elif node.kind == "rescale" and self.scaled.get(node.inputs[0]) == number:
                source = node.inputs[0]
                if self.cluster[source] is None:
                    found.append((number, _Rescale(node, inputs[0].largest, applied=True), node.inputs))
                else:
                    merged.add(source)
                    found.append((number, _Linear(inputs[0], node), inputs[0].inputs))
            else:
                found.append((number, _function(node, inputs), node.inputs))
        return found[::-1]

    def _gate(self, number: int) -> tuple[int, list[IntegerNode], list[int]] | None:
        """(number of the source, tables, numbers of the nodes between) if a product is a gate of two tables."""
        tables = list(self.nodes[number].inputs)
        if len(set(tables)) != 2 or any(self.nodes[i].kind != "table" for i in tables):
            return None
        halves = [self.nodes[i].inputs[0] for i in tables]
        if len(set(halves)) != 2 or any(self.nodes[i].kind != "concat" for i in halves):
            return None
        if any(self.readers[i] != [number] for i in tables) or any(len(self.readers[i]) > 1 for i in halves):
            return None
        (source, *others), features = {self.nodes[i].inputs for i in halves}, self.nodes[number].features
        origins = [self.nodes[i].numbers["origin"] for i in halves]
        wanted = [[[0, half * features + i] for i in range(features)] for half in (0, 1)]
        whole = self.nodes[source[0]].features == 2 * features
        alone = all(self.cluster[i] == self.cluster[number] for i in (*tables, *halves))
        if others or len(source) != 1 or origins != wanted or not whole or not alone:
            return None
        return source[0], [self.nodes[i] for i in tables], [*tables, *halves]


def _acts_here(node: IntegerNode) -> bool:
    """Whether a node may belong to a cluster."""
    if node.kind == "linear":
        return node.numbers["taps"] == [[0, 0]] and tuple(node.numbers["stride"]) == (1, 1)
    if node.kind in ("rescale", "affine"):
        return all(tensor.shape[1:] == (1, 1) for tensor in node.tensors.values())
    return node.kind in ("table", "relu", "negative", "sum", "product", "concat", *ROWS)


def _function(node: IntegerNode, inputs: Sequence[IntegerNode]) -> Function:
    """The function of a node on values with features last."""
    match node.kind:
        case "linear":
            return _Linear(node, None)
        case "rescale":
            return _Rescale(node, inputs[0].largest, applied=False)
        case "table":
            return Lookup(node.numbers["first"], node.tensors["table"])
        case "relu":
            return partial(torch.clamp, min=0)
        case "negative":
            return torch.neg
        case "sum":
            return _Sum(node, inputs)
        case "product":
            return _Product(node, inputs)
        case "affine":
            return _Affine(node)
        case "concat":
            return _concat(node)
        case _:
            return ROWS[node.kind](node).rows


def _concat(node: IntegerNode) -> Function:
    pieces: list[tuple[int, int, int]] = []  # (input, first feature, end)
    for source, feature in node.numbers["origin"]:
        if pieces and pieces[-1][0] == source and pieces[-1][2] == feature:
            pieces[-1] = (source, pieces[-1][1], feature + 1)
        else:
            pieces.append((source, feature, feature + 1))
    if len(pieces) == 1:
        ((_, first, end),) = pieces
        return lambda *values: values[pieces[0][0]][..., first:end]
    return lambda *values: torch.cat([values[source][..., first:end] for source, first, end in pieces], dim=-1)


def _is_shift(node: IntegerNode) -> bool:
    """Whether a node multiplies by powers of two alone, one for each feature or for all."""
    return node.kind == "rescale" and _acts_here(node) and bool((node.tensors["multiplier"] == 1).all())


def _factor(node: IntegerNode) -> Tensor:
    """The factors of a rescaling node, float64 [features or 1]."""
    return times_powers(node.tensors["multiplier"], node.tensors["shift"]).flatten()


def _kernel(node: ir.Node) -> Kernel:
    assert isinstance(node.operation, ir.Linear)
    return node.operation.kernel()


def _scaled(kernel: Kernel, factor: Tensor) -> Kernel:
    assert kernel.bias is not None
    return kernel._replace(weight=kernel.weight.double() * factor, bias=kernel.bias.double() * factor)
