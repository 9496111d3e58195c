"""Data sets and their train, val and test splits. Splits are made by a hash of the content of each image.

A split is a view of an array in memory or of a memory-mapped file: the rows of the split, and the conversion from
stored levels to the model's levels. Images are copied only by ``Split.take``.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError, UsageError, did_you_mean, shortened
from pixelloom.core.types import ImageSpec, Labels, Levels
from pixelloom.data.pixels import draw_bits_each
from pixelloom.data.tables import Table

Rows: TypeAlias = npt.NDArray[np.int64]
"""Positions in an array of images, int64 [N]."""
Hashes: TypeAlias = npt.NDArray[np.uint64]
"""Content hashes of images, uint64 [N]; equal images have equal hashes."""

NAMES = ("train", "val", "test")
_SHOWN_CLASSES = 20
VAL_SHARE = 0.1
"""Fraction of the training images used for validation, and of a user's images for each of val and test."""


@dataclass(frozen=True, eq=False)
class Split:
    """A view of the images of one split, with ``len``, ``take``, ``labels`` and ``all``.

    Attributes:
        store: images, uint8 [M, C, H, W], an array or a memory map.
        store_labels: class indices, int64 [M]; None for data without classes.
        levels: number of levels of the stored values.
        rows: rows of the store in the split, in order; None for all.
        table: lookup table applied to the values; None for none.
        bits: (seed, stream) of a static binarization, in which image i depends on (seed, stream, i) alone.
    """

    store: Levels
    store_labels: Labels | None = None
    levels: int = 256
    rows: Rows | None = None
    table: Table | None = None
    bits: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.store) if self.rows is None else len(self.rows)

    @property
    def labels(self) -> Labels | None:
        """Class indices of the split's images, int64 [N]; None for data without classes."""
        if self.store_labels is None or self.rows is None:
            return self.store_labels
        return self.store_labels[self.rows]

    def take(self, indices: Sequence[int] | Rows) -> tuple[Levels, Labels | None]:
        """Copy the images, uint8 [n, C, H, W], and labels, int64 [n], at positions in 0..len-1 of the split.

        Raises:
            DataError: if the memory-mapped file has changed since the first use.
        """
        if self._file is not None:
            self._file.check()
        at = np.asarray(indices, dtype=np.int64)
        rows = at if self.rows is None else self.rows[at]
        images = np.asarray(self.store[rows])
        if self.table is not None:
            images = self.table[images]
        if self.bits is not None:
            images = draw_bits_each(images, self.levels, *self.bits, at.tolist())
        return images, None if self.store_labels is None else self.store_labels[rows]

    @functools.cached_property
    def _file(self) -> _FileState | None:
        """The memory-mapped file of the store at its first use; None for an array in memory."""
        mapped = Mapped.of(self.store)
        return None if mapped is None else _FileState.of(mapped.path)

    def all(self) -> tuple[Levels, Labels | None]:
        """All images and labels; for splits that fit in memory."""
        return self.take(np.arange(len(self)))

    def first(self, n: int) -> Split:
        """The split of the first n images, with the same static bits."""
        return replace(self, rows=np.arange(len(self.store))[:n] if self.rows is None else self.rows[:n])

    def subset(self, positions: Rows) -> Split:
        """The split of the images at some positions, a view of the same store.

        Raises:
            ValueError: for a split with static bits, which depend on the position.
        """
        if self.bits is not None:
            raise ValueError("static bits depend on positions; take the subset before binarization")
        return replace(self, rows=positions if self.rows is None else self.rows[positions])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle a memory-mapped store as the location in its file, without its values."""
        return {**self.__dict__, "store": Mapped.of(self.store) or self.store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        store = state["store"]
        self.__dict__.update(state, store=store.open() if isinstance(store, Mapped) else store)


@dataclass(frozen=True)
class _FileState:
    """Identity, size and modification time of a file. Reading a map of a file that was cut ends the process."""

    path: str
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, path: str) -> _FileState | None:
        """The present state; None for a file that is deleted, whose map stays valid."""
        try:
            status = Path(path).stat()
        except OSError:
            return None
        return cls(path, status.st_ino, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Compare with the present state. A deleted or replaced file is no change: the map keeps the old one.

        Raises:
            DataError: if the file was written to or cut.
        """
        now = self.of(self.path)
        if now is not None and now.inode == self.inode and now != self:
            raise DataError(
                f"{self.path}: changed while it is in use ({self.size:,} bytes, now {now.size:,}); "
                "restore it, or begin a new run"
            )


@dataclass(frozen=True)
class Mapped:
    """Location of a memory-mapped uint8 array in its file."""

    path: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: Levels) -> Mapped | None:
        """The location of a memory map or of a view of one; None for other arrays."""
        root: object = array
        while isinstance(root, np.ndarray):
            base: object = root.base
            if (
                isinstance(root, np.memmap)
                and isinstance(base, mmap.mmap)
                and root.filename
                and min(array.strides) >= 0
            ):
                offset = root.offset + array.ctypes.data - root.ctypes.data
                return cls(str(root.filename), offset, array.shape, array.strides)
            root = base
        return None

    def open(self) -> Levels:
        """Map the array again, read-only.

        Raises:
            DataError: if the file is missing or too short.
        """
        span = 1 + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        try:
            buffer = np.memmap(self.path, np.uint8, "r", self.offset, (span,))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path}: the images cannot be opened again ({error}); run the command again"
            ) from None
        return np.ndarray(self.shape, np.uint8, buffer, 0, self.strides)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in three disjoint splits.

    Attributes:
        name: name or path of the data set.
        spec: shape and levels of the images that a model is trained on.
        train: training split.
        val: validation split.
        test: test split.
        classes: class names; empty for data without classes.
        dynamic: dynamic binarization: the splits hold gray images of ``source_levels`` levels, ``spec.levels`` is 2,
            and the stream binarizes each image at each visit.
        source_levels: levels of the stored images.
        note: what must be stated with every result measured on this data.
    """

    name: str
    spec: ImageSpec
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...] = ()
    dynamic: bool = False
    source_levels: int = 256
    note: str = ""

    def split(self, name: str) -> Split:
        """The split named train, val or test.

        Raises:
            UsageError: for another name.
        """
        if name not in NAMES:
            raise UsageError(f"split: unknown split {name!r}; choose {', '.join(NAMES)}.{did_you_mean(name, NAMES)}")
        split: Split = getattr(self, name)
        return split

    def counts(self) -> dict[str, int]:
        """Number of images in each split."""
        return {name: len(self.split(name)) for name in NAMES}

    @property
    def summary(self) -> str:
        """One line: counts of the splits, shape and levels, and class names, of which long lists are shortened."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts().items())
        line = f"{counts} images of {self.spec}"
        if not self.classes:
            return line
        shown = ", ".join(shortened(name, 30) for name in self.classes[:_SHOWN_CLASSES])
        more = f" and {len(self.classes) - _SHOWN_CLASSES} more" if len(self.classes) > _SHOWN_CLASSES else ""
        return f"{line}; {len(self.classes)} classes: {shown}{more}"


def content_hashes(images: Levels, seed: int = 0) -> Hashes:
    """64-bit BLAKE2b hashes of the bytes of each image, keyed by ``seed``, uint64 [N]. Reads one image at a time."""
    key = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8, key=key).digest() for image in images)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def split_by_hash(hashes: Hashes, *shares: float) -> tuple[Rows, ...]:
    """Partition rows by content hash into one part per share, then the rest.

    A hash, read as a number in [0, 1), falls into the interval of one part. So equal images are in the same part, and
    adding images moves no other image. Each part receives at least one distinct image.

    Args:
        hashes: uint64 [N].
        shares: fraction of each part but the last.

    Raises:
        DataError: for fewer distinct images than parts.
    """
    distinct = np.unique(hashes)
    parts = len(shares) + 1
    if len(distinct) < parts:
        few = f"{len(distinct)} distinct image{'s' * (len(distinct) != 1)} cannot fill {parts} splits"
        raise DataError(f"{few}; at least {parts} are needed, such as crops of a large image")
    ends, begin = [], 0
    for i, share in enumerate(np.cumsum(shares)):
        end = int(np.searchsorted(distinct, np.uint64(min(share, 1.0) * (2**64 - 1))))
        begin = min(max(end, begin + 1), len(distinct) - (parts - 1 - i))
        ends.append(begin)
    part = np.searchsorted(distinct[ends], hashes, side="right")
    return tuple(np.flatnonzero(part == i) for i in range(parts))


def exclude(rows: Rows, hashes: Hashes, *others: Hashes) -> Rows:
    """The ``rows`` whose hash ``hashes[row]`` is in none of ``others``."""
    for other in others:
        rows = rows[~np.isin(hashes[rows], other)]
    return rows


def from_published(name: str, whole: Split, test: Split, classes: tuple[str, ...], counts: tuple[int, int]) -> Dataset:
    """A data set with a published test split, which is kept; validation is split off the training images by hash.

    Training images that also occur in the test split are removed. ``counts`` are the published numbers of training and
    test images; the note reports files with other numbers.
    """
    hashes = content_hashes(whole.store)
    kept = exclude(np.arange(len(whole)), hashes, content_hashes(test.store))
    val, train = split_by_hash(hashes[kept], VAL_SHARE)
    notes = [duplicates_note(len(whole) - len(kept))]
    notes += [count_note("training", whole, counts[0]), count_note("test", test, counts[1])]
    return assemble(name, whole.subset(kept[train]), whole.subset(kept[val]), test, classes, *notes)


def from_splits(
    name: str, train: Split, val: Split, test: Split, classes: tuple[str, ...] = (), *notes: str
) -> Dataset:
    """A data set of three given splits; images that also occur in a later split are removed from the earlier one."""
    hashes = [content_hashes(split.store) for split in (train, val, test)]
    kept_val = exclude(np.arange(len(val)), hashes[1], hashes[2])
    kept_train = exclude(np.arange(len(train)), hashes[0], hashes[1], hashes[2])
    dropped = len(train) - len(kept_train) + len(val) - len(kept_val)
    return assemble(
        name, train.subset(kept_train), val.subset(kept_val), test, classes, *notes, duplicates_note(dropped)
    )


def assemble(name: str, train: Split, val: Split, test: Split, classes: tuple[str, ...] = (), *notes: str) -> Dataset:
    """A data set of disjoint splits, with the levels that they store."""
    channels, height, width = train.store.shape[1:]
    spec = ImageSpec(channels, height, width, train.levels)
    note = "; ".join(filter(None, notes))
    return Dataset(name, spec, train, val, test, classes, source_levels=train.levels, note=note)


def count_note(part: str, split: Split, count: int) -> str:
    """The note for a published split with another number of images than published; "" if it is complete."""
    return f"the {part} split has {len(split)} images, {count} were published" if len(split) != count else ""


def duplicates_note(count: int) -> str:
    """The note on images that were removed from earlier splits."""
    return f"{count} image{'s' * (count > 1)} removed because a later split contains the same" if count else ""
