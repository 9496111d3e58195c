"""Parsers of published layouts: IDX (MNIST), CIFAR-10's binary and python batches and their tars, amat.

Each reads a file that may be damaged or hostile: sizes are checked against the bytes that are there before anything is
allocated, pickles never run code, archives are never unpacked to disk. Whatever is wrong raises DataError that names
the file.
"""

from __future__ import annotations

import gzip
import io
import itertools
import math
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError
from pixelloom.core.types import Labels, Levels

_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_LIMIT = 1032  # deflate expands no byte beyond this: a header that claims more is lying
_CIFAR_RECORD = 1 + 3 * 32 * 32
_CIFAR_BATCH_LIMIT = 1 << 26  # bytes of one batch file (a published one has 31 million)

CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR_TEST = ("test_batch",)
CIFAR_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
CIFAR_TARS = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An IDX file of unsigned bytes, gzipped or not: uint8 [N, H, W] of images or [N] of labels.

    Layout: 0, 0, type (8 = uint8), number of axes, the axes as big-endian uint32, the values in row order.
    """
    with _damage(path), path.open("rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        stream: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if packed else raw
        head = stream.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08" or head[3] not in (1, 3):
            raise DataError(f"{path}: no IDX file of bytes (it begins with {head!r}); fetch it again")
        axes = stream.read(4 * head[3])
        sides = np.frombuffer(axes[: len(axes) // 4 * 4], ">u4").tolist()
        n = math.prod(sides)
        if len(sides) != head[3] or n > path.stat().st_size * (_DEFLATE_LIMIT if packed else 1):
            raise DataError(f"{path}: the header claims {sides} values, more than the file can hold; fetch it again")
        values = stream.read(n)
        if len(values) != n or stream.read(1):
            raise DataError(f"{path}: not the {n} values its header claims; the file is damaged, fetch it again")
    return np.frombuffer(values, np.uint8).reshape(sides)


def read_amat(path: Path, height: int, width: int) -> Levels:
    """Lines of '0' and '1' separated by white space, one image a line: uint8 [N, 1, height, width] of bits."""
    with _damage(path):
        text = path.read_bytes()
    line = 2 * height * width
    if text and len(text) % line == 0:  # as published: one space between bits, one newline after a line
        pairs = np.frombuffer(text, np.uint8).reshape(-1, line // 2, 2)
        bits, gaps = pairs[..., 0] - np.uint8(ord("0")), pairs[..., 1]
        if bits.max() <= 1 and (gaps[:, :-1] == ord(" ")).all() and (gaps[:, -1] == ord("\n")).all():
            return np.ascontiguousarray(bits).reshape(-1, 1, height, width)
    try:
        bits = np.loadtxt(io.BytesIO(text), np.uint8, ndmin=2) if text.strip() else np.empty((0, 0), np.uint8)
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); fetch it again") from None
    if bits.shape[1] != height * width or bits.max() > 1:
        raise DataError(f"{path}: not lines of {height * width} zeros and ones; the file is damaged, fetch it again")
    return bits.reshape(-1, 1, height, width)


def find_cifar(folder: Path, names: tuple[str, ...]) -> list[tuple[Path, str]] | None:
    """Where batches lie: (file, "") for plain files, (tar, member) inside a published tar; None if one is missing.

    Looked for in this order: binary batches (``*.bin``), python batches, both in ``folder`` or in the folders that the
    tars unpack to, then the tars themselves.
    """
    for suffix in (".bin", ""):
        for inner in CIFAR_FOLDERS:
            files = [folder / inner / f"{name}{suffix}" for name in names]
            if all(file.is_file() for file in files):
                return [(file, "") for file in files]
    for tar in CIFAR_TARS:
        if (folder / tar).is_file():
            suffix = ".bin" if "binary" in tar else ""
            return [(folder / tar, f"{name}{suffix}") for name in names]
    return None


def read_cifar(places: list[tuple[Path, str]]) -> tuple[Levels, Labels]:
    """CIFAR-10 batches of any published layout: images uint8 [N, 3, 32, 32], labels int64 [N] below 10."""
    images, labels = zip(*(part for path, members in _by_file(places) for part in _batches(path, members)), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _by_file(places: list[tuple[Path, str]]) -> Iterator[tuple[Path, list[str]]]:
    for path, group in itertools.groupby(places, key=lambda place: place[0]):
        yield path, [member for _, member in group]


def _batches(path: Path, members: list[str]) -> list[tuple[Levels, Labels]]:
    if members == [""]:
        with _damage(path):
            return [_cifar_batch(path.read_bytes(), str(path), binary=path.suffix == ".bin")]
    # One pass over the archive in its own order: seeking back in a gzipped tar would inflate it again.
    found: dict[str, tuple[Levels, Labels]] = {}
    with _damage(path), tarfile.open(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name not in members or not member.isfile() or member.size > _CIFAR_BATCH_LIMIT:
                continue
            stream = archive.extractfile(member)
            assert stream is not None  # true of regular files
            found[name] = _cifar_batch(stream.read(), f"{path}: {member.name}", binary=name.endswith(".bin"))
    missing = [name for name in members if name not in found]
    if missing:
        raise DataError(f"{path}: holds no {', '.join(missing)}; the archive is damaged, fetch it again")
    return [found[name] for name in members]


def _cifar_batch(data: bytes, name: str, *, binary: bool) -> tuple[Levels, Labels]:
    if binary:
        if not data or len(data) % _CIFAR_RECORD:
            raise DataError(f"{name}: {len(data)} bytes are not records of {_CIFAR_RECORD}; fetch it again")
        records = np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_RECORD)
        pixels, labels = records[:, 1:], records[:, 0].astype(np.int64)
    else:
        pixels, labels = _cifar_pickle(data, name)
    if len(labels) != len(pixels) or labels.min(initial=10) < 0 or labels.max(initial=0) > 9:
        raise DataError(f"{name}: {len(pixels)} images do not go with {len(labels)} labels of 0..9; fetch it again")
    return np.ascontiguousarray(pixels).reshape(-1, 3, 32, 32), labels


class _Array:
    """Stands in for a numpy array while a pickle is read: it only remembers what it was given."""

    def __init__(self, *_: object):
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Dtype(_Array):
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: object = None, *_: object):
        super().__init__()
        self.code = code


def _latin1(text: str, _: str) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes into a pickle of protocol 2


class _Unpickler(pickle.Unpickler):
    """Reads containers, numbers, strings and arrays. No global of the pickle's choosing is ever looked up."""

    STAND_INS = {  # noqa: RUF012
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        stand_in = self.STAND_INS.get((module, name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs")
        return stand_in


def _cifar_pickle(data: bytes, name: str) -> tuple[Levels, Labels]:
    """{b"data": uint8 [N, 3072], b"labels": list of int} as Python 2 or 3 wrote it, without running any of it."""
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        batch = {key if isinstance(key, str) else key.decode(): value for key, value in batch.items()}
        array, labels = batch["data"], np.asarray(batch["labels"], np.int64)
        _, shape, dtype, fortran, values = array.state
        code = dtype.code if isinstance(dtype.code, str) else dtype.code.decode()
        if code not in ("u1", "|u1") or fortran or len(shape) != 2 or shape[1] != _CIFAR_RECORD - 1 or labels.ndim != 1:
            raise DataError(f"{name}: its data are {code} {shape}, not uint8 (N, 3072)")
        return np.frombuffer(values, np.uint8).reshape(shape), labels
    except _PICKLE_ERRORS as error:
        raise DataError(f"{name}: not a CIFAR-10 batch ({error}); fetch it again") from None


# What a pickle of random or hostile bytes makes the unpickler raise.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path}: damaged ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
