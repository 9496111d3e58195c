"""Nearest training neighbors, and what they tell: a copier is caught, an honest sampler is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelloom.core.errors import DataError
from pixelloom.metrics.distances import frechet
from pixelloom.metrics.memorization import feature_neighbors, memorization, pixel_neighbors


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def test_feature_neighbors_are_found() -> None:
    training = normal(200, 6, 0)
    rows = torch.tensor([17, 3, 199, 3])
    found = feature_neighbors(training[rows] + 1e-3, training)
    assert torch.equal(found.indices, rows)
    torch.testing.assert_close(found.distances, torch.full((4,), 1e-3 * math.sqrt(6), dtype=torch.float64))


@pytest.mark.parametrize("levels", [2, 256])
def test_pixel_neighbors_are_found(levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    training = torch.randint(levels, (50, 3, 4, 4), generator=generator).byte()
    images = training[[8, 40]].clone()
    images[1, 2, 0, 0] = levels - 1 - images[1, 2, 0, 0]  # one value of 48 is turned over
    found = pixel_neighbors(images, training, levels)
    assert found.indices.tolist() == [8, 40]
    turned = abs(levels - 1 - 2 * int(training[40, 2, 0, 0])) / (levels - 1)
    assert found.distances.tolist() == pytest.approx([0, turned / math.sqrt(48)])


def test_metrics_of_distances_by_hand() -> None:
    held_out = torch.arange(1.0, 101, dtype=torch.float64)[torch.randperm(100)]
    found = memorization(torch.tensor([0.0] * 4 + [5, 5.5] + [40] * 14, dtype=torch.float64), held_out, q=5)
    assert found.nearest == pytest.approx(570.5 / 20)
    assert found.nearest_held == 50.5
    assert found.gap == pytest.approx(570.5 / 20 / 50.5 - 1)
    assert found.copied == 5 / 20  # 5 and below: as near as the nearest five of a hundred
    assert found.copied_held == 5 / 100
    ties = memorization(torch.zeros(20), torch.tensor([0.0] * 30 + [1.0] * 70), q=5)
    assert (ties.copied, ties.copied_held) == (1, 0.3)  # equal distances count on both sides


def of(samples: Tensor, held_out: Tensor, training: Tensor) -> tuple[float, float]:
    ours, others = (feature_neighbors(x, training).distances for x in (samples, held_out))
    found = memorization(ours, others)
    return found.gap, found.copied


def test_an_honest_sample_is_at_the_baseline() -> None:
    """Samples and held-out images that are alike: the k-th nearest of M held-out ones bounds k / (M + 1) of samples."""
    runs = np.array(
        [of(normal(100, 5, 3 * i), normal(100, 5, 3 * i + 1), normal(300, 5, 3 * i + 2)) for i in range(80)]
    )
    for values, expected in zip(runs.T, (0, 5 / 101), strict=True):
        assert abs(values.mean() - expected) < 3.5 * values.std() / math.sqrt(len(runs))
    assert np.abs(runs[:, 0]).max() < 0.25


def test_memorization_is_caught() -> None:
    training, held_out = normal(300, 5, 0), normal(200, 5, 1)
    noise = normal(100, 5, 2)
    gap, copied = of(training[:100] + 0.01 * noise, held_out, training)
    assert gap < -0.9
    assert copied == 1
    gap, copied = of(torch.cat([training[:30], noise[30:]]), held_out, training)  # three of ten are copies
    assert -0.4 < gap < -0.2
    assert 0.3 <= copied < 0.45
    assert frechet(held_out, training[:100]) < 0.3 < frechet(held_out, noise + 1)  # which no distance would tell


def test_an_odd_sample_is_no_copy() -> None:
    gap, copied = of(normal(100, 5, 2) + 5, normal(200, 5, 1), normal(300, 5, 0))
    assert gap > 1
    assert copied == 0


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="nearest: 19 generated images are too few; at least 20 are needed"):
        memorization(torch.ones(19), torch.ones(100))
    with pytest.raises(DataError, match="99 held-out images are too few; at least 100 are needed"):
        memorization(torch.ones(20), torch.ones(99), q=1)
    with pytest.raises(DataError, match="all held-out images are in the training set"):
        memorization(torch.ones(20), torch.zeros(100))
