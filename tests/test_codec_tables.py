"""Integer tables equal exactly rounded real numbers, and counts follow their formula in integers of any size."""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelloom.codec.tables import TOTAL, counts, cumulative, exponential_table, scale_table, sigmoid_table, tanh_table


def rounded(real: Callable[[Decimal], Decimal], exponent: int, indices: range, factor: int) -> list[int]:
    """round(factor * real(i 2^-exponent)) with 60 decimal digits, which no half comes near."""
    with localcontext() as context:
        context.prec = 60
        return [int((factor * real(Decimal(i) / 2**exponent)).to_integral_value(ROUND_HALF_UP)) for i in indices]


@pytest.mark.parametrize("exponent", [1, 4, 7, 9])
def test_exponentials_are_rounded_exactly(exponent: int) -> None:
    table = exponential_table(exponent)
    assert table.tolist() == rounded(lambda x: (-x).exp(), exponent, range(len(table)), 2**24)
    assert (table == 0).nonzero().tolist() == [[len(table) - 1]]


def test_the_longest_table_is_exact_at_its_far_end() -> None:
    """After 142,000 steps of the recurrence."""
    table = exponential_table(13)
    some = range(0, len(table), 997)
    assert [int(table[i]) for i in some] == rounded(lambda x: (-x).exp(), 13, some, 2**24)
    assert table[-40:].tolist() == rounded(lambda x: (-x).exp(), 13, range(len(table) - 40, len(table)), 2**24)


@pytest.mark.parametrize(("exponent", "bits"), [(1, 24), (6, 24), (6, 32), (8, 32)])
def test_sigmoids_are_rounded_exactly(exponent: int, bits: int) -> None:
    table = sigmoid_table(exponent, bits)
    end = len(table) // 2
    assert table[end:].tolist() == rounded(lambda x: 1 / (1 + (-x).exp()), exponent, range(end + 1), 2**bits)
    assert bool((table + table.flip(0) == 2**bits).all())
    assert table[[0, 1, -2, -1]].tolist() == [0, 1, 2**bits - 1, 2**bits]


@pytest.mark.parametrize(("exponent", "bits"), [(1, 16), (9, 16)])
def test_hyperbolic_tangents_are_rounded_exactly(exponent: int, bits: int) -> None:
    table = tanh_table(exponent, bits)
    end = len(table) // 2
    assert table[end:].tolist() == rounded(
        lambda x: (1 - (-2 * x).exp()) / (1 + (-2 * x).exp()), exponent, range(end + 1), 2**bits
    )
    assert bool((table == -table.flip(0)).all())


def test_scales_are_rounded_exactly() -> None:
    first, last = -38, 57
    expected = rounded(lambda x: (-x).exp() / 255, 3, range(first, last + 1), 2**32)
    assert scale_table(3, first, last, 255).tolist() == expected


weights = st.lists(
    st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 2**31 - 1)), min_size=2, max_size=256
).filter(any)


@given(weights)
def test_counts_follow_the_formula_in_python_integers(weights: list[int]) -> None:
    levels, sums = len(weights), [sum(weights[: i + 1]) for i in range(len(weights))]
    edges = [c * (2**24 - levels) // sums[-1] + i for i, c in enumerate([0, *sums])]
    found = counts(torch.tensor([sums]))
    assert found.dtype == torch.int64
    assert found.tolist() == [[b - a for a, b in pairwise(edges)]]
    assert int(found.min()) >= 1
    assert int(found.sum()) == TOTAL
    below = torch.tensor([0, *sums])
    assert cumulative(below, below[-1:], torch.arange(levels + 1), levels).tolist() == edges


def test_the_largest_sum_of_the_docstring_does_not_overflow() -> None:
    sums = torch.tensor([[0, 2**39 - 1]])
    assert counts(sums).tolist() == [[1, TOTAL - 1]]
    sums = torch.tensor([[2**38, 2**39 - 1]])
    assert counts(sums).tolist() == [
        [2**38 * (2**24 - 2) // (2**39 - 1) + 1, TOTAL - 2**38 * (2**24 - 2) // (2**39 - 1) - 1]
    ]
