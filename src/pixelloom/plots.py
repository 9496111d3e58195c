"""Pictures of pictures: a grid of samples, and what a pixel sees.

matplotlib is imported where it draws, and only its object interface is used: no global state, no display.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pixelloom.data.pixels import to_bytes
from pixelloom.engine.tensors import write_bytes
from pixelloom.errors import UsageError
from pixelloom.layers.reads import Marks
from pixelloom.types import Levels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILE = 96  # pixels: a side at which a person sees what an 8x8 digit is
_WIDEST = 2400  # pixels: wider grids are enlarged less
_LETTER = 18  # pixels: size of a name
_GROUND = 128  # the grey between tiles, told apart from black and white pictures alike
LARGEST_SHEET = 89_000_000  # pixels; Pillow takes a larger picture for an attack
_COLOURS = (1, 3)  # channels of a picture: grey, RGB
_BLUE, _ORANGE = "#3b6ea5", "#d9822b"
SIGHT = {
    "the pixel": "#1c1c1c",
    "seen": _BLUE,
    "hidden: blind spot": _ORANGE,
    "out of reach": "#f6dcbf",
    "later": "#e6e6e6",
    "later, and yet seen": "#c1121f",
}
"""What a pixel can be to the prediction of another, and its colour."""


def grid(
    images: Levels, levels: int, columns: int | None = None, scale: int | None = None, margin: int | None = None
) -> Image.Image:
    """Images side by side, row by row, each pixel a square of ``scale`` pixels (nearest neighbour, no smoothing).

    Args:
        images: uint8 [N, C, H, W]; one channel is grey, three are RGB, of any other number each is shown beside the
            next in grey.
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
    width *= 1 if channels in _COLOURS else channels
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
    if channels in _COLOURS:
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


def sight(field: Marks, position: tuple[int, int]) -> npt.NDArray[np.int64]:
    """What each pixel is to the prediction at a position, as a number of :data:`SIGHT`, [H, W].

    An earlier pixel that is not seen belongs to the blind spot if it lies in the rectangle that those seen span: near
    enough, but hidden by the masks. Otherwise it is out of reach.

    Args:
        field: bool [C, H, W], see :func:`pixelloom.sampling.dataflow.receptive_field`.
        position: (row, column).

    Raises:
        UsageError: if the position lies outside the image.
    """
    _, height, width = field.shape
    y, x = position
    if not (0 <= y < height and 0 <= x < width):
        raise UsageError(f"position: rows 0 to {height - 1} and columns 0 to {width - 1}, not {y},{x}")
    seen: Marks = np.asarray(field.any(axis=0))
    later = np.arange(height * width).reshape(height, width) > y * width + x
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    near = np.zeros_like(seen)
    if len(rows):
        near[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    kinds = np.where(later, np.where(seen, 5, 4), np.where(seen, 1, np.where(near, 2, 3)))
    kinds[y, x] = 0
    return kinds


def receptive_field(field: Marks, position: tuple[int, int], out: Path) -> None:
    """Draw :func:`sight`: what the prediction at a position sees, and what it does not.

    Raises:
        UsageError: if the position lies outside the image.
        ModelError: if ``out`` cannot be written.
    """
    buffer = io.BytesIO()
    sight_figure(sight(field, position)).savefig(buffer, format="png")
    write_bytes(out, buffer.getvalue())


def sight_figure(kinds: npt.NDArray[np.int64]) -> Figure:
    """The drawing of :func:`receptive_field`: one cell a pixel, and a legend that counts them."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    height, width = kinds.shape
    cell = 4.6 / max(height, width)  # all lengths in inches
    high, wide = height * cell, width * cell
    whole = max(high + 0.7, 2.2), wide + 3.3
    figure = Figure(figsize=(whole[1], whole[0]), dpi=150)
    axes = figure.add_axes((0.65 / whole[1], 1 - (0.15 + high) / whole[0], wide / whole[1], high / whole[0]))
    edges = np.arange(width + 1) - 0.5, np.arange(height + 1) - 0.5
    gaps = {"edgecolors": "white", "linewidth": min(8 * cell, 3)} if cell > 0.06 else {}
    colours = list(SIGHT.values())
    axes.pcolormesh(*edges, kinds, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(colours) - 0.5, **gaps)
    axes.invert_yaxis()
    axes.set(xlabel="column", ylabel="row")
    for axis, length in ((axes.xaxis, wide), (axes.yaxis, high)):
        axis.set_major_locator(MaxNLocator(max(1, round(1.3 * length)), integer=True))
    axes.tick_params(length=0, colors="0.35")
    axes.spines[:].set_visible(False)
    counts = np.bincount(kinds.ravel(), minlength=len(SIGHT)).tolist()
    y, x = np.argwhere(kinds == 0)[0].tolist()
    names = [f"{n:,} {name}" for n, name in zip(counts, SIGHT, strict=True)]
    names[0] = f"row {y}, column {x}"
    shown = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    if not counts[-1]:
        shown.pop()  # it stands for a fault
    legend = axes.legend(handles=shown, loc="upper left", bbox_to_anchor=(1 + 0.1 / wide, 1.02), frameon=False)
    legend.set_title("What its prediction sees")
    legend.get_title().set_fontweight("bold")
    legend.set_alignment("left")
    return figure
