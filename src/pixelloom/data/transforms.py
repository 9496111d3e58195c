"""Transforms of data sets: gray, size, quantization, binarization."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from pixelloom.core import rng
from pixelloom.core.errors import UsageError
from pixelloom.data.config import DataConfig
from pixelloom.data.io.fit import fit_to
from pixelloom.data.io.reading import Reading
from pixelloom.data.pixels import Table, quantize_table, threshold_table, to_bytes
from pixelloom.data.splits import NAMES, Dataset, Split


def resized(data: Dataset, config: DataConfig) -> Dataset:
    """Convert a named data set to gray and to ``config.sides``, with the same number of levels.

    Data of fewer than 256 levels is resized at 8 bits and quantized afterwards.

    Raises:
        DataError: for another size under fit="error".
    """
    gray = config.gray and data.spec.channels > 1
    sides = config.sides or (data.spec.height, data.spec.width)
    if not gray and sides == (data.spec.height, data.spec.width):
        return data
    reading = Reading(sides, fit=config.fit, background=config.background)
    channels = 1 if gray else data.spec.channels

    def resized_split(name: str) -> Split:
        images, labels = data.split(name).all()
        out = np.empty((len(images), channels, *sides), np.uint8)
        for i, image in enumerate(to_bytes(images, data.source_levels)):
            # [1, H, W] -> [H, W] or [3, H, W] -> [H, W, 3]
            pil = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
            pil = fit_to(pil.convert("L") if gray else pil, reading, f"{data.name}, {name}", [])
            out[i] = np.asarray(pil).reshape(*sides, channels).transpose(2, 0, 1)  # [H, W, C] -> [C, H, W]
        return Split(out, labels)

    train, val, test = map(resized_split, NAMES)
    spec = replace(data.spec, channels=channels, height=sides[0], width=sides[1])
    changes = ["converted to gray"] if gray else []
    if sides != (data.spec.height, data.spec.width):
        changes.append(f"resized from {data.spec.height}x{data.spec.width} to {sides[0]}x{sides[1]} ({config.fit})")
    changed = replace(data, spec=spec, train=train, val=val, test=test, source_levels=256)
    return _with_note(changed, ", ".join(changes))


def quantized(data: Dataset, config: DataConfig) -> Dataset:
    """Quantize to ``config.levels`` (default: the levels of the data set) by v -> floor(v L / S).

    Raises:
        UsageError: for more levels than the images have.
    """
    levels = config.levels or data.spec.levels
    if levels == data.source_levels:
        return data
    return _with_table(data, quantize_table(data.source_levels, levels), levels, f"quantized to {levels} levels")


def binarized(data: Dataset, config: DataConfig) -> Dataset:
    """Binarize by ``config.binarize``; binary images are not changed.

    Raises:
        UsageError: for color images.
    """
    if data.spec.channels > 1:
        raise UsageError(f"data.binarize: the images of {data.name} are in color; set gray, or set binarize to none")
    if data.source_levels == 2:
        return _with_note(data, f"the images are binary, binarize={config.binarize} has no effect")
    if config.threshold is not None:
        table = threshold_table(data.source_levels, config.threshold)
        return _with_table(data, table, 2, f"binarized by v > {config.threshold}")
    spec = replace(data.spec, levels=2)
    if config.binarize == "dynamic":
        return _with_note(replace(data, spec=spec, dynamic=True), "binarized at each visit (dynamic)")
    train, val, test = (
        replace(data.split(name), bits=(config.seed, rng.Stream.STATIC_BITS + i)) for i, name in enumerate(NAMES)
    )
    note = f"binarized once (static, seed {config.seed})"
    return _with_note(replace(data, spec=spec, train=train, val=val, test=test), note)


def _with_table(data: Dataset, table: Table, levels: int, note: str) -> Dataset:
    train, val, test = (replace(data.split(name), table=table) for name in NAMES)
    return _with_note(replace(data, spec=replace(data.spec, levels=levels), train=train, val=val, test=test), note)


def _with_note(data: Dataset, note: str) -> Dataset:
    return replace(data, note=f"{data.note}; {note}" if data.note else note)
