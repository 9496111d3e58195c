"""Scanning a folder, a zip, a tar or a text list: file names, a function that reads them, and tables of labels.

A listing stores name, size and stamp of each file, some tens of MB for 200,000 files. Members of a zip are read in
memory, never unpacked to disk.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from pixelloom.core.errors import DataError, shortened
from pixelloom.data.io.decode import ACCEPTED, MAX_BYTES
from pixelloom.data.io.labels import MAX_TABLE, TABLES, read_table, split_line
from pixelloom.data.io.listing import Listing
from pixelloom.data.io.parquet import is_parquet, parquet_listing
from pixelloom.data.io.reading import DamageError, printable

PAGES = (".tif", ".tiff")
"""Extensions of files whose pages are the images of a source."""


@contextmanager
def open_listing(path: Path, column: str | None = None) -> Iterator[Listing]:
    """List the image files of a folder, zip, tar, text list or Parquet files, readable within the context.

    Args:
        path: the source.
        column: the column of images of Parquet files; None to find it.

    Raises:
        DataError: if the source cannot be read.
    """
    if is_parquet(path):
        yield parquet_listing(path, column)
    elif path.is_dir():
        yield _folder(path)
    elif path.suffix.lower() in (".txt", ".csv"):
        yield _list(path)
    elif path.suffix.lower() in PAGES:
        status = path.stat()
        found = [(path.name, status.st_size, status.st_mtime_ns)]
        yield _on_disk(path, path.parent, found, [], [], layout=False)
    elif path.suffix.lower() == ".tar":
        try:
            tar = tarfile.open(path, "r:")  # noqa: SIM115
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{path}: not a readable tar file without compression ({error}); unpack it") from error
        with tar:
            yield _tar(path, tar)
    else:
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(f"{path}: not a readable zip file ({shortened(str(error), 200)})") from error
        with archive:
            yield _zip(path, archive)


def has_images(folder: Path) -> bool:
    """Whether a folder contains an image file, at any depth."""
    return any(
        os.path.splitext(name)[1].lower() in ACCEPTED and not _hidden(name)  # noqa: PTH122
        for _, _, names in os.walk(folder)
        for name in names
    )


def _tar(path: Path, archive: tarfile.TarFile) -> Listing:
    """List the members of a tar without compression, read in place."""
    others: list[str] = []
    tables: dict[str, Callable[[], bytes]] = {}
    found: list[tuple[str, tarfile.TarInfo]] = []

    def content(member: tarfile.TarInfo) -> bytes:
        try:
            stream = archive.extractfile(member)
            data = b"" if stream is None else stream.read(member.size)
        except (OSError, tarfile.TarError, EOFError) as error:
            raise DamageError(f"{printable(member.name)}: {error or 'truncated'}") from error
        if len(data) < member.size:
            raise DamageError(f"{printable(member.name)}: truncated")
        return data

    try:
        members = [member for member in archive.getmembers() if member.isfile()]
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: not a readable tar file ({shortened(str(error), 200)})") from error
    for member in members:
        components = _components(member.name)
        if not components:
            continue
        suffix = os.path.splitext(components[-1])[1].lower()  # noqa: PTH122
        if suffix in ACCEPTED:
            found.append(("/".join(components), member))
        elif components[-1].lower() in TABLES and member.size <= MAX_TABLE:
            tables["/".join(components)] = partial(content, member)
        else:
            others.append("/".join(components))
    found.sort(key=lambda item: item[0])

    def read(i: int) -> bytes:
        name, member = found[i]
        if member.size > MAX_BYTES:
            raise DamageError(f"{printable(name)}: {member.size:,} bytes; the limit is {MAX_BYTES:,}")
        return content(member)

    sizes = np.fromiter((member.size for _, member in found), np.int64, len(found))
    stamps = np.fromiter((int(member.mtime) for _, member in found), np.int64, len(found))
    return Listing(path, [name for name, _ in found], sizes, stamps, read, others, [], layout=True, tables=tables)


def _components(name: str) -> list[str]:
    """The parts of a member's name without ``..`` and leading slashes; empty if one is hidden."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return [] if any(map(_hidden, parts)) else parts


def _hidden(name: str) -> bool:
    """Whether a name is a dot file, or the metadata folder that macOS adds to zips."""
    return name.startswith(".") or name == "__MACOSX"


def _folder(root: Path) -> Listing:
    """List all images under ``root``. Links are followed, and each folder is read once, so that cycles end."""
    found: list[tuple[str, int, int]] = []
    others: list[str] = []
    tables: dict[str, Callable[[], bytes]] = {}
    seen: set[tuple[int, int]] = set()
    repeats = 0
    pending = [""]
    while pending:
        inner = pending.pop()
        try:
            status = (root / inner).stat()
            if (status.st_dev, status.st_ino) in seen:
                repeats += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / inner) as entries:
                folders, here = _scan(entries, inner, found, others)
        except OSError as error:
            raise DataError(f"{printable(str(root / inner))}: folder cannot be listed ({error.strerror})") from error
        tables |= {name: _table_reader(root / name) for name in here}
        pending.extend(sorted(folders, reverse=True))
    found.sort()
    notes = [f"{repeats} folder{'s' * (repeats > 1)} linked more than once, read once"] if repeats else []
    return replace(_on_disk(root, root, found, others, notes, layout=True), tables=tables)


def _table_reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_TABLE + 1)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        if len(data) > MAX_TABLE:
            raise DataError(f"{path}: more than {MAX_TABLE:,} bytes, the limit of a table of labels")
        return data

    return read


def _scan(
    entries: Iterator[os.DirEntry[str]], inner: str, found: list[tuple[str, int, int]], others: list[str]
) -> tuple[list[str], list[str]]:
    """Add the images of one folder (relative name, bytes, mtime in ns) to ``found``.

    Returns:
        its subfolders, and its tables of labels.
    """
    folders: list[str] = []
    tables: list[str] = []
    for entry in entries:
        if _hidden(entry.name):
            continue
        name = f"{inner}/{entry.name}" if inner else entry.name
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  # a Path for each file is slow
        try:
            status = entry.stat()
        except OSError:  # a broken or circular link: listed, and counted as damaged when read
            if suffix in ACCEPTED:
                found.append((name, -1, 0))
            continue
        if stat.S_ISDIR(status.st_mode):
            folders.append(name)
        elif suffix in ACCEPTED and stat.S_ISREG(status.st_mode):
            found.append((name, status.st_size, status.st_mtime_ns))
        elif entry.name.lower() in TABLES and stat.S_ISREG(status.st_mode):
            tables.append(name)
        else:
            others.append(name)
    return folders, tables


def _list(path: Path) -> Listing:
    """List the files of a text file, one ``path`` or ``path label`` per line; blank lines and # are skipped.

    Paths are relative to the text file.
    """
    found: list[tuple[str, int, int]] = []
    labels: list[str] = []

    def exists(name: str) -> bool:
        try:
            return (path.parent / name).exists()
        except (OSError, ValueError):
            return False

    def add(name: str, label: str) -> None:
        labels.append("" if label == "-1" else label)
        try:
            status = (path.parent / name).stat()
            regular = stat.S_ISREG(status.st_mode)
            found.append((name, status.st_size if regular else -1, status.st_mtime_ns))
        except (OSError, ValueError):
            found.append((name, -1, 0))

    try:
        if path.suffix.lower() == ".csv":
            for name, label in read_table(_table_reader(path)(), path.name).items():
                add(name, label)
        else:
            # surrogateescape keeps file names that are not UTF-8.
            with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                for line in lines:
                    if (pair := split_line(line, exists)) is not None:
                        add(*pair)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    listing = _on_disk(path, path.parent, found, [], [], layout=False)
    return replace(listing, labels=labels if any(labels) else None)


def _on_disk(
    path: Path, base: Path, found: list[tuple[str, int, int]], others: list[str], notes: list[str], *, layout: bool
) -> Listing:
    names = [name for name, _, _ in found]
    sizes = np.fromiter((size for _, size, _ in found), np.int64, len(found))
    stamps = np.fromiter((stamp for _, _, stamp in found), np.int64, len(found))

    def read(i: int) -> bytes:
        name = printable(names[i])
        if sizes[i] < 0:
            raise DamageError(f"{name}: no such file, or a broken link")
        if sizes[i] > MAX_BYTES:
            raise DamageError(f"{name}: {sizes[i]:,} bytes; the limit is {MAX_BYTES:,}")
        try:
            with (base / names[i]).open("rb") as file:
                # One byte more than listed shows that the file has grown, with bounded memory.
                data = file.read(int(sizes[i]) + 1)
                changed = len(data) != sizes[i] or os.fstat(file.fileno()).st_mtime_ns != stamps[i]
        except (OSError, ValueError) as error:
            raise DamageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
        if changed:
            raise DamageError(f"{name}: modified while the folder was read")
        return data

    return Listing(path, names, sizes, stamps, read, others, notes, layout)


def _zip(path: Path, archive: zipfile.ZipFile) -> Listing:
    """List the members of a zip. Names serve as labels only; ``..`` and leading slashes are removed."""
    others: list[str] = []
    tables: dict[str, Callable[[], bytes]] = {}
    found: list[tuple[str, zipfile.ZipInfo]] = []
    for info in archive.infolist():
        components = _components(info.filename)
        if info.is_dir() or not components:
            continue
        suffix = os.path.splitext(components[-1])[1].lower()  # noqa: PTH122
        if suffix in ACCEPTED:
            found.append(("/".join(components), info))
        elif components[-1].lower() in TABLES and info.file_size <= MAX_TABLE:
            tables["/".join(components)] = partial(archive.read, info)
        else:
            others.append("/".join(components))
    found.sort(key=lambda item: item[0])
    members = [info for _, info in found]
    names = [name for name, _ in found]
    if any(info.flag_bits & 1 for info in members):
        raise DataError(f"{path}: the zip is encrypted; unpack it and give the folder")

    def read(i: int) -> bytes:
        name, info = printable(names[i]), members[i]
        if info.file_size > MAX_BYTES:
            raise DamageError(f"{name}: {info.file_size:,} bytes; the limit is {MAX_BYTES:,}")
        try:
            with archive.open(info) as member:
                # zipfile reads at most the declared size, so a zip bomb cannot exhaust the memory.
                return member.read()
        except (
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:
            raise DamageError(f"{name}: {shortened(str(error) or 'truncated', 200)}") from error

    sizes = np.fromiter((info.file_size for info in members), np.int64, len(members))
    stamps = np.fromiter((info.CRC for info in members), np.int64, len(members))
    return Listing(path, names, sizes, stamps, read, others, [], layout=True, tables=tables)
