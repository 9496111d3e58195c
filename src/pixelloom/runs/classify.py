"""Classes of images by the likelihood of a class-conditional model: p(class | x) by Bayes' rule, a uniform prior."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import Labels, Levels
from pixelloom.data.image_source import ImageSource
from pixelloom.engine.workers import each
from pixelloom.metrics.class_accuracy import wilson
from pixelloom.metrics.likelihood import batch_size
from pixelloom.models.family import GenerativeModel
from pixelloom.models.registry import require
from pixelloom.runs.anomaly import OnImages, by_class, spaced

_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class Classified:
    """Classes of N images; files that cannot be read are missing.

    Attributes:
        names: of the images.
        classes: names of the model's K classes.
        probabilities: p(class | x), float64 [N, K].
        labels: true class, int64 [N], -1 for an image without one; None for data without classes.
    """

    names: list[str]
    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    labels: Labels | None

    @property
    def found(self) -> Labels:
        """The class of highest probability, int64 [N]."""
        found: Labels = self.probabilities.argmax(1).astype(np.int64)
        return found

    @property
    def accuracy(self) -> tuple[float, tuple[float, float], int] | None:
        """Share of labeled images with the right class, its 95 % Wilson interval, their number; None without labels."""
        if self.labels is None or not (n := int((self.labels >= 0).sum())):
            return None
        hits = int((self.found == self.labels)[self.labels >= 0].sum())
        return hits / n, wilson(hits, n), n


def classify(
    model: GenerativeModel, source: ImageSource, limit: int | None = None, on_images: OnImages | None = None
) -> Classified:
    """p(class | x) = p(x | class) / sum over classes of p(x | class).

    Args:
        model: a class-conditional model with a likelihood.
        source: the images.
        limit: number of images, evenly spaced; None for all.
        on_images: progress.

    Raises:
        UsageError: for a model without classes or likelihood.
        DataError: without an image.
    """
    require(model, "likelihood", "classify")
    if not model.description.classes:
        raise UsageError("classify: this model is unconditional (trained without --classes)")
    rows, size = spaced(len(source.names), limit), batch_size(model.spec)
    if not rows:
        raise DataError(f"{source.title}: no image to classify")
    number = _numbers(model, source.classes)
    names: list[str] = []
    log_p, labels = [torch.empty(0, model.description.classes, dtype=torch.float64)], [np.empty(0, np.int64)]

    def batches() -> Iterator[tuple[GenerativeModel, Levels]]:
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            taken = source.take(some)
            names.extend(source.names[some[place]] for place in taken.good)
            if taken.labels is not None:
                labels.append(number[taken.labels])
            yield model, taken.images

    for done, found in enumerate(each(model, by_class, batches()), 1):
        log_p.append(found)
        if on_images is not None:
            on_images(min(done * size, len(rows)), len(rows))
    truth = np.concatenate(labels) if source.classes else None
    if truth is not None and (unknown := int((truth < 0).sum())):
        _log.warning("%s: %d images of no class of the model; they do not count", source.title, unknown)
    return Classified(names, model.description.class_names, torch.cat(log_p).softmax(1).numpy(), truth)


def _numbers(model: GenerativeModel, theirs: Sequence[str]) -> Labels:
    """The model's number of each class of the data, matched by name; -1 for others, and at the end for no label."""
    ours = model.description.class_names
    if not model.description.training.classes and len(theirs) == len(ours):
        return np.array([*range(len(ours)), -1], np.int64)  # no record of their names
    index = {name: number for number, name in enumerate(ours)}
    return np.array([*(index.get(name, -1) for name in theirs), -1], np.int64)
