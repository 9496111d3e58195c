"""Norms, learned positions and residual blocks.

Each maps [B, features, H, W] to the same shape and preserves causality: positions are mixed only by masked convolutions
with mask B; everything else acts on each position, and within each channel group.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.gates import sigmoid_gate
from pixelloom.layers.masked_conv import MaskedConv2d, group_sizes
from pixelloom.layers.reads import HERE, Read

Norm = Literal["none", "batch", "channel"]
"""No norm, batch norm, or layer norm over channels."""

Activation = Literal["relu", "silu"]


class Normalize(nn.Module):
    """Normalize to zero mean and unit variance over the features of each position."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        last = x.permute(0, 2, 3, 1)  # [B, features, H, W] -> [B, H, W, features], no copy in channels_last memory
        return F.layer_norm(last, last.shape[-1:]).permute(0, 3, 1, 2)  # -> [B, features, H, W]

    def reads(self) -> tuple[Read, ...]:
        """All features of the same position."""
        return (Read(HERE),)


class ChannelNorm(nn.Module):
    """Layer norm over channels (Ba et al. 2016): over the features of each position, within each channel group.

    The option ``norm="channel"`` of the networks. Unlike batch norm it does not mix images or positions, so that the
    likelihood of an image does not depend on its batch, and training and eval mode agree.
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
        # [features] -> [features, 1, 1]
        return normed * self.gain[:, None, None] + self.bias[:, None, None]


def make_norm(kind: Norm, features: int, groups: int) -> nn.Module:
    """Build the norm of that name; "none" is the identity."""
    if kind == "batch":
        return nn.BatchNorm2d(features)
    return ChannelNorm(features, groups) if kind == "channel" else nn.Identity()


def make_activation(kind: Activation, *, inplace: bool = False) -> nn.Module:
    """Build ReLU, or SiLU, x sigmoid(x) (Hendrycks and Gimpel 2016, section 4)."""
    return nn.SiLU(inplace=inplace) if kind == "silu" else nn.ReLU(inplace=inplace)


class Positions(nn.Module):
    """Add a learned vector per row and one per column."""

    def __init__(self, features: int, height: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(features, height, 1))
        self.columns = nn.Parameter(torch.zeros(features, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        where = self.rows + self.columns  # [features, H, 1] + [features, 1, W] -> [features, H, W]
        return x + where.type_as(x)  # a sum of bf16 and fp32 would be fp32, and slow down all that follows


class PlainBlock(nn.Sequential):
    """conv kxk, norm, activation, without a skip connection, as in the first tutorials."""

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

    Args:
        features: of x.
        hidden: features inside the bottleneck.
        kernel: side of the middle convolution, odd.
        activation: "after" each convolution, including the last (Keras tutorial), or "before" each (Berkeley course).
        norm: next to each activation.
        bias: biases of the convolutions.
        groups: ordered image channels.
        function: the activation.
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
                # The first is not in place: the skip connection needs its input.
                first = make_activation(function, inplace=bool(layers))
                layers += [make_norm(norm, width_in, groups), first, conv]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        branch: Tensor = self.branch(x)
        return x + branch


class GatedBlock(nn.Module):
    """x + up(a * sigmoid(b)) with (a, b) = kxk(down(x)): a bottleneck with a gate after its kxk convolution.

    The gate is eq. 2 of van den Oord et al. 2016 (Conditional Image Generation) without the tanh, which is a gated
    linear unit (Dauphin et al. 2017): cheaper, and not worse here. The last layer is zero at first: a deep stack starts
    as the identity.
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
        h = self.mix(F.silu(self.down(F.silu(self.norm(x)))))  # [B, 2 * hidden, H, W]
        branch: Tensor = self.up(self.dropout(sigmoid_gate(h)))
        return x + branch
