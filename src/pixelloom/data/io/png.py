"""The chunks of a PNG file: their CRC is checked, and texts and color profiles are removed before decoding.

Pillow reads truncated and corrupted PNG files without an error, and refuses sound files with much compressed text. A
chunk is its length (4 bytes), type (4), data and CRC-32 of type and data (PNG specification, section 5.3).
"""

from __future__ import annotations

import zlib

from pixelloom.data.io.reading import DamageError

SIGNATURE = b"\x89PNG"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Keywords of texts that may contain the EXIF orientation; they are kept up to _KEPT bytes."""
_KEPT = 1 << 16
_EXPANSION = 1 << 20  # bytes that Pillow decompresses at most


def checked_png(data: bytes, name: str) -> bytes:
    """Check all chunks up to IEND; return the file without texts and color profile, which pixels do not depend on.

    Raises:
        DamageError: for a truncated file or a wrong CRC.
    """
    at = 8
    kept = [data[:at]]
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise DamageError(f"{name}: CRC mismatch, the file is corrupted")
        kind = data[at + 4 : at + 8]
        if kind not in _TEXTS or _may_orient(kind, data[at + 8 : end]):
            kept.append(data[at : end + 4])
        if kind == b"IEND":
            return b"".join(kept)
        at = end + 4
    raise DamageError(f"{name}: truncated PNG")


def without_text(data: bytes) -> bytes:
    """The file without texts and color profile; a damaged file is returned as it is."""
    try:
        return checked_png(data, "")
    except DamageError:
        return data


def _may_orient(kind: bytes, content: bytes) -> bool:
    """Whether a text chunk has a keyword that orientation is read from, and is small also when decompressed."""
    keyword, _, rest = content.partition(b"\0")
    if keyword not in _ORIENTATION or len(content) > _KEPT:
        return False
    packed = b""
    if kind == b"zTXt":  # compression method (1 byte), zlib stream
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] == b"\1":  # compressed, method, language, 0, translated keyword, 0, zlib stream
        packed = rest[2:].split(b"\0", 2)[-1]
    try:
        return len(zlib.decompressobj().decompress(packed, _EXPANSION)) < _EXPANSION
    except zlib.error:
        return False
