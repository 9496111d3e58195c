"""The discretized mixture of logistics: a few parameters per channel instead of one per level.

A level v in 0 .. L-1 has the intensity y = 2v / (L - 1) - 1. The intensity is a mixture of logistic distributions on
the real line, and a level has the probability of its bin, which extends half a level below and above. The first and the
last bin are open, so that the probabilities sum to 1 (eq. 1 and 2):

    P(v) = sum_k w_k (F((e(v + 1) - mu_k) / s_k) - F((e(v) - mu_k) / s_k)),    F(z) = 1 / (1 + exp(-z))
    e(0) = -inf,    e(v) = (2 v - 1) / (L - 1) - 1,    e(L) = inf

The channels of a pixel share the component, and their means depend linearly on the channels before: that of B is
mu_k + beta_k y_R + gamma_k y_G (eq. 3). Given the channels before, a channel is again a mixture, with shifted means and
the posterior weights of the components.

Source: Salimans et al. 2017, "PixelCNN++", sections 2.1 and 2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelloom.core.types import ImageSpec

Known: TypeAlias = tuple[Tensor, Tensor]
"""Levels, uint8 [B, C, H, W], and where they are known, bool [B, C, H, W]."""

LOG_SCALES = (-7.0, 7.0)
"""Bounds of log s. The lower one is that of the paper's code; at the upper one only the open bins have probability."""


@dataclass(frozen=True)
class Logistics:
    """A mixture of logistics over the levels of each pixel, with ordered channels.

    Parameters per position, M = ``mixtures`` numbers each: logits of the weights; for each channel the mean, relative
    to the center of the component's interval; for each channel log s, relative to the width of the interval; for each
    pair of channels (1, 0), (2, 0), (2, 1), .. the coefficient before its tanh.

    The intervals are M equal parts of [-1, 1], which the paper does not have. With them parameters can be zero at
    first: the mixture is then nearly uniform, and its components differ. Equal components would have equal gradients
    and remain equal.

    Attributes:
        spec: the images, with any number of channels and 2 to 256 levels.
        mixtures: number of components, 10 in the paper.
    """

    spec: ImageSpec
    mixtures: int = 10

    @property
    def kind(self) -> Literal["logistics"]:
        """The name of the head in a configuration."""
        return "logistics"

    @property
    def outputs(self) -> int:
        """M (1 + 2C + C (C - 1) / 2)."""
        c = self.spec.channels
        return self.mixtures * (1 + 2 * c + c * (c - 1) // 2)

    @property
    def groups(self) -> int:
        """1: the head models the dependence of channels, not the network."""
        return 1

    def nats(self, params: Tensor, x: Tensor) -> Tensor:
        """-log P of each value given the channels before it, float32 [B, C, H, W]."""
        mixture, nats = self._mixture(params.float()), []
        for levels in x.float().unbind(1):  # [B, C, H, W] -> C tensors [B, H, W]
            log_p, mixture = mixture.after(levels[:, None, None])  # [B, H, W] -> [B, 1, 1, H, W]
            nats.append(-log_p)
        return torch.cat(nats, dim=1)

    def table(self, params: Tensor, temperature: float = 1.0, x: Tensor | None = None) -> Tensor:
        """P(level)^(1/T), normalized, of every level given the channels before it, float64 [B, C, L, H, W].

        Args:
            params: [B, outputs, H, W].
            temperature: T; it divides the log-probabilities of the levels, as in the other heads.
            x: levels uint8 [B, C, H, W]; the last channel is not read. None for a single channel.

        Raises:
            ValueError: without x for images of several channels.
        """
        if x is None and self.spec.channels > 1:
            raise ValueError("the channels of a pixel depend on those before them: give the levels x of the image")
        mixture, tables = self._mixture(params.double()), []
        for channel in range(self.spec.channels):
            tables.append(mixture.table(temperature))
            if x is not None and channel < self.spec.channels - 1:
                _, mixture = mixture.after(x[:, channel, None, None].double())  # [B, H, W] -> [B, 1, 1, H, W]
        return torch.stack(tables, dim=1)

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        """For each channel in turn, the number of levels whose distribution function is at or below the noise.

        This inverts the distribution function of ``table``, given the channels drawn or known before.
        """
        mixture, drawn = self._mixture(params.double()), []
        for channel in range(self.spec.channels):
            cdf = mixture.cdf() if temperature == 1 else mixture.table(temperature).cumsum(dim=1)
            # Scaled by the total, which differs from 1 by rounding, so that no level of probability zero is drawn.
            levels = (cdf[:, :-1] <= noise[:, channel, None] * cdf[:, -1:]).sum(dim=1, keepdim=True)
            if known is not None:
                levels = torch.where(known[1][:, channel, None], known[0][:, channel, None].long(), levels)
            drawn.append(levels)
            if channel < self.spec.channels - 1:
                _, mixture = mixture.after(levels[:, None].double())  # [B, 1, H, W] -> [B, 1, 1, H, W]
        return torch.cat(drawn, dim=1).to(torch.uint8)

    def of_channel(self) -> Logistics:
        """The head itself: there are no channel groups."""
        return self

    def _mixture(self, params: Tensor) -> _Mixture:
        """The distribution of all channels, from parameters [B, outputs, H, W] in float32 or float64."""
        m, c = self.mixtures, self.spec.channels
        # [B, outputs, H, W] -> [B, outputs / M, M, 1, H, W] -> outputs / M tensors [B, M, 1, H, W]
        logits, *rest = params.reshape(params.shape[0], -1, m, 1, *params.shape[2:]).unbind(1)
        # Component k has the k-th of M intervals of [-1, 1], with center (2k + 1) / M - 1.
        centers = (2 * torch.arange(m, dtype=params.dtype, device=params.device).view(m, 1, 1, 1) + 1) / m - 1
        coefficients = rest[2 * c :]
        return _Mixture(
            self.spec.levels,
            F.log_softmax(logits, dim=1),
            tuple(mean + centers for mean in rest[:c]),
            tuple((log_scale - math.log(m)).clamp(*LOG_SCALES) for log_scale in rest[c : 2 * c]),
            tuple(
                tuple(torch.tanh(raw) for raw in coefficients[i * (i - 1) // 2 : i * (i + 1) // 2]) for i in range(c)
            ),
        )


@dataclass(frozen=True)
class _Mixture:
    """The distribution of the remaining channels of each position, given the known ones; tensors are [B, M, 1, H, W].

    Attributes:
        levels: L.
        log_weights: of the components, given the known channels.
        means: of each remaining channel, shifted by the known ones.
        log_scales: of each remaining channel.
        coefficients: of each remaining channel, one per remaining channel before it.
    """

    levels: int
    log_weights: Tensor
    means: tuple[Tensor, ...]
    log_scales: tuple[Tensor, ...]
    coefficients: tuple[tuple[Tensor, ...], ...]

    @property
    def half(self) -> float:
        """Number of levels per unit of intensity."""
        return (self.levels - 1) / 2

    def after(self, x: Tensor) -> tuple[Tensor, _Mixture]:
        """log P(x) of the next channel, [B, 1, H, W], and the mixture of later ones, for levels x [B, 1, 1, H, W]."""
        joint = self.log_weights + self._log_bins(x)
        log_p = torch.logsumexp(joint, dim=1)
        y = x / self.half - 1
        # Eq. 3: the mean of each later channel moves by its coefficient times the intensity of this one.
        means = (mean + own[0] * y for mean, own in zip(self.means[1:], self.coefficients[1:], strict=True))
        return (
            log_p,
            _Mixture(
                self.levels,
                F.log_softmax(joint, dim=1),  # more accurate than joint - log_p where all are far below 0
                tuple(means),
                self.log_scales[1:],
                tuple(own[1:] for own in self.coefficients[1:]),
            ),
        )

    def table(self, temperature: float) -> Tensor:
        """Probabilities of all levels of the next channel, [B, L, H, W]."""
        levels = torch.arange(self.levels, dtype=self.log_weights.dtype, device=self.log_weights.device)
        # levels [L, 1, 1] broadcast with [B, M, 1, H, W] to [B, M, L, H, W]
        log_p = torch.logsumexp(self.log_weights + self._log_bins(levels.view(-1, 1, 1)), dim=1)
        return log_p.exp() if temperature == 1 else F.softmax(log_p / temperature, dim=1)

    def cdf(self) -> Tensor:
        """The distribution function of the next channel at each level, [B, L, H, W]."""
        edges = torch.arange(1, self.levels, dtype=self.log_weights.dtype, device=self.log_weights.device) - 0.5
        below = torch.sigmoid(self._scaled(edges.view(-1, 1, 1)))  # [B, M, L - 1, H, W]
        weights = self.log_weights.exp()
        return torch.cat(((weights * below).sum(1), weights.sum(1)), dim=1)

    def _scaled(self, edge: Tensor) -> Tensor:
        """(e - mu) / s for edges in units of levels.

        In these units edges are exact, and the upper edge of a level equals the lower edge of the next bit by bit.
        """
        return (edge - self.half - self.means[0] * self.half) * (torch.exp(-self.log_scales[0]) / self.half)

    def _log_bins(self, x: Tensor) -> Tensor:
        """log P(x) of the next channel for each component, for levels x that broadcast with [B, M, 1, H, W].

        F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)), and the logarithm of each factor is accurate however far the bin is
        from the mean. The open bins have F(b) or F(-a) only.
        """
        first, last = x == 0, x == self.levels - 1
        inside = torch.log(-torch.expm1(-torch.exp(-self.log_scales[0]) / self.half))
        return (
            F.logsigmoid(self._scaled(x + 0.5)).masked_fill(last, 0)
            + F.logsigmoid(-self._scaled(x - 0.5)).masked_fill(first, 0)
            + inside.masked_fill(first | last, 0)
        )
