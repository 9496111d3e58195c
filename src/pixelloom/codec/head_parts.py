"""What integer heads share: integer logits, their exponents, and strict reading of stored fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pixelloom.codec.coder import Encoder
from pixelloom.codec.tables import EXPONENTS
from pixelloom.core.errors import ModelError, shortened

LARGEST = 1 << 20
"""Bound of integer logits. Profiles clamp them to far fewer bits; with it, no sum of a head overflows."""

_CHUNK = 1 << 18  # elements of tables at once: they stay in the cache

Intervals = tuple[Tensor, Tensor]
"""Sum of the counts of all symbols below each symbol, and count of the symbol, of one shape."""


def integers(logits: Tensor, parameters: int) -> Tensor:
    """Integer logits as int64 [N, parameters] on the CPU.

    Raises:
        ValueError: for another shape, values that are not integers, and those over ``LARGEST``.
    """
    if logits.ndim != 2 or logits.shape[1] != parameters:
        raise ValueError(f"logits: expected [N, {parameters}], not {list(logits.shape)}")
    logits = logits.detach().cpu()
    if logits.numel() and not bool((logits.abs() <= LARGEST).all()):  # false for NaN
        raise ValueError(f"logits: an integer is above {LARGEST} or not a number")
    if logits.is_floating_point() and not bool((logits == logits.trunc()).all()):
        raise ValueError("logits: a value is not an integer")
    return logits.long()


def exponent_for(max_abs: float, bits: int, most: int) -> int:
    """The largest number of fractional bits, up to ``most``, with which max_abs fits into signed integers."""
    least, limit = EXPONENTS[0], (1 << bits - 1) - 1
    return next((e for e in range(most, least, -1) if max_abs * 2**e <= limit), least)


def by_rows(make: Callable[[slice], Intervals], rows: int, elements: int) -> Intervals:
    """Intervals of slices of rows, in pieces for tables of ``elements`` numbers in each row."""
    step = max(1, _CHUNK // elements)
    pieces = [make(slice(i, i + step)) for i in range(0, max(rows, 1), step)]
    return torch.cat([below for below, _ in pieces]), torch.cat([count for _, count in pieces])


def encode_by_symbols(intervals: Intervals, coder: Encoder) -> None:
    """Encode the first symbols of all rows, then the second ones, and so on."""
    coder.encode(*(part.t().flatten() for part in intervals))  # [N, symbols] -> [symbols * N]


def whole_numbers(
    kind: str, json: Mapping[str, Any], tensors: Mapping[str, Any], **bounds: tuple[int, int]
) -> list[int]:
    """Read the stored fields of a head, each a whole number within bounds.

    Raises:
        ModelError: naming the first field that is missing, unknown, of another type or out of bounds.
    """
    for name in (*(set(json) - {"kind", *bounds}), *tensors):
        raise ModelError(f"head.{shortened(str(name))}: unknown for a {kind} head; export the model again")
    if json.get("kind") != kind:
        raise ModelError(f"head.kind: must be {kind!r}, not {shortened(repr(json.get('kind')))}")
    for name, (least, most) in bounds.items():
        value = json.get(name)
        if type(value) is not int or not least <= value <= most:
            shown = shortened(repr(value)) if name in json else "missing"
            raise ModelError(
                f"head.{name}: must be a whole number in {least} .. {most}, not {shown}; export the model again"
            )
    return [json[name] for name in bounds]
