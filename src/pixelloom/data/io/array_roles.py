"""Roles of the arrays of a source by their names: images and labels, of splits or as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError
from pixelloom.data.io.layout import Labeling
from pixelloom.data.io.npy import StoredArray, read_small
from pixelloom.data.io.reading import Reading, listed
from pixelloom.data.io.split_names import natural_order
from pixelloom.data.io.stacks import Arrays, checked_stacks

if TYPE_CHECKING:  # core.types imports torch, which reading images does not need
    from pixelloom.core.types import Labels

_ALIASES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_IMAGES = ("{}", "x_{}", "{}_x", "{}_images")
_LABELS = ("y_{}", "{}_y", "{}_labels")
_WHOLE = {"images": ("images", "x"), "labels": ("labels", "y")}

ROLES = frozenset(
    [form.format(name) for names in _ALIASES.values() for name in names for form in (*_IMAGES, *_LABELS)]
    + [name for names in _WHOLE.values() for name in names]
)
"""Names of arrays with a role."""


def assign_roles(path: Path, keys: Mapping[str, StoredArray], reading: Reading, labeling: Labeling) -> Arrays:
    """Assign roles by name: images and labels; train, val, test; x_train, y_train; train_images, train_labels.

    Raises:
        DataError: for arrays without a role, two of one role, or arrays that are not images or labels.
    """
    used: set[str] = set()

    def pick(*names: str) -> StoredArray | None:
        matches = [name for name in names if name in keys]
        if len(matches) > 1:
            raise DataError(f"{path}: {' and '.join(matches)} have the same role; keep one")
        used.update(matches)
        return keys[matches[0]] if matches else None

    found: dict[str, tuple[StoredArray, StoredArray | None]] = {}
    for split, names in _ALIASES.items():
        images = pick(*(form.format(name) for name in names for form in _IMAGES))
        if images is not None:
            found[split] = (images, pick(*(form.format(name) for name in names for form in _LABELS)))
    whole = pick(*_WHOLE["images"])
    if whole is None and not found and len(keys) == 1:
        whole = pick(*keys)
    if (whole is None) == (not found):
        given = listed(list(keys), 8) or "nothing"
        raise DataError(f"{path}: needs images (and labels), or train, val and test; it contains {given}")
    if whole is not None:
        found[""] = (whole, pick(*_WHOLE["labels"]))
    stacks = checked_stacks(path, [images for images, _ in found.values()], reading)
    levels = _levels(path, pick("levels"), stacks)
    labels, classes, note = labels_and_classes(
        path, [(stored, images.shape[0]) for images, stored in found.values()], pick("classes"), labeling
    )
    splits: dict[str, slice] = {}
    start = 0
    for split, (images, _) in found.items():
        splits[split] = slice(start, start + images.shape[0])
        start += images.shape[0]
    ignored = sorted(keys.keys() - used)
    notes = [note, f"arrays ignored: {listed(ignored, 8)}" if ignored else ""]
    return Arrays(
        path, stacks, labels, splits if whole is None else None, classes, levels, "; ".join(filter(None, notes))
    )


def one_per_class(
    path: Path, named: Sequence[tuple[str, str, StoredArray]], reading: Reading, labeling: Labeling
) -> Arrays:
    """Arrays of one class each, from (split or "", class name, array); contiguous by split."""
    stacks = checked_stacks(path, [stored for _, _, stored in named], reading)
    classes = natural_order({name for _, name, _ in named})
    splits: dict[str, slice] = {}
    start = 0
    for split, _, stored in named:
        begin = splits[split].start if split in splits else start
        start += stored.shape[0]
        splits[split] = slice(begin, start)
    labels = np.concatenate([np.full(stored.shape[0], classes.index(name), np.int64) for _, name, stored in named])
    levels = 2 if stacks[0].dtype == np.bool_ else 256
    return Arrays(
        path,
        stacks,
        None if labeling.labels == "none" else labels,
        None if "" in splits else splits,
        () if labeling.labels == "none" else tuple(classes),
        levels,
        "one class per file",
    )


def _levels(path: Path, stored: StoredArray | None, stacks: list[StoredArray]) -> int:
    """Number of levels: the array ``levels``, else 2 for bool and 256 for other types."""
    if stored is None:
        return 2 if stacks[0].dtype == np.bool_ else 256
    value = read_small(path, stored)
    if value.size != 1 or value.dtype.kind not in "iu" or not 2 <= int(value.reshape(())) <= 256:
        raise DataError(f"{path}: levels must be one integer from 2 to 256")
    return int(value.reshape(()))


def labels_and_classes(
    path: Path, given: Sequence[tuple[StoredArray | None, int]], named: StoredArray | None, labeling: Labeling
) -> tuple[Labels | None, tuple[str, ...], str]:
    """Labels of all arrays as indices into class names, the names, and a note. Without names, numbers are names."""
    present = [(stored, n) for stored, n in given if stored is not None]
    if labeling.labels == "none" or not present:
        return None, (), ""
    if len(present) < len(given):
        return None, (), "labels ignored, because not all splits have labels"
    parts = [label_vector(path, stored, n, labeling.label_column) for stored, n in present]
    if any(part is None for part in parts):
        count = present[0][0].shape[1]
        return None, (), f"labels ignored: {count} per image; choose one by --label-column 0 to {count - 1}"
    labels = np.concatenate([part for part in parts if part is not None])
    if named is None:
        return (*indexed(labels), "")
    names = read_small(path, named)
    known = labels[labels != -1] if labels.dtype.kind != "U" else labels
    if (
        labels.dtype.kind == "U"
        or names.dtype.kind != "U"
        or names.ndim != 1
        or not (known.size and 0 <= known.min() <= known.max() < len(names))
    ):
        raise DataError(f"{path}: classes must be an array of names, one for each label from 0 to {labels.max()}")
    return labels.astype(np.int64), tuple(str(name) for name in names), ""


def indexed(labels: npt.NDArray[Any]) -> tuple[Labels | None, tuple[str, ...]]:
    """Labels, numbers or texts, as indices into class names in natural order; -1 and "" are no label."""
    texts = [str(label) for label in labels.tolist()]
    names = natural_order({text for text in texts if text not in ("-1", "")})
    if not names:
        return None, ()
    index = {name: k for k, name in enumerate(names)} | {"-1": -1, "": -1}
    return np.array([index[text] for text in texts], np.int64), tuple(names)


def label_vector(path: Path, stored: StoredArray, n: int, column: int | None) -> npt.NDArray[Any] | None:
    """Labels of an image array, [N], from integers or texts [N] or [N, 1], one-hot rows, or a column of [N, K].

    None for several labels per image.

    Raises:
        DataError: for another shape or type.
    """
    wrong = f"{path}: {stored.name} is {stored.dtype} {list(stored.shape)}; save integers [{n}], one per image"
    if stored.shape[:1] != (n,) or len(stored.shape) > 2:
        raise DataError(wrong)
    flat = len(stored.shape) == 1 or stored.shape[1] == 1
    if stored.dtype.kind not in ("iubU" if flat else "iubf"):
        raise DataError(wrong)
    values = read_small(path, stored)
    if flat:
        labels = values.reshape(n)  # [N] or [N, 1] -> [N]
        return labels if labels.dtype.kind == "U" else labels.astype(np.int64)
    if column is not None:
        if column >= values.shape[1]:
            raise DataError(
                f"{path}: --label-column {column}, but {stored.name} has columns 0 to {values.shape[1] - 1}"
            )
        return np.asarray(values[:, column], np.int64)
    if np.isin(values, (0, 1)).all() and (values.sum(1) == 1).all():  # one-hot
        return np.asarray(values.argmax(1), np.int64)
    return None
