"""PixelCNN++: two streams of shifted convolutions at several scales, with skip connections between them.

The window of a convolution lies above its position, or above and to the left, so that no weight has to be masked and
there is no blind spot. The stream u depends on the rows above, ul also on the row so far. Their windows, first and
then, are::

    u    # # #          # # #         ul   # # #  +  # .         # #        o the position itself, # what is read
         # # #    then  # o #                o       # o   then  # o
           o

    u'  = u  + gate(W2 * D(f(W1 * f(u)  + A f(a_u))))             f(x) = elu(x) and elu(-x) side by side
    ul' = ul + gate(V2 * D(f(V1 * f(ul) + B f(a_ul))))            gate(a, b) = a sigmoid(b)

with * a convolution over the window, D dropout, and A and B 1x1 convolutions. On the way down a_ul = u' and there is no
a_u; after every few blocks a convolution of stride 2 halves both sides of the grid. On the way up, where the sides are
doubled again, a block also reads the output of its counterpart on the way down: a_u = u_down, a_ul = (u', ul_down).

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
from pixelloom.layers.condition_encoder import condition_biases, condition_layers
from pixelloom.layers.gates import concat_elu, glu
from pixelloom.layers.output import Output
from pixelloom.layers.reads import HERE, Read
from pixelloom.layers.shifted_conv import BoxConv2d
from pixelloom.networks.pixel.pixelcnn import ConditionKernels, Encoder


class PixelCNNPlusPlusConfig(BaseModel):
    """Configuration of a PixelCNN++; the defaults are the paper's for CIFAR-10."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(160, ge=1, le=4096, description="features of each stream")
    blocks: int = Field(5, ge=0, le=64, description="blocks per scale on the way down; one more on the way up")
    scales: int = Field(3, ge=1, le=8, description="number of scales, each with half the sides of the one before")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout probability in blocks")
    weight_norm: bool = Field(True, description="weight normalization (Salimans and Kingma 2016)")
    norm: Literal["none", "channel"] = Field("none", description="before each block")
    activation: Literal["concat-elu", "silu"] = Field("concat-elu", description="elu of both signs, or x sigmoid(x)")
    positions: bool = Field(False, description="add learned row and column vectors (fixes the image size)")
    condition_kernels: ConditionKernels = (5, 5)
    condition_encoder: Encoder = "auto"


class PixelCNNPlusPlus(nn.Module):
    """Two streams, down and up the scales; see :class:`pixelloom.networks.protocols.PixelNetwork`.

    Images may have any size: halves of odd sides are rounded up, and the excess is cropped on the way up.
    """

    def __init__(
        self,
        config: PixelCNNPlusPlusConfig,
        spec: ImageSpec,
        *,
        outputs: int,
        groups: int,
        classes: int = 0,
        condition: int = 0,
    ) -> None:
        super().__init__()
        c, n, self.classes, self.condition = config.channels, config.blocks, classes, condition
        self.spatial, spatial = condition_layers(config, condition, c, spec)
        self.inside = Inside()
        self.above = BoxConv2d(spec.channels + 1, c, top=-2, bottom=-1, left=-1, right=1)
        self.row_above = BoxConv2d(spec.channels + 1, c, top=-1, bottom=-1, left=-1, right=1)
        self.beside = BoxConv2d(spec.channels + 1, c, top=-1, bottom=0, left=-1, right=-1)

        def blocks(number: int, *, back: bool) -> list[nn.Module]:
            return [Block(config, back, classes, spatial) for _ in range(number)]

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

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]"""
        check_given("labels", labels, self.classes)
        check_given("condition", condition, self.condition)
        s = [condition if condition is None else self.spatial(condition)]  # at each scale
        image = self.inside(x)  # [B, C + 1, H, W]
        u, ul = self.where_u(self.above(image)), self.where_ul(self.row_above(image) + self.beside(image))
        made = [(u, ul)]
        for layer in self.down:
            if isinstance(layer, Block):
                made.append(layer(*made[-1], labels, s[-1]))
            else:  # [B, features, h, w] -> [B, features, ceil(h / 2), ceil(w / 2)]
                made.append(layer(*made[-1]))
                s.append(None if s[-1] is None else s[-1][:, :, ::2, ::2])
        u, ul = made.pop()
        for layer in self.up:
            if isinstance(layer, Block):
                u, ul = layer(u, ul, labels, s[-1], *made.pop())
            else:
                u, ul = layer(u, ul)
                s.pop()
        out: Tensor = self.output(ul, x)
        return out


class Both(nn.Module):
    """One layer per stream."""

    def __init__(self, u: nn.Module, ul: nn.Module) -> None:
        super().__init__()
        self.u, self.ul = u, ul

    def forward(self, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        """(u, ul) -> (u', ul')"""
        return self.u(u), self.ul(ul)


class Block(nn.Module):
    """One residual block of each stream: (u, ul) -> (u', ul'), by the equations at the top of this file.

    Args:
        config: features of each stream, norm, activation and dropout.
        back: on the way up, where the streams of the counterpart are read too.
        classes: number of classes, or 0.
        spatial: features s of the conditioning image, or 0.
    """

    def __init__(self, config: PixelCNNPlusPlusConfig, back: bool, classes: int, spatial: int) -> None:
        super().__init__()
        c = config.channels
        f = c if config.activation == "silu" else 2 * c
        self.u = Residual(config, down_shifted(f, c), c if back else 0, down_shifted(f, 2 * c), classes, spatial)
        self.ul = Residual(
            config, down_right_shifted(f, c), 2 * c if back else c, down_right_shifted(f, 2 * c), classes, spatial
        )

    def forward(
        self,
        u: Tensor,
        ul: Tensor,
        labels: Tensor | None,
        s: Tensor | None,
        u_down: Tensor | None = None,
        ul_down: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All streams [B, features, H, W], labels int64 [B] or None, s [B, spatial, H, W] or None -> (u', ul')"""
        u = self.u(u, u_down, labels, s)
        return u, self.ul(ul, u if ul_down is None else torch.cat((u, ul_down), dim=1), labels, s)


class Residual(nn.Module):
    """x + gate(last * D(f(first * f(norm(x)) + A f(a)))), with biases by the class and by s before the gate.

    f and the norm, none by default, are the configuration's.
    """

    def __init__(
        self,
        config: PixelCNNPlusPlusConfig,
        first: BoxConv2d,
        beside: int,
        last: BoxConv2d,
        classes: int,
        spatial: int,
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
        self.biases = condition_biases(spatial, 2 * features)
        with torch.no_grad():
            last.weight.mul_(0.1)  # a deep stack starts near the identity

    def forward(self, x: Tensor, a: Tensor | None, labels: Tensor | None, s: Tensor | None) -> Tensor:
        """x [B, features, H, W], a [B, beside, H, W], s [B, spatial, H, W] -> [B, features, H, W]"""
        # W1 * f(x) + A f(a)
        h = self.first(self.activate(self.norm(x)))
        if self.join is not None:
            h = h + self.join(self.activate(a))
        # x + gate(W2 * D(f(h)))
        h = self.last(self.dropout(self.activate(h)))
        if self.label is not None:
            h = h + self.label(labels)
        for bias in self.biases:
            h = h + bias(s)
        out: Tensor = x + self.gate(h)
        return out


class ConcatELU(nn.Module):
    """elu(x) and elu(-x), concatenated (``concat_elu`` in the paper's code)."""

    of_both_signs = staticmethod(F.elu)  # of (x, -x)

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> [B, 2 * features, H, W]"""
        return concat_elu(x)

    def reads(self) -> tuple[Read, ...]:
        """All features of the same position."""
        return (Read(HERE),)


class Gate(nn.Module):
    """a sigmoid(b) of the two halves (a, b) of the features."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2 * features, H, W] -> [B, features, H, W]"""
        return glu(x)

    def reads(self) -> tuple[Read, ...]:
        """All features of the same position."""
        return (Read(HERE),)


class Inside(nn.Module):
    """The image and a channel of ones, by which convolutions distinguish zero padding from zero pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C + 1, H, W]"""
        return F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)

    def reads(self) -> tuple[Read, ...]:
        """All features of the same position."""
        return (Read(HERE),)


class Double(nn.Module):
    """Upsampling by 2: a transposed convolution of stride 2, written as a convolution and a pixel shuffle.

    Each of the 2x2 outputs of an input has its own weights, for that input and the next ``right`` ones. With none this
    is the paper's 2x2 kernel; with one it is its 2x3 kernel and one more column.

    Args:
        features: of input and output.
        right: number of inputs read to the right.
        height: of the output: twice the input's, or one less.
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
    """The first rows and columns of the input."""

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
    """The 2x3 window of u, which includes the position's own row: u at that row depends only on rows above."""
    return BoxConv2d(inputs, outputs, top=-1, bottom=0, left=-1, right=1, stride=stride)


def down_right_shifted(inputs: int, outputs: int, stride: int = 1) -> BoxConv2d:
    """The 2x2 window of ul, whose last tap is the position itself."""
    return BoxConv2d(inputs, outputs, top=-1, bottom=0, left=-1, right=0, stride=stride)
