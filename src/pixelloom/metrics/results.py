"""Sample metrics: :func:`measure` compares samples of any model with real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pixelloom.core import rng
from pixelloom.core.errors import DataError, UsageError, did_you_mean
from pixelloom.metrics.distances import LEAST, frechet, kid, least_frechet, neighborhoods, shared_rows, subset_size
from pixelloom.metrics.extractors import Extractor, Images, as_levels, extractor_for, features
from pixelloom.metrics.memorization import NearestNeighbors, feature_neighbors, memorization, pixel_neighbors
from pixelloom.metrics.table import COPIED, FD, GAP, KID, NEAREST, in_group, metric_of

SHARES = in_group("share")
METRICS = (KID, FD, *SHARES, NEAREST)
"""The metrics of :func:`measure`; ``nearest`` needs training images and has several results."""

_K, _K_DENSITY, _Q, _SUBSETS = 3, 5, 5, 100
_PUBLISHED = 10_000  # images on a side of a published FID, at least
_BIAS = 1.1  # ratio of the biases of a Fréchet distance and of its baseline, at most


@dataclass(frozen=True)
class Result:
    """The value of a metric with its real-vs-real baseline.

    Attributes:
        name: name of the metric, with the extractor if it compares features: ``kid-lenet-mnist``.
        value: of the samples.
        n: number of samples.
        reference: number of real images that they were compared with.
        baseline: value of real images in place of the samples; None if there are too few, also too few to have the bias
            of the value.
        baseline_n: number of images on both sides of the baseline.
        standard_error: of KID, see :func:`pixelloom.metrics.distances.kid`.
        note: how it was measured.
        interval: 95 % interval of a proportion.
        baseline_interval: the same of the baseline.
    """

    name: str
    value: float
    n: int
    reference: int
    baseline: float | None = None
    baseline_n: tuple[int, int] | None = None
    standard_error: float | None = None
    note: str = ""
    interval: tuple[float, float] | None = None
    baseline_interval: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, object]:
        """All fields, for JSON."""
        return asdict(self)


class Reference(NamedTuple):
    """Real images: held-out ones to compare with, and training images for the nearest neighbors."""

    held_out: Images
    training: Images | None = None


class TrainingNeighbors(NamedTuple):
    """The nearest training images, by pixels, of samples and of held-out images.

    ``held_out_indices``, int64, are the held-out images that were compared: random ones, as many as samples, at least
    1000 if there are so many.
    """

    samples: NearestNeighbors
    held_out: NearestNeighbors
    held_out_indices: Tensor


def least(metric: str, d: int) -> int:
    """The smallest number of images on a side for one of METRICS with d features."""
    return least_frechet(d) if metric == FD else LEAST


def training_neighbors(samples: Images, reference: Reference, levels: int, *, seed: int = 0) -> TrainingNeighbors:
    """Find the nearest training images, the slow part of the metric ``nearest`` of :func:`measure`.

    Raises:
        UsageError: without training images.
        DataError: as :func:`measure`.
    """
    sets = _Sets.of(samples, reference, levels)
    chosen = _chosen_held_out(len(sets.held_out), len(sets.samples), seed)
    ours, others = (pixel_neighbors(x, sets.searched, levels) for x in (sets.samples, sets.held_out[chosen]))
    return TrainingNeighbors(ours, others, chosen)


def measure(
    samples: Images,
    reference: Reference,
    levels: int,
    *,
    metrics: Sequence[str] = METRICS,
    extractor: str | Extractor = "auto",
    source: str = "",
    seed: int = 0,
    neighbors: TrainingNeighbors | None = None,
) -> list[Result]:
    """Measure samples, each metric with its real-vs-real baseline, in the order of METRICS.

    KID and the Fréchet distance compare the samples with all held-out images. Their baseline compares two disjoint
    parts of the held-out images, split by ``seed``, one as large as the samples but at most half. Precision, recall,
    density and coverage depend on both sizes, so samples are compared at the sizes of the baseline. A perfect model is
    at the baseline in expectation. The bias of the Fréchet distance grows with 1/N + 1/N', so its baseline is left out
    if these differ by more than a tenth. Samples that equal held-out images in all pixels are counted in the notes.

    Args:
        samples: uint8 [N, C, H, W].
        reference: real images.
        levels: number of levels.
        metrics: some of METRICS.
        extractor: an extractor or its name, see :func:`pixelloom.metrics.extractors.named`.
        source: name of the data set, by which the extractor "auto" is chosen.
        seed: of every random choice among real images.
        neighbors: result of :func:`training_neighbors` for the same images and seed, if known already.

    Raises:
        UsageError: for an unknown metric or extractor, or for ``nearest`` without training images.
        DataError: for images of another shape or with higher levels, or for too few of them.
        ModelError: for ``inception=FILE`` if the file cannot be used.
    """
    for name in metrics:
        if name not in METRICS:
            raise UsageError(
                f"metrics: there is no {name!r}.{did_you_mean(name, METRICS)} There are {', '.join(METRICS)}"
            )
    sets = _Sets.of(samples, reference, levels)
    training = sets.searched if NEAREST in metrics else None
    space = extractor_for(extractor, sets.samples.shape[1], source)
    fake, real = features(sets.samples, levels, space), features(sets.held_out, levels, space)
    asked = [name for name in METRICS if name in metrics and name != NEAREST]
    found = _distances(real, fake, space.name, asked, seed)
    if found and (shared := shared_rows(sets.samples, sets.held_out)):
        found = [replace(result, note=f"{result.note}; {_shared(shared, result.name)}") for result in found]
    if training is not None:
        neighbors = neighbors or training_neighbors(samples, reference, levels, seed=seed)
        if space.name != "pixels":
            known = features(training, levels, space)
            ours, others = feature_neighbors(fake, known), feature_neighbors(real[neighbors.held_out_indices], known)
            found += _memorization(ours.distances, others.distances, space.name, len(training))
        found += _memorization(neighbors.samples.distances, neighbors.held_out.distances, "pixels", len(training))
    return found


@dataclass(frozen=True)
class _Sets:
    samples: Tensor
    held_out: Tensor
    training: Tensor | None
    levels: int

    @property
    def searched(self) -> Tensor:
        """The training images; raises UsageError if there are none."""
        if self.training is None or not len(self.training):
            raise UsageError("metrics: 'nearest' compares with training images, and there are none: leave it out")
        return self.training

    @classmethod
    def of(cls, samples: Images, reference: Reference, levels: int) -> _Sets:
        x = as_levels(samples, levels, "samples")
        held_out = as_levels(reference.held_out, levels, "held-out images")
        training = None if reference.training is None else as_levels(reference.training, levels, "training images")
        for what, y in (("held-out images", held_out), ("training images", training)):
            if y is not None and y.shape[1:] != x.shape[1:]:
                raise DataError(f"{what}: {list(y.shape[1:])} an image, but samples have {list(x.shape[1:])}")
        return cls(x, held_out, training, levels)


def _distances(real: Tensor, fake: Tensor, extractor: str, metrics: Sequence[str], seed: int) -> list[Result]:
    order = torch.from_numpy(rng.permutation(len(real), seed, rng.Stream.BASELINE))
    part = min(len(fake), len(real) // 2)
    rest, stand_in = real[order[part:]], real[order[:part]]
    baselines = _values(rest, stand_in, [name for name in metrics if least(name, real.shape[1]) <= part], seed)
    # Shares depend on N / N', coverage most of all, so they are measured at the sizes of their baseline.
    equal = [name for name in metrics if name in baselines and name in SHARES]
    values = _values(real, fake, [name for name in metrics if name not in equal], seed)
    values |= _values(rest, fake[:part], equal, seed)
    notes = {name: _note(f"{name}-{extractor}", len(real), len(fake)) for name in metrics}
    if FD in baselines and 1 / part + 1 / len(rest) > _BIAS * (1 / len(fake) + 1 / len(real)):
        del baselines[FD]
        notes[FD] += f"; a baseline at equal N needs at most {3 * len(real) // 10:,} samples"
    for name in metrics:
        if least(name, real.shape[1]) > part:
            notes[name] += "; too few held-out images for a baseline"
    return [
        Result(
            name=f"{name}-{extractor}",
            value=values[name][0],
            n=part if name in equal else len(fake),
            reference=len(rest) if name in equal else len(real),
            baseline=baselines[name][0] if name in baselines else None,
            baseline_n=(part, len(rest)) if name in baselines else None,
            standard_error=values[name][1],
            note=notes[name],
        )
        for name in metrics
    ]


def _values(real: Tensor, fake: Tensor, metrics: Sequence[str], seed: int) -> dict[str, tuple[float, float | None]]:
    """Name -> value, and the standard error of KID."""
    values: dict[str, tuple[float, float | None]] = {}
    if KID in metrics:
        values[KID] = kid(real, fake, subsets=_SUBSETS, seed=seed)
    if FD in metrics:
        values[FD] = frechet(real, fake), None
    if set(metrics) & set(SHARES):
        shares = neighborhoods(real, fake, k=_K, k_density=_K_DENSITY)
        values |= {name: (value, None) for name, value in shares._asdict().items()}
    return values


def _note(name: str, real: int, fake: int) -> str:
    metric = metric_of(name)
    assert metric is not None
    if metric.name == KID:
        return f"mean over {_SUBSETS} subsets of {subset_size(real, fake)} images"
    if metric.name == FD:
        published = name == "fd-inception" and min(real, fake) < _PUBLISHED
        return "grows with 1/N: compare at equal N" + ("; published FIDs use 10,000 to 50,000" if published else "")
    return f"k = {_K if metric.name in ('precision', 'recall') else _K_DENSITY}"


def _shared(n: int, name: str) -> str:
    bias = ", which lowers kid" if name.startswith(KID) else ""
    return f"{n:,} samples equal held-out images{bias}"


def _memorization(generated: Tensor, held_out: Tensor, space: str, training: int) -> list[Result]:
    """Results from distances to the nearest training image, of samples and of held-out images."""
    found = memorization(generated, held_out, q=_Q)
    unit = "RMS of values in [0, 1]" if space == "pixels" else "Euclidean"
    rows = (
        (NEAREST, found.nearest, found.nearest_held, f"mean distance, {unit}"),
        (GAP, found.gap, 0.0, "0: as distant as real images; -1: training images"),
        (COPIED, found.copied, found.copied_held, f"share within the nearest {_Q} % of real images"),
    )
    return [
        Result(f"{name}-{space}", value, len(generated), training, baseline, (len(held_out), training), None, note)
        for name, value, baseline, note in rows
    ]


def _chosen_held_out(real: int, fake: int, seed: int) -> Tensor:
    """Held-out images to find neighbors of: as many as samples, but at least 1000 for a share of a few percent."""
    return torch.from_numpy(rng.permutation(real, seed, rng.Stream.NEIGHBORS))[: max(fake, 1000)]
