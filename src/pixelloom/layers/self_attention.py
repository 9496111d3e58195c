"""Self-attention over the positions of an image, attention maps, and statistics of them.

    y_i = x_i + gamma sum_j w_ij v_j,   w_ij = softmax over j of (q_i . k_j)      (eq. 1 to 3)

without scaling of the scores, and with gamma = 0 at first: a network starts without attention, and q, k and v get no
gradient in the first step. They have Xavier initialization: with weights as small as those of the convolutions, the
attention maps would stay nearly uniform for many steps.

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
    """x + gamma * attention(x).

    Not computed by torch's fused kernel, which has no second derivative, as gradient penalties need it.

    Args:
        features: of x. Queries and keys have an eighth of them.
        style: "tutorial" attends to all positions, with as many features of values as of x. "paper" attends to a grid
            of half the sides, by 2x2 max pooling of keys and values; values have half the features, a 1x1 convolution
            restores them, and all four convolutions have spectral norm.
    """

    def __init__(self, features: int, style: Style = "tutorial") -> None:
        super().__init__()
        self.pool = style == "paper"
        narrow, wide = max(1, features // 8), max(1, features // 2) if self.pool else features
        self.query = nn.Conv2d(features, narrow, 1, bias=not self.pool)
        # No bias: it would add the same number to all scores of a query.
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
        # [B, H*W, keys] @ [B, keys, wide] -> [B, H*W, wide]; weights are not transposed: no copy of their gradient
        read = weights.to(values.dtype) @ values.mT
        out: Tensor = self.output(read.mT.reshape(len(x), -1, *x.shape[2:]))  # [B, H*W, wide] -> [B, wide, H, W]
        return x + self.gamma.to(out.dtype) * out

    def weights(self, x: Tensor) -> Tensor:
        """Attention weights: [B, features, H, W] -> [B, H*W, keys], at least fp32; each row sums to 1.

        Keys are in raster order, of the image or, in the paper's style, of the grid of half its sides.
        """
        queries = self.query(x).flatten(2)  # [B, narrow, H, W] -> [B, narrow, H*W]
        keys = self._attended(self.key(x)).flatten(2)  # [B, narrow, h, w] -> [B, narrow, h*w]
        scores: Tensor = queries.mT @ keys  # [B, H*W, h*w]
        return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))

    def _attended(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if self.pool else x


@contextmanager
def attention_maps(network: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect the attention maps of every :class:`SelfAttention` of a network in the forward passes inside ``with``.

    Yields:
        A list to which each pass through a layer appends (name, weights [B, H, W, h, w]); the map [b, y, x] has the
        weights of position (y, x) of image b and sums to 1.
    """
    maps: list[tuple[str, Tensor]] = []

    def record(name: str, layer: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, SelfAttention)
        size, training = given[0].shape[2:], layer.training
        attended = [side // 2 for side in size] if layer.pool else size
        # In training mode each use of a weight with spectral norm updates u and v; eval mode has the weight just used.
        layer.eval()
        with torch.no_grad():
            # [B, H*W, h*w] -> [B, H, W, h, w]
            maps.append((name, layer.weights(given[0]).reshape(-1, *size, *attended)))
        layer.train(training)

    hooks = [layer.register_forward_hook(partial(record, name)) for name, layer in attention_layers(network)]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


class AttentionStats(NamedTuple):
    """Statistics of an attention layer: it is inactive if gamma is 0, and uniform if the entropy is 1."""

    gamma: float
    entropy: float
    """Mean entropy of the attention maps relative to a uniform one, in [0, 1]."""


def attention_stats(network: nn.Module, maps: Sequence[tuple[str, Tensor]]) -> dict[str, AttentionStats]:
    """The statistics of each layer by name, from the maps that :func:`attention_maps` collected of the network."""
    stats = {}
    for name, layer in attention_layers(network):
        seen = [weights.flatten(3).double() for found, weights in maps if found == name]  # each [B, H, W, h*w]
        if seen:
            # Entropies, one per query: [B, H, W, h*w] -> [B, H, W] -> [B*H*W]
            nats = torch.cat([torch.special.entr(weights).sum(3).flatten() for weights in seen]).mean().item()
            stats[name] = AttentionStats(layer.gamma.item(), nats / math.log(seen[0].shape[3]))
    return stats


def attention_layers(network: nn.Module) -> list[tuple[str, SelfAttention]]:
    """The self-attention layers of a network, by name."""
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, SelfAttention)]
