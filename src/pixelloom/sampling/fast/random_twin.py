"""Copies of a network with random weights: what is zero in them is zero by construction, not by the current weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pixelloom.layers.copies import copy_of


def random_twin(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode, for :func:`randomize`."""
    return copy_of(network).eval()


@torch.no_grad()
def randomize(network: nn.Module, seed: int, scale: float | None = None) -> None:
    """Give all parameters random values; with a scale, add noise of this size relative to each parameter's instead.

    Parameters of zeros and ones that are not trained are masks, and are kept.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.is_floating_point() or (not parameter.requires_grad and _is_mask(parameter)):
            continue
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        if scale is None:
            parameter.copy_(noise)
        else:
            size = parameter.abs().mean().clamp(min=0.1)
            parameter.add_(noise * size * scale)


def _is_mask(parameter: Tensor) -> bool:
    return bool(((parameter == 0) | (parameter == 1)).all()) and bool((parameter == 1).any())


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Context in which a network is in evaluation mode."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
