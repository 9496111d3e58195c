"""DCGAN: an image from noise by transposed convolutions, and a judge that is its mirror image.

    z [B, latent] -> 4x4 -> 8x8 -> ... -> half the side, each by a 4x4 transposed convolution, batch norm and ReLU
      -> the image, by one more and tanh
    image -> half the side -> ... -> 4x4, each by a strided 4x4 convolution and leaky ReLU -> one logit, by a 4x4
      convolution

Convolutions that batch normalization follows have no bias: it would be taken away with the mean. With classes, a
vector of the class joins z, batch norm has gains and biases for each class, and the logit a projection onto a vector of
each.

Source: Radford, Metz, Chintala 2016, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks"; conditioning as in Miyato and Koyama 2018, "cGANs with Projection Discriminator".
"""

from __future__ import annotations

import itertools
from typing import TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.class_conditioning import ClassBatchNorm2d, ClassVector, Projection, check_given
from pixelloom.networks.gan.resolutions import sides, widths

DEVIATION = 0.02
"""Of the first weights (section 4), and of the first gains of norms around 1, as in the authors' code."""

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d, Projection)


class DCGANConfig(BaseModel):
    """Both networks; the defaults are the tutorial's, for images of 64x64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: int = Field(20, ge=1, le=4096, description="numbers in the noise vector of an image")
    generator_width: int = Field(
        64, ge=1, le=1024, description="features at half the side of the image; doubled at each half of that"
    )
    discriminator_width: int = Field(64, ge=1, le=1024, description="the same for the network that judges images")
    most_features: int = Field(512, ge=1, le=8192, description="no stage has more features than that")


class DCGANGenerator(nn.Module):
    """z [B, latent] -> images [B, C, H, W] in model space, within [-1, 1].

    Args:
        config: the layers.
        spec: the images.
        classes: how many there are; 0 for a network that is not told any.

    Raises:
        ValueError: for images that are no squares of 16, 32, 64 or 128 pixels a side.
    """

    def __init__(self, config: DCGANConfig, spec: ImageSpec, *, classes: int = 0) -> None:
        super().__init__()
        self.latent, self.classes = config.latent, classes
        if classes:
            self.embedding = ClassVector(classes, config.latent)  # as much of the class as of the noise
        told = 2 * config.latent if classes else config.latent
        features = (told, *widths(sides(spec)[:-1], config.generator_width, config.most_features))
        self.stages = nn.ModuleList(
            Up(a, b, first=i == 0, classes=classes) for i, (a, b) in enumerate(itertools.pairwise(features))
        )
        self.after = nn.ModuleList(nn.Identity() for _ in self.stages)  # where SAGAN has its attention
        self.last = normal(nn.ConvTranspose2d(features[-1], spec.channels, 4, stride=2, padding=1))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, latent], and labels int64 [B] if and only if there are classes -> [B, C, H, W]

        Raises:
            UsageError: for labels that are missing, or given to a network that knows no classes.
        """
        check_given("labels", labels, self.classes)
        h = (self.embedding(z, labels) if self.classes else z)[:, :, None, None]
        for stage, after in zip(self.stages, self.after, strict=True):
            h = after(stage(h, labels))
        return torch.tanh(self.last(h))


class Up(nn.Module):
    """relu(norm(conv(x))): [B, a, S, S] -> [B, b, 2 S, 2 S], and at first [B, a, 1, 1] -> [B, b, 4, 4]."""

    def __init__(self, width_in: int, width_out: int, *, first: bool, classes: int) -> None:
        super().__init__()
        stride, padding = (1, 0) if first else (2, 1)
        self.conv = normal(nn.ConvTranspose2d(width_in, width_out, 4, stride, padding, bias=False))
        self.norm = ClassBatchNorm2d(width_out, classes, DEVIATION)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """See the class."""
        return F.relu(self.norm(self.conv(x), labels))


class DCGANDiscriminator(nn.Module):
    """Images [B, C, H, W] in model space -> logits [B], large for real ones; arguments as of the generator."""

    def __init__(self, config: DCGANConfig, spec: ImageSpec, *, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        down = widths(sides(spec)[:-1], config.discriminator_width, config.most_features)[::-1]
        features = (spec.channels, *down)
        self.stages = nn.ModuleList(
            normal(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in itertools.pairwise(features)
        )
        self.after = nn.ModuleList(nn.Identity() for _ in self.stages)
        self.last = normal(nn.Conv2d(features[-1], 1, 4))
        if classes:
            self.projection = normal(Projection(classes, features[-1]))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W], and labels int64 [B] if and only if there are classes -> [B]

        Raises:
            UsageError: for labels that are missing, or given to a network that knows no classes.
        """
        check_given("labels", labels, self.classes)
        for stage, after in zip(self.stages, self.after, strict=True):
            x = after(F.leaky_relu(stage(x), 0.1))
        logits: Tensor = self.last(x)[:, 0, 0, 0]
        return logits + self.projection(x.sum(dim=(2, 3)), labels) if self.classes else logits


def normal(layer: Layer) -> Layer:
    """The layer with weights from N(0, 0.02) and a bias of 0 if it has one."""
    nn.init.normal_(layer.weight, 0.0, DEVIATION)
    bias = getattr(layer, "bias", None)
    if bias is not None:
        nn.init.zeros_(bias)
    return layer
