"""Convolutions over a box of offsets, for the streams of pixel networks: shifted instead of masked.

A window that lies wholly before a position needs no mask. For a 2x3 window, with ``o`` the position itself and ``#``
what is read::

    # # #        # # #          # #
      o          # o #          # o
    rows above   down-shifted   down-right-shifted

    top=-1       top=-1         top=-1
    bottom=-1    bottom=0       bottom=0
    left=-1      left=-1        left=-1
    right=1      right=1        right=0

Whether a network of them is autoregressive depends on all layers; :mod:`pixelloom.sampling.fast.analysis` checks it.

Source: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", section 2.2; Salimans et al.
2017, "PixelCNN++", section 2.3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.reads import Kernel, Offsets, Read, box


class BoxConv2d(nn.Module):
    """out[p] = bias + sum over offsets d in the box of weight[d] x[p * stride + d], with zero padding.

    Args:
        in_features: features of the input.
        out_features: features of the output.
        top: first row of the box, relative to the output's position.
        bottom: last row, included.
        left: first column.
        right: last column, included.
        stride: input positions between neighboring outputs.
        bias: add a bias to each output feature.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        top: int,
        bottom: int,
        left: int,
        right: int,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if bottom < top or right < left:
            raise ValueError(f"an empty box: rows {top} to {bottom}, columns {left} to {right}")
        self.top, self.bottom, self.left, self.right, self.stride = top, bottom, left, right, stride
        rows, columns = bottom - top + 1, right - left + 1
        self.weight = nn.Parameter(torch.empty(out_features, in_features, rows, columns))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        nn.init.normal_(self.weight, std=math.sqrt(2 / (in_features * rows * columns)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, ceil(H / stride), ceil(W / stride)]"""
        height, width = x.shape[2:]
        # The last output is at (ceil(H / stride) - 1) * stride, and the padding ends where its box does. Negative
        # padding crops positions that no output reads.
        last_row, last_column = ((side - 1) // self.stride * self.stride for side in (height, width))
        margins = (-self.left, last_column + self.right - width + 1, -self.top, last_row + self.bottom - height + 1)
        x = F.pad(x, margins)
        if self.stride > 1 and last_column == 0 and x.device.type == "cpu":
            return self._single_column(x)
        return F.conv2d(x, self.weight, self.bias, self.stride)

    def _single_column(self, x: Tensor) -> Tensor:
        """Convolve with one output column in float32 or more, since torch 2.13 is wrong in bfloat16 on some CPUs."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x.to(dtype), self.weight.to(dtype), bias, self.stride).to(self.weight.dtype)

    def reads(self) -> tuple[Read, ...]:
        """All features in the box."""
        taps = box(self.top, self.bottom, self.left, self.right)
        return (Read(Offsets(taps, stride=(self.stride, self.stride))),)

    def kernel(self) -> Kernel:
        """The weights of all taps, row by row."""
        taps = box(self.top, self.bottom, self.left, self.right)
        # [out, in, rows, columns] -> [rows * columns, in, out]
        return Kernel(taps, self.weight.permute(2, 3, 1, 0).flatten(0, 1), self.bias, (self.stride, self.stride))

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        out_features, in_features = self.weight.shape[:2]
        rows, columns = f"rows {self.top}..{self.bottom}", f"columns {self.left}..{self.right}"
        return f"{in_features}, {out_features}, {rows}, {columns}, stride={self.stride}"


class Shift(nn.Module):
    """Shift down and to the right, with zero padding: out[y, x] = x[y - down, x - right]."""

    def __init__(self, down: int = 0, right: int = 0) -> None:
        super().__init__()
        self.down, self.right = down, right

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        return F.pad(x, (self.right, -self.right, self.down, -self.down))

    def reads(self) -> tuple[Read, ...]:
        """The same feature, up and to the left."""
        return (Read(Offsets(((-self.down, -self.right),)), features="same"),)
