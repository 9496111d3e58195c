"""Weights of an Inception-v3 that are the same bits on every machine, and pictures to show it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelloom.core.rng import bits
from pixelloom.metrics.inception import LAYERS, Folded, _built

SEED = 2015


def shapes() -> dict[str, tuple[int, ...]]:
    """Of every tensor in the file, its classes among them."""
    with torch.device("meta"):
        layers, _ = _built(LAYERS, 3)
    found: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for layer in layers.modules():
        if isinstance(layer, Folded):
            found |= layer.shapes()
    return found


def weights() -> dict[str, Tensor]:
    """Tensor i of the sorted names is of u in [-1, 1) from 53 bits of raw Philox output, SeedSequence((SEED, i)).

    Convolutions are u sqrt(6 / fan-in), scales and variances of norms 1 + u / 2, all others u / 10.
    """
    found = {}
    for i, (name, shape) in enumerate(sorted(shapes().items())):
        u = _units(math.prod(shape), i)
        if name.endswith("conv.weight"):
            u *= math.sqrt(6 / math.prod(shape[1:]))
        elif name.endswith(("bn.weight", "running_var")):
            u = 1 + u / 2
        else:
            u /= 10
        found[name] = torch.from_numpy(u.astype("<f4").reshape(shape))
    return found


def picture(channels: int, height: int, width: int) -> Tensor:
    """Noise, uint8 [1, channels, height, width]: 8 bits of raw Philox output each, SeedSequence((7, height, width))."""
    raw = np.asarray(bits(7, height, width).random_raw(channels * height * width))
    return torch.from_numpy((raw >> np.uint64(56)).astype(np.uint8).reshape(1, channels, height, width))


def _units(n: int, i: int) -> npt.NDArray[np.float64]:
    raw = np.asarray(bits(SEED, i).random_raw(n))
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1
