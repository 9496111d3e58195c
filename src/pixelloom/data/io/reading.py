"""Options of reading image files and arrays, and the errors of single files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from PIL import ImageColor

from pixelloom.core.errors import DataError, UsageError
from pixelloom.data.io.value_range import ValueRange

MAX_SIDE = 1 << 15
"""Largest height and width, checked in the header."""


class DamageError(DataError):
    """A file that cannot be decoded: truncated, corrupted, of an unknown format, or with an implausible header."""


class SizeError(DataError):
    """A valid image of another size than requested, under ``fit="error"``."""


@dataclass(frozen=True)
class Reading:
    """Options for reading image files and arrays.

    Attributes:
        size: (height, width) in pixels of all images; None if they have one size.
        gray: convert to one channel, ITU-R 601-2 luma (299 R + 587 G + 114 B) / 1000.
        fit: for images of another size, center crop and resize, resize, resize and pad, cut into tiles, or raise.
        background: color (name or #rrggbb) behind transparent pixels and around padded images.
        bits: 8 converts 16-bit values by ``value >> 8``; None raises.
        frames: frames to read of animated and multipage files.
        bad_images: skip damaged files up to 1 % of all files, or raise at the first.
        range: the values that become 0..255 in files of more than 8 bits and arrays other than uint8; None raises.
        shape: shape of an image in arrays of flat images: (H, W), (C, H, W) or (H, W, C).
        transpose: swap rows and columns of the images of arrays.
        resample: the filter for resizing: antialias averages, nearest copies pixels and adds no colors.

    Raises:
        UsageError: for an invalid background or size, tiles without a size, or bits together with range.
    """

    size: tuple[int, int] | None = None
    gray: bool = False
    fit: Literal["crop", "resize", "pad", "tiles", "error"] = "crop"
    background: str = "white"
    bits: Literal[8] | None = None
    frames: Literal["first", "all"] = "first"
    bad_images: Literal["skip", "error"] = "skip"
    range: ValueRange | None = None
    shape: tuple[int, ...] | None = None
    transpose: bool = False
    resample: Literal["antialias", "nearest"] = "antialias"

    def __post_init__(self) -> None:
        if self.size is not None and not all(1 <= side <= MAX_SIDE for side in self.size):
            raise UsageError(f"size: sides must be 1 to {MAX_SIDE}, not {self.size[0]}x{self.size[1]}")
        if self.fit == "tiles" and self.size is None:
            raise UsageError("fit: tiles have the size of --size; set it")
        if self.bits is not None and self.range is not None:
            raise UsageError("bits: --bits 8 is --range 0:65535; give one of bits and range")
        color(self.background)

    @property
    def colored_background(self) -> bool:
        """Whether the background is not a gray and images are not converted to gray."""
        return not self.gray and len(set(color(self.background))) > 1


def printable(name: str) -> str:
    """A file name for messages: escapes unprintable characters and shortens long names in the middle."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
    return safe if len(safe) <= 100 else f"{safe[:50]}...{safe[-45:]}"


def listed(names: list[str], most: int = 5) -> str:
    """The first names, as in ``a, b and 3 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


@lru_cache(maxsize=16)
def color(text: str) -> tuple[int, int, int]:
    """(R, G, B) of a color name or #rrggbb.

    Raises:
        UsageError: for another text.
    """
    try:
        rgb = ImageColor.getrgb(text)
    except ValueError:
        rgb = None
    if rgb is None or len(rgb) != 3:
        raise UsageError(f"background: {text!r} is not a color; use a name such as white, or #rrggbb")
    return rgb
