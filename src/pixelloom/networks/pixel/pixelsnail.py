"""PixelSNAIL: gated residual convolutions, and between them attention over all earlier pixels.

    image --> first --> block --> block --> ... --> parameters of each pixel

    block:   u = residual(... residual(h))                        gated residual layers of 2x2 convolutions
             key, value = 1x1(residual_1x1(image, u, where))      these depend on the pixel itself as well
             query = 1x1(residual_1x1(u, where))                  this one on earlier pixels only
             h' = residual_1x1(u, attention(query, key, value))   over strictly earlier pixels

``where`` is two channels with the row and the column. A gated residual layer, with a(x) = (elu(x), elu(-x)), is

    residual(x, y) = x + p sigmoid(q)          (p, q) = conv(a(conv(a(x)) + 1x1(a(y))))

Its convolutions are the down-right-shifted ones of PixelCNN++: a position, the one on its left and the two above these.
Their receptive field leaves out the pixels above on the right, which attention reads.

Source: Chen et al. 2017, "PixelSNAIL: An Improved Autoregressive Generative Model", section 3, figure 2 and figure 3;
Salimans et al. 2017, "PixelCNN++", for the layers.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.blocks import make_norm
from pixelloom.layers.causal_attention import CausalAttention, Rotary
from pixelloom.layers.class_conditioning import ClassBias, check_given
from pixelloom.layers.condition_encoder import condition_biases, condition_layers
from pixelloom.layers.gates import concat_elu, sigmoid_gate
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.output import Output
from pixelloom.layers.shifted_conv import BoxConv2d
from pixelloom.networks.pixel.pixelcnn import ConditionKernels, Encoder


class PixelSNAILConfig(BaseModel):
    """Configuration of a PixelSNAIL. The paper's for CIFAR-10 has 12 blocks of 4 layers with 256 channels, 16 features
    of keys and 128 of values, and dropout 0.5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(64, ge=1, le=4096, description="features of every layer")
    blocks: int = Field(4, ge=1, le=256, description="number of blocks, each of residual layers and attention")
    layers: int = Field(4, ge=0, le=64, description="gated residual layers per block")
    heads: int = Field(1, ge=1, le=256, description="attention heads")
    keys: int = Field(16, ge=1, le=4096, description="features of keys and queries; a multiple of heads")
    values: int | None = Field(
        None, ge=1, le=4096, description="features of values; a multiple of heads; half of channels if unset"
    )
    window: int | None = Field(None, ge=0, description="rows above its own that a position attends to; all if unset")
    rotary: bool = Field(False, description="rotary positions of queries and keys, by row and column")
    norm: Literal["none", "channel"] = Field("none", description="before each residual layer")
    activation: Literal["concat-elu", "silu"] = Field("concat-elu", description="elu of both signs, or x sigmoid(x)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability in residual layers")
    condition_kernels: ConditionKernels = (5, 5)
    condition_encoder: Encoder = "auto"

    @property
    def width(self) -> int:
        """Features of values."""
        return self.values or max(1, self.channels // 2)

    @model_validator(mode="after")
    def _heads_divide_keys_and_values(self) -> PixelSNAILConfig:
        for name, features in (("keys", self.keys), ("values", self.width)):
            if features % self.heads:
                raise ValueError(f"{name}={features} cannot be shared evenly by heads={self.heads}")
        if self.rotary and self.keys % (4 * self.heads):
            raise ValueError(f"rotary: keys={self.keys} must be a multiple of {4 * self.heads}, four times heads")
        return self


class PixelSNAIL(nn.Module):
    """Blocks of gated residual layers and attention; see :class:`pixelloom.networks.protocols.PixelNetwork`."""

    where: Tensor

    def __init__(
        self,
        config: PixelSNAILConfig,
        spec: ImageSpec,
        *,
        outputs: int,
        groups: int,
        classes: int = 0,
        condition: int = 0,
    ) -> None:
        super().__init__()
        c, self.classes, self.condition = config.channels, classes, condition
        self.spatial, spatial = condition_layers(config, condition, c, spec)
        self.above = BoxConv2d(spec.channels + 1, c, top=-1, bottom=-1, left=-1, right=1)
        self.beside = BoxConv2d(spec.channels + 1, c, top=-1, bottom=0, left=-1, right=-1)
        self.blocks = nn.ModuleList(Block(config, spec, classes, spatial) for _ in range(config.blocks))
        self.output = Output(c, spec.channels, outputs, groups)
        rows, columns = (torch.arange(side) / side - 0.5 for side in (spec.height, spec.width))
        where = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        self.register_buffer("where", where, persistent=False)

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]"""
        check_given("labels", labels, self.classes)
        check_given("condition", condition, self.condition)
        s = condition if condition is None else self.spatial(condition)
        inside = torch.cat((x, 0 * x[:, :1] + 1), dim=1)  # a channel of ones distinguishes padding from zeros
        h = self.above(inside) + self.beside(inside)
        where = 0 * h[:, :1] + self.where  # [2, H, W] -> [B, 2, H, W]
        for block in self.blocks:
            h = block(h, x, where, labels, s)
        out: Tensor = self.output(h, x)
        return out


class Block(nn.Module):
    """Residual layers, then attention."""

    def __init__(self, config: PixelSNAILConfig, spec: ImageSpec, classes: int, spatial: int) -> None:
        super().__init__()
        c, values = config.channels, config.width
        given = {"classes": classes, "spatial": spatial}
        self.near = nn.ModuleList(GatedResidual(config, c, near=True, **given) for _ in range(config.layers))
        known, before = spec.channels + c + 2, c + 2
        self.content = GatedResidual(config, known, near=False)
        self.question = GatedResidual(config, before, near=False)
        # No bias of the keys: it would add the same number to all scores of a query.
        self.key = MaskedConv2d(known, config.keys, 1, mask="B", bias=False)
        self.value = _here(known, values)
        self.query = _here(before, config.keys)
        self.rotary = Rotary(config.keys, config.heads, spec) if config.rotary else nn.Identity()
        self.attention = CausalAttention(config.heads, own=False, above=config.window)
        self.mix = GatedResidual(config, c, near=False, extra=values, **given)

    def forward(self, h: Tensor, x: Tensor, where: Tensor, labels: Tensor | None, s: Tensor | None) -> Tensor:
        """h [B, channels, H, W], image x [B, C, H, W], where [B, 2, H, W], labels int64 [B] or None, and s
        [B, spatial, H, W] or None -> as h
        """
        for layer in self.near:
            h = layer(h, labels, s)
        # Keys and values from (image, u, where), the query from (u, where)
        content = self.content(torch.cat((x, h, where), dim=1), labels, s)
        query = self.query(self.question(torch.cat((h, where), dim=1), labels, s))
        found = self.attention(self.rotary(query), self.rotary(self.key(content)), self.value(content))
        out: Tensor = self.mix(h, labels, s, found)  # residual_1x1(u, attention)
        return out


class GatedResidual(nn.Module):
    """The gated residual layer at the top of this file.

    Args:
        config: norm, activation and dropout.
        features: of x.
        near: whether the convolutions are 2x2, else 1x1.
        extra: features of y, or 0.
        classes: number of classes, or 0. A class vector is added to (p, q).
        spatial: features of s, or 0. A bias by s is added to (p, q).
    """

    def __init__(
        self,
        config: PixelSNAILConfig,
        features: int,
        *,
        near: bool,
        extra: int = 0,
        classes: int = 0,
        spatial: int = 0,
    ) -> None:
        super().__init__()
        conv = _near if near else _here
        self.activate = F.silu if config.activation == "silu" else concat_elu
        both = 1 if config.activation == "silu" else 2
        self.norm = make_norm(config.norm, features, 1)
        self.enter, self.gate = conv(both * features, features), conv(both * features, 2 * features)
        self.extra = nn.ModuleList([_here(both * extra, features)] if extra else [])
        self.classes = nn.ModuleList([ClassBias(classes, 2 * features)] if classes else [])
        self.biases = condition_biases(spatial, 2 * features)
        self.dropout = nn.Dropout(config.dropout)
        with torch.no_grad():  # a deep stack starts near the identity
            self.gate.weight.mul_(0.1)

    def forward(self, x: Tensor, labels: Tensor | None, s: Tensor | None, y: Tensor | None = None) -> Tensor:
        """x [B, features, H, W], labels int64 [B] or None, s [B, spatial, H, W] or None, y [B, extra, H, W] or None
        -> as x
        """
        # (p, q) = conv(a(conv(a(x)) + 1x1(a(y))))
        h = self.enter(self.activate(self.norm(x)))
        if y is not None:
            h = h + self.extra[0](self.activate(y))
        h = self.gate(self.dropout(self.activate(h)))
        for bias in self.classes:
            h = h + bias(labels)
        for bias in self.biases:
            h = h + bias(s)
        return x + sigmoid_gate(h)


def _near(inputs: int, outputs: int) -> BoxConv2d:
    return BoxConv2d(inputs, outputs, top=-1, bottom=0, left=-1, right=0)


def _here(inputs: int, outputs: int) -> MaskedConv2d:
    return MaskedConv2d(inputs, outputs, 1, mask="B")
