"""A model for compressed files that fits a screen: fixed integer tables per position, coded by rANS in big integers."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec, Levels

TOTAL = 1 << 12
"""Sum of the frequencies of a table."""


class TableCodec:
    """Independent values with a table of integer frequencies per position, learned from images.

    rANS (Duda 2013, "Asymmetric numeral systems"): x -> (x // f) * TOTAL + x % f + c for a level of frequency f and
    cumulated frequency c, on one integer of any size, so any payload decodes to something.
    """

    profile = 7

    def __init__(self, spec: ImageSpec, images: Levels) -> None:
        counts = np.ones((spec.dims, spec.levels), np.int64)
        for image in images.reshape(len(images), spec.dims):
            counts[np.arange(spec.dims), image] += 4
        room = TOTAL - spec.levels
        table = counts * room // counts.sum(1, keepdims=True) + 1
        table[:, 0] += TOTAL - table.sum(1)
        self.spec, self.table = spec, table
        self.low = np.concatenate((np.zeros((spec.dims, 1), np.int64), table.cumsum(1)), 1)
        about = f"ImageSpec(channels={spec.channels}, height={spec.height}, width={spec.width}, levels={spec.levels})"
        self.identity = hashlib.sha256(about.encode() + table.astype("<i8").tobytes()).digest()
        self._lookup = [np.repeat(np.arange(spec.levels), row).tolist() for row in table]
        self._table, self._low = table.tolist(), self.low.tolist()
        self.decoded = 0
        """Blocks decoded so far."""

    def encode(self, levels: Tensor) -> bytes:
        x = 0
        for image in levels.flatten(1).flip(0).tolist():
            for position in range(self.spec.dims - 1, -1, -1):
                level = image[position]
                f = self._table[position][level]
                x = (x // f) * TOTAL + x % f + self._low[position][level]
        return x.to_bytes((x.bit_length() + 7) // 8, "little")

    def decode(self, payload: bytes, n: int) -> Tensor:
        self.decoded += 1
        x, out = int.from_bytes(payload, "little"), []
        for _ in range(n):
            for position in range(self.spec.dims):
                rest = x % TOTAL
                level = self._lookup[position][rest]
                x = self._table[position][level] * (x // TOTAL) + rest - self._low[position][level]
                out.append(level)
        return torch.tensor(out, dtype=torch.uint8).reshape(n, *self.spec.shape)


class LocalCodec(TableCodec):
    """One table for all positions, and so for images of any size."""

    is_local = True

    def __init__(self, spec: ImageSpec, images: Levels) -> None:
        super().__init__(spec, images)
        self._row = self._table[0], self._low[0], self._lookup[0]
        self._set(spec)

    def _set(self, spec: ImageSpec) -> None:
        self.spec = spec
        self._table, self._low, self._lookup = ([row] * spec.dims for row in self._row)  # type: ignore[list-item]

    def resized(self, height: int, width: int) -> LocalCodec:
        if height * width > 1 << 12:
            raise UsageError("too large")
        found = copy.copy(self)
        found._set(ImageSpec(self.spec.channels, height, width, self.spec.levels))
        return found


SPEC = ImageSpec(1, 4, 4, 4)


def images_of(n: int, spec: ImageSpec = SPEC, seed: int = 0) -> Levels:
    """Images whose values depend on their position, so that tables compress them."""
    rng = np.random.default_rng(seed)
    mean = np.random.default_rng(5).random(spec.shape) * spec.levels
    noise = rng.normal(0, 0.05 * spec.levels, (n, *spec.shape))
    return (mean + noise).clip(0, spec.levels - 1).astype(np.uint8)


def toy(spec: ImageSpec = SPEC, seed: int = 1) -> TableCodec:
    return TableCodec(spec, images_of(50, spec, seed))


def entropy(codec: TableCodec, images: Sequence[Levels] | Levels) -> float:
    """Bits of images by the tables."""
    flat = np.asarray(images).reshape(len(images), -1)
    return float(-np.log2(codec.table[np.arange(codec.spec.dims), flat] / TOTAL).sum())
