"""Splits of a user's images: named ones are kept, missing ones are split off by content hash, class by class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from pixelloom.core.errors import DataError, shortened
from pixelloom.core.types import Labels
from pixelloom.data.splits import (
    NAMES,
    VAL_SHARE,
    Dataset,
    Hashes,
    Rows,
    Split,
    assemble,
    content_hashes,
    duplicates_note,
    exclude,
    split_by_hash,
)

_NAMED = 5  # classes in a note


def from_user(
    name: str,
    whole: Split,
    parts: Mapping[str, slice] | None,
    classes: tuple[str, ...],
    note: str,
    seed: int,
    files: Rows | None = None,
) -> Dataset:
    """A data set of a user's images: named splits are kept, missing ones are split off training by content hash.

    Without named splits, 80 % are train, 10 % val and 10 % test. The frames of a file stay in one split, and each class
    of enough images has one in each split.

    Args:
        name: name or path of the data.
        whole: all images.
        parts: rows of the named splits.
        classes: class names.
        note: on how the images were read.
        seed: key of the content hashes.
        files: index of the file of each image, int64 [N]; None if each image is a file.

    Raises:
        DataError: if a split would be empty.
    """
    hashes = content_hashes(whole.store, seed)
    named = {part: np.arange(len(hashes))[rows] for part, rows in (parts or {"train": slice(None)}).items()}
    unlabeled = 0
    if whole.store_labels is not None:
        unlabeled = int((whole.store_labels < 0).sum())
        named = {part: rows[whole.store_labels[rows] >= 0] for part, rows in named.items()}
    rows = {part: named.get(part, np.zeros(0, np.int64)) for part in NAMES}
    rows, dropped = _disjoint(rows, hashes)
    missing = [part for part in ("test", "val") if part not in named]
    left = f"{unlabeled} unlabeled image{'s' * (unlabeled > 1)} (label -1) left out" if unlabeled else ""
    notes = [note, left]
    if "train" in named and not len(rows["train"]):
        raise DataError(f"{name}: every training image is also in the validation or test split")
    if "train" in named and missing:
        members = rows["train"]
        keys = hashes[members] if files is None else _file_keys(hashes[members], files[members])
        labels = None if whole.store_labels is None else whole.store_labels[members]
        try:
            pieces, small = _by_class(keys, labels, [VAL_SHARE] * len(missing))
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        rows |= {part: members[piece] for part, piece in zip((*missing, "train"), pieces, strict=True)}
        rows, again = _disjoint(rows, hashes)
        dropped += again
        notes.append(_small_note([classes[k] for k in small], len(missing) + 1))
    if "train" in named and whole.store_labels is not None:
        seen = set(whole.store_labels[rows["train"]].tolist())
        notes.append(_untrained_note([label for k, label in enumerate(classes) if k not in seen]))
    train, val, test = (whole.subset(rows[part]) for part in NAMES)
    return assemble(name, train, val, test, classes, *notes, duplicates_note(dropped))


def _disjoint(rows: dict[str, Rows], hashes: Hashes) -> tuple[dict[str, Rows], int]:
    """Remove images of an earlier split that a later one contains; also return their number."""
    val = exclude(rows["val"], hashes, hashes[rows["test"]])
    train = exclude(rows["train"], hashes, hashes[val], hashes[rows["test"]])
    dropped = len(rows["val"]) - len(val) + len(rows["train"]) - len(train)
    return {"train": train, "val": val, "test": rows["test"]}, dropped


def _file_keys(hashes: Hashes, files: Rows) -> Hashes:
    """One hash per file, for each of its images: that of the image, or of the hashes of all frames."""
    keys = hashes.copy()
    order = np.argsort(files, kind="stable")
    starts = np.flatnonzero(np.diff(files[order], prepend=-1))
    for frames in np.split(order, starts[1:]):
        if len(frames) > 1:
            digest = hashlib.blake2b(hashes[frames].astype("<u8").tobytes(), digest_size=8).digest()
            keys[frames] = np.frombuffer(digest, "<u8")[0]
    return keys


def _by_class(keys: Hashes, labels: Labels | None, shares: list[float]) -> tuple[tuple[Rows, ...], list[int]]:
    """Partition rows by hash into a part per share and the rest, so that each class is in each part.

    A class of fewer distinct keys than parts is in the rest (train) only. Without another class, all images are
    partitioned together.

    Returns:
        rows of each part, and the classes that are too small.

    Raises:
        DataError: for fewer distinct keys than parts.
    """
    parts = len(shares) + 1
    if labels is None:
        return split_by_hash(keys, *shares), []
    members = [np.flatnonzero(labels == k) for k in range(int(labels.max(initial=-1)) + 1)]
    distinct = [len(np.unique(keys[rows])) for rows in members]
    small = [k for k, count in enumerate(distinct) if 0 < count < parts]
    large = [k for k, count in enumerate(distinct) if count >= parts]
    if not large:
        return split_by_hash(keys, *shares), small
    found: list[list[Rows]] = [[] for _ in range(parts)]
    for k in large:
        for part, piece in zip(found, split_by_hash(keys[members[k]], *shares), strict=True):
            part.append(members[k][piece])
    found[-1] += [members[k] for k in small]
    return tuple(np.sort(np.concatenate(part)) for part in found), small


def _small_note(names: list[str], parts: int) -> str:
    if not names:
        return ""
    return f"fewer than {parts} distinct images, so not in every split: {_listed(names)}"


def _untrained_note(names: list[str]) -> str:
    return f"no training image of {_listed(names)}" if names else ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(shortened(name, 30) for name in names[:_NAMED]) + more
