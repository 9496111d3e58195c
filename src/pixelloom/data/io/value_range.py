"""Scaling of values of more than 8 bits, or of floats, to levels 0..255, by a stated range and never by a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError
from pixelloom.data.tables import LEVELS

BITS_8 = "--bits 8"


@dataclass(frozen=True)
class ValueRange:
    """The values that become levels 0..255; ``high`` is None for the largest value of a file.

    integers  floor(256 (v - low) / (high - low + 1)), bins of equal width: v >> 8 for 0..65535
    floats    round(255 (v - low) / (high - low))
    """

    low: float
    high: float | None = None

    @classmethod
    def parse(cls, text: str) -> ValueRange:
        """Read ``LOW:HIGH`` or ``max``.

        Raises:
            ValueError: for another text.
        """
        if text == "max":
            return cls(0)
        low, colon, high = text.partition(":")
        try:
            found = cls(float(low), float(high))
        except ValueError:
            found = cls(0, 0)
        assert found.high is not None
        if not colon or not np.isfinite([found.low, found.high]).all() or found.high <= found.low:
            raise ValueError(f"choose LOW:HIGH, such as 0:4095, or max, not {text!r}")
        return found

    def resolved(self, largest: float) -> ValueRange:
        """The range with a number for ``max``."""
        return self if self.high is not None else ValueRange(self.low, max(largest, self.low + 1e-9))

    def to_bytes(self, values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
        """Scale values to uint8.

        Raises:
            DataError: for a value outside of the range.
        """
        lowest, highest = extrema(values, name)
        own = self.resolved(highest)
        assert own.high is not None
        if lowest < own.low or highest > own.high:
            raise DataError(
                f"{name}: values {lowest:g} to {highest:g} are not within --range {self}; "
                f"set {option(lowest, highest, values.dtype)}"
            )
        shifted = values.astype(np.float64) - own.low
        if values.dtype.kind in "iu":
            scaled = np.floor(LEVELS * shifted / (own.high - own.low + 1))
        else:
            scaled = np.rint((LEVELS - 1) * shifted / (own.high - own.low))
        return scaled.astype(np.uint8)

    def __str__(self) -> str:
        return "max" if self.high is None else f"{self.low:g}:{self.high:g}"


def extrema(values: npt.NDArray[Any], name: str) -> tuple[float, float]:
    """The smallest and the largest value.

    Raises:
        DataError: for a value that is not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise DataError(f"{name}: values are NaN or infinite; replace them")
    return low, high


def option(low: float, high: float, dtype: np.dtype[Any]) -> str:
    """The option ``--range`` that fits values: the next power of two for integers, 0:1, -1:1 or 0:255 for floats."""
    if dtype.kind in "iu":
        first, last = (int(low), int(high)) if low < 0 else (0, max((1 << int(high).bit_length()) - 1, LEVELS - 1))
        return f"--range={first}:{last}" if first < 0 else f"--range {first}:{last}"
    for first, last in ((0, 1), (-1, 1), (0, LEVELS - 1)):
        if first <= low and high <= last:
            return f"--range={first}:{last}" if first < 0 else f"--range {first}:{last}"
    return f"--range={low:g}:{high:g}" if low < 0 else f"--range {low:g}:{high:g}"


def advice(low: float, high: float, dtype: np.dtype[Any]) -> str:
    """What to do with an array of another type than uint8, by its values; it never wraps around or clips."""
    last = LEVELS - 1
    if dtype.kind in "iu":
        save = "x.astype('uint8')" if low >= 0 and high <= last else ""
    elif low >= 0 and high <= 1:
        save = f"(x * {last}).round().astype('uint8')"
    elif low >= -1 and high <= 1:
        save = f"((x + 1) * {last / 2}).round().astype('uint8')"
    else:
        save = "x.round().astype('uint8')" if low >= 0 and high <= last else ""
    found = f"values are {low:g} to {high:g}"
    return (
        f"save {save}, or set {option(low, high, dtype)} ({found})"
        if save
        else (f"{found}, set {option(low, high, dtype)}")
    )
