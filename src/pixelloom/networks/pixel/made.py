"""MADE: an autoencoder whose weights are masked so that each output reads the values before it only.

    h   = relu(b_1 + (W_1 * M_1) x)
    h'  = relu(b_2 + (W_2 * M_2) h)
    out = c + (V * M_V) h'  [+ (A * M_A) x]

A unit of degree d knows the first d values; the paper gives the units of a layer degrees at random or in turn. Here
each pixel has the same number of units, those that know the pixels before it, so that hidden layers are features at
positions like those of any other network: the first layer reads the pixels before (mask A), the others the units of the
pixels before and of the same one (mask B).

The values come in raster order. Where the channels of a pixel are ordered, they are joined in the output
(:class:`pixelloom.layers.output.Output`).

With several orders (section 4.2) one is drawn for each batch in training, and the model is the mean of all of them
(:mod:`pixelloom.models.order_ensemble`). In the k-th order pixels come in another sequence; a unit stays with its pixel, so its
degree, and with it all masks, follow from the place of the pixel in the sequence (section 4.3 has degrees drawn anew
for each mask). The first order is raster order, the others are random, and the same everywhere.

Source: Germain, Gregor, Murray, Larochelle 2015, "MADE: Masked Autoencoder for Distribution Estimation", section 4.
"""

from __future__ import annotations

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
    """What a MADE looks like. Weights grow with the square of the number of pixels: at 28x28 a hidden layer of one unit
    for each pixel has 784 * 784 of them, and its output as many for each parameter of a pixel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(1, ge=1, le=256, description="units of each hidden layer for each pixel")
    layers: int = Field(1, ge=1, le=16, description="hidden layers")
    activation: Activation = Field("relu", description="of the hidden units")
    direct: bool = Field(False, description="connect the pixels to the output as well")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the hidden units")
    orders: int = Field(1, ge=1, le=1024, description="orders of the pixels that share the weights and are averaged")


class MADE(nn.Module):
    """[B, C, H, W] pixels in model space -> [B, outputs, H, W] parameters, output position i reading pixels before i.

    Args:
        config: the layers.
        spec: the images; their size is fixed, each value has weights of its own.
        outputs: parameters a position, all image channels together; the head knows how many it needs.
        groups: image channels that are ordered within a pixel, or 1 if a pixel's channels do not see each other.
        classes: how many there are; 0 for a network that is not told any. A label moves the hidden units.
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
        if not self.ordered:  # the first prediction is uniform
            for layer in (self.last, self.direct):
                if layer is not None:
                    nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]

        Args:
            x: pixels in model space.
            labels: int64 [B], ``classes`` for no class; None if, and only if, the network was built without classes.

        Raises:
            UsageError: for labels that are missing, or given to a network that knows no classes.
        """
        check_given("labels", labels, len(self.classes))
        order = self.order
        if order is None:
            order = int(torch.randint(self.orders, ())) if self.training else 0
        rank = self.sequence(order).argsort().to(x.device) if order else None
        h = x
        for number, layer in enumerate(self.layers):
            h = _through(layer, h, rank)
            if self.classes:
                h = h + self.classes[number](labels)
            h = self.dropout(self.activate(h))
        out = _through(self.last, h, rank)
        if self.direct is not None:
            out = out + _through(self.direct, x, rank)
        if self.ordered:
            out = self.output(out, x)
        return out

    def sequence(self, order: int) -> Tensor:
        """The pixels in the sequence of an order, int64 [H * W]: as they are, or sorted by bits that its number gives.

        Attributes ``orders`` and ``order`` tell how many there are, and to which one the network keeps; None for one
        drawn for each batch in training, and the first otherwise.
        """
        if not order:
            return torch.arange(self.positions)
        return torch.from_numpy(rng.permutation(self.positions, rng.Stream.ORDERS, order))

    def reorder(self, places: Tensor) -> None:
        """Take the pixels in another sequence, in which the order that the network keeps to is raster order."""
        for layer in self.modules():
            if isinstance(layer, MaskedLinear):
                layer.reorder(places)
        self.order = 0


class MaskedLinear(nn.Module):
    """out[p] = bias[p] + sum of weight[p, q] x[q] over all positions q before p; with mask B over p itself too.

    Every pair of positions has weights of its own. It is an attention whose weights were learned for each place instead
    of being asked for, and is called and run like one: query and keys are not read.

    Args:
        in_features: features of the input.
        out_features: features of the output.
        positions: of the image, H * W.
        mask: "A" for the layer that reads the image, "B" for all others.
        one: whether positions come in one order only; it decides how many inputs each starts out for.
    """

    mask: Tensor

    def __init__(self, in_features: int, out_features: int, positions: int, *, mask: Mask, one: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features, self.own = in_features, out_features, mask == "B"
        seen = torch.ones(positions, positions, dtype=torch.bool).tril(0 if self.own else -1)
        self.register_buffer("mask", seen[:, None, :, None], persistent=False)
        # As many inputs as are read, position by position (He et al. 2015).
        read = seen.sum(1) if one else torch.full((positions,), positions // 2)
        inputs = (read * in_features).clamp(min=1).repeat_interleave(out_features)
        weight = torch.randn(positions * out_features, positions * in_features)
        self.weight = nn.Parameter(weight * (2 / inputs)[:, None].sqrt())
        self.bias = nn.Parameter(torch.zeros(positions * out_features))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three times [B, in, H, W], of which the third is read -> [B, out, H, W]"""
        return self._product(value, self.mask)

    def ranked(self, value: Tensor, rank: Tensor) -> Tensor:
        """The same where "before" means of a lower rank, int64 [positions]."""
        seen = rank <= rank[:, None] if self.own else rank < rank[:, None]
        return self._product(value, seen[:, None, :, None])

    def _product(self, value: Tensor, seen: Tensor) -> Tensor:
        images, _, height, width = value.shape
        weight = (self._weight * seen).flatten(2).flatten(0, 1)
        out = F.linear(value.permute(0, 2, 3, 1).flatten(1), weight, self.bias)
        return out.view(images, height, width, self.out_features).permute(0, 3, 1, 2)

    @torch.no_grad()
    def reorder(self, places: Tensor) -> None:
        """Take the positions in another sequence: what belonged to places[i] belongs to i."""
        places = places.to(self.weight.device)
        self.weight.copy_(self._weight[places][:, :, places].reshape(self.weight.shape))
        self.bias.copy_(self.bias.view(len(places), -1)[places].flatten())

    @property
    def _weight(self) -> Tensor:
        """[positions, out, positions, in]"""
        return self.weight.view(len(self.mask), self.out_features, len(self.mask), self.in_features)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """([B, n, in], [B, N, in], [B, N, in], [n, N] or None) -> [B, n, out]"""
        end = v.shape[1]
        bias = self.bias.view(-1, self.out_features)
        if allowed is None:  # all N are read: there is only one such position
            return F.linear(v.flatten(1), self._weight[end - self.own, :, :end].flatten(1), bias[end - self.own])[
                :, None
            ]
        places = allowed.sum(1) - int(self.own)
        weight = self._weight[places, :, :end] * allowed[:, None, :, None]
        read = v.masked_fill(~allowed.any(0)[:, None], 0).flatten(1)
        out = F.linear(read, weight.flatten(2).flatten(0, 1), bias[places].flatten())
        return out.view(len(v), len(places), self.out_features)

    def reads(self) -> tuple[Read, ...]:
        """All features of all positions before, nothing of the query or the keys."""
        nothing = torch.zeros(self.out_features, self.in_features, dtype=torch.bool)
        return Read(HERE, nothing), Read(Earlier(self.own), nothing, input=1), Read(Earlier(self.own), input=2)


def _through(layer: nn.Module, x: Tensor, rank: Tensor | None) -> Tensor:
    """In raster order by the layer as it stands, which a sampler can follow."""
    if rank is None:
        out: Tensor = layer(x, x, x)
        return out
    assert isinstance(layer, MaskedLinear)
    return layer.ranked(x, rank)
