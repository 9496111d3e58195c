"""Reading images from arrays: ``.npy`` and ``.npz``, in blocks and without unpickling.

Headers are checked against the size of the file before memory is allocated. Values are uint8 levels or bool. The order
of the axes follows from the shape, see ``_axes``.

Source: the .npy format, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelloom.core.errors import DataError
from pixelloom.data.io.cache import IN_MEMORY
from pixelloom.data.io.fit import fit_to
from pixelloom.data.io.reading import MAX_SIDE, Reading, color

if TYPE_CHECKING:  # core.types imports torch, which reading images does not need
    from pixelloom.core.types import Labels, Levels

Axes = Literal["NHW", "NHWC", "NCHW"]

_ALIASES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_MAX_SMALL_BYTES = 1 << 27
"""Largest size of labels and other small arrays."""


@dataclass(frozen=True)
class StoredArray:
    """The header of an array in a file, and a function that opens it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    """Opens the ``.npy`` file or member; the values start at ``offset``."""


@dataclass(frozen=True)
class Arrays:
    """Image arrays of a file, in the order train, val, test, or a single one, and their labels and class names."""

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
        """The note on resizing and conversion to gray; "" if images are not changed."""
        channels, height, width = _shape(self.path, self.stacks[0])
        changes = []
        if reading.size not in (None, (height, width)):
            assert reading.size is not None
            changes.append(f"resized from {height}x{width} to {reading.size[0]}x{reading.size[1]} ({reading.fit})")
        if reading.gray and channels == 3:
            changes.append("converted to gray")
        return f"images {', '.join(changes)}" if changes else ""

    def mapped(self, reading: Reading) -> Levels | None:
        """Memory-map a large ``.npy``, uint8 [N, C, H, W]; None if its images are small in total or must be changed."""
        stack = self.stacks[0]
        if self.path.suffix.lower() != ".npy" or self.changes(reading) or math.prod(stack.shape) < IN_MEMORY:
            return None
        with _read_errors(self.path):
            return _nchw(np.load(self.path, mmap_mode="r", allow_pickle=False).view(np.uint8), _axes(self.path, stack))

    def blocks(self, reading: Reading, size: int) -> Iterator[Levels]:
        """Iterate over all images in blocks of about ``size`` bytes, uint8 [n, C, H, W].

        Raises:
            DataError: for a damaged file, or a value of ``levels`` or more.
        """
        for stack in self.stacks:
            for block in _read_blocks(self.path, stack, size):
                if self.levels < 256 and (highest := int(block.max())) >= self.levels:
                    raise DataError(f"{self.path}: {stack.name} has the value {highest}, but levels is {self.levels}")
                images = _nchw(block, _axes(self.path, stack))
                yield _resized(images, reading, self.levels, str(self.path)) if self.changes(reading) else images


def arrays_of(path: Path) -> Arrays:
    """Read the headers of the arrays of a ``.npy`` or ``.npz`` file and assign their roles by name.

    Raises:
        DataError: for a damaged file, or arrays that are not images.
    """
    with _read_errors(path):
        if path.suffix.lower() == ".npy":
            keys = {"images": _header(path.name, lambda: path.open("rb"), path.stat().st_size)}
        else:
            with zipfile.ZipFile(path) as archive:
                members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            keys = {
                info.filename.removesuffix(".npy").lower(): _header(
                    info.filename.removesuffix(".npy"), partial(_member, path, info.filename), info.file_size
                )
                for info in members
            }
        return _assign_roles(path, keys)


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
        yield stream


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Convert the exceptions of damaged files into DataError with the file name."""
    try:
        yield
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable {path.suffix} file ({error or 'truncated'})") from error


def _header(name: str, open_stream: Callable[[], AbstractContextManager[IO[bytes]]], size: int) -> StoredArray:
    """Read the header of an array of ``size`` bytes, including the header.

    Raises:
        ValueError: if shape and type do not match the size, or the format is not supported.
    """
    with open_stream() as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has format version {version[0]}.{version[1]}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        offset = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} contains Python objects, which are not unpickled")
    if fortran:
        raise ValueError(f"{name} is in Fortran order; save numpy.ascontiguousarray(x)")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - offset:
        raise ValueError(f"{name}: the header claims {list(shape)} of {dtype}, but {size - offset:,} bytes follow")
    return StoredArray(name, shape, dtype, offset, open_stream)


def _assign_roles(path: Path, keys: dict[str, StoredArray]) -> Arrays:
    """Assign roles by name: images and labels; train, val, test; x_train, y_train; train_images, train_labels."""
    used: set[str] = set()

    def pick(*names: str) -> StoredArray | None:
        matches = [name for name in names if name in keys]
        if len(matches) > 1:
            raise DataError(f"{path}: {' and '.join(matches)} have the same role; keep one")
        used.update(matches)
        return keys[matches[0]] if matches else None

    found: dict[str, tuple[StoredArray, StoredArray | None]] = {}
    for split, names in _ALIASES.items():
        images = pick(*(form.format(name) for name in names for form in ("{}", "x_{}", "{}_x", "{}_images")))
        if images is not None:
            found[split] = (
                images,
                pick(*(form.format(name) for name in names for form in ("y_{}", "{}_y", "{}_labels"))),
            )
    whole = pick("images", "x")
    if whole is None and not found and len(keys) == 1:
        whole = pick(*keys)
    if (whole is None) == (not found):
        given = ", ".join(keys) or "nothing"
        raise DataError(f"{path}: needs images (and labels), or train, val and test; it contains {given}")
    if whole is not None:
        found[""] = (whole, pick("labels", "y"))
    stacks = [images for images, _ in found.values()]
    _check_stacks(path, stacks)
    levels = _levels(path, pick("levels"), stacks)
    split_labels = [None if labels is None else _labels(path, labels, images) for images, labels in found.values()]
    labels, classes = _classes(path, split_labels, pick("classes"))
    splits: dict[str, slice] = {}
    start = 0
    for split, (images, _) in found.items():
        splits[split] = slice(start, start + images.shape[0])
        start += images.shape[0]
    notes = (
        ["labels ignored, because not all splits have labels"]
        if labels is None and any(b for _, b in found.values())
        else []
    )
    if ignored := sorted(keys.keys() - used):
        notes.append(f"arrays ignored: {', '.join(ignored)}")
    return Arrays(path, stacks, labels, splits if whole is None else None, classes, levels, "; ".join(notes))


def _check_stacks(path: Path, stacks: list[StoredArray]) -> None:
    for stack in stacks:
        if stack.dtype not in (np.uint8, np.bool_):
            remedy = "(x * 255).round().astype('uint8')" if stack.dtype.kind == "f" else "x.astype('uint8')"
            raise DataError(f"{path}: {stack.name} is {stack.dtype}; pixels must be uint8 or bool: save {remedy}")
        channels, height, width = _shape(path, stack)
        if min(stack.shape) < 1 or max(height, width) > MAX_SIDE:
            raise DataError(f"{path}: {stack.name} of shape {list(stack.shape)} is not an array of images")
        if (channels, height, width) != _shape(path, stacks[0]) or stack.dtype != stacks[0].dtype:
            raise DataError(f"{path}: {stack.name} and {stacks[0].name} differ in image size or type")


def _axes(path: Path, stack: StoredArray) -> Axes:
    """The order of the axes. Three axes are N, H, W. Of four, C is the second or last, of length 1 or 3.

    Raises:
        DataError: if both or neither can be C, and for three axes with a last axis of length 1, 3 or 4 and another
            second one: these are probably one image [H, W, C].
    """
    shape = stack.shape
    at = f"{path}: {stack.name} of shape {list(shape)}"
    if len(shape) == 3:
        if shape[2] in (1, 3, 4) and shape[1] != shape[2]:
            raise DataError(f"{at} may be one image [H, W, C]; save images as [N, H, W, 1] or [N, 3, H, W]")
        return "NHW"
    if len(shape) != 4:
        raise DataError(f"{at} is not an array of images; save [N, H, W], [N, H, W, C] or [N, C, H, W]")
    second, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if second and last:
        raise DataError(f"{at} may be [N, C, H, W] or [N, H, W, C]; save gray images as [N, H, W]")
    if not (second or last):
        raise DataError(f"{at} has no second or last axis of 1 or 3 channels; composite RGBA and save RGB")
    return "NCHW" if second else "NHWC"


def _nchw(array: Levels, axes: Axes) -> Levels:
    """A view of images as [N, C, H, W]."""
    if axes == "NHW":
        return array[:, None]
    return array if axes == "NCHW" else array.transpose(0, 3, 1, 2)  # [N, H, W, C] -> [N, C, H, W]


def _shape(path: Path, stack: StoredArray) -> tuple[int, int, int]:
    """(C, H, W) of an image."""
    axes = _axes(path, stack)
    if axes == "NHW":
        return 1, stack.shape[1], stack.shape[2]
    c, h, w = (1, 2, 3) if axes == "NCHW" else (3, 1, 2)
    return stack.shape[c], stack.shape[h], stack.shape[w]


def _read_blocks(path: Path, stack: StoredArray, size: int) -> Iterator[Levels]:
    """Read an array in blocks of about ``size`` bytes; compressed members are streamed."""
    row_bytes = math.prod(stack.shape[1:])
    step = max(1, size // row_bytes)
    with _read_errors(path), stack.open() as stream:
        stream.read(stack.offset)
        for start in range(0, stack.shape[0], step):
            count = min(step, stack.shape[0] - start)
            data = stream.read(count * row_bytes)
            if len(data) != count * row_bytes:
                raise EOFError("truncated")
            yield np.frombuffer(data, np.uint8).reshape(count, *stack.shape[1:])  # [n, H, W], or 4 axes
        stream.read(1)  # zipfile checks the CRC of a member at its end


def _read_small(path: Path, stored: StoredArray) -> npt.NDArray[np.generic]:
    """Read an array of labels, class names or levels."""
    size = math.prod(stored.shape) * stored.dtype.itemsize
    if size > _MAX_SMALL_BYTES:
        raise DataError(f"{path}: {stored.name} has {size:,} bytes; the limit is {_MAX_SMALL_BYTES:,}")
    with stored.open() as stream:
        stream.read(stored.offset)
        return np.frombuffer(stream.read(), stored.dtype).reshape(stored.shape)


def _levels(path: Path, stored: StoredArray | None, stacks: list[StoredArray]) -> int:
    """Number of levels: the array ``levels``, else 2 for bool and 256 for uint8."""
    if stored is None:
        return 2 if stacks[0].dtype == np.bool_ else 256
    value = _read_small(path, stored)
    if value.size != 1 or value.dtype.kind not in "iu" or not 2 <= int(value.reshape(())) <= 256:
        raise DataError(f"{path}: levels must be one integer from 2 to 256")
    return int(value.reshape(()))


def _labels(path: Path, stored: StoredArray, images: StoredArray) -> Labels:
    """Class numbers of an image array, int64 [N], from integers [N] or [N, 1]."""
    n = images.shape[0]
    if stored.dtype.kind not in "iub" or stored.shape not in ((n,), (n, 1)):
        raise DataError(
            f"{path}: {stored.name} is {stored.dtype} {list(stored.shape)}; save integers [{n}], one per image"
        )
    return _read_small(path, stored).reshape(n).astype(np.int64)  # [N] or [N, 1] -> [N]


def _classes(
    path: Path, given: list[Labels | None], named: StoredArray | None
) -> tuple[Labels | None, tuple[str, ...]]:
    """Labels of all arrays as indices into the class names. Without names, a class is named by its number."""
    present = [labels for labels in given if labels is not None]
    if not present or len(present) < len(given):
        return None, ()
    labels = np.concatenate(present)
    if named is None:
        numbers, indices = np.unique(labels, return_inverse=True)
        return indices.astype(np.int64), tuple(str(number) for number in numbers)
    names = _read_small(path, named)
    if names.dtype.kind != "U" or names.ndim != 1 or not 0 <= labels.min() <= labels.max() < len(names):
        raise DataError(f"{path}: classes must be an array of names, one for each label from 0 to {labels.max()}")
    return labels, tuple(str(name) for name in names)


def _resized(images: Levels, reading: Reading, levels: int, name: str) -> Levels:
    """Convert images to gray and resize them like files. Scales the background; values stay below ``levels``."""
    shade = "#" + "".join(f"{round(value * (levels - 1) / 255):02x}" for value in color(reading.background))
    reading = replace(reading, background=shade)
    resized = []
    for image in images:
        # [1, H, W] -> [H, W] or [3, H, W] -> [H, W, 3]
        pil = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0).copy())
        pil = pil.convert("L") if reading.gray else pil
        pil = pil if reading.size is None else fit_to(pil, reading, name, [])
        # [H, W] or [H, W, C] -> [C, H, W]
        resized.append(np.asarray(pil, np.uint8).reshape(pil.height, pil.width, -1).transpose(2, 0, 1))
    return np.minimum(np.stack(resized), np.uint8(levels - 1))  # LANCZOS and BICUBIC overshoot
