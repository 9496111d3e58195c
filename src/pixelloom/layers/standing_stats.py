"""Standing statistics: the mean and variance of batch norm in eval mode, measured for the current weights.

Running statistics lag behind the trained weights, and are not those of EMA weights. Standing statistics are the mean,
over some batches, of the mean and variance of each batch.

Source: Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis", section 3.1 and
appendix C.1; for averages of weights Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima", section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def measure_statistics(module: nn.Module, batches: Iterable[tuple[Any, ...]]) -> None:
    """Set the running statistics of every batch norm of a module to those of some batches.

    Args:
        module: in eval mode, which does not change. Without batch norm, no batch is consumed.
        batches: arguments of the module's forward.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches instead of an exponential one
        norm.train()
    for batch in batches:
        module(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
