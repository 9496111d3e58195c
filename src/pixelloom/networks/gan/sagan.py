"""SAGAN: DCGAN's two networks with spectral norm on all layers but the last, and self-attention in between.

Attention follows the third and the fourth stage of either network at 64x64: 16x16 and 32x32 in the generator, 8x8 and
4x4 in the discriminator. At other sizes the discriminator keeps these two, and the generator has its two largest stages
below the image, none larger than 32x32, since 64x64 would take a map of 4096 x 4096 for each image.

Source: Zhang et al. 2019, "Self-Attention Generative Adversarial Networks".
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.self_attention import SelfAttention, Style
from pixelloom.layers.spectral_norm import spectral
from pixelloom.networks.gan.dcgan import DCGANConfig, DCGANDiscriminator, DCGANGenerator, Up
from pixelloom.networks.gan.resolutions import sides

LARGEST = 32
"""Side of the largest stage with attention."""


class SAGANConfig(DCGANConfig):
    """Both networks; the defaults are the tutorial's, for images of 64x64."""

    attention: Style = Field(
        "tutorial",
        description="paper: keys and values of 2x2 squares, values of half the width, spectral norm in the block too",
    )


class SAGANGenerator(DCGANGenerator):
    """z [B, latent] -> images [B, C, H, W] in model space, within [-1, 1]; see :class:`DCGANGenerator`."""

    def __init__(self, config: SAGANConfig, spec: ImageSpec, *, classes: int = 0) -> None:
        super().__init__(config, spec, classes=classes)
        stages = sides(spec)[:-1]
        attending = [side for side in stages if side <= LARGEST][-2:]
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, Up)
            spectral(stage.conv)
            if stages[i] in attending:
                self.after[i] = SelfAttention(stage.conv.out_channels, config.attention)


class SAGANDiscriminator(DCGANDiscriminator):
    """Images [B, C, H, W] in model space -> logits [B]; see :class:`DCGANDiscriminator`.

    The projection of classes is one of the last layers, and like them not under spectral norm.
    """

    def __init__(self, config: SAGANConfig, spec: ImageSpec, *, classes: int = 0) -> None:
        super().__init__(config, spec, classes=classes)
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, nn.Conv2d)
            spectral(stage)
            if i >= len(self.stages) - 2:
                self.after[i] = SelfAttention(stage.out_channels, config.attention)
