"""Figures of samples: a model of any family draws, and what it drew is measured against pictures of its data.

Nothing here knows how a model draws; a model that goes by pictures gets some of the split, which are then left out of
what its samples are measured against.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from pixelloom.core import rng
from pixelloom.core.errors import DataError, UsageError, did_you_mean, explain
from pixelloom.core.types import Batch, ImageSpec
from pixelloom.data.catalog import Dataset, load_for
from pixelloom.data.config import DataConfig
from pixelloom.data.io.download import progress_bar
from pixelloom.data.splits import NAMES as SPLITS
from pixelloom.data.stream import ordered, take_batch
from pixelloom.engine.memory import keep_freed_memory
from pixelloom.metrics import results
from pixelloom.metrics.class_accuracy import accuracy, digits_of
from pixelloom.metrics.distances import enough
from pixelloom.metrics.extractors import Extractor, extractor_for
from pixelloom.metrics.likelihood import Likelihood, likelihood, score, score_conditional
from pixelloom.metrics.results import METRICS, Reference, Result, TrainingNeighbors, training_neighbors
from pixelloom.models.family import GenerativeModel
from pixelloom.models.inputs import at_least
from pixelloom.models.registry import family_of, require
from pixelloom.runs.compose import Overrides
from pixelloom.runs.family import some

LIKELIHOOD, ACCURACY, ALL = "likelihood", "accuracy", "all"
NAMES = (LIKELIHOOD, *METRICS, ACCURACY)
"""What can be measured of a model; which of them apply is for :func:`settled` to say."""
N = 2000
"""Samples, unless told."""

OnDraw = Callable[[float], None]
"""Called with the number of samples that are done, which may be between two whole ones."""

# Streams of randomness: which pictures stand for a split, or are gone by, and whose classes are told.
_MOST = 1 << 30  # bytes of levels that a side of a comparison holds at most
_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class MeasureOptions:
    """What to measure of samples, and on how many.

    Attributes:
        metrics: of NAMES but ``likelihood``; see :func:`settled`.
        features: the extractor or its name, see :func:`pixelloom.metrics.extractors.named`.
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
    """Figures of samples, and the pictures behind them (uint8 [N, C, H, W]); ``neighbors`` with the metric ``nearest``."""

    results: list[Result]
    samples: Tensor
    reference: Reference
    neighbors: TrainingNeighbors | None


def settled(model: GenerativeModel, metrics: Sequence[str] | None, split: str) -> tuple[str, ...]:
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


def _why_not(model: GenerativeModel, metric: str, split: str) -> str:
    """Why a metric does not apply; an empty string where it does."""
    if metric == LIKELIHOOD and "likelihood" not in model.can:
        why = family_of(model).lacks.get("likelihood", "this model has no likelihood")
        return f"metrics: likelihood: {why}; measure its samples instead: {', '.join(METRICS)}"
    if metric == "nearest" and split == "train":
        return "metrics: 'nearest' looks for copies of training pictures, against held-out ones: split val or test"
    if metric == ACCURACY:
        try:
            digits_of(_classes(model))
        except UsageError as error:
            return str(error)
    return ""


def _classes(model: GenerativeModel) -> list[str]:
    """Names of the classes that a model is told of."""
    return list(model.description.training.classes[: model.description.classes])


def measure(model: GenerativeModel, data: Dataset, options: MeasureOptions, on_draw: OnDraw | None = None) -> Measured:
    """Draw, and measure what was drawn.

    Classes are drawn as often as the pictures measured against have them, or, where these have no such classes, evenly:
    sample i is of class i modulo their number.

    Raises:
        UsageError: for unknown metrics, features or splits.
        DataError: if there are too few pictures for a metric that was asked for; nothing is drawn then.
        ModelError: for ``inception=FILE`` where the file cannot be used.
    """
    for name, value, smallest in (("n", options.n, 1), ("seed", options.seed, 0), ("limit", options.limit or 1, 1)):
        at_least(name, value, smallest)
    space = extractor_for(options.features, data.spec.channels, data.name).on(model.device)
    held_out, told = _held_out(model, data, options)
    asked = _possible(options, data, space.num_features, len(held_out.images))
    samples = draw(model, options.n, seed=options.seed, on_draw=on_draw, **told)
    training = (
        _some(data, "train", _most(data), options.seed, rng.Stream.TRAINING).images if "nearest" in asked else None
    )
    if training is not None and len(training) < len(data.train):
        _log.warning("nearest: looks among %d of %d training pictures, drawn at random", len(training), len(data.train))
    reference = Reference(held_out.images, training)
    levels, neighbors, found = data.spec.levels, None, []
    if "nearest" in asked:
        neighbors = training_neighbors(samples, reference, levels, seed=options.seed)
    distances = [name for name in METRICS if name in asked]
    if distances:
        found = results.measure(
            samples, reference, levels, metrics=distances, extractor=space, seed=options.seed, neighbors=neighbors
        )
    if ACCURACY in asked:
        digits = np.array(digits_of(_classes(model)))
        found.append(accuracy(samples, digits[told["labels"].numpy()], levels, _read(data, held_out)))
    return Measured(found, samples, reference, neighbors)


def draw(
    model: GenerativeModel,
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


def _held_out(model: GenerativeModel, data: Dataset, options: MeasureOptions) -> tuple[Batch, dict[str, Tensor]]:
    """The pictures to measure against, and what the model is told for each sample."""
    most = min(_most(data), options.limit or len(data.split(options.split)))
    pictures = _some(data, options.split, most, options.seed, rng.Stream.REFERENCE)
    classes, row = model.description.classes, torch.arange(options.n)
    labels = pictures.labels if classes and list(data.classes) == _classes(model) else None
    told = {"labels": row % classes} if classes else {}
    if labels is not None:  # in other shares, samples as good as the pictures would be far from them
        told["labels"] = labels[torch.from_numpy(rng.permutation(len(labels), options.seed, rng.Stream.CLASSES))][
            row % len(labels)
        ]
    condition = model.condition
    if condition is None:
        return pictures, told
    shown, kept = np.array_split(rng.permutation(len(pictures.images), options.seed, rng.Stream.CONDITIONING), 2)
    if not len(kept):
        raise DataError(
            f"{data.name}: the {options.split} split has too few pictures to go by some and measure on others"
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
        positions = np.sort(rng.permutation(len(split), seed, stream)[:most])
    return take_batch(split, positions, data.dynamic)


def _possible(options: MeasureOptions, data: Dataset, d: int, held_out: int) -> tuple[str, ...]:
    """The metrics for which there are pictures enough; DataError where that is not forgiven, or none are left."""
    least = {name: results.least(name, d) for name in METRICS}
    few = [name for name in options.metrics if min(held_out, options.n) < least.get(name, 0)]
    if few and (not options.forgiving or len(few) == len(options.metrics)):
        try:
            enough(held_out, options.n, d, least[few[0]], few[0])
        except DataError as error:
            larger = {name: len(data.split(name)) for name in SPLITS if len(data.split(name)) > held_out}
            if held_out >= least[few[0]] or not larger:
                raise
            has = ", ".join(f"{name} {n:,}" for name, n in larger.items())
            raise DataError(f"{error}. The {options.split} split gave {held_out}; other splits have {has}") from None
    for name in few:
        _log.warning(
            "%s: left out: %d held-out and %d drawn pictures, and it takes %d", name, held_out, options.n, least[name]
        )
    return tuple(name for name in options.metrics if name not in few)


def _read(data: Dataset, held_out: Batch) -> tuple[Tensor, Tensor] | None:
    """Held-out pictures with their digits, where the data names digits."""
    try:
        digits = torch.tensor(digits_of(data.classes))
    except UsageError:
        return None
    return None if held_out.labels is None else (held_out.images, digits[held_out.labels])


def some_images(spec: ImageSpec, data: DataConfig, split: str, n: int) -> Tensor:
    """So many images of a split, evenly spaced, levels uint8 [n, C, H, W]; all of them if there are fewer.

    Raises:
        DataError: if the pictures are not of that shape and levels.
        UsageError: for an unknown split.
    """
    return some(_load(spec, data), split, n)


def examples(spec: ImageSpec, data: DataConfig, split: str, n: int) -> Batch:
    """As :func:`pictures`, with their labels where the data has some."""
    found = _load(spec, data)
    return next(ordered(found.split(split), found.spec, n, dynamic=found.dynamic, limit=n))


def likelihood_of(
    model: GenerativeModel, data: DataConfig, split: str = "test", *, limit: int | None = None
) -> tuple[Likelihood, Dataset]:
    """Exact likelihood of a split under a model, and the data that it was measured on.

    Raises:
        DataError: if the pictures are not of the model's shape and levels.
        UsageError: for an unknown split.
    """
    keep_freed_memory()
    dataset = _load(model.spec, data)
    return scored(model, dataset, split, limit), dataset


def scored(model: GenerativeModel, data: Dataset, split: str, limit: int | None = None) -> Likelihood:
    """Exact likelihood of a split under a model, or of so many images evenly spaced over it."""
    images = ordered(data.split(split), data.spec, 64, dynamic=data.dynamic, limit=limit)
    told = score_conditional if model.description.classes else score
    return likelihood(told(require(model, "likelihood", "likelihood").log_prob, images), data.spec.dims)


def _load(spec: ImageSpec, data: DataConfig) -> Dataset:
    """Data for a model of images of a shape."""
    with progress_bar() as shown:
        return load_for(spec, data, shown)


def data_for(model: GenerativeModel, source: str | None = None, changes: Overrides | None = None) -> DataConfig:
    """Data in the form that a model was trained with; ``changes`` are fields of :class:`DataConfig`.

    Raises:
        UsageError: for fields that are not allowed, or without a source if the model names none.
    """
    recorded = model.description.training.data
    if source is None and recorded is None:
        raise UsageError("data: this model does not say what it was trained on; name the data")
    trained = {} if recorded is None else recorded.model_dump(mode="json")
    for folder in ("root", "cache"):  # of the machine that trained it
        if trained.get(folder) and not Path(trained[folder]).expanduser().is_dir():
            del trained[folder]
    named: dict[str, object] = {}
    if source is not None and source != trained.get("source"):
        # What training left as published other data may not have: ask for the form that the model takes.
        spec = model.spec
        needed = {"size": f"{spec.height}x{spec.width}", "gray": spec.channels == 1}
        if trained.get("binarize", "none") == "none":
            needed["levels"] = spec.levels
        named = {"source": source} | {key: value for key, value in needed.items() if not trained.get(key)}
    try:
        return DataConfig.model_validate(trained | named | dict(changes or {}))
    except ValidationError as error:
        raise UsageError(f"data: {explain(error)}") from error
