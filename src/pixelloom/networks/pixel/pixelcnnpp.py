"""PixelCNN++: two streams of shifted convolutions on a pyramid of grids, joined by short-cuts.

A layer's window lies wholly above its position, or above it and to the left, so that no weight has to be masked and no
pixel is left unseen. The stream u knows the rows above, ul the row up to here as well. They begin and go on with::

    u    # # #          # # #         ul   # # #  +  # .         # #        o the position itself, # what is read
         # # #    then  # o #                o       # o   then  # o
           o

    u'  = u  + gate(W2 * D(f(W1 * f(u)  + A f(a_u))))             f(x) = elu(x) and elu(-x) side by side
    ul' = ul + gate(V2 * D(f(V1 * f(ul) + B f(a_ul))))            gate(a, b) = a sigmoid(b)

with * a convolution over the window, D dropout, and A and B 1x1. On the way down the pyramid a_ul = u', and a_u is
nothing; after every few blocks a convolution of stride 2 halves both sides of the grid. On the way up, where sides are
doubled again, a block also sees what its counterpart on the way down has made: a_u = u_down, a_ul = (u', ul_down).

Source: Salimans et al. 2017, "PixelCNN++", sections 2.3 to 2.5 and figure 2, and its code; 2.92 bits/dim on CIFAR-10.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pixelloom.core.types import ImageSpec
from pixelloom.layers.blocks import Positions, make_norm
from pixelloom.layers.class_conditioning import ClassBias, check_given
from pixelloom.layers.output import Output
from pixelloom.layers.reads import HERE, Read
from pixelloom.layers.shifted_conv import BoxConv2d


class PixelCNNPlusPlusConfig(BaseModel):
    """What a PixelCNN++ looks like; the defaults are the paper's for CIFAR-10."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(160, ge=1, le=4096, description="features of each stream")
    blocks: int = Field(5, ge=0, le=64, description="blocks of each scale on the way down, one more on the way up")
    scales: int = Field(3, ge=1, le=8, description="grids, the sides of each half as long as those of the one before")
    dropout: float = Field(0.5, ge=0, lt=1, description="within blocks")
    weight_norm: bool = Field(True, description="learn length and direction of each feature's weights apart")
    norm: Literal["none", "channel"] = Field("none", description="of what each block reads")
    activation: Literal["concat-elu", "silu"] = Field("concat-elu", description="elu of both signs, or x sigmoid(x)")
    positions: bool = Field(False, description="add learned row and column vectors (fixes the image size)")


class PixelCNNPlusPlus(nn.Module):
    """[B, C, H, W] pixels in model space -> [B, outputs, H, W] parameters, output position i reading pixels before i.

    Args:
        config: the layers.
        spec: the images, of any size: half of an odd side is rounded up, and what is too much cropped on the way back.
        outputs: parameters a position, all image channels together; the head knows how many it needs.
        groups: image channels that are ordered within a pixel, or 1 if the network need not order them.
        classes: how many there are; 0 for a network that is not told any.
    """

    def __init__(
        self, config: PixelCNNPlusPlusConfig, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0
    ) -> None:
        super().__init__()
        c, n, self.classes = config.channels, config.blocks, classes
        self.inside = Inside()
        self.above = BoxConv2d(spec.channels + 1, c, top=-2, bottom=-1, left=-1, right=1)
        self.row_above = BoxConv2d(spec.channels + 1, c, top=-1, bottom=-1, left=-1, right=1)
        self.beside = BoxConv2d(spec.channels + 1, c, top=-1, bottom=0, left=-1, right=-1)

        def blocks(number: int, *, back: bool) -> list[nn.Module]:
            return [Block(config, back, classes) for _ in range(number)]

        where = [Positions(c, spec.height, spec.width) if config.positions else nn.Identity() for _ in range(2)]
        self.where_u, self.where_ul = where

        sizes, down = [(spec.height, spec.width)], blocks(n, back=False)
        for _ in range(config.scales - 1):
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
            down += [Both(down_shifted(c, c, stride=2), down_right_shifted(c, c, stride=2)), *blocks(n, back=False)]
        up = blocks(n, back=True)
        for height, width in reversed(sizes[:-1]):
            up += [Both(Double(c, 1, height, width), Double(c, 0, height, width)), *blocks(n + 1, back=True)]
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.output = Output(c, spec.channels, outputs, groups)
        if config.weight_norm:
            for layer in [layer for layer in self.modules() if isinstance(layer, BoxConv2d)]:
                weight_norm(layer)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]

        Args:
            x: pixels in model space.
            labels: int64 [B], ``classes`` for no class; None if, and only if, the network was built without classes.

        Raises:
            UsageError: for labels that are missing, or given to a network that knows no classes.
        """
        check_given("labels", labels, self.classes)
        image = self.inside(x)
        u, ul = self.where_u(self.above(image)), self.where_ul(self.row_above(image) + self.beside(image))
        made = [(u, ul)]
        for layer in self.down:
            made.append(layer(*made[-1], labels) if isinstance(layer, Block) else layer(*made[-1]))
        u, ul = made.pop()
        for layer in self.up:
            u, ul = layer(u, ul, labels, *made.pop()) if isinstance(layer, Block) else layer(u, ul)
        out: Tensor = self.output(ul, x)
        return out


class Both(nn.Module):
    """A layer for each stream."""

    def __init__(self, u: nn.Module, ul: nn.Module) -> None:
        super().__init__()
        self.u, self.ul = u, ul

    def forward(self, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        """(u, ul) -> (u', ul')"""
        return self.u(u), self.ul(ul)


class Block(nn.Module):
    """One residual block of each stream: (u, ul) -> (u', ul'), by the equations at the head of this file.

    Args:
        config: features of each stream, norm, activation and dropout.
        back: on the way up, where the counterpart's streams are read too.
        classes: how many there are; 0 for none.
    """

    def __init__(self, config: PixelCNNPlusPlusConfig, back: bool, classes: int) -> None:
        super().__init__()
        c = config.channels
        f = c if config.activation == "silu" else 2 * c
        self.u = Residual(config, down_shifted(f, c), c if back else 0, down_shifted(f, 2 * c), classes)
        self.ul = Residual(
            config, down_right_shifted(f, c), 2 * c if back else c, down_right_shifted(f, 2 * c), classes
        )

    def forward(
        self, u: Tensor, ul: Tensor, labels: Tensor | None, u_down: Tensor | None = None, ul_down: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """All streams [B, features, H, W]; labels int64 [B] where the block was built with classes."""
        u = self.u(u, u_down, labels)
        return u, self.ul(ul, u if ul_down is None else torch.cat((u, ul_down), dim=1), labels)


class Residual(nn.Module):
    """x + gate(last * D(f(first * f(norm(x)) + A f(a)))), and a bias for each class before the gate.

    f and the norm, which there is none of by default, are the configuration's.
    """

    def __init__(
        self, config: PixelCNNPlusPlusConfig, first: BoxConv2d, beside: int, last: BoxConv2d, classes: int
    ) -> None:
        super().__init__()
        smooth = config.activation == "silu"
        self.activate, self.gate = nn.SiLU() if smooth else ConcatELU(), Gate()
        self.first, self.last = first, last
        features = first.weight.shape[0]
        self.norm = make_norm(config.norm, features, 1)
        beside = beside if smooth else 2 * beside
        self.join = BoxConv2d(beside, features, top=0, bottom=0, left=0, right=0, bias=False) if beside else None
        self.dropout = nn.Dropout(config.dropout)
        self.label = ClassBias(classes, 2 * features) if classes else None
        with torch.no_grad():
            last.weight.mul_(0.1)  # so that a deep stack starts near the identity

    def forward(self, x: Tensor, a: Tensor | None, labels: Tensor | None) -> Tensor:
        """x [B, features, H, W], a [B, beside, H, W] -> [B, features, H, W]"""
        h = self.first(self.activate(self.norm(x)))
        if self.join is not None:
            h = h + self.join(self.activate(a))
        h = self.last(self.dropout(self.activate(h)))
        if self.label is not None:
            h = h + self.label(labels)
        out: Tensor = x + self.gate(h)
        return out


class ConcatELU(nn.Module):
    """elu(x) and elu(-x) side by side (section 2.5 of the paper's code: "concatenated elu")."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> [B, 2 * features, H, W]"""
        return F.elu(torch.cat((x, -x), dim=1))

    def reads(self) -> tuple[Read, ...]:
        """The same position."""
        return (Read(HERE),)


class Gate(nn.Module):
    """a sigmoid(b) of the two halves (a, b) of the features."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2 * features, H, W] -> [B, features, H, W]"""
        return F.glu(x, dim=1)

    def reads(self) -> tuple[Read, ...]:
        """The same position."""
        return (Read(HERE),)


class Inside(nn.Module):
    """The image and a last channel of ones, by which convolutions tell an edge, where zeros stand, from gray."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C + 1, H, W]"""
        return F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)

    def reads(self) -> tuple[Read, ...]:
        """The same position."""
        return (Read(HERE),)


class Double(nn.Module):
    """A grid with sides twice as long: a transposed convolution of stride 2, one phase of its kernel at a time.

    Each of the 2x2 outputs that an input stands for has weights of its own, for that input and for the next ``right``
    ones. With none that is the paper's kernel of 2x2; with one it is its kernel of 2x3 and a column more.

    Args:
        features: of input and output.
        right: inputs read to the right.
        height: of the output, which is one less than twice the input's where that is odd.
        width: of the output.
    """

    def __init__(self, features: int, right: int, height: int, width: int) -> None:
        super().__init__()
        self.phases = BoxConv2d(features, 4 * features, top=0, bottom=0, left=0, right=right)
        self.shuffle = nn.PixelShuffle(2)
        self.crop = Crop(height, width) if height % 2 or width % 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, ceil(height / 2), ceil(width / 2)] -> [B, features, height, width]"""
        out: Tensor = self.crop(self.shuffle(self.phases(x)))
        return out


class Crop(nn.Module):
    """The first rows and columns."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> [B, features, height, width]"""
        return x[:, :, : self.height, : self.width]

    def reads(self) -> tuple[Read, ...]:
        """The same feature and position."""
        return (Read(HERE, features="same"),)


def down_shifted(inputs: int, outputs: int, stride: int = 1) -> BoxConv2d:
    """The window of u: 2x3, down to the position's own row, which the stream knows nothing of."""
    return BoxConv2d(inputs, outputs, top=-1, bottom=0, left=-1, right=1, stride=stride)


def down_right_shifted(inputs: int, outputs: int, stride: int = 1) -> BoxConv2d:
    """The window of ul: 2x2, down and right to the position itself."""
    return BoxConv2d(inputs, outputs, top=-1, bottom=0, left=-1, right=0, stride=stride)
