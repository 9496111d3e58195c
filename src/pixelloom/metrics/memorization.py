"""Did the model learn, or copy? Distances of generated pictures to their nearest training pictures, beside those of
held-out pictures, which nobody can have copied. A Frechet distance near 0 says nothing about that: a copier has it too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pixelloom.core.errors import DataError
from pixelloom.metrics.distances import LEAST, nearest


class NearestImages(NamedTuple):
    """The nearest training picture of each picture: distances float64 [N], and indices into the training set [N]."""

    distances: Tensor
    indices: Tensor


class Memorization(NamedTuple):
    """What the nearest neighbors say.

    nearest        mean distance of a generated picture to the training set; ``nearest_held`` that of a held-out one
    gap            nearest / nearest_held - 1: about 0 for honest samples, -1 for a copier, above 0 for odd pictures
    copied         share of generated pictures as near to a training picture as only q % of the held-out ones are
    copied_held    the share of held-out ones: q %, or more where distances are equal
    """

    nearest: float
    nearest_held: float
    gap: float
    copied: float
    copied_held: float


def feature_neighbors(features: Tensor, training: Tensor) -> NearestImages:
    """Nearest rows of ``training`` [M, d] to each row of ``features`` [N, d], by Euclidean distance."""
    distances, indices = nearest(features, training)
    return NearestImages(distances[:, 0], indices[:, 0])


def pixel_neighbors(images: Tensor, training: Tensor, levels: int) -> NearestImages:
    """Nearest of ``training`` (uint8 [M, C, H, W]) to each of ``images`` (uint8 [N, C, H, W]); computed on integers.

    The distance is the root mean square difference of two pictures' values in [0, 1], whatever their size.
    """
    distances, indices = nearest(images.flatten(1), training.flatten(1))
    return NearestImages(distances[:, 0] / math.sqrt(images.shape[1:].numel()) / (levels - 1), indices[:, 0])


def memorization(generated: Tensor, held_out: Tensor, *, q: float = 5) -> Memorization:
    """Figures from distances to the training set, of generated pictures [N] and of held-out ones [M].

    ``q`` in % sets how near counts as copied. Raises DataError with fewer than LEAST pictures on a side, with so few
    held-out ones that q % of them are less than one, or where all of them are training pictures.
    """
    least = max(LEAST, math.ceil(100 / q))
    for what, x, smallest in (("generated", generated, LEAST), ("held-out", held_out, least)):
        if len(x) < smallest:
            raise DataError(f"nearest: {len(x)} {what} pictures are too few; it takes {smallest} at least")
    near = held_out.sort().values[max(math.floor(len(held_out) * q / 100), 1) - 1]
    mean, mean_held = float(generated.mean()), float(held_out.mean())
    if mean_held == 0:
        raise DataError("nearest: every held-out picture is in the training set too, so nothing tells a copy")
    return Memorization(
        nearest=mean,
        nearest_held=mean_held,
        gap=mean / mean_held - 1,
        copied=_share(generated <= near),
        copied_held=_share(held_out <= near),
    )


def _share(hits: Tensor) -> float:
    return float(hits.to(torch.float64).mean())
