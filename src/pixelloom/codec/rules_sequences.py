"""Rules of recurrences, attention, and other layers that sum over positions or features."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pixelloom.codec.lowering import Lowering, Value, as_integer
from pixelloom.codec.operations import here
from pixelloom.codec.sequences import EXPONENTIAL
from pixelloom.core.errors import ModelError
from pixelloom.layers.causal_attention import CausalAttention
from pixelloom.layers.recurrent import DiagonalLSTM, RasterSum, RowLSTM
from pixelloom.networks.pixel.made import MaskedLinear
from pixelloom.sampling.fast import ir
from pixelloom.sampling.fast.ir import Node

_CELL = (1 << 23) - 1  # largest magnitude of the integers of a cell
_WEIGHT = (1 << 15) - 1  # largest magnitude of a weight whose sums are taken in float64


def recurrence(lowering: Lowering, number: int, node: Node, operation: ir.Recurrence) -> Value:
    """An LSTM or a running sum.

    Raises:
        ModelError: for another recurrence.
    """
    owner: Any = getattr(operation.step, "__self__", None)
    if isinstance(owner, RowLSTM):
        return _cell(lowering, number, node, owner, owner.radius)
    if isinstance(owner, DiagonalLSTM):
        return _cell(lowering, number, node, owner, 0)
    if isinstance(owner, RasterSum):
        return _running_sum(lowering, node)
    raise ModelError(f"{node.name} ({type(owner).__name__}): this layer cannot be lowered to integers")


def attention(lowering: Lowering, number: int, node: Node, operation: ir.Attention) -> Value:
    """Causal attention, or the masked linear layers of MADE, which have its interface.

    Raises:
        ModelError: for another layer.
    """
    owner: Any = getattr(operation.attend, "__self__", None)
    if isinstance(owner, CausalAttention):
        return _softmax(lowering, number, node, owner)
    if isinstance(owner, MaskedLinear):
        return _position_linear(lowering, number, node, owner)
    raise ModelError(f"{node.name} ({type(owner).__name__}): this layer cannot be lowered to integers")


def _cell(lowering: Lowering, number: int, node: Node, layer: RowLSTM | DiagonalLSTM, center: int) -> Value:
    """An LSTM, whose state is [h, c] with two exponents, and a node that brings both to that of h."""
    source = lowering.aligned(lowering.inputs(node)[0], node.inputs[0])
    bits = lowering.bits(number)
    hidden, most = bits - 1, (1 << (bits - 1)) - 1  # h lies in -1 .. 1
    cell = min(22, lowering.exponent(lowering.largest[number], 24))
    weight = layer.weight.detach().double()
    k = _finest(float(weight.abs().max()))
    numbers = {
        "carried": [list(offset) for offset in layer.carried], "center": center, "input": source.e, "weight": k,
        "hidden": hidden, "cell": cell, "most": most,
    }  # fmt: skip
    state = lowering.emit(
        "lstm", node, [source.number], lowering.edges(node, [source]), (-_CELL, _CELL), hidden, numbers=numbers,
        tensors={"weight": (weight * 2.0**k).round().to(torch.int16)},
    )  # fmt: skip
    shift = torch.zeros(node.features, 1, 1, dtype=torch.long)
    shift[node.features // 2 :] = hidden - cell
    like = Node(node.name, ir.Image(), (), (), node.features, node.size)
    return lowering.emit(
        "rescale", like, [state.number], here((state.number,), node.features), (-most, most), hidden,
        tensors={"multiplier": torch.ones_like(shift), "shift": shift},
    )  # fmt: skip


def _running_sum(lowering: Lowering, node: Node) -> Value:
    positions = node.size[0] * node.size[1]
    source = lowering.aligned(lowering.inputs(node)[0], node.inputs[0])
    bits = math.floor(math.log2((lowering.profile.bound - 1) / positions)) + 1
    source = lowering.narrow(source, node.inputs[0], min(bits, lowering.profile.pre))
    bounds = (-positions * source.largest, positions * source.largest)
    edges = lowering.edges(node, [source])
    return lowering.emit("running-sum", node, [source.number], edges, bounds, source.e)


def total(lowering: Lowering, number: int, node: Node, module: Any) -> Value:
    """The sum over the features: a linear layer with weights of 1."""
    source = lowering.aligned(lowering.inputs(node)[0], node.inputs[0])
    features = lowering.out[source.number].features
    bits = math.floor(math.log2((lowering.profile.bound - 1) / features)) + 1
    source = lowering.narrow(source, node.inputs[0], min(bits, lowering.profile.pre))
    largest = features * source.largest
    sums = lowering.emit(
        "linear", node, [source.number], lowering.edges(node, [source]), (-largest, largest), source.e,
        numbers={"taps": [[0, 0]], "stride": [1, 1]},
        tensors={
            "weight": torch.ones(1, features, 1, dtype=torch.int16), "bias": torch.zeros(1, dtype=torch.int32),
        },
    )  # fmt: skip
    exponent, bounds = lowering.range(number, lowering.bits(number))
    return lowering.rescaled(sums, min(exponent, source.e), bounds)


def _softmax(lowering: Lowering, number: int, node: Node, layer: CausalAttention) -> Value:
    q, k, v = (
        lowering.narrow(lowering.aligned(value, source), source, lowering.profile.act)
        for value, source in zip(lowering.inputs(node), node.inputs, strict=True)
    )
    size = lowering.nodes[node.inputs[0]].features // layer.heads
    multiplier, shift = as_integer(size**-0.5 * 2.0 ** (EXPONENTIAL - q.e - k.e), (1 << 12) - 1)
    exponent, bounds = lowering.range(number, lowering.bits(number))
    numbers = {"heads": layer.heads, "multiplier": multiplier, "score": -shift, "shift": exponent - v.e}
    edges = lowering.edges(node, [q, k, v])
    return lowering.emit("attention", node, [q.number, k.number, v.number], edges, bounds, exponent, numbers=numbers)


def _position_linear(lowering: Lowering, number: int, node: Node, layer: MaskedLinear) -> Value:
    value = lowering.inputs(node)[2]
    source = lowering.narrow(value, node.inputs[2], lowering.profile.pre)
    positions = len(layer.mask)
    # [positions * out, positions * in] -> [positions, out, positions, in]
    weight = layer.weight.detach().double().view(positions, layer.out_features, positions, layer.in_features)
    weight = weight * layer.mask * source.scale
    bias = layer.bias.detach().double().view(positions, layer.out_features)
    k = torch.floor(torch.log2(_WEIGHT / weight.abs().amax((2, 3)).clamp(min=2.0**-30)))
    k = torch.minimum(k, torch.floor(torch.log2(2.0**45 / bias.abs().clamp(min=1e-9))))
    exponent, bounds = lowering.range(number, lowering.bits(number))
    tensors: dict[str, Tensor] = {
        "weight": (weight * (2**k)[:, :, None, None]).round().to(torch.int16),
        "bias": (bias * 2**k).round().long(), "shift": (exponent - k).long(),
    }  # fmt: skip
    edges = lowering.edges(node, [source] * 3)
    return lowering.emit("position-linear", node, [source.number] * 3, edges, bounds, exponent, tensors=tensors)


def _finest(peak: float) -> int:
    """The largest k for which weights times 2^k are integers of 16 bits."""
    return min(30, math.floor(math.log2(_WEIGHT / peak))) if peak else 0
