"""Images of any number in a fixed order, read a batch at a time: the files of a folder or archive, or a split.

Files are decoded one by one, so the memory does not grow with their number, and each keeps its name. They are fitted to
a model's images: size, gray or RGB, levels, binarization.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol

import numpy as np

from pixelloom.core import rng
from pixelloom.core.errors import DataError
from pixelloom.core.types import ImageSpec, Labels, Levels
from pixelloom.data.config import DataConfig
from pixelloom.data.hub_source import source_path
from pixelloom.data.io.arrangement import arranged
from pixelloom.data.io.decode import ACCEPTED, Reading, decode, size_of
from pixelloom.data.io.folders import KINDS, holds_arrays, is_image_source
from pixelloom.data.io.layout import Labeling
from pixelloom.data.io.listing import Listing
from pixelloom.data.io.reading import DamageError, printable
from pixelloom.data.io.scan import open_listing
from pixelloom.data.pixels import draw_bits_each, from_bytes
from pixelloom.data.splits import Split
from pixelloom.data.stream import take_batch
from pixelloom.data.tables import threshold_table

_log = logging.getLogger("pixelloom")


def fit_of_one(config: DataConfig) -> Literal["crop", "resize", "pad", "error"]:
    """How a file becomes one image: of a model trained on tiles, by a center crop."""
    return "crop" if config.fit == "tiles" else config.fit


class Taken(NamedTuple):
    """Images of a batch.

    Attributes:
        images: levels, uint8 [n, C, H, W].
        labels: class of each, int64 [n], -1 for none; None for a source without classes.
        good: index of each in the rows that were asked for; files that cannot be read are missing.
    """

    images: Levels
    labels: Labels | None
    good: list[int]


class ImageSource(Protocol):
    """Images in a fixed order.

    Attributes:
        title: where they are from.
        names: of the images; relative paths of files.
        classes: names of the classes of ``Taken.labels``; () without classes.
    """

    title: str
    names: Sequence[str]
    classes: tuple[str, ...]

    def take(self, rows: Sequence[int]) -> Taken:
        """The images at some rows."""

    def key(self, rows: Sequence[int]) -> str:
        """A SHA-256 that changes with the images at some rows."""


class SplitImages:
    """The images of a split, named by the split and their position.

    Args:
        title: name of the data.
        name: name of the split.
        split: the images.
        spec: their shape and levels.
        classes: names of classes.
        dynamic: binarize, as :func:`pixelloom.data.stream.ordered` does.
    """

    def __init__(
        self, title: str, name: str, split: Split, spec: ImageSpec, classes: tuple[str, ...], dynamic: bool
    ) -> None:
        if split.store.shape[1:] != spec.shape:
            raise DataError(f"{title}: images are {split.store.shape[1:]}, not {spec.shape}")
        self.title, self._split, self._dynamic = f"{title}, {name}", split, dynamic
        self.names: Sequence[str] = [f"{name}/{i}" for i in range(len(split))]
        self.classes = classes if split.labels is not None else ()

    def take(self, rows: Sequence[int]) -> Taken:
        """The images at some rows."""
        images, labels = take_batch(self._split, np.asarray(rows, np.int64), self._dynamic)
        known = None if labels is None or not self.classes else labels.numpy()
        return Taken(images.numpy(), known, list(range(len(rows))))

    def key(self, rows: Sequence[int]) -> str:
        """The SHA-256 of the images."""
        sha = hashlib.sha256()
        for start in range(0, len(rows), 1024):
            sha.update(np.ascontiguousarray(self.take(rows[start : start + 1024]).images).data)
        return sha.hexdigest()


class FileImages:
    """Image files, decoded when they are taken and fitted to a model's images.

    Args:
        listing: the files.
        config: how they are converted.
        spec: shape and levels of the model's images.

    Raises:
        DataError: for a model of images that are neither gray nor RGB.
    """

    def __init__(self, listing: Listing, config: DataConfig, spec: ImageSpec) -> None:
        if spec.channels not in (1, 3):
            raise DataError(f"{listing.path}: image files have 1 or 3 channels, the model's images {spec.channels}")
        self.title, self._listing = printable(str(listing.path)), listing
        self.names: Sequence[str] = listing.names
        self._stored = (spec.shown_channels, spec.height, spec.width)
        self._spec, self._config, self.changes, self.bad = spec, config, Counter[str](), 0
        self._reading = Reading(
            (spec.height, spec.width), config.gray or spec.shown_channels == 1, fit_of_one(config), config.background,
            bits=config.bits, range=config.reading.range, resample=config.resample,
        )  # fmt: skip
        self.classes, self._labels = self._labeled()

    def _labeled(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Classes by folders or a table, whatever folders are named as splits."""
        try:
            listing, layout = arranged(self._listing, self._config.labeling)
        except DataError:
            listing, layout = arranged(self._listing, Labeling(splits=(), labels="none"))
        if not layout.classes:
            return (), {}
        return layout.classes, dict(zip(listing.names, layout.label.tolist(), strict=True))

    def take(self, rows: Sequence[int]) -> Taken:
        """The images at some rows; those that cannot be read are left out with a warning, or raise DataError."""
        found: list[Levels] = []
        good: list[int] = []
        for place, row in enumerate(rows):
            try:
                found.append(self._decoded(row))
                good.append(place)
            except DamageError as error:
                if self._config.bad_images == "error":
                    raise DataError(f"{self.title}: {error}; repair or remove it, or set --bad-images skip") from error
                self.bad += 1
                _log.warning("%s: not scored: %s", self.title, error)
        images = np.stack(found) if found else np.empty((0, *self._stored), np.uint8)
        names = [self.names[rows[place]] for place in good]
        labels = np.array([self._labels.get(name, -1) for name in names], np.int64) if self.classes else None
        return Taken(self._leveled(images, [rows[place] for place in good]), labels, good)

    def _decoded(self, row: int) -> Levels:
        """One image, bytes uint8 [C, H, W]."""
        content, name, shape = self._listing.read(row), self.names[row], self._stored
        frames, remarks = decode(content, name, self._reading)
        self.changes.update({remark for remark in remarks if not remark.startswith("with 16-bit values")})
        if size_of(content) != shape[1:]:
            self.changes[f"of another size fitted to {shape[1]}x{shape[2]} ({self._reading.fit})"] += 1
        pixels = frames[0]
        if pixels.shape[2] < shape[0]:
            self.changes["converted from gray to RGB"] += 1
        return np.broadcast_to(pixels.transpose(2, 0, 1), shape)  # [H, W, 1 or C] -> [C, H, W]

    def _leveled(self, images: Levels, rows: list[int]) -> Levels:
        """Bytes -> levels of the model."""
        config = self._config
        if self._spec.palette is not None or config.binarize == "none":
            return from_bytes(images, self._spec.display)
        if config.threshold is not None:
            return threshold_table(256, config.threshold)[images]
        stream = rng.Stream.EVAL_BITS if config.binarize == "dynamic" else rng.Stream.STATIC_BITS_TEST
        return draw_bits_each(images, 256, config.seed, stream, rows)

    def key(self, rows: Sequence[int]) -> str:
        """The SHA-256 of name, size and modification time of each file."""
        sha, listing = hashlib.sha256(self._config.model_dump_json().encode()), self._listing
        for row in rows:
            sha.update(self.names[row].encode("utf-8", "surrogateescape"))
            sha.update(b"\0%d %d\0" % (listing.sizes[row], listing.stamps[row]))
        return sha.hexdigest()

    def notes(self) -> list[str]:
        """What was changed in the images that were taken so far."""
        return [f"{count} image{'s' * (count > 1)} {change}" for change, count in self.changes.most_common()]


def holds_files(config: DataConfig) -> bool:
    """Whether the source of a configuration is a folder, an archive or a list of image files.

    Raises:
        DataError: for a path that does not exist.
    """
    path = source_path(config)
    if not path.exists():
        raise DataError(f"{printable(config.source)}: no such file or folder; give {KINDS}")
    return is_image_source(path) and not holds_arrays(path, config.image_column)


@contextmanager
def open_files(config: DataConfig, spec: ImageSpec) -> Iterator[FileImages]:
    """The image files of a source, readable within the context.

    Raises:
        DataError: if the source cannot be read, or has no image.
    """
    path = source_path(config)
    with open_listing(path, config.image_column) as listing:
        if not listing.names:
            found = f"found {listing.other_kinds()}" if listing.others else "it is empty"
            raise DataError(f"{path}: no image found ({found}); accepted are {' '.join(ACCEPTED)}")
        yield FileImages(listing, config, spec)
