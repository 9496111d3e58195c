"""A lowered network as JSON and integer tensors, and back. Equal tensors are stored once; nothing stored is code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pixelloom.codec.operations import IntegerNode
from pixelloom.core.errors import ModelError, shortened
from pixelloom.layers.reads import Closure, Earlier, Offsets, OwnRow, Positions
from pixelloom.sampling.fast.ir import Edge

_DTYPES = (torch.int16, torch.int32, torch.int64, torch.uint8)
_MOST = 1 << 20  # entries of a list


def store(nodes: Sequence[IntegerNode]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """JSON of the nodes, and the tensors that it names."""
    tensors: dict[str, Tensor] = {}
    names: dict[tuple[object, ...], str] = {}

    def named(tensor: Tensor) -> str:
        tensor = _smallest(tensor.contiguous())
        key = (tensor.dtype, tuple(tensor.shape), tensor.numpy().tobytes())
        if key not in names:
            names[key] = f"t{len(names)}"
            tensors[names[key]] = tensor
        return names[key]

    found = []
    for node in nodes:
        edges = []
        for edge in node.edges:
            same = edge.features is not None and torch.equal(edge.features, torch.eye(node.features, dtype=torch.bool))
            features = None if edge.features is None else "same" if same else named(edge.features.to(torch.uint8))
            edges.append(
                {"source": edge.source, "where": _where(edge.where), "features": features, "input": edge.input}
            )
        found.append({
            "kind": node.kind, "name": node.name, "inputs": list(node.inputs), "edges": edges,
            "features": node.features, "size": list(node.size), "low": node.low, "high": node.high,
            "numbers": node.numbers, "tensors": {name: named(node.tensors[name]) for name in sorted(node.tensors)},
        })  # fmt: skip
    return found, tensors


def load(stored: Any, tensors: Mapping[str, Tensor]) -> list[IntegerNode]:
    """The nodes of :func:`store`.

    Raises:
        ModelError: naming the node and what is wrong.
    """
    if not isinstance(stored, list) or not 0 < len(stored) <= _MOST:
        raise ModelError("its nodes are missing")
    nodes = []
    for number, entry in enumerate(stored):
        try:
            nodes.append(_node(entry, tensors))
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            raise ModelError(f"node {number}: cannot be read: {shortened(str(error), 200)}") from error
    return nodes


def _node(entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> IntegerNode:
    features, size = _integer(entry["features"]), (_integer(entry["size"][0]), _integer(entry["size"][1]))
    edges = []
    for edge in entry["edges"]:
        mask = edge["features"]
        if mask == "same":
            mask = torch.eye(features, dtype=torch.bool)
        elif mask is not None:
            mask = _tensor(tensors, mask).bool()
        edges.append(Edge(_integer(edge["source"]), _positions(edge["where"]), mask, _integer(edge["input"])))
    return IntegerNode(
        str(entry["kind"]), str(entry["name"]), tuple(map(_integer, entry["inputs"])), tuple(edges), features, size,
        _integer(entry["low"]), _integer(entry["high"]), dict(entry["numbers"]),
        {str(name): _tensor(tensors, value) for name, value in entry["tensors"].items()},
    )  # fmt: skip


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    value = tensors[name]
    if value.dtype not in _DTYPES:
        raise ValueError(f"{name} holds {value.dtype}, not integers")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _smallest(tensor: Tensor) -> Tensor:
    """The same integers in the smallest type that holds them."""
    if not tensor.numel():
        return tensor.to(torch.int16)
    low, high = int(tensor.min()), int(tensor.max())
    if float(tensor.double().min()) != low:
        raise ModelError("a tensor of a lowered network holds fractions")
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return tensor.to(dtype)
    return tensor.to(torch.int64)


def _where(where: Positions) -> dict[str, Any]:
    match where:
        case Offsets(taps=taps, stride=stride, up=up):
            return {"taps": [list(tap) for tap in taps], "stride": list(stride), "up": list(up)}
        case Earlier(own=own, above=above):
            return {"earlier": own, "above": above}
        case OwnRow(own=own):
            return {"row": own}
        case Closure(steps=steps):
            return {"steps": [list(step) for step in steps]}
        case _:
            raise ModelError(f"reads of {type(where).__name__} cannot be stored")


def _positions(stored: dict[str, Any]) -> Positions:
    def pair(value: Sequence[Any]) -> tuple[int, int]:
        down, right = value
        return _integer(down), _integer(right)

    if "taps" in stored:
        stride, up = pair(stored["stride"]), pair(stored["up"])
        if min(*stride, *up) < 1 or max(*stride, *up) > 1024:
            raise ValueError("a stride out of range")
        return Offsets(tuple(pair(tap) for tap in stored["taps"]), stride, up)
    if "earlier" in stored:
        above = stored["above"]
        return Earlier(bool(stored["earlier"]), None if above is None else _integer(above))
    if "row" in stored:
        return OwnRow(bool(stored["row"]))
    return Closure(tuple(pair(step) for step in stored["steps"]))
