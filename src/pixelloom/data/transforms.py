"""Transforms of data sets: gray, size, quantization, binarization."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace

import numpy as np
from PIL import Image

from pixelloom.core import rng
from pixelloom.core.errors import UsageError
from pixelloom.core.types import Levels, palette_size
from pixelloom.data.config import DataConfig
from pixelloom.data.io.fit import fit_to
from pixelloom.data.io.reading import Reading
from pixelloom.data.palette import fit_palette, indexed
from pixelloom.data.pixels import to_bytes
from pixelloom.data.splits import NAMES, Dataset, Split
from pixelloom.data.tables import Table, quantize_table, threshold_table

log = logging.getLogger("pixelloom")
_CHUNK = 4096  # images that are compared or converted at once
_FITTED = 10_000  # training images that a palette is fitted to, about


def transformed(data: Dataset, config: DataConfig) -> Dataset:
    """Quantize, binarize or index images, and keep the first ``config.limit`` training ones; states if all are equal.

    Raises:
        UsageError: for an option that does not fit the images.
    """
    if config.palette is not None:
        data = with_palette(data, config.palette)
    else:
        data = quantized(data, config) if config.binarize == "none" else binarized(data, config)
    if config.limit is not None:
        data = replace(data, train=data.train.first(config.limit))
    if not data.dynamic and len(data.train) > 1 and _all_equal(data.train):
        levels = f" at {data.spec.levels} levels" if data.spec.levels < data.source_levels else ""
        note = f"all training images are equal{levels}"
        log.warning("%s: %s", data.name, note)
        data = _with_note(data, note)
    return data


def _all_equal(split: Split) -> bool:
    """Whether all images of a split are equal; mostly decided by the first two."""
    first = split.take([0])[0]
    ends = itertools.pairwise([1, 2, *range(_CHUNK, len(split), _CHUNK), len(split)])
    return all((split.take(np.arange(begin, end))[0] == first).all() for begin, end in ends if begin < end)


def in_color(data: Dataset) -> Dataset:
    """A gray data set with three equal channels, views of the one that is stored.

    Bits are drawn for each value, so a data set with static or dynamic bits is returned as it is.
    """
    if data.dynamic or data.train.bits is not None:
        return data

    def tripled(split: Split) -> Split:
        store = np.broadcast_to(split.store, (len(split.store), 3, *split.store.shape[2:]))  # [N, 1, H, W] -> 3
        return replace(split, store=store)

    train, val, test = (tripled(data.split(name)) for name in NAMES)
    colored = replace(data, spec=replace(data.spec, channels=3), train=train, val=val, test=test)
    return _with_note(colored, "converted from gray to RGB")


def resized(data: Dataset, config: DataConfig) -> Dataset:
    """Convert a named data set to gray and to ``config.sides``, with the same number of levels.

    Data of fewer than 256 levels is resized at 8 bits and quantized afterwards.

    Raises:
        DataError: for another size under fit="error".
        UsageError: for another size under fit="tiles".
    """
    gray = config.gray and data.spec.channels > 1
    sides = config.sides or (data.spec.height, data.spec.width)
    if not gray and sides == (data.spec.height, data.spec.width):
        return data
    if config.fit == "tiles" and sides != (data.spec.height, data.spec.width):
        raise UsageError(f"data.fit: tiles are cut from image files; choose crop, resize or pad for {data.name}")
    reading = Reading(sides, config.gray, config.fit, config.background, resample=config.resample)
    pads = config.fit == "pad" and sides != (data.spec.height, data.spec.width)
    channels = 1 if gray else 3 if pads and reading.colored_background else data.spec.channels

    def resized_split(name: str) -> Split:
        images, labels = data.split(name).all()
        out = np.empty((len(images), channels, *sides), np.uint8)
        for i, image in enumerate(to_bytes(images, data.source_levels)):
            # [1, H, W] -> [H, W] or [3, H, W] -> [H, W, 3]
            pil = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
            pil = fit_to(pil.convert("L") if gray else pil, reading, f"{data.name}, {name}", [])
            pil = pil if channels == 1 else pil.convert("RGB")
            out[i] = np.asarray(pil).reshape(*sides, channels).transpose(2, 0, 1)  # [H, W, C] -> [C, H, W]
        return Split(out, labels)

    train, val, test = map(resized_split, NAMES)
    spec = replace(data.spec, channels=channels, height=sides[0], width=sides[1])
    changes = ["converted to gray"] if gray else []
    if channels > data.spec.channels:
        changes.append("converted from gray to RGB")
    if sides != (data.spec.height, data.spec.width):
        how = config.fit if config.resample == "antialias" else f"{config.fit}, {config.resample}"
        changes.append(f"resized from {data.spec.height}x{data.spec.width} to {sides[0]}x{sides[1]} ({how})")
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


def with_palette(data: Dataset, palette: int | str) -> Dataset:
    """Color images as indices of a palette, held in memory.

    Args:
        data: RGB images.
        palette: number of colors, fitted to the training images, or the colors.

    Raises:
        UsageError: for images that are not in color.
    """
    if data.spec.channels != 3:
        raise UsageError(f"data.palette: the images of {data.name} are not in color; remove it")
    if isinstance(palette, int):
        step = max(1, len(data.train) // _FITTED)
        seen = data.train.take(np.arange(0, len(data.train), step))[0]
        palette = fit_palette(to_bytes(seen, data.source_levels), palette)
    levels = palette_size(palette)
    stores: dict[int, Levels] = {}  # splits may share one

    def of(split: Split) -> Split:
        if id(split.store) not in stores:
            store = stores[id(split.store)] = np.empty((len(split.store), 1, *split.store.shape[2:]), np.uint8)
            for at in range(0, len(store), _CHUNK):
                pixels = to_bytes(np.asarray(split.store[at : at + _CHUNK]), data.source_levels)
                store[at : at + _CHUNK] = indexed(pixels, palette)
        return replace(split, store=stores[id(split.store)], levels=levels, table=None)

    train, val, test = (of(data.split(name)) for name in NAMES)
    spec = replace(data.spec, channels=1, levels=levels, palette=palette)
    changed = replace(data, spec=spec, train=train, val=val, test=test, source_levels=levels)
    return _with_note(changed, f"indexed by a palette of {levels} colors")


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
