"""The range coder: integer tables as they are, payloads without spare bytes, and any payload decodes to something."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import codec_reference as reference
from pixelloom.codec.coder import Decoder, Encoder
from pixelloom.codec.tables import TOTAL, counts
from pixelloom.core.errors import UsageError
from profiles import examples


def tables(rng: np.random.Generator, n: int, levels: int, power: float) -> torch.Tensor:
    """Counts [n, levels]: the higher the power, the more unequal."""
    weights = (1000 * rng.exponential(size=(n, levels)) ** power).clip(0, 2**30).astype(np.int64)
    weights[:, 0] += 1
    return counts(torch.from_numpy(weights).cumsum(1))


def drawn(rng: np.random.Generator, count: torch.Tensor) -> torch.Tensor:
    """Levels by their probabilities, int64 [n]."""
    return (torch.from_numpy(rng.integers(0, TOTAL, (len(count), 1))) >= count.cumsum(1)).sum(1)


def intervals(count: torch.Tensor, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    own = count.gather(1, levels[:, None])
    return (count.cumsum(1).gather(1, levels[:, None]) - own)[:, 0], own[:, 0]


def encoded(count: torch.Tensor, levels: torch.Tensor) -> bytes:
    coder = Encoder()
    coder.encode(*intervals(count, levels))
    return coder.payload()


def ideal(count: torch.Tensor, levels: torch.Tensor) -> float:
    return float(-(intervals(count, levels)[1].double() / TOTAL).log2().sum())


def reference_levels(payload: bytes, count: torch.Tensor) -> list[int]:
    decode = reference.decoder(payload)
    return [decode([0, *np.cumsum(row).tolist()]) for row in count.numpy()]


cases = st.tuples(
    st.integers(0, 2**32), st.integers(0, 300), st.sampled_from([2, 3, 4, 17, 256]), st.sampled_from([1, 4, 12])
)


@given(cases, st.booleans())
@examples(200)
def test_values_return_here_and_in_python_integers(case: tuple[int, int, int, float], probable: bool) -> None:
    seed, n, levels, power = case
    rng = np.random.default_rng(seed)
    count = tables(rng, n, levels, power)
    x = drawn(rng, count) if probable else torch.from_numpy(rng.integers(0, levels, n))
    payload = encoded(count, x)
    decoded = Decoder(payload).decode(count)
    assert decoded.dtype == torch.uint8
    assert decoded.tolist() == x.tolist() == reference_levels(payload, count)
    # 300 values: up to 0.08 bits by the 24 bits of a unit, and less than one byte at the end.
    assert len(payload) <= (ideal(count, x) + 0.1) / 8 + 1


def test_levels_of_count_one_at_both_ends_return() -> None:
    """Two levels at (1, 2^24 - 1) and (2^24 - 1, 1); and 256 levels, all of one count but one."""
    narrow = torch.tensor([[1, TOTAL - 1], [TOTAL - 1, 1]] * 40)
    for x in (torch.zeros(80, dtype=torch.int64), torch.ones(80, dtype=torch.int64)):
        payload = encoded(narrow, x)
        assert Decoder(payload).decode(narrow).tolist() == x.tolist() == reference_levels(payload, narrow)
    for likely in (0, 1, 128, 255):
        count = torch.ones(256, 256, dtype=torch.int64)
        count[:, likely] = TOTAL - 255
        payload = encoded(count, torch.arange(256))
        assert Decoder(payload).decode(count).tolist() == list(range(256)) == reference_levels(payload, count)


def test_payloads_are_near_the_information_of_their_tables() -> None:
    """20,000 values of 17 levels, 2.5 bits each: 5.2 bits above the ideal, of which up to 8 end the last byte."""
    rng = np.random.default_rng(0)
    count = tables(rng, 20_000, 17, 2)
    x = drawn(rng, count)
    spare = 8 * len(encoded(count, x)) - ideal(count, x)
    assert 0 < spare < 8 + 20_000 * 3e-4


def test_probable_binary_values_cost_0_0002_bits_more_than_their_information() -> None:
    """The unit of 24 bits in a width of 32 to 64: 0.18 bits/value become 0.1802."""
    rng = np.random.default_rng(0)
    one = torch.from_numpy((2**24 * rng.beta(0.1, 1.2, 100_000)).astype(np.int64).clip(1, TOTAL - 1))
    count = torch.stack((TOTAL - one, one), dim=1)
    x = drawn(rng, count)
    assert (8 * len(encoded(count, x)) - ideal(count, x)) / 100_000 == pytest.approx(2.2e-4, abs=1.2e-4)


def test_calls_may_be_divided_anyhow() -> None:
    """One call a step or one for all: the same bytes; levels of any number in turn."""
    rng = np.random.default_rng(3)
    parts = [tables(rng, n, levels, 3) for n, levels in ((5, 2), (0, 7), (9, 256), (1, 17), (40, 2), (3, 3))]
    xs = [drawn(rng, part) for part in parts]
    coder, one = Encoder(), Encoder()
    for part, x in zip(parts, xs, strict=True):
        coder.encode(*intervals(part, x))
        for left, inside in zip(*intervals(part, x), strict=True):
            one.encode(left[None], inside[None])
    payload = coder.payload()
    assert payload == coder.payload() == one.payload()
    decoder = Decoder(payload)
    assert [decoder.decode(part).tolist() for part in parts] == [x.tolist() for x in xs]


def test_many_values_are_given_to_the_coder_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    count = tables(rng, 1000, 5, 2)
    x = drawn(rng, count)
    whole = encoded(count, x)
    monkeypatch.setattr("pixelloom.codec.coder._BATCH", 64)
    assert encoded(count, x) == whole


GOLDEN = {
    "000000000001": (torch.tensor([[1, TOTAL - 1]] * 3), [0, 1, 0]),
    "313b0e": (torch.tensor([[5592405, 5592406, 5592405]] * 12), [0, 1, 2] * 4),
    "fe01ffff7f2738078f7f": (counts(torch.arange(1, 257).cumsum(0).repeat(8, 1)), [255, 0, 128, 7, 77, 200, 31, 254]),
}


@pytest.mark.parametrize("payload", GOLDEN)
def test_golden_bytes(payload: str) -> None:
    """The bytes of every machine: of two, three and 256 levels."""
    count, x = GOLDEN[payload]
    assert encoded(count, torch.tensor(x)).hex() == payload
    assert Decoder(bytes.fromhex(payload)).decode(count).tolist() == x
    assert reference_levels(bytes.fromhex(payload), count) == x


def test_nothing_encoded_is_no_bytes() -> None:
    assert Encoder().payload() == b""
    assert Decoder(b"").decode(torch.zeros(0, 4, dtype=torch.int64)).tolist() == []


def test_carries_reach_the_bytes_before() -> None:
    """Streams in which the interval of the coder spans a carry: the upper and the lower end of a half, in turn."""
    count = torch.tensor([[TOTAL // 2 - 1, 2, TOTAL // 2 - 1]] * 30)
    for pattern in range(3**4):
        x = torch.tensor([1] * 6 + [pattern // 3**i % 3 for i in range(4)])
        payload = encoded(count[:10], x)
        assert Decoder(payload).decode(count[:10]).tolist() == x.tolist() == reference_levels(payload, count[:10])


@given(st.binary(max_size=60), st.sampled_from([2, 3, 17, 256]), st.integers(1, 50))
@examples(300)
def test_any_payload_decodes_to_levels(payload: bytes, levels: int, step: int) -> None:
    count = tables(np.random.default_rng(levels), 200, levels, 4)
    decoder = Decoder(payload)
    decoded = torch.cat([decoder.decode(part) for part in count.split(step)])
    assert decoded.shape == (200,)
    assert int(decoded.max()) < levels


def test_a_number_outside_all_intervals_gives_zeros() -> None:
    """Width 2^64 - 1 and units of 2^40 - 1 leave numbers above 2^24 units, which no encoder writes."""
    count = torch.tensor([[TOTAL // 2, TOTAL // 2]] * 20)
    decoder = Decoder(b"\xff" * 40)
    assert decoder.decode(count).tolist() == [0] * 20
    assert decoder.decode(count).tolist() == [0] * 20
    with pytest.raises(IndexError):  # in the reference, which has no rule for it
        reference_levels(b"\xff" * 40, count)


@given(cases, st.integers(0, 2**32))
@examples(100)
def test_damaged_payloads_stop(case: tuple[int, int, int, float], where: int) -> None:
    seed, n, levels, power = case
    rng = np.random.default_rng(seed)
    count = tables(rng, n, levels, power)
    payload = bytearray(encoded(count, drawn(rng, count)))
    if payload:
        payload[where % len(payload)] ^= 1 << where % 8
        assert Decoder(bytes(payload)).decode(count).shape == (n,)
        assert Decoder(bytes(payload[: where % len(payload)])).decode(count).shape == (n,)


@pytest.mark.parametrize(("below", "count"), [(-1, 5), (0, 0), (0, TOTAL), (TOTAL - 4, 5), (TOTAL, 1)])
def test_wrong_intervals_are_refused(below: int, count: int) -> None:
    with pytest.raises(ValueError, match="interval"):
        Encoder().encode(torch.tensor([4, below]), torch.tensor([7, count]))


def test_a_narrow_rest_beside_three_levels_is_refused() -> None:
    """The rest of the first is one count, which two columns cannot share."""
    with pytest.raises(ValueError, match="less than two counts"):
        Encoder().encode(torch.tensor([0, 5]), torch.tensor([TOTAL - 1, 7]))


def test_constriction_uses_these_tables_and_others_of_floats() -> None:
    """The reason for count - 1 in float64: normalized, or in float32, the same probabilities give other intervals."""
    from constriction import stream

    rng = np.random.default_rng(0)
    count = tables(rng, 500, 256, 2)
    x = drawn(rng, count)
    exact = (count - 1).numpy().astype(np.float64)
    model, words = stream.model.Categorical(perfect=False), []
    for probabilities in (
        exact,
        exact / exact.sum(1, keepdims=True),
        (count / TOTAL).numpy(),
        exact.astype(np.float32),
    ):
        coder = stream.queue.RangeEncoder()
        coder.encode(x.numpy().astype(np.int32), model, probabilities)
        words.append(coder.get_compressed().astype(">u4").tobytes())
    assert reference_levels(words[0], count) == x.tolist()
    assert all(other != words[0] for other in words[1:3])


def test_without_constriction_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    for make in (Encoder, lambda: Decoder(b"")):
        with pytest.raises(UsageError, match=r"pixelloom\[codec\]"):
            make()


def test_information_of_ten_bits_takes_two_bytes() -> None:
    count = torch.tensor([[TOTAL // 2, TOTAL // 2]] * 10)
    assert len(encoded(count, torch.ones(10, dtype=torch.int64))) == math.ceil(10 / 8)
