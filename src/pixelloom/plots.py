"""Pictures of pictures: a grid of samples, and the curves of a run.

matplotlib is imported where curves are drawn, and only its object interface is used: no global state, no display.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelloom.data.pixels import to_bytes
from pixelloom.engine.tensors import write_bytes
from pixelloom.errors import UsageError
from pixelloom.types import Levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Images seen and a figure, float64 [N] each."""

_TILE = 96  # pixels: a side at which a person sees what an 8x8 digit is
_WIDEST = 2400  # pixels: wider grids are enlarged less
_GROUND = 128  # the grey between tiles, told apart from black and white pictures alike
_BITS, _NATS = "bits/dim", "nats/dim"


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
        UsageError: without images, or for columns, scale or margin that are too small.
    """
    if images.ndim != 4 or not len(images):
        raise UsageError(f"images: a grid needs one image or more, [N, C, H, W], not {list(images.shape)}")
    for name, value, least in (("columns", columns, 1), ("scale", scale, 1), ("margin", margin, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name}: must be {least} or more, not {value}")
    tiles = _display(images, levels)
    n, height, width, channels = tiles.shape
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = math.ceil(n / columns)
    if scale is None:
        scale = max(1, min(round(_TILE / max(height, width)), _WIDEST // (columns * width)))
    if margin is None:
        margin = 1 + scale // 4
    high, wide = height * scale + margin, width * scale + margin
    sheet = np.full((rows * high + margin, columns * wide + margin, channels), _GROUND, np.uint8)
    for i, tile in enumerate(tiles.repeat(scale, axis=1).repeat(scale, axis=2)):
        y, x = margin + i // columns * high, margin + i % columns * wide
        sheet[y : y + height * scale, x : x + width * scale] = tile
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


def picture(image: Levels, levels: int) -> Image.Image:
    """One image, levels uint8 [C, H, W], pixel for pixel; reading it back with as many levels gives it again."""
    tile = _display(image[None], levels)[0]
    return Image.fromarray(tile[:, :, 0] if tile.shape[-1] == 1 else tile)


def _display(images: Levels, levels: int) -> Levels:
    """Display bytes [N, H, W, 1 or 3]; unusual channels side by side."""
    shown = to_bytes(images, levels).transpose(0, 2, 3, 1)
    n, height, width, channels = shown.shape
    if channels in (1, 3):
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


@dataclass(frozen=True)
class History:
    """What ``metrics.jsonl`` tells of a run in bits/dim: figures of training batches and of validation."""

    train: Series
    validation: Series

    @property
    def best(self) -> tuple[float, float] | None:
        """Images seen at the lowest validation figure, and that figure."""
        images, bits = self.validation
        return (float(images[bits.argmin()]), float(bits.min())) if len(bits) else None


def read_history(path: Path) -> History:
    """The curves of a run; lines that a killed run left unfinished, and figures that are not finite, are passed over.

    Raises:
        UsageError: if the file cannot be read.
    """
    found: dict[str, list[tuple[float, float]]] = {"train": [], "val": []}
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    for line in text.splitlines():
        try:
            entry: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("split") in found and math.isfinite(entry.get(_BITS, math.nan)):
            found[entry["split"]].append((entry["images"], entry[_BITS]))
    train, validation = (np.array(found[name], np.float64).reshape(-1, 2).T for name in ("train", "val"))
    return History((train[0], train[1]), (validation[0], validation[1]))


def smooth(values: npt.NDArray[np.float64], span: float) -> npt.NDArray[np.float64]:
    """Exponential moving average over about ``span`` values (1 or more); a constant stays what it is from the start."""
    weight = 1 - 1 / max(span, 1.0)
    out, mean, norm = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        mean = weight * mean + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        out[i] = mean / norm
    return out


def curves(metrics: Path, out: Path) -> None:
    """Draw training and validation of a run against images seen, in bits/dim (left) and nats/dim (right).

    Does nothing while there is no figure to draw.

    Raises:
        UsageError: if ``metrics`` cannot be read.
        ModelError: if ``out`` cannot be written.
    """
    history = read_history(metrics)
    if not (len(history.train[0]) or len(history.validation[0])):
        return
    buffer = io.BytesIO()
    figure_of(history).savefig(buffer, format="png")
    write_bytes(out, buffer.getvalue())


def figure_of(history: History) -> Figure:
    """The drawing of :func:`curves`: axes in bits/dim, with a second axis in nats/dim."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    _draw(axes, history)
    axes.set(xlabel="images seen", ylabel=_BITS, ylim=_limits(history))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    nats = axes.secondary_yaxis("right", functions=(_to_nats, _to_bits))
    nats.set_ylabel(_NATS)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    nats.spines["right"].set_color("0.6")
    axes.legend(loc="upper right", frameon=False)
    return figure


def _to_nats(bits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(bits, np.float64) * math.log(2)


def _to_bits(nats: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(nats, np.float64) / math.log(2)


def _draw(axes: Axes, history: History) -> None:
    blue, orange = "#3b6ea5", "#d9822b"
    images, bits = history.train
    if len(bits):
        axes.plot(images, bits, color=blue, alpha=0.25, linewidth=0.8)
        axes.plot(images, smooth(bits, max(2, len(bits) / 50)), color=blue, linewidth=1.6, label="training (smoothed)")
    images, bits = history.validation
    axes.plot(images, bits, color=orange, linewidth=1.2, marker="o", markersize=4, label="validation")
    if history.best is not None:
        at, best = history.best
        axes.plot([at], [best], marker="o", markersize=10, color="none", markeredgecolor=orange, markeredgewidth=1.5)
        axes.axhline(best, color=orange, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.7)
        axes.plot([], [], color="none", marker="o", markeredgecolor=orange, label=f"best validation: {best:.3f}")


def _limits(history: History) -> tuple[float, float]:
    """Room for everything but the first moments, whose uniform predictions would press the rest flat."""
    train, validation = history.train[1], history.validation[1]
    tail = train[len(train) // 20 :]
    low = min([*validation, *(np.quantile(tail, [0.01]) if len(tail) else [])])
    high = max([*validation[len(validation) // 20 :], *(np.quantile(tail, [0.98]) if len(tail) else [])])
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return float(low - room), float(high + room)
