"""Self-attention over the positions of an image, its maps, and what tells whether it does anything.

    y_i = x_i + gamma sum_j w_ij v_j,   w_ij = softmax over j of (q_i . k_j)

with no scaling of the scores, and gamma = 0 at first: a network starts without attention and q, k and v get no gradient
at the first step. They start by Xavier; from weights as small as the convolutions' every w_ij would be about 1 / keys,
and the map as good as uniform for long.

Source: Zhang et al. 2019, "Self-Attention Generative Adversarial Networks", section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.spectral_norm import spectral

Style = Literal["tutorial", "paper"]


class SelfAttention(nn.Module):
    """x + gamma * attention(x): [B, features, H, W] -> same.

    Written out instead of by torch's fused kernel, which has no second derivative for a penalty on a gradient.

    Args:
        features: of x. Queries and keys have an eighth of them.
        style: "tutorial" attends to all positions, with values as wide as x. "paper" attends to the positions of a grid
            of half the sides, keys and values being the largest of each 2x2 square; values are half as wide, a 1x1
            convolution widens them, and all four convolutions are under spectral norm.
    """

    def __init__(self, features: int, style: Style = "tutorial") -> None:
        super().__init__()
        self.pool = style == "paper"
        narrow, wide = max(1, features // 8), max(1, features // 2) if self.pool else features
        self.query = nn.Conv2d(features, narrow, 1, bias=not self.pool)
        # No bias: the same number on all scores of a query changes none of its weights.
        self.key = nn.Conv2d(features, narrow, 1, bias=False)
        self.value = nn.Conv2d(features, wide, 1, bias=not self.pool)
        self.output = nn.Conv2d(wide, features, 1, bias=False) if self.pool else nn.Identity()
        for layer in self.children():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
                if self.pool:
                    spectral(layer)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        values = self._attended(self.value(x)).flatten(2)  # [B, wide, keys]
        weights = self.weights(x)
        # [B, H W, wide]: the weights as they lie in memory, so that their gradient comes like that and is not copied.
        read = weights.to(values.dtype) @ values.mT
        out: Tensor = self.output(read.mT.reshape(len(x), -1, *x.shape[2:]))
        return x + self.gamma.to(out.dtype) * out

    def weights(self, x: Tensor) -> Tensor:
        """What each position attends to: [B, features, H, W] -> [B, H W, keys], each row summing to 1, at least fp32.

        Keys are in raster order, of the image or, in the paper's style, of the grid of half its sides.
        """
        queries = self.query(x).flatten(2)
        keys = self._attended(self.key(x)).flatten(2)
        scores: Tensor = queries.mT @ keys
        return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))

    def _attended(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if self.pool else x


@contextmanager
def attention_maps(network: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect what every :class:`SelfAttention` of a network attends to while it is run inside ``with``.

    Yields:
        A list that grows by (name, weights [B, H, W, h, w]) at each pass through a layer, in order; map [b, y, x] sums
        to 1 and says where position (y, x) of image b looks.
    """
    maps: list[tuple[str, Tensor]] = []

    def record(name: str, layer: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, SelfAttention)
        size, training = given[0].shape[2:], layer.training
        attended = [side // 2 for side in size] if layer.pool else size
        # In training mode, using a weight under spectral norm moves its buffers; in eval mode it is the one just used.
        layer.eval()
        with torch.no_grad():
            maps.append((name, layer.weights(given[0]).reshape(-1, *size, *attended)))
        layer.train(training)

    hooks = [layer.register_forward_hook(partial(record, name)) for name, layer in attention_layers(network)]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


class AttentionStats(NamedTuple):
    """Whether a layer's attention does anything: it does not while gamma is 0, nor tell places apart at entropy 1."""

    gamma: float
    entropy: float
    """Mean entropy of its maps over that of a uniform one, in [0, 1]."""


def attention_stats(network: nn.Module, maps: Sequence[tuple[str, Tensor]]) -> dict[str, AttentionStats]:
    """The figures of each layer by name, from maps that :func:`attention_maps` collected of the same network."""
    figures = {}
    for name, layer in attention_layers(network):
        seen = [weights.flatten(3).double() for found, weights in maps if found == name]
        if seen:
            nats = torch.cat([torch.special.entr(weights).sum(3).flatten() for weights in seen]).mean().item()
            figures[name] = AttentionStats(layer.gamma.item(), nats / math.log(seen[0].shape[3]))
    return figures


def attention_layers(network: nn.Module) -> list[tuple[str, SelfAttention]]:
    """The layers of attention of a network, by name."""
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, SelfAttention)]
