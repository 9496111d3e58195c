"""The discretized mixture of logistics: a few numbers a channel in place of one for each of 256 levels.

A level v in 0 .. L-1 stands for the intensity y = 2 v / (L - 1) - 1. The intensity is drawn from a mixture of logistic
distributions on the real line, and each level gets the probability of its bin, which ends half a level below and above.
The first and the last bin are open, so that the levels share all the probability there is:

    P(v) = sum_k w_k (F((e(v + 1) - mu_k) / s_k) - F((e(v) - mu_k) / s_k)),    F(z) = 1 / (1 + exp(-z))
    e(0) = -inf,    e(v) = (2 v - 1) / (L - 1) - 1,    e(L) = inf

The channels of a pixel share one choice of the component, and their means are moved by the channels before them: that
of B is mu_k + beta_k y_R + gamma_k y_G. So given the channels before, a channel follows a mixture again, with moved
means, and with the weights that the components have once these channels are known.

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
"""Bounds of log s. The lower one is the paper's code's; at the upper one only the first and last level are left."""


@dataclass(frozen=True)
class Logistics:
    """A mixture of logistics over the levels of each pixel, its channels in order.

    Parameters of a position, ``mixtures`` numbers each: logits of the weights; for each channel the mean, relative to
    that component's share of [-1, 1]; for each channel log s, relative to the width of that share; for each pair of
    channels, (1, 0), (2, 0), (2, 1) .. by number, the coefficient before its tanh.

    The paper has no shares. With them all parameters may start at zero: the mixture is then nearly uniform, and its
    components differ, where components alike would have gradients alike and stay so for ever.

    Attributes:
        spec: the images, of any number of channels and 2 to 256 levels.
        mixtures: components, 10 in the paper.
    """

    spec: ImageSpec
    mixtures: int = 10

    @property
    def kind(self) -> Literal["logistics"]:
        """Its name in a configuration."""
        return "logistics"

    @property
    def outputs(self) -> int:
        """M (1 + 2 C + C (C - 1) / 2)"""
        c = self.spec.channels
        return self.mixtures * (1 + 2 * c + c * (c - 1) // 2)

    @property
    def groups(self) -> int:
        """1: the channels are ordered here, so that the network need not."""
        return 1

    def nats(self, params: Tensor, x: Tensor) -> Tensor:
        """-log P of each value given the channels before it, float32 [B, C, H, W]; their sum is that of the pixel."""
        mixture, nats = self._mixture(params.float()), []
        for levels in x.float().unbind(1):
            log_p, mixture = mixture.after(levels[:, None, None])
            nats.append(-log_p)
        return torch.cat(nats, dim=1)

    def table(self, params: Tensor, temperature: float = 1.0, x: Tensor | None = None) -> Tensor:
        """P(level)^(1/T) over its sum, of every level given the channels before it, float64 [B, C, L, H, W].

        Args:
            params: [B, outputs, H, W].
            temperature: T; as with any other head it divides the log-probabilities of the levels.
            x: levels uint8 [B, C, H, W], of which the last channel is not looked at. One channel needs none.

        Raises:
            ValueError: without x for images of several channels.
        """
        if x is None and self.spec.channels > 1:
            raise ValueError("the channels of a pixel depend on those before them: give the levels x of the image")
        mixture, tables = self._mixture(params.double()), []
        for channel in range(self.spec.channels):
            tables.append(mixture.table(temperature))
            if x is not None and channel < self.spec.channels - 1:
                _, mixture = mixture.after(x[:, channel, None, None].double())
        return torch.stack(tables, dim=1)

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        """Channel after channel, the number of levels whose distribution function lies at or below the noise.

        That is the inverse of the distribution that ``table`` gives, for the channels drawn or given before.
        """
        mixture, drawn = self._mixture(params.double()), []
        for channel in range(self.spec.channels):
            cdf = mixture.cdf() if temperature == 1 else mixture.table(temperature).cumsum(dim=1)
            # Noise is measured against the total, which rounding leaves a little off 1: an impossible level is none.
            levels = (cdf[:, :-1] <= noise[:, channel, None] * cdf[:, -1:]).sum(dim=1, keepdim=True)
            if known is not None:
                levels = torch.where(known[1][:, channel, None], known[0][:, channel, None].long(), levels)
            drawn.append(levels)
            if channel < self.spec.channels - 1:
                _, mixture = mixture.after(levels[:, None].double())
        return torch.cat(drawn, dim=1).to(torch.uint8)

    def of_channel(self) -> Logistics:
        """Itself: there are no channel groups."""
        return self

    def _mixture(self, params: Tensor) -> _Mixture:
        """[B, outputs, H, W] in float32 or float64."""
        m, c = self.mixtures, self.spec.channels
        logits, *rest = params.reshape(params.shape[0], -1, m, 1, *params.shape[2:]).unbind(1)
        shares = (2 * torch.arange(m, dtype=params.dtype, device=params.device).view(m, 1, 1, 1) + 1) / m - 1
        coefficients = rest[2 * c :]
        return _Mixture(
            self.spec.levels,
            F.log_softmax(logits, dim=1),
            tuple(mean + shares for mean in rest[:c]),
            tuple((log_scale - math.log(m)).clamp(*LOG_SCALES) for log_scale in rest[c : 2 * c]),
            tuple(
                tuple(torch.tanh(raw) for raw in coefficients[i * (i - 1) // 2 : i * (i + 1) // 2]) for i in range(c)
            ),
        )


@dataclass(frozen=True)
class _Mixture:
    """The distribution of the channels of each position that are not known yet; tensors are [B, M, 1, H, W].

    Attributes:
        levels: L.
        log_weights: given the channels that are known.
        means: of each channel to come, as far as the known ones tell.
        log_scales: of each channel to come.
        coefficients: of each channel to come, one for each other channel to come before it.
    """

    levels: int
    log_weights: Tensor
    means: tuple[Tensor, ...]
    log_scales: tuple[Tensor, ...]
    coefficients: tuple[tuple[Tensor, ...], ...]

    @property
    def half(self) -> float:
        """Levels in a distance of 1."""
        return (self.levels - 1) / 2

    def after(self, x: Tensor) -> tuple[Tensor, _Mixture]:
        """log P(x) of the next channel, [B, 1, H, W], and what remains when it is known; x [B, 1, 1, H, W]."""
        joint = self.log_weights + self._log_bins(x)
        log_p = torch.logsumexp(joint, dim=1)
        y = x / self.half - 1
        means = (mean + own[0] * y for mean, own in zip(self.means[1:], self.coefficients[1:], strict=True))
        return (
            log_p,
            _Mixture(
                self.levels,
                F.log_softmax(joint, dim=1),  # by differences: where all are far below 0, what log_p rounds off counts
                tuple(means),
                self.log_scales[1:],
                tuple(own[1:] for own in self.coefficients[1:]),
            ),
        )

    def table(self, temperature: float) -> Tensor:
        """Of the next channel, [B, L, H, W]."""
        levels = torch.arange(self.levels, dtype=self.log_weights.dtype, device=self.log_weights.device)
        log_p = torch.logsumexp(self.log_weights + self._log_bins(levels.view(-1, 1, 1)), dim=1)
        return log_p.exp() if temperature == 1 else F.softmax(log_p / temperature, dim=1)

    def cdf(self) -> Tensor:
        """Of the next channel, at each level, [B, L, H, W]."""
        edges = torch.arange(1, self.levels, dtype=self.log_weights.dtype, device=self.log_weights.device) - 0.5
        below = torch.sigmoid(self._scaled(edges.view(-1, 1, 1)))
        weights = self.log_weights.exp()
        return torch.cat(((weights * below).sum(1), weights.sum(1)), dim=1)

    def _scaled(self, edge: Tensor) -> Tensor:
        """(e - mu) / s for edges counted in levels.

        In levels they are exact, and the upper edge of one is the lower edge of the next to the last bit.
        """
        return (edge - self.half - self.means[0] * self.half) * (torch.exp(-self.log_scales[0]) / self.half)

    def _log_bins(self, x: Tensor) -> Tensor:
        """log P(x) of the next channel by each component, for levels that broadcast.

        F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)): each factor has an exact logarithm however far the bin lies from the
        mean. The open bins are F(b) and F(-a) alone.
        """
        first, last = x == 0, x == self.levels - 1
        inside = torch.log(-torch.expm1(-torch.exp(-self.log_scales[0]) / self.half))
        return (
            F.logsigmoid(self._scaled(x + 0.5)).masked_fill(last, 0)
            + F.logsigmoid(-self._scaled(x - 0.5)).masked_fill(first, 0)
            + inside.masked_fill(first | last, 0)
        )
