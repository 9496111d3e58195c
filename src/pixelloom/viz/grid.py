"""Grids of images: samples side by side, tables with named rows, and PNG files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixelloom.core.atomic import write_bytes
from pixelloom.core.errors import UsageError
from pixelloom.core.types import Levels
from pixelloom.data.pixels import to_bytes

_TILE = 96  # pixels: a side at which a person sees what an 8x8 digit is
_WIDEST = 2400  # pixels: wider grids are enlarged less
_LETTER = 18  # pixels: size of a name
_GROUND = 128  # the gray between tiles, told apart from black and white pictures alike
LARGEST_SHEET = 89_000_000  # pixels; Pillow takes a larger picture for an attack
_COLORS = (1, 3)  # channels of a picture: gray, RGB


def grid(
    images: Levels, levels: int, columns: int | None = None, scale: int | None = None, margin: int | None = None
) -> Image.Image:
    """Images side by side, row by row, each pixel a square of ``scale`` pixels (nearest neighbor, no smoothing).

    Args:
        images: uint8 [N, C, H, W]; one channel is gray, three are RGB, of any other number each is shown beside the
            next in gray.
        levels: number of levels; 0 is black and ``levels - 1`` full intensity.
        columns: tiles a row; by default as square as can be.
        scale: by default such that small images come out about 96 pixels wide.
        margin: pixels between tiles and around; by default a little more the larger the tiles.

    Raises:
        UsageError: without images, or for a layout that :func:`sheet` refuses.
    """
    if images.ndim != 4 or not len(images):
        raise UsageError(f"images: a grid needs one image or more, [N, C, H, W], not {list(images.shape)}")
    layout = sheet(len(images), images.shape[1:], columns, scale, margin)
    tiles = _display(images, levels)
    paper = np.full((*layout.size, tiles.shape[-1]), _GROUND, np.uint8)
    for i, tile in enumerate(tiles):
        large = tile.repeat(layout.scale, axis=0).repeat(layout.scale, axis=1)
        y, x = layout.corner(i)
        paper[y : y + large.shape[0], x : x + large.shape[1]] = large
    return Image.fromarray(paper[:, :, 0] if tiles.shape[-1] == 1 else paper)


@dataclass(frozen=True)
class Sheet:
    """Where the tiles of a grid lie, and how large it is, in pixels."""

    columns: int
    rows: int
    scale: int
    margin: int
    tile: tuple[int, int]
    """Height and width of an enlarged image."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        high, wide = self.corner(self.rows * self.columns)[0], self.corner(self.columns - 1)[1]
        return high, wide + self.tile[1] + self.margin

    def corner(self, i: int) -> tuple[int, int]:
        """Row and column at which tile i begins."""
        y, x = divmod(i, self.columns)
        return self.margin + y * (self.tile[0] + self.margin), self.margin + x * (self.tile[1] + self.margin)


def sheet(
    n: int,
    shape: tuple[int, ...],
    columns: int | None = None,
    scale: int | None = None,
    margin: int | None = None,
) -> Sheet:
    """How :func:`grid` lays out n images of a shape (C, H, W).

    Raises:
        UsageError: for columns, scale or margin that are too small, or more pixels than programs open without alarm.
    """
    for name, value, least in (("columns", columns, 1), ("scale", scale, 1), ("margin", margin, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name}: must be {least} or more, not {value}")
    channels, height, width = shape
    width *= 1 if channels in _COLORS else channels
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    if scale is None:
        scale = max(1, min(round(_TILE / max(height, width)), _WIDEST // (columns * width)))
    margin = 1 + scale // 4 if margin is None else margin
    found = Sheet(columns, math.ceil(n / columns), scale, margin, (height * scale, width * scale))
    if math.prod(found.size) > LARGEST_SHEET:
        raise UsageError(
            f"a grid of {n} images would have {found.size[0]} x {found.size[1]} pixels, too many to be opened; "
            "draw fewer or smaller ones, or save them singly or as an array"
        )
    return found


def table(
    images: Levels,
    levels: int,
    rows: int,
    *,
    left: Levels | None = None,
    right: Levels | None = None,
    names: Sequence[str] = (),
    scale: int | None = None,
) -> Image.Image:
    """A grid of which each row is drawn by something of its own; as :func:`grid`, but for

    Args:
        images: uint8 [N, C, H, W]; image i belongs to row i % rows, N is a multiple of it.
        levels: as there.
        rows: their number.
        left: what each row was drawn by, as images [rows, C, H, W], at its beginning.
        right: the truth of each row, at its end.
        names: of the rows, written before them.
        scale: as there.
    """
    drawn = images.reshape(-1, rows, *images.shape[1:])
    columns = [*([left] if left is not None else []), *drawn, *([right] if right is not None else [])]
    tiles = np.stack(columns, axis=1).reshape(-1, *images.shape[1:])
    heads = [""] * len(columns)
    if left is not None:
        heads[:2] = ["given", "drawn"]
    if right is not None:
        heads[-1] = "truth"
    layout = sheet(len(tiles), images.shape[1:], len(columns), scale)
    return _lettered(grid(tiles, levels, len(columns), scale), layout, names, heads if any(heads) else ())


def _lettered(paper: Image.Image, layout: Sheet, names: Sequence[str], heads: Sequence[str]) -> Image.Image:
    """Names before the rows, and above the columns."""
    font = ImageFont.load_default(_LETTER)
    width = max((math.ceil(font.getlength(name)) for name in names), default=-_LETTER) + _LETTER
    height = 2 * _LETTER if heads else 0
    whole = Image.new(paper.mode, (paper.width + width, paper.height + height), "white")
    whole.paste(paper, (width, height))
    pen = ImageDraw.Draw(whole)
    for row, name in enumerate(names):
        middle = height + layout.corner(row * layout.columns)[0] + layout.tile[0] / 2
        pen.text((width - _LETTER / 2, middle), name, "black", font, anchor="rm")
    for column, name in enumerate(heads):
        pen.text((width + layout.corner(column)[1] + layout.tile[1] / 2, _LETTER), name, "black", font, anchor="mm")
    return whole


def picture(image: Levels, levels: int) -> Image.Image:
    """One image, levels uint8 [C, H, W], pixel for pixel; reading it back with as many levels gives it again."""
    tile = _display(image[None], levels)[0]
    return Image.fromarray(tile[:, :, 0] if tile.shape[-1] == 1 else tile)


def _display(images: Levels, levels: int) -> Levels:
    """Display bytes [N, H, W, 1 or 3]; unusual channels side by side."""
    shown = to_bytes(images, levels).transpose(0, 2, 3, 1)
    n, height, width, channels = shown.shape
    if channels in _COLORS:
        return shown
    return shown.transpose(0, 1, 3, 2).reshape(n, height, channels * width, 1)


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        ModelError: if it cannot be written; what was there before stays.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
