"""The user's own pictures: a folder, a zip, a list of files, ``.npz`` or ``.npy`` becomes one uint8 array.

What a single file turns into is decided in ``decode.py``, what folder names mean in ``listing.py``. Splits are not cut
here; those that the source names are reported.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL

from pixelloom.core.errors import DataError
from pixelloom.data.io.cache import Kept, cache_folder, find, keep
from pixelloom.data.io.decode import ACCEPTED, DamageError, Pixels, Reading, SizeError, decode, shown, size_of
from pixelloom.data.io.npy import arrays_of
from pixelloom.data.io.scan import Listing, layout_of, listed

if TYPE_CHECKING:  # types.py imports torch, which reading pictures does not need
    from pixelloom.core.types import Labels, Levels

__all__ = ["ACCEPTED", "SOURCES", "Pictures", "Reading", "decode", "is_image_source", "read_images"]

log = logging.getLogger("pixelloom")

SOURCES = (".zip", ".npz", ".npy", ".txt")
"""Extensions of the single files that hold or list pictures; a folder is the fifth source."""

BLOCK = 4 << 20
"""Bytes of decoded pictures that are handed on together."""

GRAY = "gray among colored ones, made RGB"


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures as read from one source, in a fixed order (by name in folders and zips, as written elsewhere).

    images: uint8 [N, C, H, W], in memory or mapped from a file; C is 1 if every picture is gray, else 3.
    labels: int64 [N], indices into ``classes``; None where the source names no classes.
    parts: the splits the source names, of train, val and test; None where it names none.
    source_levels: 256, or what an array says (bool: 2).
    note: what was skipped, composited or converted, with counts; "" if nothing was.
    """

    images: Levels
    labels: Labels | None
    parts: dict[str, slice] | None
    classes: tuple[str, ...]
    source_levels: int
    note: str


def is_image_source(path: Path) -> bool:
    """Whether ``read_images`` would try: a folder, or a file that ends in one of SOURCES."""
    return path.is_dir() or (path.suffix.lower() in SOURCES and path.is_file())


def read_images(path: Path, reading: Reading, cache: Path | None = None) -> Pictures:
    """The pictures of a folder, ``.zip``, ``.npz``, ``.npy`` or ``.txt`` list of files.

    What decodes to 64 MiB or more is written once to the cache folder (``cache``, else $PIXELLOOM_CACHE, else
    ``~/.cache/pixelloom``) and mapped from there. Raises DataError for every fault of the source or of that folder.
    """
    path, suffix = path.expanduser(), path.suffix.lower()
    kinds = f"a folder of pictures ({' '.join(ACCEPTED)}) or a file of {' '.join(SOURCES)}"
    if not path.exists():
        raise DataError(f"{shown(str(path))}: no such file or folder; give {kinds}")
    if not is_image_source(path):
        what = "one picture is no set" if suffix in ACCEPTED else "no source of pictures"
        raise DataError(f"{shown(str(path))}: {what}; give {kinds}")
    folder = cache_folder(cache)
    pictures = (_from_arrays if suffix in (".npz", ".npy") and path.is_file() else _from_files)(path, reading, folder)
    if pictures.note:
        log.warning("%s: %s", shown(str(path)), pictures.note)
    return pictures


def _from_files(path: Path, reading: Reading, folder: Path) -> Pictures:
    """Pictures of a folder, zip or list; labels and parts by the layout of their names."""
    with listed(path) as listing:
        if not listing.names:
            held = ", ".join(f"{count} {suffix}" for suffix, count in listing.others.most_common(5))
            found = f"found {held}" if held else "it is empty"
            raise DataError(f"{path}: no picture found ({found}); accepted are {' '.join(ACCEPTED)}")
        layout = layout_of(listing)
        key = _key(reading, path, listing)
        kept = find(folder, key) or _decode_all(listing, reading, folder, key)
    labels = layout.label[kept.index].astype(np.int64) if layout.classes else None
    split = layout.split[kept.index]
    parts: dict[str, slice] = {}
    for k, name in enumerate(layout.splits):
        members = np.flatnonzero(split == k)  # one run, because names are sorted
        if len(members):
            parts[name] = slice(int(members[0]), int(members[-1]) + 1)
    ignored = ", ".join(f"{count} {suffix}" for suffix, count in listing.others.most_common(5))
    notes = [kept.note, layout.note, *listing.notes, f"other files ignored: {ignored}" if ignored else ""]
    return Pictures(kept.images, labels, parts or None, layout.classes, 256, "; ".join(filter(None, notes)))


def _key(reading: Reading, path: Path, listing: Listing | None = None) -> str:
    """Names the decoded pictures: it changes with the reading, any file's name, size or stamp, and with Pillow."""
    status = path.stat()
    digest = hashlib.sha256(repr((1, PIL.__version__, np.__version__, str(path.resolve()), reading)).encode())
    if listing is None:
        digest.update(repr((status.st_size, status.st_mtime_ns)).encode())
    else:
        for name, size, stamp in zip(listing.names, listing.sizes, listing.stamps, strict=True):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0%d %d\0" % (size, stamp))
    return digest.hexdigest()[:32]


class _ColorError(Exception):
    """A colored picture after gray ones: what was decoded so far has one channel where three are needed."""


@dataclass
class _Tally:
    """What became of the files: the file of each image, the damaged ones, and what was done to the others."""

    path: Path
    total: int
    reading: Reading
    index: list[int] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)

    def damaged(self, error: DamageError) -> None:
        """Count a damaged file. Raises DataError under bad_images="error", or above 1 % (one file is always let go)."""
        if self.reading.bad_images == "error":
            raise DataError(
                f"{self.path}: {error}; mend or remove it, or let --bad-images skip pass over it"
            ) from error
        self.bad.append(str(error))
        if len(self.bad) > max(1, self.total // 100):
            raise DataError(
                f"{self.path}: more than 1 % of {self.total} pictures cannot be read, among them "
                f"{'; '.join(self.bad[:3])}. Mend or remove them"
            )

    def facts(self) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], str]:
        """For the cache: the file of each image, and the note."""
        notes = [f"{count} picture{'s' * (count > 1)} {remark}" for remark, count in self.remarks.most_common()]
        if self.bad:
            more = f" and {len(self.bad) - 10} more" if len(self.bad) > 10 else ""
            notes.insert(0, f"{len(self.bad)} of {self.total} files skipped ({'; '.join(self.bad[:10])}{more})")
        return np.array(self.index, np.int64), "; ".join(notes)


def _decode_all(listing: Listing, reading: Reading, folder: Path, key: str) -> Kept:
    """Decode every file once; a second time where color turns up after the first pictures were gray."""
    count = len(listing.names)
    tally = _Tally(listing.path, count, reading)
    try:
        return keep(_blocks(listing, reading, tally, 0), tally.facts, folder, key, count)
    except _ColorError:
        tally = _Tally(listing.path, count, reading)
        return keep(_blocks(listing, reading, tally, 3), tally.facts, folder, key, count)


def _blocks(listing: Listing, reading: Reading, tally: _Tally, channels: int) -> Iterator[Levels]:
    """Decoded pictures, uint8 [n, C, H, W] a block; C is ``channels``, or the first picture's where that is 0."""
    held: list[Pixels] = []
    shape: tuple[int, ...] = ()
    for i, name in enumerate(listing.names):
        try:
            frames, remarks = decode(listing.read(i), name, reading)
        except DamageError as error:
            tally.damaged(error)
            continue
        except SizeError as error:
            raise _mixed(listing, reading) from error
        tally.remarks.update(set(remarks))
        for frame in frames:
            channels = channels or frame.shape[2]
            if frame.shape[2] > channels:
                raise _ColorError
            if frame.shape[2] < channels:
                tally.remarks[GRAY] += 1
            pixels = np.broadcast_to(frame, (*frame.shape[:2], channels))
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise _mixed(listing, reading)
            held.append(pixels)
            tally.index.append(i)
            if len(held) * pixels.size >= BLOCK:
                yield np.ascontiguousarray(np.stack(held).transpose(0, 3, 1, 2))
                held.clear()
    if held:
        yield np.ascontiguousarray(np.stack(held).transpose(0, 3, 1, 2))
    if not shape:
        raise DataError(f"{listing.path}: no readable picture ({'; '.join(tally.bad)})")


def _mixed(listing: Listing, reading: Reading) -> DataError:
    """The error for pictures of several sizes; the sizes are counted only now that somebody needs to know."""
    sizes: Counter[str] = Counter()
    for i in range(len(listing.names)):
        try:
            height, width = size_of(listing.read(i))
        except DamageError:
            continue
        sizes[f"{height}x{width}"] += 1
    commonest = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(5))
    if reading.size is None:
        return DataError(
            f"{listing.path}: pictures of {len(sizes)} sizes (height x width), the commonest {commonest}; "
            "choose one by --size, and --fit crop, resize or pad"
        )
    wanted = f"{reading.size[0]}x{reading.size[1]}"
    return DataError(
        f"{listing.path}: not all pictures are {wanted}, but {commonest}; choose --fit crop, resize or pad"
    )


def _from_arrays(path: Path, reading: Reading, folder: Path) -> Pictures:
    """Pictures of a ``.npy`` (mapped as it lies, if large) or ``.npz``."""
    arrays = arrays_of(path)
    count = arrays.count
    mapped = arrays.mapped(reading)
    if mapped is not None:
        kept = Kept(mapped, np.arange(count), "")
    else:
        key, blocks = _key(reading, path), arrays.blocks(reading, BLOCK)
        kept = find(folder, key) or keep(blocks, lambda: (np.arange(count), arrays.change(reading)), folder, key, count)
    notes = "; ".join(filter(None, (kept.note, arrays.note)))
    return Pictures(kept.images, arrays.labels, arrays.parts, arrays.classes, arrays.levels, notes)
