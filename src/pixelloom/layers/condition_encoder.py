"""An encoder of conditioning images whose features at each position depend on the whole image."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

_SMALLEST = 7  # the grid of the lowest scale has at most this side
_WHOLE = 7  # side of the kernels there: two of them reach across it


class ConditionEncoder(nn.Module):
    """A U-Net: scales of half the size each, down to 7x7 or less, and up again, with skip connections.

    Two 7x7 convolutions at the lowest scale reach across it, so that every position of the conditioning image reaches
    every position of the result. The network reads the result without masks, as it may.

    Source: Ronneberger et al. 2015, "U-Net", figure 1, with additions for concatenations.

    Args:
        channels: of the conditioning image.
        features: of the result and of all scales.
        height: H.
        width: W.
    """

    def __init__(self, channels: int, features: int, height: int, width: int) -> None:
        super().__init__()
        scales = max(0, math.ceil(math.log2(max(height, width) / _SMALLEST)))
        self.begin = nn.Conv2d(channels, features, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(features, features, 3, stride=2, padding=1) for _ in range(scales))
        self.across = nn.ModuleList(nn.Conv2d(features, features, _WHOLE, padding=_WHOLE // 2) for _ in range(2))
        self.up = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(scales))

    def forward(self, image: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, features, H, W]"""
        s = F.silu(self.begin(image))
        skips = []
        for layer in self.down:  # [B, features, h, w] -> [B, features, ceil(h / 2), ceil(w / 2)]
            skips.append(s)
            s = F.silu(layer(s))
        for layer in self.across:
            s = s + F.silu(layer(s))
        for layer, skip in zip(self.up, reversed(skips), strict=True):
            s = F.silu(layer(skip + F.interpolate(s, size=skip.shape[2:], mode="nearest")))
        return s
