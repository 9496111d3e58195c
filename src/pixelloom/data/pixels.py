"""Integer levels and what becomes of them: quantization, binarization, model space, display.

An image is integers from file to head: uint8 levels v in 0..S-1. Every constant that turns levels into something else
lives here and nowhere else, and no path goes through a float and back (``(x * 255).long()`` after a trip to [-1, 1]
puts 63 of 256 levels one too low in float32).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pixelloom.core import rng
from pixelloom.core.errors import UsageError
from pixelloom.core.types import Levels

Table: TypeAlias = npt.NDArray[np.uint8]
"""A map of levels to levels, uint8 [256]; entries at or above the source's number of levels are never read."""

_CHUNK = 4096  # images at a time where a memory-mapped array is scanned


def quantize_table(source_levels: int, levels: int) -> Table:
    """The map v -> floor(v * levels / source_levels): bins of equal width, so all levels are reached.

    Raises UsageError when ``levels`` exceeds ``source_levels``: levels that never occur would be paid for in bits.
    """
    if not 2 <= levels <= source_levels:
        raise UsageError(f"levels: the pictures have {source_levels} levels; choose 2 to {source_levels}, not {levels}")
    return (np.arange(256) * levels // source_levels).clip(max=levels - 1).astype(np.uint8)


def threshold_table(levels: int, t: float) -> Table:
    """The map v -> 1 where v / (levels - 1) > t, else 0."""
    return (np.arange(256) / (levels - 1) > t).astype(np.uint8)


def quantize(images: Levels, source_levels: int, levels: int) -> Levels:
    """Levels 0..source_levels-1 to 0..levels-1 by v -> floor(v * levels / source_levels)."""
    return quantize_table(source_levels, levels)[images]


def threshold(images: Levels, levels: int, t: float) -> Levels:
    """Bits: 1 where v / (levels - 1) > t. With 256 levels, t = 0.5 is ``v > 127.5``."""
    return threshold_table(levels, t)[images]


def draw_bits(images: Levels, levels: int, rng: np.random.BitGenerator) -> Levels:
    """One Bernoulli(v / (levels - 1)) draw for each value: 0 never gives 1, the highest level always does.

    Works on raw 32-bit integers u: the bit is 1 where floor(u (levels - 1) / 2^32) < v. Raw output is the one stream
    that numpy promises to keep between versions, so a static binarization stays the same data set for good.
    """
    n = images.size
    u = np.asarray(rng.random_raw((n + 1) // 2)).view(np.uint32)[:n].astype(np.uint64)
    return ((u * np.uint64(levels - 1)) >> np.uint64(32) < images.reshape(-1)).astype(np.uint8).reshape(images.shape)


def draw_bits_each(images: Levels, levels: int, seed: int, stream: int, keys: Sequence[int]) -> Levels:
    """``draw_bits`` with a generator of its own for each image: image i depends on (seed, stream, keys[i]) alone."""
    bits = [draw_bits(image, levels, rng.bits(seed, stream, int(key))) for image, key in zip(images, keys, strict=True)]
    return np.stack(bits) if bits else images.copy()


@dataclass(frozen=True)
class Scaling:
    """Model space: y = (v / (levels - 1) - shift) / scale."""

    shift: float
    scale: float

    @classmethod
    def unit(cls) -> Scaling:
        """To [0, 1]."""
        return cls(0.0, 1.0)

    @classmethod
    def symmetric(cls) -> Scaling:
        """To [-1, 1]."""
        return cls(0.5, 0.5)

    @classmethod
    def numbers(cls, levels: int) -> Scaling:
        """To the number of the level, 0 to levels - 1."""
        return cls(0.0, 1 / (levels - 1))

    @classmethod
    def standard(cls, images: Levels, levels: int) -> Scaling:
        """To mean 0 and deviation 1 over all values of the (training) images; constant images are only centered.

        Counts are exact integers, and a memory-mapped array is never copied whole.
        """
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), _CHUNK):
            counts += np.bincount(np.asarray(images[start : start + _CHUNK]).reshape(-1), minlength=256)
        unit, weights = np.arange(256) / (levels - 1), counts / counts.sum()
        mean = float(weights @ unit)
        deviation = float(np.sqrt(weights @ (unit - mean) ** 2))
        return cls(mean, deviation or 1.0)


def to_model(x: torch.Tensor, levels: int, scaling: Scaling) -> torch.Tensor:
    """Levels (uint8, any shape) to model space, float32 on the same device.

    Images [B, C, H, W] come out in channels_last memory. With one channel that is a matter of strides alone, but the
    first convolution goes by them, and what follows would otherwise mix two layouts, at a third of the speed.
    """
    y = (x.to(torch.float32) / (levels - 1) - scaling.shift) / scaling.scale
    return y.to(memory_format=torch.channels_last) if y.ndim == 4 else y


def from_model(y: torch.Tensor, levels: int, scaling: Scaling) -> torch.Tensor:
    """The nearest levels, uint8, of values in model space; what lies outside the range goes to its end."""
    v = (y.to(torch.float32) * scaling.scale + scaling.shift) * (levels - 1)
    return v.round().clamp(0, levels - 1).to(torch.uint8)


def bytes_table(levels: int) -> Table:
    """The map of levels to display bytes: round(255 v / (levels - 1)), held inside the bin that quantizes back to v.

    So 0 is black, the highest level is white, and a picture saved and read again with ``levels`` has the same levels.
    """
    v = np.arange(256)
    lowest, highest = -(-256 * v // levels), -(-256 * (v + 1) // levels) - 1
    return np.clip(np.rint(255 * v / (levels - 1)), lowest, highest).clip(0, 255).astype(np.uint8)


def to_bytes(images: Levels, levels: int) -> Levels:
    """Levels to display bytes 0..255: monotone, onto both ends, and undone exactly by ``quantize(_, 256, levels)``."""
    return bytes_table(levels)[images]
