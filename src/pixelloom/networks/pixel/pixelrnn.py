"""PixelRNN: two-dimensional LSTMs over the image, along its rows or its diagonals.

    image --> mask A kxk --> residual LSTM layers --> (ReLU, 1x1) x n --> output --> parameters of each pixel

    Row LSTM           x + up(LSTM(input-to-state(x)))                     input-to-state: masked 1xk along the row
    Diagonal BiLSTM    x + up(left(gates) + down(right(other gates)))      gates of both directions: 1x1

Between layers there are 2h features, for h features per gate (section 3.3). The right direction of the Diagonal BiLSTM
reads the row to the right of a pixel, which comes later in raster order; shifted down by one row, its state depends on
earlier pixels only (section 3.2). The receptive field of the Row LSTM is a triangle above the pixel, widened by the
kernels of all layers; in the pixel's own row it contains only pixels within reach of these kernels.

The paper states that a single diagonal layer with both directions reads every earlier pixel. One is missing: each
feature depends on the pixels before its own, so no feature of a row depends on the last pixel of that row, and in the
row below only positions within reach of the first kernel read it. With ``wrap`` the first layer also reads the previous
pixel in raster order, which for the first pixel of a row is the last one of the row above; the left direction carries
it on.

Another difference: the paper splits all features into groups for R, G and B. Here the layers below the output do not
depend on the pixel itself, and ordered channels enter in the output (:class:`pixelloom.layers.output.Output`). So no
layer between the first and the output needs a mask over channels.

Source: van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", sections 3.1 to 3.3, table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.blocks import Activation, Norm, Positions, make_activation, make_norm
from pixelloom.layers.causal_attention import PixelBefore
from pixelloom.layers.class_conditioning import ClassBias, check_given
from pixelloom.layers.condition_encoder import condition_biases, condition_layers
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.output import Output
from pixelloom.layers.recurrent import DiagonalLSTM, RowLSTM
from pixelloom.layers.shifted_conv import BoxConv2d, Shift
from pixelloom.networks.pixel.pixelcnn import ConditionKernels, Encoder, Side


class PixelRNNConfig(BaseModel):
    """Fields of Row LSTM and Diagonal BiLSTM; the defaults are those of the paper's Diagonal BiLSTM for MNIST."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(16, ge=1, le=2048, description="features h of each gate; 2h between the layers")
    layers: int = Field(7, ge=1, le=64, description="LSTM layers")
    first_kernel: Side = Field(7, description="side of the mask A kernel, odd")
    head: int = Field(32, ge=1, le=4096, description="features of the 1x1 layers before the output")
    head_layers: int = Field(2, ge=0, le=8, description="number of 1x1 layers before the output")
    norm: Norm = Field("none", description="before each LSTM layer")
    activation: Activation = Field("relu", description="of the 1x1 layers before the output")
    positions: bool = Field(False, description="add learned row and column vectors (fixes the image size)")
    condition_kernels: ConditionKernels = (5, 5)
    condition_encoder: Encoder = "auto"


class DiagonalBiLSTMConfig(PixelRNNConfig):
    """Configuration of a Diagonal BiLSTM."""

    wrap: bool = Field(True, description="the first layer also reads the previous pixel, across the end of a row")


class RowLSTMConfig(PixelRNNConfig):
    """Configuration of a Row LSTM."""

    kernel: Side = Field(3, description="columns in the kernels of input-to-state and state-to-state, odd")


def row_lstm(
    config: RowLSTMConfig, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0, condition: int = 0
) -> PixelRNN:
    """Build a PixelRNN of Row LSTM layers; see :class:`pixelloom.networks.protocols.PixelNetwork`."""
    layer, more = partial(RowLayer, config, classes), {"classes": classes, "condition": condition}
    return PixelRNN(config, spec, layer, wrap=False, outputs=outputs, groups=groups, **more)


def diagonal_bilstm(
    config: DiagonalBiLSTMConfig, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0, condition: int = 0
) -> PixelRNN:
    """Build a PixelRNN of Diagonal BiLSTM layers; see :class:`pixelloom.networks.protocols.PixelNetwork`."""
    layer, more = partial(DiagonalLayer, config, classes), {"classes": classes, "condition": condition}
    return PixelRNN(config, spec, layer, wrap=config.wrap, outputs=outputs, groups=groups, **more)


class PixelRNN(nn.Module):
    """Masked convolution, residual LSTM layers, 1x1 layers; see :class:`pixelloom.networks.protocols.PixelNetwork`.

    Args:
        config: number and sizes of the layers.
        spec: the images.
        layer: builds one LSTM layer from the features of s, (x [B, 2h, H, W], labels, s) -> [B, 2h, H, W].
        wrap: whether the first layer also reads the previous pixel in raster order.
        outputs: parameters per position.
        groups: ordered channels.
        classes: number of classes, or 0.
        condition: channels of the conditioning image, or 0.
    """

    def __init__(
        self,
        config: PixelRNNConfig,
        spec: ImageSpec,
        layer: Callable[[int], nn.Module],
        *,
        wrap: bool,
        outputs: int,
        groups: int,
        classes: int,
        condition: int,
    ) -> None:
        super().__init__()
        features, self.classes, self.condition = 2 * config.hidden, classes, condition
        self.spatial, spatial = condition_layers(config, condition, features, spec)
        self.first = MaskedConv2d(spec.channels, features, config.first_kernel, mask="A")
        self.before = PixelBefore(spec.channels, features, spec.width) if wrap else None
        self.positions = Positions(features, spec.height, spec.width) if config.positions else nn.Identity()
        self.layers = nn.ModuleList(layer(spatial) for _ in range(config.layers))
        head: list[nn.Module] = []
        for _ in range(config.head_layers):
            head += [make_activation(config.activation), MaskedConv2d(features, config.head, 1, mask="B")]
            features = config.head
        self.head = nn.Sequential(*head)
        self.output = Output(features, spec.channels, outputs, groups)

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]"""
        check_given("labels", labels, self.classes)
        check_given("condition", condition, self.condition)
        s = condition if condition is None else self.spatial(condition)
        h = self.first(x)
        if self.before is not None:
            h = h + self.before(x)
        h = self.positions(h)
        for layer in self.layers:
            h = layer(h, labels, s)
        out: Tensor = self.output(self.head(h), x)
        return out


class RowLayer(nn.Module):
    """x + up(LSTM(x)) (figure 5); the class vector and the bias by s are added to the gates."""

    def __init__(self, config: RowLSTMConfig, classes: int, spatial: int) -> None:
        super().__init__()
        h = config.hidden
        self.norm = make_norm(config.norm, 2 * h, 1)
        self.enter = BoxConv2d(2 * h, 4 * h, top=0, bottom=0, left=-(config.kernel // 2), right=0)
        self.classes = ClassBias(classes, 4 * h) if classes else None
        self.biases = condition_biases(spatial, 4 * h)
        self.lstm = RowLSTM(h, config.kernel)
        self.up = MaskedConv2d(h, 2 * h, 1, mask="B")
        _open_forget_gates(self.enter, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """[B, 2h, H, W], labels [B] or None, s [B, spatial, H, W] or None -> [B, 2h, H, W]"""
        gates = self.enter(self.norm(x))  # [B, 4h, H, W]
        if self.classes is not None:
            gates = gates + self.classes(labels)
        for bias in self.biases:
            gates = gates + bias(s)
        out: Tensor = self.up(self.lstm(gates).chunk(2, dim=1)[0])  # hidden half of the state, [B, 2h, H, W] -> h
        return x + out


class DiagonalLayer(nn.Module):
    """x + up(left(x) + right(x) shifted down by one row); class vector and bias by s are added to the gates."""

    def __init__(self, config: PixelRNNConfig, classes: int, spatial: int) -> None:
        super().__init__()
        h = config.hidden
        self.norm = make_norm(config.norm, 2 * h, 1)
        self.enter = MaskedConv2d(2 * h, 8 * h, 1, mask="B")
        self.classes = ClassBias(classes, 8 * h) if classes else None
        self.biases = condition_biases(spatial, 8 * h)
        self.left, self.right = DiagonalLSTM(h), DiagonalLSTM(h, mirrored=True)
        self.down = Shift(down=1)
        self.up = MaskedConv2d(h, 2 * h, 1, mask="B")
        _open_forget_gates(self.enter, 2)

    def forward(self, x: Tensor, labels: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """[B, 2h, H, W], labels [B] or None, s [B, spatial, H, W] or None -> [B, 2h, H, W]"""
        gates = self.enter(self.norm(x))
        if self.classes is not None:
            gates = gates + self.classes(labels)
        for bias in self.biases:
            gates = gates + bias(s)
        left, right = gates.chunk(2, dim=1)  # [B, 8h, H, W] -> twice [B, 4h, H, W]
        h = self.left(left).chunk(2, dim=1)[0] + self.down(self.right(right).chunk(2, dim=1)[0])
        out: Tensor = self.up(h)
        return x + out


def _open_forget_gates(enter: BoxConv2d | MaskedConv2d, directions: int) -> None:
    """Set the biases of the forget gates to 1, so that cells keep their state at first (Jozefowicz et al. 2015)."""
    assert enter.bias is not None
    with torch.no_grad():
        enter.bias.view(directions, 4, -1)[:, 1] = 1  # [directions * 4h] -> [directions, 4 gates o f i g, h]
