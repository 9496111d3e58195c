"""The output layer: from features that depend on earlier pixels to the parameters of any head.

A trunk without channel groups does not depend on the pixel to predict. With ordered channels, the parameters of each
channel also depend on the channels before it in the same pixel. This needs no groups in the trunk: the pixel enters in
the output, by a 1x1 layer with mask A.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.masked_conv import MaskedConv2d


class Output(nn.Module):
    """Parameters of the head from features and the image, zero at first.

        one group    W silu(h)
        C groups     group c: W_c silu(U_c h + V_c x_<c), with x_<c the channels before c of the same pixel

    Args:
        features: of the trunk.
        channels: of the image.
        outputs: parameters per position.
        groups: C when the channels are ordered, else 1.
        hidden: features of each group; equal to features if None.
    """

    def __init__(self, features: int, channels: int, outputs: int, groups: int, hidden: int | None = None) -> None:
        super().__init__()
        self.ordered = groups > 1
        width = (hidden or features) * groups if self.ordered else features
        if self.ordered:
            self.trunk = nn.Conv2d(features, width, 1)
            self.pixel = MaskedConv2d(channels, width, 1, mask="A", groups=groups, bias=False)
        self.last = MaskedConv2d(width, outputs, 1, mask="B", groups=groups)
        # Zero parameters predict the uniform distribution: log2(levels) bits/dim before training.
        nn.init.zeros_(self.last.weight)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Features [B, features, H, W], image [B, C, H, W] -> [B, outputs, H, W]"""
        if self.ordered:
            h = self.trunk(h) + self.pixel(x)
        out: Tensor = self.last(F.silu(h))
        return out
