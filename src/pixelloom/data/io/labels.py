"""Labels of image files in a table beside them, or in lines ``path label``.

dataset.json     {"labels": [["00000/img0.png", 3], ...]} (StyleGAN), or {"img0.png": 3, ...}
metadata.csv     columns file_name and label (or another common name); also .tsv
metadata.jsonl   {"file_name": "img0.png", "label": "cat"}, one line per image
any.txt          lines "path label", separated by a space, a tab or a comma
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError, shortened
from pixelloom.data.io.layout import as_codes
from pixelloom.data.io.reading import listed
from pixelloom.data.io.split_names import natural_order

TABLES = ("dataset.json", "metadata.csv", "metadata.jsonl", "labels.csv")
"""Names of tables that are looked for beside the images, in the top folder and in split folders."""

MAX_TABLE = 1 << 28  # bytes
_FILES = ("file_name", "filename", "file", "image", "image_name", "img", "path", "filepath", "name", "id", "image_id")
LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "target", "y", "class_id", "class_label")
"""Names of columns of labels, in lower case."""

Pairs: TypeAlias = list[tuple[str, Any]]


def read_table(data: bytes, name: str, column: int | None = None) -> dict[str, str]:
    """The label of each file name; "" for an image without one.

    Args:
        data: content of the table.
        name: of the table, for messages; its extension selects the format.
        column: which of several labels of an image to take, from 0.

    Raises:
        DataError: for a table without file names and labels, or with several labels per image and no column.
    """
    suffix = PurePosixPath(name).suffix.lower()
    try:
        text = data.decode("utf-8-sig")
        if suffix == ".json":
            pairs = _from_json(json.loads(text))
        elif suffix == ".jsonl":
            pairs = _from_rows([json.loads(line) for line in text.splitlines() if line.strip()])
        elif suffix in (".csv", ".tsv"):
            pairs = _from_csv(text, "\t" if suffix == ".tsv" else ",")
        else:
            pairs = [found for line in text.splitlines() if (found := split_line(line))]
    except (ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{name}: not a table of labels ({shortened(str(error), 200)})") from None
    return {file.replace("\\", "/").removeprefix("./"): _one(label, column, name) for file, label in pairs}


def lists_files(path: Path) -> bool:
    """Whether a CSV file has a column of file names in its first line."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = next(csv.reader(file), [])
    except (OSError, csv.Error):
        return False
    return bool({cell.strip().lower() for cell in header} & set(_FILES))


def _from_json(content: Any) -> Pairs:
    pairs = content.get("labels", content) if isinstance(content, dict) else content
    if pairs is None:
        return []
    if isinstance(pairs, dict):
        return list(pairs.items())
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
    ):
        raise ValueError('expected {"labels": [["file name", label], ...]}')
    return [(file, label) for file, label in pairs]


def _from_csv(text: str, separator: str) -> Pairs:
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if row]
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    if not set(header) & set(_FILES):  # without a header: path, label
        if any(len(row) != 2 for row in rows):
            raise ValueError(f"no column of file names; name it {_FILES[0]}. Columns: {listed(rows[0], 8)}")
        return [(row[0], row[1]) for row in rows]
    return _from_rows([dict(zip(header, row, strict=False)) for row in rows[1:]])


def _from_rows(rows: Sequence[Mapping[str, Any]]) -> Pairs:
    """Pairs of rows with named columns."""
    if not rows or not all(isinstance(row, dict) for row in rows):
        return []
    columns = list(rows[0])
    file = next((name for name in _FILES if name in columns), None)
    label = next((name for name in LABEL_NAMES if name in columns), None)
    if file is None:
        raise ValueError(f"no column of file names; name it {_FILES[0]}. Columns: {listed(columns, 8)}")
    if label is None:
        raise ValueError(f"no column of labels; name it {LABEL_NAMES[0]}. Columns: {listed(columns, 8)}")
    return [(str(row[file]), row.get(label)) for row in rows if row.get(file) is not None]


def split_line(line: str, exists: Callable[[str], bool] | None = None) -> tuple[str, str] | None:
    """File name and label of a line ``path label``; None for an empty line or a comment.

    A line that is the name of an existing file has the label "".
    """
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    if exists is not None and exists(line):
        return line, ""
    for separator in ("\t", ",", " "):
        head, found, label = line.rpartition(separator)
        if found and label.strip() and (exists is None or exists(head.strip())):
            return head.strip(), label.strip()
    return line, ""


def _one(label: Any, column: int | None, name: str) -> str:
    """A label as a text; -1, null and nothing are no label."""
    if isinstance(label, list):
        if column is None and sum(map(bool, label)) == 1 and set(label) <= {0, 1}:  # one-hot
            return str(label.index(1))
        if column is None or not 0 <= column < len(label):
            raise DataError(f"{name}: {len(label)} labels per image; choose one by --label-column, or --labels none")
        label = label[column]
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    text = "" if label is None else str(label).strip()
    return "" if text == "-1" else text


def labels_of(names: Sequence[str], table: Mapping[str, str], source: str, path: Path) -> list[str]:
    """The label of each file, "" without one. A file is found by its relative path, else by its name alone.

    Raises:
        DataError: if the table names none of the files.
    """
    own = [table.get(name, table.get(name.rpartition("/")[2], "")) for name in names]
    if not any(own) and any(table.values()):
        raise DataError(
            f"{path}: {source} has no label of these images; it names {listed(list(table), 2)}, "
            f"the images are {listed(list(names), 2)}"
        )
    return own


def classes_of(labels: Sequence[str], source: str) -> tuple[tuple[str, ...], npt.NDArray[np.int32], str]:
    """Class names in natural order, the class of each image (-1 without a label), and a note."""
    classes = natural_order(set(labels) - {""})
    index = {name: k for k, name in enumerate(classes)} | {"": -1}
    notes = [f"labels from {source}"]
    if left := labels.count(""):
        notes.append(f"{left} image{'s' * (left > 1)} without a label left out")
    return tuple(classes), as_codes((index[label] for label in labels), len(labels)), "; ".join(notes)
