"""The columns of a Parquet file that hold images and labels, by the types and the metadata of its schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pixelloom.core.errors import DataError
from pixelloom.data.io.labels import LABEL_NAMES
from pixelloom.data.io.reading import listed

IMAGE_NAMES = ("image", "images", "img", "photo", "pixels", "pixel_values", "x")
_LEAST_PIXELS = 4  # numeric columns that are the pixels of an image


@dataclass(frozen=True)
class Columns:
    """What the columns of a file hold.

    Attributes:
        kind: files: encoded images; lists: nested lists of numbers; numbers: a column per pixel.
        images: the column of images, or those of the pixels.
        labels: the columns that may hold labels, in their order.
        classes: class names of a column of labels.
    """

    kind: Literal["files", "lists", "numbers"]
    images: tuple[str, ...]
    labels: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]


def columns_of(path: Path, schema: Any, chosen: str | None = None) -> Columns:
    """Interpret a ``pyarrow.Schema``.

    Args:
        path: the file, for errors.
        schema: its schema.
        chosen: the column of images; None to find it by its type.

    Raises:
        DataError: for no column of images, or several without a common name.
    """
    features = _features(schema.metadata or {})
    classes = {name: known for name, feature in features.items() if (known := _class_names(feature))}
    names = list(schema.names)
    labels = tuple(name for name in names if name in classes or _is_label(name))
    others = [name for name in names if name not in labels and names.count(name) == 1]
    if chosen is not None:
        if names.count(chosen) != 1:
            raise DataError(f"{path}: --image-column {chosen}: no such column; choose of {listed(names)}")
        labels, others = tuple(name for name in labels if name != chosen), [chosen]
    marked = [name for name in others if _type_of(features.get(name)) == "Image"]
    files = marked or [name for name in others if _encoded(schema.field(name).type)]
    if files:
        return Columns("files", (_one(path, files),), labels, classes)
    lists = [name for name in others if _number_lists(schema.field(name).type)]
    if lists:
        return Columns("lists", (_one(path, lists),), labels, classes)
    numbers = [name for name in others if _is_number(schema.field(name).type)]
    if len(numbers) >= _LEAST_PIXELS and len(numbers) == len(others):
        return Columns("numbers", tuple(numbers), labels, classes)
    found = ", ".join(f"{name} ({schema.field(i).type})" for i, name in enumerate(names[:8]))
    raise DataError(
        f"{path}: no column of images: encoded images, as a struct of bytes and path or as bytes, or lists of numbers. "
        f"Columns: {found or 'none'}"
    )


def _one(path: Path, names: list[str]) -> str:
    """The only column, or the one with a common name.

    Raises:
        DataError: for several columns.
    """
    common = [name for name in names if name.lower() in IMAGE_NAMES]
    if len(names) > 1 and len(common) != 1:
        raise DataError(f"{path}: several columns of images: {listed(names)}; choose one by --image-column")
    return (common or names)[0]


def _is_label(name: str) -> bool:
    return name.lower() in LABEL_NAMES or name.lower().endswith("_label")


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """The features of the hub's metadata; empty if they are missing or damaged."""
    try:
        content = json.loads(metadata.get(b"huggingface", b"{}"))
        features = content["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _type_of(feature: Any) -> Any:
    return feature.get("_type") if isinstance(feature, dict) else None


def _class_names(feature: Any) -> tuple[str, ...]:
    """The names of a ClassLabel feature; empty for another one."""
    names = feature.get("names") if _type_of(feature) == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _encoded(kind: Any) -> bool:
    """Whether a type is bytes, or a struct with bytes."""
    import pyarrow.types as t

    if t.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _encoded(kind.field(at).type)
    return bool(t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind) or _is_view(kind))


def _is_view(kind: Any) -> bool:
    return str(kind) == "binary_view"


def _number_lists(kind: Any) -> bool:
    """Whether a type is a list of numbers, or of such lists."""
    import pyarrow.types as t

    if not (t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)):
        return False
    return _is_number(kind.value_type) or _number_lists(kind.value_type)


def _is_number(kind: Any) -> bool:
    import pyarrow.types as t

    return bool(t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind))
