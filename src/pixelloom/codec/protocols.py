"""What a ``.pxl`` file needs of a model: to encode and decode one block of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from pixelloom.core.types import ImageSpec


class BlockCodec(Protocol):
    """A model that compresses blocks of images. Equal integers give equal bytes on every machine."""

    @property
    def spec(self) -> ImageSpec:
        """Shape and levels of the images."""

    @property
    def identity(self) -> bytes:
        """SHA-256 of the exported integers, 32 bytes, not all zero."""

    @property
    def profile(self) -> int:
        """Number of the arithmetic's rules, 0 to 65535; a decoder must have the same."""

    def encode(self, levels: Tensor) -> bytes:
        """The payload of one block, levels uint8 [B, C, H, W] with B >= 1."""

    def decode(self, payload: bytes, n: int) -> Tensor:
        """Levels uint8 [n, C, H, W] of a payload. Any payload gives some levels; a wrong one gives wrong levels."""


@runtime_checkable
class Joint(Protocol):
    """A codec that decodes several blocks at once, faster than one after the other."""

    def decode_blocks(self, payloads: Sequence[bytes], n: int) -> Tensor:
        """Levels uint8 [blocks, n, C, H, W] of payloads of n images each; a wrong one does not affect the others."""


@runtime_checkable
class Resizable(Protocol):
    """A codec that may take images of other sizes."""

    @property
    def is_local(self) -> bool:
        """Whether it takes images of any size."""

    def resized(self, height: int, width: int) -> BlockCodec:
        """The same model, with the same identity, for images of another size.

        Raises:
            ModelError: if the model is for one size.
            UsageError: for a size that is out of range.
        """


def of_any_size(codec: object) -> Resizable | None:
    """The codec, if it takes images of any size."""
    return codec if isinstance(codec, Resizable) and codec.is_local else None
