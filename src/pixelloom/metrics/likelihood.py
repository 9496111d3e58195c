"""Exact likelihood in nats and bits, per image and per dimension, with the number of images and a 95 % interval.

Sums are float64 over all images; no batch is dropped, and no means of batch means are taken.

    bits/dim = nats per image / (dims * ln 2)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import starmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelloom.core import rng
from pixelloom.core.types import Batch, ImageSpec

_RESAMPLES = 1000
_VALUES = 64 * 32 * 32 * 3  # of a batch that is scored, at most: 64 color images of 32x32


@dataclass(frozen=True)
class Likelihood:
    """Negative log-likelihood of a data set.

    The interval is that of the mean over images, mean -+ 1.96 s / sqrt(N), s the standard deviation; None for N = 1. If
    it contains negative values, which no image has, it is the percentile interval of bootstrap means instead (Efron
    1979).
    """

    n: int
    dims: int
    nats_per_image: float
    nats_per_image_95: tuple[float, float] | None

    @property
    def nats_per_dim(self) -> float:
        """Nats per value of an image."""
        return self.nats_per_image / self.dims

    @property
    def bits_per_dim(self) -> float:
        """Bits per value of an image: the length of an ideal code with this model."""
        return self.nats_per_dim / math.log(2)

    @property
    def bits_per_dim_95(self) -> tuple[float, float] | None:
        """The interval in bits/dim."""
        if self.nats_per_image_95 is None:
            return None
        low, high = (nats / self.dims / math.log(2) for nats in self.nats_per_image_95)
        return low, high

    def as_dict(self) -> dict[str, object]:
        """All values, for JSON."""
        return asdict(self) | {
            "nats_per_dim": self.nats_per_dim,
            "bits_per_dim": self.bits_per_dim,
            "bits_per_dim_95": self.bits_per_dim_95,
        }


def likelihood(log_probs: Tensor, dims: int) -> Likelihood:
    """Summarize the log-probability of each image, float64 [N] in nats.

    Raises:
        ValueError: without images.
    """
    n = len(log_probs)
    if n == 0:
        raise ValueError("the likelihood of no images is not defined")
    nats = -log_probs.double()
    mean = float(nats.mean())
    if n == 1:
        return Likelihood(n=n, dims=dims, nats_per_image=mean, nats_per_image_95=None)
    error = 1.96 * float(nats.std()) / math.sqrt(n)
    interval = (mean - error, mean + error)
    if interval[0] < 0 <= float(nats.min()):
        interval = _bootstrap(nats)
    return Likelihood(n=n, dims=dims, nats_per_image=mean, nats_per_image_95=interval)


def _bootstrap(values: Tensor) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of the means of samples with replacement, N of N values each."""
    n = len(values)
    means = [
        values[torch.from_numpy((rng.uniform(n, rng.Stream.BOOTSTRAP, i) * n).astype(np.int64))].mean()
        for i in range(_RESAMPLES)
    ]
    low, high = torch.stack(means).quantile(values.new_tensor([0.025, 0.975])).tolist()
    return low, high


def batch_size(spec: ImageSpec) -> int:
    """Images of a batch to score: 64, or fewer so that logits of 256 levels take 200 MB at most."""
    return max(1, min(64, _VALUES // spec.dims))


def counted(batches: Iterable[Batch], on_images: Callable[[int], None] | None) -> Iterator[Batch]:
    """Yield the batches; before each but the first, call ``on_images`` with the number of images so far."""
    images = 0
    for batch in batches:
        if images and on_images is not None:
            on_images(images)
        images += len(batch.images)
        yield batch


Each = Callable[[Callable[..., Tensor], Iterable[tuple[Any, ...]]], Iterable[Tensor]]
"""(function, calls) -> ``function(*call)`` of each call, in order."""


def score(log_prob: Callable[[Tensor], Tensor], batches: Iterable[Batch], each: Each = starmap) -> Tensor:
    """Log-probability of every image, float64 [N]; ``each`` carries out the calls."""
    parts = [found.double().cpu() for found in each(log_prob, ((batch.images,) for batch in batches))]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def score_conditional(
    log_prob: Callable[[Tensor, Tensor | None], Tensor], batches: Iterable[Batch], each: Each = starmap
) -> Tensor:
    """Log-probability of every image given its label, if there is one, float64 [N]; ``each`` carries out the calls."""
    parts = [found.double().cpu() for found in each(log_prob, ((batch.images, batch.labels) for batch in batches))]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
