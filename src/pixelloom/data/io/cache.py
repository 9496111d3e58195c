"""The cache of decoded images: written once as one uint8 array, then memory-mapped.

An entry is a folder ``<cache>/<key>/`` with ``images.npy`` [N, C, H, W], ``index.npy`` (the file index of each image)
and ``note.json``. It is written atomically: to a temporary folder, fsynced, renamed. Entries are never modified, and
can be deleted at any time; the images are then decoded again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from pixelloom.core.atomic import flush, locked, rename_folder
from pixelloom.core.errors import DataError

if TYPE_CHECKING:  # core.types imports torch, which reading images does not need
    from pixelloom.core.types import Levels

log = logging.getLogger("pixelloom")

IN_MEMORY = 64 << 20
"""Data sets below this number of decoded bytes (64 MiB) are kept in memory and not written to disk."""

Summary: TypeAlias = Callable[[], tuple[npt.NDArray[np.int64], str]]
"""Returns, after all blocks are read, the file index of each image and the note on how they were read."""


@dataclass(frozen=True)
class CachedImages:
    """Decoded images, uint8 [N, C, H, W], in memory or mapped; the file index of each, int64 [N]; and a note."""

    images: Levels
    index: npt.NDArray[np.int64]
    note: str


def cache_folder(chosen: Path | None = None) -> Path:
    """``chosen``; default: $PIXELLOOM_CACHE, then ``~/.cache/pixelloom``."""
    return Path(chosen or os.environ.get("PIXELLOOM_CACHE") or "~/.cache/pixelloom").expanduser()


def find(folder: Path, key: str) -> CachedImages | None:
    """Memory-map the entry of a key; None if there is none. A damaged entry is removed."""
    entry = folder / key
    try:
        if not entry.is_dir():
            return None
    except OSError:  # folder not accessible: small data sets do not need it, and writing a large one raises an error
        return None
    try:
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
        index = np.load(entry / "index.npy", allow_pickle=False)
        note = json.loads((entry / "note.json").read_text(encoding="utf-8"))["note"]
        if images.ndim != 4 or images.dtype != np.uint8 or index.shape != images.shape[:1]:
            raise ValueError("the arrays of the entry do not match")
    except (OSError, ValueError, EOFError, KeyError) as error:
        log.warning("cache entry %s is damaged (%s); the images are decoded again", entry, error)
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return CachedImages(images, index, note)


def store(blocks: Iterable[Levels], summary: Summary, folder: Path, key: str, expected: int) -> CachedImages:
    """Collect blocks of images in memory, or in a new cache entry from IN_MEMORY bytes on.

    Needs memory for IN_MEMORY bytes and one block. If several processes decode the same images, one writes the entry
    and the others wait for it.

    Args:
        blocks: images, each uint8 [n, C, H, W].
        summary: called after the last block.
        folder: the cache folder.
        key: name of the entry.
        expected: upper bound of the number of images, for a check of the free disk space.

    Raises:
        DataError: if the cache folder cannot be written or the disk is full.
    """
    buffered: list[Levels] = []
    size = 0
    stream = iter(blocks)
    for block in stream:
        buffered.append(block)
        size += block.nbytes
        if size >= IN_MEMORY:
            break
    else:
        index, note = summary()
        return CachedImages(np.concatenate(buffered), index, note)
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = expected * buffered[0][0].nbytes, shutil.disk_usage(folder).free
        if needed > free:
            raise DataError(
                f"{folder}: decoded images need {needed:,} bytes, but {free:,} are free; "
                "free disk space, choose a smaller --size, or set another folder by PIXELLOOM_CACHE"
            )
        with _writer_lock(folder, key):
            if (existing := find(folder, key)) is not None:
                return existing
            _write(buffered, stream, summary, folder, key)
    cached = find(folder, key)
    if cached is None:
        raise DataError(f"{folder / key}: the cache entry was removed while it was written; run again")
    return cached


def _write(buffered: list[Levels], stream: Iterator[Levels], summary: Summary, folder: Path, key: str) -> None:
    """Write an entry to a temporary folder and rename it. Empties ``buffered`` to free memory."""
    temporary = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=".tmp", dir=folder))
    try:
        shape = buffered[0].shape[1:]
        log.info("decoding images into %s", folder / key)
        with (temporary / "images.npy").open("wb") as file:
            _header(file, (1, *shape))  # NumPy pads the header, so that a larger first axis fits
            start, count = file.tell(), 0
            # write() instead of a writable map: a full disk raises an error instead of SIGBUS.
            while buffered:
                count += len(buffered[0])
                file.write(np.ascontiguousarray(buffered.pop(0)).data)
            for block in stream:
                count += len(block)
                file.write(np.ascontiguousarray(block).data)
            file.seek(0)
            _header(file, (count, *shape))
            if file.tell() != start:
                raise AssertionError("the length of the header changed")
            flush(file)
        index, note = summary()
        with (temporary / "index.npy").open("wb") as file:
            np.save(file, index)
            flush(file)
        with (temporary / "note.json").open("wb") as file:
            file.write(json.dumps({"note": note}).encode())
            flush(file)
        rename_folder(temporary, folder / key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


@contextmanager
def _writer_lock(folder: Path, key: str) -> Iterator[None]:
    """Lock a key for one writing process. Without file locks, the first rename wins."""
    lock = folder / f"{key}.lock"

    def waiting() -> None:
        log.info("another process is decoding the same images; waiting for %s", folder / key)

    with lock.open("wb") as file, locked(file, waiting) as acquired:
        try:
            if acquired:  # temporary folders of this key are of killed processes
                for orphan in folder.glob(f"{key}.*.tmp"):
                    shutil.rmtree(orphan, ignore_errors=True)
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove open files
                lock.unlink()


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Convert OSError into DataError with the folder, the cause and the remedy."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "the disk is full" if full else (error.strerror or str(error))
        raise DataError(
            f"{folder}: decoded images cannot be stored here ({cause}); set another folder by PIXELLOOM_CACHE"
        ) from error
