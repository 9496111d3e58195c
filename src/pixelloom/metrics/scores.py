"""Kinds of anomaly score, from the bits of an image under a model; larger is more anomalous.

With b = -log2 p(x) / dims, the bits/dim of image x, and normal images to refer to:

    likelihood   b
    typicality   |b - mean of b over normal images|, after Nalisnick et al. 2019 (1906.02994), for single images
    complexity   b - c, c the bits/dim of the image as lossless WebP or PNG, the shorter one (Serra et al. 2020,
                 1909.11480, with their choice of the shortest of several codes)
    ratio        b - b', b' the bits/dim under a background model (Ren et al. 2019, 1906.02845)
    auto         -log p_t - log p_c, the p-values of typicality (two-sided) and complexity (one-sided) for normal
                 distributions of b and b - c with mean and variance of normal images

``auto`` is Fisher's method of combining tests (1932); Bergamin et al. 2022 (2203.01097) combine tests of a generative
model in this way. Its sum need not follow a chi-squared distribution, since p-values come from calibration scores.
Nothing in it is chosen on outliers.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, features

from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import Levels
from pixelloom.data.pixels import to_bytes
from pixelloom.metrics.anomaly import Scores

Kind = Literal["likelihood", "typicality", "complexity", "ratio", "auto"]
KINDS: tuple[Kind, ...] = ("likelihood", "typicality", "complexity", "ratio", "auto")
_LEAST = 3  # reference images: the covariance of two statistics
_WEBP_SIDE = 16_383  # pixels, of the format
_VARIANCE = 1e-6  # (bits/dim)^2, added to both variances: normal images of a tiny data set may have equal bits


@dataclass(frozen=True)
class Statistics:
    """Statistics of N images, in bits/dim, float64 [N] each.

    Attributes:
        bits: under the model.
        coded: as lossless WebP or PNG.
        background: under the background model; None without one.
    """

    bits: Scores
    coded: Scores
    background: Scores | None = None

    def __len__(self) -> int:
        return len(self.bits)

    def take(self, rows: slice) -> Statistics:
        """The statistics of some images."""
        return Statistics(self.bits[rows], self.coded[rows], None if self.background is None else self.background[rows])

    @classmethod
    def joined(cls, parts: list[Statistics]) -> Statistics:
        """The statistics of all images of several parts."""
        background = [part.background for part in parts if part.background is not None]
        return cls(
            np.concatenate([np.empty(0), *(part.bits for part in parts)]),
            np.concatenate([np.empty(0), *(part.coded for part in parts)]),
            np.concatenate(background) if background else None,
        )


@dataclass(frozen=True)
class Reference:
    """Mean and covariance of (bits, coded) over normal images, in bits/dim."""

    mean: tuple[float, float]
    covariance: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def of(cls, found: Statistics) -> Reference:
        """The reference of normal images.

        Raises:
            DataError: for fewer than three.
        """
        if len(found) < _LEAST:
            raise DataError(f"calibration: {_LEAST} normal images to refer to are needed, and there are {len(found)}")
        plane = np.stack([found.bits, found.coded])  # [2, N]
        (a, b), (c, d) = np.cov(plane).tolist()
        bits, coded = plane.mean(1).tolist()
        return cls((bits, coded), ((a, b), (c, d)))

    def score(self, kind: Kind, found: Statistics) -> Scores:
        """The scores of images, float64 [N].

        Raises:
            UsageError: for an unknown kind, or ``ratio`` without a background model.
        """
        if kind not in KINDS:
            raise UsageError(f"kind: {', '.join(KINDS)}, not {kind!r}")
        if kind == "likelihood":
            return found.bits
        if kind == "typicality":
            return np.abs(found.bits - self.mean[0])
        if kind == "complexity":
            return found.bits - found.coded
        if kind == "ratio":
            if found.background is None:
                raise UsageError("kind: ratio needs a background model, --background RUN")
            return found.bits - found.background
        (bits, both), (_, coded) = self.covariance
        typical = (found.bits - self.mean[0]) / math.sqrt(bits + _VARIANCE)
        simple = (found.bits - found.coded - self.mean[0] + self.mean[1]) / math.sqrt(
            bits + coded - 2 * both + _VARIANCE
        )
        return -(math.log(2) + _log_normal(-np.abs(typical)) + _log_normal(-simple))


def _log_normal(z: Scores) -> Scores:
    """log P(Z <= z) of a standard normal variable, float64 [N]."""
    found: Scores = torch.special.log_ndtr(torch.from_numpy(z)).numpy()
    return found


def coded_bits(images: Levels, levels: int) -> Scores:
    """The size of each image as lossless WebP or PNG, the shorter one, in bits per value, float64 [N].

    Gray and RGB images are written as 8 bits a value; other numbers of channels lie beside each other in gray. The size
    depends on the compressors (:func:`compressors`), so all images of a calibration have to be measured by one
    installation.

    Args:
        images: uint8 [N, C, H, W].
        levels: number of levels.
    """
    shown = to_bytes(images, levels)
    n, channels, height, width = shown.shape
    if channels not in (1, 3):
        shown = shown.transpose(0, 2, 1, 3).reshape(n, 1, height, channels * width)  # [N, H, C, W] -> [N, 1, H, C * W]
    return np.array([8 * _size(image) / (channels * height * width) for image in shown], np.float64)


def compressors() -> str:
    """The compressors of :func:`coded_bits` and their versions; WebP is missing in some builds of Pillow."""
    webp = features.version("webp")
    return f"PNG by zlib {features.version('zlib')}" + (f", WebP {webp}" if webp else "")


def _size(image: Levels) -> int:
    """Bytes of an image [1 or 3, H, W] as WebP or PNG."""
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))  # [H, W, 3]
    shown, settings = Image.fromarray(pixels), [("PNG", {"optimize": True})]
    if features.check("webp") and max(shown.size) <= _WEBP_SIDE:
        settings.append(("WEBP", {"lossless": True}))
    sizes = []
    for name, options in settings:
        buffer = io.BytesIO()
        shown.save(buffer, name, **options)
        sizes.append(len(buffer.getvalue()))
    return min(sizes)
