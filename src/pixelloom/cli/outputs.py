"""Output files of sampling. Each batch is written as soon as it is finished, so an interrupt does not lose it."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pixelloom.core.errors import ModelError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image

    from pixelloom.cli.conditioning import Rows
    from pixelloom.cli.options import DrawOptions
    from pixelloom.core.types import ImageSpec, Levels


_RUN_FILES = ("config.yaml", "metrics.jsonl")


class Target(Protocol):
    """An output: takes images in order, and saves the first of them when it is closed."""

    path: Path
    count: int
    """Images taken so far."""
    kept: bool
    """Whether the output is on disk, under its final name."""

    def put(self, images: Levels, at: int) -> None:
        """Take images from index ``at`` on, uint8 [n, C, H, W]; they may replace earlier ones."""

    def close(self, count: int) -> None:
        """Save the first ``count`` images; for 0, nothing."""


class Targets:
    """All outputs of a command."""

    def __init__(self, options: DrawOptions, spec: ImageSpec, rows: Rows) -> None:
        grid = _Grid(options, spec, rows) if options.out else None  # raises if the image would be too large
        files = [path for path in (options.out, options.npy) if path is not None]
        for folder in {path.parent for path in files} | ({options.each} if options.each else set()):
            probe(folder)
        self._all: list[Target] = []
        if options.npy:
            self._all.append(_Array(options.npy, options.images, spec))
            if rows.folders:
                self._all.append(_Classes(labels_path(options.npy), options.first, rows))
        if grid:
            self._all.append(grid)
        if options.each:  # last: the others are cut to its number of images
            self._all.append(_Singles(options.each, options.first, spec, rows))
        self._open, self._cycle = self._all, rows.count
        self._held: list[Levels] = []  # images of an incomplete row cycle

    @property
    def done(self) -> int:
        """Images that all outputs hold, in whole row cycles (one image per row)."""
        return min(target.count for target in self._all) // self._cycle * self._cycle

    @property
    def taken(self) -> int:
        """Images so far, with those of an incomplete row cycle."""
        return self.done + sum(map(len, self._held))

    def begin(self) -> None:
        """Continue after ``done`` images."""
        self._held = []

    @property
    def kept(self) -> list[Path]:
        """Files and folders that hold saved images."""
        return [target.path for target in self._all if target.kept]

    def put(self, images: Levels) -> None:
        """Take the next images. With rows, outputs take whole row cycles, so that an interrupted call can continue.

        Raises:
            UsageError: if they cannot be written.
        """
        import numpy as np

        at, whole = self.done, self.taken + len(images)
        whole -= at + whole % self._cycle if self._cycle > 1 else at
        found = images if not self._held else np.concatenate((*self._held, images))
        if whole:
            for target in self._all:
                target.put(found[:whole], at)
        self._held = [found[whole:].copy()] if len(found) > whole else []

    def close(self) -> None:
        """Save the finished images, once; every output is closed, also if another one fails.

        Raises:
            UsageError: if something cannot be written.
        """
        done, closing, self._open = self.done, self._open, []
        with contextlib.ExitStack() as stack:
            for target in reversed(closing):
                stack.callback(target.close, done)


class _Array:
    """One .npy file, written batch by batch under a temporary name."""

    def __init__(self, path: Path, number: int, spec: ImageSpec) -> None:
        self.path, self.count, self.kept, self._shape, self._size = path, 0, False, spec.shape, spec.dims
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with writing(path):
            self._file = self._part.open("wb", buffering=0)  # unbuffered, so that a full disk is noticed at once
            self._header(number)
        self._start = self._file.tell()

    def _header(self, count: int) -> None:
        """Write the header; numpy pads it, so its length does not depend on ``count``."""
        from numpy.lib.format import write_array_header_1_0

        about = {"descr": "|u1", "fortran_order": False, "shape": (count, *self._shape)}
        write_array_header_1_0(self._file, about)

    def put(self, images: Levels, at: int) -> None:
        with writing(self.path):
            self._file.seek(self._start + at * self._size)
            rest = memoryview(images.tobytes())
            while rest:
                rest = rest[self._file.write(rest) :]
        self.count = at + len(images)

    def close(self, count: int) -> None:
        try:
            with writing(self.path), self._file:
                if count:
                    self._file.truncate(self._start + count * self._size)
                    self._file.seek(0)
                    self._header(count)
                    os.fsync(self._file.fileno())
                    self._part.replace(self.path)
                    self.kept = True
        finally:
            with contextlib.suppress(OSError):
                self._part.unlink()


class _Grid:
    """One PNG of all images. They are held in memory; ``grid_layout`` bounds their number."""

    def __init__(self, options: DrawOptions, spec: ImageSpec, rows: Rows) -> None:
        import numpy as np

        from pixelloom.viz import grid as grids

        assert options.out is not None
        self.path, self.count, self.kept, self._rows = options.out, 0, False, rows
        self._levels, self._columns, self._scale, self._first = (
            spec.display,
            options.columns,
            options.scale,
            options.first,
        )
        if rows.count > 1 or rows.left is not None:
            columns = options.images // rows.count + (rows.left is not None) + (rows.right is not None)
            grids.grid_layout(columns * rows.count, spec.shape, columns, self._scale)
        else:
            grids.grid_layout(options.images, spec.shape, self._columns, self._scale)
        self._images: Levels = np.empty((options.images, *spec.shape), np.uint8)

    def put(self, images: Levels, at: int) -> None:
        self._images[at : at + len(images)] = images
        self.count = at + len(images)

    def close(self, count: int) -> None:
        from pixelloom.viz import grid as grids

        if count:
            with writing(self.path):
                grids.save_png(self._image(count), self.path)
                self.kept = True

    def _image(self, count: int) -> Image:
        import numpy as np

        from pixelloom.viz import grid as grids

        rows, images = self._rows, self._images[:count]
        if rows.count == 1 and rows.left is None:
            return grids.grid(images, self._levels, self._columns, self._scale)
        images = np.roll(images.reshape(-1, rows.count, *images.shape[1:]), self._first, axis=1).reshape(images.shape)
        return grids.table(
            images, self._levels, rows.count, left=rows.left, right=rows.right, names=rows.names, scale=self._scale
        )


class _Classes:
    """The classes of the images of an array, int64 [N], in a second file."""

    def __init__(self, path: Path, first: int, rows: Rows) -> None:
        self.path, self.count, self.kept, self._first, self._rows = path, 0, False, first, rows

    def put(self, images: Levels, at: int) -> None:
        self.count = at + len(images)

    def close(self, count: int) -> None:
        if count:
            write_array(self.path, self._rows.classes(self._first, count))
            self.kept = True


class _Singles:
    """One PNG per image. They are not synced to disk, which would take longer than sampling; a killed process loses
    none, but a power failure may.
    """

    def __init__(self, folder: Path, first: int, spec: ImageSpec, rows: Rows) -> None:
        self.path, self.count, self.kept, self._first, self._levels = folder, 0, False, first, spec.display
        self._folders = [folder / name for name in rows.folders] or [folder]
        for path in self._folders:
            probe(path)

    def put(self, images: Levels, at: int) -> None:
        from pixelloom.viz import grid as grids

        for number, image in enumerate(images, at):
            path = self._folders[(self._first + number) % len(self._folders)] / _name(self._first + number)
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            buffer = io.BytesIO()
            grids.to_image(image, self._levels).save(buffer, "PNG")
            try:
                with writing(path):
                    part.write_bytes(buffer.getvalue())
                    part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            self.count = number + 1

    def close(self, count: int) -> None:
        self.kept = count > 0


def check(options: DrawOptions, folders: Sequence[str] = ()) -> None:
    """Check, before sampling, that all outputs can be written.

    Raises:
        UsageError: for a file that exists already, a folder of the same name, or an input image.
    """
    files = [path for path in (options.out, options.npy) if path is not None]
    if options.npy is not None and options.each_class:
        files.append(labels_path(options.npy))
    if options.out is not None:
        check_format(options.out)
    if options.npy is not None and options.npy.suffix not in ("", ".npy"):
        raise UsageError(f"--npy {options.npy}: writes a NumPy array; name a file that ends in .npy")
    if options.each is not None:
        check_place(options.each)
    if options.out is not None and options.out == options.npy:
        raise UsageError(f"--out, --npy: both are {options.out}; name two files")
    if options.each is not None and options.each.exists() and not options.each.is_dir():
        raise UsageError(f"--each {options.each}: is a file; name a folder")
    for folder in [options.each / name for name in folders or ("",)] if options.each else []:
        numbers = range(options.first, options.first + options.images)
        there = ((path, path.stem) for path in sorted(folder.iterdir() if folder.is_dir() else ()))
        files += [p for p, stem in there if stem.isdecimal() and int(stem) in numbers and p.name == _name(int(stem))]
    for path in files:
        for given in filter(None, (options.given, options.condition)):
            if path.resolve() == given.resolve():
                raise UsageError(f"{path}: is an input image; write to another file")
        check_file(path, options.force)


def check_image(path: Path, force: bool) -> None:
    """Check that an image file can be written: :func:`check_format` and :func:`check_file`."""
    check_format(path)
    check_file(path, force)


def check_format(path: Path) -> None:
    """Raises UsageError unless the suffix is that of a lossless format, or missing, for PNG."""
    from pixelloom.viz.grid import FORMATS

    suffix = path.suffix.lower()
    if suffix and suffix not in FORMATS:
        lossy = (
            " is lossy" if suffix in (".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".avif") else " is no image format here"
        )
        array = "; --npy writes arrays" if suffix in (".npy", ".npz") else ""
        raise UsageError(f"{path}: {suffix}{lossy}; images are written as {', '.join(FORMATS)}{array}")


def check_file(path: Path, force: bool) -> None:
    """Check that a file can be written.

    Raises:
        UsageError: if it exists already, is a folder or a device, or belongs to a model.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is not a regular file, and is not replaced; name another file")
    if path.suffix == ".safetensors" or (path.name in _RUN_FILES and path.exists()):
        raise UsageError(f"{path}: is a file of a model or a run, and is not replaced; name another file")
    check_place(path.parent)
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; choose another name, or overwrite it with --force")


def check_place(folder: Path) -> None:
    """Raises UsageError for a model folder, or a folder in one."""
    from pixelloom.models.description import WEIGHTS

    here = folder.resolve()
    model = next((place for place in (here, *here.parents[:2]) if (place / WEIGHTS).exists()), None)
    if model is not None:
        raise UsageError(f"{folder}: is a model folder, or lies in one ({WEIGHTS}); write to another folder")


def free(path: Path, *, force: bool = False, others: Sequence[str] = ()) -> Path:
    """A default name that is free: ``samples.png``, else ``samples-2.png``, and so on; with ``force`` the first one.

    Args:
        path: the first name.
        force: whether existing files may be replaced.
        others: suffixes of files of the same name, which must be free too.
    """
    number, found = 1, path
    while not force and any(found.with_suffix(suffix).exists() for suffix in (path.suffix, *others)):
        number += 1
        found = path.with_stem(f"{path.stem}-{number}")
    return found


def labels_path(path: Path) -> Path:
    """The file with the classes of an array's images."""
    return path.with_stem(f"{path.stem}-labels")


def _name(number: int) -> str:
    return f"{number:05d}.png"


def probe(folder: Path) -> None:
    """Create the folder and a temporary file in it; permissions alone do not show whether writing works."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be created: {error.strerror}") from error
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}; choose another folder") from error


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array atomically as a ``.npy`` file; raises UsageError if that fails."""
    import numpy as np

    from pixelloom.core.atomic import write_bytes

    buffer = io.BytesIO()
    np.save(buffer, array)
    with writing(path):
        write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into a UsageError."""
    try:
        with storing(path):
            yield
    except ModelError as error:  # of core.atomic.write_bytes
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an error of the system into a UsageError; errors of models stay."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written: {error.strerror or error}; free space, or write elsewhere"
        ) from error
