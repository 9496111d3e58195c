"""A codec of one's own: a model trained on the images that are to be compressed, and exported.

It pays where many images are alike, since the export is needed to read the compressed file and counts with it.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pixelloom.codec.export import CALIBRATION, lower
from pixelloom.codec.image_files import levels_of
from pixelloom.codec.model import CodecModel
from pixelloom.core.errors import DataError
from pixelloom.core.types import ImageSpec, Levels
from pixelloom.data.memory import NAME as IN_MEMORY
from pixelloom.data.pixels import quantize, to_bytes
from pixelloom.models.pixel import PixelModel
from pixelloom.models.registry import load_model
from pixelloom.runs.plan import planned
from pixelloom.runs.train import carry_out

FEWEST = 20
"""Images of one form that are needed to train."""
_MOST_BYTES = 1 << 30  # of images in memory
_TILE = 64  # pixels, side of a tile
_FEW = 16  # levels up to which a distribution over all levels is small


def train_codec(files: Iterable[bytes], minutes: float, seed: int = 0) -> CodecModel:
    """Train a model on image files, and export it.

    The model is for the most common size, in gray or color; other images are stored as they are in a compressed file.
    If less than half of the images have one size, it is a local model, trained on tiles, which codes images of any
    size. Levels that no image has are left out: images of 0 and 255 alone have two levels.

    Args:
        files: contents of image files.
        minutes: budget of the training.
        seed: of weights and data order.

    Raises:
        DataError: for fewer than :data:`FEWEST` images of one form, or tiles, or more than 1 GiB.
    """
    images, tiled = _for_training(_by_size(files))
    spec = _spec(images)
    levels = quantize(images, 256, spec.levels)
    rows = np.linspace(0, len(levels) - 1, min(CALIBRATION, len(levels))).round().astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        recipe, fields = _local_recipe(spec) if tiled else _recipe(spec)
        options = fields | {"data.source": IN_MEMORY, "train.minutes": minutes, "train.seed": seed}
        plan, run = planned(recipe, out=Path(folder) / "run", overrides=options, arrays=images)
        model = load_model(carry_out(plan, run, arrays=images))
        assert isinstance(model, PixelModel)
        codec = lower(model, torch.from_numpy(levels[rows]))
    codec.card |= {"recipe": recipe, "minutes": minutes, "images": len(images), "seed": seed}
    return codec


def _recipe(spec: ImageSpec) -> tuple[str, dict[str, Any]]:
    """Recipe and further fields for images."""
    fields: dict[str, Any] = {"data.levels": spec.levels, "samples": 0}
    if spec.channels == 1:
        return "gated-pixelcnn", fields
    return "pixelcnn-pp", fields | {"head.kind": "logistics"}


def _local_recipe(spec: ImageSpec) -> tuple[str, dict[str, Any]]:
    """Recipe and further fields for tiles."""
    fields: dict[str, Any] = {"data.levels": spec.levels, "samples": 0}
    return "local", fields | ({"head.kind": "auto"} if spec.levels <= _FEW else {})


def _by_size(files: Iterable[bytes]) -> list[list[Levels]]:
    """The images of each size, gray where one is gray, bytes uint8 [1 or 3, H, W] each."""
    groups: dict[tuple[int, ...], list[Levels]] = {}
    total = 0
    for data in files:
        found = _pixels(data)
        if found is None:
            continue
        groups.setdefault(found.shape[1:], []).append(found)
        total += found.size
        if total > _MOST_BYTES:
            raise DataError("--train-minutes: more than 1 GiB of pixels; train a model on part of them, and export it")
    return list(groups.values())


def _for_training(groups: list[list[Levels]]) -> tuple[Levels, bool]:
    """Images to train on, bytes uint8 [N, C, H, W], and whether they are tiles of images of several sizes.

    They are the images of the most common size, if half of the images or more have it. They are gray if all are.
    """
    images = max(groups, key=len, default=[])
    tiled = 2 * len(images) < sum(map(len, groups))
    if tiled:
        images = _tiles([image for group in groups for image in group])
    if len(images) < FEWEST:
        kind = "tiles of images of several sizes" if tiled else "images of one size"
        raise DataError(
            f"--train-minutes: {len(images)} {kind} are too few to train a model, {FEWEST} are needed; use --model, or "
            "leave out --train-minutes"
        )
    channels = max(image.shape[0] for image in images)
    return np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in images]), tiled


def _tiles(images: list[Levels]) -> list[Levels]:
    """Square tiles of all images, side by side; smaller images have none.

    Their side is the median of the shorter sides of the images, at most 64.
    """
    side = min(_TILE, int(np.median([min(image.shape[1:]) for image in images])))
    return [
        image[:, y : y + side, x : x + side]
        for image in images
        for y in range(0, image.shape[1] - side + 1, side)
        for x in range(0, image.shape[2] - side + 1, side)
    ]


def _pixels(data: bytes) -> Levels | None:
    """An image that the codec can restore, bytes uint8 [1 or 3, H, W]; None for other files."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            height, width = image.height, image.width
        found = levels_of(data, ImageSpec(3, height, width, 256))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    if isinstance(found, str):
        return None
    gray = bool((found.levels == found.levels[:1]).all())
    return found.levels[:1] if gray else found.levels


def _spec(images: Levels) -> ImageSpec:
    """Shape, and the fewest levels that keep all values."""
    values = np.unique(images)
    for levels in range(2, 257):
        if np.array_equal(to_bytes(quantize(values, 256, levels), levels), values):
            return ImageSpec(images.shape[1], images.shape[2], images.shape[3], levels)
    raise AssertionError("256 levels keep all bytes")
