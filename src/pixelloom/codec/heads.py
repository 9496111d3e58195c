"""Heads in integers: counts of levels from integer logits, equal on every machine.

The network of an export gives each parameter of a head as an integer q, whose value is q 2^-exponent. Heads choose the
exponents when a model is exported. Counts follow from sums of integer weights by
:func:`pixelloom.codec.tables.cumulative`:

    Bernoulli     C_1 = round(2^24 sigmoid(-logit)), C_2 = 2^24
    categorical   weights round(2^24 exp(logit - largest logit)) of the levels
    logistics     see :mod:`pixelloom.codec.logistics`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from pixelloom.codec.coder import Decoder, Encoder
from pixelloom.codec.discrete_heads import IntegerBernoulli, IntegerCategorical
from pixelloom.codec.head_parts import Intervals
from pixelloom.codec.logistics import IntegerLogistics
from pixelloom.core.errors import ModelError, did_you_mean, shortened
from pixelloom.core.types import ImageSpec
from pixelloom.heads.discrete import Bernoulli, Categorical, Head
from pixelloom.heads.logistic_mixture import Logistics


class IntegerHead(Protocol):
    """The distribution of the values that one draw gives, from integer logits."""

    @property
    def parameters(self) -> int:
        """Outputs of the network that one draw reads."""

    @property
    def channels(self) -> int:
        """Number of values of one draw."""

    @property
    def symbols(self) -> int:
        """Number of coded symbols of one draw: one or two for each value, channel by channel."""

    @property
    def levels(self) -> int:
        """L."""

    @property
    def exponents(self) -> Tensor:
        """Fractional bits of each parameter, int64 [parameters]: logit = integer 2^-exponent."""

    def edges(self, logits: Tensor, levels: Tensor) -> Intervals:
        """The intervals of values, for a caller that encodes those of several steps at once.

        In a step, all intervals of the first symbol come first, then those of the next.

        Args:
            logits: integers, of any type that holds them, [N, parameters].
            levels: uint8 [N, channels].

        Returns:
            Sum of the counts of all symbols below each symbol, and count of each symbol, int64 [N, symbols].

        Raises:
            ValueError: for logits that are not integers, or not below 2^20.
        """

    def encode(self, logits: Tensor, levels: Tensor, coder: Encoder) -> None:
        """Encode the values of the N draws of a step: their first symbols, then their second ones, and so on."""

    def decode(self, logits: Tensor, coder: Decoder) -> Tensor:
        """The next values, uint8 [N, channels], in the order of ``encode``."""

    def stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """JSON and tensors for an export."""


_HEADS: dict[str, type[IntegerBernoulli] | type[IntegerCategorical] | type[IntegerLogistics]] = {
    "bernoulli": IntegerBernoulli,
    "categorical": IntegerCategorical,
    "logistics": IntegerLogistics,
}


def integer_head(head: Head, spec: ImageSpec, max_abs: Tensor, bits: int = 14) -> IntegerHead:
    """The head of an export, with the exponents that its logits will have.

    Args:
        head: the head of a model.
        spec: the images.
        max_abs: largest magnitude of each parameter over images for calibration, [outputs] of the head, or [outputs /
            groups]: of ordered channels, each has the largest of all.
        bits: of the signed integers that hold logits.

    Raises:
        ModelError: for a head that has no integer form.
    """
    ordered = head.groups > 1
    one = head.of_channel() if ordered else head
    channels = 1 if ordered else spec.channels
    if max_abs.numel() not in (head.outputs, one.outputs) or not bool(torch.isfinite(max_abs).all()):
        raise ValueError(f"max_abs: expected {head.outputs} or {one.outputs} finite numbers")
    most = max_abs.detach().abs().cpu().reshape(-1, one.outputs).amax(0)  # [groups * outputs] -> [outputs]
    if type(one) is Bernoulli:
        return IntegerBernoulli.fitted(channels, most, bits)
    if type(one) is Categorical:
        return IntegerCategorical.fitted(channels, spec.levels, most, bits)
    if type(one) is Logistics:
        return IntegerLogistics.fitted(channels, spec.levels, one.mixtures, most, bits)
    raise ModelError(
        f"head: {type(head).__name__} has no integer form; models with a {', '.join(_HEADS)} head can be exported"
    )


def load_head(json: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> IntegerHead:
    """Read the head of an export.

    Raises:
        ModelError: naming the first field that is missing, unknown, of another type or out of bounds.
    """
    kind = json.get("kind")
    if not isinstance(kind, str) or kind not in _HEADS:
        hint = did_you_mean(kind, _HEADS) if isinstance(kind, str) else ""
        raise ModelError(f"head.kind: must be {', '.join(_HEADS)}, not {shortened(repr(kind))}.{hint}")
    return _HEADS[kind].load(json, tensors)
