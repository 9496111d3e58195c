"""Stacks of images in arrays: the order of their axes, and their conversion to uint8 levels in blocks.

Three axes are N, H, W. Of four, C is the second or last, of length 1 or 3. Values are uint8 levels or bool, or are
scaled by a stated range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from pixelloom.core.errors import DataError, UsageError
from pixelloom.data.io.cache import IN_MEMORY
from pixelloom.data.io.fit import fit_to
from pixelloom.data.io.npy import StoredArray, read_blocks, read_errors
from pixelloom.data.io.reading import MAX_SIDE, Reading
from pixelloom.data.io.value_range import ValueRange, advice, extrema
from pixelloom.data.tables import LEVELS, bytes_table, quantize_table

if TYPE_CHECKING:  # core.types imports torch, which reading images does not need
    from pixelloom.core.types import Labels, Levels

Axes = Literal["NHW", "NHWC", "NCHW"]
BLOCK = 4 << 20
"""Bytes of a block of images."""


@dataclass(frozen=True)
class Arrays:
    """Image arrays of a source, in the order train, val, test, or other ones, and their labels and class names.

    Labels are int64 [N], with -1 for an image without one.
    """

    path: Path
    stacks: list[StoredArray]
    labels: Labels | None
    splits: dict[str, slice] | None
    classes: tuple[str, ...]
    levels: int
    note: str

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(stack.shape[0] for stack in self.stacks)

    def changes(self, reading: Reading) -> str:
        """The note on scaling, resizing and conversion to gray; "" if images are not changed."""
        channels, height, width = image_shape(self.path, self.stacks[0])
        if reading.transpose:
            height, width = width, height
        changes = []
        if self.stacks[0].dtype not in (np.uint8, np.bool_):
            changes.append(f"scaled from --range {reading.range}")
        if reading.transpose:
            changes.append("transposed")
        if reading.size not in (None, (height, width)):
            assert reading.size is not None
            how = reading.fit if reading.resample == "antialias" else f"{reading.fit}, {reading.resample}"
            changes.append(f"resized from {height}x{width} to {reading.size[0]}x{reading.size[1]} ({how})")
        if reading.gray and channels == 3:
            changes.append("converted to gray")
        return f"images {', '.join(changes)}" if changes else ""

    def direct(self, reading: Reading) -> Levels | None:
        """The array in memory, or a large ``.npy`` memory-mapped, uint8 [N, C, H, W].

        None if the images must be changed, or are small in total and in a file.
        """
        stack = self.stacks[0]
        if self.changes(reading) or len(self.stacks) > 1:
            return None
        if stack.values is not None:
            levels = stack.values.view(np.uint8) if stack.dtype == np.bool_ else stack.values
        elif stack.columns_first is not None:
            return None  # an image would be spread over the file
        elif self.path.suffix.lower() == ".npy" and math.prod(stack.shape) >= IN_MEMORY:
            with read_errors(self.path):
                levels = np.load(self.path, mmap_mode="r", allow_pickle=False).view(np.uint8)
        else:
            return None
        if self.levels < LEVELS and stack.dtype != np.bool_ and int(levels.max()) >= self.levels:
            return None  # blocks() raises
        return _nchw(levels.reshape(stack.shape), axes_of(self.path, stack))

    def blocks(self, reading: Reading, size: int = BLOCK) -> Iterator[Levels]:
        """Iterate over all images in blocks of about ``size`` bytes, uint8 [n, C, H, W].

        Raises:
            DataError: for a damaged file, a value of ``levels`` or more, or one outside of the range.
        """
        scale = self._scale(reading)
        changed = bool(self.changes(replace(reading, transpose=False)))
        for stack in self.stacks:
            axes = axes_of(self.path, stack)
            for block in read_blocks(self.path, stack, size):
                if scale is not None:
                    levels = scale.to_bytes(block, where(self.path, stack))
                else:
                    levels = np.ascontiguousarray(block).view(np.uint8)
                if self.levels < LEVELS and (highest := int(levels.max())) >= self.levels:
                    raise DataError(f"{where(self.path, stack)} has the value {highest}, but levels is {self.levels}")
                images = _nchw(levels, axes)
                if reading.transpose:
                    images = images.transpose(0, 1, 3, 2)  # [N, C, H, W] -> [N, C, W, H]
                yield _resized(images, reading, self.levels, str(self.path)) if changed else images

    def _scale(self, reading: Reading) -> ValueRange | None:
        """The range that values are scaled by; ``max`` is the largest value of all arrays."""
        if self.stacks[0].dtype in (np.uint8, np.bool_):
            return None
        assert reading.range is not None  # see checked_stacks
        if reading.range.high is not None:
            return reading.range
        return reading.range.resolved(max(_extrema(self.path, stack)[1] for stack in self.stacks))


def where(path: Path, stack: StoredArray) -> str:
    """The source and the name of an array in it, for messages."""
    return str(path) if stack.name == path.name else f"{path}: {stack.name}"


def checked_stacks(path: Path, stacks: list[StoredArray], reading: Reading) -> list[StoredArray]:
    """Image arrays with ``reading.shape`` applied, of one size and type.

    Raises:
        DataError: for other arrays, with what to do for their values.
    """
    if reading.shape is not None:
        stacks = [_shaped(path, stack, reading.shape) for stack in stacks]
    for stack in stacks:
        if stack.dtype.kind not in "iufb":
            raise DataError(f"{where(path, stack)} is {stack.dtype}; pixels must be uint8 or bool")
        shape = image_shape(path, stack, alone=len(stacks) == 1)
        if min(stack.shape) < 1 or max(shape[1:]) > MAX_SIDE:
            raise DataError(f"{where(path, stack)} of shape {list(stack.shape)} is not an array of images")
        if shape != image_shape(path, stacks[0]) or stack.dtype != stacks[0].dtype:
            raise DataError(f"{where(path, stack)} and {stacks[0].name} differ in image size or type")
    for stack in stacks if reading.range is None else []:
        if stack.dtype not in (np.uint8, np.bool_):
            way = advice(*_extrema(path, stack), stack.dtype)
            raise DataError(f"{where(path, stack)} is {stack.dtype}; pixels must be uint8 or bool: {way}")
    return stacks


def _shaped(path: Path, stack: StoredArray, shape: tuple[int, ...]) -> StoredArray:
    """An array of flat images with the given shape of an image: [N, 784] -> [N, 28, 28]."""
    values = math.prod(stack.shape[1:])
    if len(stack.shape) < 2 or values != math.prod(shape):
        given = "x".join(map(str, shape))
        raise DataError(
            f"{where(path, stack)} of shape {list(stack.shape)} has {values} values per image, "
            f"but --data.shape {given} has {math.prod(shape)}"
        )
    return replace(stack, shape=(stack.shape[0], *shape))


def _extrema(path: Path, stack: StoredArray) -> tuple[float, float]:
    found = [extrema(block, where(path, stack)) for block in read_blocks(path, stack, BLOCK)]
    return min(low for low, _ in found), max(high for _, high in found)


def _shape_hint(values: int) -> str:
    """The option that says the shape of flat images, with the likely one."""
    for channels in (1, 3):
        side = math.isqrt(values // channels)
        if channels * side * side == values and side > 1:
            return f"set --data.shape {'' if channels == 1 else '3x'}{side}x{side}"
    return "set --data.shape HEIGHTxWIDTH"


def axes_of(path: Path, stack: StoredArray, *, alone: bool = False) -> Axes:
    """The order of the axes.

    Args:
        path: the source, for messages.
        stack: the array.
        alone: it is the only one of its source, so three gray images are more likely one image [3, H, W].

    Raises:
        DataError: for an order that is unclear, and arrays that are probably one image, flat images, or [H, W, C, N].
    """
    shape = stack.shape
    at = f"{where(path, stack)} of shape {list(shape)}"
    if len(shape) == 3:
        if shape[1] == 1 and shape[2] > 4:
            raise DataError(f"{at} may be flat images; {_shape_hint(shape[2])}")
        if shape[2] in (1, 3, 4) and shape[1] != shape[2]:
            raise DataError(f"{at} may be one image [H, W, C]; save images as [N, H, W, 1] or [N, 3, H, W]")
        if alone and shape[0] == 3 and min(shape[1:]) > 4:
            raise DataError(f"{at} may be one image [C, H, W]; save gray images as [N, H, W, 1]")
        return "NHW"
    if len(shape) == 2:
        raise DataError(
            f"{at} is not an array of images; save [N, H, W], [N, H, W, C] or [N, C, H, W], "
            f"or {_shape_hint(shape[1])} if these are flat images"
        )
    if len(shape) != 4:
        raise DataError(f"{at} is not an array of images; save [N, H, W], [N, H, W, C] or [N, C, H, W]")
    if shape[1:3] == (1, 1) or shape[2:] == (1, 1):
        raise DataError(f"{at} may be flat images; {_shape_hint(math.prod(shape[1:]))}")
    second, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if second and last:
        raise DataError(f"{at} may be [N, C, H, W] or [N, H, W, C]; save gray images as [N, H, W]")
    if not (second or last):
        if shape[2] in (1, 3):
            raise DataError(f"{at} seems to be [H, W, C, N]; save x.transpose(3, 0, 1, 2)")
        raise DataError(f"{at} has no second or last axis of 1 or 3 channels; composite RGBA and save RGB")
    return "NCHW" if second else "NHWC"


def _nchw(array: Levels, axes: Axes) -> Levels:
    """A view of images as [N, C, H, W]."""
    if axes == "NHW":
        return array[:, None]
    return array if axes == "NCHW" else array.transpose(0, 3, 1, 2)  # [N, H, W, C] -> [N, C, H, W]


def image_shape(path: Path, stack: StoredArray, *, alone: bool = False) -> tuple[int, int, int]:
    """(C, H, W) of an image."""
    axes = axes_of(path, stack, alone=alone)
    if axes == "NHW":
        return 1, stack.shape[1], stack.shape[2]
    c, h, w = (1, 2, 3) if axes == "NCHW" else (3, 1, 2)
    return stack.shape[c], stack.shape[h], stack.shape[w]


def _resized(images: Levels, reading: Reading, levels: int, name: str) -> Levels:
    """Convert images to gray and resize them like files, at 8 bits; then quantize them to ``levels`` again."""
    images = bytes_table(levels)[images]
    if reading.fit == "tiles" and reading.size not in (None, images.shape[2:]):
        raise UsageError(f"{name}: tiles are cut from image files; choose --fit crop, resize or pad for arrays")
    resized = []
    for image in images:
        # [1, H, W] -> [H, W] or [3, H, W] -> [H, W, 3]
        pil = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0).copy())
        pil = pil.convert("L") if reading.gray else pil
        pil = pil if reading.size is None else fit_to(pil, reading, name, [])
        # [H, W] or [H, W, C] -> [C, H, W]
        resized.append(np.asarray(pil, np.uint8).reshape(pil.height, pil.width, -1).transpose(2, 0, 1))
    return quantize_table(LEVELS, levels)[np.stack(resized)]
