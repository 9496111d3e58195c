"""Passes: rewrites of the nodes that preserve the network's function and save work at each step.

``fold_affine``            Linear -> scale -> shift, as before a batch norm, becomes one Linear
``fold_norms``               layer norm -> scale -> shift becomes one function
``split_ordered_kernels``  a convolution of C ordered channels becomes a sum of two. The taps before the center are read
                           alike by all channels and are computed once per pixel; the center is computed per channel,
                           as the channels of a pixel become ready at C different steps
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.blocks import Normalize
from pixelloom.layers.reads import HERE, Kernel, Offsets, Position
from pixelloom.sampling.fast.ir import (
    Constant,
    Constants,
    Edge,
    Elementwise,
    Linear,
    Node,
    Operand,
    Operation,
    Pointwise,
)


def fold_affine(nodes: list[Node]) -> list[Node]:
    """Fold scales and shifts per feature into the linear layer before them, where nothing else reads that layer."""
    readers = [0] * len(nodes)
    for node in nodes:
        for source in node.inputs:
            readers[source] += 1
    renumbered: dict[int, int] = {}
    out: list[Node] = []
    for number, node in enumerate(nodes):
        before = renumbered[node.inputs[0]] if node.inputs and readers[node.inputs[0]] == 1 else None
        if before is not None and isinstance(linear := out[before].operation, Linear):
            affine = _affine_constant(node.operation)
            if affine and node.features == out[before].features:  # not one feature broadcast to many
                out[before] = replace(out[before], operation=Linear(partial(_fold_into_kernel, linear.kernel, *affine)))
                renumbered[number] = before
                continue
        renumbered[number] = len(out)
        out.append(node.with_inputs(renumbered))
    return out


def fold_norms(nodes: list[Node]) -> list[Node]:
    """Fold scales and shifts per feature into the layer norm before them, where nothing else reads the norm."""
    readers = Counter(source for node in nodes for source in node.inputs)
    renumbered: dict[int, int] = {}
    out: list[Node] = []
    for number, node in enumerate(nodes):
        before = out[renumbered[node.inputs[0]]] if node.inputs and readers[node.inputs[0]] == 1 else None
        norm = before.operation.module if before and isinstance(before.operation, Pointwise) else None
        affine = _affine_constant(node.operation)
        if before and affine and isinstance(norm, Normalize | AffineNorm) and node.features == before.features:
            function, constant = affine
            gain, bias = (norm.gain, norm.bias) if isinstance(norm, AffineNorm) else (None, None)
            if bias is None and (function is operator.add or gain is None):
                changed = AffineNorm(gain, constant) if function is operator.add else AffineNorm(constant, None)
                out[renumbered[node.inputs[0]]] = replace(before, operation=Pointwise(changed))
                renumbered[number] = renumbered[node.inputs[0]]
                continue
        renumbered[number] = len(out)
        out.append(node.with_inputs(renumbered))
    return out


class AffineNorm(nn.Module):
    """Layer norm over the features of each position, with the current gain and bias."""

    def __init__(self, gain: Constant | None, bias: Constant | None) -> None:
        super().__init__()
        self.gain, self.bias = gain, bias

    def rows(self, x: Tensor) -> Tensor:
        """[M, features] -> same"""
        # [features, 1, 1] -> [features]
        gain, bias = (
            None if one is None else Constants().resolve(one).flatten().to(x) for one in (self.gain, self.bias)
        )
        return F.layer_norm(x, x.shape[-1:], gain, bias)


def _affine_constant(operation: Operation) -> tuple[Callable[..., Any], Constant] | None:
    """(mul or add, constant) where an operation scales or shifts each feature by a number of its own."""
    if not isinstance(operation, Elementwise) or operation.function not in (operator.mul, operator.add):
        return None
    if not isinstance(constant := operation.args[1], Constant) or constant.conditioned:
        return None
    value = Constants().resolve(constant)
    per_feature = isinstance(value, Tensor) and value.ndim == 3 and value.shape[1:] == (1, 1)
    return (operation.function, constant) if per_feature else None


def _fold_into_kernel(kernel: Callable[[], Kernel], function: Callable[..., Any], constant: Constant) -> Kernel:
    """The kernel of a linear layer followed by a scale s, s (W x + b), or by a shift t, W x + (b + t)."""
    before, value = kernel(), Constants().resolve(constant).flatten()  # [features, 1, 1] -> [features]
    bias = torch.zeros_like(value) if before.bias is None else before.bias
    weight = before.weight * value if function is operator.mul else before.weight
    return before._replace(weight=weight, bias=function(bias, value))


def split_ordered_kernels(nodes: list[Node]) -> list[Node]:
    """Split each convolution of ordered channels into the taps that all channels read alike, and the center."""
    renumbered: dict[int, int] = {}
    out: list[Node] = []
    for number, node in enumerate(nodes):
        new = node.with_inputs(renumbered)
        alike = tuple(edge for edge in new.edges if edge.features is None)
        differing = tuple(edge for edge in new.edges if edge.features is not None and _differs(edge.features))
        if isinstance(new.operation, Linear) and alike and differing and len(alike) + len(differing) == len(new.edges):
            kernel = new.operation.kernel
            out.append(replace(new, operation=Linear(partial(_select_taps, kernel, alike)), edges=alike))
            out.append(replace(new, operation=Linear(partial(_select_taps, kernel, differing)), edges=differing))
            same = torch.eye(node.features, dtype=torch.bool)
            terms = (len(out) - 2, len(out) - 1)
            total = Elementwise(operator.add, (Operand(0), Operand(1)), {})
            new = Node(node.name, total, terms, tuple(Edge(i, HERE, same) for i in terms), node.features, node.size)
        renumbered[number] = len(out)
        out.append(new)
    return out


def _differs(features: Tensor) -> bool:
    """Whether output features read different input features."""
    return bool((features != features[:1]).any())


def _select_taps(kernel: Callable[[], Kernel], edges: tuple[Edge, ...]) -> Kernel:
    """The taps of a kernel that some edges stand for; the bias belongs to the taps before the center."""
    whole = kernel()
    taps: list[Position] = [tap for edge in edges if isinstance(edge.where, Offsets) for tap in edge.where.taps]
    chosen = [number for number, tap in enumerate(whole.taps) if tap in taps]
    bias = whole.bias if edges[0].features is None else None
    return whole._replace(taps=[whole.taps[number] for number in chosen], weight=whole.weight[chosen], bias=bias)
