"""The optimizer of a phase, its learning rate schedule, and the EMA of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pixelloom.engine.muon import Muon
from pixelloom.layers.copies import copy_of
from pixelloom.objectives.config import OptimConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> Optimizer:
    """Return the optimizer of ``config``; for "sgd" the first beta is the Nesterov momentum.

    ``fused`` does all arithmetic of an update in one pass over each tensor instead of one pass per operation.
    """
    if config.kind == "sgd":
        momentum = config.betas[0]
        return SGD(
            parameters,
            config.lr,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=config.weight_decay,
            fused=True,
        )
    if config.kind == "muon":
        return Muon(parameters, config.lr, config.betas, config.eps, config.weight_decay)
    kind = Adam if config.kind == "adam" else AdamW
    return kind(parameters, config.lr, config.betas, config.eps, config.weight_decay, fused=True)


def rate(progress: float, images: int, config: OptimConfig) -> float:
    """Return the learning rate of a step.

    Warm-up is counted in images, since it bridges the time until the optimizer's moment estimates are reliable. Decay
    is a function of the share of the budget, so that one recipe fits every budget, wall-clock time included.

    Args:
        progress: share of the budget used at the start of the step.
        images: number of images seen at the end of the step.
        config: peak rate and schedule.
    """
    warmup = min(1.0, images / config.warmup) if config.warmup else 1.0
    progress = min(progress, 1.0)
    decay = {"none": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[config.decay]
    return config.lr * warmup * decay


def ema_gamma(sigma_rel: float) -> float:
    """Return gamma of the power-function EMA of relative width ``sigma_rel`` (Karras et al. 2024, 2312.02696, eq. 3).

    Args:
        sigma_rel: standard deviation of the averaging profile as a share of the run, in (0, 12^-1/2 = 0.2887]. The
            largest value has gamma = 0, the mean of all weights.

    Raises:
        ValueError: if ``sigma_rel`` is out of range.
    """
    if not 0 < sigma_rel <= 12**-0.5:
        raise ValueError(f"sigma_rel={sigma_rel} is not in (0, 0.2887]")
    # The weights at time u = tau / t in [0, 1] enter the average with density (gamma + 1) u^gamma. With a = gamma + 1
    # its moments are E[u^k] = a / (a + k), hence
    #
    #     sigma_rel^2 = a / (a + 2) - (a / (a + 1))^2 = a / ((a + 1)^2 (a + 2))                      (eq. 3, squared)
    #
    # so a is a zero of g(a) = a - sigma_rel^2 (a + 1)^2 (a + 2). The right-hand side of the equation is below 1 / a^2,
    # so all zeros are below 1 / sigma_rel; for a >= 1 it decreases from 1/12 to 0, so exactly one zero is at a >= 1.
    # For a > 0 g is concave, and at a = 1 / sigma_rel both g and g' are negative. Newton's method from there decreases
    # monotonically to this zero, with quadratic convergence, until rounding ends the decrease.
    variance = sigma_rel**2
    a = 1 / sigma_rel
    while True:
        value = a - variance * (a + 1) ** 2 * (a + 2)
        slope = 1 - variance * (a + 1) * (3 * a + 5)
        lower = a - value / slope
        if lower >= a:
            return max(a - 1, 0.0)
        a = lower


class EMA:
    """A copy of a module whose parameters are a power-function EMA (Karras et al. 2024, 2312.02696, section 3.1).

        w'_t = beta_t w'_(t-1) + (1 - beta_t) w_t        beta_t = (1 - 1/t)^(gamma + 1)

    The profile has a width of ``sigma_rel`` times the length of the run, so it need not be tuned to the budget, and
    beta_1 = 0 removes the initial weights. Buffers (running statistics, vectors of spectral norm) are copied from the
    current weights: they fit the EMA weights only approximately, but the mean of unit vectors is no unit vector.
    """

    def __init__(self, module: nn.Module, sigma_rel: float) -> None:
        self.module = copy_of(module).eval().requires_grad_(False)
        self.exponent = ema_gamma(sigma_rel) + 1
        self._source = module
        self._averages: list[Tensor] = list(self.module.parameters())
        self._weights: list[Tensor] = list(module.parameters())

    @torch.no_grad()
    def update(self, t: int) -> None:
        """Add the module's weights after step t = 1, 2, ..."""
        beta = (1 - 1 / t) ** self.exponent
        torch._foreach_lerp_(self._averages, self._weights, 1 - beta)
        for copied, buffer in zip(self.module.buffers(), self._source.buffers(), strict=True):
            copied.copy_(buffer)
