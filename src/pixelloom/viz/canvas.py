"""Layout of composed images: text, stacks, labels, margins and tiles, for everything that Pillow draws here.

A block is an image on white. Blocks are stacked below or beside each other; the result is RGB if one of them is in
color, else gray. All text is set in DejaVu Sans, which matplotlib brings along and which covers most alphabets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pixelloom.core.errors import UsageError
from pixelloom.viz import backend

MAX_PIXELS = 89_000_000
"""The largest image that is written: Pillow warns of a decompression bomb when it opens a larger one."""
INK, SOFT, RULE = "#1d2023", "#5d636a", "#dcdcd6"
"""Colors of text, of secondary text and of lines between rows."""
TEXT = 15
"""Pixels: the usual size of text."""
_LEADING = 1.4  # height of a line, in units of the size of its text
_TILE = 96  # pixels: the side to which a small image is enlarged; an 8x8 digit is easy to read then
_WIDEST = 2400  # pixels: wider grids are enlarged less

Scalars = TypeVar("Scalars", bound=npt.NDArray[Any])


class Line(NamedTuple):
    """A line of text; ``size`` in pixels."""

    text: str
    size: int = TEXT
    color: str = INK
    bold: bool = False


def check_size(height: int, width: int, what: str, advice: str = "draw fewer") -> None:
    """Refuse an image of more than MAX_PIXELS before it is drawn.

    Raises:
        UsageError: naming ``what`` and the size, with the advice.
    """
    if height * width > MAX_PIXELS:
        raise UsageError(f"{what} would have {height} x {width} pixels, too many to be opened; {advice}")


# Text


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans."""
    backend.ready()
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size)


def text_width(text: str, size: int = TEXT, bold: bool = False) -> int:
    """Width of a text in pixels, rounded up."""
    return math.ceil(font(size, bold).getlength(text))


def wrap(line: Line, width: int) -> list[str]:
    """Break a text into lines of at most ``width`` pixels, between words where possible."""
    letters, lines = font(line.size, line.bold), [""]
    for word in line.text.split():
        joined = f"{lines[-1]} {word}".strip()
        if letters.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] * bool(lines[-1])
        for letter in word:
            if lines[-1] and letters.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines if any(lines) else []


def paragraph(lines: Sequence[Line], width: int | None = None) -> Image.Image:
    """Lines below each other, left-aligned and wrapped to ``width``; without it as wide as the longest line."""
    if width is None:
        width = max((text_width(line.text, line.size, line.bold) for line in lines), default=1)
        set_lines = [(line.text, line) for line in lines]
    else:
        set_lines = [(part, line) for line in lines for part in wrap(line, width)]
    heights = [round(_LEADING * line.size) for _, line in set_lines]
    block, y = Image.new("RGB", (max(1, width), max(1, sum(heights))), "white"), 0
    pen = ImageDraw.Draw(block)
    for (part, line), height in zip(set_lines, heights, strict=True):
        pen.text((0, y), part, line.color, font(line.size, line.bold))
        y += height
    return block


def row_labels(texts: Sequence[str], centers: Sequence[float], height: int, size: int = TEXT) -> Image.Image:
    """Labels before the rows of a block of a height: right-aligned, each centered vertically at its row's center."""
    width = max(text_width(text, size) for text in texts) + size
    block = Image.new("L", (width, height), "white")
    pen = ImageDraw.Draw(block)
    for text, y in zip(texts, centers, strict=True):
        pen.text((width - size / 2, y), text, "black", font(size), anchor="rm")
    return block


def column_labels(texts: Sequence[str], centers: Sequence[float], width: int, size: int = TEXT) -> Image.Image:
    """Labels above or below the columns of a block of a width, each centered at its column's center."""
    block = Image.new("L", (width, 2 * size), "white")
    pen = ImageDraw.Draw(block)
    for text, x in zip(texts, centers, strict=True):
        pen.text((x, size), text, "black", font(size), anchor="mm")
    return block


# Stacking


def vstack(blocks: Sequence[Image.Image], gap: int = 0, align: Literal["left", "right"] = "left") -> Image.Image:
    """Blocks below each other, ``gap`` pixels apart."""
    width, height = max(block.width for block in blocks), sum(block.height + gap for block in blocks) - gap
    canvas, y = _blank(blocks, width, height), 0
    for block in blocks:
        _paste(canvas, block, 0 if align == "left" else width - block.width, y)
        y += block.height + gap
    return canvas


def hstack(blocks: Sequence[Image.Image], gap: int = 0, align: Literal["top", "middle"] = "top") -> Image.Image:
    """Blocks beside each other, ``gap`` pixels apart."""
    width, height = sum(block.width + gap for block in blocks) - gap, max(block.height for block in blocks)
    canvas, x = _blank(blocks, width, height), 0
    for block in blocks:
        _paste(canvas, block, x, 0 if align == "top" else (height - block.height) // 2)
        x += block.width + gap
    return canvas


def pad(block: Image.Image, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Image.Image:
    """A block with white margins."""
    canvas = _blank([block], block.width + left + right, block.height + top + bottom)
    _paste(canvas, block, left, top)
    return canvas


def widen(block: Image.Image, width: int) -> Image.Image:
    """A block with white to its right, at least ``width`` pixels wide."""
    return pad(block, right=max(0, width - block.width))


def _blank(blocks: Sequence[Image.Image], width: int, height: int) -> Image.Image:
    mode = "L" if all(block.mode == "L" for block in blocks) else "RGB"
    return Image.new(mode, (width, height), "white")


def _paste(canvas: Image.Image, block: Image.Image, x: int, y: int) -> None:
    canvas.paste(block, (x, y), block if block.mode == "RGBA" else None)


# Tiles


def enlarge(values: Scalars, size: tuple[int, int]) -> Scalars:
    """[..., h, w] -> [..., *size] by nearest neighbor, without smoothing."""
    rows, columns = (np.arange(side) * n // side for side, n in zip(size, values.shape[-2:], strict=True))
    large: Any = values[..., rows[:, None], columns]
    return cast(Scalars, large)


@dataclass(frozen=True)
class TileLayout:
    """Where the tiles of a grid lie, and how large it is, in pixels."""

    columns: int
    rows: int
    scale: int
    margin: int
    tile: tuple[int, int]
    """Height and width of an enlarged image."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the grid."""
        height, width = self.corner(self.rows * self.columns)[0], self.corner(self.columns - 1)[1]
        return height, width + self.tile[1] + self.margin

    def corner(self, i: int) -> tuple[int, int]:
        """Row and column at which tile i begins."""
        y, x = divmod(i, self.columns)
        return self.margin + y * (self.tile[0] + self.margin), self.margin + x * (self.tile[1] + self.margin)

    @property
    def row_centers(self) -> list[float]:
        """Vertical center of each row."""
        return [self.corner(row * self.columns)[0] + self.tile[0] / 2 for row in range(self.rows)]

    @property
    def column_centers(self) -> list[float]:
        """Horizontal center of each column."""
        return [self.corner(column)[1] + self.tile[1] / 2 for column in range(self.columns)]


def tile_layout(
    n: int,
    size: tuple[int, int],
    columns: int | None = None,
    scale: int | None = None,
    margin: int | None = None,
) -> TileLayout:
    """Lay out n images of a size (H, W) in a grid.

    Args:
        n: number of images.
        size: height and width of an image.
        columns: images a row; by default as square a grid as possible.
        scale: pixels of the drawing for a pixel of an image; by default small images become about 96 pixels wide.
        margin: pixels between images and around them; by default it grows with the scale.

    Raises:
        UsageError: for columns, scale or margin that are too small, or more than MAX_PIXELS.
    """
    for name, value, least in (("columns", columns, 1), ("scale", scale, 1), ("margin", margin, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name}: must be {least} or more, not {value}")
    height, width = size
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    if scale is None:
        scale = max(1, min(round(_TILE / max(height, width)), _WIDEST // (columns * width)))
    margin = 1 + scale // 4 if margin is None else margin
    layout = TileLayout(columns, math.ceil(n / columns), scale, margin, (height * scale, width * scale))
    check_size(
        *layout.size,
        f"a grid of {n} images",
        "draw fewer or smaller ones, or save them as separate files or as an array",
    )
    return layout
