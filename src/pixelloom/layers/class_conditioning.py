"""Conditioning on classes: class vectors beside z, class-conditional batch norm, projection, biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelloom.core.errors import UsageError


class ClassBatchNorm2d(nn.BatchNorm2d):
    """Conditional batch norm: gain_y (x - mean) / sqrt(variance + eps) + bias_y, with gains and biases per class y.

    Without classes it is batch norm. Mean and variance are of the batch in training mode and the running ones in eval
    mode, where an image does not depend on the rest of its batch.

    Source: Dumoulin et al. 2017, "A Learned Representation for Artistic Style", section 2.2.

    Args:
        features: of x.
        classes: number of classes, or 0.
        deviation: gains are drawn from N(1, deviation^2) at first, biases are 0.
    """

    def __init__(self, features: int, classes: int = 0, deviation: float = 0.0) -> None:
        super().__init__(features, affine=not classes)
        self.gains: nn.Embedding | None = None
        if classes:
            self.gains, self.biases = nn.Embedding(classes, features), nn.Embedding(classes, features)
            nn.init.zeros_(self.biases.weight)
        nn.init.normal_(self.weight if self.gains is None else self.gains.weight, 1.0, deviation)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, features, H, W], labels int64 [B] with classes -> [B, features, H, W]"""
        normed = super().forward(x)
        if self.gains is None:
            return normed
        # [B, features] -> [B, features, 1, 1]
        gain, bias = (table(labels)[:, :, None, None].to(normed.dtype) for table in (self.gains, self.biases))
        return torch.addcmul(bias, normed, gain)


class ClassVector(nn.Embedding):
    """The latent vector z and a learned vector of the class y, concatenated: (z, e_y), with e_y from N(0, 1) at first.

    The images of two classes then differ from the first step. With class-conditional norms alone, whose gains and
    biases are equal for all classes at first, this takes some thousand steps of Adam.

    Source: Mirza and Osindero 2014, "Conditional Generative Adversarial Nets".
    """

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """[B, latent], int64 [B] -> [B, latent + length of a vector]"""
        return torch.cat((z, super().forward(labels)), dim=1)


class Projection(nn.Embedding):
    """The term that a class y adds to the logit of features h: <e_y, h>, with a learned vector per class.

    Source: Miyato and Koyama 2018, "cGANs with Projection Discriminator", eq. 3.
    """

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """[B, features], int64 [B] -> [B]"""
        return (super().forward(labels) * h).sum(dim=1)


class ClassBias(nn.Embedding):
    """A bias vector per class, and a last one for the null class, to add to a layer. All are zero at first.

    Source: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", eq. 4.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__(classes + 1, features)
        nn.init.zeros_(self.weight)

    def forward(self, labels: Tensor) -> Tensor:
        """int64 [B] -> [B, features, 1, 1]"""
        return super().forward(labels)[:, :, None, None]  # [B, features] -> [B, features, 1, 1]


def check_given(name: str, value: object, wanted: int) -> None:
    """Check that conditioning is given if and only if the network was built for it.

    Args:
        name: of the argument, for the message.
        value: the argument, or None.
        wanted: number of classes or channels that the network was built for, 0 for none.

    Raises:
        UsageError: if the value is missing, or given to a network built without.
    """
    if wanted and value is None:
        raise UsageError(f"{name}: this network was built with {name} and must be given them for every image")
    if value is not None and not wanted:
        raise UsageError(f"{name}: this network was built without {name}; leave them out")
