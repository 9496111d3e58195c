"""Changes to a traced network that leave what it computes as it is and save work where it is run step by step."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pixelloom.layers.reads import HERE, Kernel, Offsets, Position
from pixelloom.sampling.fast.ir import Constant, Constants, Each, Edge, Linear, Node, Operation, Slot


def folded(nodes: list[Node]) -> list[Node]:
    """Scales and shifts of each feature, as of a batch norm, taken into the linear layer that they alone follow."""
    readers = [0] * len(nodes)
    for node in nodes:
        for source in node.inputs:
            readers[source] += 1
    place: dict[int, int] = {}
    out: list[Node] = []
    for number, node in enumerate(nodes):
        before = place[node.inputs[0]] if node.inputs and readers[node.inputs[0]] == 1 else None
        if before is not None and isinstance(linear := out[before].operation, Linear):
            change = _feature_change(node.operation)
            if change and node.features == out[before].features:  # not one feature spread over many
                out[before] = replace(out[before], operation=Linear(partial(_changed, linear.kernel, *change)))
                place[number] = before
                continue
        place[number] = len(out)
        edges = tuple(replace(edge, source=place[edge.source]) for edge in node.edges)
        out.append(replace(node, inputs=tuple(place[i] for i in node.inputs), edges=edges))
    return out


def _feature_change(operation: Operation) -> tuple[Callable[..., Any], Constant] | None:
    """(mul or add, constant) where an operation scales or shifts each feature by a number of its own."""
    if not isinstance(operation, Each) or operation.function not in (operator.mul, operator.add):
        return None
    if not isinstance(constant := operation.args[1], Constant) or constant.conditioned:
        return None
    value = Constants().of(constant)
    per_feature = isinstance(value, Tensor) and value.ndim == 3 and value.shape[1:] == (1, 1)
    return (operation.function, constant) if per_feature else None


def _changed(kernel: Callable[[], Kernel], change: Callable[..., Any], constant: Constant) -> Kernel:
    """The kernel of a linear layer and of the scale or shift that follows it."""
    before, value = kernel(), Constants().of(constant).flatten()
    bias = torch.zeros_like(value) if before.bias is None else before.bias
    weight = before.weight * value if change is operator.mul else before.weight
    return before._replace(weight=weight, bias=change(bias, value))


def ordered_apart(nodes: list[Node]) -> list[Node]:
    """A convolution of ordered channels as two: the taps before the center, which every channel reads alike and which
    are summed once a pixel for all of them, and the center, one channel at a time.
    """
    place: dict[int, int] = {}
    out: list[Node] = []
    for number, node in enumerate(nodes):
        edges = tuple(replace(edge, source=place[edge.source]) for edge in node.edges)
        moved = replace(node, inputs=tuple(place[i] for i in node.inputs), edges=edges)
        alike = tuple(edge for edge in edges if edge.features is None)
        differing = tuple(edge for edge in edges if edge.features is not None and _differs(edge.features))
        if isinstance(node.operation, Linear) and alike and differing and len(alike) + len(differing) == len(edges):
            kernel = node.operation.kernel
            out.append(replace(moved, operation=Linear(partial(_taps_of, kernel, alike)), edges=alike))
            out.append(replace(moved, operation=Linear(partial(_taps_of, kernel, differing)), edges=differing))
            every = torch.eye(node.features, dtype=torch.bool)
            parts = (len(out) - 2, len(out) - 1)
            sums = Each(operator.add, (Slot(0), Slot(1)), {})
            moved = Node(node.name, sums, parts, tuple(Edge(i, HERE, every) for i in parts), node.features, node.size)
        place[number] = len(out)
        out.append(moved)
    return out


def _differs(features: Tensor) -> bool:
    return bool((features != features[:1]).any())


def _taps_of(kernel: Callable[[], Kernel], edges: tuple[Edge, ...]) -> Kernel:
    """The part of a kernel that some edges stand for; the bias goes with the taps before the center."""
    whole = kernel()
    taps: list[Position] = [tap for edge in edges if isinstance(edge.where, Offsets) for tap in edge.where.taps]
    chosen = [number for number, tap in enumerate(whole.taps) if tap in taps]
    bias = whole.bias if edges[0].features is None else None
    return whole._replace(taps=[whole.taps[number] for number in chosen], weight=whole.weight[chosen], bias=bias)
