"""Metrics of two sets of images, without a model: samples of any origin against real images."""

from __future__ import annotations

from pixelloom.core import rng
from pixelloom.core.errors import DataError, UsageError, did_you_mean
from pixelloom.data.catalog import Dataset, load_for
from pixelloom.data.config import DataConfig
from pixelloom.data.io.download import progress_bar
from pixelloom.data.pixels import in_levels
from pixelloom.metrics import results
from pixelloom.metrics.extractors import extractor_for
from pixelloom.metrics.results import METRICS, Reference
from pixelloom.runs.evaluate import ALL, Measured, MeasureOptions, checked, most_images, possible_metrics, some_of
from pixelloom.runs.matching import EVERY

SET_METRICS = tuple(name for name in METRICS if name != "nearest")
"""Metrics that need no training images."""


def set_metrics(names: list[str] | None) -> tuple[str, ...]:
    """The metrics to measure, in the order of SET_METRICS; all by default.

    Raises:
        UsageError: for an unknown name, or a metric that needs a model.
    """
    for name in names or ():
        if name not in (*SET_METRICS, ALL):
            known = (*SET_METRICS, ALL)
            raise UsageError(
                f"metrics: two sets of images have no {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}"
            )
    return tuple(name for name in SET_METRICS if not names or name in names or ALL in names)


def load_samples(source: str, config: DataConfig, data: Dataset) -> Dataset:
    """Read samples, transformed to the shape and levels of the real images.

    Raises:
        DataError: if they cannot be read.
    """
    spec = data.spec
    needed: dict[str, object] = {"source": source, "size": f"{spec.height}x{spec.width}", "limit": None}
    needed["gray"] = spec.shown_channels == 1
    if config.binarize == "none" and spec.palette is None:
        needed["levels"] = spec.levels
    with progress_bar() as shown:
        return load_for(spec, checked(config.model_dump() | needed), shown)


def measure_sets(samples: Dataset, data: Dataset, options: MeasureOptions) -> Measured:
    """Measure samples against the images of a split.

    ``options.n`` bounds the number of samples; all others are as in :func:`pixelloom.runs.evaluate.measure`.

    Raises:
        DataError: if there are too few images for a requested metric.
    """
    drawn = some_of(samples, EVERY, min(options.n, most_images(data)), options.seed, rng.Stream.CONDITIONING)
    most = most_images(data) if options.limit is None else min(most_images(data), options.limit)
    held_out = some_of(data, options.split, most, options.seed, rng.Stream.REFERENCE)
    if not len(drawn.images) or not len(held_out.images):
        raise DataError(f"{data.name}: the {options.split} split has no images to measure against")
    space = extractor_for(options.features, data.spec.shown_channels, data.name)
    asked = possible_metrics(options, data, space.num_features, len(held_out.images), len(drawn.images))
    images, levels = in_levels(drawn.images, data.spec.display)
    reference = Reference(in_levels(held_out.images, data.spec.display)[0], None)
    found = results.measure(images, reference, levels, metrics=list(asked), extractor=space, seed=options.seed)
    return Measured(found, images, reference, None, levels)
