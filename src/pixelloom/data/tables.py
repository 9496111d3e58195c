"""Lookup tables from levels to levels: quantization, thresholds, display. They do not need torch."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import UsageError

Table: TypeAlias = npt.NDArray[np.uint8]
"""A lookup table from levels to levels, uint8 [256]; entries beyond the source's levels are unused."""

LEVELS = 256
WHITE = LEVELS - 1


def quantize_table(source_levels: int, levels: int) -> Table:
    """The table of v -> floor(v levels / source_levels): bins of equal width, of which none is empty.

    Raises:
        UsageError: if ``levels`` exceeds ``source_levels``; unused levels would raise the likelihood's cost in bits.
    """
    if not 2 <= levels <= source_levels:
        raise UsageError(f"levels: the images have {source_levels} levels; choose 2 to {source_levels}, not {levels}")
    return (np.arange(LEVELS) * levels // source_levels).clip(max=levels - 1).astype(np.uint8)


def threshold_table(levels: int, t: float) -> Table:
    """The table of v -> 1 where v / (levels - 1) > t, else 0."""
    return (np.arange(LEVELS) / (levels - 1) > t).astype(np.uint8)


def bytes_table(levels: int) -> Table:
    """The table of levels to display bytes: round(255 v / (levels - 1)), clipped to the bin that quantizes back to v.

    0 is black, the highest level is white, and quantizing a saved image to ``levels`` restores its levels.
    """
    v = np.arange(LEVELS)
    lowest, highest = -(-LEVELS * v // levels), -(-LEVELS * (v + 1) // levels) - 1
    return np.clip(np.rint(WHITE * v / (levels - 1)), lowest, highest).clip(0, WHITE).astype(np.uint8)
