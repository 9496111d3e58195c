"""Types shared by all packages: images, batches, conditioning, and the protocols of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

Levels: TypeAlias = npt.NDArray[np.uint8]
"""Images as integer levels, uint8 [N, C, H, W], with values below ``ImageSpec.levels``."""

Labels: TypeAlias = npt.NDArray[np.int64]
"""Class indices, int64 [N]."""


Conditioning: TypeAlias = Mapping[str, torch.Tensor]
"""Keyword arguments of a network's ``forward``: ``labels`` int64 [B], ``condition`` float32 [B or 1, c, H, W]."""


@dataclass(frozen=True)
class ImageSpec:
    """Shape of an image and number of levels of its values (2 for binary, 256 for 8-bit).

    Raises:
        ValueError: for channels, height or width below 1, or levels outside 2..256.
    """

    channels: int
    height: int
    width: int
    levels: int

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1 or not 2 <= self.levels <= 256:
            raise ValueError(f"an image has positive sides and 2 to 256 levels, not {self}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return self.channels, self.height, self.width

    @property
    def dims(self) -> int:
        """Number of values of an image (C H W): the D of bits per dimension."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width} with {self.levels} levels"


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
