"""Causal attention: each position attends to the positions before it in raster order.

    out[p] = sum over q before p of softmax_q(query[p] . key[q] / sqrt(d)) value[q]          in each head

With ``own`` a position attends to itself as well, which is not causal if keys and values at a position depend on its
pixel. Without ``own`` the first position has no keys, and its output is zero.

Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2, eq. 1; Su et al. 2021, "RoFormer" (rotary
positions).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.reads import HERE, Earlier, Kernel, Offsets, Read

BLOCK = 128  # queries per product: fewer make small matrices, more compute scores that the mask discards


class CausalAttention(nn.Module):
    """Queries, keys [B, heads * d, H, W] and values [B, heads * e, H, W] -> [B, heads * e, H, W].

    It has no weights; queries, keys and values are computed by the caller.

    Args:
        heads: number of attention heads, contiguous parts of the features.
        own: whether a position attends to itself as well.
        above: number of rows above its own that a position attends to, besides earlier positions of its row; None for
            all.
    """

    def __init__(self, heads: int = 1, *, own: bool, above: int | None = None) -> None:
        super().__init__()
        self.heads, self.where = heads, Earlier(own, above)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """([B, heads * d, H, W], the same, [B, heads * e, H, W]) -> [B, heads * e, H, W]"""
        height, width = query.shape[2:]
        # [B, features, H, W] -> [B, H*W, features], no copy in channels_last memory
        q, k, v = (x.permute(0, 2, 3, 1).flatten(1, 2) for x in (query, key, value))
        if self.where.above is None and not _slow_to_differentiate(q):
            out = self._all(q, k, v)
        else:
            rows = max(1, BLOCK // width)
            blocks = (self._rows(q, k, v, y, min(y + rows, height), width) for y in range(0, height, rows))
            out = torch.cat(list(blocks), dim=1)
        # [B, H*W, heads * e] -> [B, heads * e, H, W]
        return out.view(len(out), height, width, out.shape[2]).permute(0, 3, 1, 2)

    def reads(self) -> tuple[Read, ...]:
        """The query at the same position, keys and values at the earlier ones."""
        return Read(HERE), Read(self.where, input=1), Read(self.where, input=2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """Attend from some positions to others -> [B, n, heads * e].

        Args:
            q: queries [B, n, heads * d].
            k: keys [B, N, heads * d].
            v: values [B, N, heads * e].
            allowed: the keys that each query attends to, bool [n, N]; None for all. A query without keys gets zeros.
        """
        out = self._heads(q, k, v, allowed)
        return out if allowed is None else out.masked_fill(~allowed.any(1)[:, None], 0)

    def single(self, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> Callable[[int, int], object]:
        """Attention of one position, whose keys grow from step to step; views are made once.

        Args:
            q: its queries [B, heads * d].
            keys: of all positions, [B, H*W, heads * d].
            values: of all positions, [B, H*W, heads * e].
            out: where the result is put, [B, heads * e].

        Returns:
            A function of the range of positions to attend to.
        """
        h = self.heads
        # [B, n, heads * d] -> [B, heads, n, d]
        q4, k4, v4, out4 = (
            x.view(*x.shape[:2], h, x.shape[2] // h).transpose(1, 2) for x in (q[:, None], keys, values, out[:, None])
        )
        if q4.shape[3] == v4.shape[3]:
            return partial(_fused_single, q4, k4, v4, out4)
        # Per head [B, n, d], views without a copy
        heads = list(zip(*(x.unbind(1) for x in (q4, k4.mT, v4, out4)), strict=True))
        return partial(_explicit_single, heads, q.new_zeros(1))

    def _all(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.where.own:
            return self._heads(q, k, v, causal=True)
        # Query i over keys j < i is causal attention of queries 1.. over keys 0..n-2; the first output is zero.
        return F.pad(self._heads(q[:, 1:], k[:, :-1], v[:, :-1], causal=True), (0, 0, 1, 0))

    def _rows(self, q: Tensor, k: Tensor, v: Tensor, start: int, end: int, width: int) -> Tensor:
        """Attention of the queries of rows ``start`` to ``end`` over the keys that any of them reads."""
        size = end, width
        first, last = self.where.span((start, 0), size)[0], self.where.span((end - 1, width - 1), size)[1]
        last = max(last, first + 1)  # at least one key, for a block of the first position only; it is masked
        i = torch.arange(start * width, end * width, device=q.device)[:, None]
        j = torch.arange(first, last, device=q.device)
        allowed = j < i + self.where.own
        if self.where.above is not None:
            allowed &= j >= (i // width - self.where.above) * width
        return self.attend(q[:, start * width : end * width], k[:, first:last], v[:, first:last], allowed)

    def _heads(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None, causal: bool = False) -> Tensor:
        h = self.heads
        # [B, n, heads * d] -> [B, heads, n, d]
        q, k, v = (x.view(*x.shape[:2], h, x.shape[2] // h).transpose(1, 2) for x in (q, k, v))
        d, e, n = q.shape[3], v.shape[3], q.shape[2]
        if (d != e and n == 1) or (_slow_to_differentiate(q) and not causal):
            return _explicit(q, k, v, allowed).transpose(1, 2).flatten(2)  # [B, heads, n, e] -> [B, n, heads * e]
        if d != e:  # fused kernels need d = e; without them all attention weights are stored
            q, k, v = (F.pad(x, (0, max(d, e) - x.shape[3])) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, allowed, is_causal=causal, scale=d**-0.5)
        return out[..., :e].transpose(1, 2).flatten(2)  # [B, heads, n, e] -> [B, n, heads * e]


def _slow_to_differentiate(x: Tensor) -> bool:
    """Whether the fused kernel is slow: its bf16 gradient on a CPU takes three times as long as explicit products."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.requires_grad


def _explicit(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(d)) v (eq. 1): [B, heads, n, d], [B, heads, N, d], [B, heads, N, e] -> [B, heads, n, e]"""
    masked = q.new_zeros(1)
    if allowed is not None:
        masked = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, torch.finfo(q.dtype).min)
    # [B, heads, n, d] -> [B * heads, n, d], and the product back again
    scores = torch.baddbmm(masked, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=q.shape[3] ** -0.5)
    return (scores.softmax(-1) @ v.flatten(0, 1)).view(*q.shape[:3], v.shape[3])


def _fused_single(q: Tensor, k: Tensor, v: Tensor, out: Tensor, first: int, end: int) -> None:
    """The fused kernel over keys first .. end - 1; all tensors [B, heads, n, d]."""
    if end <= first:
        out.zero_()
        return
    k, v = k.narrow(2, first, end - first), v.narrow(2, first, end - first)
    out.copy_(F.scaled_dot_product_attention(q, k, v, scale=q.shape[3] ** -0.5))


def _explicit_single(heads: list[tuple[Tensor, Tensor, Tensor, Tensor]], zero: Tensor, first: int, end: int) -> None:
    """Eq. 1 over keys first .. end - 1; per head q [B, 1, d], transposed keys [B, d, N], values [B, N, e], and out."""
    for q, k, v, out in heads:
        if end <= first:
            out.zero_()
            continue
        scores = torch.baddbmm(zero, q, k.narrow(2, first, end - first), alpha=q.shape[2] ** -0.5)
        torch.bmm(scores.softmax(-1), v.narrow(1, first, end - first), out=out)


class PixelBefore(nn.Module):
    """out[i] = bias + weight x[i - 1] in raster order, the shifted input of a decoder; out[0] = bias.

    The pixel before the first one of a row is the last one of the row above.

    Args:
        in_features: features of the input.
        out_features: features of the output.
        width: of the image.
    """

    def __init__(self, in_features: int, out_features: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.normal_(self.weight, std=in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H, W]"""
        # [B, in, H, W] -> [B, in, H*W], shifted by one position, -> [B, in, H, W]
        before = F.pad(x.flatten(2), (1, -1)).view(x.shape)
        return F.conv2d(before, self.weight[:, :, None, None], self.bias)

    def reads(self) -> tuple[Read, ...]:
        """All features on the left or, in the first column, of the last position of the row above."""
        return (Read(Offsets(tuple(self.kernel().taps))),)

    def kernel(self) -> Kernel:
        """The same weights for both taps."""
        # [out, in] -> [2 taps, in, out]
        return Kernel(((-1, self.width - 1), (0, -1)), self.weight.T.expand(2, -1, -1), self.bias)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class Rotary(nn.Module):
    """Rotary positions: rotate pairs of features by angles proportional to the row (half of the pairs) or the column.

    The inner product of a query and a key then depends on the offset of their positions: (R_p q) . (R_s k) =
    q . R_{s-p} k.

    Source: Su et al. 2021, "RoFormer", eq. 34, for two axes. Unlike in the paper, feature i is paired with feature
    i + d/2, and the angles per position are pi / side^t, t from 0 to 1, instead of 10000^(-2i/d).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, features: int, heads: int, spec: ImageSpec) -> None:
        super().__init__()
        self.parts = 2 * heads
        pairs = features // heads // 2
        # From half a turn per position down to half a turn over the whole image.
        rates = torch.pi * max(spec.height, spec.width) ** -torch.linspace(0, 1, pairs // 2, dtype=torch.float64)
        rows, columns = (rates[:, None] * torch.arange(side) for side in (spec.height, spec.width))
        # [pairs / 2, H] -> [pairs / 2, H, W] and [pairs / 2, W] -> [pairs / 2, H, W]
        angles = torch.cat(
            (rows[:, :, None].expand(-1, -1, spec.width), columns[:, None, :].expand(-1, spec.height, -1))
        )
        self.register_buffer("cos", angles.cos().float().repeat(heads, 1, 1), persistent=False)
        self.register_buffer("sin", angles.sin().float().repeat(heads, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same; the first half of each head is paired with the second."""
        parts = x.chunk(self.parts, dim=1)
        a, b = torch.cat(parts[::2], dim=1), torch.cat(parts[1::2], dim=1)
        # Eq. 34: (a, b) -> (a cos - b sin, a sin + b cos)
        a, b = a * self.cos - b * self.sin, a * self.sin + b * self.cos
        heads = self.parts // 2
        return torch.cat([half for pair in zip(a.chunk(heads, 1), b.chunk(heads, 1), strict=True) for half in pair], 1)
