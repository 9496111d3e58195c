"""The receptive field of a prediction as an image, with its blind spot and the pixels out of reach."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pixelloom.core.atomic import write_bytes
from pixelloom.core.errors import UsageError
from pixelloom.layers.reads import Marks
from pixelloom.viz import backend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _ORANGE = "#3b6ea5", "#d9822b"
FIELD_KINDS = {
    "predicted pixel": "#1c1c1c",
    "receptive field": _BLUE,
    "blind spot": _ORANGE,
    "out of reach": "#f6dcbf",
    "later": "#e6e6e6",
    "later, but read": "#c1121f",
}
"""Relations of a pixel to the prediction of another one, and their colors."""


def field_kinds(field: Marks, position: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Relation of each pixel to the prediction at a position, as an index of :data:`FIELD_KINDS`, [H, W].

    An earlier pixel outside the receptive field belongs to the blind spot if it lies in the bounding box of the field,
    where only the masks exclude it. Otherwise it is out of reach.

    Args:
        field: bool [C, H, W], see :func:`pixelloom.sampling.fast.analysis.receptive_field`.
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
    """Draw :func:`field_kinds`: the receptive field of the prediction at a position.

    Raises:
        UsageError: if the position lies outside the image.
        ModelError: if ``out`` cannot be written.
    """
    buffer = io.BytesIO()
    field_figure(field_kinds(field, position)).savefig(buffer, format="png")
    write_bytes(out, buffer.getvalue())


def field_figure(kinds: npt.NDArray[np.int64]) -> Figure:
    """The chart of :func:`receptive_field`: one cell per pixel, and a legend with the number of pixels."""
    backend.ready()
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
    colors = list(FIELD_KINDS.values())
    axes.pcolormesh(*edges, kinds, cmap=ListedColormap(colors), vmin=-0.5, vmax=len(colors) - 0.5, **gaps)
    axes.invert_yaxis()
    axes.set(xlabel="column", ylabel="row")
    for axis, length in ((axes.xaxis, wide), (axes.yaxis, high)):
        axis.set_major_locator(MaxNLocator(max(1, round(1.3 * length)), integer=True))
    axes.tick_params(length=0, colors="0.35")
    axes.spines[:].set_visible(False)
    counts = np.bincount(kinds.ravel(), minlength=len(FIELD_KINDS)).tolist()
    y, x = np.argwhere(kinds == 0)[0].tolist()
    names = [f"{n:,} {name}" for n, name in zip(counts, FIELD_KINDS, strict=True)]
    names[0] = f"row {y}, column {x}"
    shown = [Patch(color=color, label=name) for color, name in zip(colors, names, strict=True)]
    if not counts[-1]:
        shown.pop()  # occurs in a network that is not autoregressive only
    legend = axes.legend(handles=shown, loc="upper left", bbox_to_anchor=(1 + 0.1 / wide, 1.02), frameon=False)
    legend.set_title("Receptive field")
    legend.get_title().set_fontweight("bold")
    legend.set_alignment("left")
    return figure
