"""R3GAN: two residual networks, mirror images of each other, with no normalization and no other tricks.

    z -> a learned 4x4 basis, weighted -> blocks -> (1x1, double the side, blocks) ... -> 1x1 -> image
    image -> 1x1 -> (blocks, halve the side, 1x1) ... -> blocks -> a learned 4x4 basis, projected -> logit

A block is x + 1x1(f(grouped 3x3(f(1x1(x))))) with f a leaky ReLU: the inverted bottleneck of ResNeXt. Sides change by
bilinear interpolation. Blocks start as the identity (Zhang, Dauphin, Ma 2019, "Fixup Initialization"): the last weights
of a block are zero, the others are scaled by L^(-1 / 4), L being the number of blocks. There is no tanh: the image is
what comes out, near [-1, 1] once trained.

Made for the relativistic loss with R1 and R2. With classes, a learned vector of the class joins z, and the logit is the
projection of the last features onto another.

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
"""Of weights that feed a leaky ReLU, to keep the mean square of what passes (He et al. 2015)."""

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class R3GANConfig(BaseModel):
    """Both networks; small by default. The paper has 768 features at all sides of 32x32 images, and 2 blocks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: int = Field(64, ge=1, le=4096, description="numbers in the noise vector of an image")
    width: int = Field(32, ge=1, le=2048, description="features at the side of the image; doubled at each half of it")
    most_features: int = Field(256, ge=1, le=4096, description="no stage has more features than that")
    blocks: int = Field(1, ge=1, le=16, description="residual blocks of each stage")
    expansion: int = Field(2, ge=1, le=8, description="features inside a block for each outside")
    group_width: int = Field(16, ge=1, le=4096, description="features of a group of the 3x3 convolutions")
    embedding: int = Field(64, ge=1, le=4096, description="with classes: numbers in the vector of a class")

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
    """z [B, latent] -> images [B, C, H, W] in model space, not confined to [-1, 1].

    Args:
        config: the layers.
        spec: the images.
        classes: how many there are; 0 for a network that is not told any.

    Raises:
        ValueError: for images that are no squares of 16, 32, 64 or 128 pixels a side.
    """

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
        """[B, latent], and labels int64 [B] if and only if there are classes -> [B, C, H, W]

        Raises:
            UsageError: for labels that are missing, or given to a network that knows no classes.
        """
        check_given("labels", labels, self.classes)
        told = self.embedding(z, labels) if self.classes else z
        h = self.stages[0](self.basis * self.first(told)[:, :, None, None])
        for change, blocks in zip(self.widths, self.stages[1:], strict=True):
            h = blocks(F.interpolate(change(h), scale_factor=2.0, mode="bilinear"))
        image: Tensor = self.last(h)
        return image


class R3GANDiscriminator(nn.Module):
    """Images [B, C, H, W] in model space -> logits [B], large for real ones; arguments as of the generator."""

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
        """[B, C, H, W], and labels int64 [B] if and only if there are classes -> [B]

        Raises:
            UsageError: for labels that are missing, or given to a network that knows no classes.
        """
        check_given("labels", labels, self.classes)
        h = self.stages[0](self.first(x))
        for change, blocks in zip(self.widths, self.stages[1:], strict=True):
            h = blocks(change(F.avg_pool2d(h, 2)))  # at half the side, bilinear interpolation is the mean of 2x2
        out: Tensor = self.last(self.basis(h).flatten(1))
        if not self.classes:
            return out[:, 0]
        logits: Tensor = self.projection(out, labels)
        return logits


class Block(nn.Module):
    """x + 1x1(f(grouped 3x3(f(1x1(x))))) with biases before each f: [B, features, S, S] -> same, at first the same x.

    Args:
        features: of x.
        config: how wide it is inside.
        depth: residual blocks of the whole network, L.
    """

    def __init__(self, features: int, config: R3GANConfig, depth: int) -> None:
        super().__init__()
        inside = features * config.expansion
        # Fixup: L^(-1 / (2 m - 2)) for the m = 3 weights of a branch, of which the last is zero.
        gain = GAIN * depth**-0.25
        self.widen = scaled(nn.Conv2d(features, inside, 1), gain)
        self.mix = scaled(nn.Conv2d(inside, inside, 3, padding=1, groups=inside // config.group_width), gain)
        self.narrow = scaled(nn.Conv2d(inside, features, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        h = F.leaky_relu(self.mix(F.leaky_relu(self.widen(x), SLOPE)), SLOPE)
        out: Tensor = x + self.narrow(h)
        return out


def scaled(layer: Layer, gain: float = 1.0) -> Layer:
    """The layer with weights from N(0, gain^2 / inputs of an output), and a bias of 0 if it has one."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _blocks(features: int, config: R3GANConfig, stages: int) -> nn.Module:
    return nn.Sequential(*(Block(features, config, config.blocks * stages) for _ in range(config.blocks)))


def _change(width_in: int, width_out: int) -> nn.Module:
    return scaled(nn.Conv2d(width_in, width_out, 1, bias=False)) if width_in != width_out else nn.Identity()
