"""Names and forms of the files in an archive, as the manifest of a ``.pxl`` file holds them.

The manifest is JSON, compressed by LZMA (docs/codec-format.md). Names come from a file of others: they are checked
before anything is written.
"""

from __future__ import annotations

import base64
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from pixelloom.codec.layout import AGAIN, MAX_IMAGES
from pixelloom.core.errors import CodecError, DataError
from pixelloom.data.io.reading import printable

MAX_JSON = 1 << 24  # bytes of the JSON
MAX_FILES = 1 << 22
MAX_STORED = 1 << 28  # bytes of a stored file
_LONGEST = 1024  # bytes of a name
_MEMORY = 1 << 27  # of the LZMA decoder
_NUMBERED = re.compile(r"(.*?)(\d{1,9})(\D*)", re.DOTALL)


class Form(NamedTuple):
    """What an image file has besides its pixels; files of one form differ in pixels only."""

    format: str
    """PNG, BMP or PPM, as Pillow writes them."""
    mode: str
    """Pillow's mode."""
    before: bytes = b""
    """PNG: chunks before the pixels that are kept."""
    after: bytes = b""
    """PNG: chunks after the pixels that are kept."""
    palette: bytes = b""
    """Of mode P: R, G, B of each index."""
    strips: int = 1
    """Images in blocks that the file is cut into, from top to bottom."""


class Stored(NamedTuple):
    """A file that is kept as it is."""

    size: int
    """Bytes in the archive."""
    length: int
    """Bytes of the file."""
    check: int
    """CRC-32 of the file."""

    @property
    def packed(self) -> bool:
        """Whether LZMA has made it smaller."""
        return self.size < self.length


class Entry(NamedTuple):
    """One file of an archive."""

    name: str
    kind: Form | Stored
    group: int = 0
    """Of an image: the images in blocks are those of group 0 in the order of the files, then those of group 1, .."""


def packed(entries: Iterable[Entry]) -> bytes:
    """The manifest of files in their order."""
    rows = list(entries)
    forms = {entry.kind: None for entry in rows if isinstance(entry.kind, Form)}
    place = {form: i for i, form in enumerate(forms)}
    kinds = [-1 if isinstance(entry.kind, Stored) else place[entry.kind] for entry in rows]
    found: dict[str, Any] = {
        "names": list(_runs([entry.name for entry in rows])),
        "forms": [_row(form) for form in forms],
        "form": [[kind, len(list(group))] for kind, group in groupby(kinds)],
        "stored": [list(entry.kind) for entry in rows if isinstance(entry.kind, Stored)],
    }
    if any(groups := [entry.group for entry in rows if isinstance(entry.kind, Form)]):
        found["group"] = [[group, len(list(same))] for group, same in groupby(groups)]
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > MAX_JSON or len(rows) > MAX_FILES:
        raise DataError(
            f"{len(rows)} files, whose names and metadata take {len(text)} bytes; a compressed file holds up to "
            f"{MAX_FILES} files and {MAX_JSON} bytes: compress fewer at once"
        )
    return compress(text)


def _row(form: Form) -> list[str | int]:
    row: list[str | int] = [form.format, form.mode, *map(_text, form[2:5])]
    return row if form.strips == 1 else [*row, form.strips]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _runs(names: list[str]) -> Iterator[str | list[str | int]]:
    """Names that count up by one become [before, digits, first, how many, after]; digits is 0 without leading zeros."""
    run: list[Any] = []
    for name in (*names, None):
        if run and name == _numbered(run, run[3]):
            run[3] += 1
            continue
        if run:
            yield run if run[3] > 1 else _numbered(run, 0)
        match = None if name is None else _NUMBERED.fullmatch(name)
        run = []
        if match is not None:
            before, digits, after = match.groups()
            width = len(digits) if digits[0] == "0" and len(digits) > 1 else 0
            run = [before, width, int(digits), 1, after]
        elif name is not None:
            yield name


def _numbered(run: list[Any], i: int) -> str:
    before, width, first, _, after = run
    return f"{before}{first + i:0{width}d}{after}"


def compress(data: bytes) -> bytes:
    """LZMA in its smallest container (.lzma)."""
    return lzma.compress(data, lzma.FORMAT_ALONE, preset=6)


def expand(data: bytes, most: int) -> bytes:
    """Decompress up to ``most`` bytes.

    Raises:
        ValueError: if it is damaged, or longer.
    """
    try:
        reader = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY)
        found = reader.decompress(data, most + 1)
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from error
    if len(found) > most or not reader.eof or reader.unused_data:
        raise ValueError("it is longer than it may be, or cut")
    return found


def parse(data: bytes, images: int, room: int, name: str) -> list[Entry]:
    """Read a manifest.

    Args:
        data: as it is stored.
        images: number of images in blocks.
        room: bytes of all stored files.
        name: of the file, for errors.

    Raises:
        CodecError: for a damaged manifest, one that does not fit the file, or names that would leave the folder.
    """
    try:
        found = json.loads(expand(data, MAX_JSON))
        forms = [_form(row) for row in found["forms"]]
        stored = [Stored(*map(_whole, row)) for row in found["stored"]]
        kinds = [(_whole(kind, -1), _whole(count)) for kind, count in found["form"]]
        total = sum(count for _, count in kinds)
        if total > MAX_FILES:
            raise ValueError("it names more files than it may")
        of_blocks = sum(count for kind, count in kinds if kind >= 0)
        pieces = sum(count * forms[kind].strips for kind, count in kinds if kind >= 0)
        if pieces != images or total - of_blocks != len(stored) or sum(row.size for row in stored) != room:
            raise ValueError("it is of other images")
        if any(row.size > row.length or row.length > MAX_STORED for row in stored):
            raise ValueError("a stored file is larger than it may be")
        names = list(_names(found["names"], total))
        rest = iter(stored)
        each = (next(rest) if kind < 0 else forms[kind] for kind, count in kinds for _ in range(count))
        groups = _groups(found.get("group"), of_blocks)
        entries = [
            Entry(name, kind, 0 if isinstance(kind, Stored) else next(groups))
            for name, kind in zip(names, each, strict=True)
        ]
    except (ValueError, TypeError, LookupError, RecursionError, AttributeError, StopIteration) as error:
        raise CodecError(f"{name}: names: the manifest is damaged ({error}); {AGAIN}") from error
    try:
        check_names(names)
    except ValueError as error:
        raise CodecError(
            f"{name}: names: {error}; nothing is written: {AGAIN}, from a source that you trust"
        ) from error
    return entries


def _groups(rows: Any, images: int) -> Iterator[int]:
    """The group of each image; all 0 without rows [group, count]."""
    runs = [(0, images)] if rows is None else [(_whole(group), _whole(count)) for group, count in rows]
    if sum(count for _, count in runs) != images:
        raise ValueError("it has groups of other images")
    return (group for group, count in runs for _ in range(count))


def _whole(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= MAX_IMAGES:
        raise ValueError(f"not a number of a manifest: {str(value)[:40]}")
    return value


def _form(row: Any) -> Form:
    form, mode, *rest = row
    strips = _whole(rest.pop(), 2) if len(rest) == 4 else 1
    if form not in ("PNG", "BMP", "PPM") or mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise ValueError("an unknown form of image")
    before, after, palette = (base64.b64decode(text, validate=True) for text in rest)
    if len(palette) % 3 or len(palette) > 768 or bool(palette) != (mode == "P"):
        raise ValueError("a palette of another length")
    if (before or after) and form != "PNG":
        raise ValueError("chunks of a file that is no PNG")
    return Form(form, mode, before, after, palette, strips)


def _names(rows: Any, total: int) -> Iterator[str]:
    """The names of :func:`_runs`; no more than ``total``."""
    count = 0
    for row in rows:
        run = ["", 0, 0, 1, ""] if isinstance(row, str) else list(row)
        before, width, first, number, after = run
        if not (isinstance(before, str) and isinstance(after, str)) or _whole(width) > 9:
            raise ValueError("an unknown run of names")
        number = _whole(number)
        count += number
        if count > total or not _whole(first) < 10**9:
            raise ValueError("more names than images")
        yield from [row] if isinstance(row, str) else (_numbered(run, i) for i in range(number))


def check_names(names: Iterable[str]) -> None:
    """Check that names are different relative paths within a folder, on every system.

    Raises:
        ValueError: names the first that is not.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for name in names:
        parts = name.split("/")
        if not all(map(_is_part, parts)) or len(name.encode("utf-8", "surrogatepass")) > _LONGEST:
            raise ValueError(f"{printable(name)!r} is no relative path within the folder")
        if name in files:
            raise ValueError(f"{printable(name)!r} is the name of two files")
        files.add(name)
        folders.update("/".join(parts[:i]) for i in range(1, len(parts)))
    if both := files & folders:
        raise ValueError(f"{printable(min(both))!r} is the name of a file and of a folder")


def _is_part(part: str) -> bool:
    """Whether a part of a path is a plain name: printable or not, but no control character, drive or separator."""
    return (
        part not in ("", ".", "..")
        and len(part.encode("utf-8", "surrogatepass")) < 256  # bytes, in most file systems
        and not re.search(r"[\x00-\x1f\x7f\\:\ud800-\udfff]", part)
    )
