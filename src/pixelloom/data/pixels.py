"""Conversions of integer levels: quantization, binarization, model space, display.

Images are uint8 levels v in 0..S-1 from the file to the head. All constants of these conversions are in this file.
Levels are never converted to floats and back: in float32, ``(x * 255).long()`` after scaling to [-1, 1] puts 63 of 256
levels one too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pixelloom.core import rng
from pixelloom.core.types import Display, Levels
from pixelloom.data.palette import colors_of, indexed
from pixelloom.data.tables import LEVELS, bytes_table, quantize_table, threshold_table

if TYPE_CHECKING:  # imported by functions: data sets use this file, and an unknown name of one is a fast error
    import torch

_CHUNK = 4096  # images read at once from a memory-mapped array


def quantize(images: Levels, source_levels: int, levels: int) -> Levels:
    """Quantize levels 0..source_levels-1 to 0..levels-1 by v -> floor(v levels / source_levels)."""
    return quantize_table(source_levels, levels)[images]


def threshold(images: Levels, levels: int, t: float) -> Levels:
    """Binarize: 1 where v / (levels - 1) > t. With 256 levels, t = 0.5 means ``v > 127.5``."""
    return threshold_table(levels, t)[images]


def draw_bits(images: Levels, levels: int, generator: np.random.BitGenerator) -> Levels:
    """Draw each bit from Bernoulli(v / (levels - 1)), exactly 0 for v = 0 and 1 for the highest level.

    The bit is 1 where floor(u (levels - 1) / 2^32) < v for a raw 32-bit integer u. Raw output is stable between
    versions of NumPy, so a static binarization never changes.

    Source: Salakhutdinov and Murray 2008, "On the Quantitative Analysis of Deep Belief Networks", for MNIST.
    """
    n = images.size
    u = np.asarray(generator.random_raw((n + 1) // 2)).view(np.uint32)[:n].astype(np.uint64)  # two u per 64 bits
    return ((u * np.uint64(levels - 1)) >> np.uint64(32) < images.reshape(-1)).astype(np.uint8).reshape(images.shape)


def draw_bits_each(images: Levels, levels: int, seed: int, stream: int, keys: Sequence[int]) -> Levels:
    """``draw_bits`` with one generator per image: image i depends on (seed, stream, keys[i]) alone."""
    bits = [draw_bits(image, levels, rng.bits(seed, stream, int(key))) for image, key in zip(images, keys, strict=True)]
    return np.stack(bits) if bits else images.copy()


@dataclass(frozen=True)
class Scaling:
    """The affine map to model space: y = (v / (levels - 1) - shift) / scale."""

    shift: float
    scale: float

    @classmethod
    def unit(cls) -> Scaling:
        """Scale to [0, 1]."""
        return cls(0.0, 1.0)

    @classmethod
    def symmetric(cls) -> Scaling:
        """Scale to [-1, 1]."""
        return cls(0.5, 0.5)

    @classmethod
    def numbers(cls, levels: int) -> Scaling:
        """Keep level indices, 0 to levels - 1, as floats."""
        return cls(0.0, 1 / (levels - 1))

    @classmethod
    def standard(cls, images: Levels, levels: int) -> Scaling:
        """Standardize to mean 0 and standard deviation 1 over all values of the training images, uint8 [N, C, H, W].

        Constant images are only centered. Reads a memory-mapped array in chunks.
        """
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), _CHUNK):
            counts += np.bincount(np.asarray(images[start : start + _CHUNK]).reshape(-1), minlength=256)
        unit, weights = np.arange(256) / (levels - 1), counts / counts.sum()
        mean = float(weights @ unit)
        deviation = float(np.sqrt(weights @ (unit - mean) ** 2))
        return cls(mean, deviation or 1.0)


def to_model(x: torch.Tensor, levels: int, scaling: Scaling) -> torch.Tensor:
    """Convert levels (uint8, any shape) to model space, float32 on the same device.

    Images [B, C, H, W] are returned in channels_last memory format. With one channel only the strides differ, but they
    choose the layout of the first convolution; mixed layouts cost two thirds of the speed.
    """
    import torch

    y = (x.to(torch.float32) / (levels - 1) - scaling.shift) / scaling.scale
    return y.to(memory_format=torch.channels_last) if y.ndim == 4 else y


def from_model(y: torch.Tensor, levels: int, scaling: Scaling) -> torch.Tensor:
    """Convert values in model space to the nearest levels, uint8; values out of range are clamped."""
    import torch

    v = (y.to(torch.float32) * scaling.scale + scaling.shift) * (levels - 1)
    return v.round().clamp(0, levels - 1).to(torch.uint8)


def to_bytes(images: Levels, levels: Display) -> Levels:
    """Convert levels [..., C, H, W] to display bytes 0..255, of the same shape, or [..., 3, H, W] with a palette.

    Without a palette this is monotone, and ``quantize(_, 256, levels)`` is the exact inverse.
    """
    if isinstance(levels, str):
        return np.moveaxis(colors_of(levels)[images[..., 0, :, :]], -1, -3)  # [..., H, W, 3] -> [..., 3, H, W]
    return bytes_table(levels)[images]


def from_bytes(images: Levels, levels: Display) -> Levels:
    """The inverse of :func:`to_bytes`: bytes quantized, or the nearest colors of a palette."""
    return indexed(images, levels) if isinstance(levels, str) else quantize(images, LEVELS, levels)


def shown(images: Levels, levels: Display) -> tuple[Levels, int]:
    """Images and their levels for functions that need intensities: with a palette, RGB bytes [..., 3, H, W] and 256."""
    return (to_bytes(images, levels), LEVELS) if isinstance(levels, str) else (images, levels)


def in_levels(images: torch.Tensor, display: Display) -> tuple[torch.Tensor, int]:
    """Images, uint8 [N, C, H, W], and their number of levels; those of a palette become RGB of 256 levels."""
    import torch

    found, levels = shown(images.numpy(), display)
    return torch.from_numpy(found), levels
