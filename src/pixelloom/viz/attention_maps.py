"""Attention maps: the weights with which one position attends to every other, as a heat map over the image.

    shade = 1 - (1 - DIM * gray image) (1 - color(weight / top))

The first color of the scale is black, so a position without weight shows the dimmed image, and over black a color is
that of the scale. Maps are enlarged by nearest neighbor: one square is one weight.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pixelloom.core.types import Display, Levels
from pixelloom.data.pixels import to_bytes
from pixelloom.viz import backend, canvas
from pixelloom.viz.canvas import SOFT, TEXT, Line, enlarge

Weights = npt.NDArray[np.floating[Any]]
Colors = npt.NDArray[np.uint8]
"""RGB, bytes [H, W, 3]."""
Place = tuple[int, int]
"""Row and column, or height and width."""

DIM = 0.3
_WHITE = np.iinfo(np.uint8).max
_COLORS = "inferno"  # of matplotlib: perceptually uniform, in gray print too
_MARK, _EDGE = "#2de2e6", "#101014"  # of the query: no color of a map, and visible on white and on black
_LEAST = 4.0
_TILE, _WIDEST = 208, 1500  # pixels: width that a tile and a row of tiles aim at
_GAP = 8
_BAR = 12  # pixels: width of a color scale


@dataclass(frozen=True)
class Strip:
    """A row of a sheet: images, or attention maps of one query for each image.

    Attributes:
        caption: lines before the row; the first is darker.
        images: levels uint8 [n, C, H, W].
        queries: pixel of each image whose attention is shown.
        weights: attention weights of the queries, [n, h, w], each summing to 1; None for the images themselves.
        grid: rows and columns of the query positions; the position of the query is marked. None to mark the pixel.
    """

    caption: Sequence[str]
    images: Levels
    queries: Sequence[Place]
    weights: Weights | None = None
    grid: Place | None = None

    @property
    def top(self) -> float:
        """Weight of the last color: the largest one, but at least four times that of a uniform map, which would
        otherwise be as bright as a sharp one.
        """
        return 1.0 if self.weights is None else max(float(self.weights.max()), min(1.0, _LEAST * self.uniform))

    @property
    def uniform(self) -> float:
        """Weight of every key in a uniform map."""
        return 1.0 if self.weights is None else 1 / math.prod(self.weights.shape[1:])


def place(pixel: Place, size: Place, grid: Place) -> Place:
    """Position in a grid of rows and columns that a pixel of an image of a size belongs to."""
    return pixel[0] * grid[0] // size[0], pixel[1] * grid[1] // size[1]


def points(size: Place, rows: int) -> list[Place]:
    """Centers of rows x rows equal parts of an image, in raster order."""
    ys, xs = ([(2 * i + 1) * side // (2 * rows) for i in range(rows)] for side in size)
    return list(itertools.product(ys, xs))


def overlay(image: Levels, levels: Display, weights: Weights, top: float, scale: int = 1) -> Colors:
    """A map [h, w] over an image [C, H, W]: [H scale, W scale, 3]; ``top`` is the weight of the last color."""
    backend.ready()
    from matplotlib import colormaps

    size: Place = (image.shape[1] * scale, image.shape[2] * scale)
    heat = colormaps[_COLORS](enlarge(weights / top, size))[..., :3]
    dark = 1 - DIM * enlarge(to_bytes(image, levels).mean(0), size)[..., None] / _WHITE
    shades: Colors = np.rint(_WHITE * (1 - dark * (1 - heat))).astype(np.uint8)
    return shades


def sheet(strips: Sequence[Strip], levels: Display, notes: Sequence[str] = (), scale: int | None = None) -> Image.Image:
    """Strips below each other, each with its caption, its tiles and, for maps, its color scale.

    Args:
        strips: rows of images of one shape. A row of images starts a new part.
        levels: levels of the images.
        notes: lines below all.
        scale: pixels of the drawing for a pixel of an image; by default a tile is about 200 wide, less in long rows.

    Raises:
        UsageError: if the sheet would have too many pixels.
    """
    (high, wide), n = strips[0].images.shape[2:], max(len(strip.images) for strip in strips)
    scale = scale or max(1, min(_TILE, _WIDEST // n) // max(high, wide))
    high, wide = high * scale, wide * scale
    captions = [_caption(strip) for strip in strips]
    left = max(caption.width for caption in captions)
    scales = [_color_scale(strip, high) for strip in strips]
    width = left + n * (wide + _GAP) + max(block.width for block in scales) + 2 * _GAP
    heights = [max(high, caption.height, block.height) for caption, block in zip(captions, scales, strict=True)]
    canvas.check_size(sum(heights), width, "these maps")
    rows = []
    for strip, caption, colors in zip(strips, captions, scales, strict=True):
        tiles = [_tile(strip, i, levels, scale) for i in range(len(strip.images))]
        blank = [Image.new("RGB", (wide, high), "white")] * (n - len(tiles))
        row = canvas.hstack([canvas.widen(caption, left), *tiles, *blank, colors], _GAP, "middle")
        rows.append(canvas.pad(row, 2 * _GAP, _GAP if strip.weights is not None else 3 * _GAP, 2 * _GAP))
    if notes:
        rows.append(canvas.pad(canvas.paragraph([Line(note, color=SOFT) for note in notes]), 2 * _GAP, 2 * _GAP))
    return canvas.pad(canvas.vstack(rows), right=2 * _GAP if notes else 0, bottom=2 * _GAP)


def _caption(strip: Strip) -> Image.Image:
    first, rest = strip.caption[:1], strip.caption[1:]
    block = canvas.paragraph([*(Line(text) for text in first), *(Line(text, color=SOFT) for text in rest)])
    return canvas.pad(block, right=_GAP)


def _tile(strip: Strip, i: int, levels: Display, scale: int) -> Image.Image:
    """Image i of a strip, enlarged, with a frame around the position of its query."""
    image, size = strip.images[i], (strip.images.shape[2], strip.images.shape[3])
    if strip.weights is None:
        shown = to_bytes(image, levels)
        planes = shown if len(shown) == 3 else np.broadcast_to(shown.mean(0).astype(np.uint8), (3, *size))
        shades = enlarge(planes, (scale * size[0], scale * size[1])).transpose(1, 2, 0)  # [3, H, W] -> [H, W, 3]
    else:
        shades = overlay(image, levels, strip.weights[i], strip.top, scale)
    tile = Image.fromarray(np.ascontiguousarray(shades))
    grid = strip.grid or size
    cells = place(strip.queries[i], size, grid)
    top, left = (scale * side * cell // n for side, cell, n in zip(size, cells, grid, strict=True))
    bottom, right = (scale * side * (cell + 1) // n - 1 for side, cell, n in zip(size, cells, grid, strict=True))
    pen = ImageDraw.Draw(tile)
    for out, color in ((3, _EDGE), (2, _MARK), (1, _MARK)):  # outside of the position, whose own weight stays visible
        low = max(left - out, 3 - out), max(top - out, 3 - out)
        high = min(right + out, tile.width - 4 + out), min(bottom + out, tile.height - 4 + out)
        pen.rectangle((*low, *high), outline=color)
    return tile


def _color_scale(strip: Strip, height: int) -> Image.Image:
    """The colors from the last, at the top, to the first, with their weights; an empty block for images."""
    backend.ready()
    from matplotlib import colormaps

    if strip.weights is None:
        return Image.new("RGB", (1, height), "white")
    shades = colormaps[_COLORS](np.linspace(1, 0, height), bytes=True)[:, None, :3]
    bar = Image.fromarray(np.ascontiguousarray(shades.repeat(_BAR, axis=1)))
    top = f"{strip.top:.3g} = {strip.top / strip.uniform:.3g} times uniform"
    ends = [canvas.paragraph([Line(text, TEXT)]) for text in (top, "0")]
    labels = canvas.vstack(ends, max(0, height - sum(end.height for end in ends)))
    return canvas.hstack([bar, labels], _GAP)
