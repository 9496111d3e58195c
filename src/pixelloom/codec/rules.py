"""Rules: how each operation of a traced network is lowered to integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelloom.codec.lowering import Lowering, Value, name_of
from pixelloom.codec.rules_sequences import attention, recurrence, total
from pixelloom.core.errors import ModelError
from pixelloom.layers.blocks import Normalize
from pixelloom.layers.level_embedding import LevelEmbedding
from pixelloom.networks.pixel.nade import Total
from pixelloom.networks.pixel.pixelcnnpp import ConcatELU, Crop, Gate, Inside
from pixelloom.sampling.fast import ir
from pixelloom.sampling.fast.ir import Constant, Constants, Node, Operand

_SIGMOID_BITS = 11  # of the table of a gate: 2^10 steps from 0 to 1


def lower_node(lowering: Lowering, number: int) -> Value:
    """Lower one node; its inputs are lowered.

    Raises:
        ModelError: naming the node, if its operation has no rule.
    """
    node = lowering.nodes[number]
    match node.operation:
        case ir.Image():
            return _image(lowering, node)
        case ir.Linear(kernel=kernel):
            source = lowering.narrow(lowering.inputs(node)[0], node.inputs[0], lowering.profile.act)
            if number == len(lowering.nodes) - 1:
                most = (1 << (lowering.profile.pre - 1)) - 1
                return lowering.linear(node, source, kernel(), lowering.output_exponents, (-most, most))
            exponent, bounds = lowering.range(number, lowering.bits(number))
            return lowering.linear(node, source, kernel(), torch.tensor([exponent]), bounds)
        case ir.Elementwise():
            return _elementwise(lowering, number, node, node.operation)
        case ir.Concat(origin=origin):
            return _concat(lowering, node, origin)
        case ir.Shift():
            return _same(lowering, "shift", node, {})
        case ir.Shuffle(factor=factor):
            return _same(lowering, "shuffle", node, {"factor": factor})
        case ir.Pointwise(module=module):
            for kind, rule in POINTWISE.items():
                if isinstance(module, kind):
                    return rule(lowering, number, node, module)
            raise ModelError(f"{node.name} ({type(module).__name__}): this layer cannot be lowered to integers")
        case ir.Recurrence():
            return recurrence(lowering, number, node, node.operation)
        case ir.Attention():
            return attention(lowering, number, node, node.operation)
        case _:
            raise ModelError(f"{node.name} ({type(node.operation).__name__}): this layer cannot be lowered to integers")


def _image(lowering: Lowering, node: Node) -> Value:
    table = lowering.image
    bounds = (int(table.min()), int(table.max()))
    value = lowering.emit("image", node, [], (), bounds, 0, tensors={"table": table})
    exponent = 0 if lowering.scale == 1 else None
    return Value(value.number, lowering.scale, exponent, *bounds)


def _same(lowering: Lowering, kind: str, node: Node, numbers: dict[str, Any]) -> Value:
    """A copy of values: scale and bounds stay, and zeros may be shifted in."""
    source = lowering.inputs(node)[0]
    bounds = (min(0, source.low), max(0, source.high))
    edges = lowering.edges(node, [source])
    value = lowering.emit(kind, node, [source.number], edges, bounds, 0, numbers=numbers)
    return Value(value.number, source.scale, source.exponent, *bounds)


def _concat(lowering: Lowering, node: Node, origin: tuple[tuple[int, int], ...]) -> Value:
    sources, numbers = lowering.inputs(node), {"origin": [list(pair) for pair in origin]}
    if len(sources) > 1:
        if any(source.scale != sources[0].scale for source in sources):
            sources = [lowering.aligned(v, i) for v, i in zip(sources, node.inputs, strict=True)]
        if len({source.exponent for source in sources}) > 1:  # the finest units in which all fit
            most = (1 << (lowering.profile.pre - 1)) - 1
            spare = [max(0, math.floor(math.log2(most / source.largest))) for source in sources]
            exponent = min(source.e + bits for source, bits in zip(sources, spare, strict=True))
            sources = [lowering.converted(source, exponent) for source in sources]
    bounds = (min(source.low for source in sources), max(source.high for source in sources))
    edges = lowering.edges(node, sources)
    value = lowering.emit("concat", node, [source.number for source in sources], edges, bounds, 0, numbers=numbers)
    return Value(value.number, sources[0].scale, sources[0].exponent, *bounds)


# Elementwise functions


def _elementwise(lowering: Lowering, number: int, node: Node, operation: ir.Elementwise) -> Value:
    arguments = [*operation.args, *operation.kwargs.values()]
    operands = [value for value in arguments if isinstance(value, Operand)]
    constants = [value for value in arguments if isinstance(value, Constant)]
    if any(constant.conditioned for constant in constants):
        raise ModelError(f"{node.name}: depends on a class or a conditioning image; such models cannot be lowered")
    name = name_of(operation)
    if len(operands) == 1 and not constants and name not in ("add", "mul", "sub", "truediv"):
        if name == "relu":
            return _relu(lowering, node)
        if name == "neg":
            return _negative(lowering, node)
        return table(lowering, number, node, _of_one(operation))
    if len(operands) == 2 and not constants and not operation.kwargs:
        if name in ("add", "sub"):
            return _sum(lowering, number, node, -1 if name == "sub" else 1)
        if name == "mul":
            return _product(lowering, number, node)
    if len(operands) == 1 and len(operation.args) == 2 and not operation.kwargs and _with_constant(name, operation):
        (other,) = (value for value in operation.args if not isinstance(value, Operand))
        value = Constants().resolve(other)
        value = value.detach().double() if isinstance(value, Tensor) else torch.tensor(float(value)).double()
        value = -value if name == "sub" else 1 / value if name == "truediv" else value
        rule = _plus if name in ("add", "sub") else _times
        return rule(lowering, number, node, value.reshape(_at_least_3(value)))
    raise ModelError(f"{node.name}: the function {name!r} cannot be lowered to integers")


def _with_constant(name: str, operation: ir.Elementwise) -> bool:
    """Whether a function adds, subtracts, multiplies by or divides by a constant."""
    return name in ("add", "mul") or (name in ("sub", "truediv") and isinstance(operation.args[0], Operand))


def _at_least_3(value: Tensor) -> tuple[int, ...]:
    """[...] -> [F or 1, H or 1, W or 1]"""
    shape = tuple(value.shape)
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    return (1,) * (3 - len(shape)) + shape


def _of_one(operation: ir.Elementwise) -> Callable[[Tensor], Tensor]:
    """The function of its only operand."""

    def function(x: Tensor) -> Tensor:
        def given(value: Any) -> Any:
            return x if isinstance(value, Operand) else value

        found: Tensor = operation.function(
            *map(given, operation.args), **{name: given(value) for name, value in operation.kwargs.items()}
        )
        return found

    return function


def _relu(lowering: Lowering, node: Node) -> Value:
    source = lowering.inputs(node)[0]
    edges, bounds = lowering.edges(node, [source]), (max(0, source.low), max(0, source.high))
    value = lowering.emit("relu", node, [source.number], edges, bounds, 0)
    return Value(value.number, source.scale, source.exponent, *bounds)


def _negative(lowering: Lowering, node: Node) -> Value:
    source = lowering.inputs(node)[0]
    edges, bounds = lowering.edges(node, [source]), (-source.high, -source.low)
    value = lowering.emit("negative", node, [source.number], edges, bounds, 0)
    return Value(value.number, source.scale, source.exponent, *bounds)


def table(lowering: Lowering, number: int, node: Node, function: Callable[[Tensor], Tensor]) -> Value:
    """A function of one value, as a table over all integers of its input."""
    source = lowering.aligned(lowering.inputs(node)[0], node.inputs[0])
    source = lowering.narrow(source, node.inputs[0], lowering.profile.pre)
    found, exponent = tabulated(lowering, node, source, function, lowering.bits(number))
    edges, bounds = lowering.edges(node, [source]), (int(found.min()), int(found.max()))
    tensors, numbers = {"table": found}, {"first": source.low}
    return lowering.emit("table", node, [source.number], edges, bounds, exponent, numbers=numbers, tensors=tensors)


def tabulated(
    lowering: Lowering,
    node: Node,
    source: Value,
    function: Callable[[Tensor], Tensor],
    bits: int,
    low: int | None = None,
) -> tuple[Tensor, int]:
    """(table over the integers from ``low`` or the source's lowest to its highest, exponent of its entries)."""
    first = source.low if low is None else low
    real = function(torch.arange(first, source.high + 1).double() * source.scale)
    if not bool(torch.isfinite(real).all()):
        raise ModelError(f"{node.name}: is not finite for all possible inputs, so that it cannot be lowered")
    exponent = lowering.exponent(float(real.abs().max()), bits, margin=1.0)
    return (real * 2.0**exponent).round().to(torch.int16), exponent


def _sum(lowering: Lowering, number: int, node: Node, sign: int) -> Value:
    exponent, bounds = lowering.range(number, lowering.bits(number))
    a, b = (lowering.aligned(v, i) for v, i in zip(lowering.inputs(node), node.inputs, strict=True))
    while True:  # an integer of both terms in units of the finer one
        fine = max(a.e, b.e)
        total = a.largest * 2 ** (fine - a.e) + b.largest * 2 ** (fine - b.e)
        if total < lowering.profile.bound:
            break
        if a.e > b.e:
            a = _coarser(lowering, a)
        else:
            b = _coarser(lowering, b)
    shifts = [exponent - a.e, exponent - b.e]
    numbers = {"shifts": shifts, "sign": sign}
    return lowering.emit(
        "sum", node, [a.number, b.number], lowering.edges(node, [a, b]), bounds, exponent, numbers=numbers
    )


def _coarser(lowering: Lowering, value: Value) -> Value:
    """A value with one bit less behind the point."""
    return lowering.converted(value, value.e - 1)


def _product(lowering: Lowering, number: int, node: Node) -> Value:
    a, b = (lowering.aligned(v, i) for v, i in zip(lowering.inputs(node), node.inputs, strict=True))
    while a.largest * b.largest >= lowering.profile.bound:
        if a.largest >= b.largest:
            a = _coarser(lowering, a)
        else:
            b = _coarser(lowering, b)
    exponent, bounds = lowering.range(number, lowering.bits(number))
    numbers = {"shift": exponent - a.e - b.e}
    return lowering.emit(
        "product", node, [a.number, b.number], lowering.edges(node, [a, b]), bounds, exponent, numbers=numbers
    )


def _times(lowering: Lowering, number: int, node: Node, factor: Tensor) -> Value:
    source, exponent, bounds = _source_and_range(lowering, number, node)
    most = float(factor.abs().max())
    if not most:
        bounds = (0, 0)
    fine = math.floor(math.log2((lowering.profile.bound // 2) / source.largest / most)) if most else 0
    fine = min(fine, 16)
    tensors = {"multiplier": (factor * 2.0**fine).round().long(), "constant": torch.zeros(1, 1, 1, dtype=torch.long)}
    numbers = {"shift": exponent - source.e - fine}
    edges = lowering.edges(node, [source])
    return lowering.emit("affine", node, [source.number], edges, bounds, exponent, numbers=numbers, tensors=tensors)


def _plus(lowering: Lowering, number: int, node: Node, term: Tensor) -> Value:
    source, exponent, bounds = _source_and_range(lowering, number, node)
    most = float(term.abs().max()) * 2.0**source.e + source.largest
    fine = min(20, math.floor(math.log2((lowering.profile.bound - 1) / most)))
    if fine < 0:
        raise ModelError(f"{node.name}: adds a constant too large for its input, so that it cannot be lowered")
    constant = (term * 2.0 ** (source.e + fine)).round().long()
    tensors = {"multiplier": torch.tensor([[[2**fine]]]), "constant": constant}
    numbers = {"shift": exponent - source.e - fine}
    edges = lowering.edges(node, [source])
    return lowering.emit("affine", node, [source.number], edges, bounds, exponent, numbers=numbers, tensors=tensors)


def _source_and_range(lowering: Lowering, number: int, node: Node) -> tuple[Value, int, tuple[int, int]]:
    source = lowering.aligned(lowering.inputs(node)[0], node.inputs[0])
    return source, *lowering.range(number, lowering.bits(number))


# Layers that mix the features of a position


def _embedding(lowering: Lowering, number: int, node: Node, module: Any) -> Value:
    source = lowering.inputs(node)[0]
    if source.scale != 1 or source.low != 0:
        raise ModelError(f"{node.name}: reads something else than levels, so that it cannot be lowered")
    exponent, bounds = lowering.range(number, lowering.bits(number))
    weight = (module.weight.detach().double() * 2.0**exponent).round().clamp(*bounds).to(torch.int16)
    edges = lowering.edges(node, [source])
    return lowering.emit("embedding", node, [source.number], edges, bounds, exponent, tensors={"table": weight})


def _inside(lowering: Lowering, number: int, node: Node, module: Any) -> Value:
    source = lowering.inputs(node)[0]
    one = round(1 / source.scale)
    bounds = (source.low, max(source.high, one))
    edges = lowering.edges(node, [source])
    value = lowering.emit("padded", node, [source.number], edges, bounds, 0, numbers={"value": one})
    return Value(value.number, source.scale, source.exponent, *bounds)


def _concat_elu(lowering: Lowering, number: int, node: Node, module: Any) -> Value:
    source = lowering.aligned(lowering.inputs(node)[0], node.inputs[0])
    source = lowering.narrow(source, node.inputs[0], lowering.profile.pre)
    wide = Value(source.number, source.scale, source.exponent, -source.largest, source.largest)
    found, exponent = tabulated(lowering, node, wide, F.elu, lowering.bits(number))
    edges, bounds = lowering.edges(node, [source]), (int(found.min()), int(found.max()))
    tensors, numbers = {"table": found}, {"first": wide.low}
    return lowering.emit("both-signs", node, [source.number], edges, bounds, exponent, numbers=numbers, tensors=tensors)


def _gate(lowering: Lowering, number: int, node: Node, module: Any) -> Value:
    source = lowering.aligned(lowering.inputs(node)[0], node.inputs[0])
    source = lowering.narrow(source, node.inputs[0], lowering.profile.pre)
    found, fine = tabulated(lowering, node, source, torch.sigmoid, _SIGMOID_BITS)
    exponent, bounds = lowering.range(number, lowering.bits(number))
    numbers = {"first": source.low, "shift": exponent - source.e - fine}
    assert source.largest * int(found.max()) < lowering.profile.bound
    edges, tensors = lowering.edges(node, [source]), {"table": found}
    return lowering.emit("gate", node, [source.number], edges, bounds, exponent, numbers=numbers, tensors=tensors)


def _normalize(lowering: Lowering, number: int, node: Node, module: Any) -> Value:
    source = lowering.aligned(lowering.inputs(node)[0], node.inputs[0])
    exponent, bounds = lowering.range(number, lowering.bits(number))
    n = node.features
    epsilon = round(1e-5 * n**2 * 4.0**source.e)
    if n**2 * source.largest**2 + epsilon >= 1 << 53:
        raise ModelError(f"{node.name}: normalizes {n} features, too many to be lowered")
    numbers = {"shift": exponent, "epsilon": max(1, epsilon)}
    edges = lowering.edges(node, [source])
    return lowering.emit("normalize", node, [source.number], edges, bounds, exponent, numbers=numbers)


POINTWISE: dict[type, Callable[[Lowering, int, Node, Any], Value]] = {
    LevelEmbedding: _embedding,
    Inside: _inside,
    Crop: lambda lowering, number, node, module: _same(lowering, "crop", node, {}),
    ConcatELU: _concat_elu,
    Gate: _gate,
    Normalize: _normalize,
    Total: total,
}
"""Layer -> its rule."""
