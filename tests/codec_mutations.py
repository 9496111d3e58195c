"""Damage of compressed files: random bits, cuts, swaps, and forgeries whose CRCs are right."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pixelloom.codec import layout
from pixelloom.codec.layout import HEADER_SIZE, TRAILER_SIZE, Trailer
from pixelloom.codec.reader import PxlFile

Draw = np.random.Generator


class Bytes:
    """A header of any bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def unchecked(self) -> bytes:
        return self.data[:-4]


class Parts:
    """A valid file in parts, which can be put together again with right CRCs of header, index and end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        with PxlFile(data) as file:
            self.header, self.trailer, self.index = file.header, file.trailer, file.index
        self.head = data[:HEADER_SIZE]
        ends = [block.end for block in self.index.blocks]
        self.blocks = [data[block.start : end] for block, end in zip(self.index.blocks, ends, strict=True)]
        self.middle = data[ends[-1] if ends else HEADER_SIZE : self.index.end]
        self.tail = data[self.index.end : -TRAILER_SIZE]

    def joined(self, *, head: bytes | None = None, blocks: list[bytes] | None = None, index: bytes | None = None,
               trailer: Trailer | None = None, checks: bool = True) -> bytes:  # fmt: skip
        """The file with other parts; ``checks`` makes the CRCs of header and end right."""
        head, index = self.head if head is None else head, self.tail if index is None else index
        trailer = trailer or self.trailer
        if checks:
            head = head[:-4] + zlib.crc32(head[:-4]).to_bytes(4, "little")
        end = trailer._replace(index_size=len(index)).pack(Bytes(head if checks else self.head), index)
        return b"".join((head, *(self.blocks if blocks is None else blocks), self.middle, index, end))


def flips(parts: Parts, other: Parts, draw: Draw) -> bytes:
    data = bytearray(parts.data)
    for at in draw.integers(0, 8 * len(data), draw.integers(1, 5)):
        data[at // 8] ^= 1 << at % 8
    return bytes(data)


def cut(parts: Parts, other: Parts, draw: Draw) -> bytes:
    return parts.data[: draw.integers(0, len(parts.data))]


def longer(parts: Parts, other: Parts, draw: Draw) -> bytes:
    return parts.data + draw.bytes(int(draw.integers(1, 100)))


def missing(parts: Parts, other: Parts, draw: Draw) -> bytes:
    at = draw.integers(0, len(parts.data))
    return parts.data[:at] + parts.data[at + draw.integers(1, 30) :]


def inserted(parts: Parts, other: Parts, draw: Draw) -> bytes:
    at = draw.integers(0, len(parts.data))
    return parts.data[:at] + draw.bytes(int(draw.integers(1, 30))) + parts.data[at:]


def zeros(parts: Parts, other: Parts, draw: Draw) -> bytes:
    at = int(draw.integers(0, len(parts.data)))
    end = min(len(parts.data), at + int(draw.integers(1, 80)))
    return parts.data[:at] + bytes(end - at) + parts.data[end:]


def random(parts: Parts, other: Parts, draw: Draw) -> bytes:
    return layout.MAGIC[: draw.integers(0, 9)] + draw.bytes(int(draw.integers(0, 300)))


def swapped(parts: Parts, other: Parts, draw: Draw) -> bytes:
    """Two blocks change places, in the index as well."""
    i, j = draw.choice(len(parts.blocks), 2, replace=False)
    blocks, entries = list(parts.blocks), _entries(parts)
    blocks[i], blocks[j] = blocks[j], blocks[i]
    if draw.integers(2):
        entries[i], entries[j] = entries[j], entries[i]
    return parts.joined(blocks=blocks, index=_index(parts, entries))


def foreign(parts: Parts, other: Parts, draw: Draw) -> bytes:
    """A block of another file of the same model at its own number; perhaps the index names it."""
    i = draw.integers(len(parts.blocks))
    blocks, entries = list(parts.blocks), _entries(parts)
    blocks[i] = other.blocks[i]
    if draw.integers(2):
        entries[i] = _entries(other)[i]
    return parts.joined(blocks=blocks, index=_index(parts, entries))


def header(parts: Parts, other: Parts, draw: Draw) -> bytes:
    """A field of the header has another value, and its CRC is right."""
    head = bytearray(parts.head)
    at, size = [(8, 1), (9, 1), (10, 1), (11, 1), (12, 2), (14, 32), (46, 2), (48, 2), (50, 2), (52, 1), (53, 2)][
        draw.integers(11)
    ]
    while bytes(head) == parts.head:
        near = (int.from_bytes(head[at : at + size], "little") + int(draw.integers(-2, 3))) % (1 << 8 * size)
        new = draw.bytes(size) if draw.integers(2) else near.to_bytes(size, "little")
        head[at : at + size] = new if draw.integers(4) else b"\xff" * size
    return parts.joined(head=bytes(head))


def counts(parts: Parts, other: Parts, draw: Draw) -> bytes:
    """Index and perhaps head claim another number of images, or the end another content; the end's CRC is right."""
    if not draw.integers(4):
        return parts.joined(trailer=parts.trailer._replace(content=parts.trailer.content ^ 1 << int(draw.integers(32))))
    i = int(draw.integers(len(parts.blocks)))
    block = parts.index.blocks[i]
    new = [block.n + 1, block.n - 1, 0, parts.header.block, layout.MAX_BLOCK, 1 << 32, int(draw.integers(1 << 16))]
    n = new[draw.integers(len(new))]
    return _described(parts, i, draw, block._replace(tag=block.tag | 2, n=n))


def size(parts: Parts, other: Parts, draw: Draw) -> bytes:
    """Index and perhaps head give a block another size, or its size or none; the end's CRC is right."""
    i = int(draw.integers(len(parts.blocks)))
    block = parts.index.blocks[i]
    _, height, width = block.spec.shape
    new = [
        *((width, height), (height + 1, width), (height, width + 1), (max(1, height // 2), 2 * width)),
        *((1 << 16, 1), ((1 << 16) - 1,) * 2, (1 << 11,) * 2, parts.header.spec.shape[1:]),
        tuple(draw.integers(1, 40, 2).tolist()),
    ]
    height, width = new[draw.integers(len(new))]
    spec = replace(block.spec, height=height, width=width)
    sized = bool(draw.integers(4))
    return _described(parts, i, draw, block._replace(spec=spec, sized=sized, tag=block.tag | 2 * sized))


def _described(parts: Parts, i: int, draw: Draw, claimed: layout.Block) -> bytes:
    """Block i with another description in the index, and perhaps in its head, with a CRC that is right or not."""
    block, blocks, entries = parts.index.blocks[i], list(parts.blocks), _entries(parts)
    entries[i] = (claimed.description, block.check or 0)
    if draw.integers(4):
        check = int.from_bytes(blocks[i][block.head_size - 4 : block.head_size], "little")
        blocks[i] = claimed.head(check) + blocks[i][block.head_size :]
    return parts.joined(blocks=blocks, index=_index(parts, entries))


def index(parts: Parts, other: Parts, draw: Draw) -> bytes:
    """An entry of the index has another tag, or bytes of the index are random; its CRC is right."""
    entries, tail = _entries(parts), bytearray(parts.tail)
    i = int(draw.integers(len(entries)))
    block = parts.index.blocks[i]
    tag = int(draw.choice([0, 1, 2, 3, 5, block.tag ^ 1, block.tag ^ 2, block.tag + 4, max(block.tag - 4, 0), 1 << 33]))
    entries[i] = (block._replace(tag=tag).description, entries[i][1])
    if draw.integers(2):
        tail[draw.integers(len(tail))] ^= 1 << draw.integers(8)
        return parts.joined(index=bytes(tail))
    return parts.joined(index=_index(parts, entries) if block.tag != tag else parts.tail + b"\0")


def lengths(parts: Parts, other: Parts, draw: Draw) -> bytes:
    """Index and head of a block agree on another length of its payload, which takes bytes of the next."""
    i = int(draw.integers(len(parts.blocks)))
    block, entries, blocks = parts.index.blocks[i], _entries(parts), list(parts.blocks)
    tag = block.tag + 4 * int(draw.integers(1, 4)) if not block.raw else 4 * int(draw.integers(1, 40)) | block.tag & 2
    data = blocks[i]
    check = int.from_bytes(data[block.head_size - 4 : block.head_size], "little")
    payload = data[block.head_size :]
    claimed = block._replace(tag=tag)
    blocks[i] = claimed.head(check) + payload
    entries[i] = (claimed.description, zlib.crc32((payload + b"".join(blocks[i + 1 :]))[: (tag >> 2) - 1]) & 0xFFFF)
    return parts.joined(blocks=blocks, index=_index(parts, entries))


def payload(parts: Parts, other: Parts, draw: Draw) -> bytes:
    """A payload has other bytes, and the index names its CRC."""
    i = int(draw.integers(len(parts.blocks)))
    block, entries, blocks = parts.index.blocks[i], _entries(parts), list(parts.blocks)
    data = bytearray(blocks[i])
    data[block.head_size + draw.integers(len(data) - block.head_size)] ^= 1 << draw.integers(8)
    blocks[i] = bytes(data)
    entries[i] = (entries[i][0], zlib.crc32(blocks[i][block.head_size :]) & 0xFFFF)
    return parts.joined(blocks=blocks, index=_index(parts, entries))


def _entries(parts: Parts) -> list[tuple[bytes, int]]:
    return [(block.description, block.check or 0) for block in parts.index.blocks]


def _index(parts: Parts, entries: list[tuple[bytes, int]]) -> bytes:
    """An index of entries, for the same stored files and manifest."""
    return layout.pack_index(entries, parts.index.manifest - parts.index.stored, parts.index.end - parts.index.manifest)


MUTATIONS: tuple[Callable[[Parts, Parts, Draw], bytes], ...] = (
    *(flips, flips, flips, cut, cut, longer, missing, inserted, zeros, random),
    *(swapped, foreign, header, counts, size, index, lengths, payload),
)
