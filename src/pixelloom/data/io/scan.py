"""Scanning a folder, a zip or a text list: file names, a function that reads them, and splits and classes by folder.

A listing stores name, size and stamp of each file, some tens of MB for 200,000 files. Members of a zip are read in
memory, never unpacked to disk.
"""

from __future__ import annotations

import os
import stat
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError
from pixelloom.data.io.decode import ACCEPTED, MAX_BYTES, DamageError, printable

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names of splits, case-insensitive."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """Image files in a fixed order. ``stamps`` are modification times in ns, or CRC-32 in a zip."""

    path: Path
    names: list[str]
    sizes: Indices
    stamps: Indices
    read: Callable[[int], bytes]
    """Reads file i. Raises DamageError if it is missing, modified since the scan, unreadable or too large."""
    others: Counter[str]
    """Number of other files by extension."""
    notes: list[str]
    layout: bool
    """Whether folders name splits and classes; not in a text list."""


@contextmanager
def open_listing(path: Path) -> Iterator[Listing]:
    """List the image files of a folder, ``.zip`` or ``.txt``, readable within the context.

    Raises:
        DataError: if the source cannot be read.
    """
    if path.is_dir():
        yield _folder(path)
    elif path.suffix.lower() == ".txt":
        yield _list(path)
    else:
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(f"{path}: not a readable zip file ({error})") from error
        with archive:
            yield _zip(path, archive)


def _hidden(name: str) -> bool:
    """Whether a name is a dot file, or the metadata folder that macOS adds to zips."""
    return name.startswith(".") or name == "__MACOSX"


def _folder(root: Path) -> Listing:
    """List all images under ``root``. Links are followed, and each folder is read once, so that cycles end."""
    found: list[tuple[str, int, int]] = []
    others: Counter[str] = Counter()
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
                folders = _scan(entries, inner, found, others)
        except OSError as error:
            raise DataError(f"{printable(str(root / inner))}: folder cannot be listed ({error.strerror})") from error
        pending.extend(sorted(folders, reverse=True))
    found.sort()
    notes = [f"{repeats} folder{'s' * (repeats > 1)} linked more than once, read once"] if repeats else []
    return _on_disk(root, root, found, others, notes, layout=True)


def _scan(
    entries: Iterator[os.DirEntry[str]], inner: str, found: list[tuple[str, int, int]], others: Counter[str]
) -> list[str]:
    """Add the images of one folder (relative name, bytes, mtime in ns) to ``found``; return its subfolders."""
    folders: list[str] = []
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
        else:
            others[suffix or "no extension"] += 1
    return folders


def _list(path: Path) -> Listing:
    """List the files of a text file, one per line, relative to it; blank lines and lines with # are skipped."""
    found: list[tuple[str, int, int]] = []
    try:
        # surrogateescape keeps file names that are not UTF-8.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for line in lines:
                name = line.strip()
                if not name or name.startswith("#"):
                    continue
                try:
                    status = (path.parent / name).stat()
                    regular = stat.S_ISREG(status.st_mode)
                    found.append((name, status.st_size if regular else -1, status.st_mtime_ns))
                except (OSError, ValueError):
                    found.append((name, -1, 0))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return _on_disk(path, path.parent, found, Counter(), [], layout=False)


def _on_disk(
    path: Path, base: Path, found: list[tuple[str, int, int]], others: Counter[str], notes: list[str], *, layout: bool
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
    others: Counter[str] = Counter()
    found: list[tuple[str, zipfile.ZipInfo]] = []
    for info in archive.infolist():
        components = [
            component for component in info.filename.replace("\\", "/").split("/") if component not in ("", ".", "..")
        ]
        if info.is_dir() or not components or any(map(_hidden, components)):
            continue
        suffix = os.path.splitext(components[-1])[1].lower()  # noqa: PTH122
        if suffix in ACCEPTED:
            found.append(("/".join(components), info))
        else:
            others[suffix or "no extension"] += 1
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
            raise DamageError(f"{name}: {error or 'truncated'}") from error

    sizes = np.fromiter((info.file_size for info in members), np.int64, len(members))
    stamps = np.fromiter((info.CRC for info in members), np.int64, len(members))
    return Listing(path, names, sizes, stamps, read, others, [], layout=True)


@dataclass(frozen=True)
class Layout:
    """Split and class of each file by its folders, as indices into ``splits`` and ``classes``."""

    splits: tuple[str, ...]
    split: npt.NDArray[np.int8]
    classes: tuple[str, ...]
    label: npt.NDArray[np.int32]
    note: str


def layout_of(listing: Listing) -> Layout:
    """Interpret folders as ``[wrapper/][train|val|test/][class/][any/]image``.

    A single folder around all images is a wrapper and is ignored. Split folders must contain all images. The next
    folder is the class, if all images have one and there are at least two; deeper folders are merged into it.

    Raises:
        DataError: if there are images outside the split folders.
    """
    names, depth = listing.names, 0
    plain = Layout((), np.zeros(len(names), np.int8), (), np.zeros(len(names), np.int32), "")
    if not listing.layout or not names:
        return plain
    folders_here = {_folder_at(name, 0) for name in names}
    while len(folders_here) == 1 and (folder := next(iter(folders_here))) and folder.casefold() not in SPLIT_FOLDERS:
        depth += 1
        folders_here = {_folder_at(name, depth) for name in names}
    splits = _splits(folders_here, listing.path)
    part = {folder: splits.index(SPLIT_FOLDERS[folder.casefold()]) for folder in folders_here} if splits else {}
    split = np.fromiter((part.get(_folder_at(name, depth), 0) for name in names), np.int8, len(names))
    depth += bool(splits)
    found = sorted({unicodedata.normalize("NFC", _folder_at(name, depth)) for name in names})
    note = ""
    if found[0] == "" and len(found) > 1:
        note = "classes ignored, because some images are outside the class folders"
    if found[0] == "" or len(found) == 1:
        return Layout(splits, split, (), plain.label, note)
    index = {name: k for k, name in enumerate(found)}
    label = (index[unicodedata.normalize("NFC", _folder_at(name, depth))] for name in names)
    return Layout(splits, split, tuple(found), np.fromiter(label, np.int32, len(names)), note)


def _folder_at(name: str, depth: int) -> str:
    """The folder at a depth of a relative name; "" at the depth of the file."""
    components = name.split("/", depth + 1)
    return components[depth] if len(components) > depth + 1 else ""


def _splits(folders_here: set[str], path: Path) -> tuple[str, ...]:
    """Splits named by folders, in the order train, val, test; () if the folders are not splits."""
    named = sorted(folder for folder in folders_here if folder.casefold() in SPLIT_FOLDERS)
    if not named or (len(named) == 1 and len(folders_here) > 1 and "" not in folders_here):
        return ()  # a single such folder among others is a class: trains and cars
    others = sorted(folders_here - set(named))
    if others:
        where = f"{printable(others[0])}/" if others[0] else "the top folder"
        raise DataError(
            f"{path}: images in {where} are outside the split folders ({', '.join(named)}); move or rename them"
        )
    parts = [SPLIT_FOLDERS[folder.casefold()] for folder in named]
    if len(set(parts)) < len(parts):
        raise DataError(f"{path}: two folders name the same split: {', '.join(named)}; keep one")
    return tuple(part for part in ("train", "val", "test") if part in parts)
