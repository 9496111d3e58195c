"""Images in tables: CSV files of pixels, and MATLAB files of SVHN."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError, shortened
from pixelloom.data.io.reading import listed

Table: TypeAlias = dict[str, npt.NDArray[Any]]

_LABELS = ("label", "labels", "class", "target", "y", "emotion", "digit")
_USAGE = {
    "training": "train",
    "publictest": "val",
    "privatetest": "test",
    "train": "train",
    "val": "val",
    "test": "test",
}
_HIGHEST = (1 << 8) - 1


def read_mat(path: Path) -> Table:
    """Read a MATLAB file of SVHN: X uint8 [H, W, C, N] and y [N, 1], as images [N, H, W, C] and labels.

    Source: Netzer et al. 2011, "Reading Digits in Natural Images"; http://ufldl.stanford.edu/housenumbers/, format 2.

    Raises:
        DataError: without SciPy, and for other files.
    """
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(
            f"{path}: reading .mat files needs SciPy (pip install scipy); or save an .npz where it is: "
            "m = scipy.io.loadmat(PATH); numpy.savez('a.npz', images=m['X'].transpose(3, 0, 1, 2), labels=m['y'])"
        ) from None
    try:
        content = loadmat(path)
    except NotImplementedError:
        raise DataError(
            f"{path}: a MATLAB file of version 7.3; convert it once: "
            "f = h5py.File(PATH); numpy.savez('a.npz', images=f['X'][:].transpose(0, 3, 2, 1), "
            "labels=f['y'][:].ravel())"
        ) from None
    except Exception as error:  # SciPy raises many kinds on damaged files
        raise DataError(f"{path}: not a readable .mat file ({shortened(str(error), 200)})") from None
    images, labels = content.get("X"), content.get("y")
    if images is None or images.ndim != 4:
        names = [name for name in content if not name.startswith("__")]
        raise DataError(f"{path}: needs X [H, W, C, N] (and y), as SVHN has; it contains {listed(names)}")
    found = {"images": np.ascontiguousarray(images.transpose(3, 0, 1, 2))}  # [H, W, C, N] -> [N, H, W, C]
    return found if labels is None else found | {"labels": labels.reshape(-1)}


def read_pixels(path: Path) -> Table:
    """Read a CSV file with one image per line: a label (optional) and its pixels, in row-major order.

    The label is the column ``label`` (or another common name), or the first column without a header. Pixels are columns
    of numbers 0 to 255, or one column ``pixels`` of numbers separated by spaces. A column ``Usage`` names splits.

    Raises:
        DataError: for another file, with the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            first = next(rows, [])
            header = [cell.strip().lower() for cell in first] if not _numbers_only(first) else []
            if "pixels" in header:
                return _packed(path, header, rows)
            return _columns(path, header, first, rows)
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file ({getattr(error, 'strerror', None) or error})") from None


def _numbers_only(row: list[str]) -> bool:
    return bool(row) and all(cell.strip().lstrip("-").replace(".", "", 1).isdecimal() for cell in row)


def _columns(path: Path, header: list[str], first: list[str], rows: Any) -> Table:
    """One column per pixel."""
    width = len(first)
    at = next((header.index(name) for name in _LABELS if name in header), None)
    if not header:
        at = 0 if math.isqrt(width) ** 2 != width and math.isqrt(width - 1) ** 2 == width - 1 else None
    pixels = [i for i in range(width) if i != at]
    if len(pixels) < 2:
        raise DataError(f"{path}: columns {listed(first)} are not pixels; a list of files needs the extension .txt")
    values: list[npt.NDArray[np.uint8]] = []
    labels: list[str] = []
    start = 2 if header else 1
    for number, row in enumerate(itertools.chain([] if header else [first], rows), start):
        if not row:
            continue
        values.append(_levels([row[i] for i in pixels] if len(row) == width else [], len(pixels), path, number))
        if at is not None:
            labels.append(row[at].strip())
    return _square(path, np.array(values, np.uint8).reshape(len(values), len(pixels)), labels)


def _packed(path: Path, header: list[str], rows: Any) -> Table:
    """One column of pixels separated by spaces, as FER2013 has, with the splits of a column Usage."""
    pixels = header.index("pixels")
    label = next((header.index(name) for name in _LABELS if name in header), None)
    usage = header.index("usage") if "usage" in header else None
    images: dict[str, list[npt.NDArray[np.uint8]]] = {}
    labels: dict[str, list[str]] = {}
    count = 0
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        words = row[pixels].split() if len(row) == len(header) else []
        count = count or len(words)
        split = "" if usage is None else _USAGE.get(row[usage].strip().lower() if words else "", "?")
        if split == "?" and words:
            raise DataError(f"{path}, line {number}: unknown Usage {row[usage or 0][:30]!r}; use Training or Test")
        images.setdefault(split, []).append(_levels(words, count, path, number))
        labels.setdefault(split, []).append("" if label is None else row[label].strip())
    found: Table = {}
    for split, values in images.items():
        part = _square(path, np.stack(values), labels[split] if label is not None else [])
        found |= {f"{split}_{name}" if split else name: array for name, array in part.items()}
    return found


def _levels(words: list[str], count: int, path: Path, number: int) -> npt.NDArray[np.uint8]:
    """Pixels of a line.

    Raises:
        DataError: for another number of pixels, or a value that is not 0 to 255.
    """
    try:
        values = np.array(words, np.float64)
    except ValueError:
        values = np.zeros(0)
    if len(values) != count or not ((values >= 0) & (values <= _HIGHEST) & (values == np.rint(values))).all():
        raise DataError(f"{path}, line {number}: not {count} pixels of whole numbers from 0 to {_HIGHEST}")
    return values.astype(np.uint8)


def _square(path: Path, values: npt.NDArray[np.uint8], labels: list[str]) -> Table:
    """Images [N, H, W] of flat square ones [N, H W]; others stay flat, and need a shape."""
    if not len(values):
        raise DataError(f"{path}: no image found (it has no line of pixels)")
    side = math.isqrt(values.shape[1])
    images = values.reshape(-1, side, side) if side * side == values.shape[1] else values  # [N, H W] -> [N, H, W]
    return {"images": images} | ({"labels": np.array(labels, np.str_)} if labels else {})
