"""Reading ``.pxl`` files: any image by decoding its block, all of them, or those that damage has left intact."""

from __future__ import annotations

import contextlib
import io
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor

from pixelloom.codec import layout
from pixelloom.codec.layout import AGAIN, HEADER_SIZE, SALVAGE, TRAILER_SIZE, Block, Header, Index, Trailer
from pixelloom.codec.protocols import BlockCodec, Joint, of_any_size
from pixelloom.core.errors import CodecError, DataError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.io.reading import printable

Finder = Callable[[bytes], BlockCodec]
"""Finds the model of an identity, or raises."""
JOINT, JOINT_PIXELS = 4, 1 << 18  # blocks decoded at once, and their pixels in all, since memory grows with them
MAX_MANIFEST = 1 << 24  # bytes, as stored


class Lost(NamedTuple):
    """A block that cannot be decoded."""

    block: Block
    error: CodecError


class PxlFile:
    """An open ``.pxl`` file: a sequence of images, levels uint8 [C, H, W].

    Use it in a ``with`` statement, or call :meth:`close`. An index decodes one block, and keeps it for the next index.

    Args:
        file: path, content, or a file opened for reading bytes, which can seek.
        model: the model of the images, or a function from its identity to the model, called when it is first needed.
        name: of the file, in errors.
        salvage: accept a damaged end; :meth:`blocks_by_heads` finds what there is.

    Raises:
        CodecError: if header, index or end are damaged, or the file is cut.
        DataError: if the file cannot be read.
    """

    def __init__(
        self, file: Path | str | bytes | BinaryIO, model: BlockCodec | Finder | None = None, *, name: str = "",
        salvage: bool = False,
    ) -> None:  # fmt: skip
        self.name = name or (printable(str(file)) if isinstance(file, Path | str) else "compressed data")
        self._model, self._codec, self._owned = model, None, False
        if isinstance(file, bytes):
            file = io.BytesIO(file)
        elif isinstance(file, Path | str):
            self._owned = True
            try:
                file = Path(file).open("rb")  # noqa: SIM115  # closed by close()
            except OSError as error:
                raise DataError(f"{self.name}: cannot be read: {error.strerror}") from error
        self._file = file
        self._last: tuple[int, Tensor] | None = None
        try:
            self.size = file.seek(0, io.SEEK_END)
            self.header = Header.parse(self._at(0, min(HEADER_SIZE, self.size)), self.name)
            self.trailer, self.index, self.end_error = Trailer(0, 0), Index([], 0, 0, 0), None
            try:
                self.trailer, self.index = self._end()
            except CodecError as error:
                if not salvage:
                    raise
                self.end_error = error
        except BaseException:
            self.close()
            raise

    _codec: BlockCodec | None
    end_error: CodecError | None
    """Why index or end are not trusted, with ``salvage``."""

    @property
    def spec(self) -> ImageSpec:
        """Levels and channels of the images, and the size of most of them; that of others is in ``index.blocks``."""
        return self.header.spec

    @property
    def codec(self) -> BlockCodec:
        """The model of the file.

        Raises:
            CodecError: if it is missing, or another one is given.
        """
        if self._codec is None:
            found, identity = self._model, self.header.identity
            if found is None:
                raise CodecError(f"{self.name}: needs the model {identity.hex()}; give its export")
            codec = found(identity) if callable(found) and not hasattr(found, "decode") else cast(BlockCodec, found)
            self._codec = self._checked_model(codec)
        return self._codec

    def _checked_model(self, codec: BlockCodec) -> BlockCodec:
        """The model.

        Raises:
            CodecError: for another identity, profile, shape or number of levels.
        """
        identity, header, own = self.header.identity, self.header, codec.spec
        if codec.identity != identity:
            raise CodecError(
                f"{self.name}: header: was compressed by the model {identity.hex()}, the given one is "
                f"{codec.identity.hex()}; give the export that the file was compressed with"
            )
        if of_any_size(codec) is not None:
            own = replace(own, height=header.spec.height, width=header.spec.width)
        if codec.profile != header.profile or own != header.spec:
            raise CodecError(
                f"{self.name}: header: is of {header.spec} and profile {header.profile}, its model of {codec.spec} and "
                f"profile {codec.profile}; the header is forged: {AGAIN}"
            )
        return codec

    def _codec_of(self, block: Block) -> BlockCodec:
        """The model for the size of a block.

        Raises:
            CodecError: if it has none, or decoding would take more memory than any block that is written.
        """
        codec, spec = self.codec, block.spec
        if codec.spec != spec:
            resizable = of_any_size(codec)
            if resizable is not None and block.n * spec.height * spec.width <= layout.MAX_PIXELS:
                with contextlib.suppress(UsageError):
                    return resizable.resized(spec.height, spec.width)
            raise CodecError(
                f"{self.name}: {block}: {block.n} images of {spec.height}x{spec.width} pixels, which its model does "
                f"not take; the file is forged: {SALVAGE}"
            )
        return codec

    def __len__(self) -> int:
        """Number of images in blocks."""
        return self.index.images

    def __getitem__(self, i: int) -> Tensor:
        """Image i, uint8 [C, H, W]; decodes its block only.

        Raises:
            IndexError: if there is none.
            CodecError: if its block is damaged.
        """
        i = range(len(self))[i]
        block = self.index.blocks[bisect_right(self.index.blocks, i, key=lambda block: block.first) - 1]
        if self._last is None or self._last[0] != block.number:
            self._last = block.number, self.decode(block)
        return self._last[1][i - block.first].clone()

    def __iter__(self) -> Iterator[Tensor]:
        for block in self.blocks():
            yield from block

    def blocks(self) -> Iterator[Tensor]:
        """All blocks in order, uint8 [n, C, H, W]; at the end, that they are all of this file.

        Raises:
            CodecError: at the first block that is damaged.
        """
        for group in self._groups():
            try:
                found = [self._read(block) for block in group]
            except CodecError:  # the blocks before the damaged one are intact
                for block in group:
                    yield self.decode(block)
                raise
            if len(group) == 1:
                yield self._decoded(group[0], *found[0])
                continue
            codec = cast(Joint, self._codec_of(group[0]))
            decoded = codec.decode_blocks([payload for _, payload in found], group[0].n)
            for block, (check, payload), levels in zip(group, found, decoded, strict=True):
                yield self._checked(block, check, payload, levels)
        self.check_content()

    def _groups(self) -> Iterator[list[Block]]:
        """Blocks that are decoded at once: up to four coded ones of equal shape, which is faster."""
        waiting: list[Block] = []
        for block in self.index.blocks:
            small = JOINT * block.n * block.spec.height * block.spec.width <= JOINT_PIXELS
            fits = small and not block.raw and isinstance(self._codec_of(block), Joint)
            if waiting and not (
                fits and len(waiting) < JOINT and (block.spec, block.n) == (waiting[0].spec, waiting[0].n)
            ):
                yield waiting
                waiting = []
            if fits:
                waiting.append(block)
            else:
                yield [block]
        if waiting:
            yield waiting

    def check_content(self) -> None:
        """Raises CodecError unless the end was written for the CRCs of all blocks and of the manifest."""
        content = 0
        for block in self.index.blocks:
            content = zlib.crc32(self._at(block.start + block.head_size - 4, 4), content)
        if self.index.manifest < self.index.end:
            content = zlib.crc32(self._at(self.index.end - 4, 4), content)
        if content != self.trailer.content:
            raise CodecError(f"{self.name}: end: a block or the names are of another file; {AGAIN}")

    def decode(self, block: Block) -> Tensor:
        """Decode a block, uint8 [n, C, H, W], and check it.

        Raises:
            CodecError: if it is damaged; names the block and its images.
        """
        return self._decoded(block, *self._read(block))

    def _read(self, block: Block) -> tuple[int, bytes]:
        """The CRC in the head of a block, and its payload."""
        length, where = block.length, f"{self.name}: {block}"
        data = self._at(block.start, block.head_size + length)
        payload = data[block.head_size :]
        if len(payload) != length:
            raise CodecError(f"{where}: the file is cut; {SALVAGE}")
        check = int.from_bytes(data[block.head_size - 4 : block.head_size], "little")
        if data[: block.head_size] != block.head(check):
            raise CodecError(f"{where}: its head is damaged; {SALVAGE}")
        if block.check is not None and zlib.crc32(payload) & 0xFFFF != block.check:
            raise CodecError(f"{where}: is damaged, or of another file; {SALVAGE}")
        return check, payload

    def _decoded(self, block: Block, check: int, payload: bytes) -> Tensor:
        if not block.raw:
            return self._checked(block, check, payload, self._codec_of(block).decode(payload, block.n))
        try:
            levels = torch.from_numpy(layout.unpack(payload, block.spec, block.n))
        except ValueError as error:
            raise CodecError(f"{self.name}: {block}: {error}; {SALVAGE}") from error
        return self._checked(block, check, payload, levels)

    def _checked(self, block: Block, check: int, payload: bytes, levels: Tensor) -> Tensor:
        if layout.block_check(self.header, block.first, levels.numpy(), payload) != check:
            raise CodecError(f"{self.name}: {block}: is damaged, its images have another CRC; {SALVAGE}")
        return levels

    def payload(self, block: Block) -> bytes:
        """The payload of a block, unchecked."""
        return self._at(block.start + block.head_size, block.length)

    def intact(self) -> Iterator[tuple[Block, Tensor] | Lost]:
        """Blocks that can be decoded, and those that cannot, in order; opened with ``salvage``.

        Places are taken from the index, also from a damaged one, and by walking from head to head: a block is accepted
        only if its own CRC holds.

        Raises:
            CodecError: if the model is missing; at the end, if all blocks are intact but one is of another file.
        """
        if self.header.identity != layout.NO_MODEL:
            _ = self.codec
        by_heads = {block.number: block for block in (self._walk() if self.end_error else ())}
        by_index = {block.number: block for block in self._places()}
        whole = self.end_error is None
        for number in range(max((*by_heads, *by_index), default=-1) + 1):
            error = None
            for places in (by_index, by_heads):
                block = places.get(number)
                if block is None or (places is by_heads and block == by_index.get(number)):  # tried already
                    continue
                try:
                    levels = self.decode(block)
                except CodecError as found:
                    error = error or Lost(block, found)
                else:
                    yield block, levels
                    break
            else:
                assert error is not None
                whole = False
                yield error
        if whole:
            self.check_content()

    def _places(self) -> list[Block]:
        """Blocks by the index; by a damaged one if its lengths fit the file."""
        if self.end_error is None:
            return self.index.blocks
        try:
            _, index = self._end(trusted=False)
        except CodecError:
            return []
        return [block._replace(check=None) for block in index.blocks]

    def _walk(self) -> Iterator[Block]:
        """Blocks from head to head, up to the end or what is no head."""
        block: Block | None = None
        start, values = HEADER_SIZE, 0
        while True:
            try:
                block, _ = layout.read_block(self._at(start, layout.HEAD_SIZE), 0, self.header, block)
                values += block.n * block.spec.dims
                layout.check_work(values, block)
            except ValueError:  # the end, also
                return
            start = block.end
            if start > self.size:
                return
            yield block

    def stored(self, offset: int, length: int) -> bytes:
        """Bytes of the part with stored files."""
        return self._at(self.index.stored + offset, length)

    def manifest(self) -> bytes:
        """The manifest as it is stored, without its CRC; empty if there is none.

        Raises:
            CodecError: if it is damaged.
        """
        index = self.index
        if self.end_error is not None:
            self.trailer, index = self._end(trusted=False)  # the manifest has a CRC of its own
            self.index = index
        length = index.end - index.manifest
        if not length:
            return b""
        data = self._at(index.manifest, length) if 4 < length <= MAX_MANIFEST else b""
        if not data or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
            raise CodecError(f"{self.name}: names: the manifest is damaged; {SALVAGE}")
        return data[:-4]

    def _end(self, *, trusted: bool = True) -> tuple[Trailer, Index]:
        """Trailer and index; without ``trusted``, of a damaged end, if its lengths fit the file."""
        place = max(self.size - TRAILER_SIZE, HEADER_SIZE)
        tail = self._at(place, TRAILER_SIZE)
        damaged = f"{self.name}: end: is damaged or missing, the file is cut or has bytes after its end; {SALVAGE}"
        if len(tail) < TRAILER_SIZE:
            raise CodecError(damaged)
        trailer = layout.parse_trailer(tail)
        at = place - trailer.index_size
        if at < HEADER_SIZE + 1:
            raise CodecError(damaged)
        index = self._at(at, trailer.index_size)
        if trusted and trailer.pack(self.header, index) != tail:
            raise CodecError(damaged)
        try:
            found = layout.parse_index(index, self.header, at)
        except ValueError as error:
            raise CodecError(f"{self.name}: index: {error}; {SALVAGE}") from error
        if trusted and self._at(found.stored - 1, 1) != layout.varint(layout.END):
            raise CodecError(f"{self.name}: end of the blocks: is damaged; {SALVAGE}")
        return trailer, found

    def _at(self, start: int, length: int) -> bytes:
        """Up to ``length`` bytes from an offset."""
        try:
            self._file.seek(start)
            return self._file.read(length)
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._owned:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def whole(file: PxlFile) -> Tensor:
    """All images of a file in memory, uint8 [N, C, H, W]. Memory grows with what is decoded, not with what is claimed.

    Raises:
        CodecError: at the first block that is damaged.
        UsageError: for images of several sizes, or more than 2^32 values.
    """
    specs = {block.spec for block in file.index.blocks} or {file.spec}
    if len(specs) > 1:
        raise UsageError(f"{file.name}: holds images of {len(specs)} sizes; read them with pixelloom.open_pxl")
    spec = specs.pop()
    if len(file) * spec.dims > 1 << 32:
        raise UsageError(f"{file.name}: {len(file)} images are too many for memory; read them with pixelloom.open_pxl")
    found = list(file.blocks())
    return torch.cat(found) if found else torch.from_numpy(np.empty((0, *spec.shape), np.uint8))
