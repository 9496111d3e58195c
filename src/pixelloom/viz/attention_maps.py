"""Maps of attention as pictures: what one place of an image looks at, as heat over the image itself.

    shade = 1 - (1 - dim * picture in gray) (1 - color(weight / top))

The first color is black: what is not looked at is the picture, dimmed, and over black a color is that of the scale.
Maps are enlarged by nearest neighbor: a square is a weight, and none is smoothed into the next.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pixelloom.core.errors import UsageError
from pixelloom.core.types import Levels
from pixelloom.data.pixels import to_bytes
from pixelloom.viz.grid import LARGEST_SHEET

Weights = npt.NDArray[np.floating[Any]]
Colors = npt.NDArray[np.uint8]
"""RGB, bytes [H, W, 3]."""
Place = tuple[int, int]
"""Row and column, or height and width."""

DIM = 0.3
_WHITE = np.iinfo(np.uint8).max
_COLORS = "inferno"  # of matplotlib: even steps of a weight look even, in gray print too
_MARK, _EDGE = "#2de2e6", "#101014"  # of the place that looks: no color of a map, and seen on white as on black
_INK, _GRAY = "#1c1c1c", "#6b6b6b"
_LEAST = 4.0
_TILE, _WIDEST = 208, 1500  # pixels: sides that a tile, and a row of them, aim at
_GAP, _LETTER, _LINE = 8, 15, 20
_BAR = 12  # pixels: width of a scale


@dataclass(frozen=True)
class Strip:
    """A row of a sheet: pictures, or with weights what one place of each looks at.

    Attributes:
        caption: lines before the row; the first stands out.
        images: levels uint8 [n, C, H, W].
        queries: of each image the pixel that looks.
        weights: where it looks, [n, h, w], each summing to 1; None for the pictures themselves.
        grid: rows and columns of the positions that look; that of the query is marked. None to mark the pixel.
    """

    caption: Sequence[str]
    images: Levels
    queries: Sequence[Place]
    weights: Weights | None = None
    grid: Place | None = None

    @property
    def top(self) -> float:
        """The weight of the last color: the largest, but at least four times that of a uniform map, which would be as
        bright as can be otherwise.
        """
        return 1.0 if self.weights is None else max(float(self.weights.max()), min(1.0, _LEAST * self.uniform))

    @property
    def uniform(self) -> float:
        """The weight of every key in a uniform map."""
        return 1.0 if self.weights is None else 1 / math.prod(self.weights.shape[1:])


def place(pixel: Place, size: Place, grid: Place) -> Place:
    """The position, among the rows and columns of a grid, that a pixel of an image of a size belongs to."""
    return pixel[0] * grid[0] // size[0], pixel[1] * grid[1] // size[1]


def points(size: Place, rows: int) -> list[Place]:
    """The middles of rows x rows equal parts of an image, in raster order; of one part the center."""
    ys, xs = ([(2 * i + 1) * side // (2 * rows) for i in range(rows)] for side in size)
    return list(itertools.product(ys, xs))


def overlay(image: Levels, levels: int, weights: Weights, top: float, scale: int = 1) -> Colors:
    """A map [h, w] over an image [C, H, W]: [H scale, W scale, 3]; ``top`` is the weight of the last color."""
    from matplotlib import colormaps

    size: Place = (image.shape[1], image.shape[2])
    heat = colormaps[_COLORS](
        _enlarged(weights / top, size, scale),
    )[..., :3]
    dark = 1 - DIM * _enlarged(to_bytes(image, levels).mean(0), size, scale)[..., None] / _WHITE
    shades: Colors = np.rint(_WHITE * (1 - dark * (1 - heat))).astype(np.uint8)
    return shades


def _enlarged(values: Weights, size: Place, scale: int) -> Weights:
    """By nearest neighbor, [h, w] -> [H scale, W scale]."""
    rows, columns = (np.arange(side * scale) * n // (side * scale) for side, n in zip(size, values.shape, strict=True))
    large: Weights = values[rows[:, None], columns]
    return large


def sheet(strips: Sequence[Strip], levels: int, notes: Sequence[str] = (), scale: int | None = None) -> Image.Image:
    """Strips one below the other: captions, tiles, and beside maps the scale of their colors.

    Args:
        strips: of images of one shape. One of pictures begins a new part.
        levels: of the images.
        notes: lines below all.
        scale: pixels of the drawing a pixel of an image; by default tiles are about 200 wide, less in long rows.

    Raises:
        UsageError: if it would have more pixels than programs open without alarm.
    """
    (high, wide), n = strips[0].images.shape[2:], max(len(strip.images) for strip in strips)
    scale = scale or max(1, min(_TILE, _WIDEST // n) // max(high, wide))
    high, wide = high * scale, wide * scale
    left = 4 * _GAP + max(_length(line) for strip in strips for line in strip.caption)
    bar = left + n * (wide + _GAP)
    right = bar + _BAR + 3 * _GAP + max(_length(line) for strip in strips for line in _ends(strip))
    width = max(right, *(_length(note) + 4 * _GAP for note in ("", *notes)))
    height = 4 * _GAP + len(notes) * _LINE + sum(_above(strip) + high for strip in strips)
    if width * height > LARGEST_SHEET:
        raise UsageError(f"these maps would have {height} x {width} pixels, too many to be opened; draw fewer")
    paper, top = Image.new("RGB", (width, height), "white"), 0
    for strip in strips:
        top += _above(strip)
        _write(paper, 2 * _GAP, top + (high - len(strip.caption) * _LINE) // 2, strip.caption)
        for i in range(len(strip.images)):
            paper.paste(_tile(strip, i, levels, scale), (left + i * (wide + _GAP), top))
        if strip.weights is not None:
            paper.paste(_bar(high), (bar, top))
            for text, y in zip(_ends(strip), (top, top + high - _LINE), strict=True):
                _write(paper, bar + _BAR + _GAP, y, [text])
        top += high
    _write(paper, 2 * _GAP, top + 2 * _GAP, notes, _GRAY)
    return paper


def _above(strip: Strip) -> int:
    """Pixels of white above it."""
    return _GAP if strip.weights is not None else 3 * _GAP


def _tile(strip: Strip, i: int, levels: int, scale: int) -> Image.Image:
    """Image i of a strip, enlarged, with the place that looks marked by a frame around it."""
    image, size = strip.images[i], (strip.images.shape[2], strip.images.shape[3])
    if strip.weights is None:
        shown = to_bytes(image, levels)
        planes = shown if len(shown) == 3 else np.broadcast_to(shown.mean(0).astype(np.uint8), (3, *size))
        shades = planes.transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
    else:
        shades = overlay(image, levels, strip.weights[i], strip.top, scale)
    tile = Image.fromarray(np.ascontiguousarray(shades))
    grid = strip.grid or size
    cells = place(strip.queries[i], size, grid)
    top, left = (scale * side * cell // n for side, cell, n in zip(size, cells, grid, strict=True))
    bottom, right = (scale * side * (cell + 1) // n - 1 for side, cell, n in zip(size, cells, grid, strict=True))
    pen = ImageDraw.Draw(tile)
    for out, color in ((3, _EDGE), (2, _MARK), (1, _MARK)):  # around it: what it looks at within stays to be seen
        low = max(left - out, 3 - out), max(top - out, 3 - out)
        high = min(right + out, tile.width - 4 + out), min(bottom + out, tile.height - 4 + out)
        pen.rectangle((*low, *high), outline=color)
    return tile


def _bar(height: int) -> Image.Image:
    """The colors from 0, below, to the last."""
    from matplotlib import colormaps

    shades = colormaps[_COLORS](np.linspace(1, 0, height), bytes=True)[:, None, :3]
    return Image.fromarray(np.ascontiguousarray(shades.repeat(_BAR, axis=1)))


def _ends(strip: Strip) -> tuple[str, ...]:
    """What stands at the two ends of a strip's scale: its last weight, also in numbers of a uniform map's."""
    if strip.weights is None:
        return ("",)
    return f"{strip.top:.3g} = {strip.top / strip.uniform:.3g} times uniform", "0"


def _write(paper: Image.Image, x: int, y: int, lines: Sequence[str], first: str = _INK) -> None:
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(_LETTER)
    for i, line in enumerate(lines):
        pen.text((x, y + i * _LINE), line, _GRAY if i else first, font)


def _length(text: str) -> int:
    return math.ceil(ImageFont.load_default(_LETTER).getlength(text))
