"""Atomic writes of files and folders, and file locks that the system releases when their process ends."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from pixelloom.core.errors import ModelError

_PART = re.compile(r"\..+\.\d+\.part")  # .NAME.PID.part, a temporary file or folder
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_held: set[int] = set()  # descriptors of the lock files of this process


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
        raise cannot_write(path, len(content), error) from error
    finally:
        with contextlib.suppress(OSError):  # after the rename it does not exist; after a failure it must be removed
            temporary.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file piece by piece; it takes its name at the end. After an error or a kill, ``path`` is as before.

    Yields:
        The temporary file, open for writing and reading.

    Raises:
        OSError: if it cannot be written; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w+b") as file:
            yield file
            flush(file)
        temporary.replace(path)
        flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def cannot_write(path: Path, size: int, error: OSError) -> ModelError:
    """The error for a file that cannot be written: its path, the number of bytes, the reason, and a remedy."""
    remedy = " Free space on the disk, or raise the quota." if error.errno in _FULL else ""
    return ModelError(f"{path}: cannot write {size} bytes: {error.strerror}.{remedy}")


def remove_parts(folder: Path) -> None:
    """Remove temporary files and folders of killed processes from ``folder``. No other process may be writing there."""
    for part in folder.glob(".*.part"):
        if not _PART.fullmatch(part.name):
            continue
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, own: Collection[str]) -> Iterator[Path]:
    """Write all files of a folder as one unit: after a crash or a kill, ``folder`` holds the old files or the new.

    A folder that contains other files than ``own`` cannot be replaced as a whole; it is written file by file.

    Args:
        folder: the folder; its parents are created.
        own: names of the files that may be replaced.

    Yields:
        The folder to write to: a temporary one, which replaces ``folder`` at the end, or ``folder`` itself.

    Raises:
        ModelError: if the folder cannot be created, or replaced.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        alone = folder.name != "" and not folder.is_symlink()  # not "." and not a link to a folder elsewhere
        if alone and folder.exists():
            alone = not {path.name for path in folder.iterdir()} - set(own)
        if alone:
            shutil.rmtree(temporary, ignore_errors=True)
        (temporary if alone else folder).mkdir(exist_ok=True)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be made: {error.strerror}") from error
    if not alone:
        yield folder
        return
    try:
        yield temporary
        flush_folder(temporary)
        _exchange(temporary, folder)
        flush_folder(folder.parent)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be replaced: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(temporary: Path, folder: Path) -> None:
    """Rename a folder to ``folder``; an existing one takes the temporary name in the same operation, where possible."""
    if not folder.exists():
        temporary.rename(folder)
        return
    if sys.platform.startswith("linux"):
        import ctypes

        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc >= 2.28
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if renameat2 and renameat2(here, os.fsencode(temporary), here, os.fsencode(folder), exchange) == 0:
            return
    # Without this call, a kill between the two renames leaves no folder; the next validation writes one.
    old = folder.with_name(f".{folder.name}-old.{os.getpid()}.part")
    folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


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


@contextmanager
def lock_file(path: Path, owner: str) -> Iterator[str | None]:
    """Hold a lock file. The system releases it when the process ends, however it ends; child processes do not hold it.

    Args:
        path: the file, which is removed at the end.
        owner: who holds the lock, for others to read.

    Yields:
        None if the lock is held, or if the system or the file system has no locks; otherwise the text of its owner.

    Raises:
        OSError: if the file cannot be created.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    while True:
        file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                break
        except BlockingIOError:
            with file:
                file.seek(0)
                yield file.read(1000).decode("utf-8", "replace").strip() or "another process"
            return
        except OSError:  # a file system without locks
            with file:
                yield None
            return
        file.close()  # its owner removed it between the two calls; try the new one
    _held.add(file.fileno())
    pid = os.getpid()
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            file.truncate(0)
            file.write(owner.encode())
        yield None
    finally:
        if os.getpid() == pid:
            path.unlink(missing_ok=True)
            _held.discard(file.fileno())
            file.close()


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _close_in_child() -> None:
    """Close the lock files of the parent, which would else be held for as long as its data workers live."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
