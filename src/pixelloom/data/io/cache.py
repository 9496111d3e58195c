"""Decoded pictures on disk: written once as one uint8 array, from then on mapped into memory by whoever asks.

An entry is a folder ``<cache>/<key>/`` of ``images.npy`` [N, C, H, W], ``index.npy`` (the file each image came from)
and ``note.json``. It appears whole or not at all: written under a temporary name beside its place, fsynced, renamed.
Entries are never changed; deleting one, or the whole cache folder, costs only the time to decode again.
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

if TYPE_CHECKING:  # types.py imports torch, which reading pictures does not need
    from pixelloom.core.types import Levels

log = logging.getLogger("pixelloom")

IN_MEMORY = 64 << 20
"""Sets of fewer bytes than this (64 MiB decoded) are kept in memory and leave nothing on disk."""

Facts: TypeAlias = Callable[[], tuple[npt.NDArray[np.int64], str]]
"""Called when all images are known: the index of the file of each, and the note on how they were read."""


@dataclass(frozen=True)
class Kept:
    """Decoded images (uint8 [N, C, H, W], in memory or mapped), the file of each (int64 [N]), and a note."""

    images: Levels
    index: npt.NDArray[np.int64]
    note: str


def cache_folder(chosen: Path | None = None) -> Path:
    """``chosen``, else $PIXELLOOM_CACHE, else ``~/.cache/pixelloom``."""
    return Path(chosen or os.environ.get("PIXELLOOM_CACHE") or "~/.cache/pixelloom").expanduser()


def find(folder: Path, key: str) -> Kept | None:
    """The entry of a key, mapped; None when there is none. A damaged entry is removed and counts as none."""
    entry = folder / key
    try:
        if not entry.is_dir():
            return None
    except OSError:  # a folder that may not be searched: small sets need none of it, writing a large one will say so
        return None
    try:
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
        index = np.load(entry / "index.npy", allow_pickle=False)
        note = json.loads((entry / "note.json").read_text(encoding="utf-8"))["note"]
        if images.ndim != 4 or images.dtype != np.uint8 or index.shape != images.shape[:1]:
            raise ValueError("the arrays of the entry do not match")
    except (OSError, ValueError, EOFError, KeyError) as error:
        log.warning("cache entry %s is damaged (%s); the pictures are decoded again", entry, error)
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return Kept(images, index, note)


def keep(blocks: Iterable[Levels], facts: Facts, folder: Path, key: str, expected: int) -> Kept:
    """All blocks (each uint8 [n, C, H, W]) as one array: in memory while small, else through a new cache entry.

    ``expected`` images or fewer are to come; the disk is asked beforehand whether it holds them. Never holds more than
    IN_MEMORY and one block. Of several processes that decode the same pictures one writes, the others wait and take
    its entry. Raises DataError when the cache folder cannot be written or the disk is full.
    """
    held: list[Levels] = []
    size = 0
    stream = iter(blocks)
    for block in stream:
        held.append(block)
        size += block.nbytes
        if size >= IN_MEMORY:
            break
    else:
        index, note = facts()
        return Kept(np.concatenate(held), index, note)
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = expected * held[0][0].nbytes, shutil.disk_usage(folder).free
        if needed > free:
            raise DataError(
                f"{folder}: decoded pictures need {needed:,} bytes and {free:,} are free; "
                "make room, choose a smaller --size, or name another folder by PIXELLOOM_CACHE"
            )
        with _alone(folder, key):
            if (ready := find(folder, key)) is not None:
                return ready
            _write(held, stream, facts, folder, key)
    kept = find(folder, key)
    if kept is None:
        raise DataError(f"{folder / key}: the cache entry vanished while it was written; run again")
    return kept


def _write(held: list[Levels], stream: Iterator[Levels], facts: Facts, folder: Path, key: str) -> None:
    """One entry under a temporary name, then its rename. ``held`` is emptied on the way to free memory."""
    temporary = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=".tmp", dir=folder))
    try:
        shape = held[0].shape[1:]
        log.info("decoding pictures into %s", folder / key)
        with (temporary / "images.npy").open("wb") as file:
            _header(file, (1, *shape))  # numpy pads it so that the first axis can grow in place
            start, count = file.tell(), 0
            # Plain writes, not a writable map: a full disk is then an error here and not a SIGBUS.
            while held:
                count += len(held[0])
                file.write(np.ascontiguousarray(held.pop(0)).data)
            for block in stream:
                count += len(block)
                file.write(np.ascontiguousarray(block).data)
            file.seek(0)
            _header(file, (count, *shape))
            if file.tell() != start:
                raise AssertionError("the header did not keep its length")
            flush(file)
        index, note = facts()
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
def _alone(folder: Path, key: str) -> Iterator[None]:
    """One process a key at a time. Where files cannot be locked, the rename decides."""
    lock = folder / f"{key}.lock"

    def waiting() -> None:
        log.info("another process decodes the same pictures; waiting for %s", folder / key)

    with lock.open("wb") as file, locked(file, waiting) as held:
        try:
            if held:  # what a killed process left of this key belongs to nobody now
                for orphan in folder.glob(f"{key}.*.tmp"):
                    shutil.rmtree(orphan, ignore_errors=True)
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps open files
                lock.unlink()


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Faults of the cache's disk as DataError: which folder, what is wrong, what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else (error.strerror or str(error))
        raise DataError(
            f"{folder}: decoded pictures cannot be kept here ({what}); name another folder by PIXELLOOM_CACHE"
        ) from error
