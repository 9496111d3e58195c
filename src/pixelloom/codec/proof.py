"""The proof that a lowered network is exact: every intermediate result of every node is below the bound.

It follows from the integers alone: from the bounds of the inputs, and from weights, tables and factors. It is taken
when a network is lowered and again when it is loaded, so that a file of inconsistent numbers is refused
before it is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pixelloom.codec.kinds import KINDS
from pixelloom.codec.operations import IntegerNode
from pixelloom.codec.sequences import UNITS
from pixelloom.codec.tables import TOTAL_BITS
from pixelloom.core.errors import ModelError
from pixelloom.layers.reads import HERE, Closure, Earlier, Offsets

_WIDEST = 60  # largest magnitude of a binary exponent
_WIDE = ("normalize", "lstm", "attention", "position-linear")  # computed in float64
_READERS = ("linear", "shift", "shuffle", "lstm", "running-sum", "attention", "position-linear")  # of other positions
_INPUTS = {"sum": 2, "product": 2, "attention": 3, "position-linear": 3}  # number of inputs, where it is not one
_SAME = ("relu", "table", "rescale", "negative", "normalize", "shift", "crop")  # a feature reads its own


def prove(nodes: Sequence[IntegerNode], bound: int) -> list[int]:
    """The largest intermediate magnitude of each node.

    Raises:
        ModelError: naming the first node that may exceed the bound, or whose parameters are inconsistent.
    """
    found = []
    for number, node in enumerate(nodes):
        label = f"{node.name or 'node'} (node {number}, {node.kind})"
        _well_formed(nodes, number, label, bound)
        try:
            largest = _LARGEST[node.kind](node, [nodes[i] for i in node.inputs])
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
            raise ModelError(f"{label}: its parameters are inconsistent: {error}") from error
        most, precision = (
            (1 << 53, "float64") if node.kind in _WIDE else (bound, "float32" if bound <= 1 << 24 else "float64")
        )
        if largest >= most:
            raise ModelError(
                f"{label}: integers up to {largest} are not exact in {precision}, which needs less than {most}"
            )
        found.append(int(largest))
    return found


def _well_formed(nodes: Sequence[IntegerNode], number: int, label: str, bound: int) -> None:
    node = nodes[number]
    if node.kind not in KINDS or (node.kind == "image") != (number == 0):
        raise ModelError(f"{label}: a kind of node that is not known here; a newer Pixelloom may know it")
    if any(not 0 <= source < number for source in node.inputs) or (number and not node.inputs):
        raise ModelError(f"{label}: reads a node that does not come before it")
    if not -bound < node.low <= node.high < bound or node.features < 1 or min(node.size) < 1:
        raise ModelError(f"{label}: impossible bounds or sizes")
    if {edge.source for edge in node.edges} != set(node.inputs):
        raise ModelError(f"{label}: its reads do not fit its inputs")
    for edge in node.edges:
        if edge.source not in node.inputs or not 0 <= edge.input < len(node.inputs):
            raise ModelError(f"{label}: its reads do not fit its inputs")
        read = nodes[edge.source].features
        if node.kind not in _READERS and edge.where != HERE:
            raise ModelError(f"{label}: reads other positions than its own")
        if edge.features is not None and tuple(edge.features.shape) not in ((node.features, read), (read, read)):
            raise ModelError(f"{label}: its reads do not fit the features of its inputs")
    sources = [nodes[source] for source in node.inputs]
    if node.kind not in (*_READERS, "crop") and any(source.size != node.size for source in sources):
        raise ModelError(f"{label}: its grid is not that of its inputs")
    if node.kind != "concat" and len(sources) != _INPUTS.get(node.kind, min(1, number)):
        raise ModelError(f"{label}: reads {len(sources)} nodes, which does not fit its kind")
    if node.kind in _SAME and sources[0].features != node.features:
        raise ModelError(f"{label}: has other features than its input")
    if node.kind in ("sum", "product", "affine") and any(
        source.features not in (1, node.features) for source in sources
    ):
        raise ModelError(f"{label}: its features are not those of its inputs")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _shift(value: object) -> int:
    _require(isinstance(value, int) and abs(value) <= _WIDEST, "a binary exponent is missing or too large")
    return int(value)  # type: ignore[call-overload, no-any-return]


def _image(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    table = node.tensors["table"]
    _require(table.ndim == 1 and len(table) >= 2, "a table of levels is missing")
    _require(node.low <= int(table.min()) and int(table.max()) <= node.high, "the table exceeds its bounds")
    return node.largest


def _linear(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    weight, bias = node.tensors["weight"], node.tensors["bias"]
    shape = (len(node.numbers["taps"]), inputs[0].features, node.features)
    _require(tuple(weight.shape) == shape and tuple(bias.shape) == shape[2:], f"weights of {list(weight.shape)}")
    read = torch.zeros(weight.shape, dtype=torch.bool)
    for edge in node.edges:
        where, stride = edge.where, tuple(node.numbers["stride"])
        if not isinstance(where, Offsets) or (where.stride, where.up) != (stride, (1, 1)):
            raise ValueError("its reads are not those of its taps")
        for number, tap in enumerate(node.numbers["taps"]):
            if tuple(tap) in where.taps:
                read[number] |= True if edge.features is None else edge.features.T  # [out, in] -> [in, out]
    _require(not bool((weight != 0)[~read].any()), "a weight of what it does not read")
    sums = weight.double().abs().sum((0, 1)) * inputs[0].largest + bias.double().abs()
    largest = int(sums.max())
    _require(node.high >= largest and node.low <= -largest, "its sums exceed its bounds")
    return largest


def _rescale(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    multiplier, shift = node.tensors["multiplier"], node.tensors["shift"]
    _require(multiplier.ndim == 3 and shift.ndim == 3, "factors of the wrong shape")
    _require(multiplier.shape[0] in (1, node.features) and shift.shape[0] in (1, node.features), "factors do not fit")
    _require(int(shift.abs().max()) <= _WIDEST and int(multiplier.min()) >= 0, "a factor is out of range")
    return int(multiplier.max()) * inputs[0].largest


def _lookup(node: IntegerNode, low: int, high: int) -> int:
    table, first = node.tensors["table"], node.numbers["first"]
    _require(table.ndim == 1 and first <= low and first + len(table) > high, "a table is too short")
    return int(table.double().abs().max())


def _table(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    largest = _lookup(node, inputs[0].low, inputs[0].high)
    table = node.tensors["table"]
    _require(node.low <= int(table.min()) and int(table.max()) <= node.high, "a table exceeds its bounds")
    return largest


def _both_signs(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    _require(node.features == 2 * inputs[0].features, "features do not fit")
    largest = max(inputs[0].largest, _lookup(node, -inputs[0].largest, inputs[0].largest))
    table = node.tensors["table"]
    _require(node.low <= int(table.min()) and int(table.max()) <= node.high, "a table exceeds its bounds")
    return largest


def _sum(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    a, b = (_shift(shift) for shift in node.numbers["shifts"])
    _require(node.numbers["sign"] in (1, -1), "a sign is neither 1 nor -1")
    unit = min(a, b)
    return (inputs[0].largest << (a - unit)) + (inputs[-1].largest << (b - unit))


def _product(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    _shift(node.numbers["shift"])
    return inputs[0].largest * inputs[-1].largest


def _affine(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    _shift(node.numbers["shift"])
    multiplier, constant = node.tensors["multiplier"], node.tensors["constant"]
    for tensor in (multiplier, constant):
        fits = all(side in (1, whole) for side, whole in zip(tensor.shape, (node.features, *node.size), strict=True))
        _require(fits, "constants do not fit")
    return int(multiplier.abs().max()) * inputs[0].largest + int(constant.abs().max())


def _gate(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    _shift(node.numbers["shift"])
    _require(inputs[0].features == 2 * node.features, "features do not fit")
    return _lookup(node, inputs[0].low, inputs[0].high) * inputs[0].largest


def _normalize(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    _shift(node.numbers["shift"])
    epsilon = node.numbers["epsilon"]
    _require(isinstance(epsilon, int) and epsilon >= 1, "its epsilon is not positive")
    return int(node.features**2 * inputs[0].largest ** 2 + epsilon)


def _copy(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    low, high = min(i.low for i in inputs), max(i.high for i in inputs)
    zero = node.kind in ("shift", "shuffle")
    _require(node.low <= (min(0, low) if zero else low), "bounds do not fit")
    _require(node.high >= (max(0, high) if zero else high), "bounds do not fit")
    return node.largest


def _concat(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    origin = node.numbers["origin"]
    _require(len(origin) == node.features, "features do not fit")
    _require(all(0 <= i < len(inputs) and 0 <= f < inputs[i].features for i, f in origin), "features do not fit")
    return _copy(node, inputs)


def _relu(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    _require(node.low <= max(0, inputs[0].low) and node.high >= max(0, inputs[0].high), "bounds do not fit")
    return inputs[0].largest


def _negative(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    _require(node.low <= -inputs[0].high and node.high >= -inputs[0].low, "bounds do not fit")
    return inputs[0].largest


def _embedding(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    table = node.tensors["table"]
    _require(table.ndim == 2 and table.shape[1] == node.features, "features do not fit")
    _require(inputs[0].low >= 0 and inputs[0].high < len(table), "a table is too short")
    _require(node.low <= int(table.min()) and int(table.max()) <= node.high, "a table exceeds its bounds")
    return int(table.double().abs().max())


def _padded(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    value = node.numbers["value"]
    _require(isinstance(value, int) and node.low <= value <= node.high, "a constant exceeds its bounds")
    _require(node.features == inputs[0].features + 1, "features do not fit")
    _require(node.low <= inputs[0].low and node.high >= inputs[0].high, "bounds do not fit")
    return node.largest


def _total(terms: list[tuple[int, int]]) -> int:
    """The sum of integers times powers of two, (largest integer, exponent), in units of the smallest power."""
    unit = min(exponent for _, exponent in terms)
    return sum(integer << (exponent - unit) for integer, exponent in terms)


def _lstm(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    numbers, weight, h = node.numbers, node.tensors["weight"], node.features // 2
    carried = tuple((int(down), int(right)) for down, right in numbers["carried"])
    _require(len(node.edges) == 1 and node.edges[0].where == Closure(carried), "its reads are not those of its states")
    _require(node.edges[0].features is None and node.size == inputs[0].size, "its reads do not fit")
    _require(tuple(weight.shape) == (len(carried) * h, 4 * h), f"weights of {list(weight.shape)}")
    _require(node.features == 2 * h and inputs[0].features == 4 * h, "features do not fit")
    _require(numbers["center"] in range(len(carried)), "its cell has no state before")
    source, k, hidden, cell = (_shift(numbers[name]) for name in ("input", "weight", "hidden", "cell"))
    most, (read, found) = numbers["most"], UNITS
    _require(isinstance(most, int) and 0 < most <= node.high and node.low == -node.high, "bounds do not fit")
    sums = int(weight.double().abs().sum(0).max()) * most
    gates = _total([(inputs[0].largest, read - source), (sums, read - hidden - k)])
    cells = _total([(node.high << found, -found), (1 << 2 * found, cell - 2 * found)])
    return max(gates, cells, 1 << 2 * found)


def _running_sum(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    carried = ((0, -1), (-1, node.size[1] - 1))
    _require(len(node.edges) == 1 and node.edges[0].where == Closure(carried), "its reads are not those of its states")
    _require(node.features == inputs[0].features and node.size == inputs[0].size, "features do not fit")
    largest = node.size[0] * node.size[1] * inputs[0].largest
    _require(node.high >= largest and node.low <= -largest, "its sums exceed its bounds")
    return largest


def _earlier(node: IntegerNode, inputs: list[IntegerNode]) -> Earlier:
    """The positions that the values of attention are read at, which are those of the keys."""
    found = {edge.input: edge.where for edge in node.edges}
    _require(len(inputs) == 3 and len(node.edges) == 3 and set(found) == {0, 1, 2}, "its reads do not fit")
    _require(all(source.size == node.size for source in inputs), "its reads do not fit")
    where = found[2]
    _require(found[0] == HERE and isinstance(where, Earlier) and found[1] == where, "its reads do not fit")
    assert isinstance(where, Earlier)
    return where


def _attention(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    where, (q, k, v) = _earlier(node, inputs), inputs
    heads, multiplier = node.numbers["heads"], node.numbers["multiplier"]
    _shift(node.numbers["score"])
    _require(all(edge.features is None for edge in node.edges), "its reads do not fit")
    _require(isinstance(heads, int) and heads > 0 and isinstance(multiplier, int) and multiplier >= 0, "bad numbers")
    _require(q.features == k.features and v.features == node.features, "features do not fit")
    _require(q.features % heads == 0 and v.features % heads == 0, "features do not fit")
    _require(where.above is None or where.above >= 0, "its reads do not fit")
    score = 2 * (q.features // heads) * q.largest * k.largest
    out = node.size[0] * node.size[1] * v.largest << TOTAL_BITS
    _shift(node.numbers["shift"])
    return int(max(score * max(1, multiplier), out))


def _position_linear(node: IntegerNode, inputs: list[IntegerNode]) -> int:
    where, source, positions = _earlier(node, inputs), inputs[2], node.size[0] * node.size[1]
    weight, bias, shift = (node.tensors[name] for name in ("weight", "bias", "shift"))
    _require(where.above is None, "its reads do not fit")
    _require(tuple(weight.shape) == (positions, node.features, positions, source.features), "weights do not fit")
    _require(tuple(bias.shape) == tuple(shift.shape) == (positions, node.features), "constants do not fit")
    _require(int(shift.abs().max()) <= _WIDEST, "a binary exponent is too large")
    largest = 0
    for place in range(positions):
        _require(not bool(weight[place, :, place + where.own :].any()), "a weight of what it does not read")
        sums = weight[place].double().abs().sum((1, 2)) * source.largest + bias[place].double().abs()
        largest = max(largest, int(sums.max()))
    return largest


_LARGEST: dict[str, Callable[[IntegerNode, list[IntegerNode]], int]] = {
    "image": _image, "linear": _linear, "rescale": _rescale, "table": _table, "relu": _relu, "sum": _sum,
    "product": _product, "affine": _affine, "concat": _concat, "shift": _copy, "shuffle": _copy,
    "crop": _copy, "embedding": _embedding, "padded": _padded, "both-signs": _both_signs, "gate": _gate,
    "normalize": _normalize, "negative": _negative, "lstm": _lstm, "running-sum": _running_sum,
    "attention": _attention, "position-linear": _position_linear,
}  # fmt: skip
"""Kind -> the largest intermediate magnitude."""

assert set(_LARGEST) == set(KINDS)
assert torch.finfo(torch.float32).eps == 2.0**-23
