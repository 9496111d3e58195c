"""A transformer over pixels: a decoder reads an image as a sequence, pixel after pixel in raster order.

    h_i = W x_{i-1} + position_i          (the pixel before: the input is shifted by one)
    h   = h + P attention(Q norm(h), K norm(h), V norm(h))          attention over all positions up to i
    h   = h + D gelu(U norm(h))                                     each position alone

and so on, layer after layer; the parameters of pixel i are read off position i of the last. Norms stand before what
they feed, so the short-cut is left alone.

Local attention, over the last rows only, makes the cost grow with the pixels instead of with their square. Layers that
look back over all rows may stand between layers that do not.

Source: Chen et al. 2020, "Generative Pretraining from Pixels" (ImageGPT), section 2.2; Parmar et al. 2018, "Image
Transformer", section 3 (local attention); Su et al. 2021, "RoFormer" (rotary positions).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.blocks import ChannelNorm, Positions
from pixelloom.layers.causal_attention import CausalAttention, PixelBefore, Rotary
from pixelloom.layers.class_conditioning import ClassBias, check_given
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.output import Output
from pixelloom.networks.pixel.pixelcnn import Side


class PixelTransformerConfig(BaseModel):
    """What a pixel transformer looks like. The paper's smallest has 24 layers of 512 channels with 8 heads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(64, ge=1, le=4096, description="features of every layer")
    layers: int = Field(8, ge=1, le=256, description="number of layers, each attention and a small network")
    heads: int = Field(2, ge=1, le=256, description="parts of the features that attend apart; divides channels")
    hidden: int | None = Field(None, ge=1, le=16384, description="features inside a layer; 4 times channels if unset")
    positions: Literal["learned", "rotary"] = Field(
        "learned", description="learned row and column vectors, or those and rotations of queries and keys as well"
    )
    first_kernel: Side = Field(
        1, description="side of a mask A kernel that reads the image beside the shifted input; 1 for none"
    )
    kernel: Side = Field(1, description="side of the mask B kernel that leads into the hidden features of a layer, odd")
    window: int | None = Field(None, ge=0, description="rows above its own that a position attends to; all if unset")
    every: int = Field(
        0, ge=0, description="every so many-th layer attends to all rows whatever the window; 0 for none"
    )
    activation: Literal["gelu", "silu"] = Field("gelu", description="of the hidden features of a layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of each branch's features dropped while training")

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> PixelTransformerConfig:
        unit = self.heads * (4 if self.positions == "rotary" else 1)
        if self.channels % unit:
            raise ValueError(f"channels={self.channels} cannot be shared evenly: choose a multiple of {unit}")
        return self


class PixelTransformer(nn.Module):
    """[B, C, H, W] pixels in model space -> [B, outputs, H, W] parameters, output position i reading pixels before i.

    Args:
        config: the layers.
        spec: the images.
        outputs: parameters a position, all image channels together; the head knows how many it needs.
        groups: image channels that are ordered within a pixel, or 1 if a pixel's channels do not see each other.
        classes: how many there are; 0 for a network that is not told any.
    """

    def __init__(
        self, config: PixelTransformerConfig, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0
    ) -> None:
        super().__init__()
        c = config.channels
        self.classes = classes
        self.before = PixelBefore(spec.channels, c, spec.width)
        self.context = nn.Sequential()
        if config.first_kernel > 1:
            self.context.append(MaskedConv2d(spec.channels, c, config.first_kernel, mask="A", bias=False))
        self.positions = Positions(c, spec.height, spec.width)
        for table in self.positions.parameters():
            nn.init.normal_(table, std=0.1)
        self.layers = nn.ModuleList(Layer(config, spec, number, classes) for number in range(config.layers))
        self.norm = ChannelNorm(c)
        self.output = Output(c, spec.channels, outputs, groups)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]

        Args:
            x: pixels in model space.
            labels: int64 [B], ``classes`` for no class; None if, and only if, the network was built without classes.

        Raises:
            UsageError: for labels that are missing, or given to a network that knows no classes.
        """
        check_given("labels", labels, self.classes)
        h = self.before(x)
        for context in self.context:
            h = h + context(x)
        h = self.positions(h)
        for layer in self.layers:
            h = layer(h, labels)
        out: Tensor = self.output(self.norm(h), x)
        return out


class Layer(nn.Module):
    """Attention over the positions up to here, then a small network at each position: [B, channels, H, W] -> same."""

    def __init__(self, config: PixelTransformerConfig, spec: ImageSpec, number: int, classes: int) -> None:
        super().__init__()
        c, hidden = config.channels, config.hidden or 4 * config.channels
        everything = config.every and number % config.every == config.every - 1
        self.classes = nn.ModuleList([ClassBias(classes, c)] if classes else [])
        self.norm, self.inner_norm = ChannelNorm(c), ChannelNorm(c)
        self.inputs = nn.Conv2d(c, 3 * c, 1)
        self.rotary = Rotary(c, config.heads, spec) if config.positions == "rotary" else nn.Identity()
        self.attention = CausalAttention(config.heads, own=True, above=None if everything else config.window)
        self.outputs = nn.Conv2d(c, c, 1)
        self.up = MaskedConv2d(c, hidden, config.kernel, mask="B")
        self.activate = nn.SiLU() if config.activation == "silu" else nn.GELU()
        self.down = nn.Conv2d(hidden, c, 1)
        self.dropout = nn.Dropout(config.dropout)
        # Both branches start at zero, so that a deep stack starts as the identity.
        for last in (self.outputs, self.down):
            nn.init.zeros_(last.weight)

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """[B, channels, H, W] -> same"""
        for bias in self.classes:
            h = h + bias(labels)
        q, k, v = self.inputs(self.norm(h)).chunk(3, dim=1)
        h = h + self.dropout(self.outputs(self.attention(self.rotary(q), self.rotary(k), v)))
        out: Tensor = h + self.dropout(self.down(self.activate(self.up(self.inner_norm(h)))))
        return out
