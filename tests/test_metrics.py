"""Likelihood metrics against closed forms, and passes that count every image once."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from checks import check_every_image_counts, in_batches
from pixelloom.metrics.likelihood import Likelihood, likelihood, score
from settings import CONFIGS, Setting

LN2 = math.log(2)


def test_metrics_of_three_images_by_hand() -> None:
    found = likelihood(torch.tensor([-10.0, -14.0, -18.0], dtype=torch.float64), dims=7)
    assert (found.n, found.dims) == (3, 7)
    assert found.nats_per_image == 14
    assert found.nats_per_dim == 2
    assert found.bits_per_dim == pytest.approx(2 / LN2, rel=1e-15)
    half = 1.96 * 4 / math.sqrt(3)  # the deviation of 10, 14, 18 is 4
    assert found.nats_per_image_95 == pytest.approx((14 - half, 14 + half))
    assert found.bits_per_dim_95 == pytest.approx(((14 - half) / 7 / LN2, (14 + half) / 7 / LN2))


def test_metrics_are_ready_for_json() -> None:
    found = likelihood(-torch.arange(1.0, 6.0), dims=4).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "n": 5,
        "dims": 4,
        "nats_per_image": 3.0,
        "nats_per_image_95": [found["nats_per_image_95"][0], found["nats_per_image_95"][1]],  # type: ignore[index]
        "nats_per_dim": 0.75,
        "bits_per_dim": 0.75 / LN2,
        "bits_per_dim_95": [found["bits_per_dim_95"][0], found["bits_per_dim_95"][1]],  # type: ignore[index]
    }


def test_one_image_has_a_metric_and_no_interval() -> None:
    found = likelihood(torch.tensor([-3.0]), dims=3)
    assert found == Likelihood(n=1, dims=3, nats_per_image=3.0, nats_per_image_95=None)
    assert found.bits_per_dim_95 is None
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_no_images_have_no_likelihood() -> None:
    with pytest.raises(ValueError, match="no images"):
        likelihood(torch.empty(0), dims=3)
    assert score(lambda images: images.sum((1, 2, 3)), []).tolist() == []


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        low, high = likelihood(torch.from_numpy(rng.normal(-100, 9, 50)), 1).nats_per_image_95 or (0, 0)
        held += low < 100 < high
    assert 930 <= held <= 965  # 94.4 % with a normal quantile for 50 images


def test_bounds_of_few_images_are_not_negative() -> None:
    """One image of four costs much: mean -+ 1.96 s / 2 would begin below 0; bootstrap means lie among the values."""
    nats = torch.tensor([1.0, 2.0, 3.0, 400.0], dtype=torch.float64)
    assert float(nats.mean() - 1.96 * nats.std() / 2) < 0
    found = likelihood(-nats, dims=2)
    assert found.nats_per_image_95 is not None
    low, high = found.nats_per_image_95
    # (3/4)^4 = 31.6 % of the resamples lack the 400, 0.4 % consist of it, and 4.7 % hold it three times
    assert 1 <= low < 2
    assert high == pytest.approx(301, abs=1)
    assert found == likelihood(-nats, dims=2)
    wide = likelihood(torch.tensor([1.0, -1.0]), dims=2).nats_per_image_95  # of densities, nats can be negative
    assert wide is not None
    assert wide[0] < 0


def test_sums_are_float64() -> None:
    """A float32 sum of this many images is off in the third decimal."""
    log_probs = torch.full((200_000,), -1234.1, dtype=torch.float32)
    exact = float(torch.tensor(1234.1, dtype=torch.float32).double())
    assert likelihood(log_probs, 1).nats_per_image == pytest.approx(exact, rel=1e-12)


def test_uneven_batches_count_every_image_once() -> None:
    """No means of batch means, no dropped last batch (trap 10)."""
    check_every_image_counts(score, CONFIGS["gated"].model())
    check_every_image_counts(score, CONFIGS["mnist-gray"].model())  # batch normalization, evaluated (trap 7)


def test_ragged_means_by_hand() -> None:
    images = torch.arange(5).reshape(5, 1, 1, 1).byte()

    def log_prob(part: Tensor) -> Tensor:
        return -part.flatten().float()

    found = likelihood(score(log_prob, in_batches(images, (4, 1))), 1)
    assert found.nats_per_image == 2  # not (1.5 + 4) / 2, and not 1.5
    assert found.n == 5


@pytest.mark.parametrize("setting", CONFIGS.values(), ids=CONFIGS)
def test_an_untrained_model_costs_the_bits_of_its_levels(setting: Setting) -> None:
    spec = setting.image
    images = torch.randint(0, spec.levels, (5, *spec.shape)).byte()
    found = likelihood(score(setting.fresh().log_prob, in_batches(images, (2, 3))), spec.dims)
    assert found.bits_per_dim == pytest.approx(math.log2(spec.levels), rel=1e-6)
    assert found.nats_per_image == pytest.approx(spec.dims * math.log(spec.levels), rel=1e-6)
    low, high = found.bits_per_dim_95 or (0, 0)
    assert high - low < 1e-6
