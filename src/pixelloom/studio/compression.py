"""Compression on the page: sizes beside other formats, and the images of a compressed file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from pixelloom.codec import lookup
from pixelloom.codec.archive import Source, compress_files, contents, entries_of
from pixelloom.codec.choice import choose
from pixelloom.codec.protocols import BlockCodec
from pixelloom.codec.reader import PxlFile
from pixelloom.core.errors import CodecError, DataError, ModelError
from pixelloom.data.io.decode import Reading, decode
from pixelloom.studio.images import gallery, png_of, table
from pixelloom.studio.library import Entry

SUFFIX = ".pxl"
_SHOWN = 64  # images of an opened file


class Packed(NamedTuple):
    """A compressed file: its bytes, its sizes as HTML, and a line of text."""

    data: bytes
    sizes: str
    line: str


def codec_of(entry: Entry, files: Sequence[bytes]) -> tuple[str, BlockCodec]:
    """Name and codec for some images: the export of the chosen model, else the packaged one that takes most of them.

    Raises:
        ModelError: if the model has no export, and no packaged one takes these images.
    """
    try:
        return entry.name, lookup.load(lookup.export_of(entry.folder))
    except ModelError:
        pass
    try:
        return choose(files)
    except ModelError as error:
        raise ModelError(
            f"{entry.name} is not exported for compression, and no packaged model takes these images; "
            f"pixelloom export {entry.name} --codec {entry.folder / lookup.EXPORT}"
        ) from error


def pack(entry: Entry, files: Sequence[tuple[str, bytes]]) -> Packed:
    """Compress image files without loss; decoded and compared block by block.

    Args:
        entry: the chosen model.
        files: name and content of each.

    Raises:
        ModelError: if no model takes them.
    """
    name, codec = codec_of(entry, [content for _, content in files])
    out = io.BytesIO()
    done = compress_files([Source(file, entry.folder, content) for file, content in files], codec, out)
    sizes = {"these files": done.source_bytes, **other_formats(content for _, content in files)}
    whole = len(out.getvalue())
    rows = [(what, f"{size:,}", f"{whole / size:.3f}") for what, size in sizes.items()]
    rows.insert(0, (f"Pixelloom ({name})", f"{whole:,}", "1"))
    coded = done.written.images
    values = f", {8 * done.written.payload / done.written.values:.4f} bits/dim" if coded else ""
    stored = f"; {len(done.stored)} files are stored unchanged: {done.reasons()[0][0]}" if done.stored else ""
    text = f"{coded} images by the model{values}, verified{stored}"
    return Packed(out.getvalue(), table(("format", "bytes", "Pixelloom relative to it"), rows), text)


def other_formats(files: object) -> dict[str, int]:
    """Bytes of the same pixels, each image a file: PNG, lossless WebP, and JPEG XL if imagecodecs is installed."""
    images = [image for content in files if (image := _opened(content)) is not None]  # type: ignore[attr-defined]
    if not images:
        return {}
    found = {"PNG": sum(map(_png, images)), "WebP, lossless": sum(map(_webp, images))}
    try:
        import imagecodecs
    except ImportError:
        return found
    encode = partial(imagecodecs.jpegxl_encode, lossless=True, effort=9)
    found["JPEG XL, lossless"] = sum(len(encode(np.asarray(_plain(image)))) for image in images)
    return found


def _opened(content: bytes) -> Image.Image | None:
    try:
        pixels = decode(content, "image", Reading()).frames[0]
    except DataError:
        return None
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _plain(image: Image.Image) -> Image.Image:
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _png(image: Image.Image) -> int:
    """Bytes as PNG: of one bit if there are two levels, gray if all pixels are."""
    buffer, values = io.BytesIO(), np.asarray(image)
    if image.mode == "L" and not np.isin(values, (values.min(), values.max())).all():
        image.save(buffer, "PNG", optimize=True)
    elif image.mode == "L":
        Image.fromarray(values == values.max()).save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "PNG", optimize=True)
    return buffer.tell()


def _webp(image: Image.Image) -> int:
    buffer = io.BytesIO()
    _plain(image).save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return buffer.tell()


def unpack(entry: Entry, name: str, data: bytes) -> tuple[str, str]:
    """The images of a compressed file as HTML, and a line of text.

    Args:
        entry: the chosen model, whose export is used if the file was compressed by it.
        name: of the file, for messages.
        data: its bytes.

    Raises:
        CodecError: if the file is damaged, or its model is not here.
    """

    def find(identity: bytes) -> BlockCodec:
        try:
            return lookup.find_codec(None, identity)
        except CodecError:
            own = lookup.load(lookup.export_of(entry.folder))
            if own.identity != identity:
                raise
            return own

    shown: list[bytes] = []
    names: list[str] = []
    with PxlFile(io.BytesIO(data), find, name=name) as file:
        entries = entries_of(file)
        for each, content in contents(file, entries):
            if len(shown) < _SHOWN and (image := _opened(content)) is not None:
                shown.append(png_of(image))
                names.append(each.name)
    more = f"; the first {len(shown)} are shown" if len(entries) > len(shown) else ""
    return gallery(shown, names), f"{len(entries)} files in {len(data):,} bytes, all checks passed{more}"
