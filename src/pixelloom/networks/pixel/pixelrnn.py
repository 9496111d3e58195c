"""PixelRNN: two-dimensional LSTMs over the image, along its rows or its diagonals.

    image --> mask A kxk --> residual LSTM layers --> (ReLU, 1x1) x n --> output --> parameters of each pixel

    Row LSTM           x + up(LSTM(input-to-state(x)))                     input-to-state: masked 1xk along the row
    Diagonal BiLSTM    x + up(left(gates) + down(right(other gates)))      gates of both directions: 1x1

The features between layers are 2h for h features a gate (section 3.3). The right direction of the Diagonal BiLSTM looks
at the row to the right of a pixel, which comes after it; moved down by one row all of that is past (section 3.2). The
Row LSTM sees a triangle above the pixel, widened by the kernels of all layers, and little of its own row.

Both directions of a single diagonal layer see every pixel before, as the paper says, but for one: a feature knows the
pixels before its own, so the features of a whole row do not know its last pixel, and below it only those near enough
for the first kernel do. With ``wrap`` the first layer reads the pixel before in raster order as well, which for the
first pixel of a row is the last one of the row above, and the left direction hands it on.

Otherwise this differs in one thing: the paper splits all features into groups for R, G and B; here the trunk knows
nothing of the pixel itself, and ordered channels are joined to it in the output
(:class:`pixelloom.layers.output.Output`). So no layer after the first needs a mask.

Source: van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", sections 3.1 to 3.3, table 1.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.blocks import Activation, Norm, Positions, make_activation, make_norm
from pixelloom.layers.causal_attention import PixelBefore
from pixelloom.layers.class_conditioning import ClassBias, check_given
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.output import Output
from pixelloom.layers.recurrent import DiagonalLSTM, RowLSTM
from pixelloom.layers.shifted_conv import BoxConv2d, Shift
from pixelloom.networks.pixel.pixelcnn import Side


class PixelRNNConfig(BaseModel):
    """What both have; the defaults are the paper's for MNIST."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(16, ge=1, le=2048, description="features h of each gate; 2h between the layers")
    layers: int = Field(7, ge=1, le=64, description="LSTM layers")
    first_kernel: Side = Field(7, description="side of the mask A kernel, odd")
    head: int = Field(32, ge=1, le=4096, description="features of the 1x1 layers before the output")
    head_layers: int = Field(2, ge=0, le=8, description="number of 1x1 layers before the output")
    norm: Norm = Field("none", description="before each LSTM layer")
    activation: Activation = Field("relu", description="of the 1x1 layers before the output")
    positions: bool = Field(False, description="add learned row and column vectors (fixes the image size)")


class DiagonalBiLSTMConfig(PixelRNNConfig):
    """What a Diagonal BiLSTM looks like."""

    wrap: bool = Field(True, description="let no pixel go unseen: the first of a row reads the last of the row above")


class RowLSTMConfig(PixelRNNConfig):
    """What a Row LSTM looks like."""

    kernel: Side = Field(3, description="columns that input-to-state and state-to-state reach over, odd")


class PixelRNN(nn.Module):
    """[B, C, H, W] pixels in model space -> [B, outputs, H, W] parameters, output position i reading pixels before i.

    Args:
        config: the layers, and by its class which kind.
        spec: the images.
        outputs: parameters a position, all image channels together; the head knows how many it needs.
        groups: image channels that are ordered within a pixel, or 1 if a pixel's channels do not see each other.
        classes: how many there are; 0 for a network that is not told any.
    """

    def __init__(self, config: PixelRNNConfig, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0) -> None:
        super().__init__()
        features, self.classes = 2 * config.hidden, classes
        self.first = MaskedConv2d(spec.channels, features, config.first_kernel, mask="A")
        wrap = isinstance(config, DiagonalBiLSTMConfig) and config.wrap
        self.before = PixelBefore(spec.channels, features, spec.width) if wrap else None
        self.positions = Positions(features, spec.height, spec.width) if config.positions else nn.Identity()
        self.layers = nn.ModuleList(
            RowLayer(config, classes) if isinstance(config, RowLSTMConfig) else DiagonalLayer(config, classes)
            for _ in range(config.layers)
        )
        head: list[nn.Module] = []
        for _ in range(config.head_layers):
            head += [make_activation(config.activation), MaskedConv2d(features, config.head, 1, mask="B")]
            features = config.head
        self.head = nn.Sequential(*head)
        self.output = Output(features, spec.channels, outputs, groups)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]

        Args:
            x: pixels in model space.
            labels: int64 [B], ``classes`` for no class; None if, and only if, the network was built without classes.

        Raises:
            UsageError: for labels that are missing, or given to a network that knows no classes.
        """
        check_given("labels", labels, self.classes)
        h = self.first(x)
        if self.before is not None:
            h = h + self.before(x)
        h = self.positions(h)
        for layer in self.layers:
            h = layer(h, labels)
        out: Tensor = self.output(self.head(h), x)
        return out


class RowLayer(nn.Module):
    """x + up(LSTM(x)), figure 5; a label moves the gates."""

    def __init__(self, config: RowLSTMConfig, classes: int) -> None:
        super().__init__()
        h = config.hidden
        self.norm = make_norm(config.norm, 2 * h, 1)
        self.enter = BoxConv2d(2 * h, 4 * h, top=0, bottom=0, left=-(config.kernel // 2), right=0)
        self.classes = ClassBias(classes, 4 * h) if classes else None
        self.lstm = RowLSTM(h, config.kernel)
        self.up = MaskedConv2d(h, 2 * h, 1, mask="B")
        _open_forget_gates(self.enter, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, 2h, H, W], [B] or None -> [B, 2h, H, W]"""
        gates = self.enter(self.norm(x))
        if self.classes is not None:
            gates = gates + self.classes(labels)
        out: Tensor = self.up(self.lstm(gates).chunk(2, dim=1)[0])
        return x + out


class DiagonalLayer(nn.Module):
    """x + up(left(x) + right(x) moved down by one row); a label moves the gates."""

    def __init__(self, config: PixelRNNConfig, classes: int) -> None:
        super().__init__()
        h = config.hidden
        self.norm = make_norm(config.norm, 2 * h, 1)
        self.enter = MaskedConv2d(2 * h, 8 * h, 1, mask="B")
        self.classes = ClassBias(classes, 8 * h) if classes else None
        self.left, self.right = DiagonalLSTM(h), DiagonalLSTM(h, mirrored=True)
        self.down = Shift(down=1)
        self.up = MaskedConv2d(h, 2 * h, 1, mask="B")
        _open_forget_gates(self.enter, 2)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, 2h, H, W], [B] or None -> [B, 2h, H, W]"""
        gates = self.enter(self.norm(x))
        if self.classes is not None:
            gates = gates + self.classes(labels)
        left, right = gates.chunk(2, dim=1)
        h = self.left(left).chunk(2, dim=1)[0] + self.down(self.right(right).chunk(2, dim=1)[0])
        out: Tensor = self.up(h)
        return x + out


def _open_forget_gates(enter: BoxConv2d | MaskedConv2d, directions: int) -> None:
    """A bias of 1 lets a cell remember from the start (Jozefowicz et al. 2015)."""
    assert enter.bias is not None
    with torch.no_grad():
        enter.bias.view(directions, 4, -1)[:, 1] = 1
