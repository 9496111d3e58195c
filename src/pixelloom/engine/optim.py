"""The optimizer of a phase, its learning rate over a run, and the average of the weights that users get."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pixelloom.engine.muon import Muon
from pixelloom.objectives.base import OptimConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> Optimizer:
    """The optimizer that ``config`` names; for "sgd" the first beta is the (Nesterov) momentum.

    ``fused``: one kernel for all parameters, several times faster than the default on CPUs and GPUs alike.
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
    """The learning rate of a round: warm-up over the ``images`` seen by its end, decay over ``progress`` at its start.

    Warm-up is counted in images because its length is a matter of the optimizer's moments, not of the budget; decay in
    shares of the budget, so that one recipe fits every budget, the clock's too.
    """
    warmup = min(1.0, images / config.warmup) if config.warmup else 1.0
    progress = min(progress, 1.0)
    decay = {"none": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[config.decay]
    return config.lr * warmup * decay


def power_exponent(width: float) -> float:
    """gamma of the power-function average whose profile has standard deviation ``width``, relative to the run's length.

    Karras et al. 2024 (arXiv 2312.02696), eq. 3 and appendix C: width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)),
    a cubic in gamma with one root above -1; ``width`` in (0, 0.288), where 0.288 is the plain mean of all weights.
    """
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


class WeightAverage:
    """A copy of a module whose parameters follow w'_t = b_t w'_(t-1) + (1 - b_t) w_t with b_t = (1 - 1/t)^(gamma + 1).

    Its memory reaches back a fixed share of the run (about ``width``) however long that is: nothing to tune to the
    budget, and no start-up bias, since b_1 = 0. Buffers (running statistics, spectral norm's vectors) are copied: they
    are averages or unit vectors already, and averaging unit vectors would shrink them.
    """

    def __init__(self, module: nn.Module, width: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.exponent = power_exponent(width) + 1
        self._source = module
        self._mine: list[Tensor] = list(self.module.parameters())
        self._theirs: list[Tensor] = list(module.parameters())

    @torch.no_grad()
    def update(self, t: int) -> None:
        """Take in the module's weights after round t = 1, 2, ..."""
        keep = (1 - 1 / t) ** self.exponent
        torch._foreach_lerp_(self._mine, self._theirs, 1 - keep)
        for mine, theirs in zip(self.module.buffers(), self._source.buffers(), strict=True):
            mine.copy_(theirs)
