"""Files and folders that are written whole or not at all, and locks that die with their owner."""

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
    """Put ``content`` at ``path`` so that a crash, a kill or a full disk leaves the old file or the new, never a part.

    The temporary file lies in the same folder, because a rename is atomic only within one file system.

    Raises ModelError if the disk is full or the folder cannot be written; names the path and the bytes needed.
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
        with contextlib.suppress(OSError):  # gone already after the rename; after a failure it must not stay
            temporary.unlink()


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that killed runs left in ``folder``; call only when no other run writes there."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def flush(file: BinaryIO) -> None:
    """What was written to a file reaches the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """New names in a folder reach the disk; Windows has no such call."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rename_folder(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name. Where another process was first, its folder stays and this one is left over."""
    flush_folder(temporary)
    try:
        temporary.rename(folder)
    except OSError:  # no folder is renamed onto a full one
        if not folder.is_dir():
            raise
    flush_folder(folder.parent)


@contextmanager
def locked(file: IO[bytes], on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold an open file's lock, which dies with its owner; yields False where files cannot be locked.

    Args:
        file: open for writing.
        on_wait: called if another process holds the lock, before it is waited for.
    """
    try:
        import fcntl
    except ImportError:  # Windows: the rename decides
        yield False
        return
    held = False
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        held = True
    except OSError:  # a file system without locks
        pass
    yield held
