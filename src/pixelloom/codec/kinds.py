"""The kinds of nodes of a lowered network: names, and what executes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pixelloom.codec.operations import OPERATIONS, IntegerNode
from pixelloom.codec.sequences import CausalSoftmax, Cell, PositionLinear, RunningSum
from pixelloom.layers.reads import Earlier
from pixelloom.sampling.fast import ir


def _recurrence(make: Callable[[IntegerNode], Any]) -> Callable[[IntegerNode], ir.Operation]:
    def operation(node: IntegerNode) -> ir.Operation:
        made = make(node)
        return ir.Recurrence(made.step, made.carried)

    return operation


def _attention(make: Callable[[IntegerNode], Any]) -> Callable[[IntegerNode], ir.Operation]:
    def operation(node: IntegerNode) -> ir.Operation:
        own = any(isinstance(edge.where, Earlier) and edge.where.own for edge in node.edges)
        return ir.Attention(make(node).attend, own)

    return operation


KINDS: dict[str, Callable[[IntegerNode], ir.Operation]] = {
    **OPERATIONS,
    "lstm": _recurrence(Cell),
    "running-sum": _recurrence(RunningSum),
    "attention": _attention(CausalSoftmax),
    "position-linear": _attention(PositionLinear),
}
"""Name of a kind -> the operation of a node of this kind."""


def executable(node: IntegerNode) -> ir.Node:
    """The node that the parallel pass and the fast sampler execute."""
    return ir.Node(node.name, KINDS[node.kind](node), node.inputs, node.edges, node.features, node.size)
