"""The integer head of a discretized mixture of logistics; see :mod:`pixelloom.heads.logistic_mixture`.

With mean m, raw coefficients and log s relative to the intervals of the components, all integers with exponents, the
distribution function of component k at the lower edge of level v is sigmoid(z) with

    z = n exp(-log s) / ((L - 1) 2^16)
    n = 2^16 M (2 v - 1) - (L - 1) (M m + (2 k + 1)) 2^16 - sum over channels before: M tanh(raw) (2 x - L + 1) 2^16

for M components and levels x of the channels before. n is an integer without rounding, since m and tanh(raw) have at
most 16 fractional bits. exp(-log s) / (L - 1) comes from a table with 32 fractional bits; z is rounded to 22, and
sigmoid is interpolated linearly between the entries of a table in steps of 2^-10, to 32 bits. The error is below 2^-26.

Weights of components are shares w_k: integers with a sum of at most 2^20. The sums of weights of levels are

    C_v = ((sum over k of w_k sigmoid(z_k(v)) 2^32) >> 23) + v
    C_0 = 0,    C_v = ((sum over k of w_k) << 9) + v for v >= L

After a channel, the shares follow from w_k (sigmoid(z_k(x + 1)) - sigmoid(z_k(x))) 2^32 + 1. All integers lie below
2^53.

With more than 32 levels a value is coded as two symbols, v >> 4 and then v & 15, so that a decoder needs C at 32 edges
and not at all 256. The first has the sums C_16, C_32, .., the second those of its 16 levels, less C at the first level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pixelloom.codec.coder import Decoder, Encoder
from pixelloom.codec.head_parts import Intervals, by_rows, encode_by_symbols, exponent_for, integers, whole_numbers
from pixelloom.codec.tables import (
    EXPONENTS,
    counts,
    cumulative,
    exponential_table,
    scale_table,
    sigmoid_table,
    tanh_table,
)
from pixelloom.core.errors import ModelError
from pixelloom.heads.logistic_mixture import LOG_SCALES

_POSITION = 16  # fractional bits of n
_SCALE = 32  # of 1 / s
_ARGUMENT = 22  # of z
_STEP = 10  # of the table of sigmoids
_SIGMOID = 32
_SHARE = 20
_SUM = 23  # bits dropped from sums of w F, so that C_L <= 2^29
_WIDTH = 16  # levels of the second symbol
_WIDEST = 13  # bound of |log s|; exp(13) 2^32 < 2^51


@dataclass(frozen=True)
class IntegerLogistics:
    """A mixture of logistics with ordered channels, in integers.

    Attributes:
        channels: C.
        levels: L.
        mixtures: M.
        weights, means, log_scales, coefficients: number of fractional bits of each kind of parameter.
        narrowest, widest: bounds of integer log s.
    """

    channels: int
    levels: int
    mixtures: int
    weights: int
    means: int
    log_scales: int
    coefficients: int
    narrowest: int
    widest: int

    @classmethod
    def fitted(cls, channels: int, levels: int, mixtures: int, max_abs: Tensor, bits: int) -> IntegerLogistics:
        """Choose exponents for the largest magnitudes of the parameters, [parameters].

        The others may be clamped: log s at the bounds of the float head, tanh at 1 - 2^-17, and means at 8, far from
        the intensities, which are -1 to 1.
        """
        c, low, high = channels, LOG_SCALES[0] + math.log(mixtures), LOG_SCALES[1] + math.log(mixtures)
        # [parameters] -> [parameters / M]: weights, C means, C log scales, C (C - 1) / 2 coefficients
        most = max_abs.double().reshape(-1, mixtures).amax(1).tolist()
        scale = exponent_for(min(max(most[1 + c : 1 + 2 * c]), high), bits, 10)
        return cls(
            channels,
            levels,
            mixtures,
            weights=exponent_for(most[0], bits, 10),
            means=exponent_for(min(max(most[1 : 1 + c]), 7.9), bits, 12),
            log_scales=scale,
            coefficients=exponent_for(min(max(most[1 + 2 * c :], default=0.0), 6.0), bits, 10),
            narrowest=round(low * 2**scale),
            widest=round(high * 2**scale),
        )

    @property
    def parameters(self) -> int:
        """M (1 + 2 C + C (C - 1) / 2)."""
        return self.mixtures * len(self.kinds)

    @property
    def width(self) -> int:
        """Levels that share the first symbol: 16, or 1 if there is no second symbol."""
        return _WIDTH if self.levels > 2 * _WIDTH else 1

    @property
    def symbols(self) -> int:
        """Number of coded symbols of one draw: C, or 2 C with more than 32 levels."""
        return self.channels * (2 if self.width > 1 else 1)

    @property
    def exponents(self) -> Tensor:
        """Fractional bits of each parameter, int64 [parameters]."""
        return torch.tensor(self.kinds).repeat_interleave(self.mixtures)

    def edges(self, logits: Tensor, levels: Tensor) -> Intervals:
        """The intervals of levels uint8 [N, C] under integer logits [N, parameters], int64 [N, symbols]."""
        rows, level = integers(logits, self.parameters), levels.cpu().long()

        def of(some: slice) -> Intervals:
            pixel, found = _Pixel(self, rows[some]), []
            for channel, own in enumerate(level[some].unbind(1)):
                found.extend(pixel.intervals(own))
                if channel < self.channels - 1:
                    pixel.fix(own)
            below, count = zip(*found, strict=True)
            return torch.stack(below, dim=1), torch.stack(count, dim=1)

        return by_rows(of, len(rows), 8 * self.mixtures)

    def encode(self, logits: Tensor, levels: Tensor, coder: Encoder) -> None:
        """Encode levels uint8 [N, C], channel by channel."""
        encode_by_symbols(self.edges(logits, levels), coder)

    def decode(self, logits: Tensor, coder: Decoder) -> Tensor:
        """Decode levels uint8 [N, C]."""
        pixel, levels = _Pixel(self, integers(logits, self.parameters)), []
        for channel in range(self.channels):
            levels.append(pixel.decode(coder))
            if channel < self.channels - 1:
                pixel.fix(levels[-1].long())
        return torch.stack(levels, dim=1)

    def stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Fields for an export; there are no tensors, because tables follow from the fields."""
        return {"kind": "logistics", **vars(self)}, {}

    @classmethod
    def load(cls, json: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> IntegerLogistics:
        """Read the fields of an export.

        Raises:
            ModelError: naming a field that is not valid.
        """
        most = _WIDEST << EXPONENTS[1]
        bounds = {
            "channels": (1, 16),
            "levels": (2, 256),
            "mixtures": (1, 256),
            "weights": EXPONENTS,
            "means": EXPONENTS,
            "log_scales": EXPONENTS,
            "coefficients": EXPONENTS,
            "narrowest": (-most, -1),
            "widest": (0, most),
        }
        head = cls(*whole_numbers("logistics", json, tensors, **bounds))
        for name, bound in (("narrowest", -head.narrowest), ("widest", head.widest)):
            if bound > _WIDEST << head.log_scales:
                raise ModelError(f"head.{name}: log s must be within {_WIDEST}; export the model again")
        return head

    @property
    def kinds(self) -> list[int]:
        """Exponents of the groups of M parameters."""
        c = self.channels
        pairs = c * (c - 1) // 2
        return [self.weights, *[self.means] * c, *[self.log_scales] * c, *[self.coefficients] * pairs]


class _Pixel:
    """The distribution of the next channel of N pixels, given the levels of the channels before.

    Args:
        head: the head.
        rows: integer logits, int64 [N, parameters].
    """

    def __init__(self, head: IntegerLogistics, rows: Tensor) -> None:
        self.head, c = head, head.channels
        # [N, parameters] -> parameters / M tensors [N, M]
        logits, *rest = rows.view(len(rows), len(head.kinds), head.mixtures).unbind(1)
        table = exponential_table(head.weights)
        distance = (logits.amax(1, keepdim=True) - logits).clamp(max=len(table) - 1)
        self.shares = _shares(table[distance].long())
        centers = 2 * torch.arange(head.mixtures) + 1 << _POSITION
        fine = _POSITION - head.means
        self.means = [(head.levels - 1) * ((head.mixtures * mean << fine) + centers) for mean in rest[:c]]
        scales = scale_table(head.log_scales, head.narrowest, head.widest, head.levels - 1)
        self.scales = [
            scales[log_scale.clamp(head.narrowest, head.widest) - head.narrowest] for log_scale in rest[c : 2 * c]
        ]
        tanh = tanh_table(head.coefficients, _POSITION)
        end = len(tanh) // 2
        found = [head.mixtures * tanh[raw.clamp(-end, end) + end] for raw in rest[2 * c :]]
        self.coefficients = [found[i * (i - 1) // 2 : i * (i + 1) // 2] for i in range(c)]
        self.channel = 0

    def intervals(self, level: Tensor) -> list[Intervals]:
        """Below and count, int64 [N] both, of each symbol of levels int64 [N]."""
        width, every = self.head.width, slice(None)
        start = level - level % width
        # [N] -> [N, 5] edges -> sums [N, 5]
        edges = torch.stack((start, start + width, level, level + 1, torch.full_like(level, self._end())), dim=1)
        first, after, low, high, total = self._sums(edges[:, None], every).unbind(1)
        below = cumulative(first, total, start // width, self._end() // width)
        found = [(below, cumulative(after, total, start // width + 1, self._end() // width) - below)]
        if width > 1:
            below = cumulative(low - first, after - first, level - start, width)
            found.append((below, cumulative(high - first, after - first, level - start + 1, width) - below))
        return found

    def decode(self, coder: Decoder) -> Tensor:
        """Levels of the next channel, uint8 [N]."""
        width, end = self.head.width, self._end()
        coarse = torch.arange(width, end + 1, width)
        symbols = coder.decode(self._counts(coarse.expand(len(self.shares), 1, -1)))
        if width == 1:
            return symbols
        fine = symbols.long()[:, None, None] * width + torch.arange(width + 1)  # [N, 1, width + 1]
        level = symbols.int() * width + coder.decode(self._counts(fine, from_first=True))
        return level.clamp(max=self.head.levels - 1).to(torch.uint8)  # damaged payloads only

    def _counts(self, edges: Tensor, *, from_first: bool = False) -> Tensor:
        """Counts between edges int64 [N, 1, K], the first of which is 0 if it is not given: int64 [N, K or K - 1]."""
        n, step = len(edges), max(1, (1 << 16) // (edges.shape[2] * self.head.mixtures))
        sums = torch.cat([self._sums(edges[i : i + step], slice(i, i + step)) for i in range(0, max(n, 1), step)])
        return counts(sums[:, 1:] - sums[:, :1] if from_first else sums)

    def fix(self, level: Tensor) -> None:
        """Go on to the next channel, given levels int64 [N] of this one."""
        low, high = self._below(level[:, None, None] + torch.arange(2), slice(None)).unbind(2)  # [N, M, 2]
        self.shares = _shares(self.shares * (high - low) + 1)
        intensity = (2 * level - self.head.levels + 1)[:, None]
        self.channel += 1
        for later in range(self.channel, self.head.channels):
            self.means[later] = self.means[later] + self.coefficients[later][self.channel - 1] * intensity

    def _below(self, level: Tensor, some: slice) -> Tensor:
        """sigmoid(z) 2^32 at the lower edges of levels int64 [n, 1, K] of a slice of n pixels, int64 [n, M, K].

        It is 0 for level 0 and 2^32 for L and more.
        """
        table, slope = _sigmoids()
        end = len(table) // 2
        scale = self.scales[self.channel][some, :, None]  # [n, M, 1]
        at = (2 * level - 1) * (self.head.mixtures << _POSITION) - self.means[self.channel][some, :, None]
        # |at * scale| <= end 2^38 < 2^52.6; beyond, sigmoid is 0 or 1
        limit = (end << _POSITION + _SCALE - _STEP) // scale
        at = torch.minimum(torch.maximum(at, -limit), limit)
        drop = _POSITION + _SCALE - _ARGUMENT
        z = at.mul_(scale).add_(1 << drop - 1).bitwise_right_shift_(drop).add_(end << _ARGUMENT - _STEP)
        entry, rest = z >> _ARGUMENT - _STEP, z.bitwise_and_((1 << _ARGUMENT - _STEP) - 1)
        flat = entry.flatten()
        rise = slope.index_select(0, flat).view_as(z).mul_(rest).add_(1 << _ARGUMENT - _STEP - 1)
        rise.bitwise_right_shift_(_ARGUMENT - _STEP).add_(table.index_select(0, flat).view_as(z))
        return rise.masked_fill_(level <= 0, 0).masked_fill_(level >= self.head.levels, 1 << _SIGMOID)

    def _sums(self, level: Tensor, some: slice) -> Tensor:
        """C at levels int64 [n, 1, K] of a slice of n pixels, int64 [n, K]."""
        shares = self.shares[some, :, None]  # [n, M, 1]
        return ((shares * self._below(level, some)).sum(1) >> _SUM) + level[:, 0]

    def _end(self) -> int:
        """L, rounded up to a multiple of the width; levels from L on have a weight of 1, and no value has them."""
        return -(-self.head.levels // self.head.width) * self.head.width


def _sigmoids() -> tuple[Tensor, Tensor]:
    """The table, and the differences of neighboring entries, both int64."""
    table = sigmoid_table(_STEP, _SIGMOID)
    return table, torch.diff(table, append=table[-1:])


def _shares(weights: Tensor) -> Tensor:
    """Weights int64 [N, M] with a sum of 1 .. 2^53 - 1 to integers with a sum of at most 2^20, int64 [N, M].

    w 2^20 // sum(w), with as many low bits of w dropped at first that the sum has at most 31. The largest share is at
    least 2^20 / M - 2.
    """
    _, bits = torch.frexp(weights.sum(1, keepdim=True).double())  # number of bits of an integer below 2^53
    weights = weights >> (bits.long() - 31).clamp_min(0)
    return (weights << _SHARE) // weights.sum(1, keepdim=True)
