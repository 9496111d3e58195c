"""What a data set looks like, from the headers and pixels of some of its images: for :mod:`pixelloom.runs.pick`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError
from pixelloom.core.types import palette_size
from pixelloom.data.catalog import DATASETS, load
from pixelloom.data.config import DataConfig
from pixelloom.data.hub_source import source_path
from pixelloom.data.io.array_files import is_array_source
from pixelloom.data.io.decode import decode
from pixelloom.data.io.folders import is_image_source
from pixelloom.data.io.reading import DamageError, SizeError
from pixelloom.data.io.scan import has_images, open_listing
from pixelloom.data.memory import dataset_of
from pixelloom.data.splits import NAMES, Dataset
from pixelloom.runs.pick import FEW_LEVELS, ImageFacts

_SEEN = 64  # images that are read, at even spacing
_STEPS = (2, 4, 8, FEW_LEVELS)

Pixels = npt.NDArray[np.uint8]


def image_facts(config: DataConfig, arrays: Any = None) -> ImageFacts:
    """Describe the images of a configuration, or ``arrays`` in memory.

    Of a folder, zip or list of image files, a few are decoded; other sources are loaded.

    Raises:
        DataError: if the data cannot be read.
        UsageError: for an option that does not fit the images.
    """
    if arrays is not None:
        return _of_dataset(dataset_of(arrays, config=config), config)
    if config.source in DATASETS:
        return _of_dataset(load(config), config)
    path = source_path(config)
    return _of_files(path, config) if _holds_image_files(path, config) else _of_dataset(load(config), config)


def _holds_image_files(path: Path, config: DataConfig) -> bool:
    if not is_image_source(path):
        return False  # loading it names the error
    return has_images(path) if path.is_dir() else not is_array_source(path, config.image_column)


def _of_dataset(data: Dataset, config: DataConfig) -> ImageFacts:
    """Describe a loaded data set; its levels are those of the model."""
    n = len(data.train)
    images, _ = data.train.take(np.arange(min(n, _SEEN)) * n // max(1, min(n, _SEEN)))
    colors, levels = _colors(list(images.transpose(0, 2, 3, 1))), data.spec.levels  # [N, C, H, W] -> [N, H, W, C]
    return ImageFacts(
        count=sum(len(data.split(name)) for name in NAMES),
        height=data.spec.height,
        width=data.spec.width,
        channels=data.spec.channels,
        levels=levels_needed(np.unique(images)) if levels == 256 else levels,
        stored=levels,
        colors=colors,
        sized=config.size is not None,
        palette=data.spec.palette is not None,
    )


def _of_files(path: Path, config: DataConfig) -> ImageFacts:
    frames: list[Pixels] = []
    with open_listing(path, config.image_column) as listing:
        count = len(listing.names)
        rows = np.arange(min(count, _SEEN)) * count // max(1, min(count, _SEEN))
        for i in rows.tolist():
            try:
                frames += decode(listing.read(i), listing.names[i], config.reading).frames[:1]
            except (DamageError, SizeError):
                continue  # the run says so
    if not frames:
        load(config)  # raises the error of these files
        raise DataError(f"{path}: none of {len(rows)} images can be read")
    sizes = {frame.shape[:2] for frame in frames}
    mixed = len(sizes) > 1
    side = int(np.median([min(frame.shape[:2]) for frame in frames]))
    height, width = (side, side) if mixed else sizes.pop()
    values = np.unique(np.concatenate([np.unique(frame) for frame in frames]))
    stored = 2 if config.binarize != "none" else config.levels or 256
    if config.palette is not None:
        n = palette_size(config.palette)
        return ImageFacts(count, height, width, 1, n, n, n, config.size is not None, mixed, palette=True)
    return ImageFacts(
        count=count,
        height=height,
        width=width,
        channels=max(frame.shape[2] for frame in frames),
        levels=levels_needed(values) if stored == 256 else stored,
        stored=stored,
        colors=_colors(frames),
        sized=config.size is not None,
        mixed=mixed,
    )


def levels_needed(values: Pixels) -> int:
    """The smallest number of levels, of 2, 4, 8, 16 and 256, at which 8-bit values stay apart when quantized."""
    for levels in _STEPS:
        if len(np.unique(values.astype(np.int64) * levels // 256)) == len(values):
            return levels
    return 256


def _colors(images: list[Pixels]) -> int:
    """Number of different colors of images, uint8 [H, W, C] each, at most 256."""
    found: set[bytes] = set()
    for image in images:
        flat = image.reshape(-1, image.shape[2])  # [H, W, C] -> [H * W, C]
        found.update(color.tobytes() for color in np.unique(flat, axis=0)[:256])
        if len(found) >= 256:
            return 256
    return len(found)
