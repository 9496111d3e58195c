"""Splits and classes of image files by their folders.

``[wrapper/][split/][class/][any/]image`` or ``[wrapper/]class/[split/][any/]image``, where each part is optional.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError
from pixelloom.data.io.reading import listed, printable
from pixelloom.data.io.split_names import SPLITS, named_split, natural_order, split_of, taken_note, words_of

REMEDY = "say --splits train=FOLDER,test=FOLDER, or --splits none if they are not splits"
"""What to do if folders look like splits and are not clear."""


@dataclass(frozen=True)
class Labeling:
    """How splits and classes are found.

    Attributes:
        splits: (folder, split) pairs; () for no splits; None to recognize the names of folders.
        class_level: the folder level that names the class, from 1, not counting wrappers and splits; None: the first.
        labels: a file with the labels, ``none`` to ignore labels, or None to look for one.
        label_column: which label of several per image, from 0.
        image_column: column of images in Parquet files; None to find it.
    """

    splits: tuple[tuple[str, str], ...] | None = None
    class_level: int | None = None
    labels: str | None = None
    label_column: int | None = None
    image_column: str | None = None

    @property
    def part(self) -> object:
        """What selects images of a source of arrays, for the cache."""
        return self.splits if self.image_column is None else (self.splits, self.image_column)


@dataclass(frozen=True)
class Layout:
    """Split and class of each file, as indices into ``splits`` and ``classes``; -1 for a file that is left out."""

    splits: tuple[str, ...]
    split: npt.NDArray[np.int8]
    classes: tuple[str, ...]
    label: npt.NDArray[np.int32]
    split_note: str = ""
    class_note: str = ""

    @property
    def note(self) -> str:
        """The notes on splits and classes."""
        return "; ".join(filter(None, (self.split_note, self.class_note)))


def layout_of(names: Sequence[str], path: Path, labeling: Labeling) -> Layout:
    """Interpret the folders of file names.

    A single folder around all images is a wrapper and is ignored. Split folders must contain all images, unless they
    are given. The next folder is the class, if all images have one and there are at least two; deeper folders are
    merged into it. Class names are in natural order, so 2 precedes 10.

    Raises:
        DataError: for folders that are unclear splits, or images outside of the split folders.
    """
    folders = [tuple(name.split("/")[:-1]) for name in names]
    split_names, note = _given(folders, path, labeling.splits) if labeling.splits else (None, "")
    if labeling.splits is None:
        split_names, note = _recognized(folders, path)
    while len({f[:1] for f in folders}) == 1 and folders[0]:  # wrappers
        folders = [f[1:] for f in folders]
    present = tuple(part for part in SPLITS if split_names and part in split_names)
    codes = {part: k for k, part in enumerate(present)}
    split = np.fromiter((codes.get(s, -1) for s in split_names or ()), np.int8, len(names) if split_names else 0)
    classes, label, class_note = _classes(folders, labeling.class_level, path)
    return Layout(
        present,
        split if split_names else np.zeros(len(names), np.int8),
        classes,
        label,
        note,
        class_note,
    )


Folders = list[tuple[str, ...]]


def _given(folders: Folders, path: Path, splits: tuple[tuple[str, str], ...]) -> tuple[list[str], str]:
    """The split of each file by the first folder on its path that is given; "" for none. Removes it from the path."""
    roles = dict(splits)
    found: list[str] = []
    used: set[str] = set()
    for i, parts in enumerate(folders):
        at = next((k for k, folder in enumerate(parts) if folder in roles), None)
        if at is None:
            found.append("")
            continue
        used.add(parts[at])
        found.append(roles[parts[at]])
        folders[i] = parts[:at] + parts[at + 1 :]
    if missing := [folder for folder in roles if folder not in used]:
        raise DataError(f"{path}: no image is in a folder {listed(missing)}, which --splits names")
    outside = found.count("")
    kept = [f for f, s in zip(folders, found, strict=True) if s]
    while len({f[:1] for f in kept}) == 1 and kept[0]:  # wrappers around the split folders
        kept = [f[1:] for f in kept]
    rest = iter(kept)
    folders[:] = [next(rest) if s else f for f, s in zip(folders, found, strict=True)]
    left = f"{outside} image{'s' * (outside > 1)} outside of them left out" if outside else ""
    return found, "; ".join(filter(None, (taken_note(roles), left)))


def _recognized(folders: Folders, path: Path) -> tuple[list[str] | None, str]:
    """The split of each file by the names of its folders; None without splits. Removes wrappers and split folders."""
    while len(here := {f[0] if f else "" for f in folders}) == 1 and (folder := next(iter(here))):
        if split_of(folder):
            break
        folders[:] = [f[1:] for f in folders]
    roles = _roles(here, path)
    if roles:
        splits = [roles[f[0]] for f in folders]
        folders[:] = [f[1:] for f in folders]
        for part in set(splits):  # seg_train/seg_train/
            while len(inner := {f[:1] for f, s in zip(folders, splits, strict=True) if s == part}) == 1:
                (first,) = inner
                found = named_split(first[0]) if first else None
                if found is None or found.split != part:
                    break
                folders[:] = [f[1:] if s == part else f for f, s in zip(folders, splits, strict=True)]
        return splits, taken_note(roles)
    for depth in range(1, max(map(len, folders), default=0)):  # splits within class folders
        roles = _inner_roles(folders, depth, path)
        if roles:
            splits = [roles[f[depth]] for f in folders]
            folders[:] = [f[:depth] + f[depth + 1 :] for f in folders]
            return splits, taken_note(roles) or "split folders within the class folders"
    return None, ""


def _roles(here: set[str], path: Path) -> dict[str, str]:
    """The split of each of the folders on one level; empty if they are not splits.

    Raises:
        DataError: for two folders of one split, images outside of the split folders, and unclear names.
    """
    named = {folder: found for folder in here if (found := named_split(folder))}
    clear = {folder: found.split for folder, found in named.items() if not found.stem}
    others = sorted(here - clear.keys())
    if clear and not (len(here) > 1 and set(clear.values()) == {"train"} and len(clear) == 1 and "" not in here):
        if others:
            where = f"{printable(others[0])}/" if others[0] else "the top folder"
            raise DataError(
                f"{path}: images in {where} are outside the split folders ({listed(sorted(clear))}); "
                f"move or rename them, or {REMEDY}"
            )
        if len(set(clear.values())) < len(clear):
            raise DataError(f"{path}: two folders name the same split: {listed(sorted(clear))}; keep one, or {REMEDY}")
        return clear
    splits = {found.split for found in named.values()}
    stems = {found.stem for found in named.values()}
    beside = {words_of(folder) for folder in here - named.keys()}
    doubtful = [f for f, found in named.items() if found.stem in beside and found.split != "train"]
    if len(splits) < 2 and not doubtful:
        return {}  # a class whose name begins or ends like a split: trains and cars, train_station
    if len(stems) == 1 and len(splits) == len(named) == len(here):
        return {folder: found.split for folder, found in named.items()}  # cats_train, cats_test
    raise DataError(f"{path}: {listed(sorted(named))} look like split folders, but it is not clear of what; {REMEDY}")


def _inner_roles(folders: Folders, depth: int, path: Path) -> dict[str, str]:
    """The splits that folders at a depth below the classes name, if all images are in such folders; else empty.

    Raises:
        DataError: if some of the images are in folders of several splits and others are not.
    """
    here = {f[depth] if len(f) > depth else "" for f in folders}
    roles = {folder: split for folder in here if (split := split_of(folder))}
    if roles.keys() == here:
        return roles
    if len(set(roles.values())) > 1:
        outside = next(f for f in folders if len(f) <= depth or f[depth] not in roles)
        raise DataError(
            f"{path}: {listed(sorted(roles))} look like split folders, but images in "
            f"{printable('/'.join(outside))}/ are outside of them; {REMEDY}"
        )
    return {}


def _classes(folders: Folders, level: int | None, path: Path) -> tuple[tuple[str, ...], npt.NDArray[np.int32], str]:
    """Class names, the class of each file (-1 for none at the given level), and a note."""
    at = (level or 1) - 1
    own = [unicodedata.normalize("NFC", f[at]) if len(f) > at else "" for f in folders]
    found = natural_order(set(own) - {""})
    none: tuple[tuple[str, ...], npt.NDArray[np.int32]] = ((), np.zeros(len(own), np.int32))
    outside = own.count("")
    if level is not None:
        if not found:
            deepest = max(map(len, folders), default=0)
            raise DataError(f"{path}: --class-level {level}, but there are {deepest} levels of folders")
    elif outside:
        return (*none, "classes ignored, because some images are outside the class folders" if found else "")
    elif len(found) == 1:
        return (*none, "")
    index = {name: k for k, name in enumerate(found)} | {"": -1}
    left = f"{outside} image{'s' * (outside > 1)} without a folder at level {level} left out" if outside else ""
    return tuple(found), as_codes((index[name] for name in own), len(own)), left


def as_codes(values: Iterable[int], count: int) -> npt.NDArray[np.int32]:
    """Indices of classes, int32 [N]."""
    return np.fromiter(values, np.int32, count)
