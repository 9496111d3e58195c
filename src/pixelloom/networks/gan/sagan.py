"""SAGAN: DCGAN's two networks with spectral norm on all layers but the last, and self-attention between stages.

Attention follows the third and the fourth stage of either network at 64x64: 16x16 and 32x32 in the generator, 8x8 and
4x4 in the discriminator. At other image sizes the discriminator keeps these two, and the generator attends at its two
largest stages below the image, none larger than 32x32: 64x64 would take an attention map of 4096 x 4096 per image.

Source: Zhang et al. 2019, "Self-Attention Generative Adversarial Networks".
"""

from __future__ import annotations

from pydantic import Field

from pixelloom.core.types import ImageSpec
from pixelloom.layers.self_attention import Style
from pixelloom.networks.gan.dcgan import ConvGANConfig, DCGANDiscriminator, DCGANGenerator
from pixelloom.networks.gan.resolutions import sides

LARGEST = 32
"""Side of the largest stage with attention."""


class SAGANConfig(ConvGANConfig):
    """Both networks; the defaults are the tutorial's, for 64x64 images."""

    attention: Style = Field(
        "tutorial",
        description="paper: max-pooled keys and values, values of half the width, spectral norm in the block too",
    )


def sagan_generator(config: SAGANConfig, spec: ImageSpec, *, classes: int = 0) -> DCGANGenerator:
    """z -> images in [-1, 1]; see :class:`pixelloom.networks.protocols.Generator`."""
    attending = [i for i, side in enumerate(sides(spec)[:-1]) if side <= LARGEST][-2:]
    attention = dict.fromkeys(attending, config.attention)
    return DCGANGenerator(config, spec, classes=classes, spectral_norm=True, attention=attention)


def sagan_discriminator(config: SAGANConfig, spec: ImageSpec, *, classes: int = 0) -> DCGANDiscriminator:
    """Images -> logits; see :class:`pixelloom.networks.protocols.Discriminator`.

    The class projection is one of the last layers, and like them has no spectral norm.
    """
    attending = range(len(sides(spec)) - 1)[-2:]
    attention = dict.fromkeys(attending, config.attention)
    return DCGANDiscriminator(config, spec, classes=classes, spectral_norm=True, attention=attention)
