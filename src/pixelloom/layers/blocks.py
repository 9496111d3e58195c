"""Units that networks are stacked from: norms, learned positions, residual blocks.

Every block maps [B, features, H, W] to the same shape and keeps causality: what mixes positions is a masked
convolution of mask B, everything else acts on each position alone and inside each channel group.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.masked_conv import MaskedConv2d, group_sizes
from pixelloom.layers.reads import HERE, Read

Norm = Literal["none", "batch", "channel"]
Activation = Literal["relu", "silu"]


class Normalize(nn.Module):
    """Zero mean and unit variance over the features of each position."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        last = x.permute(0, 2, 3, 1)  # free in channels_last memory
        return F.layer_norm(last, last.shape[-1:]).permute(0, 3, 1, 2)

    def reads(self) -> tuple[Read, ...]:
        """All features of the same position."""
        return (Read(HERE),)


class ChannelNorm(nn.Module):
    """Layer normalization over the features of one position (Ba et al. 2016), within each channel group.

    Unlike batch normalization it sees one image and one position only, so the likelihood of an image never depends on
    its neighbors in the batch, and training mode is evaluation mode.
    """

    def __init__(self, features: int, groups: int = 1) -> None:
        super().__init__()
        self.sizes = group_sizes(features, groups)
        self.normalize = Normalize()
        self.gain = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        if len(self.sizes) > 1:
            normed = torch.cat([self.normalize(part) for part in torch.split(x, self.sizes, dim=1)], dim=1)
        else:
            normed = self.normalize(x)
        return normed * self.gain[:, None, None] + self.bias[:, None, None]


def make_norm(kind: Norm, features: int, groups: int) -> nn.Module:
    """The norm of that name, or the identity."""
    if kind == "batch":
        return nn.BatchNorm2d(features)
    return ChannelNorm(features, groups) if kind == "channel" else nn.Identity()


def make_activation(kind: Activation, *, inplace: bool = False) -> nn.Module:
    """max(x, 0), or the smooth x sigmoid(x) (Hendrycks and Gimpel 2016, section 4)."""
    return nn.SiLU(inplace=inplace) if kind == "silu" else nn.ReLU(inplace=inplace)


class Positions(nn.Module):
    """Adds a learned vector for each row and one for each column, so that a layer knows where in the image it is."""

    def __init__(self, features: int, height: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(features, height, 1))
        self.columns = nn.Parameter(torch.zeros(features, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        where = self.rows + self.columns
        return x + where.type_as(x)  # a sum of bf16 and fp32 would be fp32, and everything after it slower


class PlainBlock(nn.Sequential):
    """conv kxk, norm, ReLU (or another function): the stack of the first tutorials, without short-cuts."""

    def __init__(
        self, features: int, kernel: int, *, norm: Norm, bias: bool, groups: int, function: Activation = "relu"
    ) -> None:
        super().__init__(
            MaskedConv2d(features, features, kernel, mask="B", groups=groups, bias=bias),
            make_norm(norm, features, groups),
            make_activation(function, inplace=True),
        )


class ResidualBlock(nn.Module):
    """x + (1x1 down, kxk, 1x1 up), the bottleneck of van den Oord et al. 2016, figure 5.

    ``activation`` says where the ReLUs stand: "after" each convolution (the last one too, so the sum only grows, as the
    Keras tutorial has it), or "before" each (as in the Berkeley course), which leaves the short-cut untouched;
    ``function`` what stands in their place.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        kernel: int,
        *,
        activation: Literal["before", "after"],
        norm: Norm,
        bias: bool,
        groups: int,
        function: Activation = "relu",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out, side in ((features, hidden, 1), (hidden, hidden, kernel), (hidden, features, 1)):
            conv = MaskedConv2d(width_in, width_out, side, mask="B", groups=groups, bias=bias)
            if activation == "after":
                layers += [conv, make_norm(norm, width_out, groups), make_activation(function, inplace=True)]
            else:
                # The first must leave its input alone: the short-cut still needs it.
                first = make_activation(function, inplace=bool(layers))
                layers += [make_norm(norm, width_in, groups), first, conv]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        branch: Tensor = self.branch(x)
        return x + branch


class GatedBlock(nn.Module):
    """x + up(a * sigmoid(b)) with (a, b) = kxk(down(x)): a bottleneck whose kxk layer feeds a gate.

    The gate is that of van den Oord et al. 2016 (Conditional Image Generation, eq. 2) with its tanh left out (a gated
    linear unit, Dauphin et al. 2017): cheaper, and no worse here. The last layer starts at zero, so that a deep stack
    starts as the identity and needs no small rate to survive its first steps.
    """

    def __init__(
        self, features: int, hidden: int, kernel: int, *, norm: Norm, bias: bool, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm = make_norm(norm, features, groups)
        self.down = MaskedConv2d(features, hidden, 1, mask="B", groups=groups, bias=bias)
        self.mix = MaskedConv2d(hidden, 2 * hidden, kernel, mask="B", groups=groups, copies=2, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.up = MaskedConv2d(hidden, features, 1, mask="B", groups=groups, bias=bias)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        a, b = self.mix(F.silu(self.down(F.silu(self.norm(x))))).chunk(2, dim=1)
        branch: Tensor = self.up(self.dropout(a * torch.sigmoid(b)))
        return x + branch
