"""Memorization: distances of generated images to their nearest training images, compared with those of held-out images.

A model that reproduces its training images has a Fréchet distance and a KID near 0 too; only these distances show it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pixelloom.core.errors import DataError
from pixelloom.metrics.distances import LEAST, nearest


class NearestNeighbors(NamedTuple):
    """The nearest training image of each of N images: distances float64 [N], and indices into the training set [N]."""

    distances: Tensor
    indices: Tensor


class Memorization(NamedTuple):
    """Statistics of distances to the nearest training image.

    nearest        mean distance of generated images to the training set; ``nearest_held`` that of held-out images
    gap            nearest / nearest_held - 1: about 0 without memorization, -1 for training images themselves, above 0
                   for samples unlike any training image
    copied         share of generated images that are as near to a training image as the nearest q % of held-out ones
    copied_held    the same share of held-out images: q %, or more if distances are equal
    """

    nearest: float
    nearest_held: float
    gap: float
    copied: float
    copied_held: float


def feature_neighbors(features: Tensor, training: Tensor) -> NearestNeighbors:
    """Nearest rows of ``training`` [M, d] to each row of ``features`` [N, d], by Euclidean distance."""
    distances, indices = nearest(features, training)
    return NearestNeighbors(distances[:, 0], indices[:, 0])


def pixel_neighbors(images: Tensor, training: Tensor, levels: int) -> NearestNeighbors:
    """Nearest of ``training`` (uint8 [M, C, H, W]) to each of ``images`` (uint8 [N, C, H, W]); exact, on integers.

    The distance is the root mean square difference of values in [0, 1].
    """
    distances, indices = nearest(images.flatten(1), training.flatten(1))
    return NearestNeighbors(distances[:, 0] / math.sqrt(images.shape[1:].numel()) / (levels - 1), indices[:, 0])


def memorization(generated: Tensor, held_out: Tensor, *, q: float = 5) -> Memorization:
    """Compare distances to the training set of generated images [N] with those of held-out images [M].

    A generated image counts as copied within the distance of the nearest ``q`` % of held-out images.

    Raises:
        DataError: with fewer than LEAST images on a side, if q % of the held-out images are less than one, or if all of
            them are training images.
    """
    least = max(LEAST, math.ceil(100 / q))
    for what, x, smallest in (("generated", generated, LEAST), ("held-out", held_out, least)):
        if len(x) < smallest:
            raise DataError(f"nearest: {len(x)} {what} images are too few; at least {smallest} are needed")
    near = held_out.sort().values[max(math.floor(len(held_out) * q / 100), 1) - 1]
    mean, mean_held = float(generated.mean()), float(held_out.mean())
    if mean_held == 0:
        raise DataError("nearest: all held-out images are in the training set, so memorization cannot be detected")
    return Memorization(
        nearest=mean,
        nearest_held=mean_held,
        gap=mean / mean_held - 1,
        copied=_share(generated <= near),
        copied_held=_share(held_out <= near),
    )


def _share(hits: Tensor) -> float:
    return float(hits.to(torch.float64).mean())
