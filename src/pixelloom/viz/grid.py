"""Grids of images: samples side by side, tables with labeled rows, and PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pixelloom.core.atomic import write_bytes
from pixelloom.core.errors import UsageError
from pixelloom.core.types import Display, Levels
from pixelloom.data.pixels import to_bytes
from pixelloom.viz.canvas import TileLayout, column_labels, enlarge, hstack, row_labels, tile_layout, vstack

_LETTER = 18  # pixels: size of a label
_BETWEEN = 128  # the gray between images, which differs from black and from white ones
FORMATS = {".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
"""Suffix -> format of image files; WebP is written lossless."""
_COLORS = (1, 3)  # channels that are shown as one image: gray, RGB


def grid(
    images: Levels, levels: Display, columns: int | None = None, scale: int | None = None, margin: int | None = None
) -> Image.Image:
    """Images side by side, row by row, each pixel a square of ``scale`` pixels (nearest neighbor, no smoothing).

    Args:
        images: uint8 [N, C, H, W]; one channel is gray, three are RGB; with any other number the channels are shown
            in gray beside each other.
        levels: number of levels; 0 is black and ``levels - 1`` full intensity. Or a palette.
        columns: images a row; by default as square a grid as possible.
        scale: by default small images become about 96 pixels wide.
        margin: pixels between images and around them; by default it grows with the scale.

    Raises:
        UsageError: without images, or for a layout that :func:`pixelloom.viz.canvas.tile_layout` refuses.
    """
    if images.ndim != 4 or not len(images):
        raise UsageError(f"images: a grid needs one image or more, [N, C, H, W], not {list(images.shape)}")
    layout = grid_layout(len(images), images.shape[1:], columns, scale, margin)
    tiles = enlarge(_display(images, levels), layout.tile)  # [N, 1 or 3, tile height, tile width]
    paper = np.full((tiles.shape[1], *layout.size), _BETWEEN, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = layout.corner(i)
        paper[:, y : y + layout.tile[0], x : x + layout.tile[1]] = tile
    return _image(paper)


def grid_layout(
    n: int,
    shape: tuple[int, ...],
    columns: int | None = None,
    scale: int | None = None,
    margin: int | None = None,
) -> TileLayout:
    """The layout of :func:`grid` for n images of a shape (C, H, W).

    Raises:
        UsageError: as :func:`pixelloom.viz.canvas.tile_layout`.
    """
    channels, height, width = shape
    return tile_layout(n, (height, width * (1 if channels in _COLORS else channels)), columns, scale, margin)


def table(
    images: Levels,
    levels: Display,
    rows: int,
    *,
    left: Levels | None = None,
    right: Levels | None = None,
    names: Sequence[str] = (),
    scale: int | None = None,
) -> Image.Image:
    """A grid in which all images of a row share their conditioning.

    Args:
        images: uint8 [N, C, H, W]; image i belongs to row i % rows, N is a multiple of it.
        levels: as in :func:`grid`.
        rows: number of rows.
        left: conditioning image of each row [rows, C, H, W], shown in a first column.
        right: true image of each row, shown in a last column.
        names: labels of the rows.
        scale: as in :func:`grid`.
    """
    drawn = images.reshape(-1, rows, *images.shape[1:])  # [N, C, H, W] -> [N / rows, rows, C, H, W]
    columns = [*([left] if left is not None else []), *drawn, *([right] if right is not None else [])]
    tiles = np.stack(columns, axis=1).reshape(-1, *images.shape[1:])  # [rows, columns, ...] -> [rows * columns, ...]
    heads = [""] * len(columns)
    if left is not None:
        heads[:2] = ["given", "drawn"]
    if right is not None:
        heads[-1] = "truth"
    layout = grid_layout(len(tiles), images.shape[1:], len(columns), scale)
    block = grid(tiles, levels, len(columns), scale)
    if names:
        block = hstack([row_labels(names, layout.row_centers, block.height, _LETTER), block])
    if not any(heads):
        return block
    return vstack([column_labels(heads, layout.column_centers, layout.size[1], _LETTER), block], align="right")


def to_image(image: Levels, levels: Display) -> Image.Image:
    """One image, levels uint8 [C, H, W], pixel by pixel; read back with as many levels it is the same image."""
    return _image(_display(image[None], levels)[0])


def _image(planes: Levels) -> Image.Image:
    """[1 or 3, H, W] -> image, gray or RGB."""
    return Image.fromarray(planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0)))


def _display(images: Levels, levels: Display) -> Levels:
    """Display bytes [N, 1 or 3, H, W]; with any other number of channels these lie beside each other."""
    shown = to_bytes(images, levels)
    n, channels, height, width = shown.shape
    if channels in _COLORS:
        return shown
    return shown.transpose(0, 2, 1, 3).reshape(n, 1, height, channels * width)  # [N, H, C, W] -> [N, 1, H, C * W]


def save_png(image: Image.Image, path: Path | str) -> None:
    """Write an image file atomically, as PNG or in the format of the suffix, see FORMATS; all of them are lossless.

    Raises:
        ModelError: if it cannot be written; an existing file stays unchanged.
    """
    buffer, path = io.BytesIO(), Path(path)
    kind = FORMATS.get(path.suffix.lower(), "PNG")
    image.save(buffer, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    write_bytes(path, buffer.getvalue())
