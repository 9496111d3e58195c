"""From features that know all pixels before to the parameters of a distribution, for any head.

A trunk without channel groups knows nothing of the pixel that it predicts. Where the channels of a pixel are ordered,
each channel's parameters may also see the channels before it in the same pixel. That takes no groups in the trunk: the
pixel itself is read at the very end, by 1x1 layers of mask A.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.masked_conv import MaskedConv2d


class Output(nn.Module):
    """Features [B, features, H, W] and the image [B, C, H, W] -> parameters [B, outputs, H, W], which start at zero.

        one group    W silu(h)
        C groups     group c: W_c silu(U_c h + V_c x_<c), with x_<c the channels before c of the same pixel

    Args:
        features: of the trunk.
        channels: of the image.
        outputs: parameters a position.
        groups: C when the channels are ordered, else 1.
        hidden: features of each group.
    """

    def __init__(self, features: int, channels: int, outputs: int, groups: int, hidden: int | None = None) -> None:
        super().__init__()
        self.ordered = groups > 1
        width = (hidden or features) * groups if self.ordered else features
        if self.ordered:
            self.trunk = nn.Conv2d(features, width, 1)
            self.pixel = MaskedConv2d(channels, width, 1, mask="A", groups=groups, bias=False)
        self.last = MaskedConv2d(width, outputs, 1, mask="B", groups=groups)
        # The first prediction is uniform, log2(levels) bits a dimension.
        nn.init.zeros_(self.last.weight)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """([B, features, H, W], [B, C, H, W]) -> [B, outputs, H, W]"""
        if self.ordered:
            h = self.trunk(h) + self.pixel(x)
        out: Tensor = self.last(F.silu(h))
        return out
