"""Arrays in ``.npy`` files and ``.npz`` members, read in blocks and without unpickling.

Headers are checked against the size of the file before memory is allocated.

Source: the .npy format, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError, shortened

# Exceptions of NumPy and zipfile on damaged files; a header is parsed as Python source.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

MAX_SMALL_BYTES = 1 << 27
"""Largest size of labels and other small arrays."""


@dataclass(frozen=True, eq=False)
class StoredArray:
    """The header of an array in a file and a function that opens it, or an array in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int = 0
    open: Callable[[], AbstractContextManager[IO[bytes]]] | None = None
    """Opens the ``.npy`` file or member; the values start at ``offset``. None for an array in memory."""
    values: npt.NDArray[Any] | None = None
    blocks: Callable[[], Iterator[npt.NDArray[Any]]] | None = None
    """Iterates over an array of another kind of file, in blocks along the first axis."""
    columns_first: tuple[int, ...] | None = None
    """The shape in the file of an array in Fortran order; None for C order."""

    @classmethod
    def of(cls, name: str, values: npt.NDArray[Any]) -> StoredArray:
        """An array in memory."""
        return cls(name, values.shape, values.dtype, values=values)


def npy_header(path: Path, name: str = "") -> StoredArray:
    """The header of a ``.npy`` file.

    Raises:
        DataError: for a damaged file.
    """
    with read_errors(path):
        return _header(name or path.name, lambda: path.open("rb"), path.stat().st_size)


def npz_headers(path: Path) -> dict[str, StoredArray]:
    """The headers of the arrays of a ``.npz`` file by their names in lower case.

    Raises:
        DataError: for a damaged file.
    """
    with read_errors(path):
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        return {
            info.filename.removesuffix(".npy").lower(): _header(
                info.filename.removesuffix(".npy"), partial(_member, path, info.filename), info.file_size
            )
            for info in members
        }


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
        yield stream


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Convert the exceptions of damaged files into DataError with the file name."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{path}: not a readable {path.suffix} file ({shortened(str(error) or 'truncated', 200)})"
        ) from error


def _header(name: str, open_stream: Callable[[], AbstractContextManager[IO[bytes]]], size: int) -> StoredArray:
    """Read the header of an array of ``size`` bytes, including the header.

    Raises:
        ValueError: if shape and type do not match the size, or the format is not supported.
    """
    with open_stream() as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has format version {version[0]}.{version[1]}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        offset = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} contains Python objects, which are not unpickled")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - offset:
        raise ValueError(f"{name}: the header claims {list(shape)} of {dtype}, but {size - offset:,} bytes follow")
    return StoredArray(name, shape, dtype, offset, open_stream, columns_first=shape if fortran else None)


def read_blocks(path: Path, stack: StoredArray, size: int) -> Iterator[npt.NDArray[Any]]:
    """Read an array in blocks of about ``size`` bytes, with its own type; compressed members are streamed.

    An array in Fortran order is mapped, or read whole from a compressed member.
    """
    if stack.blocks is not None:
        for block in stack.blocks():
            yield block.reshape(len(block), *stack.shape[1:])
        return
    row_bytes = math.prod(stack.shape[1:]) * stack.dtype.itemsize
    step = max(1, size // max(row_bytes, 1))
    values = _fortran(path, stack) if stack.columns_first is not None else stack.values
    if values is not None:
        for start in range(0, stack.shape[0], step):
            rows = values[start : start + step]
            yield rows.reshape(len(rows), *stack.shape[1:])
        return
    assert stack.open is not None
    with read_errors(path), stack.open() as stream:
        stream.read(stack.offset)
        for start in range(0, stack.shape[0], step):
            count = min(step, stack.shape[0] - start)
            data = stream.read(count * row_bytes)
            if len(data) != count * row_bytes:
                raise EOFError("truncated")
            yield np.frombuffer(data, stack.dtype).reshape(count, *stack.shape[1:])  # [n, H, W], or 4 axes
        stream.read(1)  # zipfile checks the CRC of a member at its end


def _fortran(path: Path, stack: StoredArray) -> npt.NDArray[Any]:
    """An array in Fortran order, in which the first axis varies fastest."""
    assert stack.open is not None
    assert stack.columns_first is not None
    with read_errors(path), stack.open() as stream:
        if isinstance(stream, io.BufferedReader):  # a file of its own
            return np.memmap(stream, stack.dtype, "r", stack.offset, stack.columns_first, "F")
        stream.read(stack.offset)
        count = math.prod(stack.columns_first)
        return np.frombuffer(stream.read(), stack.dtype, count).reshape(stack.columns_first, order="F")


def read_small(path: Path, stored: StoredArray) -> npt.NDArray[Any]:
    """Read an array of labels, class names or levels.

    Raises:
        DataError: for a damaged or a large array.
    """
    if stored.open is None:
        assert stored.values is not None
        return stored.values
    size = math.prod(stored.shape) * stored.dtype.itemsize
    if size > MAX_SMALL_BYTES:
        raise DataError(f"{path}: {stored.name} has {size:,} bytes; the limit is {MAX_SMALL_BYTES:,}")
    with read_errors(path), stored.open() as stream:
        stream.read(stored.offset)
        order: Literal["C", "F"] = "C" if stored.columns_first is None else "F"
        return np.frombuffer(stream.read(), stored.dtype).reshape(stored.shape, order=order)
