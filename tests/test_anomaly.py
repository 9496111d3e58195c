"""Scores of anomaly: p-values, thresholds and areas against counting, and each kind of score against its formula."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor, nn

import pixelloom as pl
from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import Batch, ImageSpec
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.heads.discrete import Categorical
from pixelloom.metrics.anomaly import auroc, auroc_interval, detection, needed, p_values, threshold
from pixelloom.metrics.scores import KINDS, Reference, Statistics, coded_bits
from pixelloom.objectives.base import Monitor
from pixelloom.objectives.config import OptimConfig
from pixelloom.objectives.likelihood import likelihood, mutated


def scores(seed: int, n: int, shift: float = 0.0, decimals: int = 1) -> np.ndarray:
    """Rounded normal numbers, so that some are equal."""
    return np.round(np.random.default_rng(seed).normal(shift, 1, n), decimals)


def test_p_values_by_hand() -> None:
    calibration = np.array([1.0, 2.0, 2.0, 3.0])
    found = p_values(np.array([0.0, 1.0, 2.0, 2.5, 3.0, 4.0]), calibration)
    assert np.allclose(found, np.array([5, 5, 4, 2, 2, 1]) / 5)


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (100, 0.01), (19, 0.05), (57, 0.05), (9, 0.1), (40, 0.3)])
def test_the_threshold_is_the_conformal_order_statistic(n: int, rate: float) -> None:
    calibration = scores(n, n, decimals=6)
    found = threshold(calibration, rate)
    k = round((n + 1) * (1 - rate) + 0.4999999)  # the next whole number
    assert found == np.sort(calibration)[k - 1]
    others = np.concatenate([calibration, scores(n + 1, 500), [found]])
    assert np.array_equal(others > found, p_values(others, calibration) <= rate + 1e-12)


def test_a_promised_rate_needs_enough_normal_images() -> None:
    assert [needed(rate) for rate in (0.01, 0.05, 0.1, 0.3, 0.5)] == [99, 19, 9, 3, 1]
    assert threshold(np.arange(99.0), 0.01) == 98
    with pytest.raises(DataError, match=r"a rate of 0.01 needs 99 calibration images or more, and there are 98"):
        threshold(np.arange(98.0), 0.01)
    for rate in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(UsageError, match="false_alarms: a rate above 0 and below 1"):
            threshold(np.arange(99.0), rate)


def test_the_rate_of_false_alarms_is_kept() -> None:
    """Over 400 calibrations of 59 images, 50 fresh images each; the expected rate is at most 0.05."""
    alarms = [
        (scores(2 * i, 50, decimals=9) > threshold(scores(2 * i + 1, 59, decimals=9), 0.05)).mean() for i in range(400)
    ]
    # E = 3 / 60 exactly, since (n + 1) a = 3 is whole
    assert abs(np.mean(alarms) - 0.05) < 4 * np.std(alarms) / 20


@pytest.mark.parametrize(("n", "m", "decimals"), [(40, 30, 1), (7, 90, 0), (1, 1, 0), (50, 50, 8)])
def test_areas_against_counting_all_pairs(n: int, m: int, decimals: int) -> None:
    normals, outliers = scores(1, n, decimals=decimals), scores(2, m, 0.8, decimals)
    pairs = [(o > x) + (o == x) / 2 for o in outliers for x in normals]
    found = detection(normals, outliers)
    assert math.isclose(found.auroc, np.mean(pairs))
    levels = sorted({*normals, *outliers}, reverse=True)
    recall = [(outliers >= t).mean() for t in levels]
    precision = [(outliers >= t).sum() / ((outliers >= t).sum() + (normals >= t).sum()) for t in levels]
    assert math.isclose(found.aupr, sum(p * (r - q) for p, r, q in zip(precision, recall, [0, *recall], strict=False)))
    at = next(t for t, r in zip(levels, recall, strict=True) if r >= 0.95 - 1e-12)
    assert math.isclose(found.fpr95, (normals >= at).mean())
    assert (found.normals, found.outliers) == (n, m)
    for value, (low, high) in ((found.auroc, found.auroc_95), (found.aupr, found.aupr_95)):
        assert 0 <= low <= value <= high <= 1


def test_areas_of_perfect_useless_and_reversed_scores() -> None:
    low, high = np.arange(20.0), np.arange(20.0) + 100
    assert detection(low, high).auroc == detection(low, high).aupr == 1
    assert detection(low, high).fpr95 == 0
    assert detection(high, low).auroc == 0
    assert detection(high, low).fpr95 == 1
    assert detection(np.zeros(5), np.zeros(9)).auroc == 0.5
    assert math.isclose(detection(np.zeros(5), np.zeros(9)).aupr, 9 / 14)
    with pytest.raises(DataError, match="one of each or more"):
        detection(low, low[:0])
    with pytest.raises(DataError, match="not a number"):
        detection(low, np.array([math.nan]))


def test_the_interval_of_an_area_solves_its_equation_and_covers() -> None:
    """The variance of Hanley and McNeil is exact for exponential scores, whose area is r / (1 + r)."""

    def variance(a: float, n: int, m: int) -> float:
        return (a * (1 - a) + (m - 1) * (a / (2 - a) - a * a) + (n - 1) * (2 * a * a / (1 + a) - a * a)) / (n * m)

    low, high = auroc_interval(0.8, 50, 30)
    for bound in (low, high):
        assert math.isclose(abs(0.8 - bound), 1.96 * math.sqrt(variance(bound, 50, 30)), rel_tol=1e-9)
    assert low < 0.8 < high
    low, high = auroc_interval(1.0, 100, 100)
    assert 0.9 < low < 1
    assert high == 1
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = auroc_interval(auroc(draw.exponential(1, 40), draw.exponential(4, 25)), 40, 25)
        covered += low <= 0.8 <= high
    assert stats.binomtest(covered, 400, 0.95).pvalue > 1e-3


def test_the_bootstrap_agrees_with_the_spread_of_fresh_data() -> None:
    draw = np.random.default_rng(3)
    found = detection(draw.normal(0, 1, 300), draw.normal(2, 1, 200))
    fresh = [detection_values(draw) for _ in range(200)]
    for width, spread in zip(
        (np.diff(found.aupr_95)[0], np.diff(found.fpr95_95)[0]), 3.92 * np.std(fresh, axis=0), strict=True
    ):
        assert 0.5 < width / spread < 2


def detection_values(draw: np.random.Generator) -> tuple[float, float]:
    """AUPR and FPR95 of fresh data, by definition."""
    normals, outliers = draw.normal(0, 1, 300), draw.normal(2, 1, 200)
    ranked = np.sort(outliers)[::-1]
    precision = [(i + 1) / (i + 1 + (normals >= t).sum()) for i, t in enumerate(ranked)]
    return float(np.mean(precision)), float((normals >= ranked[189]).mean())


def statistics(seed: int, n: int) -> Statistics:
    draw = np.random.default_rng(seed)
    coded = draw.normal(2, 0.5, n)
    return Statistics(coded * 0.7 + draw.normal(0, 0.1, n), coded, draw.normal(1, 0.2, n))


def test_each_kind_is_its_formula() -> None:
    normal, found = statistics(0, 40), statistics(1, 7)
    reference = Reference.of(normal)
    assert np.array_equal(reference.score("likelihood", found), found.bits)
    assert np.allclose(reference.score("typicality", found), abs(found.bits - normal.bits.mean()))
    assert np.allclose(reference.score("complexity", found), found.bits - found.coded)
    assert np.allclose(reference.score("ratio", found), found.bits - found.background)
    log_p = []
    for values, known in ((found.bits, normal.bits), (found.bits - found.coded, normal.bits - normal.coded)):
        log_p.append(stats.norm(known.mean(), math.sqrt(known.var(ddof=1) + 1e-6)).sf(values))
    two_sided = 2 * np.minimum(log_p[0], 1 - log_p[0])
    assert np.allclose(reference.score("auto", found), -np.log(two_sided) - np.log(log_p[1]))


def test_auto_sees_outliers_that_the_likelihood_misses() -> None:
    """Simple images of average bits, which are too many for their simplicity."""
    normal = statistics(0, 200)
    odd = Statistics(np.full(50, normal.bits.mean()), np.full(50, 1.0))
    reference, others = Reference.of(normal), statistics(1, 200)
    areas = {
        kind: auroc(reference.score(kind, others), reference.score(kind, odd)) for kind in KINDS if kind != "ratio"
    }
    assert areas["typicality"] == 0
    assert abs(areas["likelihood"] - 0.5) < 0.1
    assert areas["complexity"] > 0.95
    assert areas["auto"] > 0.95
    # and images of average complexity that are too likely
    odd = Statistics(np.full(50, normal.bits.mean() - 2), np.full(50, normal.coded.mean() - 2))
    areas = {kind: auroc(reference.score(kind, others), reference.score(kind, odd)) for kind in areas}
    assert areas["likelihood"] == 0
    assert areas["complexity"] < 0.6
    assert areas["auto"] == 1


def test_images_without_a_spread_have_finite_scores() -> None:
    equal = Statistics(np.full(5, 1.0), np.full(5, 2.0))
    reference = Reference.of(equal)
    assert np.allclose(reference.score("auto", equal), math.log(2))  # p-values of 1 and 1/2
    assert reference.score("auto", Statistics(np.array([1.5]), np.array([2.0])))[0] > 100


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(DataError, match="3 normal images to refer to are needed, and there are 2"):
        Reference.of(statistics(0, 2))
    reference, found = Reference.of(statistics(0, 5)), Statistics(np.ones(2), np.ones(2))
    with pytest.raises(UsageError, match="ratio needs a background model"):
        reference.score("ratio", found)
    with pytest.raises(UsageError, match="kind: likelihood, typicality, complexity, ratio, auto, not 'best'"):
        reference.score("best", found)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3, 2])
def test_coded_bits_are_the_size_of_the_shorter_file_that_holds_the_image(channels: int) -> None:
    draw = np.random.default_rng(0)
    images = np.stack([np.zeros((channels, 9, 7)), draw.integers(0, 17, (channels, 9, 7))]).astype(np.uint8)
    found = coded_bits(images, 17)
    for image, bits in zip(images, found, strict=True):
        size = round(bits * image.size / 8)
        assert math.isclose(bits * image.size / 8, size)
        shown = np.round(image * (255 / 16)).astype(np.uint8)
        pixels = np.concatenate(list(shown), axis=1) if channels == 2 else shown.transpose(1, 2, 0).squeeze()
        files = []
        for name, options in (("PNG", {"optimize": True}), ("WEBP", {"lossless": True})):
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, name, **options)
            back = np.asarray(Image.open(buffer).convert("RGB" if channels == 3 else "L"))
            assert np.array_equal(back, pixels)  # lossless
            files.append(len(buffer.getvalue()))
        assert size == min(files)
    assert found[0] < found[1]


def test_a_share_of_the_pixels_is_replaced_by_random_levels() -> None:
    images = torch.full((50, 3, 20, 20), 7, dtype=torch.uint8)
    torch.manual_seed(0)
    found = mutated(images, 5, 0.2)
    torch.manual_seed(0)
    assert torch.equal(found, mutated(images, 5, 0.2))
    replaced = (found != 7).all(1)  # 7 is no level of 5
    assert torch.equal(replaced, (found != 7).any(1))  # whole pixels
    assert abs(float(replaced.double().mean()) - 0.2) < 4 * math.sqrt(0.16 / 20_000)
    counts = np.bincount(found.numpy()[found.numpy() != 7], minlength=5)
    assert stats.chisquare(counts).pvalue > 1e-3
    channels = found.transpose(0, 1).flatten(1)[:, replaced.flatten()]
    assert abs(float((channels[0] == channels[1]).double().mean()) - 0.2) < 0.03  # each channel is drawn


class Recorder(nn.Module):
    """Logits that do not depend on the image; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.0, 1.0, -1.0]))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.logits[None, :, None, None].expand(len(x), 3, *x.shape[2:])


def test_a_background_model_sees_and_predicts_noised_images() -> None:
    images = torch.randint(3, (64, 1, 6, 6), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    head, scaling, network = Categorical(ImageSpec(1, 6, 6, 3)), Scaling.unit(), Recorder()
    for share in (0.0, 0.3):
        objective = likelihood(
            network, head, 3, scaling, OptimConfig(), Monitor("bits/dim", lambda _: {}), noise_inputs=share
        )
        torch.manual_seed(5)
        loss, _ = objective.phases[0].loss(Batch(images, None))
        following = torch.rand(1)
        torch.manual_seed(5)
        expected = mutated(images, 3, share) if share else images
        assert torch.equal(torch.rand(1), following)
        assert torch.equal(network.seen, to_model(expected, 3, scaling))
        log_p = network.logits.detach().double().log_softmax(0)
        assert math.isclose(float(loss.detach()), -float(log_p[expected.long()].mean()), rel_tol=1e-5)
        assert share == 0 or 0.1 < float((expected != images).double().mean()) < 0.3


def test_noise_inputs_reaches_training(tmp_path: Path) -> None:
    small = {"model.channels": 4, "model.hidden": 4, "model.blocks": 1}
    models = [
        pl.train("digits", images=128, out=tmp_path / str(share), overrides=small | {"noise_inputs": share})
        for share in (0.0, 0.2)
    ]
    plain, noised = (model.network.state_dict() for model in models)
    assert any(not torch.equal(plain[name], noised[name]) for name in plain)
    assert "noise_inputs: 0.2" in (tmp_path / "0.2" / "config.yaml").read_text()
