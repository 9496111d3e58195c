"""Telling a network that makes or judges images the class of each: beside the noise, by a norm, or by a projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelloom.core.errors import UsageError


class ClassBatchNorm2d(nn.BatchNorm2d):
    """gain_y (x - mean) / sqrt(variance + eps) + bias_y with a gain and a bias for each class y.

    Without classes it is batch normalization as ever. Mean and variance are of the batch in training mode, and the
    running ones in eval mode: there, an image does not depend on the rest of its batch.

    Source: Dumoulin et al. 2017, "A Learned Representation for Artistic Style", section 2.2.

    Args:
        features: of x.
        classes: how many there are, or 0.
        deviation: gains start from N(1, deviation), biases from 0.
    """

    def __init__(self, features: int, classes: int = 0, deviation: float = 0.0) -> None:
        super().__init__(features, affine=not classes)
        self.gains: nn.Embedding | None = None
        if classes:
            self.gains, self.biases = nn.Embedding(classes, features), nn.Embedding(classes, features)
            nn.init.zeros_(self.biases.weight)
        nn.init.normal_(self.weight if self.gains is None else self.gains.weight, 1.0, deviation)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, features, H, W], and labels int64 [B] if there are classes -> [B, features, H, W]"""
        normed = super().forward(x)
        if self.gains is None:
            return normed
        gain, bias = (table(labels)[:, :, None, None].to(normed.dtype) for table in (self.gains, self.biases))
        return torch.addcmul(bias, normed, gain)


class ClassVector(nn.Embedding):
    """Noise z and a learned vector of the class y, joined: (z, e_y), with e_y from N(0, 1) at first, like the noise.

    So the images of two classes differ from the first step on. A norm's gains and biases, which start alike in all
    classes, take some thousand steps of Adam to get as far.

    Source: Mirza and Osindero 2014, "Conditional Generative Adversarial Nets".
    """

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """[B, latent], int64 [B] -> [B, latent + size of a vector]"""
        return torch.cat((z, super().forward(labels)), dim=1)


class Projection(nn.Embedding):
    """What a class adds to the logit of an image with features h: <e_y, h>, a learned vector for each class y.

    Source: Miyato and Koyama 2018, "cGANs with Projection Discriminator", eq. 3.
    """

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """[B, features], int64 [B] -> [B]"""
        return (super().forward(labels) * h).sum(dim=1)


class ClassBias(nn.Embedding):
    """A vector for each class, and a last one for none: int64 [B] -> [B, features, 1, 1], to be added to a layer.

    All are zero at first: a network starts as one that is told nothing.

    Source: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", eq. 4.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__(classes + 1, features)
        nn.init.zeros_(self.weight)

    def forward(self, labels: Tensor) -> Tensor:
        """[B] -> [B, features, 1, 1]"""
        return super().forward(labels)[:, :, None, None]


def check_given(name: str, value: object, wanted: int) -> None:
    """Refuse to guess a condition, and to ignore one.

    Raises:
        UsageError: if the value is missing though wanted, or there though not.
    """
    if wanted and value is None:
        raise UsageError(f"{name}: this network was built with {name} and must be given them for every image")
    if value is not None and not wanted:
        raise UsageError(f"{name}: this network was built without {name}; leave them out")
