"""Where pictures lie: a folder, a zip or a text list becomes sorted names, a way to read each, and what the names say.

A listing keeps a name, a size and a stamp a file and nothing else, so 200,000 files cost some tens of MB.
Nothing is ever unpacked to disk: members of a zip are read in memory, within limits.
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
from pixelloom.data.io.decode import ACCEPTED, MAX_BYTES, DamageError, shown

PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names (in any case) that name a split."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """Picture files in a fixed order. ``stamps`` change when a file does: mtime in ns, or CRC-32 in a zip."""

    path: Path
    names: list[str]
    sizes: Indices
    stamps: Indices
    read: Callable[[int], bytes]
    """The bytes of file i. Raises DamageError when it is gone, changed since it was listed, unreadable or too large."""
    others: Counter[str]
    """Extensions of the files that are no pictures."""
    notes: list[str]
    layout: bool
    """Whether folders in the names tell splits and classes (not so in a text list)."""


@contextmanager
def listed(path: Path) -> Iterator[Listing]:
    """The pictures of a folder, ``.zip`` or ``.txt``, readable inside the block. Raises DataError."""
    if path.is_dir():
        yield _folder(path)
    elif path.suffix.lower() == ".txt":
        yield _list(path)
    else:
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(f"{path}: no readable zip file ({error})") from error
        with archive:
            yield _zip(path, archive)


def _hidden(name: str) -> bool:
    """Dot files, and the shadow folder that macOS puts into zips."""
    return name.startswith(".") or name == "__MACOSX"


def _folder(root: Path) -> Listing:
    """Every picture beneath ``root``, links followed; each folder once, so that loops of links end."""
    found: list[tuple[str, int, int]] = []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    repeats = 0
    todo = [""]
    while todo:
        inner = todo.pop()
        try:
            status = (root / inner).stat()
            if (status.st_dev, status.st_ino) in seen:
                repeats += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / inner) as entries:
                folders = _scan(entries, inner, found, others)
        except OSError as error:
            raise DataError(f"{shown(str(root / inner))}: folder cannot be listed ({error.strerror})") from error
        todo.extend(sorted(folders, reverse=True))
    found.sort()
    notes = [f"{repeats} folder{'s' * (repeats > 1)} reached twice by links, read once"] if repeats else []
    return _on_disk(root, root, found, others, notes, layout=True)


def _scan(
    entries: Iterator[os.DirEntry[str]], inner: str, found: list[tuple[str, int, int]], others: Counter[str]
) -> list[str]:
    """Adds one folder's pictures (relative name, bytes, mtime in ns) to ``found``; returns its subfolders."""
    folders: list[str] = []
    for entry in entries:
        if _hidden(entry.name):
            continue
        name = f"{inner}/{entry.name}" if inner else entry.name
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a Path for each file is slow
        try:
            status = entry.stat()
        except OSError:  # a link to nothing or to itself: listed, so that reading it is counted as damage
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
    """Files named in a text file, one a line, relative to it; blank lines and lines that start with # are skipped."""
    found: list[tuple[str, int, int]] = []
    try:
        # Names are bytes on disk: what is not UTF-8 goes through unharmed.
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
        name = shown(names[i])
        if sizes[i] < 0:
            raise DamageError(f"{name}: no such file, or a broken link")
        if sizes[i] > MAX_BYTES:
            raise DamageError(f"{name}: {sizes[i]:,} bytes; the limit is {MAX_BYTES:,}")
        try:
            with (base / names[i]).open("rb") as file:
                # One byte more than was listed: enough to see that it grew, too little to be flooded.
                data = file.read(int(sizes[i]) + 1)
                changed = len(data) != sizes[i] or os.fstat(file.fileno()).st_mtime_ns != stamps[i]
        except (OSError, ValueError) as error:
            raise DamageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
        if changed:
            raise DamageError(f"{name}: changed while the folder was being read")
        return data

    return Listing(path, names, sizes, stamps, read, others, notes, layout)


def _zip(path: Path, archive: zipfile.ZipFile) -> Listing:
    """Members of a zip. Names serve as labels only, so ``..`` and absolute ones lead nowhere and are just cleaned."""
    others: Counter[str] = Counter()
    found: list[tuple[str, zipfile.ZipInfo]] = []
    for info in archive.infolist():
        steps = [step for step in info.filename.replace("\\", "/").split("/") if step not in ("", ".", "..")]
        if info.is_dir() or not steps or any(map(_hidden, steps)):
            continue
        suffix = os.path.splitext(steps[-1])[1].lower()  # noqa: PTH122
        if suffix in ACCEPTED:
            found.append(("/".join(steps), info))
        else:
            others[suffix or "no extension"] += 1
    found.sort(key=lambda item: item[0])
    members = [info for _, info in found]
    names = [name for name, _ in found]
    if any(info.flag_bits & 1 for info in members):
        raise DataError(f"{path}: the zip is encrypted; unpack it and give the folder")

    def read(i: int) -> bytes:
        name, info = shown(names[i]), members[i]
        if info.file_size > MAX_BYTES:
            raise DamageError(f"{name}: {info.file_size:,} bytes; the limit is {MAX_BYTES:,}")
        try:
            with archive.open(info) as member:
                # Never more than declared: zipfile stops there, whatever the compressed stream would yield.
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
    """What folder names say: of each file its split (index into ``splits``) and class (index into ``classes``)."""

    splits: tuple[str, ...]
    split: npt.NDArray[np.int8]
    classes: tuple[str, ...]
    label: npt.NDArray[np.int32]
    note: str


def layout_of(listing: Listing) -> Layout:
    """Splits and classes by folder: ``[wrapper/][train|val|test/][class/][anything/]picture``.

    A single folder around everything is a wrapper and means nothing. Split folders must hold all pictures. The next
    folder is the class, if every picture has one and there are at least two; deeper folders are merged into it.
    Raises DataError when split folders stand beside other pictures.
    """
    names, depth = listing.names, 0
    plain = Layout((), np.zeros(len(names), np.int8), (), np.zeros(len(names), np.int32), "")
    if not listing.layout or not names:
        return plain
    heads = {_step(name, 0) for name in names}
    while len(heads) == 1 and (head := next(iter(heads))) and head.casefold() not in PARTS:
        depth += 1
        heads = {_step(name, depth) for name in names}
    splits = _splits(heads, listing.path)
    part = {head: splits.index(PARTS[head.casefold()]) for head in heads} if splits else {}
    split = np.fromiter((part.get(_step(name, depth), 0) for name in names), np.int8, len(names))
    depth += bool(splits)
    found = sorted({unicodedata.normalize("NFC", _step(name, depth)) for name in names})
    note = ""
    if found[0] == "" and len(found) > 1:
        note = "some pictures lie outside the class folders, so all are read without classes"
    if found[0] == "" or len(found) == 1:
        return Layout(splits, split, (), plain.label, note)
    index = {name: k for k, name in enumerate(found)}
    label = (index[unicodedata.normalize("NFC", _step(name, depth))] for name in names)
    return Layout(splits, split, tuple(found), np.fromiter(label, np.int32, len(names)), note)


def _step(name: str, depth: int) -> str:
    """The folder at a depth of a relative name, or "" where the file itself stands."""
    steps = name.split("/", depth + 1)
    return steps[depth] if len(steps) > depth + 1 else ""


def _splits(heads: set[str], path: Path) -> tuple[str, ...]:
    """Names of the splits in use, in the order train, val, test; () where the folders are no splits."""
    named = sorted(head for head in heads if head.casefold() in PARTS)
    if not named or (len(named) == 1 and len(heads) > 1 and "" not in heads):
        return ()  # one such folder among others is a class of that name: trains beside cars
    others = sorted(heads - set(named))
    if others:
        where = f"{shown(others[0])}/" if others[0] else "no folder"
        raise DataError(
            f"{path}: split folders ({', '.join(named)}) stand beside pictures in {where}; move these or rename"
        )
    parts = [PARTS[head.casefold()] for head in named]
    if len(set(parts)) < len(parts):
        raise DataError(f"{path}: two folders name one split: {', '.join(named)}; keep one of them")
    return tuple(part for part in ("train", "val", "test") if part in parts)
