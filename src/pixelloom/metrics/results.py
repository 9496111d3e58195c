"""One door to the figures of samples: :func:`measure`, for models of any family. No files, no printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pixelloom.core import rng
from pixelloom.core.errors import DataError, UsageError, did_you_mean
from pixelloom.metrics.distances import LEAST, frechet, kernel, least_frechet, neighborhoods, subset_size
from pixelloom.metrics.extractors import Extractor, Images, as_levels, extractor_for, features
from pixelloom.metrics.memorization import NearestImages, feature_neighbors, memorization, pixel_neighbors

SHARES = ("precision", "recall", "density", "coverage")
METRICS = ("kid", "fd", *SHARES, "nearest")
"""All that :func:`measure` measures; ``nearest`` needs training images and gives several figures."""

_K, _K_DENSITY, _Q, _SUBSETS = 3, 5, 5, 100
_PUBLISHED = 10_000  # pictures a side that a published FID takes at least


@dataclass(frozen=True)
class Result:
    """One number with what it takes to trust it.

    ``n`` generated against ``reference`` real images gave ``value``; ``baseline`` is what real images in the place of the
    generated ones get, ``baseline_n`` on either side. None where there are too few. ``spread`` is kid's standard deviation
    over subsets; ``interval`` and ``baseline_interval`` are 95 % intervals of a share, where it has one.
    """

    name: str
    value: float
    n: int
    reference: int
    baseline: float | None = None
    baseline_n: tuple[int, int] | None = None
    spread: float | None = None
    note: str = ""
    interval: tuple[float, float] | None = None
    baseline_interval: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return asdict(self)


class Reference(NamedTuple):
    """Real images: held-out ones to measure against, and the training images where copies are sought."""

    held_out: Images
    training: Images | None = None


class Neighbors(NamedTuple):
    """The training images nearest to samples and to held-out images, pixel by pixel; ``held`` are the latter's
    positions, int64: random ones, as many as there are samples but enough for a small share.
    """

    generated: NearestImages
    held_out: NearestImages
    held: Tensor


def least(metric: str, d: int) -> int:
    """The smallest set, on either side, for one of METRICS with d features."""
    return least_frechet(d) if metric == "fd" else LEAST


def nearby(samples: Images, reference: Reference, levels: int, *, seed: int = 0) -> Neighbors:
    """What is nearest to each picture, as :func:`measure` looks for it; the slow part of ``nearest``.

    Raises:
        UsageError: without training images.
        DataError: as :func:`measure`.
    """
    sets = _Sets.of(samples, reference, levels)
    held = _held(len(sets.held_out), len(sets.samples), seed)
    ours, others = (pixel_neighbors(x, sets.seen, levels) for x in (sets.samples, sets.held_out[held]))
    return Neighbors(ours, others, held)


def measure(
    samples: Images,
    reference: Reference,
    levels: int,
    *,
    metrics: Sequence[str] = METRICS,
    extractor: str | Extractor = "auto",
    source: str = "",
    seed: int = 0,
    near: Neighbors | None = None,
) -> list[Result]:
    """Figures of samples (uint8 [N, C, H, W] of so many levels) beside those that real images get, in METRICS' order.

    For kid and fd, samples are measured against all held-out images. The baseline measures held-out images against
    others of them: two disjoint parts, cut by ``seed``, one as large as the samples but at most half. The shares
    (precision and so on) depend on both sizes, so they compare as many samples with the same part. A model as good as
    the data is thus at the baseline. ``source`` names the data set for the extractor ``auto``. ``near`` is what
    :func:`nearby` found for the same images and seed, if that is known already.

    Raises:
        UsageError: for an unknown metric or extractor, or for ``nearest`` without training images.
        DataError: for images of another shape or of higher levels, or for too few of them.
        ModelError: for ``inception=FILE`` where the file cannot be used.
    """
    for name in metrics:
        if name not in METRICS:
            raise UsageError(
                f"metrics: there is no {name!r}.{did_you_mean(name, METRICS)} There are {', '.join(METRICS)}"
            )
    sets = _Sets.of(samples, reference, levels)
    training = sets.seen if "nearest" in metrics else None
    space = extractor_for(extractor, sets.samples.shape[1], source)
    fake, real = features(sets.samples, levels, space), features(sets.held_out, levels, space)
    found = _distances(
        real, fake, space.name, [name for name in METRICS if name in metrics and name != "nearest"], seed
    )
    if training is not None:
        near = near or nearby(samples, reference, levels, seed=seed)
        if space.name != "pixels":
            known = features(training, levels, space)
            ours, others = feature_neighbors(fake, known), feature_neighbors(real[near.held], known)
            found += _copies(ours.distances, others.distances, space.name, len(training))
        found += _copies(near.generated.distances, near.held_out.distances, "pixels", len(training))
    return found


@dataclass(frozen=True)
class _Sets:
    samples: Tensor
    held_out: Tensor
    training: Tensor | None
    levels: int

    @property
    def seen(self) -> Tensor:
        """The training images; UsageError where there are none."""
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
                raise DataError(f"{what}: {list(y.shape[1:])} a picture, but samples have {list(x.shape[1:])}")
        return cls(x, held_out, training, levels)


def _distances(real: Tensor, fake: Tensor, extractor: str, metrics: Sequence[str], seed: int) -> list[Result]:
    # The sizes of the parts give the baseline the figure's bias, which goes with 1/N + 1/N', as far as the images reach.
    order = torch.from_numpy(rng.permutation(len(real), seed, rng.Stream.BASELINE))
    part = min(len(fake), len(real) // 2)
    rest, stand_in = real[order[part:]], real[order[:part]]
    baselines = _values(rest, stand_in, [name for name in metrics if least(name, real.shape[1]) <= part], seed)
    # Shares go with N / N' (coverage most of all), so where they have a baseline they are measured at its sizes.
    equal = [name for name in metrics if name in baselines and name in SHARES]
    values = _values(real, fake, [name for name in metrics if name not in equal], seed)
    values |= _values(rest, fake[:part], equal, seed)
    return [
        Result(
            name=f"{name}-{extractor}",
            value=values[name][0],
            n=part if name in equal else len(fake),
            reference=len(rest) if name in equal else len(real),
            baseline=baselines[name][0] if name in baselines else None,
            baseline_n=(part, len(rest)) if name in baselines else None,
            spread=values[name][1],
            note=_note(f"{name}-{extractor}", len(real), len(fake))
            + ("" if name in baselines else "; too few held-out images for a baseline"),
        )
        for name in metrics
    ]


def _values(real: Tensor, fake: Tensor, metrics: Sequence[str], seed: int) -> dict[str, tuple[float, float | None]]:
    """Name -> value and spread."""
    values: dict[str, tuple[float, float | None]] = {}
    if "kid" in metrics:
        values["kid"] = kernel(real, fake, subsets=_SUBSETS, seed=seed)
    if "fd" in metrics:
        values["fd"] = frechet(real, fake), None
    if set(metrics) & set(SHARES):
        shares = neighborhoods(real, fake, k=_K, k_density=_K_DENSITY)
        values |= {name: (value, None) for name, value in shares._asdict().items()}
    return values


def _note(name: str, real: int, fake: int) -> str:
    if name.startswith("kid-"):
        return f"mean over {_SUBSETS} subsets of {subset_size(real, fake)} images"
    if name.startswith("fd-"):
        published = name == "fd-inception" and min(real, fake) < _PUBLISHED
        return "grows with 1/N: compare at equal N" + ("; published ones take 10,000 to 50,000" if published else "")
    return f"k = {_K if name.startswith(('precision-', 'recall-')) else _K_DENSITY}"


def _copies(generated: Tensor, held_out: Tensor, space: str, training: int) -> list[Result]:
    """Figures from distances to the nearest training image, of samples and of held-out images."""
    found = memorization(generated, held_out, q=_Q)
    unit = "RMS of values in [0, 1]" if space == "pixels" else "Euclidean"
    rows = (
        ("nearest", found.nearest, found.nearest_held, f"mean distance, {unit}"),
        ("gap", found.gap, 0.0, "0: as far off as real ones; -1: copies"),
        ("copied", found.copied, found.copied_held, f"as near as the nearest {_Q} % of real ones"),
    )
    return [
        Result(f"{name}-{space}", value, len(generated), training, baseline, (len(held_out), training), None, note)
        for name, value, baseline, note in rows
    ]


def _held(real: int, fake: int, seed: int) -> Tensor:
    """Held-out images whose neighbors are sought: as many as there are samples, but enough for a small share."""
    return torch.from_numpy(rng.permutation(real, seed, rng.Stream.NEIGHBORS))[: max(fake, 1000)]
