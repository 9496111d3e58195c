"""Generators at a truncation: batch norm with the statistics of truncated latent vectors.

The statistics of a generator are those of z ~ N(0, 1). Truncated vectors have features of less variance and another
mean, and images normalized by the wrong statistics are saturated or of one color. So the statistics are measured anew.

Source: Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis", appendix C.1.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pixelloom.core import rng
from pixelloom.layers.standing_stats import measure_statistics
from pixelloom.sampling.latent_noise import labels_of, latents

BATCHES, BATCH = 16, 64


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a network has statistics that truncation changes."""
    return any(isinstance(layer, _BatchNorm) for layer in network.modules())


def truncated(network: nn.Module, latent: int, classes: int, t: float) -> nn.Module:
    """A copy of a generator in eval mode, with the statistics of 1,024 latent vectors in [-t, t] of uniform classes."""
    ready = copy.deepcopy(network)
    first = next(ready.parameters())

    def batch(i: int) -> tuple[Tensor, ...]:
        z = latents(latent, rng.Stream.STANDING, i * BATCH, BATCH, truncation=t).to(first.device, first.dtype)
        if not classes:
            return (z,)
        return z, labels_of(classes, rng.Stream.STANDING, i * BATCH, BATCH).to(first.device)

    measure_statistics(ready, (batch(i) for i in range(BATCHES)))
    return ready


class Truncated:
    """The copies of a generator at truncations, each made once for the same weights."""

    def __init__(self) -> None:
        self._made: dict[float, tuple[tuple[int, ...], nn.Module]] = {}

    def of(self, network: nn.Module, latent: int, classes: int, t: float | None) -> nn.Module:
        """The generator for a truncation; the network itself for None, or if it has no batch norm."""
        if t is None or not has_batch_norm(network):
            return network
        tensors: list[torch.Tensor] = [*network.parameters(), *network.buffers()]
        state = tuple(number for tensor in tensors for number in (tensor._version, tensor.data_ptr()))
        made = self._made.get(t)
        if made is None or made[0] != state:
            self._made[t] = made = state, truncated(network, latent, classes, t)
        return made[1]
