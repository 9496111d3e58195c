"""Parsers of published formats: CIFAR-10 binary and python batches and their tars, amat. IDX is in ``idx.py``.

Files may be damaged or malicious: sizes are checked against the file before memory is allocated, pickles never run
code, and archives are never unpacked to disk. All errors are DataError with the file name.
"""

from __future__ import annotations

import io
import itertools
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixelloom.core.errors import DataError
from pixelloom.data.io.idx import file_errors

if TYPE_CHECKING:  # core.types imports torch, which reading images does not need
    from pixelloom.core.types import Labels, Levels

_CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue plane
_CIFAR_BATCH_LIMIT = 1 << 26  # bytes of a batch file (published: 31 million)

CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR_TEST = ("test_batch",)
CIFAR_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
CIFAR_TARS = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_amat(path: Path, height: int, width: int) -> Levels:
    """Read lines of '0' and '1' separated by white space, one image per line: uint8 [N, 1, height, width]."""
    with file_errors(path):
        text = path.read_bytes()
    line = 2 * height * width
    if text and len(text) % line == 0:  # as published: one space between bits, one newline after a line
        pairs = np.frombuffer(text, np.uint8).reshape(-1, line // 2, 2)  # [N, H W, (digit, separator)]
        bits, separators = pairs[..., 0] - np.uint8(ord("0")), pairs[..., 1]
        if bits.max() <= 1 and (separators[:, :-1] == ord(" ")).all() and (separators[:, -1] == ord("\n")).all():
            return np.ascontiguousarray(bits).reshape(-1, 1, height, width)  # [N, H W] -> [N, 1, H, W]
    try:
        bits = np.loadtxt(io.BytesIO(text), np.uint8, ndmin=2) if text.strip() else np.empty((0, 0), np.uint8)
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); download it again") from None
    if bits.shape[1] != height * width or bits.max() > 1:
        raise DataError(f"{path}: not lines of {height * width} zeros and ones; the file is damaged, download it again")
    return bits.reshape(-1, 1, height, width)  # [N, H W] -> [N, 1, H, W]


def find_cifar(folder: Path, names: tuple[str, ...]) -> list[tuple[Path, str]] | None:
    """Locate batches: (file, "") for files, (tar, member) for members of a published tar; None if one is missing.

    Search order: binary batches (``*.bin``) and python batches, each in ``folder`` and in the folders that the tars
    unpack to; then the tars.
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


def cifar_files(path: Path) -> dict[str, list[tuple[Path, str]]]:
    """The batches of train and test in a folder, or in a published tar itself; empty if one is missing."""
    if path.name in CIFAR_TARS and path.is_file():
        suffix = ".bin" if "binary" in path.name else ""
        return {
            split: [(path, f"{name}{suffix}") for name in names]
            for split, names in (("train", CIFAR_TRAIN), ("test", CIFAR_TEST))
        }
    train, test = (find_cifar(path, names) for names in (CIFAR_TRAIN, CIFAR_TEST))
    return {"train": train, "test": test} if train and test else {}


def read_cifar(locations: list[tuple[Path, str]]) -> tuple[Levels, Labels]:
    """Read CIFAR-10 batches of any published format: images uint8 [N, 3, 32, 32], labels int64 [N] below 10.

    Source: Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout".
    """
    images, labels = zip(
        *(part for path, members in _by_file(locations) for part in _batches(path, members)), strict=True
    )
    return np.concatenate(images), np.concatenate(labels)


def _by_file(locations: list[tuple[Path, str]]) -> Iterator[tuple[Path, list[str]]]:
    for path, group in itertools.groupby(locations, key=lambda location: location[0]):
        yield path, [member for _, member in group]


def _batches(path: Path, members: list[str]) -> list[tuple[Levels, Labels]]:
    if members == [""]:
        with file_errors(path):
            return [_cifar_batch(path.read_bytes(), str(path), binary=path.suffix == ".bin")]
    # One pass in the order of the archive: seeking back in a gzipped tar decompresses it again.
    found: dict[str, tuple[Levels, Labels]] = {}
    with file_errors(path), tarfile.open(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name not in members or not member.isfile() or member.size > _CIFAR_BATCH_LIMIT:
                continue
            stream = archive.extractfile(member)
            assert stream is not None  # only for members that are not regular files
            found[name] = _cifar_batch(stream.read(), f"{path}: {member.name}", binary=name.endswith(".bin"))
    missing = [name for name in members if name not in found]
    if missing:
        raise DataError(f"{path}: {', '.join(missing)} missing; the archive is damaged, download it again")
    return [found[name] for name in members]


def _cifar_batch(data: bytes, name: str, *, binary: bool) -> tuple[Levels, Labels]:
    if binary:
        if not data or len(data) % _CIFAR_RECORD:
            raise DataError(f"{name}: {len(data)} bytes are not records of {_CIFAR_RECORD} bytes; download it again")
        records = np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_RECORD)  # [N, 3073]
        pixels, labels = records[:, 1:], records[:, 0].astype(np.int64)
    else:
        pixels, labels = _cifar_pickle(data, name)
    if len(labels) != len(pixels) or labels.min(initial=10) < 0 or labels.max(initial=0) > 9:
        raise DataError(f"{name}: {len(pixels)} images do not match {len(labels)} labels in 0..9; download it again")
    return np.ascontiguousarray(pixels).reshape(-1, 3, 32, 32), labels  # [N, 3072] -> [N, 3, 32, 32]


class _Array:
    """Replaces a NumPy array during unpickling; stores its pickled state and does nothing else."""

    def __init__(self, *_: object):
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Dtype(_Array):
    """Replaces ``numpy.dtype`` during unpickling."""

    def __init__(self, code: object = None, *_: object):
        super().__init__()
        self.code = code


def _latin1(text: str, _: str) -> bytes:
    return text.encode("latin1")  # Python 3 pickles bytes so in protocol 2


class _Unpickler(pickle.Unpickler):
    """Unpickles containers, numbers, strings and arrays. Globals are replaced by SUBSTITUTES or rejected."""

    SUBSTITUTES = {  # noqa: RUF012
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        substitute = self.SUBSTITUTES.get((module, name))
        if substitute is None:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which CIFAR-10 batches do not use")
        return substitute


def _cifar_pickle(data: bytes, name: str) -> tuple[Levels, Labels]:
    """Read a pickled {b"data": uint8 [N, 3072], b"labels": list of int} of Python 2 or 3, without running code."""
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        batch = {key if isinstance(key, str) else key.decode(): value for key, value in batch.items()}
        array, labels = batch["data"], np.asarray(batch["labels"], np.int64)
        _, shape, dtype, fortran, values = array.state
        code = dtype.code if isinstance(dtype.code, str) else dtype.code.decode()
        if code not in ("u1", "|u1") or fortran or len(shape) != 2 or shape[1] != _CIFAR_RECORD - 1 or labels.ndim != 1:
            raise DataError(f"{name}: the data are {code} {shape}, not uint8 (N, 3072)")
        return np.frombuffer(values, np.uint8).reshape(shape), labels  # [N, 3072], [N]
    except _PICKLE_ERRORS as error:
        raise DataError(f"{name}: not a CIFAR-10 batch ({error}); download it again") from None


# Exceptions of the unpickler on random or malicious bytes.
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
