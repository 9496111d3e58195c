"""IDX files, as MNIST and its kin are published in, gzipped or not.

Format: bytes 0, 0, type, number of axes; the axes as big-endian uint32; the values, big-endian, in row-major order.

Source: http://yann.lecun.com/exdb/mnist/, "File formats".
"""

from __future__ import annotations

import gzip
import math
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_LIMIT = 1032  # the largest expansion of deflate (zlib, technical details)
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_AXES = 4


def is_idx(path: Path) -> bool:
    """Whether a file begins like an IDX file, gzipped or not."""
    try:
        with path.open("rb") as raw:
            head = raw.read(4)
            if head[:2] == _GZIP_MAGIC:
                raw.seek(0)
                head = gzip.GzipFile(fileobj=raw).read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in _TYPES and 1 <= head[3] <= _MOST_AXES


def read_idx(path: Path) -> npt.NDArray[Any]:
    """Read an IDX file: images, mostly uint8 [N, H, W], or labels, mostly uint8 [N].

    Raises:
        DataError: for a damaged file.
    """
    with file_errors(path), path.open("rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        stream: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if packed else raw
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= _MOST_AXES:
            raise DataError(f"{path}: not an IDX file of bytes (it begins with {head!r}); download it again")
        dtype = np.dtype(_TYPES[head[2]])
        axes = stream.read(4 * head[3])
        sides = np.frombuffer(axes[: len(axes) // 4 * 4], ">u4").tolist()
        n = math.prod(sides) * dtype.itemsize
        if len(sides) != head[3] or n > path.stat().st_size * (_DEFLATE_LIMIT if packed else 1):
            raise DataError(
                f"{path}: the header claims {sides} values, more than the file can contain; download it again"
            )
        values = stream.read(n)
        if len(values) != n or stream.read(1):
            raise DataError(f"{path}: not the {n} values of the header; the file is damaged, download it again")
    return np.frombuffer(values, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(sides)  # [N] or [N, H, W]


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Convert the exceptions of damaged and missing files into DataError with the file name."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path}: damaged ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
