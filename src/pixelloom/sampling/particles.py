"""Sequential Monte Carlo: samples of the hidden pixels given all known ones, from any autoregressive model.

K particles draw an image pixel by pixel. A hidden pixel is drawn from the model; a known one takes its value, and the
weight of the particle is multiplied by the probability of that value:

    w <- w p(x_i | all before i)    for a known pixel i

When the effective sample size ESS = (sum w)^2 / sum w^2 falls below K / 2, particles are drawn anew in proportion to
their weights (systematic resampling), and all weights are 1 again. At the end the weighted particles follow
p(hidden | known) up to an error of order 1/K, and the product of the mean weights is an unbiased estimate of p(known).

Sources: Gordon, Salmond, Smith 1993, "Novel approach to nonlinear/non-Gaussian Bayesian state estimation"; Doucet and
Johansen 2011, "A Tutorial on Particle Filtering and Smoothing", sections 3.5 and 4.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Particles:
    """Weights of K particles for each of G images; rows of a batch are image after image, [G * K].

    Args:
        uniform: numbers in [0, 1) for the resampling of each image, float64 [G, steps]; a step uses one.
        particles: K.

    Attributes:
        log_weights: float64 [G, K].
        log_evidence: log of the estimate of p(known) so far, without the present weights, float64 [G].
        least_ess: smallest effective sample size seen, before any resampling, float64 [G].
        origins: the particle that each one descends from, int64 [G, K].
        resampled: number of times that particles were drawn anew, int64 [G].
    """

    def __init__(self, uniform: Tensor, particles: int) -> None:
        self._uniform, self._step, self._changed = uniform, 0, False
        groups = len(uniform)
        self.log_weights = torch.zeros(groups, particles, dtype=torch.float64)
        self.log_evidence = torch.zeros(groups, dtype=torch.float64)
        self.least_ess = torch.full((groups,), float(particles), dtype=torch.float64)
        self.origins = torch.arange(particles).repeat(groups, 1)
        self.resampled = torch.zeros(groups, dtype=torch.int64)

    def weigh(self, log_likelihood: Tensor) -> None:
        """Multiply the weights by the probabilities of known pixels, given as logs, [G * K]."""
        self.log_weights += log_likelihood.double().cpu().view(self.log_weights.shape)  # [G * K] -> [G, K]
        self._changed = True

    @property
    def ess(self) -> Tensor:
        """Effective sample size of each image, float64 [G]."""
        return effective_sample_size(self.log_weights)

    def ancestors(self) -> Tensor | None:
        """End a step: the row that each row continues, int64 [G * K]; None if all continue themselves."""
        step, self._step = self._step, self._step + 1
        if not self._changed:
            return None
        self._changed, ess = False, self.ess
        self.least_ess = torch.minimum(self.least_ess, ess)
        groups, particles = self.log_weights.shape
        poor = ess < particles / 2
        if not poor.any():
            return None
        rows = torch.arange(particles).repeat(groups, 1)
        rows[poor] = systematic(self.log_weights[poor], particles, self._uniform[poor, step])
        self.log_evidence[poor] += log_mean_exp(self.log_weights[poor])
        self.log_weights[poor] = 0.0
        self.origins = self.origins.gather(1, rows)
        self.resampled += poor
        return (rows + torch.arange(groups)[:, None] * particles).flatten()  # [G, K] -> [G * K]

    def evidence(self) -> Tensor:
        """log of the estimate of p(known), float64 [G]."""
        return self.log_evidence + log_mean_exp(self.log_weights)

    def lineages(self) -> Tensor:
        """Effective number of lineages, float64 [G]: 1 / sum of squares of the total weight of each origin.

        Particles of one origin share what was drawn before they parted. A small number is a collapse that the effective
        sample size does not show, since that is large again after each resampling.
        """
        total = torch.zeros_like(self.log_weights).scatter_add_(1, self.origins, self.log_weights.softmax(1))
        return 1 / total.square().sum(1)

    def choose(self, n: int, uniform: Tensor) -> Tensor:
        """n particles of each image in proportion to the weights: rows of the batch, int64 [G, n].

        ``uniform`` is in [0, 1), float64 [G]. A particle may be chosen more than once.
        """
        groups, particles = self.log_weights.shape
        return systematic(self.log_weights, n, uniform) + torch.arange(groups)[:, None] * particles


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of weights given as logs, float64 [G, K] -> [G]; 0 where all weights are 0."""
    first, second = log_weights.logsumexp(1), (2 * log_weights).logsumexp(1)
    return torch.where(first.isneginf(), 0.0, (2 * first - second).exp())


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log of the mean weight, [G, K] -> [G]"""
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def systematic(log_weights: Tensor, n: int, uniform: Tensor) -> Tensor:
    """Systematic resampling: n of K indices in proportion to the weights, int64 [G, n], ascending.

    Index k is drawn floor(n w_k) or ceil(n w_k) times. Where all weights are 0, they count as equal.

    Args:
        log_weights: [G, K].
        n: number of indices.
        uniform: in [0, 1), [G]; determines the result.
    """
    weights = torch.where(log_weights.isneginf().all(1, keepdim=True), 0.0, log_weights).softmax(1)
    points = (torch.arange(n, dtype=torch.float64) + uniform[:, None]) / n  # [G, n]
    total = weights.cumsum(1)
    return torch.searchsorted(total / total[:, -1:], points, right=True).clamp(max=log_weights.shape[1] - 1)
