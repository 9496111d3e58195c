"""Compression of arrays: ``pixelloom.compress``, ``decompress`` and ``open_pxl``."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from pixelloom.codec.container import BLOCK, Writer, batches
from pixelloom.codec.lookup import find_codec
from pixelloom.codec.protocols import BlockCodec
from pixelloom.codec.reader import Finder, PxlFile, whole
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec, Levels


def compress(
    images: Levels | Tensor | Iterable[Levels | Tensor],
    model: BlockCodec | str | Path,
    *,
    block: int = BLOCK,
    verify: bool = True,
) -> bytes:
    """Compress images without loss, as the content of a ``.pxl`` file.

    Args:
        images: levels uint8 [N, C, H, W], below those of the model; or an iterable of such arrays, which may differ in
            size with a model of any size. A block holds images of one size that follow each other.
        model: exported model, its path, or the name of a packaged one.
        block: images a block, 1 to 4096; a larger block is smaller, a smaller one is faster to open in the middle. With
            a model of any size, a block has at most 2^20 pixels, or one image.
        verify: whether to decode each block and compare it.

    Raises:
        DataError: if the images do not fit the model.
        ModelError: if the model is missing or damaged.
        UsageError: for images of more than 2^22 pixels, with a model of any size.
    """
    if not 1 <= block <= 4096:
        raise UsageError(f"block: 1 to 4096 images, not {block}")
    buffer = io.BytesIO()
    codec = find_codec(model, None) if isinstance(model, str | Path) else model
    portions = iter(batches(images))
    first = next(portions, None)
    writer = Writer(buffer, codec, spec=_spec(codec, first), block=block, verify=verify)
    for batch in () if first is None else chain((first,), portions):
        writer.put(batch)
    writer.close()
    return buffer.getvalue()


def _spec(codec: BlockCodec, images: Levels | Tensor | None) -> ImageSpec:
    """Shape and levels of images; those of the model, if their size is none."""
    if images is None or images.ndim != 4 or not len(images) or min(images.shape) < 1:
        return codec.spec
    return replace(codec.spec, height=images.shape[2], width=images.shape[3])


def decompress(data: bytes, model: BlockCodec | str | Path | None = None) -> Tensor:
    """The images of :func:`compress`, uint8 [N, C, H, W].

    Args:
        data: content of a ``.pxl`` file.
        model: exported model, its path, or the name of a packaged one; default: the packaged one that the file names.

    Raises:
        CodecError: if the file is damaged, or of a model that is not found.
        UsageError: if it holds files that were stored as they are, images of several sizes, or too many for memory:
            read them with :func:`open_pxl`.
    """
    with PxlFile(data, _finder(model, None)) as file:
        if file.index.manifest > file.index.stored:
            raise UsageError(f"{file.name}: holds stored files as well; use `pixelloom decompress`")
        return whole(file)


def open_pxl(file: Path | str | BinaryIO | bytes, model: BlockCodec | str | Path | None = None) -> PxlFile:
    """Open a ``.pxl`` file as a sequence of images: ``open_pxl(file)[i]`` decodes one block.

    Images are in the order of the blocks. `pixelloom compress` puts images of equal size together; for each file,
    `pixelloom list --json` names its ``image``.

    Args:
        file: path, content, or a file opened for reading bytes.
        model: as in :func:`decompress`; default: the packaged one, or an export beside the file.

    Raises:
        CodecError: if the file is damaged, or of a model that is not found.
        DataError: if it cannot be read.
    """
    return PxlFile(file, _finder(model, Path(file) if isinstance(file, Path | str) else None))


def _finder(model: BlockCodec | str | Path | None, beside: Path | None) -> BlockCodec | Finder:
    """The model, or the function that finds it once a coded block is read."""
    if model is None or isinstance(model, str | Path):
        return partial(_found, model, beside)
    return model


def _found(model: str | Path | None, beside: Path | None, identity: bytes) -> BlockCodec:
    return find_codec(model, identity, beside)
