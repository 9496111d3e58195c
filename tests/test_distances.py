"""Distances of features against closed forms, plain renderings and sets whose answer is known."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pixelloom.core.errors import DataError
from pixelloom.metrics import distances
from pixelloom.metrics.distances import (
    frechet,
    kid,
    mmd_variance,
    nearest,
    neighborhoods,
    shared_rows,
    squared_distances,
    subset_size,
)


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def with_moments(n: int, mean: npt.NDArray[np.float64], root: npt.NDArray[np.float64], seed: int) -> Tensor:
    """n points whose sample mean is ``mean`` and whose sample covariance is ``root @ root.T``, exactly."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T).reshape(len(mean), -1))).T
    return torch.from_numpy(x @ root.T + mean)


# Frechet


def test_frechet_of_two_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    d = 6
    means, roots = rng.normal(size=(2, d)) * 3, rng.normal(size=(2, d, d))
    a, b = roots[0] @ roots[0].T, roots[1] @ roots[1].T
    values, vectors = np.linalg.eigh(a)
    half = vectors * np.sqrt(values) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(half @ b @ half)).sum()
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross
    x, y = (with_moments(n, means[i], roots[i], i) for i, n in enumerate((40, 70)))
    assert frechet(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet(y, x) == pytest.approx(expected, rel=1e-9)
    assert frechet(x + 1e4, y + 1e4) == pytest.approx(expected, rel=1e-6)  # far from 0, nothing is lost
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)


def test_frechet_in_one_dimension() -> None:
    x, y = (with_moments(30, np.array([m]), np.array([[s]]), i) for i, (m, s) in enumerate(((1.0, 2.0), (4.0, 0.5))))
    assert frechet(x, y) == pytest.approx((4 - 1) ** 2 + (2 - 0.5) ** 2, rel=1e-10)


@pytest.mark.parametrize(("n", "m", "d"), [(800, 800, 16), (400, 1600, 16), (1600, 1600, 16), (2000, 2000, 32)])
def test_the_baseline_of_frechet_goes_with_one_over_n(n: int, m: int, d: int) -> None:
    found = np.array([frechet(normal(n, d, 2 * i), normal(m, d, 2 * i + 1)) for i in range(24)])
    error = found.std() / np.sqrt(len(found))
    assert error < 0.05 * found.mean()
    assert abs(found.mean() - (1 / n + 1 / m) * (d + d * (d + 1) / 4)) < 3.5 * error


def test_the_baseline_of_400_images_with_64_features() -> None:
    assert np.mean([frechet(normal(400, 64, i), normal(400, 64, i + 9)) for i in range(3)]) == pytest.approx(5.7, 0.03)


def test_frechet_of_too_few_images_is_refused() -> None:
    with pytest.raises(DataError, match="fd: 64 generated images are too few with 64 features; at least 65 are needed"):
        frechet(normal(65, 64, 0), normal(64, 64, 1))
    with pytest.raises(DataError, match="fd: 19 real images are too few"):
        frechet(normal(19, 2, 0), normal(64, 2, 1))
    assert frechet(normal(65, 64, 0), normal(65, 64, 1)) > 0


# KID


def unbiased(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Gretton et al. 2012, equation 3, for the kernel (x.y / d + 1)^3, by loops."""
    m, d = x.shape

    def k(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
        return float((a @ b / d + 1) ** 3)

    same = sum(k(x[i], x[j]) + k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    return same / (m * (m - 1)) - 2 * sum(k(a, b) for a in x for b in y) / m**2


def test_kid_is_the_unbiased_estimator() -> None:
    x, y = normal(40, 5, 0), 1.5 * normal(24, 5, 1) + 0.3
    mean, error = kid(x, y, subsets=4, seed=7)
    torch.manual_seed(7)
    scores = []
    for _ in range(4):
        rows, others = torch.randperm(40)[:12], torch.randperm(24)[:12]
        scores.append(unbiased(x[rows].numpy(), y[others].numpy()))
    assert mean == pytest.approx(np.mean(scores), rel=1e-10)
    assert error**2 == pytest.approx(mmd_variance(x, y) + np.var(scores) / 4, rel=1e-10)


def test_the_variance_of_kid_term_by_term() -> None:
    """By loops, from the whole kernel matrices."""
    x, y = normal(31, 3, 0).numpy(), normal(23, 3, 1).numpy() + 0.8
    (xx, yy, xy), (n, m) = ((a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))), (31, 23)
    a = [np.mean([xx[i, j] for j in range(n) if j != i]) - xy[i].mean() for i in range(n)]
    b = [np.mean([yy[i, j] for j in range(m) if j != i]) - xy[:, i].mean() for i in range(m)]
    rest = 0.0
    for k, size in ((xx, n), (yy, m)):
        off = k[~np.eye(size, dtype=bool)].reshape(size, size - 1)
        rest += 2 / (size * (size - 1)) * ((off**2).mean() - 2 * (off.mean(1) ** 2).mean() + off.mean() ** 2)
    rest += 4 / (n * m) * ((xy**2).mean() - (xy.mean(1) ** 2).mean() - (xy.mean(0) ** 2).mean() + xy.mean() ** 2)
    first = 4 / n * np.var(a, ddof=1) + 4 / m * np.var(b, ddof=1)
    assert mmd_variance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(max(first - rest, rest), rel=1e-9)


@pytest.mark.parametrize(
    ("n", "m", "d", "shift", "scale"), [(60, 60, 8, 0, 1), (100, 400, 16, 0, 1), (100, 200, 8, 0.4, 1.2)]
)
def test_the_standard_error_is_that_of_repeated_draws(n: int, m: int, d: int, shift: float, scale: float) -> None:
    pairs = [(normal(n, d, 2 * i), scale * normal(m, d, 2 * i + 1) + shift) for i in range(120)]
    found = np.array([kid(x, y, subsets=30) for x, y in pairs])
    assert 0.85 < np.sqrt((found[:, 1] ** 2).mean()) / found[:, 0].std() < 1.4


def test_a_copy_of_the_reference_is_below_other_draws_of_its_distribution() -> None:
    x = normal(200, 8, 0)
    k = (x @ x.T / 8 + 1) ** 3
    off = k[~torch.eye(200, dtype=torch.bool)].mean()
    expected = -2 / 200 * float(k.diagonal().mean() - off)
    assert expected < -0.05
    assert kid(x, x[torch.randperm(200)], subsets=400)[0] == pytest.approx(expected, rel=0.1)


def test_shared_rows_are_counted() -> None:
    x, y = normal(30, 4, 0), normal(50, 4, 1)
    assert shared_rows(x, y) == 0
    assert shared_rows(torch.cat([x, y[7:9], y[7:8]]), y) == 3
    images = torch.randint(0, 256, (20, 3, 4, 4)).byte()
    near = images.clone()
    near[0, 2, 3, 3] ^= 1
    assert shared_rows(near, images) == 19


def test_kid_is_zero_in_expectation() -> None:
    found = np.array([kid(normal(60, 8, 2 * i), normal(60, 8, 2 * i + 1), subsets=10)[0] for i in range(60)])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(60)
    assert 10 < (found < 0).sum() < 50
    near, far = normal(60, 8, 0), normal(60, 8, 1) + 0.5
    assert kid(near, far, subsets=10)[0] > 5 * found.std()


def test_kid_of_two_gaussians_in_one_dimension() -> None:
    """(x y + 1)^3 = sum_k C(3, k) x^k y^k, so the distance is sum_k C(3, k) (E x^k - E y^k)^2."""
    mean = 0.5
    expected = 3 * mean**2 + 3 * mean**4 + (mean**3 + 3 * mean) ** 2
    pairs = [(normal(400, 1, 2 * i), normal(400, 1, 2 * i + 1) + mean) for i in range(60)]
    found = np.array([kid(x, y, subsets=10)[0] for x, y in pairs])
    error = found.std() / np.sqrt(len(found))
    assert error < 0.1 * expected
    assert abs(found.mean() - expected) < 3.5 * error


def test_subsets_are_drawn_by_the_seed_alone() -> None:
    x, y = normal(50, 4, 0), normal(50, 4, 1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = kid(x, y, subsets=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert kid(x, y, subsets=5) == first != kid(x, y, subsets=5, seed=1)


def test_subsets_fit_small_sets() -> None:
    """1000 at most, as in the paper, and never a whole set: subsets that are all one set have no std."""
    assert subset_size(50_000, 10_000) == 1000
    assert subset_size(50_000, 300) == 150
    mean, std = kid(normal(20, 4, 0), normal(5000, 4, 1), subsets=5)
    assert np.isfinite(mean)
    assert std > 0
    with pytest.raises(DataError, match=r"kid: 19 generated images are too few .* at least 20 are needed"):
        kid(normal(20, 4, 0), normal(19, 4, 1))


def test_one_process_measures_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)  # a sync would find no group, and fail
    x, y = normal(30, 2, 0), normal(30, 2, 1)
    assert np.isfinite(frechet(x, y))
    assert np.isfinite(kid(x, y, subsets=2)[0])


# precision, recall, density, coverage


def test_identical_sets_cover_each_other() -> None:
    x = normal(100, 3, 0)
    found = neighborhoods(x, x[torch.randperm(100)])
    assert found[:2] == (1, 1)
    assert found.coverage == 1
    assert found.density == pytest.approx(6 / 5)  # an image itself and its five nearest


def test_far_sets_share_nothing() -> None:
    assert neighborhoods(normal(50, 3, 0), normal(60, 3, 1) + 100) == (0, 0, 0, 0)


def test_a_dropped_mode_is_not_recalled() -> None:
    """Three modes far apart, of 40, 30 and 30 %; only the first two are drawn, by real images themselves."""
    modes = [normal(n, 4, n + i) + 1000 * i for i, n in enumerate((80, 60, 60))]
    found = neighborhoods(torch.cat(modes), torch.cat(modes[:2]))
    assert found.precision == 1
    assert found.recall == pytest.approx(0.7)
    assert found.coverage == pytest.approx(0.7)


def test_an_invented_mode_is_not_precise() -> None:
    real = normal(80, 4, 0)
    found = neighborhoods(real, torch.cat([real[:60], normal(20, 4, 1) + 1000]))
    assert found.precision == pytest.approx(0.75)
    assert 0.75 <= found.recall <= 1


def test_duplicates_lie_at_distance_zero() -> None:
    """Every image three times or more: neighborhoods without an extent, which hold exactly what equals them."""
    x = 100 + normal(20, 5, 0).repeat(6, 1)
    found = neighborhoods(x, torch.cat([x[:20], x[:20] + 1e-3]))
    assert found.precision == pytest.approx(0.5)
    assert found.coverage == 1


def plain(real: npt.NDArray[np.float64], fake: npt.NDArray[np.float64], k: int, k_density: int) -> tuple[float, ...]:
    def apart(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
        return float(np.sqrt(((a - b) ** 2).sum()))

    def reach(points: npt.NDArray[np.float64], i: int, k: int) -> float:
        return sorted(apart(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    radii, radii_fake = ([reach(x, i, k) for i in range(len(x))] for x in (real, fake))
    balls = [reach(real, i, k_density) for i in range(len(real))]
    precise = [any(apart(f, r) <= radius for r, radius in zip(real, radii, strict=True)) for f in fake]
    recalled = [any(apart(f, r) <= radius for f, radius in zip(fake, radii_fake, strict=True)) for r in real]
    inside = np.array([[apart(f, r) <= ball for f in fake] for r, ball in zip(real, balls, strict=True)])
    return (
        np.mean(precise).item(),
        np.mean(recalled).item(),
        inside.sum() / k_density / len(fake),
        inside.any(1).mean().item(),
    )


@pytest.mark.parametrize(("n", "m", "k", "k_density"), [(25, 31, 3, 5), (33, 24, 5, 2), (22, 22, 1, 1)])
def test_shares_by_plain_loops(monkeypatch: pytest.MonkeyPatch, n: int, m: int, k: int, k_density: int) -> None:
    real, fake = normal(n, 2, n), normal(m, 2, m) * 0.8 + 0.4
    expected = pytest.approx(plain(real.numpy(), fake.numpy(), k, k_density))
    assert neighborhoods(real, fake, k=k, k_density=k_density) == expected
    monkeypatch.setattr(distances, "_CHUNK", 4)  # many chunks, the last of them uneven
    assert neighborhoods(real, fake, k=k, k_density=k_density) == expected


def test_density_and_coverage_of_one_distribution() -> None:
    n, m, k = 150, 100, 5
    found = np.array([neighborhoods(normal(n, 4, 2 * i), normal(m, 4, 2 * i + 1))[2:] for i in range(60)])
    miss = np.prod([(n - 1 - j) / (n - 1 + m - j) for j in range(k)])
    for values, expected in zip(found.T, (1, 1 - miss), strict=True):
        assert abs(values.mean() - expected) < 3.5 * values.std() / np.sqrt(60)


def test_too_few_neighbors_are_refused() -> None:
    with pytest.raises(DataError, match="precision, recall, density, coverage: 19 real images"):
        neighborhoods(normal(19, 2, 0), normal(30, 2, 1))
    with pytest.raises(DataError, match="at least 40 are needed"):
        neighborhoods(normal(39, 2, 0), normal(40, 2, 1), k=20)


@pytest.mark.parametrize("distance", [frechet, kid, neighborhoods])
def test_features_that_are_no_numbers_are_refused(distance: object) -> None:
    broken = normal(30, 2, 0)
    broken[3, 1] = torch.nan
    with pytest.raises(DataError, match="features of generated images are not finite"):
        distance(normal(30, 2, 1), broken)  # type: ignore[operator]


# nearest


@pytest.mark.parametrize("chunk", [3, 256])
def test_nearest_by_sorting(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(distances, "_CHUNK", chunk)
    x, y = normal(10, 3, 0), normal(41, 3, 1)
    found, places = nearest(x, y, 4)
    all_of_them = np.sqrt(((x.numpy()[:, None] - y.numpy()) ** 2).sum(-1))
    np.testing.assert_array_equal(places.numpy(), np.argsort(all_of_them, 1)[:, :4])
    np.testing.assert_allclose(found.numpy(), np.sort(all_of_them, 1)[:, :4], rtol=1e-9)


def test_distances_of_integers_are_exact() -> None:
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.integers(0, 256, (n, 3000)).astype(np.uint8)) for n in (6, 9))
    y[4] = x[2]
    expected = ((x.long()[:, None] - y.long()) ** 2).sum(-1)
    assert torch.equal(squared_distances(x, y).long(), expected)
    y[4, 0] ^= 1  # one level of one pixel
    assert squared_distances(x, y)[2, 4] == 1
    found, places = nearest(x, y)
    assert (found[2, 0], places[2, 0]) == (1, 4)


def test_equal_rows_are_at_distance_zero() -> None:
    """Not at the rounding of their norms, 3e-7 here: a copy is told from what is merely near."""
    x = 10 * normal(200, 64, 0)
    squares = squared_distances(x, torch.cat([x[:9], x[:9] + 1e-3]))
    assert torch.equal(squares[:9, :9].diagonal(), torch.zeros(9, dtype=torch.float64))
    torch.testing.assert_close(
        squares[:9, 9:].diagonal(), torch.full((9,), 64e-6, dtype=torch.float64), rtol=1e-5, atol=0
    )
