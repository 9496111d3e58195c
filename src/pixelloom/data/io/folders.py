"""Reading a user's images: a folder, a zip, a list of files, ``.npz`` or ``.npy`` as one uint8 array.

``decode.py`` decodes single files, ``scan.py`` interprets folder names. Splits named by the source are reported; no
others are made here.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import PIL

from pixelloom.core.errors import DataError
from pixelloom.data.io.arrangement import arranged
from pixelloom.data.io.array_files import arrays_of, files_of, is_array_source
from pixelloom.data.io.cache import CachedImages, cache_folder, find, store
from pixelloom.data.io.decode import ACCEPTED, VALUES_TO, Pixels, decode, size_of
from pixelloom.data.io.idx import is_idx
from pixelloom.data.io.layout import Labeling
from pixelloom.data.io.listing import Listing
from pixelloom.data.io.published_formats import CIFAR_TARS
from pixelloom.data.io.reading import DamageError, Reading, SizeError, printable
from pixelloom.data.io.scan import PAGES, has_images, open_listing
from pixelloom.data.io.split_names import natural_order
from pixelloom.data.io.stacks import Arrays

if TYPE_CHECKING:  # core.types imports torch, which reading images does not need
    from pixelloom.core.types import Labels, Levels

__all__ = ["ACCEPTED", "SOURCES", "DecodedImages", "Reading", "decode", "is_image_source", "read_images"]

log = logging.getLogger("pixelloom")

SOURCES = (".zip", ".tar", ".npz", ".npy", ".txt", ".csv", ".mat", ".parquet", ".tif", ".tiff")
"""Extensions of files that contain or list images; the other kind of source is a folder."""

KINDS = f"a folder of images ({' '.join(ACCEPTED)}) or a file of {' '.join(SOURCES)} or IDX"
"""What a source can be, for messages."""

_H5 = "f = h5py.File(PATH); numpy.savez('a.npz', images=f['images'][:], labels=f['labels'][:])"
_TORCH = "x, y = torch.load(PATH); numpy.savez('a.npz', images=x.numpy(), labels=y.numpy())"
_UNPACK = "tar -xf PATH -C FOLDER"
CONVERSIONS = {
    ".h5": _H5,
    ".hdf5": _H5,
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".tgz": _UNPACK,
    ".bz2": _UNPACK,
    ".xz": _UNPACK,
}
"""One-line conversions of files that are not read."""

BLOCK = 4 << 20
"""Bytes of a block of decoded images."""

_SHOWN = 300  # characters of a note in a warning
BY_FOLDER = Labeling()
GRAY = "converted from gray to RGB"


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """The images of one source: folders and zips sorted by name, lists and arrays in their order.

    Attributes:
        images: uint8 [N, C, H, W], in memory or memory-mapped; C is 1 if all images are gray, else 3.
        labels: int64 [N], indices into ``classes``; None without classes.
        splits: rows of the splits named by the source (train, val, test); None without named splits.
        classes: class names.
        source_levels: number of levels: 256, 2 for bool arrays, or the ``levels`` of an ``.npz``.
        note: what was skipped, composited or converted, with counts; "" if nothing was.
        files: index of the file of each image, int64 [N], where a file has several frames; else None.
    """

    images: Levels
    labels: Labels | None
    splits: dict[str, slice] | None
    classes: tuple[str, ...]
    source_levels: int
    note: str
    files: npt.NDArray[np.int64] | None = None


def expanded(path: Path) -> Path:
    """The path with ``~`` replaced by the home folder.

    Raises:
        DataError: for an unknown user.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise DataError(f"{printable(str(path))}: {error}") from error


def exists(path: Path) -> bool:
    """Whether a file or folder exists.

    Raises:
        DataError: if the system cannot tell: a name that is too long, or a folder without permission.
    """
    try:
        return path.exists()
    except OSError as error:
        raise DataError(f"{printable(str(path))}: cannot be read ({error.strerror})") from error


def is_image_source(path: Path) -> bool:
    """Whether ``read_images`` accepts a path: a folder, a file with an extension of SOURCES, IDX, or CIFAR-10's tar."""
    return path.is_dir() or (
        path.is_file() and (path.suffix.lower() in SOURCES or path.name in CIFAR_TARS or is_idx(path))
    )


def holds_arrays(path: Path, column: str | None = None) -> bool:
    """Whether the images of a source are arrays, not files; a folder with images is one of files."""
    return (not path.is_dir() or not has_images(path)) and is_array_source(path, column)


def read_images(
    path: Path, reading: Reading, cache: Path | None = None, labeling: Labeling = BY_FOLDER
) -> DecodedImages:
    """Read the images of a folder, ``.zip``, ``.npz``, ``.npy`` or ``.txt`` list of files.

    Decoded images of 64 MiB or more are written to the cache folder and memory-mapped.

    Args:
        path: the source.
        reading: options for decoding.
        cache: the cache folder; default: $PIXELLOOM_CACHE, then ``~/.cache/pixelloom``.
        labeling: how splits and classes are found.

    Raises:
        DataError: if the source cannot be read or the cache folder cannot be written.
    """
    path, suffix = expanded(path), path.suffix.lower()
    if not exists(path):
        raise DataError(f"{printable(str(path))}: no such file or folder; give {KINDS}")
    if suffix in CONVERSIONS and path.is_file():
        raise DataError(f"{printable(str(path))}: not read here; convert it once: {CONVERSIONS[suffix]}")
    if not is_image_source(path):
        what = "a single image is not a data set" if suffix in ACCEPTED else "not a source of images"
        raise DataError(f"{printable(str(path))}: {what}; give {KINDS}")
    folder = cache_folder(cache)
    images = (_from_arrays if holds_arrays(path, labeling.image_column) else _from_files)(
        path, reading, labeling, folder
    )
    if images.note:
        whole = len(images.note) <= _SHOWN or log.isEnabledFor(logging.DEBUG)
        short = images.note if whole else f"{images.note[:_SHOWN]}... (in full with -v, and in the model card)"
        log.warning("%s: %s", printable(str(path)), short)
    return images


def _from_files(path: Path, reading: Reading, labeling: Labeling, folder: Path) -> DecodedImages:
    """Read a folder, zip, tar, list or file of pages; splits follow from folders, labels from them or a table."""
    paged = path.is_file() and path.suffix.lower() in PAGES
    if paged:
        reading = replace(reading, frames="all")
    with open_listing(path, labeling.image_column) as whole:
        if not whole.names:
            found = f"found {whole.other_kinds()}" if whole.others else "it is empty"
            raise DataError(f"{path}: no image found ({found}); accepted are {' '.join(ACCEPTED)}")
        listing, layout = arranged(whole, labeling)
        key = _key(reading, path, listing)
        cached = find(folder, key) or _decode_all(listing, reading, folder, key)
    if paged and len(cached.images) == 1:
        raise DataError(f"{path}: a single image is not a data set; give {KINDS}")
    labels = layout.label[cached.index].astype(np.int64) if layout.classes else None
    split = layout.split[cached.index]
    splits: dict[str, slice] = {}
    for k, name in enumerate(layout.splits):
        members = np.flatnonzero(split == k)  # contiguous, see arranged
        if len(members):
            splits[name] = slice(int(members[0]), int(members[-1]) + 1)
    ignored = f"other files ignored: {listing.other_kinds()}" if listing.others else ""
    if log.isEnabledFor(logging.DEBUG):
        for name in natural_order(listing.others):
            log.debug("%s: ignored: %s", printable(str(path)), printable(name))
    notes = [layout.note, cached.note, *listing.notes, ignored]
    note = "; ".join(filter(None, notes))
    files = cached.index if not paged and len(np.unique(cached.index)) < len(cached.index) else None
    return DecodedImages(cached.images, labels, splits or None, layout.classes, 256, note, files)


def _key(reading: Reading, path: Path, listing: Listing | None = None, splits: object = None) -> str:
    """The cache key: a hash of the options, the versions of Pillow and NumPy, and name, size and stamp of each file."""
    digest = hashlib.sha256(repr((1, PIL.__version__, np.__version__, str(path.resolve()), reading, splits)).encode())
    if listing is None:
        for file in files_of(path):
            status = file.stat()
            digest.update(repr((file.name, status.st_size, status.st_mtime_ns)).encode())
    else:
        for name, size, stamp in zip(listing.names, listing.sizes, listing.stamps, strict=True):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0%d %d\0" % (size, stamp))
    return digest.hexdigest()[:32]


class _ColorError(Exception):
    """A color image after gray ones: the images decoded so far need three channels."""


@dataclass
class _Tally:
    """The file index of each image, the damaged files, and counts of remarks."""

    path: Path
    total: int
    reading: Reading
    index: list[int] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    largest: int = -1  # 16-bit value that was reduced by a shift

    def add_remarks(self, remarks: list[str]) -> None:
        """Count each remark on a file once."""
        for remark in set(remarks):
            if remark.startswith(VALUES_TO):
                self.largest = max(self.largest, int(remark.removeprefix(VALUES_TO)))
            else:
                self.remarks[remark] += 1

    def add_damaged(self, error: DamageError) -> None:
        """Record a damaged file.

        Raises:
            DataError: under bad_images="error", or for more than 1 % of the files (and more than one).
        """
        if self.reading.bad_images == "error":
            raise DataError(f"{self.path}: {error}; repair or remove it, or set --bad-images skip") from error
        self.bad.append(str(error))
        if len(self.bad) > max(1, self.total // 100):
            raise DataError(
                f"{self.path}: more than 1 % of {self.total} images cannot be read, including "
                f"{'; '.join(self.bad[:3])}. Repair or remove them"
            )

    def summary(self) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], str]:
        """The file index of each image, int64 [N], and the note."""
        notes = [f"{count} image{'s' * (count > 1)} {remark}" for remark, count in self.remarks.most_common()]
        if self.largest >= 0:
            notes.append(_shift_note(self.largest))
        for name in self.bad:
            log.debug("%s: skipped: %s", printable(str(self.path)), name)
        if self.bad:
            more = f" and {len(self.bad) - 10} more" if len(self.bad) > 10 else ""
            notes.insert(0, f"{len(self.bad)} of {self.total} files skipped ({'; '.join(self.bad[:10])}{more})")
        return np.array(self.index, np.int64), "; ".join(notes)


def _shift_note(largest: int) -> str:
    """The note on the largest of 16-bit values that were shifted: values of 12 bits become nearly black."""
    bits = max(largest.bit_length(), 8)
    if bits == 16:
        return f"16-bit values reach {largest}"
    used = (largest >> 8) + 1
    return (
        f"16-bit values reach only {largest}, {used} of 256 levels: set --range 0:{(1 << bits) - 1} instead of --bits 8"
    )


def _decode_all(listing: Listing, reading: Reading, folder: Path, key: str) -> CachedImages:
    """Decode all files; start again with three channels at the first color image after gray ones."""
    count = len(listing.names)
    tally = _Tally(listing.path, count, reading)
    try:
        return store(_blocks(listing, reading, tally, 0), tally.summary, folder, key, count)
    except _ColorError:
        tally = _Tally(listing.path, count, reading)
        return store(_blocks(listing, reading, tally, 3), tally.summary, folder, key, count)


def _blocks(listing: Listing, reading: Reading, tally: _Tally, channels: int) -> Iterator[Levels]:
    """Decode images in blocks, uint8 [n, C, H, W]; C is ``channels``, or that of the first image if 0."""
    buffered: list[Pixels] = []
    shape: tuple[int, ...] = ()
    for i, name in enumerate(listing.names):
        try:
            frames, remarks = decode(listing.read(i), name, reading)
        except DamageError as error:
            tally.add_damaged(error)
            continue
        except SizeError as error:
            raise _size_error(listing, reading) from error
        tally.add_remarks(remarks)
        for frame in frames:
            channels = channels or frame.shape[2]
            if frame.shape[2] > channels:
                raise _ColorError
            if frame.shape[2] < channels:
                tally.remarks[GRAY] += 1
            pixels = np.broadcast_to(frame, (*frame.shape[:2], channels))
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise _size_error(listing, reading)
            buffered.append(pixels)
            tally.index.append(i)
            if len(buffered) * pixels.size >= BLOCK:
                yield np.ascontiguousarray(np.stack(buffered).transpose(0, 3, 1, 2))  # [n, H, W, C] -> [n, C, H, W]
                buffered.clear()
    if buffered:
        yield np.ascontiguousarray(np.stack(buffered).transpose(0, 3, 1, 2))  # [n, H, W, C] -> [n, C, H, W]
    if not shape:
        why = "; ".join(tally.bad) or "all are smaller than a tile"
        raise DataError(f"{listing.path}: no readable image ({why})")


def _size_error(listing: Listing, reading: Reading) -> DataError:
    """The error for images of several sizes; counts the sizes."""
    sizes: Counter[str] = Counter()
    for i in range(len(listing.names)):
        try:
            height, width = size_of(listing.read(i))
        except DamageError:
            continue
        sizes[f"{height}x{width}"] += 1
    frequent = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(5))
    if reading.size is None:
        return DataError(
            f"{listing.path}: images of {len(sizes)} sizes (height x width), most frequent {frequent}; "
            "set --size, and --fit crop, resize or pad"
        )
    wanted = f"{reading.size[0]}x{reading.size[1]}"
    return DataError(
        f"{listing.path}: not all images are {wanted}, most frequent {frequent}; set --fit crop, resize or pad"
    )


def _from_arrays(path: Path, reading: Reading, labeling: Labeling, folder: Path) -> DecodedImages:
    """Read a source of arrays; a large ``.npy`` is memory-mapped directly."""
    arrays = arrays_of(path, reading, labeling)
    return decoded_arrays(arrays, reading, folder, _key(reading, path, splits=labeling.part))


def decoded_arrays(arrays: Arrays, reading: Reading, folder: Path, key: str | None) -> DecodedImages:
    """The images of arrays, converted; large converted ones are cached under a key, or kept in memory without one."""
    count = arrays.count
    direct = arrays.direct(reading)
    if direct is not None:
        cached = CachedImages(direct, np.arange(count), "")
    elif key is None:
        cached = CachedImages(np.concatenate(list(arrays.blocks(reading))), np.arange(count), arrays.changes(reading))
    else:
        cached = find(folder, key) or store(
            arrays.blocks(reading), lambda: (np.arange(count), arrays.changes(reading)), folder, key, count
        )
    notes = "; ".join(filter(None, (cached.note, arrays.note)))
    some = cached.images[:: max(1, count // 256)]
    if arrays.levels > 2 and some.size and int(some.max()) == 1:
        log.warning(
            "%s: values are 0 and 1 of %d levels, almost black; for black-and-white images give booleans, "
            "x.astype(bool)", arrays.path, arrays.levels,
        )  # fmt: skip
    return DecodedImages(cached.images, arrays.labels, arrays.splits, arrays.classes, arrays.levels, notes)
