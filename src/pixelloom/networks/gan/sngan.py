"""SNGAN, residual: spectral norm on every layer of the discriminator, and conditioning by projection.

    z -> linear -> 4x4 -> residual blocks, each doubling the side -> norm, ReLU, 3x3 convolution, tanh -> image
    image -> residual blocks, each halving the side, down to 8x8 -> two more -> ReLU, sum over positions -> logit

At 32x32 with the default widths these are the paper's networks (appendix B, table 4). With classes, a class vector is
concatenated to z (not in the paper), the generator's batch norms have gains and biases per class, and the logit is
phi(h) + <e_y, h>.

With ``deviation`` the logit has a term for the batch: d is the standard deviation of each of the features h over the
images of the same class in the batch, and psi(d) is added. A discriminator of single images has no direct measure of
how much the images of a class vary, and the generator's vary too little for long. The statistic is that of Karras et
al. 2018, "Progressive Growing of GANs", section 3, here for each class and each feature.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks"; Miyato and Koyama 2018,
"cGANs with Projection Discriminator".
"""

from __future__ import annotations

import itertools
import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.class_conditioning import ClassBatchNorm2d, ClassVector, Projection, check_given
from pixelloom.layers.spectral_norm import spectral
from pixelloom.networks.gan.resolutions import sides, widths

BOTTOM = 8
"""Side at which the discriminator stops halving."""

EPS = 0.01
"""Added to the variance of a feature: the square root has a bounded slope where a class has one image."""

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, Projection)


class SNGANConfig(BaseModel):
    """Both networks; the defaults are the paper's, for 32x32 images. On a CPU use a quarter of the widths."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: int = Field(128, ge=1, le=4096, description="length of the latent vector z")
    generator_width: int = Field(256, ge=1, le=2048, description="features at the side of the image")
    discriminator_width: int = Field(128, ge=1, le=2048, description="features at half the side of the image")
    doubling: bool = Field(
        False,
        description="double the features each time the side is halved, up to 16 times (paper, 128x128)",
    )
    deviation: bool = Field(
        False,
        description="show the discriminator how much the images of a class vary in the batch (minibatch deviation)",
    )

    def features(self, width: int, stages: tuple[int, ...]) -> tuple[int, ...]:
        """Features of each stage, from the smallest."""
        return widths(stages, width, width * (16 if self.doubling else 1))


class SNGANGenerator(nn.Module):
    """z -> images in [-1, 1]; see :class:`pixelloom.networks.protocols.Generator`."""

    def __init__(self, config: SNGANConfig, spec: ImageSpec, *, classes: int = 0) -> None:
        super().__init__()
        self.latent, self.classes = config.latent, classes
        features = config.features(config.generator_width, sides(spec))
        if classes:
            self.embedding = ClassVector(classes, config.latent)  # as long as z
        self.first = xavier(nn.Linear(2 * config.latent if classes else config.latent, features[0] * 16))
        self.blocks = nn.ModuleList(UpBlock(a, b, classes) for a, b in itertools.pairwise(features))
        self.norm = ClassBatchNorm2d(features[-1])
        self.last = xavier(nn.Conv2d(features[-1], spec.channels, 3, padding=1))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, latent] -> [B, C, H, W]"""
        check_given("labels", labels, self.classes)
        h = self.first(self.embedding(z, labels) if self.classes else z)
        h = h.unflatten(1, (-1, 4, 4))  # [B, features * 16] -> [B, features, 4, 4]
        for block in self.blocks:
            h = block(h, labels)
        return torch.tanh(self.last(F.relu(self.norm(h))))


class UpBlock(nn.Module):
    """up(skip(x)) + conv(relu(norm(conv(up(relu(norm(x))))))): [B, a, S, S] -> [B, b, 2S, 2S].

    The convolutions have no bias: a constant added to a feature at all positions is subtracted by the norm that
    follows.
    """

    def __init__(self, width_in: int, width_out: int, classes: int) -> None:
        super().__init__()
        self.norm1 = ClassBatchNorm2d(width_in, classes)
        self.conv1 = xavier(nn.Conv2d(width_in, width_out, 3, padding=1, bias=False), math.sqrt(2))
        self.norm2 = ClassBatchNorm2d(width_out, classes)
        self.conv2 = xavier(nn.Conv2d(width_out, width_out, 3, padding=1, bias=False), math.sqrt(2))
        self.skip = xavier(nn.Conv2d(width_in, width_out, 1, bias=False))

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """[B, a, S, S] -> [B, b, 2S, 2S]"""
        h = self.conv1(_double(F.relu(self.norm1(x, labels))))
        out: Tensor = self.conv2(F.relu(self.norm2(h, labels)))
        return out + _double(self.skip(x))


class SNGANDiscriminator(nn.Module):
    """Images -> logits; see :class:`pixelloom.networks.protocols.Discriminator`."""

    def __init__(self, config: SNGANConfig, spec: ImageSpec, *, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        down = tuple(side for side in sides(spec)[:-1] if side >= BOTTOM)
        halved = config.features(config.discriminator_width, down)[::-1]
        features = (spec.channels, *halved, halved[-1], halved[-1])
        pairs = itertools.pairwise(features)
        self.blocks = nn.Sequential(
            *(DownBlock(a, b, first=i == 0, down=i < len(halved)) for i, (a, b) in enumerate(pairs))
        )
        self.last = spectral(xavier(nn.Linear(features[-1], 1)))
        self.spread = spectral(xavier(nn.Linear(features[-1], 1, bias=False))) if config.deviation else None
        if classes:
            self.projection = spectral(xavier(Projection(classes, features[-1])))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B]"""
        check_given("labels", labels, self.classes)
        h = F.relu(self.blocks(x)).sum(dim=(2, 3))  # [B, features, 8, 8] -> [B, features]
        logits: Tensor = self.last(h)[:, 0]  # [B, 1] -> [B]
        if self.spread is not None:
            logits = logits + self.spread(class_deviation(h, labels))[:, 0]
        return logits + self.projection(h, labels) if self.classes else logits


class DownBlock(nn.Module):
    """pool(skip(x)) + pool(conv(relu(conv(relu(x))))): [B, a, S, S] -> [B, b, S/2, S/2], or S without ``down``.

    The first block reads the image and has no first ReLU.
    """

    def __init__(self, width_in: int, width_out: int, *, first: bool, down: bool) -> None:
        super().__init__()
        self.first, self.down = first, down
        hidden = width_out if first else width_in
        self.conv1 = spectral(xavier(nn.Conv2d(width_in, hidden, 3, padding=1), math.sqrt(2)))
        self.conv2 = spectral(xavier(nn.Conv2d(hidden, width_out, 3, padding=1), math.sqrt(2)))
        changes = down or width_in != width_out
        self.skip = spectral(xavier(nn.Conv2d(width_in, width_out, 1))) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, a, S, S] -> [B, b, S/2, S/2], or S without ``down``"""
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.down:  # a 1x1 convolution commutes with the mean; after it, it has a quarter of the work
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        out: Tensor = h + self.skip(x)
        return out


def class_deviation(h: Tensor, labels: Tensor | None) -> Tensor:
    """sqrt(v + 0.01) with v the variance of each feature over the images of the same class.

    Args:
        h: features of a batch, [B, features].
        labels: int64 [B]; None if all images are of one class.

    Returns:
        float32 [B, features]; rows of the same class are equal.
    """
    h = h.float()  # bf16 is too coarse for squares
    if labels is None:
        labels = h.new_zeros(len(h), dtype=torch.long)
    same = (labels[:, None] == labels).float()  # [B, B]
    share = same / same.sum(1, keepdim=True)
    with torch.autocast(h.device.type, enabled=False):
        centered = h - share @ h
        variance = share @ centered.square()
    return (variance + EPS).sqrt()


def xavier(layer: Layer, gain: float = 1.0) -> Layer:
    """Draw the weights of a layer as in Glorot and Bengio 2010, set its bias, if any, to 0, and return the layer."""
    nn.init.xavier_uniform_(layer.weight, gain)
    bias = getattr(layer, "bias", None)
    if bias is not None:
        nn.init.zeros_(bias)
    return layer


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
