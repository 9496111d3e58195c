"""The entropy coder: constriction's range coder with integer tables, and payloads that end after their last bit.

constriction takes probabilities p_i in floating point and gives level i the interval from trunc((p_0 + .. + p_{i-1})
(2^24 - L) / (p_0 + .. + p_{L-1})) + i on. For p_i = count_i - 1 in float64 all sums are exact integers, the quotient is
exactly 1, and the intervals are those of the counts. docs/codec-format.md describes the stream.

Source: Bamler 2022, "Understanding Entropy Coding With Asymmetric Numeral Systems (ANS): a Statistician's Perspective"
(constriction); Martin 1979, "Range encoding" (the coder).
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelloom.codec.tables import TOTAL
from pixelloom.core.errors import UsageError

_BATCH = 1 << 18  # values given to the coder at once, at most; their tables take 6 MB


class Encoder:
    """Encodes values in the order in which they will be decoded.

    Raises:
        UsageError: if constriction is not installed.
    """

    def __init__(self) -> None:
        stream = _constriction()
        self._coder = stream.queue.RangeEncoder()
        self._model = stream.model.Categorical(perfect=False)
        self._waiting: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]] = []

    def encode(self, below: Tensor, count: Tensor) -> None:
        """Add values.

        Args:
            below: sum of the counts of all levels below each value, int64 [N].
            count: count of each value, int64 [N].

        Raises:
            ValueError: for an interval that is empty, everything, or not within 0 .. 2^24.
        """
        for i in range(0, len(below), _BATCH):
            self._add(below[i : i + _BATCH].numpy(), count[i : i + _BATCH].numpy())
            if sum(len(waiting) for waiting, _ in self._waiting) >= _BATCH:
                self._flush()

    def _add(self, left: npt.NDArray[np.int64], inside: npt.NDArray[np.int64]) -> None:
        """Reduce the intervals to tables of two or three columns.

        The coder uses the interval of the coded level alone. All levels below it become one column, as do those above
        it, so that a table has three columns, however many levels there are.
        """
        right = TOTAL - left - inside
        first, last = left == 0, right == 0
        if (left < 0).any() or (inside < 1).any() or (right < 0).any() or (first & last).any():
            raise ValueError("an interval is empty, everything, or not within 0 .. 2^24")
        columns: tuple[npt.NDArray[np.int64], ...]
        if (first | last).all():  # two levels, as a rule
            columns = np.where(first, inside, left), np.where(first, right, inside)
            symbols = (~first).astype(np.int32)
        else:  # at an end, the levels on the other side become two columns
            start, end = (
                np.where(first, inside, np.where(last, 1, left)),
                np.where(last, inside, np.where(first, 1, right)),
            )
            columns = start, TOTAL - start - end, end
            symbols = np.where(first, 0, np.where(last, 2, 1)).astype(np.int32)
            if (columns[1] < 1).any():
                raise ValueError("an interval leaves less than two counts for three or more levels")
        self._waiting.append((symbols, np.stack(columns, axis=1).astype(np.float64) - 1))

    def payload(self) -> bytes:
        """All values encoded so far: the shortest bytes that decode to them.

        The state of the coder is an interval of numbers, any of which decodes to the values. The number with the most
        zero bytes at its end is chosen, and these bytes are left out: less than one byte more than the interval's own
        information.
        """
        self._flush()
        words = self._coder.get_compressed().astype(">u4")
        position, (lower, width) = self._coder.pos()
        size = 4 * (position + 2)
        number = int.from_bytes(words.tobytes().ljust(size, b"\0"))
        number -= number - lower & (1 << 64) - 1  # the lower end, with its carry resolved
        for zeros in range(64, -1, -8):
            rounded = -(-number >> zeros) << zeros
            if rounded - number < width:
                return int(rounded).to_bytes(size).rstrip(b"\0")
        raise AssertionError("0 zero bits always fit")

    def _flush(self) -> None:
        for _, group in groupby(self._waiting, key=lambda waiting: waiting[1].shape[1]):
            symbols, tables = zip(*group, strict=True)
            self._coder.encode(np.concatenate(symbols), self._model, np.concatenate(tables))
        self._waiting.clear()


class Decoder:
    """Decodes a payload. It reads zeros after its end, so that it always stops.

    A payload that no encoder has written gives some levels. After a number that lies outside all intervals, which
    happens in damaged payloads only, every level is 0.

    Args:
        payload: the bytes.

    Raises:
        UsageError: if constriction is not installed.
    """

    def __init__(self, payload: bytes) -> None:
        stream = _constriction()
        words = np.frombuffer(payload.ljust(-len(payload) // 4 * -4, b"\0"), dtype=">u4").astype(np.uint32)
        self._coder = stream.queue.RangeDecoder(words)
        self._model = stream.model.Categorical(perfect=False)
        self._damaged = False

    def decode(self, counts: Tensor) -> Tensor:
        """The next N values, uint8 [N], with counts int64 [N, L] from :func:`pixelloom.codec.tables.counts`."""
        levels = torch.zeros(len(counts), dtype=torch.uint8)
        if not self._damaged and len(counts):
            try:
                decoded = self._coder.decode(self._model, counts.numpy() - 1.0)
                levels = torch.from_numpy(decoded.astype(np.uint8))
            except AssertionError:  # what constriction raises for a number outside all intervals
                self._damaged = True
        return levels


def _constriction() -> Any:
    """The module ``constriction.stream``.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        from constriction import stream
    except ImportError:
        raise UsageError(
            'compressed files need constriction: pip install "pixelloom[codec]"; without a wheel for this machine, pip '
            "builds it with a Rust compiler"
        ) from None
    return stream
