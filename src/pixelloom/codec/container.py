"""Writing ``.pxl`` files block by block: :class:`Writer`. :mod:`pixelloom.codec.reader` reads them.

A writer only appends, so it can write to a pipe, and holds one block in memory.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pixelloom.codec import layout
from pixelloom.codec.layout import Header, Trailer
from pixelloom.codec.protocols import BlockCodec
from pixelloom.core.errors import DataError
from pixelloom.core.types import ImageSpec, Levels

_log = logging.getLogger("pixelloom")

BLOCK = 64
"""Images a block."""


class Sink(Protocol):
    """What a writer writes to: a file, a pipe, a buffer."""

    def write(self, data: bytes, /) -> object:
        """Append bytes."""


@dataclass
class Written:
    """What a writer has written."""

    images: int = 0
    blocks: int = 0
    raw: int = 0
    """Blocks of packed levels, because a model did not make them smaller, or there is none."""
    differing: int = 0
    """Blocks that did not decode to the same images; they are among the raw ones."""
    payload: int = 0
    """Bytes of all payloads."""
    size: int = 0
    """Bytes of the file."""
    checks: list[int] = field(default_factory=list)
    """CRC-32 of each payload."""


class Writer:
    """Write images, in blocks, then stored files, then a manifest.

    Args:
        file: anything with ``write``.
        codec: model of the images; None stores packed levels.
        spec: shape and levels of the images, without a model.
        block: images a block.
        verify: whether to decode each block and compare it; a block that differs is stored raw.

    Raises:
        DataError: for images too large for a block of one.
    """

    def __init__(
        self, file: Sink, codec: BlockCodec | None, *, spec: ImageSpec | None = None, block: int = BLOCK,
        verify: bool = True,
    ) -> None:  # fmt: skip
        if codec is not None:
            spec = codec.spec
        assert spec is not None
        if spec.dims > layout.MAX_VALUES or max(spec.shape) >> 16:
            raise DataError(f"images of {spec} are too large for a block of {layout.MAX_VALUES} values")
        block = min(block, layout.MAX_BLOCK, layout.MAX_VALUES // spec.dims)
        given = (layout.NO_MODEL, 0) if codec is None else (codec.identity, codec.profile)
        self.header, self.done = Header(spec, block, *given), Written()
        self._file, self._codec, self._verify = file, codec, verify
        self._held: list[Levels] = []  # less than a block
        self._entries: list[tuple[int, int]] = []  # (tag, CRC of the payload)
        self._content, self._stored, self._ended = 0, 0, False
        self._write(self.header.pack())

    def put(self, images: Levels | Tensor) -> None:
        """Take images, uint8 [n, C, H, W], and write the blocks that are complete.

        Raises:
            DataError: for another shape, or levels that are too high.
        """
        found, spec = np.asarray(images), self.header.spec
        if found.dtype != np.uint8 or found.ndim != 4 or found.shape[1:] != spec.shape:
            raise DataError(f"images are {found.dtype} {list(found.shape)}, not uint8 [N, C, H, W] of {spec}")
        if found.size and found.max() >= spec.levels:
            raise DataError(f"level {found.max()} is outside the model's {spec.levels}, 0 to {spec.levels - 1}")
        for first in range(0, len(found), self.header.block):
            self._held.append(found[first : first + self.header.block].copy())
            if sum(map(len, self._held)) >= self.header.block:
                self._put_held()

    def store(self, data: bytes) -> None:
        """Append a stored file, after all images."""
        self._end_blocks()
        self._write(data)
        self._stored += len(data)

    def close(self, manifest: bytes = b"") -> Written:
        """Write the rest: the last block, the manifest with its CRC, index and trailer."""
        self._end_blocks()
        if manifest:
            check = zlib.crc32(manifest).to_bytes(4, "little")
            self._content = zlib.crc32(check, self._content)
            manifest += check
            self._write(manifest)
        index = layout.pack_index(self._entries, self._stored, len(manifest))
        self._write(index + Trailer(self.done.images, len(index), self._content).pack(self.header, index))
        return self.done

    def _end_blocks(self) -> None:
        if not self._ended:
            self._put_held()
            self._ended = True
            self._write(layout.varint(layout.END))

    def _put_held(self) -> None:
        """Write the images that are held, a block at most; the rest stays."""
        levels: Levels = np.concatenate((np.empty((0, *self.header.spec.shape), np.uint8), *self._held))
        if len(levels):
            self._put_block(levels[: self.header.block])
        rest = levels[self.header.block :]
        self._held = [rest.copy()] if len(rest) else []

    def _put_block(self, levels: Levels) -> None:
        number, n, header = len(self._entries), len(levels), self.header
        if self.done.images + n > layout.MAX_IMAGES:
            raise DataError(f"a file holds up to {layout.MAX_IMAGES} images; write several")
        payload = self._coded(levels)
        tag = layout.tag_of(n, header.block, None if payload is None else len(payload))
        if payload is None:
            payload = layout.pack(levels, header.spec)
            self.done.raw += 1
        check = layout.block_check(header, number, levels, payload)
        self._entries.append((tag, zlib.crc32(payload)))
        self.done.checks.append(self._entries[-1][1])
        self._content = zlib.crc32(check.to_bytes(4, "little"), self._content)
        self._write(layout.head(tag, n, check) + payload)
        self.done.images += n
        self.done.blocks += 1
        self.done.payload += len(payload)

    def _coded(self, levels: Levels) -> bytes | None:
        """The payload by the model, or None if packed levels are not larger, or it does not decode to the images."""
        if self._codec is None:
            return None
        images, spec = torch.from_numpy(levels), self.header.spec
        payload = self._codec.encode(images)
        tag = layout.tag_of(len(levels), self.header.block, len(payload))
        if 2 * len(layout.varint(tag)) + len(payload) >= 2 + layout.packed_size(spec, len(levels)):
            return None
        if self._verify and not torch.equal(self._codec.decode(payload, len(levels)), images):
            self.done.differing += 1
            _log.warning("block %d does not decode to the same images; it is stored uncompressed", len(self._entries))
            return None
        return payload

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.done.size += len(data)


def batches(images: Levels | Tensor | Iterable[Levels | Tensor]) -> Iterator[Levels | Tensor]:
    """Images as batches: an array [N, C, H, W] is one, anything else yields its own."""
    if isinstance(images, Tensor | np.ndarray):
        yield images
    else:
        yield from images
