"""The form in which a data set is asked for: gray, another size, fewer levels, bits. Each step maps a set to a set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from pixelloom.core import rng
from pixelloom.core.errors import UsageError
from pixelloom.data.config import DataConfig
from pixelloom.data.io.decode import Reading, fit_to
from pixelloom.data.pixels import Table, quantize_table, threshold_table, to_bytes
from pixelloom.data.splits import NAMES, Dataset, Split


def reshaped(data: Dataset, config: DataConfig) -> Dataset:
    """A named set in gray and at the size asked for, with as many levels as before.

    Sets of fewer than 256 levels are filtered at 8 bits and quantized after that. Raises DataError for fit="error".
    """
    gray = config.gray and data.spec.channels > 1
    sides = config.sides or (data.spec.height, data.spec.width)
    if not gray and sides == (data.spec.height, data.spec.width):
        return data
    reading = Reading(sides, fit=config.fit, background=config.background)
    channels = 1 if gray else data.spec.channels

    def filtered(name: str) -> Split:
        images, labels = data.split(name).all()
        out = np.empty((len(images), channels, *sides), np.uint8)
        for i, image in enumerate(to_bytes(images, data.source_levels)):
            picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
            picture = fit_to(picture.convert("L") if gray else picture, reading, f"{data.name}, {name}", [])
            out[i] = np.asarray(picture).reshape(*sides, channels).transpose(2, 0, 1)
        return Split(out, labels)

    train, val, test = map(filtered, NAMES)
    spec = replace(data.spec, channels=channels, height=sides[0], width=sides[1])
    changes = ["made gray"] if gray else []
    if sides != (data.spec.height, data.spec.width):
        changes.append(f"{data.spec.height}x{data.spec.width} made {sides[0]}x{sides[1]} ({config.fit})")
    formed = replace(data, spec=spec, train=train, val=val, test=test, source_levels=256)
    return _noted(formed, ", ".join(changes))


def quantized(data: Dataset, config: DataConfig) -> Dataset:
    """As many levels as asked for (or as the set has), by v -> floor(v L / S). Raises UsageError for too many."""
    levels = config.levels or data.spec.levels
    if levels == data.source_levels:
        return data
    return _through(data, quantize_table(data.source_levels, levels), levels, f"quantized to {levels} levels")


def binarized(data: Dataset, config: DataConfig) -> Dataset:
    """Two levels by ``config.binarize``; pictures that have two already stay as they are.

    Raises UsageError for colored pictures.
    """
    if data.spec.channels > 1:
        raise UsageError(f"data.binarize: the pictures of {data.name} are colored; set gray, or leave binarize at none")
    if data.source_levels == 2:
        return _noted(data, f"binary as they are, binarize={config.binarize} has no effect")
    if config.threshold is not None:
        table = threshold_table(data.source_levels, config.threshold)
        return _through(data, table, 2, f"binarized by v > {config.threshold}")
    spec = replace(data.spec, levels=2)
    if config.binarize == "dynamic":
        return _noted(replace(data, spec=spec, dynamic=True), "binarized anew at each visit (dynamic)")
    train, val, test = (
        replace(data.split(name), bits=(config.seed, rng.Stream.STATIC_BITS + i)) for i, name in enumerate(NAMES)
    )
    note = f"binarized by one draw a value (static, seed {config.seed})"
    return _noted(replace(data, spec=spec, train=train, val=val, test=test), note)


def _through(data: Dataset, table: Table, levels: int, note: str) -> Dataset:
    train, val, test = (replace(data.split(name), table=table) for name in NAMES)
    return _noted(replace(data, spec=replace(data.spec, levels=levels), train=train, val=val, test=test), note)


def _noted(data: Dataset, note: str) -> Dataset:
    return replace(data, note=f"{data.note}; {note}" if data.note else note)
