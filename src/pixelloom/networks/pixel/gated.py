"""Gated PixelCNN: two stacks without a blind spot, gates, and conditioning on a class or an image.

A stack of masked convolutions has a blind spot above to the right, however deep it is. So there are two stacks, of
layers with kernels of side n = 2r + 1::

    vertical: depends on the rows above         horizontal: depends on the row so far as well

    # # # # #    r rows and its own             # # o     the row up to o, with mask B,
    # # # # #    (the first layer: r + 1
    # # o # #    rows above its own)            and the vertical stack at o

    a_v = W_v * v + V_v                         a_h = W_h * h + L a_v + V_h
    v'  = gate(a_v)                             h'  = h + U gate(a_h)          gate(a, b) = tanh(a) sigmoid(b)   (eq. 2)

with * a convolution, L and U 1x1 convolutions, and V the conditioning: a vector per class (eq. 4), a 1x1 convolution of
features s at each position (eq. 5), or zero. The first layer has no skip connection.

Here the first layer of the vertical stack reads only rows above its own; the paper shifts the output of each layer down
by a row on its way to the horizontal stack. The receptive fields are the same.

Source: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", sections 2.1 to 2.3, figure 2.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.blocks import Activation, Positions, make_activation, make_norm
from pixelloom.layers.class_conditioning import ClassBias, check_given
from pixelloom.layers.condition_encoder import condition_layers
from pixelloom.layers.gates import tanh_gate
from pixelloom.layers.masked_conv import Mask, MaskedConv2d
from pixelloom.layers.shifted_conv import BoxConv2d
from pixelloom.networks.pixel.pixelcnn import ConditionKernels, Encoder, Side

Window = Annotated[Side, Field(ge=3)]


class GatedPixelCNNConfig(BaseModel):
    """Configuration of a Gated PixelCNN. The paper's large ones have 20 layers of 384 channels with 5x5 kernels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(64, ge=1, le=4096, description="features of each stack")
    layers: int = Field(8, ge=1, le=256, description="gated layers, the first included")
    first_kernel: Window = Field(7, description="side of the first layer's kernels, odd")
    kernel: Window = Field(5, description="side of the other layers' kernels, odd")
    hidden: int | None = Field(None, ge=1, le=4096, description="features of the head; equal to channels if unset")
    norm: Literal["none", "channel"] = Field("none", description="before each layer except the first")
    activation: Activation = Field("relu", description="of the head")
    positions: bool = Field(False, description="add learned row and column vectors (fixes the image size)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability after the horizontal gates")
    condition: int = Field(0, ge=0, le=4096, description="channels of the conditioning image")
    condition_kernels: ConditionKernels = (5, 5)
    condition_encoder: Encoder = "auto"


class GatedPixelCNN(nn.Module):
    """Two stacks of gated layers; see :class:`pixelloom.networks.protocols.PixelNetwork`.

    With ``condition=0`` the number of channels of the conditioning image is the configuration's.
    """

    def __init__(
        self,
        config: GatedPixelCNNConfig,
        spec: ImageSpec,
        *,
        outputs: int,
        groups: int,
        classes: int = 0,
        condition: int = 0,
    ) -> None:
        super().__init__()
        c, self.classes, self.condition = config.channels, classes, condition or config.condition
        self.spatial, width = condition_layers(config, self.condition, c, spec)  # s = m(h) of section 2.3
        self.layers = nn.ModuleList(
            GatedLayer(
                c if number else spec.channels,
                c,
                config.kernel if number else config.first_kernel,
                first=not number,
                groups=groups,
                dropout=config.dropout,
                classes=classes,
                spatial=width,
                norm=config.norm,
            )
            for number in range(config.layers)
        )
        positions = [Positions(c, spec.height, spec.width) if config.positions else nn.Identity() for _ in range(2)]
        self.above, self.beside = positions
        hidden = config.hidden or c
        self.head = nn.Sequential(
            make_activation(config.activation, inplace=True),
            MaskedConv2d(c, hidden, 1, mask="B", groups=groups),
            make_activation(config.activation, inplace=True),
        )
        self.output = MaskedConv2d(hidden, outputs, 1, mask="B", groups=groups)
        # Zero parameters predict the uniform distribution: log2(levels) bits/dim before training.
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]"""
        check_given("labels", labels, self.classes)
        check_given("condition", condition, self.condition)
        s = condition if condition is None else self.spatial(condition)
        v, h = self.layers[0](x, x, labels, s)
        v, h = self.above(v), self.beside(h)
        for layer in self.layers[1:]:
            v, h = layer(v, h, labels, s)
        out: Tensor = self.output(self.head(h))
        return out


class GatedLayer(nn.Module):
    """(v, h) -> (v', h') by the equations at the top of this file, each [B, features, H, W].

    Args:
        inputs: features of v and h.
        features: of v' and h'.
        kernel: side of the window, n.
        first: whether v and h are the image.
        groups: ordered image channels. The vertical stack depends on whole rows only and needs no groups.
        dropout: probability of dropout after the gate.
        classes: number of classes, or 0.
        spatial: features of s, or 0.
        norm: of v and h before the convolutions; the first layer has none.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel: int,
        *,
        first: bool,
        groups: int,
        dropout: float,
        classes: int,
        spatial: int,
        norm: Literal["none", "channel"] = "none",
    ) -> None:
        super().__init__()
        r, gate = kernel // 2, 2 * features
        self.skip = not first
        # The vertical stack does not depend on the pixel's own channels, so its features are normalized in one group.
        self.norm_above, self.norm_beside = (make_norm("none" if first else norm, inputs, n) for n in (1, groups))
        self.vertical = BoxConv2d(inputs, gate, top=-r - first, bottom=-int(first), left=-r, right=r)
        self.horizontal = RowConv2d(inputs, gate, kernel, first=first, groups=groups)
        self.link = nn.Conv2d(gate, gate, 1)
        self.dropout = nn.Dropout(dropout)
        self.up = MaskedConv2d(features, features, 1, mask="B", groups=groups)
        self.above, self.beside = (Condition(gate, classes, spatial) for _ in range(2))

    def forward(self, v: Tensor, h: Tensor, labels: Tensor | None, s: Tensor | None) -> tuple[Tensor, Tensor]:
        """v and h [B, inputs, H, W], labels int64 [B], s [B, spatial, H, W] -> v' and h' [B, features, H, W]"""
        # a_v = W_v * v + V_v
        above = self.above(self.vertical(self.norm_above(v)), labels, s)
        # a_h = W_h * h + L a_v + V_h
        beside = self.beside(self.horizontal(self.norm_beside(h)) + self.link(above), labels, s)
        # v' = gate(a_v), h' = h + U gate(a_h)   (eq. 2)
        branch = self.up(self.dropout(tanh_gate(beside)))
        return tanh_gate(above), h + branch if self.skip else branch


class Condition(nn.Module):
    """a -> a + V: a bias of each feature by the conditioning, zero at first.

    Args:
        features: of a.
        classes: number of classes, each with a vector (eq. 4), or 0.
        spatial: features of s, mapped to a bias at each position by a 1x1 convolution (eq. 5), or 0.
    """

    def __init__(self, features: int, classes: int, spatial: int) -> None:
        super().__init__()
        self.classes = ClassBias(classes, features) if classes else None
        self.spatial = nn.Conv2d(spatial, features, 1, bias=False) if spatial else None
        if self.spatial is not None:
            nn.init.zeros_(self.spatial.weight)

    def forward(self, a: Tensor, labels: Tensor | None, s: Tensor | None) -> Tensor:
        """[B, features, H, W], labels int64 [B] or None, s [B, spatial, H, W] or None -> [B, features, H, W]"""
        if self.classes is not None:
            a = a + self.classes(labels)
        return a if self.spatial is None else a + self.spatial(s)


class RowConv2d(nn.Module):
    """A convolution over the row up to the position: r taps on the left, and the position itself by mask A or B.

    The taps on the left are whole earlier pixels and need no mask.

    Args:
        inputs: features of the input; for the first layer the channels of the image.
        gate: features of the output, a and b side by side, each grouped alike.
        kernel: side of the whole window, 2r + 1.
        first: mask A for the layer that reads the image, else mask B.
        groups: ordered image channels, or 1.
    """

    def __init__(self, inputs: int, gate: int, kernel: int, *, first: bool, groups: int) -> None:
        super().__init__()
        whole = groups == 1 and not first  # nothing is masked: one convolution suffices
        self.row = BoxConv2d(inputs, gate, top=0, bottom=0, left=-(kernel // 2), right=0 if whole else -1)
        self.pixel: MaskedConv2d | None = None
        if groups > 1:
            mask: Mask = "A" if first else "B"
            self.pixel = MaskedConv2d(inputs, gate, 1, mask=mask, groups=groups, copies=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, gate, H, W]"""
        out: Tensor = self.row(x)
        return out if self.pixel is None else out + self.pixel(x)
