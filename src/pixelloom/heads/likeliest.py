"""Top-k and nucleus (top-p) sampling: levels are drawn from the likeliest ones alone.

Levels are sorted by probability, the likeliest first and equal ones by level. Top-k keeps the first k of them. Top-p
keeps the smallest number of them whose probabilities sum to p or more. The probabilities of the kept levels are divided
by their sum:

    q(v) = p(v) / sum over kept u of p(u)    for a kept level v, else 0

With both, top-p is applied to the distribution that top-k leaves, and both to that of the temperature. Images drawn
from q do not follow the distribution of the model, and its likelihoods say nothing about them.

Source: Fan, Lewis, Dauphin 2018, "Hierarchical Neural Story Generation" (top-k); Holtzman et al. 2020, "The Curious
Case of Neural Text Degeneration", section 3.1 (nucleus).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.heads.discrete import Head, Kind
from pixelloom.heads.logistic_mixture import Known


@dataclass(frozen=True)
class Likeliest:
    """A head that draws the likeliest levels of another one.

    Attributes:
        head: the distribution of the model.
        top_k: number of levels that are kept; None for all.
        top_p: least sum of the probabilities that are kept; None for all levels.
    """

    head: Head
    top_k: int | None = None
    top_p: float | None = None

    @property
    def kind(self) -> Kind:
        """The name of the model's head."""
        return self.head.kind

    @property
    def outputs(self) -> int:
        """Number of parameters per position, those of the model's head."""
        return self.head.outputs

    @property
    def groups(self) -> int:
        """Number of ordered channel groups of the network, that of the model's head."""
        return self.head.groups

    def nats(self, params: Tensor, x: Tensor) -> Tensor:
        """-log q of each value, float64 [B, C, H, W]; infinite for a level that is not kept."""
        return -self.table(params, x=x).gather(2, x[:, :, None].long())[:, :, 0].log()

    def table(self, params: Tensor, temperature: float = 1.0, x: Tensor | None = None) -> Tensor:
        """q of all levels, float64 [B, C, L, H, W], as the table of the model's head."""
        table = self.head.table(params, temperature, x)
        likeliest, order = table.sort(dim=2, descending=True, stable=True)
        if self.top_k is not None:
            likeliest[:, :, int(self.top_k) :] = 0
        if self.top_p is not None:
            before = likeliest.cumsum(2) - likeliest
            likeliest = likeliest * (before < self.top_p * likeliest.sum(2, keepdim=True))
        kept = torch.zeros_like(table).scatter_(2, order, likeliest)
        return kept / kept.sum(2, keepdim=True)

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        """For each channel in turn, the number of levels whose distribution function is at or below the noise."""
        x = torch.zeros(noise.shape, dtype=torch.uint8, device=noise.device)
        table = self.table(params, temperature, x)
        for channel in range(noise.shape[1]):
            if channel and self.kind == "logistics":  # depends on the levels of the channels before
                table = self.table(params, temperature, x)
            cdf = table[:, channel].cumsum(1)
            # Scaled by the total, which differs from 1 by rounding, so that no level of probability zero is drawn.
            levels = (cdf[:, :-1] <= noise[:, channel, None] * cdf[:, -1:]).sum(1).to(torch.uint8)
            if known is not None:
                levels = torch.where(known[1][:, channel], known[0][:, channel], levels)
            x[:, channel] = levels
        return x

    def of_channel(self) -> Likeliest:
        """For ordered channels, the head of a single one."""
        return replace(self, head=self.head.of_channel())


def likeliest(head: Head, top_k: int | None, top_p: float | None) -> Head:
    """The head that draws the likeliest levels; the head itself if all are kept.

    Raises:
        UsageError: as :func:`check_likeliest`.
    """
    check_likeliest(top_k, top_p)
    top_p = None if top_p == 1 else top_p
    return head if top_k is None and top_p is None else Likeliest(head, top_k, top_p)


def check_likeliest(top_k: int | None, top_p: float | None) -> None:
    """Check the arguments of top-k and top-p sampling.

    Raises:
        UsageError: unless top_k is a whole number of 1 or more, and 0 < top_p <= 1; None is allowed for both.
    """
    k, p = (math.nan if value is None or isinstance(value, str | bool) else value for value in (top_k, top_p))
    if top_k is not None and not (k >= 1 and k % 1 == 0):
        raise UsageError(f"top_k: must be a whole number of levels, 1 or more, not {top_k!r}")
    if top_p is not None and not 0 < p <= 1:
        raise UsageError(f"top_p: must be a probability above 0, at most 1, not {top_p!r}")
