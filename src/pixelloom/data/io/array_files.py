"""Files of arrays: ``.npy``, ``.npz``, IDX, MATLAB and CSV files, and folders of ``.npy`` or IDX files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from pixelloom.core.errors import DataError
from pixelloom.data.io.array_roles import ROLES, assign_roles, one_per_class
from pixelloom.data.io.idx import is_idx, read_idx
from pixelloom.data.io.labels import lists_files
from pixelloom.data.io.layout import Labeling
from pixelloom.data.io.npy import StoredArray, npy_header, npz_headers
from pixelloom.data.io.parquet import holds_files, is_parquet, parquet_arrays
from pixelloom.data.io.pixel_tables import read_mat, read_pixels
from pixelloom.data.io.published_formats import CIFAR_CLASSES, cifar_files, read_cifar
from pixelloom.data.io.reading import Reading, listed
from pixelloom.data.io.split_names import SPLITS, named_split, natural_order
from pixelloom.data.io.stacks import Arrays

_IDX_NAME = re.compile(
    r"(?P<prefix>.*?)[-_.]?(?P<split>train|t10k|test|valid|val)[-_.](?P<kind>images|labels)[-_.]idx\d[-_.][a-z]+(\.gz)?"
)
_IDX_SPLITS = {"t10k": "test", "valid": "val"}
NO_ARRAYS = (".zip", ".tar", ".txt", ".tif", ".tiff")
_LABEL_NAMES = ("{}_labels", "{}-labels", "{}.labels", "{}_label", "{}_y")


def arrays_of(path: Path, reading: Reading, labeling: Labeling) -> Arrays:
    """Read the headers, or small arrays, of a source of arrays, and assign their roles.

    Raises:
        DataError: for a damaged file, or arrays that are not images.
    """
    suffix = path.suffix.lower()
    note = ""
    if is_parquet(path):
        keys = parquet_arrays(path, labeling)
    elif cifar := cifar_files(path):
        keys = _cifar_keys(cifar)
    elif path.is_dir():
        npy = _npy_files(path)
        if npy and (arrays := _one_file_per_class(path, npy, reading, labeling)):
            return arrays
        keys = {file.stem.lower(): npy_header(file) for file in npy} if npy else _idx_keys(path, "")
    elif suffix == ".npz":
        keys = npz_headers(path)
    elif suffix == ".npy":
        keys = {"images": npy_header(path)}
        if labels := _labels_beside(path):
            keys["labels"], note = npy_header(labels), f"labels from {labels.name}"
    elif suffix == ".mat":
        keys = _in_memory(read_mat(path))
    elif suffix == ".csv":
        keys = _in_memory(read_pixels(path))
    else:
        match = _IDX_NAME.fullmatch(path.name)
        keys = _idx_keys(path.parent, match["prefix"], path) if match else _in_memory({"images": read_idx(path)})
    if labeling.labels not in (None, "none"):
        keys = {name: stored for name, stored in keys.items() if name != "labels"}
        keys["labels"], note = _given_labels(Path(labeling.labels).expanduser()), f"labels from {labeling.labels}"
    arrays = assign_roles(path, keys, reading, labeling)
    return replace(arrays, note="; ".join(filter(None, (note, arrays.note))))


def is_array_source(path: Path, column: str | None = None) -> bool:
    """Whether a path is a file of arrays, or a folder of ``.npy`` or IDX files."""
    if is_parquet(path):
        return not holds_files(path, column)
    if path.is_dir():
        try:
            return bool(_npy_files(path) or cifar_files(path)) or any(
                _IDX_NAME.fullmatch(file.name) for file in path.iterdir()
            )
        except OSError:  # reading it as a folder of images names the error
            return False
    if path.suffix.lower() == ".csv":
        return not lists_files(path)
    if cifar_files(path):
        return True
    return path.suffix.lower() in (".npy", ".npz", ".mat") or (path.suffix.lower() not in NO_ARRAYS and is_idx(path))


def files_of(path: Path) -> list[Path]:
    """The files that the images of a source may be in: itself, those in the folder, or IDX files beside it."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.suffix.lower() in (".npy", ".npz", ".mat", ".csv", ".parquet"):
        return [path]
    return sorted({path, *(file for file in path.parent.iterdir() if _IDX_NAME.fullmatch(file.name))})


def _cifar_keys(files: dict[str, list[tuple[Path, str]]]) -> dict[str, StoredArray]:
    """The published batches of CIFAR-10 as train_images, train_labels and so on."""
    keys = _in_memory({"classes": np.array(CIFAR_CLASSES)})
    for split, locations in files.items():
        images, labels = read_cifar(locations)
        keys |= _in_memory({f"{split}_images": images, f"{split}_labels": labels})
    return keys


def _in_memory(arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> dict[str, StoredArray]:
    return {name: StoredArray.of(name, values) for name, values in arrays.items()}


def _npy_files(folder: Path) -> list[Path]:
    """The ``.npy`` files of a folder, or of its split folders."""
    inner = [child for child in folder.iterdir() if child.is_dir() and named_split(child.name)]
    files = [file for place in (folder, *inner) for file in place.glob("*.npy") if not file.name.startswith(".")]
    order = {str(file): k for k, file in enumerate(natural_order(str(file) for file in files))}
    return sorted(files, key=lambda file: order[str(file)])


def _labels_beside(path: Path) -> Path | None:
    """The file with the labels of NAME.npy: NAME_labels.npy, or y_NAME for X_NAME, labels for images."""
    stem = path.stem
    names = [form.format(stem) for form in _LABEL_NAMES]
    for old, new in (("images", "labels"), ("X", "y"), ("x", "y")):
        names += [re.sub(rf"(?<![a-zA-Z]){old}(?![a-zA-Z])", new, stem.replace("_", " ")).replace(" ", "_")]
    return next((file for name in names if name != stem and (file := path.with_name(f"{name}.npy")).is_file()), None)


def _one_file_per_class(folder: Path, files: list[Path], reading: Reading, labeling: Labeling) -> Arrays | None:
    """Arrays of a folder with one class per file; None if the names of files are roles such as x_train."""
    if any(file.stem.lower() in ROLES for file in files):
        return None
    labels = {beside for file in files if (beside := _labels_beside(file))}
    images = [file for file in files if file not in labels]
    if len(images) == 1:  # one array and its labels
        arrays = arrays_of(images[0], reading, labeling)
        return replace(arrays, path=images[0])
    named = []
    for file in images:
        found = named_split(file.parent.name) if file.parent != folder else None
        named.append((found.split if found else "", file.stem, npy_header(file)))
    if len({bool(split) for split, _, _ in named}) > 1:
        raise DataError(f"{folder}: some .npy files are in split folders and some are not; move them")
    named.sort(key=lambda item: SPLITS.index(item[0]) if item[0] else 0)
    return one_per_class(folder, named, reading, labeling)


def _idx_keys(folder: Path, prefix: str, chosen: Path | None = None) -> dict[str, StoredArray]:
    """The IDX files of a folder with a prefix, or of its only prefix, as train_images, train_labels and so on."""
    found = {file: match for file in sorted(folder.iterdir()) if (match := _IDX_NAME.fullmatch(file.name))}
    prefixes = sorted({match["prefix"] for match in found.values()})
    if chosen is None:
        if len(prefixes) != 1:
            raise DataError(
                f"{folder}: IDX files of several sets: {listed(prefixes)}; give the path of a file of images"
            )
        prefix = prefixes[0]
    keys: dict[str, StoredArray] = {}
    for file, match in found.items():
        if match["prefix"] != prefix:
            continue
        name = f"{_IDX_SPLITS.get(match['split'], match['split'])}_{match['kind']}"
        if name not in keys or file == chosen:  # packed and not: the same content
            keys[name] = StoredArray.of(name, read_idx(file))
    return keys


def _given_labels(path: Path) -> StoredArray:
    """Labels of a file: an array, an IDX file, or one label per line.

    Raises:
        DataError: if it cannot be read.
    """
    if path.suffix.lower() == ".npy":
        return npy_header(path)
    if path.is_file() and is_idx(path):
        return StoredArray.of(path.name, read_idx(path))
    return StoredArray.of(path.name, np.array(list(_lines(path)), np.str_))


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: labels cannot be read ({getattr(error, 'strerror', None) or error})") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    header = lines[:1] if lines and lines[0].lower() in ("label", "labels", "class", "y") else []
    yield from lines[len(header) :]
