"""Atomic writes of files and folders, and file locks that the system releases when their process ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from pixelloom.core.errors import ModelError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: after a crash, a kill or a full disk, ``path`` holds the old content or the new.

    The temporary file is in the same folder, because a rename is atomic only within one file system.

    Raises:
        ModelError: if the disk is full or the folder cannot be written; names the path and the number of bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            flush(file)
        temporary.replace(path)
        flush_folder(path.parent)  # the rename itself must reach the disk
    except OSError as error:
        raise ModelError(f"{path}: cannot write {len(content)} bytes: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):  # after the rename it does not exist; after a failure it must be removed
            temporary.unlink()


def remove_parts(folder: Path) -> None:
    """Remove temporary files of killed processes from ``folder``. No other process may be writing there."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def flush(file: BinaryIO) -> None:
    """Write the buffers of an open file to disk (fsync)."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Write a folder's entries to disk (fsync), so that a rename survives a crash. Does nothing on Windows."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rename_folder(temporary: Path, folder: Path) -> None:
    """Rename a complete temporary folder to ``folder``; if ``folder`` already exists, keep both unchanged.

    The caller removes ``temporary`` if it still exists.

    Raises:
        OSError: if the folder cannot be renamed for another reason.
    """
    flush_folder(temporary)
    try:
        temporary.rename(folder)
    except OSError:  # a folder cannot replace one that is not empty: another process was first
        if not folder.is_dir():
            raise
    flush_folder(folder.parent)


@contextmanager
def locked(file: IO[bytes], on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold an exclusive lock on an open file. The system releases it when the process ends, however it ends.

    Args:
        file: open for writing.
        on_wait: called once before waiting, if another process holds the lock.

    Yields:
        Whether the lock was acquired; False on Windows and on file systems without locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    acquired = False
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        acquired = True
    except OSError:  # a file system without locks
        pass
    yield acquired
