"""Writing ``.pxl`` files block by block: :class:`Writer`. :mod:`pixelloom.codec.reader` reads them.

A writer only appends, so it can write to a pipe, and holds one block in memory.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pixelloom.codec import layout
from pixelloom.codec.layout import Block, Header, Trailer
from pixelloom.codec.protocols import BlockCodec, of_any_size
from pixelloom.core.errors import DataError
from pixelloom.core.types import ImageSpec, Levels

_log = logging.getLogger("pixelloom")

BLOCK = 64
"""Images a block."""
PIXELS = 1 << 20
"""Of a block of a model of any size, unless one image has more: decoding takes memory for each of them."""


class Sink(Protocol):
    """What a writer writes to: a file, a pipe, a buffer."""

    def write(self, data: bytes, /) -> object:
        """Append bytes."""


@dataclass
class Written:
    """What a writer has written."""

    images: int = 0
    values: int = 0
    """Values of the images."""
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

    With a model of any size, images may have several sizes; a block holds images of one size that follow each other.

    Args:
        file: anything with ``write``.
        codec: model of the images; None stores packed levels.
        spec: shape and levels of the images, without a model; of most images, with a model of any size.
        block: images a block; less where they are large.
        verify: whether to decode each block and compare it; a block that differs is stored raw.

    Raises:
        DataError: for images too large for a block of one.
        UsageError: for images too large for a model of any size.
    """

    def __init__(
        self, file: Sink, codec: BlockCodec | None, *, spec: ImageSpec | None = None, block: int = BLOCK,
        verify: bool = True,
    ) -> None:  # fmt: skip
        self._resizable = of_any_size(codec)
        if codec is not None and (spec is None or self._resizable is None):
            spec = codec.spec
        assert spec is not None
        if codec is not None and spec != codec.spec:
            layout.check_size(spec)
        if spec.dims > layout.MAX_VALUES or max(spec.shape) > layout.MAX_SIDE:
            raise DataError(f"images of {spec} are too large for a block of {layout.MAX_VALUES} values")
        given = (layout.NO_MODEL, 0) if codec is None else (codec.identity, codec.profile)
        self._block = min(block, layout.MAX_BLOCK)
        self.header, self.done = Header(spec, self._most(spec), *given), Written()
        self._file, self._codec, self._verify = file, codec, verify
        self._spec = spec  # of the images that are held
        self._held: list[Levels] = []  # less than a block
        self._entries: list[tuple[bytes, int]] = []  # (description, CRC of the payload)
        self._content, self._stored, self._ended = 0, 0, False
        self._write(self.header.pack())

    def _most(self, spec: ImageSpec) -> int:
        """Images of a block."""
        most = min(self._block, layout.MAX_VALUES // spec.dims)
        return most if self._resizable is None else min(most, max(1, PIXELS // (spec.height * spec.width)))

    def put(self, images: Levels | Tensor) -> None:
        """Take images, uint8 [n, C, H, W], and write the blocks that are complete.

        Raises:
            DataError: for another shape, or levels that are too high.
            UsageError: for images that are larger than a model of any size takes.
        """
        found = np.asarray(images)
        spec = self._spec_of(found)
        if spec != self._spec:
            self._put_held()
            self._spec = spec
        if found.size and found.max() >= spec.levels:
            raise DataError(f"level {found.max()} is outside the model's {spec.levels}, 0 to {spec.levels - 1}")
        most = self._most(spec)
        for first in range(0, len(found), most):
            self._held.append(found[first : first + most].copy())
            if sum(map(len, self._held)) >= most:
                self._put_held()

    def _spec_of(self, found: Levels) -> ImageSpec:
        """Shape and levels of images that are given."""
        spec, size = self.header.spec, found.shape[2:]
        same = found.dtype == np.uint8 and found.ndim == 4 and found.shape[1] == spec.channels
        if same and self._resizable is not None and size != spec.shape[1:]:
            spec = replace(spec, height=size[0], width=size[1])
            layout.check_size(spec)
            return spec
        if not same or size != spec.shape[1:]:
            raise DataError(f"images are {found.dtype} {list(found.shape)}, not uint8 [N, C, H, W] of {spec}")
        return spec

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
        self._write(index + Trailer(len(index), self._content).pack(self.header, index))
        return self.done

    def _end_blocks(self) -> None:
        if not self._ended:
            self._put_held()
            self._ended = True
            self._write(layout.varint(layout.END))

    def _put_held(self) -> None:
        """Write the images that are held, a block at most; the rest stays."""
        levels: Levels = np.concatenate((np.empty((0, *self._spec.shape), np.uint8), *self._held))
        most = self._most(self._spec)
        if len(levels):
            self._put_block(levels[:most])
        rest = levels[most:]
        self._held = [rest.copy()] if len(rest) else []

    def _put_block(self, levels: Levels) -> None:
        number, n, header, spec = len(self._entries), len(levels), self.header, self._spec
        if self.done.images + n > layout.MAX_IMAGES:
            raise DataError(f"a file holds up to {layout.MAX_IMAGES} images; write several")
        payload = self._coded(levels)
        if payload is not None:  # a decoder reads zeros after the end
            needed = layout.fewest_bytes(self.done.values + levels.size, self.done.size)
            payload = payload.ljust(needed, b"\0")
        sized = spec != header.spec
        tag = layout.tag_of(None if payload is None else len(payload), counted=sized or n < header.block)
        if payload is None:
            payload = layout.pack(levels, spec)
            self.done.raw += 1
        block = Block(number, self.done.images, n, spec, sized, tag, self.done.size, None)
        check = layout.block_check(header, block.first, levels, payload)
        self._entries.append((block.description, zlib.crc32(payload)))
        self.done.checks.append(self._entries[-1][1])
        self._content = zlib.crc32(check.to_bytes(4, "little"), self._content)
        self._write(block.head(check) + payload)
        self.done.images += n
        self.done.values += levels.size
        self.done.blocks += 1
        self.done.payload += len(payload)

    def _coded(self, levels: Levels) -> bytes | None:
        """The payload by the model, or None if packed levels are not larger, or it does not decode to the images."""
        if self._codec is None:
            return None
        images, spec, codec = torch.from_numpy(levels), self._spec, self._codec
        if self._resizable is not None:
            codec = self._resizable.resized(spec.height, spec.width)
        payload = codec.encode(images)
        tag = layout.tag_of(len(payload), counted=True)
        if 2 * len(layout.varint(tag)) + len(payload) >= 2 + layout.packed_size(spec, len(levels)):
            return None
        if self._verify and not torch.equal(codec.decode(payload, len(levels)), images):
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
