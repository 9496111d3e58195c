"""The codec's stream in Python integers and decimals, from docs/codec-format.md, without any code of the package."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Decimal, localcontext
from functools import cache
from itertools import accumulate


def decoder(payload: bytes) -> Callable[[Sequence[int]], int]:
    """A function that decodes the next symbol with its edges 0 = c_0 < c_1 < .. < c_L = 2^24."""
    offset, width, at = int.from_bytes(payload[:8].ljust(8, b"\0")), 2**64 - 1, 8

    def decode(edges: Sequence[int]) -> int:
        nonlocal offset, width, at
        unit = width >> 24
        symbol = bisect_right(edges, offset // unit) - 1
        offset, width = offset - unit * edges[symbol], unit * (edges[symbol + 1] - edges[symbol])
        if width < 2**32:
            word = int.from_bytes(payload[at : at + 4].ljust(4, b"\0"))
            offset, width, at = (offset << 32) + word, width << 32, at + 4
        return symbol

    return decode


def edges_of(sums: Sequence[int]) -> list[int]:
    """Edges of the symbols from the sums of weights C_0 .. C_L."""
    levels = len(sums) - 1
    return [c * (2**24 - levels) // sums[-1] + i for i, c in enumerate(sums)]


def bernoulli(logit: int, exponent: int) -> list[int]:
    """Edges from an integer logit."""
    return edges_of([0, _sigmoid(-logit, exponent, 24), 2**24])


def categorical(logits: Sequence[int], exponent: int) -> list[int]:
    """Edges from integer logits of all levels."""
    return edges_of([0, *accumulate(_exponential(max(logits) - logit, exponent) for logit in logits)])


class Mixture:
    """Logistics of one pixel, from integer logits in groups of M: weights, C means, C log scales, coefficients."""

    def __init__(self, head: dict[str, int], logits: Sequence[int]) -> None:
        self.head, m, self.c = head, head["mixtures"], head["channels"]
        rows = [list(logits[i : i + m]) for i in range(0, len(logits), m)]
        self.shares = _shares([_exponential(max(rows[0]) - logit, head["weights"]) for logit in rows[0]])
        self.means, self.scales = rows[1 : 1 + self.c], rows[1 + self.c : 1 + 2 * self.c]
        self.raw, self.known = rows[1 + 2 * self.c :], list[int]()

    def sum(self, v: int) -> int:
        """C_v of the next channel."""
        values = [share * f for share, f in zip(self.shares, self.below(v), strict=True)]
        return (sum(values) >> 23) + v

    def below(self, v: int) -> list[int]:
        """sigmoid(z) 2^32 of each component at the lower edge of level v."""
        head, channel, found = self.head, len(self.known), []
        m, top = head["mixtures"], head["levels"] - 1
        for k in range(m):
            n = m * (2 * v - 1) * 2**16
            n -= top * (m * self.means[channel][k] * 2 ** (16 - head["means"]) + (2 * k + 1) * 2**16)
            for j, x in enumerate(self.known):
                tanh = _tanh(self.raw[channel * (channel - 1) // 2 + j][k], head["coefficients"])
                n -= m * tanh * (2 * x - top)
            log_scale = min(max(self.scales[channel][k], head["narrowest"]), head["widest"])
            scale = _rounded(lambda x: (-x).exp() / top, log_scale, head["log_scales"], 32)
            limit = (_END << 38) // scale
            z = (min(max(n, -limit), limit) * scale + 2**25 >> 26) + (_END << 12)
            low, high = (_sigmoid(i - _END, 10, 32) for i in (z >> 12, (z >> 12) + 1))
            inside = low + ((high - low) * (z & 4095) + 2048 >> 12)
            found.append(0 if v <= 0 else 2**32 if v > top else inside)
        return found

    def first(self, decode: Callable[[Sequence[int]], int]) -> int:
        """The first symbol of the next channel."""
        levels = self.head["levels"]
        step = 16 if levels > 32 else 1
        return decode(edges_of([0] + [self.sum(v) for v in range(step, levels + step, step)]))

    def second(self, first: int, decode: Callable[[Sequence[int]], int]) -> int:
        """The level of the next channel."""
        if self.head["levels"] <= 32:
            return first
        sums = [self.sum(16 * first + i) for i in range(17)]
        return 16 * first + decode(edges_of([c - sums[0] for c in sums]))

    def fix(self, x: int) -> None:
        """Go on to the next channel."""
        changes = [high - low for low, high in zip(self.below(x), self.below(x + 1), strict=True)]
        self.shares = _shares([share * change + 1 for share, change in zip(self.shares, changes, strict=True)])
        self.known.append(x)


def _shares(weights: list[int]) -> list[int]:
    drop = max(0, sum(weights).bit_length() - 31)
    weights = [weight >> drop for weight in weights]
    return [(weight << 20) // sum(weights) for weight in weights]


@cache
def _exponential(distance: int, exponent: int) -> int:
    return 0 if distance >> exponent > 40 else _rounded(lambda x: (-x).exp(), distance, exponent, 24)


@cache
def _sigmoid(x: int, exponent: int, bits: int) -> int:
    if abs(x) >> exponent > 40:
        return 2**bits if x > 0 else 0
    return _rounded(lambda x: 1 / (1 + (-x).exp()), x, exponent, bits)


@cache
def _tanh(x: int, exponent: int) -> int:
    if abs(x) >> exponent > 40:
        return 2**16 if x > 0 else -(2**16)
    return _rounded(lambda x: ((2 * x).exp() - 1) / ((2 * x).exp() + 1), x, exponent, 16)


def _rounded(real: Callable[[Decimal], Decimal], x: int, exponent: int, bits: int) -> int:
    """round(2^bits real(x 2^-exponent))."""
    with localcontext() as context:
        context.prec = 60
        return int((2**bits * real(Decimal(x) / 2**exponent)).to_integral_value(ROUND_HALF_UP))


_END = next(i for i in range(20_000, 30_000) if _sigmoid(i, 10, 32) == 2**32)
