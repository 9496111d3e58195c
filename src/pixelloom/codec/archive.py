"""Archives: image files into one ``.pxl`` file, and the same names, pixels and modes out of it.

Images that fit the model are coded by it, images of one size together, and large ones in strips; others are stored as
they are, byte for byte.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from torch import Tensor

from pixelloom.codec import manifest, strips
from pixelloom.codec.container import BLOCK, Sink, Writer, Written
from pixelloom.codec.image_files import SUFFIX, file_of, levels_of, size_of, takes_size
from pixelloom.codec.layout import AGAIN
from pixelloom.codec.manifest import Entry, Form, Stored
from pixelloom.codec.protocols import BlockCodec, of_any_size
from pixelloom.codec.reader import Lost, PxlFile
from pixelloom.core.errors import CodecError, DataError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.io.decode import ACCEPTED, MAX_BYTES
from pixelloom.data.io.reading import printable

STDIN = "-"
Progress = Callable[[int], None]


class Source(NamedTuple):
    """One file to compress."""

    name: str
    """In the archive."""
    path: Path
    content: bytes | None = None
    """Of standard input."""

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            DataError: if it cannot be read, or is too large.
        """
        if self.content is not None:
            return self.content
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise DataError(f"{printable(str(self.path))}: is larger than {MAX_BYTES} bytes; leave it out")
            return self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{printable(str(self.path))}: cannot be read: {error.strerror}") from error


@dataclass
class Compressed:
    """What :func:`compress_files` has written."""

    written: Written
    source_bytes: int = 0
    stored: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of each file that is stored as it is."""
    stored_bytes: int = 0
    """Bytes that these take in the archive."""

    def reasons(self) -> list[tuple[str, int]]:
        """Reasons for storing files, with counts, most frequent first."""
        return Counter(reason for _, reason in self.stored).most_common()


def sources(paths: Sequence[Path]) -> tuple[list[Source], int]:
    """The files of arguments, and the number of files that are no images and left out.

    A single folder gives its image files under their names in it; with further arguments, a folder's name comes first.
    A file gives its own name.

    Raises:
        DataError: if there is none, one is missing, or two would have one name.
    """
    found: list[Source] = []
    others = 0
    for path in paths:
        if path.is_dir():
            before = f"{path.resolve().name}/" if len(paths) > 1 else ""
            inside = [Path(root, name) for root, _, names in os.walk(path) for name in names]
            images = [file for file in inside if file.suffix.lower() in ACCEPTED and file.is_file()]
            others += len(inside) - len(images)
            names = sorted((file.relative_to(path).parts, file) for file in images)
            found += [Source(before + "/".join(parts), file) for parts, file in names]
        elif path.is_file():
            found.append(Source(path.name, path))
        else:
            raise DataError(f"{printable(str(path))}: no such file or folder; give image files, or a folder of them")
    if not found:
        raise DataError(f"{printable(str(paths[0]))}: holds no images; accepted are {' '.join(ACCEPTED)}")
    try:
        manifest.check_names(source.name for source in found)
    except ValueError as error:
        raise DataError(f"{error}; rename it, or compress the folders one by one") from error
    return found, others


def compress_files(
    files: Iterable[Source], codec: BlockCodec | None, out: Sink, *, block: int = BLOCK, verify: bool = True,
    progress: Progress = lambda n: None,
) -> Compressed:  # fmt: skip
    """Write an archive. Memory holds one block and one file at a time.

    With a model of any size, images of equal size share blocks: the most common size first, the others in the order of
    their first image. The manifest keeps the order of the files.

    Args:
        files: files of different names.
        codec: model of the images; without one, all files are stored as they are.
        out: takes the bytes.
        block: images a block; less where they are large.
        verify: whether to decode each block and compare it.
        progress: called with the number of files done.

    Raises:
        DataError: if a file cannot be read, or changes meanwhile.
    """
    rows, spec, any_size = list(files), ImageSpec(1, 1, 1, 256), of_any_size(codec) is not None
    order: Sequence[int] = range(len(rows))
    if codec is not None:
        spec, order = _by_size(rows, codec.spec) if any_size else (codec.spec, order)
    writer = Writer(out, codec, spec=spec, block=block, verify=verify)
    done = Compressed(writer.done)
    entries: dict[int, Entry] = {}
    kept: dict[int, int] = {}  # CRC of the content of stored files
    groups: dict[tuple[int, ...], int] = {}
    for count, i in enumerate(order, 1):
        name, data = rows[i].name, rows[i].read()
        found = levels_of(data, codec.spec, any_size=any_size) if codec is not None else "no model"
        done.source_bytes += len(data)
        if isinstance(found, str):
            kept[i] = zlib.crc32(data)
            done.stored.append((name, found))
        else:
            for strip in strips.cut(found.levels):
                writer.put(strip[None])
            group = groups.setdefault(found.levels.shape, len(groups))
            if group < len(groups) - 1:
                raise _changed(rows[i])
            entries[i] = Entry(name, found.form, group)
        progress(count)
    for i in sorted(kept):
        entries[i] = Entry(rows[i].name, _store(writer, rows[i], kept[i]))
    every = [entries[i] for i in range(len(rows))]
    done.stored_bytes = sum(row.kind.size for row in every if isinstance(row.kind, Stored))
    writer.close(manifest.packed(every))
    return done


def _by_size(files: Sequence[Source], spec: ImageSpec) -> tuple[ImageSpec, list[int]]:
    """The most common size that a model of any size takes, and the places of files ordered by their size."""
    sizes = [size_of(source.read()) for source in files]
    counts = Counter(size for size in sizes if size is not None and takes_size(spec, size))
    rank = {size: i for i, (size, _) in enumerate(counts.most_common(1))}
    for size in counts:
        rank.setdefault(size, len(rank))
    if rank:
        height, width = next(iter(rank))
        spec = replace(spec, height=strips.rows_of(height, width), width=width)
    last = len(rank)
    return spec, sorted(range(len(files)), key=lambda i: last if (size := sizes[i]) is None else rank.get(size, last))


def check_written(file: BinaryIO, done: Compressed, name: str) -> None:
    """Read an archive back, and compare all bytes of images and files by their CRC with what was written.

    Raises:
        CodecError: if the storage has changed them.
    """
    with PxlFile(file, name=name) as back:
        for block, check in zip(back.index.blocks, done.written.checks, strict=True):
            if zlib.crc32(back.payload(block)) != check:
                raise CodecError(f"{name}: {block}: reads back with other bytes; check the disk, or write elsewhere")
        back.check_content()
        for entry, offset in _places(entries_of(back)):
            _stored(back, entry, offset)


def _changed(source: Source) -> DataError:
    return DataError(f"{printable(str(source.path))}: has changed while it was compressed; compress again")


def _store(writer: Writer, source: Source, check: int) -> Stored:
    data = source.read()
    if zlib.crc32(data) != check:
        raise _changed(source)
    packed = manifest.compress(data)
    smaller = packed if len(packed) < len(data) else data
    writer.store(smaller)
    return Stored(len(smaller), len(data), check)


@dataclass
class Extracted:
    """Files of an archive that were written, and what is lost."""

    files: int = 0
    lost: list[str] = field(default_factory=list)
    """What cannot be restored, with the reason."""


def entries_of(file: PxlFile) -> list[Entry]:
    """Names and forms of all files; numbers and PNG where there is no manifest.

    Raises:
        CodecError: for a damaged manifest.
        DataError: if the images are neither gray nor RGB.
    """
    data = file.manifest()
    if not data:
        return _numbered(file, len(file))
    return manifest.parse(data, len(file), file.index.manifest - file.index.stored, file.name)


def _numbered(file: PxlFile, count: int) -> list[Entry]:
    if file.spec.channels not in (1, 3):
        raise DataError(f"{file.name}: images have {file.spec.channels} channels, not 1 or 3; use pixelloom.decompress")
    form = Form("PNG", "L" if file.spec.channels == 1 else "RGB")
    width = max(5, len(str(count - 1)))
    return [Entry(f"{i:0{width}d}{SUFFIX['PNG']}", form) for i in range(count)]


def in_blocks(entries: Iterable[Entry]) -> list[tuple[Entry, int]]:
    """For each image in blocks its file, and the number of the strip of it that the image is."""
    found = ((entry, entry.kind.strips) for entry in entries if isinstance(entry.kind, Form))
    return [(entry, i) for entry, count in sorted(found, key=lambda row: row[0].group) for i in range(count)]


def contents(file: PxlFile, entries: Sequence[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """All files of an archive: coded ones first, then stored ones.

    Raises:
        CodecError: at the first one that is damaged; names the block or the file.
    """
    coded, joined = iter(in_blocks(entries)), strips.Joined()
    for images in file.blocks():
        yield from _files(file, images, coded, joined)
    for entry, offset in _places(entries):
        yield entry, _stored(file, entry, offset)


def intact(file: PxlFile, done: Extracted) -> Iterator[tuple[Entry, bytes]]:
    """The files of a damaged archive that can be restored; the others go to ``done.lost``."""
    entries: list[Entry] = []
    try:
        entries = entries_of(file)
    except CodecError as error:
        done.lost.append(f"names and stored files ({error})")
    coded, joined = in_blocks(entries), strips.Joined()
    for part in file.intact():
        if isinstance(part, Lost):
            first, n = part.block.first, part.block.n
            names = [printable(entry.name) for entry, _ in coded[first : first + n]]
            which = f"{names[0]} to {names[-1]}" if names else f"images {first} to {first + n - 1}"
            done.lost.append(f"block {part.block.number}: {which}")
        else:
            block, images = part
            named = coded or [(entry, 0) for entry in _numbered(file, max(block.first + block.n, 1))]
            yield from _files(file, images, iter(named[block.first : block.first + block.n]), joined)
    for entry, offset in _places(entries):
        try:
            yield entry, _stored(file, entry, offset)
        except CodecError:
            done.lost.append(f"stored file {printable(entry.name)}")
    if file.end_error is not None and not coded:
        done.lost.append("what comes after the last intact block, if anything did")


def _files(
    file: PxlFile, images: Tensor, entries: Iterator[tuple[Entry, int]], joined: strips.Joined
) -> Iterator[tuple[Entry, bytes]]:
    for levels, (entry, number) in zip(images.numpy(), entries, strict=False):  # entries are those of all blocks
        assert isinstance(entry.kind, Form)
        try:
            whole = joined.add(levels, number, entry.kind.strips)
            if whole is not None:
                yield entry, file_of(whole, entry.kind, file.spec)
        except ValueError as error:
            raise CodecError(f"{file.name}: names: {printable(entry.name)}: {error}; {AGAIN}") from error


def _places(entries: Sequence[Entry]) -> Iterator[tuple[Entry, int]]:
    offset = 0
    for entry in entries:
        if isinstance(entry.kind, Stored):
            yield entry, offset
            offset += entry.kind.size


def _stored(file: PxlFile, entry: Entry, offset: int) -> bytes:
    assert isinstance(entry.kind, Stored)
    data, kind = file.stored(offset, entry.kind.size), entry.kind
    try:
        data = manifest.expand(data, kind.length) if kind.packed else data
    except ValueError:
        data = b""
    if len(data) != kind.length or zlib.crc32(data) != kind.check:
        raise CodecError(f"{file.name}: stored file {printable(entry.name)}: is damaged; {AGAIN}, or use --salvage")
    return data


def extract(file: PxlFile, out: Path, *, force: bool = False, salvage: bool = False) -> Extracted:
    """Write all files of an archive into a folder. They take their names once all are written.

    Args:
        file: the archive; opened with ``salvage`` if that is set here.
        out: the folder; existing files in it stay.
        force: whether files may be replaced.
        salvage: write what is intact.

    Raises:
        CodecError: for a damaged file, without ``salvage``; nothing is written.
        UsageError: if a file exists already.
        OSError: if something cannot be written.
    """
    done = Extracted()
    if salvage:
        found = intact(file, done)
    else:
        entries = entries_of(file)
        check_free(out, [entry.name for entry in entries], force)
        found = contents(file, entries)
    names: list[str] = []
    with _folder_beside(out) as temporary:
        for entry, data in found:
            path = temporary / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as target:
                target.write(data)
            names.append(entry.name)
        check_free(out, names, force)
        for name in names:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).replace(out / name)
    done.files = len(names)
    return done


def check_free(out: Path, names: Iterable[str], force: bool) -> None:
    """Check that files can take their names in a folder.

    Raises:
        UsageError: if one exists already, or would lie outside of the folder, through a link in it.
    """
    root, checked = out.resolve(), set[Path]()
    for name in names:
        path = out / name
        if path.parent not in checked:
            checked.add(path.parent)
            if not path.parent.resolve().is_relative_to(root):
                raise UsageError(f"{printable(str(path))}: lies outside of {out}, through a link; remove the link")
        if path.is_dir() or ((path.exists() or path.is_symlink()) and not force):
            raise UsageError(f"{printable(str(path))}: exists already; choose another folder with -o, or use --force")


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A temporary folder on the file system of ``out``, removed at the end, with ``out`` if that is new and empty."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".pixelloom.{os.getpid()}.part"
    try:
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
