"""The bytes of a ``.pxl`` file (docs/codec-format.md): header, heads of blocks, index and trailer, and their limits.

Everything is checked here before memory is reserved for it. Integers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

import pixelloom
from pixelloom.core.errors import CodecError, UsageError
from pixelloom.core.types import ImageSpec, Levels

MAGIC = b"\x89PXL\r\n\x1a\n"
VERSION = 1
NEEDS = (0, 2)  # first Pixelloom, major and minor, that reads this version
NO_MODEL = bytes(32)  # identity of a file whose blocks are all raw
MAX_BLOCK = 4096  # images
MAX_VALUES = 1 << 26  # of a block
MAX_PIXELS = 1 << 22  # of a block whose size is not the header's, or not that of the model
MAX_SIDE = (1 << 16) - 1
FREE_VALUES = 1 << 22  # that a file of any size may hold
VALUES_A_BYTE = 1 << 12  # that each byte up to the end of a block allows besides
MAX_IMAGES = (1 << 32) - 1
END = 0  # the tag after the last block
SIZED = 5  # before height, width and tag of a block whose size is not the header's
HEAD_SIZE = 32  # bytes that no head is longer than

_HEADER = struct.Struct("<8sBBBBH32sHHHBH")
_CRC = struct.Struct("<I")
_TRAILER = struct.Struct("<III")  # bytes of the index, content check, CRC of header, index and these
HEADER_SIZE = _HEADER.size + _CRC.size
TRAILER_SIZE = _TRAILER.size
AGAIN = "copy or download the file again"
SALVAGE = f"{AGAIN}, or save the intact images with --salvage"


@dataclass(frozen=True)
class Header:
    """What blocks share: channels and levels, the size of most images, images a block, and the model."""

    spec: ImageSpec
    block: int
    identity: bytes = NO_MODEL
    profile: int = 0

    def pack(self) -> bytes:
        """The 59 bytes at the start of a file."""
        fields = (MAGIC, VERSION, *NEEDS, 0, self.profile, self.identity, *self.spec.shape, self.spec.levels - 1)
        head = _HEADER.pack(*fields, self.block)
        return head + _CRC.pack(zlib.crc32(head))

    def unchecked(self) -> bytes:
        """The bytes without their CRC: a CRC over a message and its own CRC is the same for every message."""
        return self.pack()[: -_CRC.size]

    @classmethod
    def parse(cls, data: bytes, name: str) -> Header:
        """Read the first bytes of a file.

        Raises:
            CodecError: for another format, a newer version, damage, or values beyond the limits.
        """
        if not data:
            raise CodecError(f"{name}: header: the file is empty; {AGAIN}")
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            text = data[1:4] == MAGIC[1:4]
            why = "damaged, as by a transfer in text mode" if text else "this is no .pxl file"
            raise CodecError(f"{name}: header: {why}; {AGAIN if text else 'give a file of `pixelloom compress`'}")
        if len(data) < HEADER_SIZE:
            raise CodecError(f"{name}: header: the file is cut after {len(data)} bytes; {AGAIN}")
        _, version, *needs, reserved, profile, identity, c, h, w, top, block = _HEADER.unpack_from(data)
        if version != VERSION and tuple(needs) > _own_version():
            need = ".".join(map(str, needs))
            raise CodecError(
                f"{name}: header: format version {version} needs Pixelloom >= {need}; this is {pixelloom.__version__}: "
                "update Pixelloom"
            )
        if zlib.crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
            raise CodecError(f"{name}: header: is damaged (CRC); {AGAIN}")
        values, limits = c * h * w * block, f"1 to {MAX_BLOCK} images and up to {MAX_VALUES} values a block"
        if version != VERSION or tuple(needs) != NEEDS or reserved or not (values and top) or block > MAX_BLOCK:
            raise CodecError(f"{name}: header: holds values that no version writes ({limits}); {AGAIN}")
        if values > MAX_VALUES:
            raise CodecError(f"{name}: header: claims {block} images of {c}x{h}x{w} a block; {limits}; {AGAIN}")
        if identity == NO_MODEL and profile:
            raise CodecError(f"{name}: header: a profile without a model; {AGAIN}")
        return cls(ImageSpec(c, h, w, top + 1), block, identity, profile)


def _own_version() -> tuple[int, ...]:
    return tuple(int(part) for part in pixelloom.__version__.split(".")[:2])


class Trailer(NamedTuple):
    """The last 12 bytes of a file, without their CRC."""

    index_size: int
    content: int
    """CRC-32 of the checks of all blocks and of the manifest, in order."""

    def pack(self, header: Header, index: bytes) -> bytes:
        """The bytes, with the CRC over header, index and trailer."""
        body = _TRAILER.pack(*self, 0)[:-4]
        return body + _CRC.pack(zlib.crc32(header.unchecked() + index + body))


def parse_trailer(data: bytes) -> Trailer:
    """The fields of the last bytes of a file, unchecked."""
    size, content, _ = _TRAILER.unpack(data[-TRAILER_SIZE:])
    return Trailer(size, content)


class Block(NamedTuple):
    """One block in a file."""

    number: int
    first: int
    """Index of its first image."""
    n: int
    """Number of images."""
    spec: ImageSpec
    """Shape and levels of its images."""
    sized: bool
    """Whether their size is not the header's."""
    tag: int
    start: int
    """Offset of its head."""
    check: int | None
    """Low 16 bits of the CRC-32 of its payload, of the index; None without an index."""

    @property
    def raw(self) -> bool:
        """Whether the payload is the packed levels."""
        return bool(self.tag & 1)

    @property
    def length(self) -> int:
        """Bytes of the payload."""
        return packed_size(self.spec, self.n) if self.raw else (self.tag >> 2) - 1

    @property
    def description(self) -> bytes:
        """What head and index begin with: size if it is not the header's, tag, number of images if that follows."""
        size = varint(SIZED) + varint(self.spec.height) + varint(self.spec.width) if self.sized else b""
        return size + varint(self.tag) + (varint(self.n) if self.tag & 2 else b"")

    def head(self, check: int) -> bytes:
        """The bytes before the payload."""
        return self.description + _CRC.pack(check)

    @property
    def head_size(self) -> int:
        """Bytes before the payload."""
        return len(self.description) + _CRC.size

    @property
    def end(self) -> int:
        """Offset after its payload."""
        return self.start + self.head_size + self.length

    def __str__(self) -> str:
        return f"block {self.number} (images {self.first} to {self.first + self.n - 1})"


def tag_of(length: int | None, *, counted: bool) -> int:
    """The tag of a block: (length + 1) << 2 of a coded payload, 1 of a raw one; 2 more if n follows."""
    return (1 if length is None else (length + 1) << 2) | 2 * counted


def read_block(data: bytes, at: int, header: Header, after: Block | None) -> tuple[Block, int]:
    """Read what a head or an entry of the index begins with, and check it; (block, offset after it).

    Args:
        data: bytes of a head or of the index.
        at: offset in them.
        header: of the file.
        after: the block before; None for the first one.

    Raises:
        ValueError: for what no encoder writes: an unknown tag or :data:`END`, too many images or pixels, a size or a
            number of images that the header has, or a payload that is larger than packed levels.
    """
    number = 0 if after is None else after.number + 1
    spec, n = header.spec, header.block
    tag, at = read_varint(data, at)
    if sized := tag == SIZED:
        height, at = read_varint(data, at)
        width, at = read_varint(data, at)
        if not 0 < height <= MAX_SIDE or not 0 < width <= MAX_SIDE or (height, width) == spec.shape[1:]:
            raise ValueError(f"block {number} has a size of {height}x{width} pixels, which no version writes")
        spec = replace(spec, height=height, width=width)
        tag, at = read_varint(data, at)
    counted = bool(tag & 2)
    if counted:
        n, at = read_varint(data, at)
    if sized > counted or not 1 <= n <= (MAX_BLOCK if sized else header.block - counted):
        raise ValueError(f"block {number} has another number of images")
    if sized and (n * spec.height * spec.width > MAX_PIXELS or n * spec.dims > MAX_VALUES):
        raise ValueError(
            f"block {number} claims {n} images of {spec.height}x{spec.width} pixels, the limit is {MAX_PIXELS} pixels"
        )
    first, start = (0, HEADER_SIZE) if after is None else (after.first + after.n, after.end)
    block = Block(number, first, n, spec, sized, tag, start, None)
    if (block.raw and tag >> 2) or not (block.raw or tag >> 2):
        raise ValueError(f"block {number} has an unknown tag")
    if block.length > packed_size(spec, n):
        raise ValueError(f"block {number} is larger than its packed levels")
    if not block.raw and header.identity == NO_MODEL:
        raise ValueError(f"block {number} is coded by a model, and the header names none")
    return block, at


def check_work(values: int, block: Block) -> None:
    """Check that a file is not too small for the values that it claims, up to a block: decoding takes time for each.

    Raises:
        ValueError: for more than :data:`FREE_VALUES` and :data:`VALUES_A_BYTE` for each byte up to the block's end.
    """
    if values > FREE_VALUES + VALUES_A_BYTE * block.end:
        raise ValueError(f"block {block.number} ends {block.end} bytes that claim {values} values, which none writes")


def fewest_bytes(values: int, start: int) -> int:
    """Bytes of a payload that starts at an offset, for :func:`check_work` to hold with all values up to its end."""
    return max(0, -(-(values - FREE_VALUES) // VALUES_A_BYTE) - start)


def block_check(header: Header, first: int, levels: Levels, payload: bytes) -> int:
    """CRC-32 of header, place, images, height, width, payload and levels: a block holds in its own place only."""
    n, _, height, width = levels.shape
    check = zlib.crc32(header.unchecked() + struct.pack("<IHHH", first, n, height, width) + payload)
    return zlib.crc32(levels.tobytes(), check)


def check_size(spec: ImageSpec) -> None:
    """Check a size for a model of any size.

    Raises:
        UsageError: for more than :data:`MAX_PIXELS` pixels, whose decoding would take too much memory.
    """
    pixels = spec.height * spec.width
    if pixels > MAX_PIXELS or max(spec.height, spec.width) > MAX_SIDE or spec.dims > MAX_VALUES:
        raise UsageError(f"images of {spec.height}x{spec.width} pixels: {over_limit()}; cut them into tiles")


def over_limit() -> str:
    """Why an image is too large for a model of any size."""
    return f"models of any size take up to {MAX_PIXELS} pixels"


def varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first; the high bit says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, offset after it).

    Raises:
        ValueError: if it does not end, is longer than 9 bytes (63 bits), or has bytes that add nothing.
    """
    value = 0
    for i in range(9):
        if at + i >= len(data):
            break
        byte = data[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            if i and not byte:
                break
            return value, at + i + 1
    raise ValueError("an integer does not end")


def level_bits(levels: int) -> int:
    """Bits of a packed level."""
    return (levels - 1).bit_length()


def packed_size(spec: ImageSpec, n: int) -> int:
    """Bytes of n images of packed levels."""
    return (n * spec.dims * level_bits(spec.levels) + 7) // 8


def pack(levels: Levels, spec: ImageSpec) -> bytes:
    """Packed levels: of each value, in the order of the array, its bits, highest first; zeros fill the last byte."""
    bits = level_bits(spec.levels)
    if bits == 8:
        return levels.tobytes()
    planes = np.unpackbits(levels.reshape(-1, 1), axis=1)  # [n C H W] -> [n C H W, 8]
    return np.packbits(planes[:, 8 - bits :]).tobytes()


def unpack(data: bytes, spec: ImageSpec, n: int) -> Levels:
    """Levels uint8 [n, C, H, W] of packed ones.

    Raises:
        ValueError: if the bits that fill the last byte are not zero.
    """
    bits, shape, count = level_bits(spec.levels), (n, *spec.shape), n * spec.dims
    if bits == 8:
        return np.frombuffer(data, np.uint8).reshape(shape).copy()
    flat = np.unpackbits(np.frombuffer(data, np.uint8))
    if flat[count * bits :].any():
        raise ValueError("the last byte is not filled with zeros")
    values = np.packbits(flat[: count * bits].reshape(count, bits), axis=1)  # [bits of all] -> [n C H W, bits]
    return (values >> np.uint8(8 - bits)).reshape(shape)


class Index(NamedTuple):
    """Where everything in a file is."""

    blocks: list[Block]
    stored: int
    """Offset of the stored files, which the manifest follows."""
    manifest: int
    """Offset of the manifest."""
    end: int
    """Offset of the index."""

    @property
    def images(self) -> int:
        """Number of images in blocks."""
        return self.blocks[-1].first + self.blocks[-1].n if self.blocks else 0


def pack_index(entries: list[tuple[bytes, int]], stored: int, manifest: int) -> bytes:
    """The index: bytes of stored files and manifest; of each block its description and the low 16 bits of its CRC."""
    rows = (description + struct.pack("<H", check & 0xFFFF) for description, check in entries)
    return b"".join((varint(stored), varint(manifest), *rows))


def parse_index(data: bytes, header: Header, end: int) -> Index:
    """Read an index that ends the part of a file before the trailer.

    Args:
        data: bytes of the index.
        header: of the file.
        end: offset of the index in the file, where manifest and stored files must end.

    Raises:
        ValueError: if it does not fit the file. Nothing is reserved for what the index has no bytes for.
    """
    stored, at = read_varint(data, 0)
    manifest, at = read_varint(data, at)
    blocks: list[Block] = []
    start, values = HEADER_SIZE, 0
    while at < len(data):
        block, at = read_block(data, at, header, blocks[-1] if blocks else None)
        if at + 2 > len(data):
            raise ValueError("it ends within an entry")
        blocks.append(block._replace(check=int.from_bytes(data[at : at + 2], "little")))
        start, at = block.end, at + 2
        values += block.n * block.spec.dims
        check_work(values, block)
        if start > end:
            raise ValueError(f"block {block.number} ends after the end of the file")
    if start + 1 + stored + manifest != end:
        raise ValueError("the lengths do not sum to the size of the file")
    index = Index(blocks, start + 1, start + 1 + stored, end)
    if index.images > MAX_IMAGES:
        raise ValueError(f"it has more than {MAX_IMAGES} images")
    return index
