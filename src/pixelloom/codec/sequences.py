"""Integer operations along a sequence of positions: LSTM cells, running sums, attention, linear layers per position.

They are computed in float64 whatever precision holds the values, with all sums below 2^53. The parallel pass and the
fast sampler call the same method, ``step`` or ``attend``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelloom.codec.operations import IntegerNode, Lookup, power, rounded, times_powers
from pixelloom.codec.tables import exponential_table, sigmoid_table, tanh_table
from pixelloom.layers.reads import Earlier

UNITS = (11, 15)
"""Fractional bits of what sigmoid and tanh of an LSTM cell read, and of their results."""

EXPONENTIAL = 11
"""Fractional bits of differences of attention scores."""

_BLOCK = 1 << 20  # attention weights at once, at most: 8 MB each
_ROWS = 1 << 22  # weights of a linear layer per position that are converted at once


class Cell:
    """An LSTM cell (van den Oord et al. 2016, "Pixel Recurrent Neural Networks", eq. 3) of integers.

    The state [h, c] has h in units of 2^-hidden and c in units of 2^-cell.
    """

    def __init__(self, node: IntegerNode) -> None:
        numbers = node.numbers
        self.features = node.features // 2
        self.carried = tuple((int(down), int(right)) for down, right in numbers["carried"])
        self.center, self.most, self.largest = numbers["center"], numbers["most"], node.high
        self.weight = node.tensors["weight"].double()
        read, found = UNITS
        tables = sigmoid_table(read, found), tanh_table(read, found)
        self.sigmoid, self.tanh = (Lookup(-(len(table) // 2), table) for table in tables)
        self.input_factor = power(read - numbers["input"])
        self.state_factor = power(read - numbers["hidden"] - numbers["weight"])
        self.forget_factor, self.add_factor = power(-found), power(numbers["cell"] - 2 * found)
        self.cell_factor, self.out_factor = power(read - numbers["cell"]), power(numbers["hidden"] - 2 * found)

    def step(self, x: Tensor, *states: Tensor) -> Tensor:
        """Gates [M, 4h], one state [M, 2h] for each offset of ``carried`` -> state [M, 2h]"""
        h = self.features
        before = torch.cat([state[:, :h] for state in states], dim=1).double() @ self.weight
        gates = torch.add(before.mul_(self.state_factor), x.double(), alpha=self.input_factor)
        o, f, i = self._at(self.sigmoid, gates[:, : 3 * h]).chunk(3, dim=1)
        g = self._at(self.tanh, gates[:, 3 * h :])
        # c = f * c_before + i * g, h = o * tanh(c)
        kept = (f * states[self.center][:, h:]).mul_(self.forget_factor)
        c = rounded(kept.add_(i * g, alpha=self.add_factor), -self.largest, self.largest)
        out = (o * self._at(self.tanh, c * self.cell_factor)).mul_(self.out_factor)
        return torch.cat((rounded(out, -self.most, self.most), c), dim=1).to(x.dtype)

    def _at(self, table: Lookup, x: Tensor) -> Tensor:
        """The nearest entry of a table that is constant beyond its ends."""
        return table(x.round().clamp_(table.low, -table.low))


class RunningSum:
    """The sum over all positions up to each one, in raster order: exact, so that its order does not matter."""

    def __init__(self, node: IntegerNode) -> None:
        self.carried = ((0, -1), (-1, node.size[1] - 1))

    def step(self, x: Tensor, beside: Tensor, above: Tensor) -> Tensor:
        """Three times [M, features] -> [M, features]; one of the two states is zero."""
        return x + beside + above

    def whole(self, x: Tensor) -> Tensor:
        """[B, H, W, features] -> same"""
        return x.flatten(1, 2).cumsum(1).view(x.shape)


class CausalSoftmax:
    """Attention of integers in each head: with scores s = q . k, out = round(sum w v 2^a / sum w), clamped, where

        w = table[round((s_max - s) m 2^b)]      round(2^24 exp(-difference)) of the keys that a query attends to

    Scores and both sums are exact, and the quotient is correctly rounded (IEEE 754). The largest score s_max is that of
    the keys of the query alone, so that all queries at once and one after the other give the same integers.
    """

    def __init__(self, node: IntegerNode) -> None:
        numbers = node.numbers
        self.heads, self.low, self.high = numbers["heads"], node.low, node.high
        self.multiplier, self.factor = float(numbers["multiplier"]), power(numbers["score"])
        self.out_factor = power(numbers["shift"])
        table = exponential_table(EXPONENTIAL)
        self.last, self.weights = len(table) - 1, Lookup(0, table)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """([B, n, heads * d], [B, N, heads * d], [B, N, heads * e], bool [n, N] or None) -> [B, n, heads * e]"""
        # [B, n, heads * d] -> [B, heads, n, d]
        split = [x.double().view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v)]
        size = max(1, _BLOCK // (len(q) * self.heads * k.shape[1]))
        parts = []
        for start in range(0, q.shape[1], size):
            end = start + size
            keys = k.shape[1]
            some = None if allowed is None else allowed[start:end]
            if some is not None:  # no key after the last that one of these queries attends to
                keys = max(1, int(some.any(0).nonzero().amax()) + 1 if bool(some.any()) else 1)
                some = some[:, :keys]
            part = self._block(split[0][:, :, start:end], split[1][:, :, :keys], split[2][:, :, :keys], some)
            parts.append(part.transpose(1, 2).flatten(2))  # [B, heads, n, e] -> [B, n, heads * e]
        return torch.cat(parts, dim=1).to(q.dtype)

    def _block(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """[B, heads, n, d], [B, heads, N, d], [B, heads, N, e] -> [B, heads, n, e]"""
        score = q @ k.mT
        if allowed is None:
            behind = score.amax(-1, keepdim=True) - score
        else:
            hidden = ~allowed
            behind = score.masked_fill(hidden, -torch.inf).amax(-1, keepdim=True).clamp_(min=-(2.0**53)) - score
            behind.masked_fill_(hidden, 2.0**53)
        index = behind.mul_(self.multiplier * self.factor).round_().clamp_(0, self.last)
        weight = self.weights(index)
        if allowed is not None:
            weight = weight.masked_fill_(hidden, 0)
        total = weight.sum(-1, keepdim=True).clamp_(min=1)  # 0 for a query without keys
        return rounded((weight @ v).mul_(self.out_factor).div_(total), self.low, self.high)


class PositionLinear:
    """A linear layer with weights of its own for each pair of positions, in the interface of attention.

    out[p] = round((bias[p] + sum over earlier q of weight[p, q] x[q]) 2^shift[p]), clamped.
    """

    def __init__(self, node: IntegerNode) -> None:
        where = next(edge.where for edge in node.edges if edge.input == 2)
        assert isinstance(where, Earlier)
        self.own, self.low, self.high = where.own, node.low, node.high
        self.weight = node.tensors["weight"]  # [positions, out, positions, in]
        self.bias = node.tensors["bias"].double()  # [positions, out]
        self.factor = times_powers(torch.ones_like(self.bias), node.tensors["shift"])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """([B, n, in], [B, N, in], [B, N, in], bool [n, N] or None) -> [B, n, out]; only the values are read."""
        end, out = v.shape[1], self.bias.shape[1]
        places = torch.tensor([end]) if allowed is None else allowed.sum(1)
        places = places - int(self.own)
        read = v.double().flatten(1)  # [B, N, in] -> [B, N * in]
        parts = []
        for some in torch.split(places, max(1, _ROWS // (out * read.shape[1]))):
            # [n, out, N, in] -> [n * out, N * in]; a weight of a key that is not allowed is zero
            weight = self.weight[some, :, :end].double().flatten(2).flatten(0, 1)
            sums = F.linear(read, weight, self.bias[some].flatten()).mul_(self.factor[some].flatten())
            parts.append(rounded(sums, self.low, self.high).view(len(read), len(some), out))
        return torch.cat(parts, dim=1).to(v.dtype)
