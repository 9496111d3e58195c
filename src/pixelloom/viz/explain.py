"""One prediction of a pixel model explained in an image: what it reads, the distribution, and the cost of every pixel.

    1  the image, with the predicted pixel
    2  the mask of the first layer: offsets that it reads around the predicted pixel
    3  the receptive field of the prediction, with its blind spot
    4  the predicted distribution p(x_i | x_1 .. x_(i-1)) over the levels, and the true level
    5  the cost -log2 p of every pixel in bits; their sum is the code length of the image

matplotlib is imported where it is used, with its object interface only: no global state, no display.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelloom.core.types import Display, Levels
from pixelloom.data.pixels import to_bytes
from pixelloom.layers.reads import Marks, Position
from pixelloom.viz import backend
from pixelloom.viz.curves import png
from pixelloom.viz.receptive_field import FIELD_KINDS, field_kinds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _INK, _GRAY = "#3b6ea5", "#d9822b", "#1c1c1c", "#e6e6e6"
_TINT = 0.62  # weight of a color of the receptive field over the image
_SIZE, _DPI = (13.4, 9.9), 110
_SIDE, _COLUMNS, _ROWS = 3.5, (0.8, 5.15, 9.3), (1.15, 6.2)  # inches: panels, their left and top edges


@dataclass(frozen=True)
class Explanation:
    """A prediction as arrays.

    Attributes:
        title: model and data.
        image: levels uint8 [C, H, W].
        levels: number of levels, or a palette.
        position: (row, column) of the predicted pixel.
        taps: offsets (down, right) that the first layer reads, (0, 0) for earlier channels of the pixel itself; None
            for a network whose first layer reads all earlier pixels.
        field: receptive field of the prediction, bool [C, H, W].
        probabilities: predicted distribution at the position, given the true values before, float64 [C, levels].
        bits: -log2 p of every value, float64 [C, H, W].
        ordered: whether a channel of a pixel is predicted given the channels before.
    """

    title: str
    image: Levels
    levels: Display
    position: tuple[int, int]
    taps: tuple[Position, ...] | None
    field: Marks
    probabilities: npt.NDArray[np.float64]
    bits: npt.NDArray[np.float64]
    ordered: bool = True

    @property
    def true_levels(self) -> list[int]:
        """True level of each channel at the position."""
        return [int(level) for level in self.image[:, self.position[0], self.position[1]]]

    @property
    def pixel_bits(self) -> npt.NDArray[np.float64]:
        """Cost of every pixel, all channels, [H, W]."""
        total: npt.NDArray[np.float64] = self.bits.sum(axis=0)
        return total


def draw(explanation: Explanation) -> Image.Image:
    """The five panels, RGB.

    Raises:
        UsageError: if the position lies outside the image.
    """
    with Image.open(io.BytesIO(png(figure_of(explanation)))) as image:
        return image.convert("RGB")


def figure_of(explanation: Explanation) -> Figure:
    """The chart of :func:`draw`."""
    backend.ready()
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI)
    figure.text(0.8 / _SIZE[0], 1 - 0.35 / _SIZE[1], explanation.title, fontsize=14, parse_math=False)
    for column, panel in zip(_COLUMNS, (_image, _mask, _field), strict=True):
        panel(_axes(figure, column, _ROWS[0], _SIDE, _SIDE), explanation)
    _distribution(figure, explanation)
    _cost(figure, _axes(figure, _COLUMNS[2], _ROWS[1], _SIDE - 0.3, _SIDE - 0.3), explanation)
    return figure


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches, from the upper left corner; images are placed at its upper left."""
    whole, high = _SIZE
    axes = figure.add_axes((left / whole, 1 - (top + height) / high, width / whole, height / high))
    axes.set_anchor("NW")
    return axes


def _image(axes: Axes, explanation: Explanation) -> None:
    y, x = explanation.position
    _show(axes, _rgb(explanation))
    _mark(axes, explanation.position)
    _title(axes, "1  Image", f"the model predicts the marked pixel: row {y}, column {x}")


def _mask(axes: Axes, explanation: Explanation) -> None:
    backend.ready()
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    title = "2  Mask of the first layer"
    if explanation.taps is None:
        _title(axes, title, "none: the first layer reads all earlier pixels")
        axes.axis("off")
        return
    radius = max(1, *(max(abs(dy), abs(dx)) for dy, dx in explanation.taps))
    cells = np.empty((2 * radius + 1, 2 * radius + 1, 3))
    cells[:] = to_rgb(_GRAY)
    for dy, dx in explanation.taps:
        cells[radius + dy, radius + dx] = to_rgb(_BLUE)
    cells[radius, radius] = to_rgb(_INK)
    axes.imshow(cells, interpolation="nearest")
    edges = np.arange(2 * radius + 2) - 0.5
    axes.hlines(edges, edges[0], edges[-1], color="white", linewidth=1.5)
    axes.vlines(edges, edges[0], edges[-1], color="white", linewidth=1.5)
    axes.set_xticks([0, radius, 2 * radius], [str(-radius), "0", f"+{radius}"])
    axes.set_yticks([0, radius, 2 * radius], [str(-radius), "0", f"+{radius}"])
    _bare(axes)
    read = [tap for tap in explanation.taps if tap != (0, 0)]
    own = ", and earlier channels of the pixel itself" if (0, 0) in explanation.taps else ""
    _title(axes, title, f"it reads {len(read)} pixels around the predicted one{own}")
    _legend(axes, [Patch(color=_BLUE, label="read"), Patch(color=_INK, label="predicted pixel"),
                   Patch(color=_GRAY, label="not read")])  # fmt: skip


def _field(axes: Axes, explanation: Explanation) -> None:
    backend.ready()
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    kinds = field_kinds(explanation.field, explanation.position)
    colors = np.array([to_rgb(color) for color in FIELD_KINDS.values()])[kinds]  # [H, W, 3]
    gray = 0.3 + 0.7 * _rgb(explanation).mean(2, keepdims=True)  # colors stay close to those of the legend
    _show(axes, (1 - _TINT) * gray + _TINT * colors)
    _mark(axes, explanation.position)
    counts = np.bincount(kinds.ravel(), minlength=len(FIELD_KINDS)).tolist()
    earlier = sum(counts[1:4])
    subtitle = f"the prediction depends on {counts[1]:,} of {earlier:,} earlier pixels"
    _title(axes, "3  Receptive field", subtitle)
    kinds_shown = [(n, name, color) for n, (name, color) in zip(counts, FIELD_KINDS.items(), strict=True)][1:]
    _legend(axes, [Patch(color=color, label=f"{name}: {n:,}") for n, name, color in kinds_shown if n])


def _distribution(figure: Figure, explanation: Explanation) -> None:
    channels, levels = explanation.probabilities.shape
    names = ["gray"] if channels == 1 else ["red", "green", "blue"] if channels == 3 else [*map(str, range(channels))]
    backend.ready()
    from matplotlib.ticker import FixedLocator

    width, gap = _COLUMNS[1] + _SIDE - _COLUMNS[0], 0.3
    height = (_SIDE - 0.3 - (channels - 1) * gap) / channels
    y, x = explanation.position
    bits = explanation.bits[:, y, x]
    given = " and earlier channels" if channels > 1 and explanation.ordered else ""
    for channel, (true, cost) in enumerate(zip(explanation.true_levels, bits, strict=True)):
        axes = _axes(figure, _COLUMNS[0], _ROWS[1] + channel * (height + gap), width, height)
        p = explanation.probabilities[channel]
        bars = axes.bar(np.arange(levels), p, 0.8 if levels <= 32 else 1.0, color=_BLUE)
        bars[true].set_color(_ORANGE)
        if levels > 32:
            axes.axvline(true, color=_ORANGE, linewidth=1, linestyle=(0, (2, 3)))  # a bar of one level is thin
        axes.yaxis.set_major_locator(FixedLocator([t for t in axes.get_yticks() if t <= 1]))
        axes.set(xlim=(-0.7, levels - 0.3), ylim=(0, 1.25 * float(p.max())))
        axes.set_ylabel("probability" if channels == 1 else f"p, {names[channel]}")
        axes.spines[["top", "right"]].set_visible(False)
        text = f"true level {true}: p = {p[true]:.3g}, costs −log₂ p = {cost:.3g} bits"
        side = "left" if true > levels / 2 else "right"  # away from the true level
        axes.text(0.02 if side == "left" else 0.98, 0.97, text, color="#a85f14", fontsize=11, fontweight="bold",
                  ha=side, va="top", transform=axes.transAxes)  # fmt: skip
        if levels <= 17:
            axes.set_xticks(range(levels))
        if channel == 0:
            title = "4  Predicted distribution of the marked pixel"
            _title(axes, title, f"over all {levels} levels, given the earlier pixels{given}")
    axes.set_xlabel(f"level: 0 is black, {levels - 1} is full intensity")


def _cost(figure: Figure, axes: Axes, explanation: Explanation) -> None:
    bits = explanation.pixel_bits
    drawn = axes.imshow(bits, cmap="inferno", vmin=0, interpolation="nearest")
    _mark(axes, explanation.position)
    _pixel_ticks(axes)
    bar = figure.colorbar(drawn, cax=_axes(figure, _COLUMNS[2] + _SIDE - 0.2, _ROWS[1], 0.12, _SIDE - 0.3))
    bar.set_label("bits per pixel")
    total = float(bits.sum())
    dims = math.prod(explanation.image.shape)
    _title(axes, "5  Cost of every pixel", f"bright: unexpected; {total:,.1f} bits in all, {total / dims:.4f} bits/dim")


def _rgb(explanation: Explanation) -> npt.NDArray[np.float64]:
    """The image in [0, 1], [H, W, 3]."""
    shown = to_bytes(explanation.image, explanation.levels) / np.iinfo(np.uint8).max
    planes = shown if len(shown) == 3 else np.broadcast_to(shown.mean(0), (3, *shown.shape[1:]))
    return np.asarray(planes.transpose(1, 2, 0), np.float64)  # [3, H, W] -> [H, W, 3]


def _show(axes: Axes, pixels: npt.NDArray[np.float64]) -> None:
    axes.imshow(pixels, vmin=0, vmax=1, interpolation="nearest")
    _pixel_ticks(axes)


def _pixel_ticks(axes: Axes) -> None:
    backend.ready()
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set(xlabel="column", ylabel="row")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0, colors="0.35")
    axes.spines[:].set_visible(False)


def _mark(axes: Axes, position: tuple[int, int]) -> None:
    """A frame around a pixel, visible on any color."""
    backend.ready()
    from matplotlib.patches import Rectangle

    y, x = position
    out = 0.5 + 0.008 * max(axes.get_images()[0].get_size())  # beyond the pixel, which stays visible
    for color, width in (("#101014", 3.6), ("#2de2e6", 1.8)):
        corner = (x - out, y - out)
        axes.add_patch(Rectangle(corner, 2 * out, 2 * out, fill=False, edgecolor=color, lw=width, clip_on=False))


def _title(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(f"{title}\n", loc="left", fontsize=12.5, fontweight="bold")
    axes.annotate(subtitle, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=9.5,
                  color="0.3", annotation_clip=False)  # fmt: skip


def _legend(axes: Axes, handles: list[object]) -> None:
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False, fontsize=9)
