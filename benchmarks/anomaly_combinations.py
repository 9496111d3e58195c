"""Combinations of typicality and complexity, compared on outliers that no published area of `auto` is measured on.

    python benchmarks/anomaly_combinations.py --model MODEL --against NAME... [--judged NAME...] [--out FILE]

Outliers to choose by are the data sets of --against and changed test images: turned by 90 degrees, upside down,
negatives, uniform noise, constants, shuffled pixels, the halves of two images, pixels doubled from half the resolution,
and added noise of 10 levels. The data sets of --judged do not count in the mean. The reference is every second of 2,000
validation images; z is a statistic b, c or b - c in standard deviations from its mean over the reference.

    mahalanobis   of (b, c)
    kde           density of (b, c) by a Gaussian kernel, bandwidth by Scott's rule
    dose          densities of b and of b - c, multiplied (Morningstar et al. 2021)
    residual      b less its linear regression on c, one-sided
    fisher        -log p of |z(b)| - log p of z(b - c), normal distributions: the kind `auto`
    fisher-ranks  the same with p-values by rank
    largest       the larger one of |z(b)| and z(b - c)
    squares       z(b)^2 + max(z(b - c), 0)^2
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pixelloom as pl
from machine import facts
from pixelloom.metrics.anomaly import auroc, p_values
from pixelloom.metrics.scores import KINDS, Reference, Statistics
from pixelloom.runs.anomaly import Scorer, spaced
from pixelloom.runs.score import normals, opened

OUT = Path(__file__).parent / "results" / "anomaly-combinations.json"
Values = npt.NDArray[np.float64]
Score = Callable[[Statistics], Values]


def changed(images: npt.NDArray[np.uint8]) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Changed images of 256 levels, uint8 [N, C, H, W]."""
    draw, half = np.random.default_rng(0), images.shape[2] // 2
    yield "turned", np.ascontiguousarray(images.swapaxes(2, 3)[:, :, ::-1])
    yield "upside down", np.ascontiguousarray(images[:, :, ::-1])
    yield "negative", 255 - images
    yield "noise", draw.integers(0, 256, images.shape).astype(np.uint8)
    levels = draw.integers(0, 256, (len(images), 1, 1, 1)).astype(np.uint8)
    yield "constant", np.broadcast_to(levels, images.shape).copy()
    flat = images.reshape(*images.shape[:2], -1)
    yield "shuffled", np.stack([image[:, draw.permutation(flat.shape[2])] for image in flat]).reshape(images.shape)
    yield "two halves", np.concatenate([images[:, :, :half], images[::-1][:, :, half:]], axis=2)
    yield "coarse", images[:, :, ::2, ::2].repeat(2, 2).repeat(2, 3)
    yield "grain", np.clip(images + draw.normal(0, 10, images.shape), 0, 255).astype(np.uint8)


def combinations(reference: Statistics) -> dict[str, Score]:
    """The kinds of score, and the combinations of the table above."""

    def z(statistic: Score) -> Score:
        known = statistic(reference)
        return lambda found: (statistic(found) - known.mean()) / known.std()

    def ranks(statistic: Score) -> Score:
        known = statistic(reference)
        return lambda found: -np.log(p_values(statistic(found), known))

    def density(*statistics: Score) -> Score:
        known = np.stack([each(reference) for each in statistics])  # [d, N]
        d, n = known.shape
        inverse = np.linalg.inv(np.atleast_2d(np.cov(known))) * n ** (2 / (d + 4))

        def score(found: Statistics) -> Values:
            away = np.stack([each(found) for each in statistics])[:, :, None] - known[:, None]  # [d, M, N]
            squared = np.einsum("imn,ij,jmn->mn", away, inverse, away) / 2
            least = squared.min(1, keepdims=True)
            return np.asarray(least[:, 0] - np.log(np.exp(least - squared).sum(1)))

        return score

    def bits(found: Statistics) -> Values:
        return found.bits

    def excess(found: Statistics) -> Values:
        return found.bits - found.coded

    kinds = Reference.of(reference)
    slope, start = np.polyfit(reference.coded, reference.bits, 1)
    covariance = np.linalg.inv(np.cov(np.stack([reference.bits, reference.coded])))

    def mahalanobis(found: Statistics) -> Values:
        away = np.stack([found.bits - reference.bits.mean(), found.coded - reference.coded.mean()])
        return np.asarray((away * (covariance @ away)).sum(0))

    zb, zs, db, ds = z(bits), z(excess), density(bits), density(excess)
    rb, rs = ranks(lambda found: np.abs(zb(found))), ranks(excess)
    found: dict[str, Score] = {
        kind: lambda found, kind=kind: kinds.score(kind, found)  # type: ignore[misc]
        for kind in KINDS
        if kind not in ("ratio", "auto")
    }
    return found | {
        "mahalanobis": mahalanobis,
        "kde": density(bits, lambda found: found.coded),
        "dose": lambda found: db(found) + ds(found),
        "residual": lambda found: found.bits - slope * found.coded - start,
        "fisher": lambda found: kinds.score("auto", found),
        "fisher-ranks": lambda found: rb(found) + rs(found),
        "largest": lambda found: np.maximum(np.abs(zb(found)), zs(found)),
        "squares": lambda found: zb(found) ** 2 + np.maximum(zs(found), 0) ** 2,
    }


def table(
    reference: Statistics, normal: Statistics, outliers: dict[str, Statistics], judged: list[str]
) -> dict[str, Any]:
    """The AUROC of each combination and set of outliers, and their mean over those that are not judged."""
    found: dict[str, Any] = {}
    for name, score in combinations(reference).items():
        areas = {title: auroc(score(normal), score(each)) for title, each in outliers.items()}
        mean = float(np.mean([area for title, area in areas.items() if title not in judged]))
        found[name] = {"mean": mean, "auroc": areas}
        print(f"{name:14s} {mean:.4f}  " + " ".join(f"{area:.3f}" for area in areas.values()), flush=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write one JSON file."""
    parser = argparse.ArgumentParser(description="Combinations of anomaly scores.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--against", nargs="+", default=[], help="names or paths of data with outliers to choose by")
    parser.add_argument("--judged", nargs="+", default=[], help="names or paths of data that do not count in the mean")
    parser.add_argument("-n", type=int, default=1000, help="images of each data set; of changed ones 300 or fewer")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    scorer = Scorer(pl.load(options.model))

    def measure(images: npt.NDArray[np.uint8]) -> Statistics:
        size = scorer.batch
        return Statistics.joined([scorer.measure(images[i : i + size])[0] for i in range(0, len(images), size)])

    with normals(scorer.model) as source:
        reference = measure(source.take(spaced(len(source.names), 2000)[::2]).images)
    with opened(scorer.model) as source:
        images = source.take(spaced(len(source.names), options.n)).images
    outliers = {}
    for name in (*options.judged, *options.against):
        with opened(scorer.model, name) as source:
            outliers[Path(name).name] = measure(source.take(spaced(len(source.names), options.n)).images)
    outliers |= {name: measure(each) for name, each in changed(images[:300])}
    judged = [Path(name).name for name in options.judged]
    about = {"model": Path(options.model).name, "n": options.n, "judged": judged, "machine": facts()}
    found = about | {"combinations": table(reference, measure(images), outliers, judged)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
