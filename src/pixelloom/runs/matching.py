"""Data for the evaluation of a model: classes matched by name, and all splits as one."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from pixelloom.core.errors import DataError, shortened
from pixelloom.core.types import Labels
from pixelloom.data.catalog import DATASETS, Dataset, Split
from pixelloom.data.config import DataConfig
from pixelloom.data.splits import NAMES
from pixelloom.hub.reference import is_reference
from pixelloom.models.family import GenerativeModel

EVERY = "all"
"""The name of all splits together."""
_log = logging.getLogger("pixelloom")


def split_of(data: Dataset, name: str) -> Split:
    """The split of a name, or for ``all`` one of the images of all splits.

    Raises:
        UsageError: for another name.
    """
    if name != EVERY:
        return data.split(name)
    parts = [data.split(part) for part in NAMES]
    if all(part.store is parts[0].store and part.table is parts[0].table for part in parts):
        rows = [np.arange(len(part.store)) if part.rows is None else part.rows for part in parts]
        return replace(parts[0], rows=np.unique(np.concatenate(rows)))
    images, labels = zip(*(part.all() for part in parts), strict=True)
    known = None if any(found is None for found in labels) else np.concatenate(labels)
    return Split(np.concatenate(images), known, data.source_levels if data.dynamic else data.spec.levels)


def default_split(model: GenerativeModel, config: DataConfig) -> str:
    """``test`` for the training data, named data sets and those of the hub; ``all`` for other images."""
    record = model.description.training
    same = record.data is not None and record.data.source == config.source
    if record.path and not same:  # from another folder, a relative path does not lead to the training data
        same = Path(config.source).expanduser().resolve() == Path(record.path).resolve()
    return "test" if same or config.source in DATASETS or is_reference(config.source) else EVERY


def matched(model: GenerativeModel, data: Dataset) -> Dataset:
    """The data with the model's classes: labels are matched by the names of classes.

    Images of classes that the model lacks, and images without a label, are left out with a warning. Data without labels
    and data for unconditional models are returned unchanged.

    Raises:
        DataError: if no class of the data is one of the model's.
    """
    names, theirs = model.description.class_names, tuple(map(str, data.classes))
    if not names or data.train.labels is None or theirs == names:
        return data
    if not model.description.training.classes and len(theirs) == len(names):
        _log.info("classes: this model has no record of their names; they are matched by number")
        return data
    index = {name: number for number, name in enumerate(names)}
    table = np.array([*(index.get(name, -1) for name in theirs), -1])  # the last one for labels of -1
    if (table < 0).all():
        raise DataError(f"{data.name}: its classes ({_listed(theirs)}) are none of the model's ({_listed(names)})")
    splits, left_out = {}, 0
    for name in NAMES:
        splits[name], dropped = _relabeled(data.split(name), table)
        left_out += dropped
    unknown = [name for name in theirs if name not in index]
    if left_out:
        why = f"of classes that the model lacks: {_listed(unknown)}" if unknown else "that are unlabeled"
        _log.warning("%s: left out %d images %s", data.name, left_out, why)
    return replace(data, classes=names, train=splits["train"], val=splits["val"], test=splits["test"])


def _relabeled(split: Split, table: Labels) -> tuple[Split, int]:
    """The images whose label has a new number, with these; and how many images were left out."""
    if split.store_labels is None:
        return split, 0
    found = replace(split, store_labels=table[np.maximum(split.store_labels, -1)])
    labels = np.asarray(found.labels)
    kept = np.flatnonzero(labels >= 0)
    if len(kept) == len(labels):
        return found, 0
    if found.bits is not None:
        raise DataError(
            "data: static bits depend on positions, so images of unknown classes cannot be left out; "
            "remove them, or use --binarize dynamic"
        )
    return found.subset(kept), len(labels) - len(kept)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    """Names for a message."""
    return ", ".join(map(shortened, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
