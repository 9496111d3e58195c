"""Masked convolutions: an output position reads only pixels before it in raster order.

A kernel of side k = 2r + 1, here k = 5 (``#`` read, ``.`` masked, ``?`` the pixel itself)::

    # # # # #
    # # # # #
    # # ? . .        mask A: ? is not read      (first layer: it would read the pixel to predict)
    . . . . .        mask B: ? is read          (later layers: the features at ? depend on pixels before ? only)
    . . . . .

The channels of a pixel are ordered, R before G before B. Features are split into contiguous groups, one per channel:
group c of the output belongs to channel c. At ? it reads (van den Oord et al. 2016, section 3.4)::

                  input  R G B                    input  R G B
    output R  mask A     . . .            mask B         # . .
    output G             # . .                           # # .
    output B             # # .                           # # #

The rows below the center are masked entirely and neither stored nor computed: a 7x7 kernel costs 4x7.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.reads import HERE, Kernel, Offsets, Position, Read, box

Mask = Literal["A", "B"]


def group_sizes(features: int, groups: int) -> list[int]:
    """Number of features of each group; sizes differ by at most one: for 3 groups, 64 features are 22 + 21 + 21.

    Raises:
        ValueError: with fewer features than groups.
    """
    if features < groups:
        raise ValueError(f"{features} features cannot be shared among {groups} image channels: give at least {groups}")
    starts = [-(-group * features // groups) for group in range(groups + 1)]
    return [end - start for start, end in pairwise(starts)]


def feature_groups(features: int, groups: int) -> Tensor:
    """Group of each feature, int64 [features]: feature i of n is in group ``floor(i * groups / n)``.

    Raises:
        ValueError: as :func:`group_sizes`.
    """
    group_sizes(features, groups)
    return torch.arange(features) * groups // features


def center_mask(mask: Mask, out_features: int, in_features: int, groups: int = 1, copies: int = 1) -> Tensor:
    """The mask at the center of the kernel: bool [out_features, in_features], true where the weight exists.

    With ``copies`` the output is that many sets of features side by side, each with the same groups: both halves of
    feature i of a gate must belong to the same channel.

    Raises:
        ValueError: if a group would be empty or the copies do not divide the output.
    """
    if mask not in ("A", "B"):
        raise ValueError(f"a mask is 'A' or 'B', not {mask!r}")
    if out_features % copies:
        raise ValueError(f"{out_features} output features do not divide into {copies} equal copies")
    out_group = feature_groups(out_features // copies, groups).repeat(copies)[:, None]
    in_group = feature_groups(in_features, groups)[None, :]
    return in_group < out_group if mask == "A" else in_group <= out_group


def causal_mask(
    kernel: int, mask: Mask, out_features: int, in_features: int, groups: int = 1, copies: int = 1
) -> Tensor:
    """The mask of a kernel down to its center row: bool [out_features, in_features, kernel // 2 + 1, kernel].

    Raises:
        ValueError: for an even kernel, or features that :func:`center_mask` cannot group.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"a masked kernel needs a center, so its side must be odd and positive, not {kernel}")
    radius = kernel // 2
    seen = torch.ones(out_features, in_features, radius + 1, kernel, dtype=torch.bool)
    seen[:, :, radius, radius:] = False
    seen[:, :, radius, radius] = center_mask(mask, out_features, in_features, groups, copies)
    return seen


def _center_taps(mask: Mask, out_features: int, in_features: int, groups: int, copies: int) -> float:
    """Mean number of inputs that an output feature reads at its own pixel: the mean row sum of :func:`center_mask`.

    Computed from sizes only, so that a network can be built on the meta device.
    """
    out_sizes, in_sizes = group_sizes(out_features // copies, groups), group_sizes(in_features, groups)
    read = accumulate(in_sizes) if mask == "B" else accumulate(in_sizes[:-1], initial=0)
    return sum(size * taps for size, taps in zip(out_sizes, read, strict=True)) * copies / out_features


def draw_mask(seen: Tensor) -> str:
    """A mask of :func:`causal_mask` as text, for the last output feature and the first input feature."""
    rows = seen[-1, 0].tolist()
    kernel = len(rows[0])
    rows += [[False] * kernel] * (kernel - len(rows))
    return "\n".join(" ".join("#" if tap else "." for tap in row) for row in rows)


class MaskedConv2d(nn.Module):
    """Masked convolution with the height and width of its input.

    Only the rows of the kernel down to the center are stored. The mask multiplies the weights in each forward pass and
    never overwrites them, so that the gradient of masked weights is exactly zero.

    Args:
        in_features: features of the input; the channels of the image for the first layer.
        out_features: features of the output.
        kernel: side of the kernel, odd.
        mask: "A" for the layer that reads the image, "B" for all others.
        groups: number of ordered channels within a pixel; 1 if they are not ordered.
        copies: sets of output features with the same groups; 2 before a gate.
        bias: add a bias to each output feature.

    Source: van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", sections 3.4 and 3.5.
    """

    mask: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: int,
        *,
        mask: Mask,
        groups: int = 1,
        copies: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        seen = causal_mask(kernel, mask, out_features, in_features, groups, copies)
        self.radius = r = kernel // 2
        self.kind = mask
        self.whole = mask == "B" and kernel == 1 and groups == 1  # nothing is masked
        self.register_buffer("mask", seen.float(), persistent=False)
        self.weight = nn.Parameter(torch.empty(seen.shape))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        # He et al. 2015, with the fan-in of the weights that are not masked.
        center = _center_taps(mask, out_features, in_features, groups, copies)
        fan_in = max(1.0, in_features * (r * kernel + r) + center)
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_in))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H, W]"""
        weight = self.weight if self.whole else self.weight * self.mask
        r = self.radius
        # Padding above, left and right, none below, gives H x W positions. Rows above are padded by a copy of one block
        # of memory; columns are padded by the convolution, without a copy.
        return F.conv2d(F.pad(x, (0, 0, r, 0)) if r else x, weight, self.bias, padding=(0, r))

    @property
    def _past(self) -> tuple[Position, ...]:
        r = self.radius
        return box(-r, -1, -r, r) + box(0, 0, -r, -1)

    def reads(self) -> tuple[Read, ...]:
        """All features at the taps before the center, and at the center those that are not masked."""
        here = self.mask[:, :, self.radius, self.radius] > 0
        past = (Read(Offsets(self._past)),) if self.radius else ()
        return (*past, Read(HERE, here))

    def kernel(self) -> Kernel:
        """The weights of the taps that are read."""
        r = self.radius
        # [out, in, rows, columns] -> [rows * columns, in, out]
        masked = (self.weight * self.mask).permute(2, 3, 1, 0).flatten(0, 1)
        return Kernel((*self._past, (0, 0)), masked[: len(masked) - r], self.bias)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        out_features, in_features, rows, kernel = self.weight.shape
        return f"{in_features}, {out_features}, kernel={rows}x{kernel} of {kernel}x{kernel}, mask={self.kind}"
