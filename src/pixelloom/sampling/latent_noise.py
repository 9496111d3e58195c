"""Noise vectors of latent models: one for each image, by (seed, image index) alone; truncated; joined by paths.

    z ~ N(0, 1)            truncated to [-t, t]: images nearer to the mode, less varied (Brock et al. 2019, section 3.1)

Numbers are drawn by inverting the normal distribution function, so that a truncated vector is the untruncated one,
drawn in: a picture changes smoothly with t, and stays the same picture.
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
    """Raises UsageError for what is neither None nor a positive number."""
    if t is not None and not t > 0:
        raise UsageError(f"{name}: must be a positive number, not {t}; leave it out for none")


def latents(length: int, seed: int, first: int, n: int, *, truncation: float | None = None) -> Tensor:
    """Noise vectors of images first .. first + n - 1, float32 [n, length], standard normal.

    Args:
        length: of a vector.
        seed: chooses them, together with the image's number.
        first: number of the first image.
        n: how many.
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
    """A class for each of images first .. first + n - 1, all equally likely, int64 [n]."""
    drawn = rng.uniform_per_image((), seed, first, n, rng.Stream.LABEL)
    return torch.from_numpy((drawn * classes).astype(np.int64))


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Points on the great circle between two vectors, [T, length], at shares t of the angle w between them, [T].

        sin((1 - t) w) / sin w start + sin(t w) / sin w end

    A straight line would pass through vectors much shorter than any that training has shown the generator. Vectors of
    one direction, or of opposite ones, which no single circle joins, are joined by the line.

    Source: White 2016, "Sampling Generative Networks", section 2.1.
    """
    a, b, t = start.double(), end.double(), t.double()[:, None]
    angle = torch.acos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    if torch.sin(angle) < 1e-6:
        return torch.lerp(a, b, t).float()
    return ((torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)).float()


def path(stops: Tensor, steps: int) -> Tensor:
    """From each stop to the next in ``steps`` steps, stops [K, length] -> [(K - 1) * steps + 1, length].

    Raises:
        UsageError: for fewer than two stops, or steps < 1.
    """
    if len(stops) < 2 or steps < 1:
        raise UsageError(f"a path has two or more stops and one or more steps between, not {len(stops)} and {steps}")
    t = torch.arange(steps) / steps
    legs = [slerp(start, end, t) for start, end in itertools.pairwise(stops)]
    return torch.cat([*legs, stops[-1:].float()])
