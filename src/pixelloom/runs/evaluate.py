"""Evaluation of models of any family: likelihood of images, and metrics of samples against images of a split.

A model with conditioning images gets half of the split's images as conditions, and is measured against the other half.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from pixelloom.data.memory import NAME as IN_MEMORY
from pixelloom.data.memory import dataset_of
from pixelloom.data.pixels import in_levels
from pixelloom.data.splits import NAMES as SPLITS
from pixelloom.data.stream import ordered, take_batch
from pixelloom.engine.memory import keep_freed_memory
from pixelloom.engine.workers import each
from pixelloom.metrics import results
from pixelloom.metrics.class_accuracy import accuracy, applies, digits_of
from pixelloom.metrics.distances import enough
from pixelloom.metrics.extractors import Extractor, extractor_for
from pixelloom.metrics.likelihood import Likelihood, batch_size, counted, likelihood, score, score_conditional
from pixelloom.metrics.results import METRICS, Reference, Result, TrainingNeighbors, training_neighbors
from pixelloom.models.family import GenerativeModel
from pixelloom.models.inputs import at_least
from pixelloom.models.registry import family_of, require
from pixelloom.runs.config import Overrides
from pixelloom.runs.family import spaced_images
from pixelloom.runs.identity import trained_on
from pixelloom.runs.matching import EVERY, matched, split_of

LIKELIHOOD, ACCURACY, ALL = "likelihood", "accuracy", "all"
NAMES = (LIKELIHOOD, *METRICS, ACCURACY)
"""All metrics; :func:`applicable_metrics` selects those that apply to a model."""
N = 2000
"""Default number of samples."""

OnDraw = Callable[[float], None]
"""Callback with the number of samples so far, as a fraction within a batch."""

_MOST = 1 << 30  # bytes of images that are compared, at most, on each side
_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class MeasureOptions:
    """Options of :func:`measure`.

    Attributes:
        metrics: of NAMES, without ``likelihood``; see :func:`applicable_metrics`.
        features: the feature extractor or its name, see :func:`pixelloom.metrics.extractors.named`.
        n: number of samples.
        seed: seed of the samples, and of the selection of real images.
        split: the split of the held-out images.
        limit: number of held-out images, at random; None for all.
        forgiving: skip metrics that need more images, with a warning, instead of an error.
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
    """Results, the samples and the real images; ``neighbors`` with the metric ``nearest``.

    Images are uint8 [N, C, H, W] with ``levels`` levels; those of a palette are RGB.
    """

    results: list[Result]
    samples: Tensor
    reference: Reference
    neighbors: TrainingNeighbors | None
    levels: int


def applicable_metrics(model: GenerativeModel, metrics: Sequence[str] | None, split: str) -> tuple[str, ...]:
    """The metrics to measure, in the order of NAMES.

    ``all`` stands for those that apply. None stands for the likelihood, or for ``all`` if the model has none.

    Raises:
        UsageError: for an unknown name, or a metric that does not apply to the model or the split.
    """
    wrong = {name: _why_not(model, name, split) for name in NAMES}
    if metrics is None:
        metrics = (ALL,) if wrong[LIKELIHOOD] else (LIKELIHOOD,)
    for name in metrics:
        if name not in (*NAMES, ALL):
            known = (*NAMES, ALL)
            raise UsageError(f"metrics: none is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
        if name != ALL and wrong[name]:
            raise UsageError(wrong[name])
    return tuple(name for name in NAMES if name in metrics or (ALL in metrics and not wrong[name]))


def _why_not(model: GenerativeModel, metric: str, split: str) -> str:
    """Why a metric does not apply; an empty text if it does."""
    if metric == LIKELIHOOD and "likelihood" not in model.can:
        why = family_of(model).lacks.get("likelihood", "this model has no likelihood")
        return f"metrics: likelihood: {why}; measure its samples instead: {', '.join(METRICS)}"
    if metric == "nearest" and split in ("train", EVERY):
        return "metrics: nearest compares distances to training and to held-out images: choose split val or test"
    if metric == ACCURACY:
        try:
            digits_of(_classes(model))
        except UsageError as error:
            return str(error)
    return ""


def _classes(model: GenerativeModel) -> list[str]:
    """Names of the classes of a model."""
    return list(model.description.training.classes[: model.description.classes])


def measure(model: GenerativeModel, data: Dataset, options: MeasureOptions, on_draw: OnDraw | None = None) -> Measured:
    """Sample, and measure the samples.

    The samples have the class frequencies of the held-out images; if these lack the model's classes, sample i has class
    i modulo the number of classes.

    Raises:
        UsageError: for unknown metrics, features or splits.
        DataError: if there are too few images for a requested metric; raised before sampling.
        ModelError: if the file of ``inception=FILE`` cannot be used.
    """
    limit = 1 if options.limit is None else options.limit
    for name, value, smallest in (("n", options.n, 1), ("seed", options.seed, 0), ("limit", limit, 1)):
        at_least(name, value, smallest)
    data = matched(model, data)
    display = data.spec.display
    space = extractor_for(options.features, data.spec.shown_channels, data.name).on(model.device)
    held_out, conditioning = _held_out(model, data, options)
    asked = possible_metrics(options, data, space.num_features, len(held_out.images), options.n)
    samples, levels = in_levels(draw(model, options.n, seed=options.seed, on_draw=on_draw, **conditioning), display)
    training = (
        some_of(data, "train", most_images(data), options.seed, rng.Stream.TRAINING).images
        if "nearest" in asked
        else None
    )
    if training is not None and len(training) < len(data.train):
        _log.warning("nearest: searches %d of %d training images, selected at random", len(training), len(data.train))
    held_out = held_out._replace(images=in_levels(held_out.images, display)[0])
    reference = Reference(held_out.images, None if training is None else in_levels(training, display)[0])
    neighbors, found = None, []
    if "nearest" in asked:
        neighbors = training_neighbors(samples, reference, levels, seed=options.seed)
    distances = [name for name in METRICS if name in asked]
    if distances:
        found = results.measure(
            samples, reference, levels, metrics=distances, extractor=space, seed=options.seed, neighbors=neighbors
        )
    if ACCURACY in asked:
        digits = np.array(digits_of(_classes(model)))
        result = accuracy(samples, digits[conditioning["labels"].numpy()], levels, _read(data, held_out))
        if applies(result) or not options.forgiving:
            found.append(result)
        else:
            _log.warning(
                "%s: skipped: only %.1f %% of the real images are recognized", result.name, 100 * (result.baseline or 0)
            )
    return Measured(found, samples, reference, neighbors, levels)


def draw(
    model: GenerativeModel,
    n: int,
    *,
    seed: int = 0,
    labels: Tensor | None = None,
    condition: Tensor | None = None,
    on_draw: OnDraw | None = None,
) -> Tensor:
    """Sample n images, uint8 [n, C, H, W], as the model's ``sample`` does, and report progress.

    Args:
        model: a model of any family.
        n: number of samples.
        seed: seed of the noise.
        labels: classes, int64 [n], of a class-conditional model.
        condition: conditioning images, uint8 [n, c, h, w].
        on_draw: callback with the number of samples so far.
    """
    done, show = 0, on_draw or (lambda _: None)

    def on_step(step: int, steps: int, images: Tensor) -> None:
        nonlocal done
        show(done + len(images) * step / steps)
        done += len(images) if step == steps else 0

    more: dict[str, Any] = {} if condition is None else {"condition": condition}  # an option of some models only
    return model.sample(n, seed=seed, labels=labels, on_step=on_step, **more)


def _held_out(model: GenerativeModel, data: Dataset, options: MeasureOptions) -> tuple[Batch, dict[str, Tensor]]:
    """Held-out images, and labels and conditioning images of each sample."""
    most = min(most_images(data), options.limit or len(split_of(data, options.split)))
    held_out = some_of(data, options.split, most, options.seed, rng.Stream.REFERENCE)
    classes, row = model.description.classes, torch.arange(options.n)
    labels = held_out.labels if classes and list(data.classes) == _classes(model) else None
    conditioning = {"labels": row % classes} if classes else {}
    if labels is not None:  # with other class frequencies even a perfect model would be far from the data
        conditioning["labels"] = labels[
            torch.from_numpy(rng.permutation(len(labels), options.seed, rng.Stream.CLASSES))
        ][row % len(labels)]
    condition = model.condition
    if condition is None:
        return held_out, conditioning
    shown, kept = np.array_split(rng.permutation(len(held_out.images), options.seed, rng.Stream.CONDITIONING), 2)
    if not len(kept):
        raise DataError(f"{data.name}: the {options.split} split has too few images for conditioning and for measuring")
    at_row = torch.from_numpy(shown)[row % len(shown)]
    if labels is not None:
        conditioning["labels"] = labels[at_row]
    rest = Batch(held_out.images[kept], None if held_out.labels is None else held_out.labels[kept])
    return rest, conditioning | {"condition": condition.of(held_out.images[at_row])}


def most_images(data: Dataset) -> int:
    """Images of this size that are compared, at most."""
    return max(1, _MOST // data.spec.dims)


def some_of(data: Dataset, name: str, most: int, seed: int, stream: int) -> Batch:
    """Images of a split: all, or a random selection of ``most`` (the first ones may be of one class)."""
    split = split_of(data, name)
    positions = np.arange(len(split))
    if len(split) > most:
        positions = np.sort(rng.permutation(len(split), seed, stream)[:most])
    return take_batch(split, positions, data.dynamic)


def possible_metrics(options: MeasureOptions, data: Dataset, d: int, held_out: int, n: int) -> tuple[str, ...]:
    """The metrics that have enough images; DataError if one lacks them and is not forgiven, or if none is left."""
    least = {name: results.least(name, d) for name in METRICS}
    few = [name for name in options.metrics if min(held_out, n) < least.get(name, 0)]
    if few and (not options.forgiving or len(few) == len(options.metrics)):
        try:
            enough(held_out, n, d, least[few[0]], few[0])
        except DataError as error:
            larger = {name: len(data.split(name)) for name in SPLITS if len(data.split(name)) > held_out}
            if held_out >= least[few[0]] or not larger:
                raise
            has = ", ".join(f"{name} {n:,}" for name, n in larger.items())
            raise DataError(f"{error}. The {options.split} split has {held_out}; other splits: {has}") from None
    for name in few:
        _log.warning(
            "%s: skipped: it needs %d images, and there are %d held-out images and %d samples",
            name,
            least[name],
            held_out,
            n,
        )
    return tuple(name for name in options.metrics if name not in few)


def _read(data: Dataset, held_out: Batch) -> tuple[Tensor, Tensor] | None:
    """Held-out images and their digits; None if the classes of the data are not digits."""
    try:
        digits = torch.tensor(digits_of(data.classes))
    except UsageError:
        return None
    return None if held_out.labels is None else (held_out.images, digits[held_out.labels])


def some_images(spec: ImageSpec, data: DataConfig, split: str, n: int) -> Tensor:
    """n images at even spacing in a split, levels uint8 [n, C, H, W]; fewer if the split is smaller.

    Raises:
        DataError: if shape or levels of the data do not fit ``spec``.
        UsageError: for an unknown split.
    """
    return spaced_images(_load(spec, data), split, n)


def examples(model: GenerativeModel, data: DataConfig, split: str, n: int) -> Batch:
    """As :func:`some_images`, with labels of the model's classes if the data have them."""
    found = matched(model, _load(model.spec, data))
    return next(ordered(found.split(split), found.spec, n, dynamic=found.dynamic, limit=n))


def likelihood_of(
    model: GenerativeModel, data: DataConfig, split: str = "test", *, limit: int | None = None
) -> tuple[Likelihood, Dataset]:
    """Exact likelihood of a split, and the data.

    Raises:
        DataError: if shape or levels of the data do not fit the model.
        UsageError: for an unknown split, or a model without likelihood.
    """
    keep_freed_memory()
    dataset = _load(model.spec, data)
    return scored(model, dataset, split, limit), dataset


def scored(
    model: GenerativeModel,
    data: Dataset,
    split: str,
    limit: int | None = None,
    *,
    on_images: Callable[[int], None] | None = None,
) -> Likelihood:
    """Exact likelihood of a split, or of ``limit`` images at even spacing in it, in batches of :func:`batch_size`.

    ``on_images`` is called before each batch but the first, with the number of images so far.

    Raises:
        DataError: if the split has no image, or no class of the model.
    """
    if limit is not None:
        at_least("limit", limit, 1)
    data = matched(model, data)
    part = split_of(data, split)
    if not len(part):
        raise DataError(f"{data.name}: the {split} split has no image to score")
    images = counted(ordered(part, data.spec, batch_size(data.spec), dynamic=data.dynamic, limit=limit), on_images)
    score_split = score_conditional if model.description.classes else score
    log_prob = require(model, "likelihood", "likelihood").log_prob
    return likelihood(score_split(log_prob, images, partial(each, model)), data.spec.dims)


def _load(spec: ImageSpec, data: DataConfig) -> Dataset:
    """Load data that fit ``spec``."""
    with progress_bar() as shown:
        return load_for(spec, data, shown)


def checked(values: Overrides) -> DataConfig:
    """A data configuration; raises UsageError for fields that are not allowed."""
    try:
        return DataConfig.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(f"data: {explain(error)}") from error


def load_data(model: GenerativeModel, data: Any = None) -> Dataset:
    """Data for a model: a name, a path, a configuration, images in memory, or None for the training data.

    Raises:
        DataError: if shape or levels of the data do not fit the model.
        UsageError: for an unknown data set.
    """
    if data is None or isinstance(data, str | Path):
        return _load(model.spec, data_for(model, None if data is None else str(data)))
    if isinstance(data, DataConfig):
        return _load(model.spec, data)
    found = dataset_of(data, config=data_for(model, IN_MEMORY))
    if found.spec != model.spec:
        raise DataError(f"{found.name}: images are {found.spec}, the model was trained on {model.spec}")
    return found


def data_for(model: GenerativeModel, source: str | None = None, changes: Overrides | None = None) -> DataConfig:
    """The data configuration of a model's training, with another source or changed fields.

    Raises:
        UsageError: for fields that are not allowed, or if neither ``source`` nor the model's record names the data.
    """
    recorded = model.description.training.data
    if source is None and recorded is None:
        raise UsageError("data: this model has no record of its training data; name the data")
    if source is None and recorded is not None and recorded.source == IN_MEMORY:
        raise UsageError("data: this model was trained on images in memory; give them, or name other data")
    trained = {} if recorded is None else recorded.model_dump(mode="json")
    if source is None:
        trained["source"] = trained_on(model.description.training)
    for folder in ("root", "cache"):  # paths of the machine that trained the model
        if trained.get(folder) and not Path(trained[folder]).expanduser().is_dir():
            del trained[folder]
    named: dict[str, object] = {}
    if source is not None and source != trained.get("source"):
        # Other data need not have the published form of the training data: ask for the model's shape and levels.
        spec = model.spec
        needed = {"size": f"{spec.height}x{spec.width}", "gray": spec.shown_channels == 1}
        if trained.get("binarize", "none") == "none" and spec.palette is None:
            needed["levels"] = spec.levels
        named = {"source": source} | {key: value for key, value in needed.items() if not trained.get(key)}
    return checked(trained | named | dict(changes or {}))
