"""The likelihood of hidden pixels given known ones, for models that are conditioned on partly known images."""

from __future__ import annotations

import math
from collections.abc import Callable

from pixelloom.data.catalog import Dataset
from pixelloom.data.masks import fixed_masks
from pixelloom.data.stream import ordered
from pixelloom.metrics.likelihood import batch_size, counted
from pixelloom.models.pixel import PixelModel


def hidden_bits(
    model: PixelModel,
    data: Dataset,
    split: str,
    limit: int | None = None,
    on_images: Callable[[int], None] | None = None,
) -> float:
    """Bits for each hidden value of a split, under random masks that never change.

    Every hidden value counts alike: the bits of all images over the number of hidden values. Only images count whose
    labels the model knows, if it is class-conditional.

    Args:
        model: a model with ``condition: mask``.
        data: images of the model's shape and levels.
        split: of the data.
        limit: number of images at even spacing; None for all.
        on_images: callback before each batch but the first, with the number of images so far.
    """
    assert model.condition is not None
    nats, values, first = 0.0, 0, 0
    _, height, width = model.spec.shape
    masks = fixed_masks(limit or len(data.split(split)), height, width)
    batches = ordered(data.split(split), data.spec, batch_size(data.spec), dynamic=data.dynamic, limit=limit)
    for batch in counted(batches, on_images):
        hidden = masks[first : first + len(batch.images)]
        first += len(batch.images)
        labels = batch.labels if model.description.classes else None
        found = model.log_prob(batch.images, labels, model.condition.partly(batch.images, hidden))
        nats -= float(found.sum())
        values += int(hidden.sum()) * model.spec.channels
    return nats / max(values, 1) / math.log(2)
