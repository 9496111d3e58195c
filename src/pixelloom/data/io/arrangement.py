"""Splits and classes of the files of a listing: by folders, by a table of labels, or by the lines of a list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pixelloom.core.errors import DataError
from pixelloom.data.io.labels import classes_of, labels_of, read_table
from pixelloom.data.io.layout import Labeling, Layout, layout_of
from pixelloom.data.io.listing import Listing
from pixelloom.data.io.reading import printable


def arranged(listing: Listing, labeling: Labeling) -> tuple[Listing, Layout]:
    """Find splits and classes; leave out files without one, and order files so that splits are contiguous.

    Raises:
        DataError: for unclear splits, or a table that has no label of the files.
    """
    layout = _labeled(listing, labeling)
    kept = np.flatnonzero((layout.split >= 0) & (layout.label >= 0))
    changes = np.count_nonzero(np.diff(layout.split[kept]))
    if changes >= max(len(layout.splits), 1):  # splits within class folders
        kept = kept[np.argsort(layout.split[kept], kind="stable")]
    if not len(kept):
        raise DataError(f"{listing.path}: no image has a label ({layout.note})")
    if len(kept) == len(listing.names) and (np.diff(kept) > 0).all():
        return listing, layout
    return listing.take(kept), replace(layout, split=layout.split[kept], label=layout.label[kept])


def _labeled(listing: Listing, labeling: Labeling) -> Layout:
    """Splits and classes of files: by folders, by a table of labels, or by the lines of a list."""
    if listing.arranged is not None:
        layout = listing.arranged(labeling)
    elif listing.layout:
        layout = layout_of(listing.names, listing.path, labeling)
    else:
        count = len(listing.names)
        layout = Layout((), np.zeros(count, np.int8), (), np.zeros(count, np.int32))
    if labeling.labels == "none":
        return replace(layout, classes=(), label=np.zeros(len(listing.names), np.int32), class_note="")
    try:
        labels, source = _label_texts(listing, labeling)
    except _TableError as error:
        return replace(layout, class_note="; ".join(filter(None, (layout.class_note, f"ignored: {error}"))))
    if not any(labels):
        return layout
    classes, label, note = classes_of(labels, source)
    return replace(layout, classes=classes, label=label, class_note=note)


class _TableError(Exception):
    """A table beside the images that has no labels of them."""


def _label_texts(listing: Listing, labeling: Labeling) -> tuple[list[str], str]:
    """The label of each file, "" without one, by the given table, a list, or tables beside the images; its source."""
    if labeling.labels is not None:
        path = Path(labeling.labels).expanduser()
        try:
            table = read_table(path.read_bytes(), str(path), labeling.label_column)
        except OSError as error:
            raise DataError(f"{path}: labels cannot be read ({error.strerror})") from error
        return labels_of(listing.names, table, labeling.labels, listing.path), printable(labeling.labels)
    if listing.labels is not None:
        return listing.labels, printable(listing.path.name)
    if not listing.tables or labeling.class_level is not None:
        return [], ""
    merged: dict[str, str] = {}
    for name, read in sorted(listing.tables.items()):
        folder = name.rpartition("/")[0]
        try:
            found = read_table(read(), name, labeling.label_column)
        except DataError as error:
            raise _TableError(str(error)) from error
        merged |= {f"{folder}/{file}" if folder else file: label for file, label in found.items()}
    source = printable(", ".join(sorted(listing.tables)))
    return labels_of(listing.names, merged, source, listing.path), source
