"""Pictures that come as arrays: ``.npy`` and ``.npz``, read block by block and never unpickled.

Headers are checked against the bytes that are there before anything is allocated. Values are uint8 levels, or bool.
The order of the axes is told by the shape alone, or refused: see ``_axes``.
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
from pixelloom.data.io.decode import MAX_SIDE, Reading, color, fit_to

if TYPE_CHECKING:  # types.py imports torch, which reading pictures does not need
    from pixelloom.core.types import Labels, Levels

Axes = Literal["NHW", "NHWC", "NCHW"]

_ALIASES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SMALL = 1 << 27
"""Bytes that labels and other small arrays may have."""


@dataclass(frozen=True)
class Stored:
    """One array in a file: what its header says, and how to open it again."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    """The bytes of the ``.npy`` file or member; the values start at ``offset``."""


@dataclass(frozen=True)
class Arrays:
    """A file's stacks of pictures in order (train, val, test, or one alone) and what stands beside them."""

    path: Path
    stacks: list[Stored]
    labels: Labels | None
    parts: dict[str, slice] | None
    classes: tuple[str, ...]
    levels: int
    note: str

    @property
    def count(self) -> int:
        """Number of pictures."""
        return sum(stack.shape[0] for stack in self.stacks)

    def change(self, reading: Reading) -> str:
        """What scaling or gray will do to the pictures, for the note; "" if they stay as they are."""
        channels, height, width = _shape(self.path, self.stacks[0])
        done = []
        if reading.size not in (None, (height, width)):
            assert reading.size is not None
            done.append(f"from {height}x{width} to {reading.size[0]}x{reading.size[1]} by {reading.fit}")
        if reading.gray and channels == 3:
            done.append("made gray")
        return f"pictures {', '.join(done)}" if done else ""

    def mapped(self, reading: Reading) -> Levels | None:
        """The pictures of a large ``.npy`` as they lie in the file; None where they must be read instead."""
        stack = self.stacks[0]
        if self.path.suffix.lower() != ".npy" or self.change(reading) or math.prod(stack.shape) < IN_MEMORY:
            return None
        with _faults(self.path):
            return _nchw(np.load(self.path, mmap_mode="r", allow_pickle=False).view(np.uint8), _axes(self.path, stack))

    def blocks(self, reading: Reading, size: int) -> Iterator[Levels]:
        """All pictures in order, uint8 [n, C, H, W] of about ``size`` bytes a block. Raises DataError."""
        for stack in self.stacks:
            for block in _rows(self.path, stack, size):
                if self.levels < 256 and (highest := int(block.max())) >= self.levels:
                    raise DataError(f"{self.path}: {stack.name} holds the value {highest}, but levels is {self.levels}")
                images = _nchw(block, _axes(self.path, stack))
                yield _fitted(images, reading, self.levels, str(self.path)) if self.change(reading) else images


def arrays_of(path: Path) -> Arrays:
    """The arrays of a ``.npy`` or ``.npz`` file, by their headers and keys. Raises DataError."""
    with _faults(path):
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
        return _sorted_out(path, keys)


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
        yield stream


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """What reading a damaged file raises, as DataError with the file's name."""
    try:
        yield
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: no readable {path.suffix} file ({error or 'truncated'})") from error


def _header(name: str, opened: Callable[[], AbstractContextManager[IO[bytes]]], size: int) -> Stored:
    """Shape and type of an array of ``size`` bytes, header included. Raises ValueError where the two disagree."""
    with opened() as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has format version {version[0]}.{version[1]}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        offset = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are never unpickled")
    if fortran:
        raise ValueError(f"{name} is in Fortran order; save numpy.ascontiguousarray of it")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - offset:
        raise ValueError(f"{name}: the header claims {list(shape)} of {dtype}, but {size - offset:,} bytes follow")
    return Stored(name, shape, dtype, offset, opened)


def _sorted_out(path: Path, keys: dict[str, Stored]) -> Arrays:
    """Which array is what: images and labels; train, val, test; x_train, y_train; train_images, train_labels."""
    used: set[str] = set()

    def pick(*names: str) -> Stored | None:
        hits = [name for name in names if name in keys]
        if len(hits) > 1:
            raise DataError(f"{path}: {' and '.join(hits)} both claim one role; keep one")
        used.update(hits)
        return keys[hits[0]] if hits else None

    found: dict[str, tuple[Stored, Stored | None]] = {}
    for part, names in _ALIASES.items():
        images = pick(*(form.format(name) for name in names for form in ("{}", "x_{}", "{}_x", "{}_images")))
        if images is not None:
            found[part] = (
                images,
                pick(*(form.format(name) for name in names for form in ("y_{}", "{}_y", "{}_labels"))),
            )
    whole = pick("images", "x")
    if whole is None and not found and len(keys) == 1:
        whole = pick(*keys)
    if (whole is None) == (not found):
        given = ", ".join(keys) or "nothing"
        raise DataError(f"{path}: needs images (and labels), or train, val and test; it holds {given}")
    if whole is not None:
        found[""] = (whole, pick("labels", "y"))
    stacks = [images for images, _ in found.values()]
    _check_stacks(path, stacks)
    levels = _levels(path, pick("levels"), stacks)
    given_labels = [None if labels is None else _labels(path, labels, images) for images, labels in found.values()]
    labels, classes = _classes(path, given_labels, pick("classes"))
    parts: dict[str, slice] = {}
    start = 0
    for part, (images, _) in found.items():
        parts[part] = slice(start, start + images.shape[0])
        start += images.shape[0]
    notes = (
        ["not every split has labels, so none are used"] if labels is None and any(b for _, b in found.values()) else []
    )
    if ignored := sorted(keys.keys() - used):
        notes.append(f"arrays ignored: {', '.join(ignored)}")
    return Arrays(path, stacks, labels, parts if whole is None else None, classes, levels, "; ".join(notes))


def _check_stacks(path: Path, stacks: list[Stored]) -> None:
    for stack in stacks:
        if stack.dtype not in (np.uint8, np.bool_):
            remedy = "(x * 255).round().astype('uint8')" if stack.dtype.kind == "f" else "x.astype('uint8')"
            raise DataError(f"{path}: {stack.name} is {stack.dtype}; pixels are uint8 or bool: save {remedy} of your x")
        channels, height, width = _shape(path, stack)
        if min(stack.shape) < 1 or max(height, width) > MAX_SIDE:
            raise DataError(f"{path}: {stack.name} of shape {list(stack.shape)} holds no pictures")
        if (channels, height, width) != _shape(path, stacks[0]) or stack.dtype != stacks[0].dtype:
            raise DataError(f"{path}: {stack.name} and {stacks[0].name} differ in picture size or type")


def _axes(path: Path, stack: Stored) -> Axes:
    """The order of the axes, by shape: three are N, H, W; of four, the one of length 1 or 3 is C, second or last.

    Raises DataError where both or neither could be C, and for three axes of which the last is 1, 3 or 4 long and the
    second is not: that is more likely one picture H, W, C than many.
    """
    shape = stack.shape
    at = f"{path}: {stack.name} of shape {list(shape)}"
    if len(shape) == 3:
        if shape[2] in (1, 3, 4) and shape[1] != shape[2]:
            raise DataError(f"{at} may be one picture [H, W, C] or many; save many as [N, H, W, 1] or [N, 3, H, W]")
        return "NHW"
    if len(shape) != 4:
        raise DataError(f"{at} holds no pictures; save [N, H, W], [N, H, W, C] or [N, C, H, W]")
    second, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if second and last:
        raise DataError(f"{at} may be [N, C, H, W] or [N, H, W, C]; save gray pictures as [N, H, W]")
    if not (second or last):
        raise DataError(f"{at} has no axis of 1 or 3 channels, second or last; composite RGBA and save RGB")
    return "NCHW" if second else "NHWC"


def _nchw(array: Levels, axes: Axes) -> Levels:
    """A view [N, C, H, W] of the same values."""
    if axes == "NHW":
        return array[:, None]
    return array if axes == "NCHW" else array.transpose(0, 3, 1, 2)


def _shape(path: Path, stack: Stored) -> tuple[int, int, int]:
    """(C, H, W) of one picture."""
    axes = _axes(path, stack)
    if axes == "NHW":
        return 1, stack.shape[1], stack.shape[2]
    c, h, w = (1, 2, 3) if axes == "NCHW" else (3, 1, 2)
    return stack.shape[c], stack.shape[h], stack.shape[w]


def _rows(path: Path, stack: Stored, size: int) -> Iterator[Levels]:
    """A stack in blocks of about ``size`` bytes, streamed: a compressed member is never held whole."""
    each = math.prod(stack.shape[1:])
    step = max(1, size // each)
    with _faults(path), stack.open() as stream:
        stream.read(stack.offset)
        for start in range(0, stack.shape[0], step):
            count = min(step, stack.shape[0] - start)
            data = stream.read(count * each)
            if len(data) != count * each:
                raise EOFError("truncated")
            yield np.frombuffer(data, np.uint8).reshape(count, *stack.shape[1:])
        stream.read(1)  # the end of a zip member is where its CRC is checked


def _small(path: Path, stored: Stored) -> npt.NDArray[np.generic]:
    """A whole array of labels, names or the like."""
    size = math.prod(stored.shape) * stored.dtype.itemsize
    if size > _SMALL:
        raise DataError(f"{path}: {stored.name} has {size:,} bytes; the limit is {_SMALL:,}")
    with stored.open() as stream:
        stream.read(stored.offset)
        return np.frombuffer(stream.read(), stored.dtype).reshape(stored.shape)


def _levels(path: Path, stored: Stored | None, stacks: list[Stored]) -> int:
    """2 for bool; else what the file says, 256 if it says nothing."""
    if stored is None:
        return 2 if stacks[0].dtype == np.bool_ else 256
    value = _small(path, stored)
    if value.size != 1 or value.dtype.kind not in "iu" or not 2 <= int(value.reshape(())) <= 256:
        raise DataError(f"{path}: levels must be one whole number from 2 to 256")
    return int(value.reshape(()))


def _labels(path: Path, stored: Stored, images: Stored) -> Labels:
    """Class indices of a stack, int64 [N], from whole numbers [N] or [N, 1]."""
    n = images.shape[0]
    if stored.dtype.kind not in "iub" or stored.shape not in ((n,), (n, 1)):
        raise DataError(
            f"{path}: {stored.name} is {stored.dtype} {list(stored.shape)}; save whole numbers [{n}], one an image"
        )
    return _small(path, stored).reshape(n).astype(np.int64)


def _classes(path: Path, given: list[Labels | None], named: Stored | None) -> tuple[Labels | None, tuple[str, ...]]:
    """All labels as indices 0.. into the classes. Without names, a class is called by its number in the file."""
    present = [labels for labels in given if labels is not None]
    if not present or len(present) < len(given):
        return None, ()
    labels = np.concatenate(present)
    if named is None:
        numbers, indices = np.unique(labels, return_inverse=True)
        return indices.astype(np.int64), tuple(str(number) for number in numbers)
    names = _small(path, named)
    if names.dtype.kind != "U" or names.ndim != 1 or not 0 <= labels.min() <= labels.max() < len(names):
        raise DataError(f"{path}: classes must be a list of names, one for each label from 0 to {labels.max()}")
    return labels, tuple(str(name) for name in names)


def _fitted(images: Levels, reading: Reading, levels: int, name: str) -> Levels:
    """Pictures made gray and brought to size like files are; values stay below ``levels``, the background is scaled."""
    shade = "#" + "".join(f"{round(value * (levels - 1) / 255):02x}" for value in color(reading.background))
    reading = replace(reading, background=shade)
    fitted = []
    for image in images:
        picture = Image.fromarray(image[0]) if len(image) == 1 else Image.fromarray(image.transpose(1, 2, 0).copy())
        picture = picture.convert("L") if reading.gray else picture
        picture = picture if reading.size is None else fit_to(picture, reading, name, [])
        fitted.append(np.asarray(picture, np.uint8).reshape(picture.height, picture.width, -1).transpose(2, 0, 1))
    return np.minimum(np.stack(fitted), np.uint8(levels - 1))  # LANCZOS and BICUBIC overshoot
