"""Anomaly scores of images by a model with a likelihood, calibrated on held-out normal images.

Half of the calibration images, or fewer if the threshold needs more, are the reference: mean and covariance of the
statistics, expected bits of each pixel. The others give the calibration scores. A fresh normal image is exchangeable
with these whatever the reference is, so the p-values are valid for each kind of score (split conformal prediction:
Papadopoulos et al. 2002).

A map holds the bits of each pixel (summed over channels) minus the expected bits at that pixel, e:

    sum of the map = dims * bits/dim of the image - sum of e,  and sum of e = dims * mean bits/dim of the reference

:func:`pixelloom.models.scoring.of_pixels` gives the bits of each pixel of a mixture over classes or pixel orders.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import Levels
from pixelloom.data.image_source import ImageSource, Taken
from pixelloom.data.pixels import shown
from pixelloom.engine.workers import each
from pixelloom.metrics.anomaly import Scores, needed
from pixelloom.metrics.likelihood import batch_size
from pixelloom.metrics.scores import KINDS, Kind, Reference, Statistics, coded_bits
from pixelloom.models.family import GenerativeModel
from pixelloom.models.registry import require
from pixelloom.models.scoring import of_pixels

Maps = npt.NDArray[np.float32]
"""Bits of each pixel, or their excess over the expected ones, float32 [N, H, W]."""
OnImages = Callable[[int, int], None]
"""Callback with the number of images so far, and of all."""
NORMALS = 2000
"""Default number of calibration images."""
_REFERENCE = 10  # images, at least
_UNSATURATED = 0.95  # of the normal images


@dataclass(frozen=True)
class Calibration:
    """What scores are compared with.

    Attributes:
        title: where the normal images are from.
        reference: of a part of them.
        scores: of the others, for each kind.
        expected: expected bits of each pixel, float64 [H, W]; None without maps.
        scale: bits at which the colors of maps saturate; 95 % of the images of ``scores`` stay within it.
    """

    title: str
    reference: Reference
    scores: dict[Kind, Scores]
    expected: npt.NDArray[np.float64] | None = None
    scale: float = 1.0

    def of(self, kind: Kind) -> Scores:
        """The calibration scores of a kind.

        Raises:
            UsageError: for a kind that was not measured.
        """
        if kind not in self.scores:
            raise UsageError(f"kind: {kind} needs a background model, --background RUN")
        return self.scores[kind]


@dataclass(frozen=True)
class Scorer:
    """A model, a background model of the same images or None, and whether bits of each pixel are measured.

    Raises:
        UsageError: for a model without a likelihood, a background model of other images, or a model without bits of
            single pixels.
    """

    model: GenerativeModel
    background: GenerativeModel | None = None
    maps: bool = False

    def __post_init__(self) -> None:
        require(self.model, "likelihood", "score")
        if self.background is not None:
            require(self.background, "likelihood", "background")
            if self.background.spec != self.model.spec:
                raise UsageError(
                    f"background: its images are {self.background.spec}, those of the model {self.model.spec}"
                )
        if self.maps and not hasattr(self.model, "nats"):
            raise UsageError("maps: this model has no bits of single pixels")

    def measure(self, images: Levels) -> tuple[Statistics, Maps | None]:
        """Statistics of images, uint8 [n, C, H, W], and the bits of each pixel."""
        spec = self.model.spec
        unit = spec.dims * math.log(2)
        found: Maps | None = None
        if self.maps:
            model: Any = self.model
            each = of_pixels(model, images, range(model.description.classes) if _marginal(model) else (None,))
            found = (each / math.log(2)).float().numpy()
            nats = each.flatten(1).sum(1)
        else:
            nats = negative_log_likelihood(self.model, images)
        background = (
            None if self.background is None else negative_log_likelihood(self.background, images).numpy() / unit
        )
        pixels, levels = shown(images, spec.display)
        coded = coded_bits(pixels, levels) * (pixels.shape[1] / spec.channels)  # three bytes for an index of a palette
        return Statistics(nats.numpy() / unit, coded, background), found

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of score that can be measured."""
        return tuple(kind for kind in KINDS if kind != "ratio" or self.background is not None)

    @property
    def batch(self) -> int:
        """Images of a batch, which bounds the memory."""
        return batch_size(self.model.spec)

    def key(self) -> str:
        """What the statistics depend on, as a SHA-256."""
        models = filter(None, (self.model, self.background))
        return hashlib.sha256("".join(map(fingerprint, models)).encode()).hexdigest()


def fingerprint(model: GenerativeModel) -> str:
    """The SHA-256 of a model's weights and description, without its training record."""
    sha = hashlib.sha256(model.description.model_dump_json(exclude={"training"}).encode())
    for name, values in model.network.state_dict().items():
        sha.update(name.encode())
        sha.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _marginal(model: GenerativeModel) -> bool:
    """Whether log p(x) is the mean over classes of p(x | class): a class-conditional model without a null class."""
    return bool(model.description.classes) and not getattr(model.description, "null_class", True)


def negative_log_likelihood(model: GenerativeModel, images: Levels) -> Tensor:
    """-log p of each image, float64 [n] in nats.

    A class-conditional model takes its null class, or else p(x) = sum over classes of p(x | class) / classes.
    """
    if not _marginal(model):
        found: Tensor = require(model, "likelihood", "score").log_prob(images)
        return -found.double().cpu()
    return -(by_class(model, images).logsumexp(1) - math.log(model.description.classes))


def by_class(model: GenerativeModel, images: Levels) -> Tensor:
    """log p(x | class), float64 [n, classes] in nats."""
    scored: Any = require(model, "likelihood", "score")
    columns = [scored.log_prob(images, labels=number).double().cpu() for number in range(model.description.classes)]
    return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class Part:
    """A batch of measured images.

    Attributes:
        rows: their rows in the source.
        taken: the images, without those that cannot be read.
        statistics: of ``taken``.
        bits: of each pixel.
    """

    rows: Sequence[int]
    taken: Taken
    statistics: Statistics
    bits: Maps | None


def parts(
    scorer: Scorer, source: ImageSource, rows: Sequence[int], on_images: OnImages | None = None
) -> Iterator[Part]:
    """Measure the images at some rows, a batch at a time."""
    read = deque[tuple[Sequence[int], Taken]]()  # batches that are not measured yet
    done = 0

    def batches() -> Iterator[tuple[Scorer, Levels]]:
        for start in range(0, len(rows), scorer.batch):
            some = rows[start : start + scorer.batch]
            read.append((some, source.take(some)))
            yield scorer, read[-1][1].images

    with closing(each(scorer.model, Scorer.measure, batches())) as measured:
        for statistics, bits in measured:
            some, taken = read.popleft()
            yield Part(some, taken, statistics, bits)
            done += len(some)
            if on_images is not None:
                on_images(done, len(rows))


def spaced(n: int, limit: int | None) -> list[int]:
    """``limit`` rows of n at even spacing, since images may be sorted; all without a limit."""
    count = n if limit is None else min(limit, n)
    return [i * n // count for i in range(count)]


def calibrate(
    scorer: Scorer,
    source: ImageSource,
    false_alarms: float,
    limit: int | None = NORMALS,
    on_images: OnImages | None = None,
) -> Calibration:
    """Measure held-out normal images.

    Args:
        scorer: the model.
        source: normal images that the model was not trained on.
        false_alarms: the rate that the threshold shall promise, for a check of the number of images.
        limit: number of images, evenly spaced; None for all.
        on_images: progress.

    Raises:
        DataError: for too few images.
    """
    rows, least = spaced(len(source.names), limit), needed(false_alarms) + _REFERENCE
    if len(rows) < least:
        raise DataError(
            f"{source.title}: {len(rows)} held-out normal images; a false-alarm rate of {false_alarms:g} needs {least} "
            f"or more, {_REFERENCE} of them as the reference: calibrate on more images, or allow more false alarms"
        )
    size = len(rows) - max(len(rows) // 2, needed(false_alarms))
    chosen = set(spaced(len(rows), size))
    first = [row for i, row in enumerate(rows) if i in chosen]
    second = [row for i, row in enumerate(rows) if i not in chosen]

    def shown(done: int, _: int, before: int = 0) -> None:
        if on_images is not None:
            on_images(before + done, len(rows))

    total, largest = None, []
    kept: list[Statistics] = []
    for part in parts(scorer, source, first, shown):
        kept.append(part.statistics)
        if part.bits is not None:
            total = part.bits.sum(0, dtype=np.float64) + (0 if total is None else total)
    normal = Statistics.joined(kept)
    reference, expected = Reference.of(normal), None if total is None else total / len(normal)
    others = []
    for part in parts(scorer, source, second, lambda done, all_: shown(done, all_, len(first))):
        others.append(part.statistics)
        if part.bits is not None and expected is not None:
            largest.append(np.abs(part.bits - expected).max((1, 2)))
    measured = Statistics.joined(others)
    scale = float(np.quantile(np.concatenate(largest), _UNSATURATED)) if largest else 1.0
    return Calibration(
        source.title, reference, {kind: reference.score(kind, measured) for kind in scorer.kinds}, expected, scale
    )
