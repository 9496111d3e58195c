"""Conditioning images: encoders, and biases that add their features s to a layer.

A network may read all positions of a conditioning image, so that these layers have no masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec

_SMALLEST = 7  # the grid of the lowest scale has at most this side
_WHOLE = 7  # side of the kernels there: two of them reach across it


class Encoding(Protocol):
    """The settings of :func:`condition_layers`, which configurations of networks have."""

    @property
    def condition_encoder(self) -> str:
        """``u-net`` for a :class:`ConditionEncoder`, else convolutions with SiLU."""

    @property
    def condition_kernels(self) -> Sequence[int]:
        """Sides of the convolutions' kernels; without any, s is the conditioning image."""


def condition_layers(config: Encoding, channels: int, features: int, spec: ImageSpec) -> tuple[nn.Sequential, int]:
    """Layers from a conditioning image [B, channels, H, W] to its features s, and the number of these.

    Args:
        config: the settings.
        channels: of the conditioning image; 0 for none, and no layers.
        features: of s, if there are layers.
        spec: the images.
    """
    layers, width = nn.Sequential(), channels
    if channels and config.condition_encoder == "u-net":
        layers.append(ConditionEncoder(channels, features, spec.height, spec.width))
        width = features
    for side in config.condition_kernels if channels and not layers else ():
        layers.extend([nn.Conv2d(width, features, side, padding=side // 2), nn.SiLU()])
        width = features
    return layers, width


def condition_biases(spatial: int, *features: int) -> nn.ModuleList:
    """For each of some layers a 1x1 convolution of s, to add to the layer's features; all are zero at first.

    Source: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", eq. 5.

    Args:
        spatial: features of s; 0 for no conditioning image, and no convolutions.
        features: of each layer.
    """
    biases = [nn.Conv2d(spatial, each, 1, bias=False) for each in features if spatial]
    for bias in biases:
        nn.init.zeros_(bias.weight)
    return nn.ModuleList(biases)


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
