"""Figures of samples: a model of any family draws, and what it drew is measured against pictures of its data.

Nothing here knows how a model draws; a model that goes by pictures gets some of the split, which are then left out of
what its samples are measured against.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelloom.arguments import at_least
from pixelloom.data.catalog import Dataset
from pixelloom.data.pixels import bit_source
from pixelloom.data.splits import NAMES as SPLITS
from pixelloom.data.stream import at
from pixelloom.errors import DataError, UsageError, did_you_mean
from pixelloom.families import Model
from pixelloom.metrics import figures
from pixelloom.metrics.accuracy import accuracy, digits_of
from pixelloom.metrics.distances import enough
from pixelloom.metrics.features import Extractor, extractor_for
from pixelloom.metrics.figures import METRICS, Figure, Nearby, Reference, nearby
from pixelloom.models import PixelModel
from pixelloom.types import Batch

LIKELIHOOD, ACCURACY, ALL = "likelihood", "accuracy", "all"
NAMES = (LIKELIHOOD, *METRICS, ACCURACY)
"""What can be measured of a model; which of them apply is for :func:`settled` to say."""
N = 2000
"""Samples, unless told."""

OnDraw = Callable[[float], None]
"""Called with the number of samples that are done, which may be between two whole ones."""

# Streams of randomness: which pictures stand for a split, or are gone by, and whose classes are told.
_REFERENCE, _TRAINING, _SHOWN, _TOLD = 311, 312, 313, 314
_MOST = 1 << 30  # bytes of levels that a side of a comparison holds at most
_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class Wishes:
    """What to measure of samples, and on how many.

    Attributes:
        metrics: of NAMES but ``likelihood``; see :func:`settled`.
        features: the extractor or its name, see :func:`pixelloom.metrics.features.named`.
        n: samples to draw.
        seed: of the samples, and of every choice among real pictures.
        split: whose pictures are the held-out ones.
        limit: so many of them at most, drawn at random.
        forgiving: metrics for which there are too few pictures are left out with a warning.
    """

    metrics: tuple[str, ...]
    features: str | Extractor = "auto"
    n: int = N
    seed: int = 0
    split: str = "test"
    limit: int | None = None
    forgiving: bool = False


@dataclass(frozen=True)
class Measured:
    """Figures of samples, and the pictures behind them (uint8 [N, C, H, W]); ``nearby`` with the metric ``nearest``."""

    figures: list[Figure]
    samples: Tensor
    reference: Reference
    nearby: Nearby | None


def settled(model: Model, metrics: Sequence[str] | None, split: str) -> tuple[str, ...]:
    """The metrics that are meant, in NAMES' order: ``all`` are those that apply, None is the likelihood of a model that
    has one, and ``all`` for any other.

    Raises:
        UsageError: for an unknown name, or a metric that does not apply to the model or the split.
    """
    wrong = {name: _why_not(model, name, split) for name in NAMES}
    if metrics is None:
        metrics = (ALL,) if wrong[LIKELIHOOD] else (LIKELIHOOD,)
    for name in metrics:
        if name not in (*NAMES, ALL):
            known = (*NAMES, ALL)
            raise UsageError(f"metrics: there is no {name!r}.{did_you_mean(name, known)} There are {', '.join(known)}")
        if name != ALL and wrong[name]:
            raise UsageError(wrong[name])
    return tuple(name for name in NAMES if name in metrics or (ALL in metrics and not wrong[name]))


def _why_not(model: Model, metric: str, split: str) -> str:
    """Why a metric does not apply; an empty string where it does."""
    if metric == LIKELIHOOD and not isinstance(model, PixelModel):
        return (
            f"metrics: {model.description.network} has no 'likelihood': it makes images of noise and cannot tell how "
            f"probable one is; measure its samples by {', '.join(METRICS)}"
        )
    if metric == "nearest" and split == "train":
        return "metrics: 'nearest' looks for copies of training pictures, against held-out ones: split val or test"
    if metric == ACCURACY:
        try:
            digits_of(_classes(model))
        except UsageError as error:
            return str(error)
    return ""


def _classes(model: Model) -> list[str]:
    """Names of the classes that a model is told of."""
    return list(map(str, model.description.trained.get("classes", [])))[: model.description.classes]


def measure(model: Model, data: Dataset, wishes: Wishes, on_draw: OnDraw | None = None) -> Measured:
    """Draw, and measure what was drawn.

    Classes are drawn as often as the pictures measured against have them, or, where these have no such classes, evenly:
    sample i is of class i modulo their number.

    Raises:
        UsageError: for unknown metrics, features or splits.
        DataError: if there are too few pictures for a metric that was asked for; nothing is drawn then.
        ModelError: for ``inception=FILE`` where the file cannot be used.
    """
    for name, value, smallest in (("n", wishes.n, 1), ("seed", wishes.seed, 0), ("limit", wishes.limit or 1, 1)):
        at_least(name, value, smallest)
    space = extractor_for(wishes.features, data.spec.channels, data.name).on(model.device)
    held_out, told = _held_out(model, data, wishes)
    asked = _possible(wishes, data, space.num_features, len(held_out.images))
    samples = draw(model, wishes.n, seed=wishes.seed, on_draw=on_draw, **told)
    training = _some(data, "train", _most(data), wishes.seed, _TRAINING).images if "nearest" in asked else None
    if training is not None and len(training) < len(data.train):
        _log.warning("nearest: looks among %d of %d training pictures, drawn at random", len(training), len(data.train))
    reference = Reference(held_out.images, training)
    levels, near, found = data.spec.levels, None, []
    if "nearest" in asked:
        near = nearby(samples, reference, levels, seed=wishes.seed)
    distances = [name for name in METRICS if name in asked]
    if distances:
        found = figures.measure(
            samples, reference, levels, metrics=distances, extractor=space, seed=wishes.seed, near=near
        )
    if ACCURACY in asked:
        digits = np.array(digits_of(_classes(model)))
        found.append(accuracy(samples, digits[told["labels"].numpy()], levels, _read(data, held_out)))
    return Measured(found, samples, reference, near)


def draw(
    model: Model,
    n: int,
    *,
    seed: int = 0,
    labels: Tensor | None = None,
    condition: Tensor | None = None,
    on_draw: OnDraw | None = None,
) -> Tensor:
    """n samples, uint8 [n, C, H, W], a batch at a time; the same as one call of the model's own ``sample``.

    Args:
        model: of any family.
        n: how many.
        seed: of the noise.
        labels: int64 [n], for a model with classes.
        condition: pictures to go by, uint8 [n, c, h, w], for a model that does.
        on_draw: told what is done.
    """
    done, show = 0, on_draw or (lambda _: None)

    def on_step(step: int, steps: int, images: Tensor) -> None:
        nonlocal done
        show(done + len(images) * step / steps)
        done += len(images) if step == steps else 0

    told: dict[str, Any] = {} if condition is None else {"condition": condition}  # which only some models take
    return model.sample(n, seed=seed, labels=labels, on_step=on_step, **told)


def _held_out(model: Model, data: Dataset, wishes: Wishes) -> tuple[Batch, dict[str, Tensor]]:
    """The pictures to measure against, and what the model is told for each sample."""
    most = min(_most(data), wishes.limit or len(data.split(wishes.split)))
    pictures = _some(data, wishes.split, most, wishes.seed, _REFERENCE)
    classes, row = model.description.classes, torch.arange(wishes.n)
    labels = pictures.labels if classes and list(data.classes) == _classes(model) else None
    told = {"labels": row % classes} if classes else {}
    if labels is not None:  # in other shares, samples as good as the pictures would be far from them
        told["labels"] = labels[torch.from_numpy(_shuffled(len(labels), wishes.seed, _TOLD))][row % len(labels)]
    condition = model.condition if isinstance(model, PixelModel) else None
    if condition is None:
        return pictures, told
    shown, kept = np.array_split(_shuffled(len(pictures.images), wishes.seed, _SHOWN), 2)
    if not len(kept):
        raise DataError(
            f"{data.name}: the {wishes.split} split has too few pictures to go by some and measure on others"
        )
    at_row = torch.from_numpy(shown)[row % len(shown)]
    if labels is not None:
        told["labels"] = labels[at_row]
    rest = Batch(pictures.images[kept], None if pictures.labels is None else pictures.labels[kept])
    return rest, told | {"condition": condition.of(pictures.images[at_row])}


def _most(data: Dataset) -> int:
    return max(1, _MOST // data.spec.dims)


def _some(data: Dataset, name: str, most: int, seed: int, stream: int) -> Batch:
    """Pictures of a split, all or so many at random (never the first, whose order may be by class)."""
    split = data.split(name)
    positions = np.arange(len(split))
    if len(split) > most:
        positions = np.sort(_shuffled(len(split), seed, stream)[:most])
    return at(split, positions, data.dynamic)


def _shuffled(n: int, seed: int, stream: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.argsort(np.asarray(bit_source(seed, stream).random_raw(n)), kind="stable")


def _possible(wishes: Wishes, data: Dataset, d: int, held_out: int) -> tuple[str, ...]:
    """The metrics for which there are pictures enough; DataError where that is not forgiven, or none are left."""
    least = {name: figures.least(name, d) for name in METRICS}
    few = [name for name in wishes.metrics if min(held_out, wishes.n) < least.get(name, 0)]
    if few and (not wishes.forgiving or len(few) == len(wishes.metrics)):
        try:
            enough(held_out, wishes.n, d, least[few[0]], few[0])
        except DataError as error:
            larger = {name: len(data.split(name)) for name in SPLITS if len(data.split(name)) > held_out}
            if held_out >= least[few[0]] or not larger:
                raise
            has = ", ".join(f"{name} {n:,}" for name, n in larger.items())
            raise DataError(f"{error}. The {wishes.split} split gave {held_out}; other splits have {has}") from None
    for name in few:
        _log.warning(
            "%s: left out: %d held-out and %d drawn pictures, and it takes %d", name, held_out, wishes.n, least[name]
        )
    return tuple(name for name in wishes.metrics if name not in few)


def _read(data: Dataset, held_out: Batch) -> tuple[Tensor, Tensor] | None:
    """Held-out pictures with their digits, where the data names digits."""
    try:
        digits = torch.tensor(digits_of(data.classes))
    except UsageError:
        return None
    return None if held_out.labels is None else (held_out.images, digits[held_out.labels])
