"""Training curves of a run, from its ``metrics.jsonl``; the names of the metrics decide what is drawn.

matplotlib is imported where it is used, with its object interface only: no global state, no display.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pixelloom.core.atomic import write_bytes
from pixelloom.core.errors import UsageError
from pixelloom.core.metrics_file import read_metrics
from pixelloom.metrics.table import BITS, FAKE, NATS, R_T, REAL, selecting
from pixelloom.viz import backend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = npt.NDArray[np.float64]

_AT = ("step", "images", "epochs", "seconds")  # when a line was written; all its other numbers are metrics
_BLUE, _ORANGE = "#3b6ea5", "#d9822b"
_FAINT = 0.25  # opacity of values below their smoothed curve
_WIDTH, DPI = 7.2, 130


class Series(NamedTuple):
    """A metric over a run: images seen, values and steps, float64 [N] each."""

    images: Values
    values: Values
    steps: Values

    @property
    def best(self) -> tuple[float, float, float]:
        """Images seen, value and step of the lowest value."""
        at = int(self.values.argmin())
        return float(self.images[at]), float(self.values[at]), float(self.steps[at])


@dataclass(frozen=True)
class History:
    """Metrics of a run by name, of training batches and of validation. None is empty."""

    train: Mapping[str, Series]
    validation: Mapping[str, Series]

    @property
    def selecting(self) -> list[str]:
        """Validation metrics by which the best model is selected."""
        return selecting(self.validation)


def read_history(path: Path) -> History:
    """Read the metrics of a run; incomplete lines of a killed run and values that are not finite are skipped.

    Raises:
        UsageError: if the file cannot be read.
    """
    try:
        lines, _ = read_metrics(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {"train": {}, "val": {}}
    for entry in lines:
        images, step = float(entry["images"]), number(entry.get("step"))
        for name, given in entry.items():
            value = None if name in _AT else number(given)
            if value is not None:
                points = found[entry["split"]].setdefault(name, [])
                points.append((images, value, math.nan if step is None else step))
    train, validation = (
        {name: Series(*np.array(points, np.float64).T) for name, points in found[split].items()}
        for split in ("train", "val")
    )
    return History(train, validation)


def number(value: object) -> float | None:
    """A finite number as a float; None for anything else that a file contains."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer too large for a float
        return None


def smooth(values: Values, span: float) -> Values:
    """Exponential moving average over about ``span`` values (1 or more), with bias correction at the start."""
    weight = 1 - 1 / max(span, 1.0)
    out, mean, norm = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        mean = weight * mean + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        out[i] = mean / norm
    return out


def draw(metrics: Path, out: Path) -> None:
    """Draw the training curves of a run against images seen, as far as it has these metrics:

    - bits/dim of training and validation, with a second axis in nats/dim;
    - mean logits of the discriminator on real and on generated images, and its overfitting heuristic r_t;
    - KID of validation.

    Writes nothing if there is none of them.

    Raises:
        UsageError: if ``metrics`` cannot be read.
        ModelError: if ``out`` cannot be written.
    """
    figure = figure_of(read_history(metrics))
    if figure is None:
        return
    write_bytes(out, png(figure))


Panel = Callable[["Axes", History], None]


def figure_of(history: History, size: tuple[float, float] | None = None) -> Figure | None:
    """The chart of :func:`draw`, one panel below the other; None without metrics to draw."""
    backend.ready()
    from matplotlib.figure import Figure

    panels = _panels(history)
    if not panels:
        return None
    figure = Figure(figsize=size or (_WIDTH, sum(high for high, _ in panels)), dpi=DPI, layout="constrained")
    rows = figure.subplots(
        len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": [high for high, _ in panels]}
    )
    for axes, (_, panel) in zip(rows[:, 0], panels, strict=True):
        plain(axes)
        panel(axes, history)
    against_images(rows[-1, 0])
    return figure


def _panels(history: History) -> list[tuple[float, Panel]]:
    """Height of each panel in inches, and the function that draws it."""
    train, found = history.train, list[tuple[float, Panel]]()
    if BITS in train or BITS in history.validation:
        found.append((4.2, _likelihood))
    if REAL in train and FAKE in train:
        found.append((2.6, _margins))
    if R_T in train:
        found.append((1.2, _overfitting))
    return found + [(2.6, partial(_distance, name)) for name in history.selecting if name != BITS]


def png(figure: Figure, *, transparent: bool = False) -> bytes:
    """The chart as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=transparent)
    return buffer.getvalue()


def plain(axes: Axes) -> None:
    """A faint grid, and no frame at the top and the right."""
    axes.grid(color="0.5", alpha=0.16, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def against_images(axes: Axes, ends: Sequence[float] = (1,)) -> None:
    """The axis of images seen; logarithmic if runs end at very different lengths."""
    backend.ready()
    from matplotlib.ticker import EngFormatter

    if max(ends) > 10 * max(min(ends), 1):
        axes.set(xlabel="images seen, logarithmic", xscale="log")
    else:
        axes.set_xlabel("images seen")
        axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def in_nats(axes: Axes) -> None:
    """Add an axis in nats/dim to one in bits/dim."""
    nats = axes.secondary_yaxis("right", functions=(_to_nats, _to_bits))
    nats.set_ylabel(NATS)
    nats.spines["right"].set_color("0.6")


def _to_nats(bits: npt.ArrayLike) -> Values:
    return np.asarray(bits, np.float64) * math.log(2)


def _to_bits(nats: npt.ArrayLike) -> Values:
    return np.asarray(nats, np.float64) / math.log(2)


def _likelihood(axes: Axes, history: History) -> None:
    train, validation = history.train.get(BITS), history.validation.get(BITS)
    if train is not None:
        _smoothed(axes, train, _BLUE, "training (smoothed)")
    if validation is not None:
        _validated(axes, validation, f"best validation: {validation.best[1]:.3f}")
    axes.set(ylabel=BITS, ylim=limits([train] if train else [], [validation] if validation else []))
    in_nats(axes)
    axes.legend(loc="upper right", frameon=False)


def _margins(axes: Axes, history: History) -> None:
    real, fake = history.train[REAL], history.train[FAKE]
    _smoothed(axes, real, _BLUE, "real images")
    _smoothed(axes, fake, _ORANGE, "generated images")
    upper, lower = (smooth(series.values, span(series)) for series in (real, fake))
    lower = np.interp(real.images, fake.images, lower)
    axes.fill_between(real.images, lower, upper, color="0.5", alpha=0.13, linewidth=0, label="margin")
    low, high = (bound([real, fake], quantile) for quantile in (0.01, 0.99))
    axes.set(ylabel="mean logit of D", ylim=with_room(low, high))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False, ncols=3)  # above: the band fills the panel


def _overfitting(axes: Axes, history: History) -> None:
    _smoothed(axes, history.train[R_T], "0.5", None)
    axes.axhline(0, color="0.5", linewidth=0.8, linestyle=(0, (4, 4)))
    axes.set(ylabel=R_T, ylim=(-1.1, 1.1))
    axes.set_yticks([-1, 0, 1], ["−1", "0", "1: overfit"])


def _distance(name: str, axes: Axes, history: History) -> None:
    series = history.validation[name]
    _validated(axes, series, f"best: {series.best[1]:.4g}")
    axes.set(ylabel=name, ylim=limits([], [series]))
    axes.legend(loc="upper right", frameon=False)


def span(series: Series) -> float:
    """Number of values that a series is smoothed over."""
    return max(2, len(series.values) / 50)


def _smoothed(axes: Axes, series: Series, color: str, label: str | None) -> None:
    """The series, faint, and its smoothed curve."""
    axes.plot(series.images, series.values, color=color, alpha=_FAINT, linewidth=0.8)
    alone = "o" if len(series.values) == 1 else None  # a line through one point shows nothing
    smoothed = smooth(series.values, span(series))
    axes.plot(series.images, smoothed, color=color, linewidth=1.6, marker=alone, markersize=4, label=label)


def _validated(axes: Axes, series: Series, best: str) -> None:
    """The series, with its best value marked."""
    axes.plot(series.images, series.values, color=_ORANGE, linewidth=1.2, marker="o", markersize=4, label="validation")
    ring(axes, series, _ORANGE)
    axes.axhline(series.best[1], color=_ORANGE, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.7)
    axes.plot([], [], color="none", marker="o", markeredgecolor=_ORANGE, label=best)


def ring(axes: Axes, series: Series, color: str) -> None:
    """Mark the lowest value."""
    at, best, _ = series.best
    axes.plot([at], [best], marker="o", markersize=10, color="none", markeredgecolor=color, markeredgewidth=1.5)


def limits(train: list[Series], validation: list[Series]) -> tuple[float, float]:
    """Limits that show all validation values and all training values but the large ones at the start."""
    low = min([*(series.values.min() for series in validation), *([bound(train, 0.01)] if train else [])])
    high = max([bound([series], 1) for series in validation] + ([bound(train, 0.98)] if train else []))
    return with_room(float(low), high)


def bound(several: list[Series], quantile: float) -> float:
    """A quantile of the values, without the first twentieth of each series."""
    return float(np.quantile(np.concatenate([s.values[len(s.values) // 20 :] for s in several]), quantile))


def with_room(low: float, high: float) -> tuple[float, float]:
    """Both limits with a margin of 5 %."""
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
