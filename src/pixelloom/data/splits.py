"""A data set and its three splits, and how splits are cut: by content, so that equal images land in one split.

A split is a view: an array of stored images (in memory, or mapped from a file), the rows that belong to the split, and
the rule that turns stored levels into the levels a model sees. Nothing is copied until images are taken.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError, UsageError, did_you_mean
from pixelloom.core.types import ImageSpec, Labels, Levels
from pixelloom.data.pixels import Table, draw_bits_each

Rows: TypeAlias = npt.NDArray[np.int64]
"""Positions in an array of images, int64 [N]."""
Prints: TypeAlias = npt.NDArray[np.uint64]
"""Content hashes, uint64 [N]: equal images have equal prints."""

NAMES = ("train", "val", "test")
VAL_SHARE = 0.1
"""Part of the training images that is kept for validation, and of a user's pictures for each of val and test."""


@dataclass(frozen=True, eq=False)
class Split:
    """Some images of an array, as a model sees them. ``len``, ``take``, ``labels`` and ``all`` are the whole interface.

    ``store`` is uint8 [M, C, H, W] (an array or a memory map) of values below ``levels``, ``store_labels`` int64 [M];
    ``rows`` are the members in order (all of the store when None). Values pass through ``table`` where there is one;
    ``bits = (seed, stream)`` binarizes image i by one draw that depends on (seed, stream, i) alone.
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
        """Class indices of the split's images in order, int64 [N], or None where the data has no classes."""
        if self.store_labels is None or self.rows is None:
            return self.store_labels
        return self.store_labels[self.rows]

    def take(self, indices: Sequence[int] | Rows) -> tuple[Levels, Labels | None]:
        """The images (uint8 [n, C, H, W], a fresh array) and labels (int64 [n]) at positions 0..len-1 of the split."""
        at = np.asarray(indices, dtype=np.int64)
        rows = at if self.rows is None else self.rows[at]
        images = np.asarray(self.store[rows])
        if self.table is not None:
            images = self.table[images]
        if self.bits is not None:
            images = draw_bits_each(images, self.levels, *self.bits, at.tolist())
        return images, None if self.store_labels is None else self.store_labels[rows]

    def all(self) -> tuple[Levels, Labels | None]:
        """Every image and label; for splits that fit in memory."""
        return self.take(np.arange(len(self)))

    def first(self, n: int) -> Split:
        """The first n images; they stay what they are, drawn bits included."""
        return replace(self, rows=np.arange(len(self.store))[:n] if self.rows is None else self.rows[:n])

    def subset(self, positions: Rows) -> Split:
        """The images at some positions, still a view of the same store; for splits without drawn bits."""
        if self.bits is not None:
            raise ValueError("drawn bits belong to positions; take the subset first and binarize then")
        return replace(self, rows=positions if self.rows is None else self.rows[positions])

    def __getstate__(self) -> dict[str, Any]:
        """For another process: a store that lies in a mapped file is named, not copied."""
        return {**self.__dict__, "store": Mapped.of(self.store) or self.store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        store = state["store"]
        self.__dict__.update(state, store=store.open() if isinstance(store, Mapped) else store)


@dataclass(frozen=True)
class Mapped:
    """Where in a file the bytes of a memory-mapped uint8 array lie."""

    path: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: Levels) -> Mapped | None:
        """The place of an array that is a map of a file or a view of one; None for any other."""
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
        """The same array, mapped read-only in this process; raises DataError when the file is gone or too short."""
        span = 1 + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        try:
            buffer = np.memmap(self.path, np.uint8, "r", self.offset, (span,))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: the pictures cannot be opened again ({error}); start anew") from None
        return np.ndarray(self.shape, np.uint8, buffer, 0, self.strides)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in three disjoint splits, and what a model must know of them.

    When ``dynamic``, ``spec.levels`` is 2 but splits give gray images of ``source_levels`` levels, and the stream
    binarizes them anew at each visit. ``note`` says in words what a figure measured on this data must mention.
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
        """The split called train, val or test; UsageError for any other name."""
        if name not in NAMES:
            raise UsageError(
                f"split: no split is called {name!r}; there are {', '.join(NAMES)}.{did_you_mean(name, NAMES)}"
            )
        split: Split = getattr(self, name)
        return split

    def counts(self) -> dict[str, int]:
        """Number of images of each split."""
        return {name: len(self.split(name)) for name in NAMES}


def fingerprints(images: Levels, seed: int = 0) -> Prints:
    """64 bits of BLAKE2b over each image's bytes, keyed by ``seed``; uint64 [N], read one image at a time."""
    key = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8, key=key).digest() for image in images)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def cut(prints: Prints, *shares: float) -> tuple[Rows, ...]:
    """Rows in ``len(shares) + 1`` disjoint parts by content: one for each share, then the rest.

    A print, read as a number in [0, 1), falls into the interval of a share. So equal images go together, and adding
    pictures moves none of the others. Each part gets at least one distinct image; DataError when there are too few.
    """
    distinct = np.unique(prints)
    parts = len(shares) + 1
    if len(distinct) < parts:
        raise DataError(f"{len(distinct)} distinct pictures cannot fill {parts} splits; at least {parts} are needed")
    ends, begin = [], 0
    for i, share in enumerate(np.cumsum(shares)):
        end = int(np.searchsorted(distinct, np.uint64(min(share, 1.0) * (2**64 - 1))))
        begin = min(max(end, begin + 1), len(distinct) - (parts - 1 - i))
        ends.append(begin)
    part = np.searchsorted(distinct[ends], prints, side="right")
    return tuple(np.flatnonzero(part == i) for i in range(parts))


def without(rows: Rows, prints: Prints, *others: Prints) -> Rows:
    """Those of ``rows`` whose print (``prints[row]``) is in none of the other sets."""
    for other in others:
        rows = rows[~np.isin(prints[rows], other)]
    return rows


def published(name: str, whole: Split, test: Split, classes: tuple[str, ...], counts: tuple[int, int]) -> Dataset:
    """A set with a published test part, which stays whole; validation is cut by content from the rest of training.

    ``counts`` are the published numbers of training and test images; the note says where the files hold others.
    """
    prints = fingerprints(whole.store)
    kept = without(np.arange(len(whole)), prints, fingerprints(test.store))
    val, train = cut(prints[kept], VAL_SHARE)
    notes = [_left_out(len(whole) - len(kept))]
    notes += [miscounted("training", whole, counts[0]), miscounted("test", test, counts[1])]
    return assembled(name, whole.subset(kept[train]), whole.subset(kept[val]), test, classes, *notes)


def given(name: str, train: Split, val: Split, test: Split, classes: tuple[str, ...] = (), *notes: str) -> Dataset:
    """Three parts as they are, but for images that a later part holds as well: those leave the earlier one."""
    prints = [fingerprints(split.store) for split in (train, val, test)]
    kept_val = without(np.arange(len(val)), prints[1], prints[2])
    kept_train = without(np.arange(len(train)), prints[0], prints[1], prints[2])
    dropped = len(train) - len(kept_train) + len(val) - len(kept_val)
    return assembled(name, train.subset(kept_train), val.subset(kept_val), test, classes, *notes, _left_out(dropped))


def own(
    name: str, whole: Split, parts: Mapping[str, slice] | None, classes: tuple[str, ...], note: str, seed: int
) -> Dataset:
    """A user's pictures: parts of the store that were named stay, the others are cut by content from training.

    80 % train, 10 % val, 10 % test where nothing was named. Raises DataError when a split would be empty.
    """
    prints = fingerprints(whole.store, seed)
    named = {part: np.arange(len(prints))[rows] for part, rows in (parts or {"train": slice(None)}).items()}
    rows = {part: named.get(part, np.zeros(0, np.int64)) for part in NAMES}
    rows["val"] = without(rows["val"], prints, prints[rows["test"]])
    rows["train"] = without(rows["train"], prints, prints[rows["val"]], prints[rows["test"]])
    dropped = sum(map(len, named.values())) - sum(map(len, rows.values()))
    missing = [part for part in ("test", "val") if part not in named]
    if "train" in named and not len(rows["train"]):
        raise DataError(f"{name}: every training picture is also in the validation or test part")
    if "train" in named and missing:
        try:
            pieces = cut(prints[rows["train"]], *[VAL_SHARE] * len(missing))
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        rows |= {part: rows["train"][piece] for part, piece in zip((*missing, "train"), pieces, strict=True)}
    train, val, test = (whole.subset(rows[part]) for part in NAMES)
    return assembled(name, train, val, test, classes, note, _left_out(dropped))


def assembled(name: str, train: Split, val: Split, test: Split, classes: tuple[str, ...] = (), *notes: str) -> Dataset:
    """Disjoint splits as a data set of as many levels as they store."""
    channels, height, width = train.store.shape[1:]
    spec = ImageSpec(channels, height, width, train.levels)
    note = "; ".join(filter(None, notes))
    return Dataset(name, spec, train, val, test, classes, source_levels=train.levels, note=note)


def miscounted(part: str, split: Split, count: int) -> str:
    """What to note when a part of a published set is not all there (or more than that)."""
    return f"the {part} part holds {len(split)} of the {count} published images" if len(split) != count else ""


def _left_out(count: int) -> str:
    return f"{count} images left out because a later split holds the same" if count else ""
