"""Sample metrics, from images to numbers with their baselines: of a good model, of a copier, of noise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from image_toys import toy_images
from pixelloom.core import rng
from pixelloom.core.errors import DataError, UsageError
from pixelloom.data.catalog import DataConfig, load
from pixelloom.metrics import results
from pixelloom.metrics.distances import frechet, kid, neighborhoods
from pixelloom.metrics.extractors import Pixels, features
from pixelloom.metrics.memorization import pixel_neighbors
from pixelloom.metrics.results import METRICS, Reference, Result, measure


def by_name(found: list[Result]) -> dict[str, Result]:
    return {figure.name: figure for figure in found}


def test_metrics_are_those_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_SUBSETS", 5)
    samples, held_out, training = toy_images(90, 0), toy_images(150, 1), toy_images(120, 2)
    found = by_name(measure(samples, Reference(held_out, training), 16, extractor="pixels", seed=3))
    fake, real = features(samples, 16, Pixels(1)), features(held_out, 16, Pixels(1))
    assert list(found) == [
        *(f"{name}-pixels" for name in METRICS if name != "nearest"),
        *("nearest-pixels", "gap-pixels", "copied-pixels"),
    ]
    assert (found["kid-pixels"].value, found["kid-pixels"].standard_error) == kid(real, fake, subsets=5, seed=3)
    assert found["fd-pixels"].value == frechet(real, fake)
    order = torch.from_numpy(rng.permutation(150, 3, rng.Stream.BASELINE))
    shares = neighborhoods(real[order[75:]], fake[:75])  # the sizes of their baseline
    assert [found[f"{name}-pixels"].value for name in METRICS[2:6]] == list(shares)
    assert [found[f"{name}-pixels"].baseline for name in METRICS[2:6]] == list(
        neighborhoods(real[order[75:]], real[order[:75]])
    )
    ours, others = (pixel_neighbors(x, training, 16).distances for x in (samples, held_out))
    assert found["nearest-pixels"].value == pytest.approx(float(ours.mean()))
    assert found["nearest-pixels"].baseline == pytest.approx(float(others.mean()))
    assert found["fd-pixels"].baseline is None
    assert found["fd-pixels"].note.endswith("; a baseline at equal N needs at most 45 samples")
    assert {(f.n, f.reference, f.baseline_n) for f in found.values()} == {
        (90, 150, (75, 75)),
        (90, 150, None),
        (75, 75, (75, 75)),
        (90, 120, (150, 120)),
    }
    assert found["kid-pixels"].note == "mean over 5 subsets of 45 images"
    text = json.dumps([figure.as_dict() for figure in found.values()], allow_nan=False)
    assert json.loads(text)[0]["name"] == "kid-pixels"


def test_baselines_are_of_two_disjoint_parts_of_held_out_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many real images as there are samples, against the rest: real features are told apart by their number."""
    seen: list[tuple[Tensor, Tensor]] = []

    def recorded(real: Tensor, fake: Tensor) -> float:
        seen.append((real, fake))
        return 0.0

    monkeypatch.setattr(results, "frechet", recorded)
    held_out, samples = toy_images(400, 1), toy_images(90, 0)
    held_out[:, 0, 0, 0] = torch.arange(400) % 16
    held_out[:, 0, 0, 1] = torch.arange(400) // 16 % 16
    held_out[:, 0, 0, 2] = torch.arange(400) // 256
    (figure,) = measure(samples, Reference(held_out), 16, metrics=("fd",), extractor="pixels")
    (rest, part), (_, _) = seen
    assert (len(part), len(rest)) == (90, 310) == figure.baseline_n
    both = torch.cat([part, rest])
    assert len(both.unique(dim=0)) == 400
    measure(samples, Reference(held_out), 16, metrics=("fd",), extractor="pixels", seed=1)
    assert not torch.equal(seen[2][1], part)


def test_a_perfect_model_is_at_the_baseline_of_each_metric() -> None:
    samples, held_out, training = toy_images(240, 0), toy_images(800, 1), toy_images(500, 2)
    found = by_name(measure(samples, Reference(held_out, training), 16, extractor="random"))
    fds = [
        by_name(measure(samples, Reference(held_out, None), 16, metrics=["fd"], extractor="random", seed=seed))[
            "fd-random"
        ]
        for seed in range(20)  # of the halves that held-out images are cut into: one pair is off by a third
    ]
    assert np.mean([fd.baseline for fd in fds]) == pytest.approx(found["fd-random"].value, rel=0.3)
    distance = found["kid-random"]
    assert distance.standard_error is not None
    assert abs(distance.value) < 3 * distance.standard_error
    for name in ("precision", "recall", "density", "coverage"):
        assert found[f"{name}-random"].value == pytest.approx(found[f"{name}-random"].baseline, abs=0.12)
    reals = found["coverage-random"].reference
    assert (found["coverage-random"].n, reals) == found["coverage-random"].baseline_n == (240, 560)
    assert found["coverage-random"].value == pytest.approx(1 - (560 / 800) ** 5, abs=0.08)
    for space in ("random", "pixels"):
        assert abs(found[f"gap-{space}"].value) < 0.05
        assert found[f"copied-{space}"].value < 0.12


def test_the_baseline_of_a_frechet_distance_has_the_bias_of_the_value() -> None:
    """About (1/N + 1/N') (d + d (d + 1) / 4): within a tenth up to 0.3 of the held-out images, else hidden."""
    held_out = toy_images(500, 1)
    for n, shown in ((100, True), (150, True), (155, False), (400, False)):
        (fd,) = measure(toy_images(n, 0), Reference(held_out), 16, metrics=("fd",), extractor="pixels")
        assert (fd.baseline is not None) == (fd.baseline_n is not None) == shown
        assert ("a baseline at equal N needs at most 150 samples" in fd.note) == (not shown)


def test_samples_that_equal_held_out_images_are_counted() -> None:
    held_out, other = toy_images(200, 1), toy_images(100, 0)
    some = torch.cat([other[:60], held_out[5:8]])
    kid, recall = measure(some, Reference(held_out), 16, metrics=("kid", "recall"), extractor="pixels")
    assert kid.note.endswith("; 3 samples equal held-out images, which lowers kid")
    assert recall.note.endswith("; 3 samples equal held-out images")
    (kid,) = measure(other, Reference(held_out), 16, metrics=("kid",), extractor="pixels")
    assert "equal" not in kid.note


def test_a_model_that_copies_is_caught_by_nearest_alone() -> None:
    held_out, training = toy_images(400, 1), toy_images(500, 2)
    found = by_name(measure(training[:120], Reference(held_out, training), 16, extractor="random"))
    assert found["fd-random"].value < 1.3 * (found["fd-random"].baseline or 0)
    for space in ("random", "pixels"):
        assert found[f"nearest-{space}"].value == pytest.approx(0, abs=1e-5)
        assert found[f"gap-{space}"].value == pytest.approx(-1, abs=1e-4)
        assert found[f"copied-{space}"].value == 1


def test_noise_is_far_from_real_digits() -> None:
    """The embedded digits, 17 levels, by the features of digits; noise has their values at other places."""
    data = load(DataConfig(source="digits"))
    held_out, (real, _) = data.test.all()[0], data.val.take(range(100))
    noise = np.random.default_rng(0).permuted(real.reshape(100, -1), axis=1).reshape(real.shape)
    asked = ("kid", "precision")
    good, bad = (
        by_name(measure(x, Reference(held_out), 17, metrics=asked, extractor="lenet-mnist")) for x in (real, noise)
    )
    assert list(good) == ["kid-lenet-mnist", "precision-lenet-mnist"]
    assert bad["kid-lenet-mnist"].value > 0.5
    assert abs(good["kid-lenet-mnist"].value) < 0.05
    assert bad["precision-lenet-mnist"].value < 0.5 < good["precision-lenet-mnist"].value


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (3, 2), (3, 4), (3, 256)])
def test_other_images_are_measured(channels: int, levels: int) -> None:
    samples, held_out, training = (toy_images(70, i, channels=channels, levels=levels) for i in range(3))
    found = measure(samples, Reference(held_out.numpy(), training), levels, extractor="auto", source="mine")
    assert {figure.name.split("-", 1)[1] for figure in found} == {"natural", "pixels"}
    assert all(math.isfinite(figure.value) for figure in found)
    (fd,) = (figure for figure in found if figure.name == "fd-natural")
    assert fd.baseline is None  # 35 images against 35 have no covariance in 64 dimensions
    assert fd.note.endswith("too few held-out images for a baseline")


def test_what_cannot_be_measured_is_refused() -> None:
    few, some = toy_images(10, 0), toy_images(60, 1)
    with pytest.raises(DataError, match="kid: 10 generated images are too few"):
        measure(few, Reference(some), 16, metrics=("kid",))
    with pytest.raises(DataError, match="fd: 60 real images are too few with 64 features; at least 65 are needed"):
        measure(toy_images(90, 0), Reference(some), 16, metrics=("fd",))
    with pytest.raises(DataError, match="kid: 0 generated"):
        measure(few[:0], Reference(some), 16, metrics=("kid",))
    with pytest.raises(UsageError, match=r"no 'fid'\. Did you mean 'fd'.* There are kid, fd, precision"):
        measure(some, Reference(some), 16, metrics=("kid", "fid"))
    for training in (None, some[:0]):
        with pytest.raises(UsageError, match="'nearest' compares with training images"):
            measure(some, Reference(some, training), 16, metrics=("nearest",))
    with pytest.raises(DataError, match=r"held-out images: \[1, 8, 7\] an image, but samples have \[1, 8, 8\]"):
        measure(some, Reference(some[..., :7]), 16, metrics=("kid",))
    with pytest.raises(DataError, match=r"training images: level 15 in images of 2 levels"):
        measure(some % 2, Reference(some % 2, some), 2)
