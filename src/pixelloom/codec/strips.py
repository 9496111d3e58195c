"""Images that are too large for one block: strips of rows, from top to bottom, each an image in a block of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pixelloom.codec import layout
from pixelloom.core.types import Levels

STRIP = 1 << 20
"""Pixels of a strip, at most, unless a single row has more."""


def count_of(height: int, width: int) -> int:
    """Number of strips of an image; 1 for an image that fits a block."""
    return 1 if height * width <= layout.MAX_PIXELS else -(-height // rows_of(height, width))


def rows_of(height: int, width: int) -> int:
    """Rows of a strip; the last strip of an image may have fewer."""
    if height * width <= layout.MAX_PIXELS:
        return height
    fewest = -(-height // max(1, STRIP // width))  # strips
    return -(-height // fewest)


def cut(levels: Levels) -> Iterator[Levels]:
    """The strips of an image, uint8 [C, H, W] -> [C, rows, W] each."""
    height, width = levels.shape[1:]
    rows = rows_of(height, width)
    for first in range(0, height, rows):
        yield levels[:, first : first + rows]


class Joined:
    """Puts images together again, whose strips come in order."""

    def __init__(self) -> None:
        self._held: list[Levels] = []

    def add(self, levels: Levels, number: int, count: int) -> Levels | None:
        """Take strip ``number`` of ``count``: the image after its last one, else None; None also if one is missing.

        Raises:
            ValueError: for strips of several widths, which only a forged file has.
        """
        if not number:
            self._held = []
        if len(self._held) != number:
            return None
        self._held.append(levels)
        if number + 1 < count:
            return None
        found, self._held = self._held, []
        return found[0] if count == 1 else np.concatenate(found, axis=1)
