"""DCGAN: a generator of transposed convolutions, and a discriminator of strided convolutions that mirrors it.

    z [B, latent] -> 4x4 -> 8x8 -> ... -> half the side, each by a 4x4 transposed convolution, batch norm and ReLU
      -> the image, by one more and tanh
    image -> half the side -> ... -> 4x4, each by a strided 4x4 convolution and leaky ReLU -> one logit, by a 4x4
      convolution

Convolutions followed by batch norm have no bias, because the norm would subtract it with the mean. With classes, a
class vector is concatenated to z, batch norm has gains and biases per class, and the logit gets a projection term.

Source: Radford, Metz, Chintala 2016, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks"; conditioning as in Miyato and Koyama 2018, "cGANs with Projection Discriminator".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.class_conditioning import ClassBatchNorm2d, ClassVector, Projection, check_given
from pixelloom.layers.self_attention import SelfAttention, Style
from pixelloom.layers.spectral_norm import spectral
from pixelloom.networks.gan.resolutions import sides, widths

DEVIATION = 0.02
"""Of the initial weights (section 4), and of the gains of norms around 1, as in the authors' code."""

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d, Projection)


class ConvGANConfig(BaseModel):
    """Fields that DCGAN and SAGAN share; the defaults are the tutorial's, for 64x64 images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: int = Field(20, ge=1, le=4096, description="length of the latent vector z")
    generator_width: int = Field(
        64, ge=1, le=1024, description="features at half the side of the image; doubled each time the side is halved"
    )
    discriminator_width: int = Field(64, ge=1, le=1024, description="the same for the discriminator")
    most_features: int = Field(512, ge=1, le=8192, description="upper bound on the features of a stage")


class DCGANConfig(ConvGANConfig):
    """Both networks; the defaults are the tutorial's, for 64x64 images."""


class DCGANGenerator(nn.Module):
    """z -> images in [-1, 1]; see :class:`pixelloom.networks.protocols.Generator`.

    Args:
        config: widths.
        spec: the images.
        classes: number of classes, or 0.
        spectral_norm: apply spectral norm to the convolutions of all stages (SAGAN).
        attention: style of the self-attention after each stage that has one, by the index of the stage (SAGAN).
    """

    def __init__(
        self,
        config: ConvGANConfig,
        spec: ImageSpec,
        *,
        classes: int = 0,
        spectral_norm: bool = False,
        attention: Mapping[int, Style] | None = None,
    ) -> None:
        super().__init__()
        self.latent, self.classes = config.latent, classes
        if classes:
            self.embedding = ClassVector(classes, config.latent)  # as long as z
        inputs = 2 * config.latent if classes else config.latent
        features = (inputs, *widths(sides(spec)[:-1], config.generator_width, config.most_features))
        stages = [Up(a, b, first=i == 0, classes=classes) for i, (a, b) in enumerate(itertools.pairwise(features))]
        last = normal(nn.ConvTranspose2d(features[-1], spec.channels, 4, stride=2, padding=1))
        after = extend_stages([stage.conv for stage in stages], spectral_norm, attention or {})
        self.stages, self.after, self.last = nn.ModuleList(stages), after, last

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, latent] -> [B, C, H, W]"""
        check_given("labels", labels, self.classes)
        h = (self.embedding(z, labels) if self.classes else z)[:, :, None, None]  # [B, inputs] -> [B, inputs, 1, 1]
        for stage, after in zip(self.stages, self.after, strict=True):
            h = after(stage(h, labels))
        return torch.tanh(self.last(h))


class Up(nn.Module):
    """relu(norm(conv(x))): [B, a, S, S] -> [B, b, 2S, 2S]; the first stage [B, a, 1, 1] -> [B, b, 4, 4]."""

    def __init__(self, width_in: int, width_out: int, *, first: bool, classes: int) -> None:
        super().__init__()
        stride, padding = (1, 0) if first else (2, 1)
        self.conv = normal(nn.ConvTranspose2d(width_in, width_out, 4, stride, padding, bias=False))
        self.norm = ClassBatchNorm2d(width_out, classes, DEVIATION)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """[B, a, S, S] -> [B, b, 2S, 2S]"""
        return F.relu(self.norm(self.conv(x), labels))


class DCGANDiscriminator(nn.Module):
    """Images -> logits; see :class:`pixelloom.networks.protocols.Discriminator`, arguments as of the generator."""

    def __init__(
        self,
        config: ConvGANConfig,
        spec: ImageSpec,
        *,
        classes: int = 0,
        spectral_norm: bool = False,
        attention: Mapping[int, Style] | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        down = widths(sides(spec)[:-1], config.discriminator_width, config.most_features)[::-1]
        features = (spec.channels, *down)
        stages = [normal(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in itertools.pairwise(features)]
        last = normal(nn.Conv2d(features[-1], 1, 4))
        projection = normal(Projection(classes, features[-1])) if classes else None
        after = extend_stages(stages, spectral_norm, attention or {})
        self.stages, self.after, self.last = nn.ModuleList(stages), after, last
        if projection is not None:
            self.projection = projection

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B]"""
        check_given("labels", labels, self.classes)
        for stage, after in zip(self.stages, self.after, strict=True):
            x = after(F.leaky_relu(stage(x), 0.1))
        logits: Tensor = self.last(x)[:, 0, 0, 0]  # [B, 1, 1, 1] -> [B]
        return logits + self.projection(x.sum(dim=(2, 3)), labels) if self.classes else logits


def extend_stages(
    convolutions: Iterable[nn.Conv2d | nn.ConvTranspose2d], spectral_norm: bool, attention: Mapping[int, Style]
) -> nn.ModuleList:
    """Apply spectral norm to the convolutions of the stages if asked to, and build the layer that follows each stage.

    Returns:
        For each stage a :class:`SelfAttention` of the style given for its index, or the identity.
    """
    after = nn.ModuleList()
    for i, conv in enumerate(convolutions):
        if spectral_norm:
            spectral(conv)
        after.append(SelfAttention(conv.out_channels, attention[i]) if i in attention else nn.Identity())
    return after


def normal(layer: Layer) -> Layer:
    """Draw the weights of a layer from N(0, 0.02^2), set its bias, if any, to 0, and return the layer."""
    nn.init.normal_(layer.weight, 0.0, DEVIATION)
    bias = getattr(layer, "bias", None)
    if bias is not None:
        nn.init.zeros_(bias)
    return layer
