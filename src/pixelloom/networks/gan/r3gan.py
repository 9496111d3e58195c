"""R3GAN: two residual networks that mirror each other, without normalization.

    z -> a learned 4x4 basis, weighted -> blocks -> (1x1, double the side, blocks) ... -> 1x1 -> image
    image -> 1x1 -> (blocks, halve the side, 1x1) ... -> blocks -> a learned 4x4 basis, projected -> logit

A block is x + 1x1(f(grouped 3x3(f(1x1(x))))) with f a leaky ReLU: the inverted bottleneck of ResNeXt. Resolution
changes by bilinear interpolation. Blocks start as the identity (Zhang, Dauphin, Ma 2019, "Fixup Initialization"): the
last weights of a block are zero, the others are scaled by L^(-1/4), with L the number of blocks. There is no tanh: the
output is not bounded, and lies near [-1, 1] once trained.

Meant for the relativistic loss with R1 and R2. With classes, a class vector is concatenated to z, and the logit is the
inner product of the last features and another class vector.

Source: Huang et al. 2025, "The GAN is dead; long live the GAN! A Modern GAN Baseline" (2501.05441), section 3.
"""

from __future__ import annotations

import itertools
import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.class_conditioning import ClassVector, Projection, check_given
from pixelloom.networks.gan.resolutions import sides, widths

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Gain of weights before a leaky ReLU that preserves the mean square of the features (He et al. 2015)."""

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class R3GANConfig(BaseModel):
    """Both networks; small by default. The paper has 768 features in all stages for 32x32 images, and 2 blocks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: int = Field(64, ge=1, le=4096, description="length of the latent vector z")
    width: int = Field(
        32, ge=1, le=2048, description="features at full resolution; doubled each time the side is halved"
    )
    most_features: int = Field(256, ge=1, le=4096, description="upper bound on the features of a stage")
    blocks: int = Field(1, ge=1, le=16, description="residual blocks of each stage")
    expansion: int = Field(2, ge=1, le=8, description="factor by which the features grow inside a block")
    group_width: int = Field(16, ge=1, le=4096, description="features of a group of the 3x3 convolutions")
    embedding: int = Field(64, ge=1, le=4096, description="with classes: length of a class vector")

    @model_validator(mode="after")
    def _whole_groups(self) -> R3GANConfig:
        for field in ("width", "most_features"):
            inside = getattr(self, field) * self.expansion
            if inside % self.group_width:
                raise ValueError(
                    f"{field} x expansion = {inside} features do not divide into groups of {self.group_width}; "
                    f"choose a multiple of group_width"
                )
        return self


class R3GANGenerator(nn.Module):
    """z -> images, not bounded to [-1, 1]; see :class:`pixelloom.networks.protocols.Generator`."""

    def __init__(self, config: R3GANConfig, spec: ImageSpec, *, classes: int = 0) -> None:
        super().__init__()
        self.latent, self.classes = config.latent, classes
        features = widths(sides(spec), config.width, config.most_features)
        if classes:
            self.embedding = ClassVector(classes, config.embedding)
        self.basis = nn.Parameter(torch.randn(features[0], 4, 4))
        self.first = scaled(nn.Linear(config.latent + (config.embedding if classes else 0), features[0], bias=False))
        self.stages = nn.ModuleList(_blocks(width, config, len(features)) for width in features)
        self.widths = nn.ModuleList(_change(a, b) for a, b in itertools.pairwise(features))
        self.last = scaled(nn.Conv2d(features[-1], spec.channels, 1, bias=False))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, latent] -> [B, C, H, W]"""
        check_given("labels", labels, self.classes)
        inputs = self.embedding(z, labels) if self.classes else z
        # Each feature is its 4x4 basis times a weight: [features, 4, 4] * [B, features, 1, 1] -> [B, features, 4, 4]
        h = self.stages[0](self.basis * self.first(inputs)[:, :, None, None])
        for change, blocks in zip(self.widths, self.stages[1:], strict=True):
            h = blocks(F.interpolate(change(h), scale_factor=2.0, mode="bilinear"))
        image: Tensor = self.last(h)
        return image


class R3GANDiscriminator(nn.Module):
    """Images -> logits; see :class:`pixelloom.networks.protocols.Discriminator`."""

    def __init__(self, config: R3GANConfig, spec: ImageSpec, *, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        features = widths(sides(spec), config.width, config.most_features)[::-1]
        self.first = scaled(nn.Conv2d(spec.channels, features[0], 1, bias=False))
        self.stages = nn.ModuleList(_blocks(width, config, len(features)) for width in features)
        self.widths = nn.ModuleList(_change(a, b) for a, b in itertools.pairwise(features))
        self.basis = scaled(nn.Conv2d(features[-1], features[-1], 4, groups=features[-1], bias=False))
        self.last = scaled(nn.Linear(features[-1], config.embedding if classes else 1, bias=False))
        if classes:
            self.projection = Projection(classes, config.embedding)
            nn.init.normal_(self.projection.weight, 0.0, config.embedding**-0.5)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B]"""
        check_given("labels", labels, self.classes)
        h = self.stages[0](self.first(x))
        for change, blocks in zip(self.widths, self.stages[1:], strict=True):
            h = blocks(change(F.avg_pool2d(h, 2)))  # bilinear interpolation to half the side is a 2x2 mean
        out: Tensor = self.last(self.basis(h).flatten(1))  # [B, features, 1, 1] -> [B, features] -> [B, embedding or 1]
        if not self.classes:
            return out[:, 0]
        logits: Tensor = self.projection(out, labels)
        return logits


class Block(nn.Module):
    """x + 1x1(f(grouped 3x3(f(1x1(x))))) with biases before each f; the identity at first.

    Args:
        features: of x.
        config: expansion and width of the groups.
        depth: number of residual blocks in the network, L.
    """

    def __init__(self, features: int, config: R3GANConfig, depth: int) -> None:
        super().__init__()
        inside = features * config.expansion
        # Fixup: L^(-1 / (2m - 2)) for the m = 3 weights of a branch, the last of which is zero.
        gain = GAIN * depth**-0.25
        self.widen = scaled(nn.Conv2d(features, inside, 1), gain)
        self.mix = scaled(nn.Conv2d(inside, inside, 3, padding=1, groups=inside // config.group_width), gain)
        self.narrow = scaled(nn.Conv2d(inside, features, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, S, S] -> same"""
        h = F.leaky_relu(self.mix(F.leaky_relu(self.widen(x), SLOPE)), SLOPE)
        out: Tensor = x + self.narrow(h)
        return out


def scaled(layer: Layer, gain: float = 1.0) -> Layer:
    """Draw the weights of a layer from N(0, gain^2 / fan-in), set its bias, if any, to 0, and return the layer."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _blocks(features: int, config: R3GANConfig, stages: int) -> nn.Module:
    return nn.Sequential(*(Block(features, config, config.blocks * stages) for _ in range(config.blocks)))


def _change(width_in: int, width_out: int) -> nn.Module:
    return scaled(nn.Conv2d(width_in, width_out, 1, bias=False)) if width_in != width_out else nn.Identity()
