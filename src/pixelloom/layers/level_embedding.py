"""Levels as learned vectors instead of scaled numbers: what a categorical input is elsewhere.

A scaled number tells a network that level 3 lies between 2 and 4; a vector for each level leaves it to find out. Each
image channel has a table of its own, and its features lie side by side, so that the channels of a pixel keep their
order: with C channels and E features, channel c is features c E to (c + 1) E - 1, group c of a masked convolution.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.reads import HERE, Read


class LevelEmbedding(nn.Module):
    """A vector for each level of one channel: level numbers [B, 1, H, W] -> [B, features, H, W].

    From level to level the vectors go on in a straight line, so that a gradient tells which pixels are read. Images
    hold levels only: there it is the vector of the level.

    Args:
        levels: how many there are.
        features: of each vector.
    """

    def __init__(self, levels: int, features: int) -> None:
        super().__init__()
        # Waves along the levels, cos(pi k (v + 1/2) / levels): near levels start near each other. The first is all but
        # the scaled number, and there are levels - 1 different ones.
        v, k = torch.arange(levels)[:, None], torch.arange(features) % (levels - 1) + 1
        self.weight = nn.Parameter(math.sqrt(2) * torch.cos(torch.pi * k * (v + 0.5) / levels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, H, W] -> [B, features, H, W]"""
        number = x[:, 0]
        level = number.detach().round().long().clamp(0, len(self.weight) - 1)
        step = self.weight.detach().diff(dim=0)[level.clamp(max=len(self.weight) - 2)]
        return (F.embedding(level, self.weight) + (number - level)[..., None] * step).permute(0, 3, 1, 2)

    def reads(self) -> tuple[Read, ...]:
        """The same position."""
        return (Read(HERE),)


class Embedded(nn.Module):
    """A network that is handed vectors of levels: level numbers [B, C, H, W] -> what the network makes of
    [B, C * features, H, W].

    Args:
        network: built for images of C * features channels.
        spec: the images themselves.
        features: of the vector of each level.
    """

    def __init__(self, network: nn.Module, spec: ImageSpec, features: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LevelEmbedding(spec.levels, features) for _ in range(spec.channels))
        self.network = network

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B, C, H, W], and what the network takes besides -> [B, outputs, H, W]"""
        h = torch.cat([table(x[:, c : c + 1]) for c, table in enumerate(self.levels)], dim=1)
        out: Tensor = self.network(h, labels) if condition is None else self.network(h, labels, condition)
        return out
