"""Latent vectors of GANs: a function of (seed, image index) alone; truncation; interpolation.

    z ~ N(0, 1), truncated to [-t, t]        smaller t: higher fidelity, less variety (Brock et al. 2019, section 3.1)

Numbers are drawn by inverting the normal distribution function, z = F^-1(u), and truncation maps u to [F(-t), F(t)].
So z, and with it the image, is a continuous function of t for a fixed seed.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from pixelloom.core import rng
from pixelloom.core.errors import UsageError


def check_truncation(t: float | None, name: str = "truncation") -> None:
    """Raise UsageError unless t is None or a positive number."""
    if t is not None and not t > 0:
        raise UsageError(f"{name}: must be a positive number, not {t}; leave it out for none")


def latents(length: int, seed: int, first: int, n: int, *, truncation: float | None = None) -> Tensor:
    """Latent vectors of images first .. first + n - 1, standard normal, float32 [n, length].

    Args:
        length: of each vector.
        seed: of the random stream; with the image's index it determines the vector.
        first: index of the first image.
        n: number of images.
        truncation: the largest absolute value t; None for no limit.

    Raises:
        UsageError: for a truncation that is not positive.
    """
    check_truncation(truncation)
    draws = rng.uniform_per_image((length,), seed, first, n, rng.Stream.LATENT)
    u = torch.from_numpy(draws) + 2**-54  # multiples of 2^-53 in [0, 1): the middle of each bin has a finite inverse
    outside = 0.5 * math.erfc(truncation / math.sqrt(2)) if truncation else 0.0  # P(z > t)
    z: Tensor = torch.special.ndtri(outside + (1 - 2 * outside) * u)
    return z.float()


def labels_of(classes: int, seed: int, first: int, n: int) -> Tensor:
    """Uniformly random classes of images first .. first + n - 1, int64 [n]."""
    drawn = rng.uniform_per_image((), seed, first, n, rng.Stream.LABEL)
    return torch.from_numpy((drawn * classes).astype(np.int64))


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Spherical linear interpolation from one vector to another, at fractions t [T] of the angle w between them.

        sin((1 - t) w) / sin(w) start + sin(t w) / sin(w) end

    Linear interpolation would pass through vectors much shorter than those of training. It is used for parallel and
    opposite vectors, which no unique great circle connects.

    Returns:
        float32 [T, length]

    Source: White 2016, "Sampling Generative Networks", section 2.1.
    """
    a, b, t = start.double(), end.double(), t.double()[:, None]
    angle = torch.acos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    if torch.sin(angle) < 1e-6:
        return torch.lerp(a, b, t).float()
    return ((torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)).float()


def path(stops: Tensor, steps: int) -> Tensor:
    """Interpolate from each stop to the next in ``steps`` steps, [K, length] -> [(K - 1) * steps + 1, length].

    Raises:
        UsageError: for fewer than two stops, or steps < 1.
    """
    if len(stops) < 2 or steps < 1:
        raise UsageError(f"a path has two or more stops and one or more steps between, not {len(stops)} and {steps}")
    t = torch.arange(steps) / steps
    legs = [slerp(start, end, t) for start, end in itertools.pairwise(stops)]
    return torch.cat([*legs, stops[-1:].float()])
