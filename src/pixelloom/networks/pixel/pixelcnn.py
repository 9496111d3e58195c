"""PixelCNN, configurable to each of the variants in the tutorials.

    image --> mask A kxk --> blocks of mask B --> (hidden head layers) --> 1x1 --> parameters of each pixel

Position i of the output has the parameters of p(x_i | x_1 .. x_{i-1}) and depends only on pixels before i, so that
p(x) = prod_i p(x_i | x_1 .. x_{i-1}) (eq. 1).

Source: van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", sections 2, 3.4 and 3.5; gated
blocks: :class:`pixelloom.layers.blocks.GatedBlock`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.blocks import (
    Activation,
    GatedBlock,
    Norm,
    PlainBlock,
    Positions,
    ResidualBlock,
    make_activation,
    make_norm,
)
from pixelloom.layers.class_conditioning import ClassBias, check_given
from pixelloom.layers.condition_encoder import condition_biases, condition_layers
from pixelloom.layers.masked_conv import MaskedConv2d


def _odd(side: int) -> int:
    if side % 2 == 0:
        raise ValueError(f"a masked kernel needs a center: an odd side such as {side + 1}, not {side}")
    return side


Side = Annotated[int, Field(ge=1, le=63), AfterValidator(_odd)]
ConditionKernels = Annotated[
    tuple[Side, ...], Field(max_length=64, description="sides of the kernels over the conditioning image")
]
Encoder = Annotated[
    Literal["auto", "kernels", "u-net"],
    Field(
        description="of the conditioning image: condition_kernels, or a U-Net; auto: U-Net for condition=mask",
    ),
]


class PixelCNNConfig(BaseModel):
    """Configuration of a PixelCNN; :mod:`pixelloom.runs.recipes` has those of the tutorials."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(64, ge=1, le=4096, description="features of every layer")
    first_kernel: Side = Field(7, description="side of the mask A kernel, odd")
    block: Literal["plain", "residual", "preactivation", "gated"] = Field(
        "gated",
        description="plain: a convolution; residual: a bottleneck, activations after convolutions; preactivation: "
        "before them; gated: a preactivation bottleneck with a gate",
    )
    blocks: int = Field(7, ge=0, le=256, description="number of blocks after the first layer")
    kernel: Side = Field(5, description="side of the blocks' mask B kernel, odd")
    hidden: int | None = Field(
        None, ge=1, le=4096, description="features inside a residual, preactivation or gated block; null: channels // 2"
    )
    norm: Norm = Field("none", description="batch: batch norm; channel: layer norm over channels")
    activation: Activation = Field("relu", description="of all layers except those inside gated blocks")
    bias: bool = Field(True, description="biases in the first layer and the blocks")
    positions: bool = Field(False, description="add learned row and column vectors (fixes the image size)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability in gated blocks")
    head_kernels: tuple[Side, ...] = Field(
        (), max_length=64, description="sides of hidden mask B layers before the output layer"
    )
    condition_kernels: ConditionKernels = (5, 5)
    condition_encoder: Encoder = "auto"


class PixelCNN(nn.Module):
    """A stack of masked convolutions; see :class:`pixelloom.networks.protocols.PixelNetwork`."""

    def __init__(
        self,
        config: PixelCNNConfig,
        spec: ImageSpec,
        *,
        outputs: int,
        groups: int,
        classes: int = 0,
        condition: int = 0,
    ) -> None:
        super().__init__()
        c, norm, bias = config.channels, config.norm, config.bias
        self.first = MaskedConv2d(spec.channels, c, config.first_kernel, mask="A", groups=groups, bias=bias)
        self.positions = Positions(c, spec.height, spec.width) if config.positions else nn.Identity()

        # "plain" and "residual" blocks activate after each convolution, so the first layer is activated here. The
        # other blocks activate before, so the head starts with an activation.
        after = config.block in ("plain", "residual")
        activate = partial(make_activation, config.activation, inplace=True)
        self.enter = nn.Sequential(make_norm(norm, c, groups), activate()) if after else nn.Identity()
        self.blocks = nn.Sequential(*(_block(config, groups) for _ in range(config.blocks)))
        head: list[nn.Module] = [] if after else [activate()]
        for side in config.head_kernels:
            head += [MaskedConv2d(c, c, side, mask="B", groups=groups), activate()]
        self.head = nn.Sequential(*head)
        self.output = MaskedConv2d(c, outputs, 1, mask="B", groups=groups)
        # With zero parameters a categorical head predicts the uniform distribution: log2(levels) bits/dim at first.
        nn.init.zeros_(self.output.weight)
        self.classes = nn.ModuleList(ClassBias(classes, c) for _ in range(1 + config.blocks if classes else 0))
        self.spatial, spatial = condition_layers(config, condition, c, spec)
        self.biases = condition_biases(spatial, *[c] * (1 + config.blocks))

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]"""
        check_given("labels", labels, len(self.classes))
        check_given("condition", condition, len(self.biases))
        s = condition if condition is None else self.spatial(condition)
        x = self.enter(self.positions(self._conditioned(self.first(x), 0, labels, s)))
        if not (self.classes or self.biases):
            x = self.blocks(x)  # which may be compiled as a whole
        else:
            for number, block in enumerate(self.blocks, 1):
                x = block(self._conditioned(x, number, labels, s))
        out: Tensor = self.output(self.head(x))
        return out

    def _conditioned(self, x: Tensor, number: int, labels: Tensor | None, s: Tensor | None) -> Tensor:
        """Add the class vector and the bias by s of block ``number``; 0 is the first layer."""
        if self.classes:
            x = x + self.classes[number](labels)
        return x + self.biases[number](s) if self.biases else x


def _block(config: PixelCNNConfig, groups: int) -> nn.Module:
    c, k, norm, bias = config.channels, config.kernel, config.norm, config.bias
    hidden = config.hidden or max(1, c // 2)
    if config.block == "plain":
        return PlainBlock(c, k, norm=norm, bias=bias, groups=groups, function=config.activation)
    if config.block == "gated":
        return GatedBlock(c, hidden, k, norm=norm, bias=bias, groups=groups, dropout=config.dropout)
    where: Literal["before", "after"] = "after" if config.block == "residual" else "before"
    return ResidualBlock(
        c, hidden, k, activation=where, norm=norm, bias=bias, groups=groups, function=config.activation
    )
