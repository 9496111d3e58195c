"""Integer Bernoulli and categorical heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pixelloom.codec.coder import Decoder, Encoder
from pixelloom.codec.head_parts import Intervals, by_rows, encode_by_symbols, exponent_for, integers, whole_numbers
from pixelloom.codec.tables import EXPONENTS, TOTAL, TOTAL_BITS, counts, cumulative, exponential_table, sigmoid_table

FINEST = 10
"""Fractional bits of logits, at most: rounding to 2^-10 costs less than 10^-7 bits a value."""

MOST_CHANNELS = 1 << 16


@dataclass(frozen=True)
class IntegerBernoulli:
    """p(0) = sigmoid(-logit) by one table over all integer logits.

    Attributes:
        channels: values drawn together, each with one logit.
        exponent: number of fractional bits of the logits.
    """

    channels: int
    exponent: int

    levels = 2

    @classmethod
    def fitted(cls, channels: int, max_abs: Tensor, bits: int) -> IntegerBernoulli:
        """Choose the exponent for the largest magnitudes of the logits, [channels]."""
        return cls(channels, exponent_for(float(max_abs.max()), bits, FINEST))

    @property
    def parameters(self) -> int:
        """One logit for each channel."""
        return self.channels

    @property
    def symbols(self) -> int:
        """Number of coded symbols of one draw."""
        return self.channels

    @property
    def exponents(self) -> Tensor:
        """Fractional bits of each parameter, int64 [channels]."""
        return torch.full((self.parameters,), self.exponent)

    def edges(self, logits: Tensor, levels: Tensor) -> Intervals:
        """The intervals of levels uint8 [N, channels] under integer logits [N, channels]."""
        zero, ones = self._zero(logits), levels.cpu() != 0
        return torch.where(ones, zero, 0), torch.where(ones, TOTAL - zero, zero)

    def encode(self, logits: Tensor, levels: Tensor, coder: Encoder) -> None:
        """Encode levels uint8 [N, channels], channel by channel."""
        encode_by_symbols(self.edges(logits, levels), coder)

    def decode(self, logits: Tensor, coder: Decoder) -> Tensor:
        """Decode levels uint8 [N, channels]."""
        zero = self._zero(logits).t().flatten()  # [N, channels] -> [channels * N]
        return coder.decode(torch.stack((zero, TOTAL - zero), dim=1)).view(self.channels, -1).t()

    def stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Fields for an export; there are no tensors, because tables follow from the fields."""
        return {"kind": "bernoulli", "channels": self.channels, "exponent": self.exponent}, {}

    @classmethod
    def load(cls, json: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> IntegerBernoulli:
        """Read the fields of an export.

        Raises:
            ModelError: naming a field that is not valid.
        """
        return cls(*whole_numbers("bernoulli", json, tensors, channels=(1, MOST_CHANNELS), exponent=EXPONENTS))

    def _zero(self, logits: Tensor) -> Tensor:
        """The counts of level 0, int64 [N, channels]."""
        table = sigmoid_table(self.exponent, TOTAL_BITS)
        end = len(table) // 2
        below = table[end - integers(logits, self.parameters).clamp(-end, end)]
        return cumulative(below, torch.tensor(TOTAL), torch.tensor(1), 2)


@dataclass(frozen=True)
class IntegerCategorical:
    """Softmax over all levels: weights by a table of exponentials, relative to the largest logit.

    Attributes:
        channels: values drawn together, each with L contiguous logits.
        levels: L.
        exponent: number of fractional bits of the logits.
    """

    channels: int
    levels: int
    exponent: int

    @classmethod
    def fitted(cls, channels: int, levels: int, max_abs: Tensor, bits: int) -> IntegerCategorical:
        """Choose the exponent for the largest magnitudes of the logits, [channels * L]."""
        return cls(channels, levels, exponent_for(float(max_abs.max()), bits, FINEST))

    @property
    def parameters(self) -> int:
        """L logits for each channel."""
        return self.channels * self.levels

    @property
    def symbols(self) -> int:
        """Number of coded symbols of one draw."""
        return self.channels

    @property
    def exponents(self) -> Tensor:
        """Fractional bits of each parameter, int64 [channels * L]."""
        return torch.full((self.parameters,), self.exponent)

    def edges(self, logits: Tensor, levels: Tensor) -> Intervals:
        """The intervals of levels uint8 [N, channels] under integer logits [N, channels * L]."""
        rows = self._rows(logits, channels_first=False)
        level = levels.cpu().long().reshape(-1, 1)  # [N, channels] -> [N * channels, 1]

        def of(some: slice) -> Intervals:
            sums, own = self._sums(rows[some]), level[some]
            total = sums[:, -1:]
            before = torch.where(own > 0, sums.gather(1, (own - 1).clamp_min(0)), 0)
            below = cumulative(before, total, own, self.levels)
            return below, cumulative(sums.gather(1, own), total, own + 1, self.levels) - below

        below, count = by_rows(of, len(rows), self.levels)
        return below.view(-1, self.channels), count.view(-1, self.channels)

    def encode(self, logits: Tensor, levels: Tensor, coder: Encoder) -> None:
        """Encode levels uint8 [N, channels], channel by channel."""
        encode_by_symbols(self.edges(logits, levels), coder)

    def decode(self, logits: Tensor, coder: Decoder) -> Tensor:
        """Decode levels uint8 [N, channels]."""
        rows = self._rows(logits, channels_first=True)
        step = max(1, (1 << 18) // self.levels)
        decoded = [coder.decode(counts(self._sums(rows[i : i + step]))) for i in range(0, max(len(rows), 1), step)]
        return torch.cat(decoded).view(self.channels, -1).t()

    def stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Fields for an export; there are no tensors, because tables follow from the fields."""
        fields = {"channels": self.channels, "levels": self.levels, "exponent": self.exponent}
        return {"kind": "categorical", **fields}, {}

    @classmethod
    def load(cls, json: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> IntegerCategorical:
        """Read the fields of an export.

        Raises:
            ModelError: naming a field that is not valid.
        """
        bounds = {"channels": (1, MOST_CHANNELS), "levels": (2, 256), "exponent": EXPONENTS}
        return cls(*whole_numbers("categorical", json, tensors, **bounds))

    def _rows(self, logits: Tensor, *, channels_first: bool) -> Tensor:
        """[N, channels * L] -> [N * channels, L], or [channels * N, L]."""
        rows = integers(logits, self.parameters).int().view(-1, self.channels, self.levels)
        return (rows.transpose(0, 1) if channels_first else rows).reshape(-1, self.levels)

    def _sums(self, logits: Tensor) -> Tensor:
        """C_1 .. C_L of logits int32 [N, L], int64 [N, L]; at most 256 * 2^24 = 2^32."""
        table = exponential_table(self.exponent)
        distance = (logits.amax(1, keepdim=True) - logits).clamp_(max=len(table) - 1)
        return table.index_select(0, distance.flatten()).view_as(distance).cumsum(1, dtype=torch.int64)
