"""Parquet files, as data sets on the Hugging Face hub have them: a row is an image, encoded or as numbers, and a label.

Class names are in the metadata ``huggingface`` of the schema. Splits follow from file names such as
``train-00000-of-00002.parquet``, or from folders. Rows are read in batches of bounded size.

Sources: Apache Parquet, https://parquet.apache.org/docs/file-format/; features of the library ``datasets``,
https://huggingface.co/docs/datasets/about_dataset_features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError
from pixelloom.data.io.array_roles import labels_and_classes
from pixelloom.data.io.layout import Labeling, Layout
from pixelloom.data.io.listing import Listing
from pixelloom.data.io.npy import StoredArray
from pixelloom.data.io.parquet_columns import Columns, columns_of
from pixelloom.data.io.parquet_rows import (
    Shard,
    batches_of,
    files_of,
    is_parquet,
    missing_note,
    reading_errors,
    shard_of,
    splits_of,
)
from pixelloom.data.io.reading import DamageError, listed

__all__ = ["holds_files", "is_parquet", "parquet_arrays", "parquet_listing"]

_LEVELS = 256


def holds_files(path: Path, column: str | None = None) -> bool:
    """Whether the images are encoded files, not numbers; those of ``column`` if it is given.

    Raises:
        DataError: as :func:`columns_of`.
    """
    return _schema(files_of(path), column).kind == "files"


def parquet_listing(path: Path, column: str | None = None) -> Listing:
    """The encoded images of a source, a row each, in the order of its splits and files; those of ``column`` if given.

    Raises:
        DataError: for a damaged file, or no column of images.
    """
    files = files_of(path)
    columns = _schema(files, column)
    shards = [shard_of(path, file) for file in files]
    counts = [shard.rows for shard in shards]
    where = "" if column is None else f"{column}, "  # a name is part of the key of the cache
    names = [f"{shard.name}, {where}row {row}" for shard in shards for row in range(shard.rows)]
    return Listing(
        path,
        names,
        np.repeat(np.array([shard.size for shard in shards], np.int64), counts),
        np.repeat(np.array([shard.stamp for shard in shards], np.int64), counts),
        _Images(shards, columns.images[0]),
        others=[],
        notes=[note] if (note := missing_note(shards)) else [],
        layout=False,
        arranged=partial(_layout, path, shards, columns),
    )


def parquet_arrays(path: Path, labeling: Labeling) -> dict[str, StoredArray]:
    """The numbers of a source as arrays by their roles: images and labels, of splits or as a whole; and class names.

    Raises:
        DataError: for a damaged file, or images of several shapes.
    """
    files = files_of(path)
    columns = _schema(files, labeling.image_column)
    shards = [shard_of(path, file) for file in files]
    parts, split, _ = splits_of(path, shards, labeling)
    label, _ = _label_column(columns, labeling)
    keys: dict[str, StoredArray] = {}
    for k, part in enumerate(parts or ("",)):
        own = [shard for shard, code in zip(shards, split, strict=True) if code == k]
        prefix = f"{part}_" if part else ""
        keys[f"{prefix}images"] = _pixels(f"{prefix}images", own, columns)
        if label:
            keys[f"{prefix}labels"] = StoredArray.of(f"{prefix}labels", _labels(own, label))
    if label in columns.classes:
        keys["classes"] = StoredArray.of("classes", np.array(columns.classes[label], np.str_))
    return keys


def _schema(files: Sequence[Path], column: str | None) -> Columns:
    """The columns of all files, which are those of the first one."""
    found = []
    for file in files:
        with reading_errors(file):
            import pyarrow.parquet as pq

            found.append(columns_of(file, pq.read_schema(file), column))
        if (found[-1].kind, found[-1].images) != (found[0].kind, found[0].images):
            raise DataError(f"{file}: has other columns of images than {files[0].name}; give one of the files")
    return found[0]


class _Images:
    """Reads the encoded image of a row; one batch is in memory, and rows in order are fast."""

    def __init__(self, shards: list[Shard], column: str):
        self._shards, self._column = shards, column
        self._starts = np.cumsum([0, *(shard.rows for shard in shards)]).tolist()
        self._shard, self._begin = -1, 0
        self._batch: Any = []
        self._stream: Iterator[Any] = iter(())

    def __call__(self, row: int) -> bytes:
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        if shard != self._shard or row < self._begin:
            self._shard, self._begin, self._batch = shard, self._starts[shard], []
            self._stream = batches_of(self._shards[shard], [self._column])
        while row >= self._begin + len(self._batch):
            self._begin += len(self._batch)
            batch = next(self._stream, None)
            if batch is None:
                raise DataError(f"{self._shards[shard].path}: has fewer rows than its header claims")
            self._batch = batch.column(0)
        with reading_errors(self._shards[shard].path):
            import pyarrow as pa

            value = self._batch[row - self._begin]
            if value.is_valid and pa.types.is_struct(value.type):
                value = value["bytes"]  # the path, which may be damaged, is not decoded
            inner = value.as_py()
        if not inner:
            raise DamageError(f"{self._shards[shard].name}, row {row - self._starts[shard]}: no bytes of an image")
        return bytes(inner)


def _pixels(name: str, shards: list[Shard], columns: Columns) -> StoredArray:
    """The numbers of all images as one array, which is read in blocks. Whole numbers from 0 to 255 become uint8."""
    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    low, high = np.inf, -np.inf
    for shard in shards:
        for block in _blocks([shard], columns):
            if shape is None:
                shape, dtype = block.shape[1:], block.dtype
            if (block.shape[1:], block.dtype) != (shape, dtype):
                raise DataError(
                    f"{shard.path}: images of several shapes or types, {list(shape)} and {list(block.shape[1:])}"
                )
            if dtype.kind in "iu" and block.size:
                low, high = min(low, int(block.min())), max(high, int(block.max()))
    levels = dtype.kind in "iu" and low >= 0 and high < _LEVELS
    dtype = np.dtype(np.uint8) if levels else dtype
    count = sum(shard.rows for shard in shards)
    return StoredArray(name, (count, *(shape or ())), dtype, blocks=partial(_blocks, shards, columns, dtype))


def _blocks(
    shards: Sequence[Shard], columns: Columns, dtype: np.dtype[Any] | None = None
) -> Iterator[npt.NDArray[Any]]:
    """Read numbers in blocks, [n, *shape], of one type."""
    for shard in shards:
        for batch in batches_of(shard, columns.images):
            with reading_errors(shard.path):
                if columns.kind == "lists":
                    block = _nested(batch.column(0))
                else:
                    block = _square(np.stack([_numbers(batch.column(name)) for name in columns.images], 1))
            yield block if dtype is None else block.astype(dtype, copy=False)


def _square(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Images [N, H, W] of flat square ones [N, H W]; others stay flat, and need a shape."""
    side = int(values.shape[1] ** 0.5)
    return values.reshape(-1, side, side) if side * side == values.shape[1] else values  # [N, H W] -> [N, H, W]


def _nested(column: Any) -> npt.NDArray[Any]:
    """The array of a column of nested lists of equal lengths, [N, *lengths].

    Raises:
        ValueError: for lists of several lengths, and nulls.
    """
    import pyarrow.compute as pc
    import pyarrow.types as t

    shape = [len(column)]
    while not (t.is_integer(column.type) or t.is_floating(column.type) or t.is_boolean(column.type)):
        lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise ValueError(f"lists of several lengths or null: {listed(sorted(map(str, lengths)))}")
        shape.append(lengths.pop())
        column = column.flatten()
    return _numbers(column).reshape(shape)  # [N H W] -> [N, H, W], or other axes


def _numbers(column: Any) -> npt.NDArray[Any]:
    """The array of a column of numbers.

    Raises:
        ValueError: for nulls.
    """
    if column.null_count:
        raise ValueError(f"{column.null_count} numbers are null")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _label_column(columns: Columns, labeling: Labeling) -> tuple[str, str]:
    """The column of labels, "" for none, and a note."""
    found = columns.labels
    if labeling.labels is not None or not found:
        return "", ""
    plain = [name for name in found if name.lower() in ("label", "labels")]
    if len(found) == 1 or (len(plain) == 1 and labeling.label_column is None):
        return (plain or list(found))[0], ""
    if labeling.label_column is not None and labeling.label_column < len(found):
        return found[labeling.label_column], ""
    return "", f"labels ignored: columns {listed(list(found))}; choose one by --label-column 0 to {len(found) - 1}"


def _labels(shards: Sequence[Shard], column: str) -> npt.NDArray[Any]:
    """The labels of all rows: integers or texts [N], or lists of numbers [N, K]; null is -1 or ""."""
    found: list[Any] = []
    for shard in shards:
        for batch in batches_of(shard, [column]):
            with reading_errors(shard.path):
                found += batch.column(0).to_pylist()
    known = [value for value in found if value is not None]
    with reading_errors(shards[0].path):  # numbers that are too large, lists of several lengths
        if known and all(isinstance(value, bool | int) or _is_whole(value) for value in known):
            return np.array([-1 if value is None else int(value) for value in found], np.int64)
        if known and len(known) == len(found) and all(isinstance(value, list) for value in known):
            return np.array(found, np.int64)
        return np.array(["" if value is None else str(value) for value in found], np.str_)


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _layout(path: Path, shards: list[Shard], columns: Columns, labeling: Labeling) -> Layout:
    """Splits and classes of all rows."""
    counts = [shard.rows for shard in shards]
    splits, split, split_note = splits_of(path, shards, labeling)
    column, note = _label_column(columns, labeling)
    count = sum(counts)
    labels: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if column:
        names = columns.classes.get(column)
        one = replace(labeling, label_column=None) if len(columns.labels) > 1 else labeling
        given = [(StoredArray.of(column, _labels(shards, column)), count)]
        named = StoredArray.of("classes", np.array(names, np.str_)) if names else None
        labels, classes, note = labels_and_classes(path, given, named, one)
    codes = np.zeros(count, np.int32) if labels is None else labels.astype(np.int32)
    left = int((codes < 0).sum())
    left_note = f"{left} image{'s' * (left > 1)} without a label left out" if left else ""
    class_note = "; ".join(filter(None, (note, left_note)))
    return Layout(splits, np.repeat(split, counts), classes, codes, split_note, class_note)
