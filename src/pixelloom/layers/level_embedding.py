"""Embeddings of levels: pixels as categorical inputs instead of scaled numbers.

Each image channel has its own table of vectors. The vectors of a pixel are concatenated, which preserves the order of
channels: with C channels and E features, channel c is features cE to (c + 1)E - 1, group c of a masked convolution.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.reads import HERE, Read


class LevelEmbedding(nn.Module):
    """A learned vector per level of one channel.

    Each input is rounded to a level; the remainder adds a multiple of the step to the next level, so that the gradient
    with respect to the input is not zero and tests of causality can use it. At integer levels the remainder is 0.

    Args:
        levels: number of levels.
        features: length of a vector.
    """

    def __init__(self, levels: int, features: int) -> None:
        super().__init__()
        # The discrete cosine basis along the levels, sqrt(2) cos(pi k (v + 1/2) / levels), so that near levels have
        # similar vectors. There are levels - 1 different ones; the first is monotone in the level.
        v, k = torch.arange(levels)[:, None], torch.arange(features) % (levels - 1) + 1
        self.weight = nn.Parameter(math.sqrt(2) * torch.cos(torch.pi * k * (v + 0.5) / levels))

    def forward(self, x: Tensor) -> Tensor:
        """Level indices [B, 1, H, W] -> [B, features, H, W]"""
        number = x[:, 0]  # [B, 1, H, W] -> [B, H, W]
        level = number.detach().round().long().clamp(0, len(self.weight) - 1)
        step = self.weight.detach().diff(dim=0)[level.clamp(max=len(self.weight) - 2)]
        # [B, H, W, features] -> [B, features, H, W]
        return (F.embedding(level, self.weight) + (number - level)[..., None] * step).permute(0, 3, 1, 2)

    def reads(self) -> tuple[Read, ...]:
        """All features of the same position."""
        return (Read(HERE),)


class Embedded(nn.Module):
    """A pixel network over embedded levels.

    Args:
        network: built for images of C * features channels.
        spec: the images.
        features: length of the vector of each level.
    """

    def __init__(self, network: nn.Module, spec: ImageSpec, features: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LevelEmbedding(spec.levels, features) for _ in range(spec.channels))
        self.network = network

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Level indices [B, C, H, W], and the conditioning of the network -> [B, outputs, H, W]"""
        h = torch.cat([table(x[:, c : c + 1]) for c, table in enumerate(self.levels)], dim=1)
        out: Tensor = self.network(h, labels) if condition is None else self.network(h, labels, condition)
        return out
