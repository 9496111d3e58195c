"""MADE: an autoencoder whose weights are masked so that each output depends on earlier values only.

    h   = relu(b_1 + (W_1 * M_1) x)
    h'  = relu(b_2 + (W_2 * M_2) h)
    out = c + (V * M_V) h'  [+ (A * M_A) x]

A unit of degree d depends on the first d values. The paper assigns degrees to the units of a layer at random or in
turn. Here every pixel has the same number of units in each hidden layer, so that hidden layers are feature maps. The
first layer reads the pixels before its own (mask A); later layers read the units of these pixels and of their own
pixel (mask B). Every unit of a pixel thus depends on the pixels before it only.

The values are in raster order. Ordered channels of a pixel enter in the output
(:class:`pixelloom.layers.output.Output`).

With several orders (section 4.2) each training batch uses one at random, and p(x) is the mean of the probabilities
p_o(x) of the orders o (:mod:`pixelloom.models.order_ensemble`). An order is a permutation of the pixels. A unit belongs
to its pixel, so that
degrees and masks follow from the rank of the pixel in the order (section 4.3 resamples degrees for each mask). The
first order is raster order; the others are random, with a fixed seed.

Source: Germain, Gregor, Murray, Larochelle 2015, "MADE: Masked Autoencoder for Distribution Estimation", section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core import rng
from pixelloom.core.types import ImageSpec
from pixelloom.layers.blocks import Activation, make_activation
from pixelloom.layers.class_conditioning import ClassBias, check_given
from pixelloom.layers.masked_conv import Mask
from pixelloom.layers.output import Output
from pixelloom.layers.reads import HERE, Earlier, Read


class MADEConfig(BaseModel):
    """Configuration of a MADE. The number of weights grows with the square of the number of pixels: at 28x28 a hidden
    layer of one unit per pixel has 784 * 784 of them, and the output layer as many per parameter of a pixel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(1, ge=1, le=256, description="units per pixel in each hidden layer")
    layers: int = Field(1, ge=1, le=16, description="hidden layers")
    activation: Activation = Field("relu", description="of the hidden units")
    direct: bool = Field(False, description="connect the pixels to the output directly as well")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability of the hidden units")
    orders: int = Field(1, ge=1, le=1024, description="pixel orders that share the weights; p(x) is averaged over them")


class MADE(nn.Module):
    """Masked linear layers; see :class:`pixelloom.networks.protocols.PixelNetwork`.

    Each value has its own weights, so the image size is fixed. Class vectors are added before the activations.

    Attributes:
        orders: number of orders.
        order: the order in use; None for one at random per batch in training mode, and the first in eval mode.
    """

    def __init__(self, config: MADEConfig, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0) -> None:
        super().__init__()
        channels, height, width = spec.shape
        hidden, positions, self.ordered = config.hidden, height * width, groups > 1
        last = max(outputs, hidden) if self.ordered else outputs
        sizes = [channels] + [hidden] * config.layers
        self.orders, self.positions = config.orders, positions
        self.order: int | None = 0 if config.orders == 1 else None
        linear = partial(MaskedLinear, positions=positions, one=config.orders == 1)
        self.layers = nn.ModuleList(
            linear(size, hidden, mask="B" if number else "A") for number, size in enumerate(sizes[:-1])
        )
        self.last = linear(hidden, last, mask="B")
        self.direct = linear(channels, last, mask="A") if config.direct else None
        self.activate, self.dropout = make_activation(config.activation), nn.Dropout(config.dropout)
        self.classes = nn.ModuleList(ClassBias(classes, hidden) for _ in range(config.layers if classes else 0))
        self.output = Output(last, channels, outputs, groups) if self.ordered else nn.Identity()
        if not self.ordered:  # zero parameters predict a uniform, or for logistics nearly uniform, distribution
            for layer in (self.last, self.direct):
                if layer is not None:
                    nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]"""
        check_given("labels", labels, len(self.classes))
        order = self.order
        if order is None:
            order = int(torch.randint(self.orders, ())) if self.training else 0
        rank = self.sequence(order).argsort().to(x.device) if order else None
        # h = relu(b + (W * M) h), layer after layer
        h = x
        for number, layer in enumerate(self.layers):
            h = _through(layer, h, rank)
            if self.classes:
                h = h + self.classes[number](labels)
            h = self.dropout(self.activate(h))
        # out = c + (V * M_V) h [+ (A * M_A) x]
        out = _through(self.last, h, rank)
        if self.direct is not None:
            out = out + _through(self.direct, x, rank)
        if self.ordered:
            out = self.output(out, x)
        return out

    def sequence(self, order: int) -> Tensor:
        """The permutation of an order: the pixel at each rank, int64 [H*W]."""
        if not order:
            return torch.arange(self.positions)
        return torch.from_numpy(rng.permutation(self.positions, rng.Stream.ORDERS, order))

    def reorder(self, places: Tensor) -> None:
        """Permute the weights for pixels in the sequence ``places``, int64 [H*W], and use the first order.

        With ``places = sequence(k)``, order k (numbered from 0, the raster order) becomes raster order.
        """
        for layer in self.modules():
            if isinstance(layer, MaskedLinear):
                layer.reorder(places)
        self.order = 0


class MaskedLinear(nn.Module):
    """out[p] = bias[p] + sum over positions q < p of weight[p, q] x[q]; with mask B over q <= p.

    Every pair of positions has its own weights. The interface is that of attention, with weights that do not depend on
    queries and keys, so that the fast sampler treats it as attention.

    Args:
        in_features: features of the input.
        out_features: features of the output.
        positions: H * W.
        mask: "A" for the layer that reads the image, "B" for all others.
        one: whether there is a single order; it sets the fan-in of the initialization.
    """

    mask: Tensor

    def __init__(self, in_features: int, out_features: int, positions: int, *, mask: Mask, one: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features, self.own = in_features, out_features, mask == "B"
        seen = torch.ones(positions, positions, dtype=torch.bool).tril(0 if self.own else -1)
        # [positions, positions] -> [positions, 1, positions, 1], to multiply [positions, out, positions, in]
        self.register_buffer("mask", seen[:, None, :, None], persistent=False)
        # He et al. 2015, with the fan-in of each position; with several orders it varies, and its mean is used.
        read = seen.sum(1) if one else torch.full((positions,), positions // 2)
        inputs = (read * in_features).clamp(min=1).repeat_interleave(out_features)
        weight = torch.randn(positions * out_features, positions * in_features)
        self.weight = nn.Parameter(weight * (2 / inputs)[:, None].sqrt())
        self.bias = nn.Parameter(torch.zeros(positions * out_features))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three times [B, in, H, W], only the third is read -> [B, out, H, W]"""
        return self._product(value, self.mask)

    def ranked(self, value: Tensor, rank: Tensor) -> Tensor:
        """``forward`` with positions ordered by their rank, int64 [positions]."""
        seen = rank <= rank[:, None] if self.own else rank < rank[:, None]
        return self._product(value, seen[:, None, :, None])  # [positions, positions] -> [positions, 1, positions, 1]

    def _product(self, value: Tensor, seen: Tensor) -> Tensor:
        images, _, height, width = value.shape
        # [positions, out, positions, in] -> [positions * out, positions * in]
        weight = (self._weight * seen).flatten(2).flatten(0, 1)
        # [B, in, H, W] -> [B, H*W * in] -> [B, H*W * out] -> [B, out, H, W]
        out = F.linear(value.permute(0, 2, 3, 1).flatten(1), weight, self.bias)
        return out.view(images, height, width, self.out_features).permute(0, 3, 1, 2)

    @torch.no_grad()
    def reorder(self, places: Tensor) -> None:
        """Permute the positions: the weights of places[i] become those of i."""
        places = places.to(self.weight.device)
        # [positions, out, positions, in] -> [positions * out, positions * in]; [positions, out] -> [positions * out]
        self.weight.copy_(self._weight[places][:, :, places].reshape(self.weight.shape))
        self.bias.copy_(self.bias.view(len(places), -1)[places].flatten())

    @property
    def _weight(self) -> Tensor:
        """[positions * out, positions * in] -> [positions, out, positions, in]"""
        return self.weight.view(len(self.mask), self.out_features, len(self.mask), self.in_features)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """([B, n, in], [B, N, in], [B, N, in], [n, N] or None) -> [B, n, out]"""
        end = v.shape[1]
        bias = self.bias.view(-1, self.out_features)  # [positions, out]
        if allowed is None:  # all N are read: a single query, position N, or N - 1 with mask B
            # [B, N, in] -> [B, N * in], weight [out, N, in] -> [out, N * in], result [B, out] -> [B, 1, out]
            return F.linear(v.flatten(1), self._weight[end - self.own, :, :end].flatten(1), bias[end - self.own])[
                :, None
            ]
        places = allowed.sum(1) - int(self.own)
        weight = self._weight[places, :, :end] * allowed[:, None, :, None]  # [n, out, N, in]
        read = v.masked_fill(~allowed.any(0)[:, None], 0).flatten(1)  # [B, N * in]
        # [n, out, N, in] -> [n * out, N * in]
        out = F.linear(read, weight.flatten(2).flatten(0, 1), bias[places].flatten())
        return out.view(len(v), len(places), self.out_features)  # [B, n * out] -> [B, n, out]

    def single(self, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> Callable[[int, int], object]:
        """The product at one position, from the values [B, H*W, in] of all; out [B, out]. Views are made once."""
        # [B, H*W, in] -> [B, H*W * in], weight [positions, out, positions, in] -> [positions, out, positions * in]
        flat, weight, bias = values.flatten(1), self._weight.flatten(2), self.bias.view(-1, self.out_features)

        def product(first: int, end: int) -> None:
            place, read = end - self.own, end * self.in_features
            torch.addmm(bias[place], flat.narrow(1, 0, read), weight[place].narrow(1, 0, read).t(), out=out)

        return product

    def reads(self) -> tuple[Read, ...]:
        """All features of all earlier positions of the values; nothing of queries and keys."""
        nothing = torch.zeros(self.out_features, self.in_features, dtype=torch.bool)
        return Read(HERE, nothing), Read(Earlier(self.own), nothing, input=1), Read(Earlier(self.own), input=2)


def _through(layer: nn.Module, x: Tensor, rank: Tensor | None) -> Tensor:
    """Apply a layer in raster order, by its ``forward``, which the fast sampler traces, or in the order of a rank."""
    if rank is None:
        out: Tensor = layer(x, x, x)
        return out
    assert isinstance(layer, MaskedLinear)
    return layer.ranked(x, rank)
