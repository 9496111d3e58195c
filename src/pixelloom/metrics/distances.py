"""Distances between features of real and of generated images, float64 [N, d].

torchmetrics computes the Fréchet distance and KID; precision and recall (Kynkäänniemi et al. 2019), density and
coverage (Naeem et al. 2020) are computed here. All run in chunks: 10,000 against 10,000 images take about 110 MB.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pixelloom.core.errors import DataError

LEAST = 20
"""The smallest number of images on a side for a distance."""
_CHUNK = 256
_SLACK = 1 + 1e-9  # distances that differ by rounding only count as equal


class _Given(nn.Module):
    """The identity on features, in place of the extractor that torchmetrics expects."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def frechet(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of Gaussians with the sets' means and covariances.

    It is biased: for two sets of one standard normal distribution with N much larger than d it is not 0 but about
    (1/N + 1/N') (d + d (d + 1) / 4).

    Source: Heusel et al. 2017, section 2 (FID, with features of Inception).

    Raises:
        DataError: if a side has at most d images, whose covariance would be singular.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # here, since torchmetrics is slow to import

    checked(real, fake, least_frechet(real.shape[1]), "fd")
    # One process measures: a sync would wait for the others.
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]), sync_on_compute=False)
    middle = real.mean(0)  # the distance is invariant to it; avoids cancellation in the covariances
    metric.update(real - middle, real=True)
    metric.update(fake - middle, real=False)
    return max(float(metric.compute()), 0.0)


def least_frechet(d: int) -> int:
    """The smallest number of images on a side for a Fréchet distance in d dimensions."""
    return max(LEAST, d + 1)


def kid(real: Tensor, fake: Tensor, *, subset: int = 1000, subsets: int = 100, seed: int = 0) -> tuple[float, float]:
    """KID: unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3.

    Returns the mean over random subsets of ``subset_size(...)`` images of each side, as torchmetrics computes it, and
    its standard error: how far the mean of other images from the same distributions would be. If both sets are
    independent draws from one distribution the mean is 0 in expectation at any N, so it can be negative. Not multiplied
    by 1000.

    Sets that share images are not independent: N images that are all in both sets get about -(2/N) (E k(x, x) - E k(x,
    y)), so copies of the reference are preferred to other real images. See :func:`shared_rows`.

    Source: Bińkowski et al. 2018, section 4.

    Raises:
        DataError: with fewer than LEAST images on a side.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    checked(real, fake, LEAST, "kid")
    size = subset_size(len(real), len(fake), subset)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save", UserWarning)
        metric = KernelInceptionDistance(
            feature=_Given(real.shape[1]), subsets=subsets, subset_size=size, sync_on_compute=False
        )
        torch.manual_seed(seed)  # torchmetrics draws the subsets from the global generator
        metric.update(real, real=True)
        metric.update(fake, real=False)
        mean, deviation = metric.compute()
    # Given the images, subsets are independent and their mean is the value of the whole sets.
    return float(mean), math.sqrt(mmd_variance(real, fake) + float(deviation) ** 2 / subsets)


def mmd_variance(x: Tensor, y: Tensor) -> float:
    """Estimate of the variance of the unbiased squared maximum mean discrepancy of x [N, d] and y [M, d].

    With a_i = E k(x_i, x) - E k(x_i, y), b_j = E k(y_j, y) - E k(y_j, x), and the kernel h centered in both arguments,
    Hoeffding's decomposition of the statistic gives the variance

        4/N var a + 4/M var b + 2/(N (N - 1)) E h(x, x')^2 + 2/(M (M - 1)) E h(y, y')^2 + 4/(N M) E h(x, y)^2.

    Means over the sets in place of E raise var a and var b by E h^2 / N terms, which are subtracted. Without the last
    three terms it would be 0 for equal distributions. Source: Gretton et al. 2012, section 4; Serfling 1980, section 5.
    """
    n, m = len(x), len(y)
    (xx, xx_square), (yy, yy_square) = _kernel_means(x), _kernel_means(y)
    (xy, xy_square), (yx, _) = _kernel_means(x, y), _kernel_means(y, x)
    second = [
        (2 / (n * (n - 1)), xx_square - 2 * xx.square().mean() + xx.mean() ** 2),
        (2 / (m * (m - 1)), yy_square - 2 * yy.square().mean() + yy.mean() ** 2),
        (4 / (n * m), xy_square - xy.square().mean() - yx.square().mean() + xy.mean() ** 2),
    ]
    rest = sum(factor * max(float(square), 0.0) for factor, square in second)
    first = 4 / n * float((xx - xy).var()) + 4 / m * float((yy - yx).var())
    return max(first - rest, rest)


def _kernel_means(x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean over j of k(x_i, y_j), float64 [N], and the mean of all squares; without y over the other rows of x."""
    x = x.double()
    others = x if y is None else y.double()
    count = len(others) - (y is None)
    rows, squares = [], torch.zeros((), dtype=torch.float64)
    for start in range(0, len(x), _CHUNK):
        k = (x[start : start + _CHUNK] @ others.T / x.shape[1] + 1).pow_(3)  # [chunk, M]
        if y is None:
            k.diagonal(start).zero_()
        rows.append(k.sum(1) / count)
        squares += k.square_().sum() / count
    return torch.cat(rows), squares / len(x)


def shared_rows(x: Tensor, y: Tensor) -> int:
    """Number of rows of x [N, ...] that equal a row of y [M, ...] in all values."""
    known = {row.tobytes() for row in y.flatten(1).contiguous().numpy()}
    return sum(row.tobytes() in known for row in x.flatten(1).contiguous().numpy())


def subset_size(n: int, m: int, subset: int = 1000) -> int:
    """Images of a subset: at most half of the smaller side, so that subsets differ."""
    return min(subset, n // 2, m // 2)


class Neighborhoods(NamedTuple):
    """Shares of one set in neighborhoods of the other, each of which ends at the k-th nearest image of its own set.

    precision  generated images inside the neighborhood of a real one: fidelity
    recall     real images inside the neighborhood of a generated one: diversity
    density    real neighborhoods that hold a generated image, over k: fidelity, robust to outliers; 1 in expectation
               for equal distributions
    coverage   real images with a generated one in their neighborhood: diversity
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighborhoods(real: Tensor, fake: Tensor, *, k: int = 3, k_density: int = 5) -> Neighborhoods:
    """The four shares, with k for precision and recall and ``k_density`` for density and coverage, as in the papers.

    For real [N, d] and fake [M, d] of one continuous distribution the expected density is 1, and the expected coverage
    1 - prod_{j < k} (N - 1 - j) / (N - 1 + M - j), whatever d is.

    Raises:
        DataError: with fewer than LEAST images, or than 2 k, on a side.
    """
    checked(real, fake, max(LEAST, 2 * k, 2 * k_density), "precision, recall, density, coverage")
    real, fake = _centered(real, fake)
    # Column k is the k-th nearest other image: column 0 is the image itself, or one that equals it.
    reach = nearest(real, real, max(k, k_density) + 1)[0].square() * _SLACK
    reach_fake = nearest(fake, fake, k + 1)[0][:, k].square() * _SLACK
    precise = torch.zeros(len(fake), dtype=torch.bool)
    recalled, covered, inside = [], [], 0
    for rows, radii in zip(torch.split(real, _CHUNK), torch.split(reach, _CHUNK), strict=True):
        distances = squared_distances(rows, fake)
        precise |= (distances <= radii[:, k, None]).any(0)
        recalled.append((distances <= reach_fake).any(1))
        within = distances <= radii[:, k_density, None]
        covered.append(within.any(1))
        inside += int(within.sum())
    return Neighborhoods(
        precision=float(precise.double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=inside / (k_density * len(fake)),
        coverage=float(torch.cat(covered).double().mean()),
    )


def nearest(queries: Tensor, others: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest of ``others`` [M, d] to each query [N, d]: distances, ascending, and indices, both [N, k].

    Rows of any type; integers (levels, for instance) become float64 a chunk at a time.
    """
    found, places = [], []
    for rows in torch.split(queries, _CHUNK):
        best = torch.empty(len(rows), 0, dtype=torch.float64)
        at = torch.empty(len(rows), 0, dtype=torch.long)
        for start in range(0, len(others), 16 * _CHUNK):
            part = others[start : start + 16 * _CHUNK]
            near = squared_distances(rows, part).topk(min(k, len(part)), largest=False)
            best, at = torch.cat([best, near.values], 1), torch.cat([at, near.indices + start], 1)
            best, order = best.sort(stable=True)
            best, at = best[:, :k], at.gather(1, order)[:, :k]
        found.append(best.sqrt())
        places.append(at)
    return torch.cat(found), torch.cat(places)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, float64 [N, M], by one matrix product; exact for integers, and exactly 0 for equal rows."""
    x, y = x.double(), y.double()
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    squares = torch.addmm(norms, x, y.T, alpha=-2)
    # |x|^2 + |y|^2 - 2 x.y leaves rounding of the norms' size where the two are equal
    return squares.masked_fill_(squares < 1e-12 * norms, 0)


def _centered(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    middle = real.double().mean(0)
    return real.double() - middle, fake.double() - middle


def checked(real: Tensor, fake: Tensor, least: int, name: str) -> None:
    """Raise DataError for sets that are too small for a metric, or for features that are not finite."""
    enough(len(real), len(fake), real.shape[1], least, name)
    for what, x in (("real", real), ("generated", fake)):
        if not bool(x.isfinite().all()):
            raise DataError(f"{name}: features of {what} images are not finite")


def enough(real: int, fake: int, d: int, least: int, name: str) -> None:
    """Raise DataError if either number of images is below ``least``, for a metric in d features."""
    for what, n in (("real", real), ("generated", fake)):
        if n < least:
            raise DataError(
                f"{name}: {n} {what} images are too few with {d} features; at least {least} are needed, and thousands "
                "for a reproducible result"
            )
