"""A decoder-only transformer over the pixels of an image in raster order.

    h_i = W x_{i-1} + position_i                                    input shifted by one pixel
    h   = h + P attention(Q norm(h), K norm(h), V norm(h))          over all positions up to i
    h   = h + D gelu(U norm(h))                                     at each position

The last two lines are one layer, with norms before each branch (pre-norm). Position i of the last layer has the
parameters of pixel i.

With local attention, over the last rows only, the cost is linear in the number of pixels instead of quadratic. Layers
with attention over all rows may alternate with local ones.

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
from pixelloom.layers.condition_encoder import condition_biases, condition_layers
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.output import Output
from pixelloom.networks.pixel.pixelcnn import ConditionKernels, Encoder, Side


class PixelTransformerConfig(BaseModel):
    """Configuration of a pixel transformer. The paper's smallest has 24 layers of 512 channels with 8 heads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(64, ge=1, le=4096, description="features of every layer")
    layers: int = Field(8, ge=1, le=256, description="number of layers, each attention and an MLP")
    heads: int = Field(2, ge=1, le=256, description="attention heads; divides channels")
    hidden: int | None = Field(None, ge=1, le=16384, description="features of the MLP; 4 times channels if unset")
    positions: Literal["learned", "rotary"] = Field(
        "learned", description="learned row and column vectors; rotary: with rotations of queries and keys as well"
    )
    first_kernel: Side = Field(
        1, description="side of a mask A kernel over the image, added to the shifted input; 1 for none"
    )
    kernel: Side = Field(1, description="side of the mask B kernel of the first layer of the MLP, odd")
    window: int | None = Field(None, ge=0, description="rows above its own that a position attends to; all if unset")
    every: int = Field(
        0, ge=0, description="each layer whose number is a multiple of this attends to all rows; 0 for none"
    )
    activation: Literal["gelu", "silu"] = Field("gelu", description="of the MLP")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability after each branch")
    condition_kernels: ConditionKernels = (5, 5)
    condition_encoder: Encoder = "auto"

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> PixelTransformerConfig:
        unit = self.heads * (4 if self.positions == "rotary" else 1)
        if self.channels % unit:
            raise ValueError(f"channels={self.channels} cannot be shared evenly: choose a multiple of {unit}")
        return self


class PixelTransformer(nn.Module):
    """Transformer layers over the shifted image; see :class:`pixelloom.networks.protocols.PixelNetwork`."""

    def __init__(
        self,
        config: PixelTransformerConfig,
        spec: ImageSpec,
        *,
        outputs: int,
        groups: int,
        classes: int = 0,
        condition: int = 0,
    ) -> None:
        super().__init__()
        c = config.channels
        self.classes, self.condition = classes, condition
        self.spatial, spatial = condition_layers(config, condition, c, spec)
        self.before = PixelBefore(spec.channels, c, spec.width)
        self.context = nn.Sequential()
        if config.first_kernel > 1:
            self.context.append(MaskedConv2d(spec.channels, c, config.first_kernel, mask="A", bias=False))
        self.positions = Positions(c, spec.height, spec.width)
        for table in self.positions.parameters():
            nn.init.normal_(table, std=0.1)
        self.layers = nn.ModuleList(Layer(config, spec, number, classes, spatial) for number in range(config.layers))
        self.norm = ChannelNorm(c)
        self.output = Output(c, spec.channels, outputs, groups)

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]"""
        check_given("labels", labels, self.classes)
        check_given("condition", condition, self.condition)
        s = condition if condition is None else self.spatial(condition)
        h = self.before(x)
        for context in self.context:
            h = h + context(x)
        h = self.positions(h)
        for layer in self.layers:
            h = layer(h, labels, s)
        out: Tensor = self.output(self.norm(h), x)
        return out


class Layer(nn.Module):
    """Causal attention, then an MLP at each position, both residual."""

    def __init__(
        self, config: PixelTransformerConfig, spec: ImageSpec, number: int, classes: int, spatial: int
    ) -> None:
        super().__init__()
        c, hidden = config.channels, config.hidden or 4 * config.channels
        everything = config.every and number % config.every == config.every - 1
        self.classes = nn.ModuleList([ClassBias(classes, c)] if classes else [])
        self.biases = condition_biases(spatial, c)
        self.norm, self.inner_norm = ChannelNorm(c), ChannelNorm(c)
        self.inputs = nn.Conv2d(c, 3 * c, 1)
        self.rotary = Rotary(c, config.heads, spec) if config.positions == "rotary" else nn.Identity()
        self.attention = CausalAttention(config.heads, own=True, above=None if everything else config.window)
        self.outputs = nn.Conv2d(c, c, 1)
        self.up = MaskedConv2d(c, hidden, config.kernel, mask="B")
        self.activate = nn.SiLU() if config.activation == "silu" else nn.GELU()
        self.down = nn.Conv2d(hidden, c, 1)
        self.dropout = nn.Dropout(config.dropout)
        # Both branches are zero at first: a deep stack starts as the identity.
        for last in (self.outputs, self.down):
            nn.init.zeros_(last.weight)

    def forward(self, h: Tensor, labels: Tensor | None, s: Tensor | None) -> Tensor:
        """[B, channels, H, W], labels int64 [B] or None, s [B, spatial, H, W] or None -> [B, channels, H, W]"""
        for bias in self.classes:
            h = h + bias(labels)
        for bias in self.biases:
            h = h + bias(s)
        # h + P attention(Q norm(h), K norm(h), V norm(h))
        q, k, v = self.inputs(self.norm(h)).chunk(3, dim=1)  # [B, 3 * channels, H, W] -> 3 x [B, channels, H, W]
        h = h + self.dropout(self.outputs(self.attention(self.rotary(q), self.rotary(k), v)))
        # h + D gelu(U norm(h))
        out: Tensor = h + self.dropout(self.down(self.activate(self.up(self.inner_norm(h)))))
        return out
