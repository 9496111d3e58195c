"""Types shared by all packages: images, batches, conditioning, and the protocols of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # so that errors in names of data sets and models need no torch
    import torch

Levels: TypeAlias = npt.NDArray[np.uint8]
"""Images as integer levels, uint8 [N, C, H, W], with values below ``ImageSpec.levels``."""

Display: TypeAlias = int | str
"""How levels are shown: their number, for intensities from black to white, or a palette, "#rrggbb,..."."""

Labels: TypeAlias = npt.NDArray[np.int64]
"""Class indices, int64 [N]."""


Conditioning: TypeAlias = "Mapping[str, torch.Tensor]"
"""Keyword arguments of a network's ``forward``: ``labels`` int64 [B], ``condition`` float32 [B or 1, c, H, W]."""


def palette_size(palette: Display) -> int:
    """The number of colors of a palette; a number is one already."""
    return len(palette.split(",")) if isinstance(palette, str) else palette


@dataclass(frozen=True)
class ImageSpec:
    """Shape of an image and number of levels of its values (2 for binary, 256 for 8-bit).

    With a palette, "#rrggbb,..." with a color for each level, an image has one channel, of indices of colors.

    Raises:
        ValueError: for channels, height or width below 1, levels outside 2..256, or a palette that does not fit.
    """

    channels: int
    height: int
    width: int
    levels: int
    palette: str | None = None

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1 or not 2 <= self.levels <= 256:
            raise ValueError(f"an image has positive sides and 2 to 256 levels, not {self}")
        if self.palette is not None and (self.channels != 1 or palette_size(self.palette) != self.levels):
            raise ValueError(f"a palette has a color for each level of the only channel, not {self.palette!r}")

    @property
    def display(self) -> Display:
        """How the levels are shown."""
        return self.palette or self.levels

    @property
    def shown_channels(self) -> int:
        """Channels of the images as they are shown: 3 with a palette."""
        return self.channels if self.palette is None else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return self.channels, self.height, self.width

    @property
    def dims(self) -> int:
        """Number of values of an image (C H W): the D of bits per dimension."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        values = f"{self.levels} levels" if self.palette is None else f"a palette of {self.levels} colors"
        return f"{self.channels}x{self.height}x{self.width} with {values}"


class Batch(NamedTuple):
    """Images as levels, uint8 [B, C, H, W], and labels, int64 [B], or None for data without classes."""

    images: torch.Tensor
    labels: torch.Tensor | None


@runtime_checkable
class CanSample(Protocol):
    """A model that samples images."""

    def sample(self, n: int, *, seed: int = 0) -> torch.Tensor:
        """Sample n images as levels, uint8 [n, C, H, W]; image i depends on (seed, i) alone."""


@runtime_checkable
class CanScore(Protocol):
    """A model with an exact likelihood."""

    def log_prob(self, images: torch.Tensor) -> torch.Tensor:
        """Natural log-probability of each image, float64 [N], for levels uint8 [N, C, H, W]."""
