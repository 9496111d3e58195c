"""Integer tables: exponentials, sigmoids and hyperbolic tangents in fixed point, and cumulative counts of levels.

No floating-point number takes part, so the tables are equal on every machine. Exponentials are a recurrence on integers
of 192 fractional bits, e_{i+1} = e_i c >> 192 with c = exp(-2^-exponent); the error after 10^6 steps is below 2^-160.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS
"""Sum of the counts of all levels: the probability of a level is its count / 2^24."""

EXPONENTS = (1, 12)
"""Least and largest number of fractional bits of integer logits."""

_FRACTION = 192
_ONE = 1 << _FRACTION


def cumulative(below: Tensor, total: Tensor, level: Tensor, levels: int) -> Tensor:
    """The sum of the counts of all levels before ``level``: C_i (2^24 - L) // C_L + i.

    C_i is the sum of the weights of levels 0 .. i-1, and L the number of levels. Weights are integers of 0 or more with
    a sum 0 < C_L < 2^39. Then

    - i = 0 gives 0, since C_0 = 0, and i = L gives 2^24 - L + L = 2^24;
    - the first term does not decrease with i, because C_i does not, and the second grows by one: each level has a
      count of 1 or more;
    - C_i (2^24 - L) < 2^39 2^24 = 2^63, so that int64 does not overflow.

    Args:
        below: C_i, int64.
        total: C_L, int64.
        level: i, int64 in 0 .. L.
        levels: L.

    Returns:
        int64 of the common shape.
    """
    return below * (TOTAL - levels) // total + level


def counts(sums: Tensor) -> Tensor:
    """The counts of all levels, int64 [N, L], from the sums of weights C_1 .. C_L, int64 [N, L]; see ``cumulative``."""
    levels = sums.shape[1]
    ends = cumulative(sums, sums[:, -1:], torch.arange(1, levels + 1), levels)
    return torch.diff(ends, dim=1, prepend=ends.new_zeros(len(ends), 1))


@lru_cache(maxsize=16)
def exponential_table(exponent: int) -> Tensor:
    """round(2^24 exp(-d 2^-exponent)) for d = 0, 1, .. up to the first entry of 0, int32."""
    entries = []
    for value in _exponentials(exponent):
        entries.append(_rounded(value * TOTAL, _ONE))
        if not entries[-1]:
            return torch.tensor(entries, dtype=torch.int32)
    raise AssertionError("the recurrence ends at 0")


@lru_cache(maxsize=16)
def sigmoid_table(exponent: int, bits: int) -> Tensor:
    """round(2^bits / (1 + exp(-d 2^-exponent))) for d = -D .. D, int64 [2 D + 1].

    D is the first for which the entries at the ends are 0 and 2^bits. Entries of -d and d have the sum 2^bits.
    """
    entries = []
    for value in _exponentials(exponent):
        entries.append(_rounded(_ONE << bits, _ONE + value))
        if entries[-1] == 1 << bits:
            upper = torch.tensor(entries)
            return torch.cat(((1 << bits) - upper[1:].flip(0), upper))
    raise AssertionError("the recurrence ends at 0")


@lru_cache(maxsize=16)
def tanh_table(exponent: int, bits: int) -> Tensor:
    """round(2^bits tanh(d 2^-exponent)) for d = -D .. D, int64 [2 D + 1]; D is the first with an entry of 2^bits."""
    entries = []
    for value in _exponentials(exponent - 1):  # exp(-2 d 2^-exponent)
        entries.append(_rounded((_ONE - value) << bits, _ONE + value))
        if entries[-1] == 1 << bits:
            upper = torch.tensor(entries)
            return torch.cat((-upper[1:].flip(0), upper))
    raise AssertionError("the recurrence ends at 0")


@lru_cache(maxsize=16)
def scale_table(exponent: int, first: int, last: int, divisor: int) -> Tensor:
    """round(2^32 exp(-d 2^-exponent) / divisor) for d = first .. last with first < 0, int64 [last - first + 1]."""
    # exp(-first 2^-exponent) by its series, whose terms are all positive
    start, term, k = 0, _ONE, 0
    while term:
        start, k = start + term, k + 1
        term = (term * -first >> exponent) // k
    entries = []
    for value, _ in zip(_exponentials(exponent), range(last - first + 1), strict=False):
        entries.append(_rounded(value * start << 32, _ONE * _ONE * divisor))
    return torch.tensor(entries)


def _exponentials(exponent: int) -> Iterator[int]:
    """exp(-i 2^-exponent) 2^192 for i = 0, 1, .. until it is 0."""
    factor, term, k = 0, _ONE, 0  # exp(-x) = 1 - x + x^2 / 2 - .. with x = 2^-exponent <= 1
    while term:
        factor, k = factor + (-term if k % 2 else term), k + 1
        term = (term >> exponent) // k
    value = _ONE
    while value:
        yield value
        value = value * factor >> _FRACTION


def _rounded(numerator: int, denominator: int) -> int:
    """The nearest integer of a quotient."""
    return (2 * numerator + denominator) // (2 * denominator)
