"""Charts of several runs: a metric of each on one axis, and the logits of each discriminator; in any text color.

matplotlib is imported where it is used, with its object interface only: no global state, no display.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pixelloom.metrics.table import BITS, FAKE, R_T, REAL, is_distance
from pixelloom.report.model import Comparison
from pixelloom.viz import backend, curves
from pixelloom.viz.curves import History, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = (
    *("#3b7fc4", "#cf7420", "#2f9670", "#c2528b", "#8468d0", "#93841c", "#3a97b5", "#b0614f", "#6f8f2f", "#7f7f7f"),
)
"""Colors of models, in order; each is visible on light and on dark backgrounds."""
_SIZE = (5.0, 3.6)  # inches: text stays readable at the width of a phone
_FAR = 10  # ratio of the best values from which on the axis is logarithmic


@dataclass(frozen=True)
class Line:
    """One run among several: its name, its color, and a metric in validation and training."""

    name: str
    color: str
    validation: Series
    train: Series | None = None


def overlay(metric: str, lines: Sequence[Line]) -> Figure:
    """A metric of several runs on one axis: training faint and smoothed, validation with its best value marked."""
    backend.ready()
    from matplotlib.figure import Figure

    drawing = Figure(figsize=_SIZE, dpi=curves.DPI, layout="constrained")
    axes = drawing.add_subplot()
    curves.plain(axes)
    for line in lines:
        seen, values, color = line.validation.images, line.validation.values, line.color
        if line.train is not None:
            fine = curves.smooth(line.train.values, curves.span(line.train))
            axes.plot(line.train.images, fine, color=color, linewidth=1, alpha=0.45)
        axes.plot(seen, values, color=color, linewidth=1.4, marker="o", markersize=3)
        curves.ring(axes, line.validation, color)
    trained = [line.train for line in lines if line.train is not None]
    low, high = curves.limits(trained, [line.validation for line in lines])
    least = min(float(line.validation.values.min()) for line in lines)
    bests = [line.validation.best[1] for line in lines]
    if is_distance(metric) and least > 0 and max(bests) > _FAR * min(bests):
        axes.set_yscale("log")
        low = 0.8 * least
    axes.set(ylabel=metric, ylim=(low, high))
    if metric == BITS:
        curves.in_nats(axes)
    curves.against_images(axes, [line.validation.images[-1] for line in lines])
    _name(drawing, lines)
    return drawing


def _name(drawing: Figure, lines: Sequence[Line]) -> None:
    """Add a legend below; names are plain text, not formulas."""
    backend.ready()
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=line.color, marker="o", markersize=3) for line in lines]
    legend = drawing.legend(keys, [f"{i}" for i in range(len(lines))], loc="outside lower center", frameon=False)
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_parse_math(False)
        text.set_text(f"{shortened(line.name)}: {line.validation.best[1]:.4g}")


def shortened(name: str, length: int = 44) -> str:
    """A name without its middle if it is longer."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


def discriminator_chart(history: History) -> Figure | None:
    """Chart of the logits of a run's discriminator, of the size of :func:`overlay`; None without a discriminator."""
    train = {name: series for name, series in history.train.items() if name in (REAL, FAKE, R_T)}
    return curves.figure_of(History(train, {}), _SIZE)


def in_ink(figure: Figure, ink: str) -> bytes:
    """A PNG with a transparent background, text and axes in one color."""
    for axes in [part for whole in figure.axes for part in (whole, *whole.child_axes)]:
        axes.tick_params(colors=ink, which="both")
        for spine in axes.spines.values():
            spine.set_color(ink)
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.texts):
            text.set_color(ink)
    for legend in filter(None, [*figure.legends, *(axes.get_legend() for axes in figure.axes)]):
        for text in legend.get_texts():
            text.set_color(ink)
    return curves.png(figure, transparent=True)


@dataclass(frozen=True)
class Chart:
    """A chart of a comparison.

    Attributes:
        title: metric and protocol.
        alt: description for readers who do not see it.
        note: how to read it.
        draw: creates the matplotlib figure; :func:`in_ink` changes it.
    """

    title: str
    alt: str
    note: str
    draw: Callable[[], Figure]


def color(place: int) -> str:
    """Color of the model at a position in the list."""
    return PALETTE[place % len(PALETTE)]


def charts(comparison: Comparison) -> list[Chart]:
    """A chart for each group of comparable results with a history, then one for each discriminator."""
    found = []
    for group in comparison.groups():
        lines = [
            Line(
                model.name, color(place), model.history.validation[group.metric], model.history.train.get(group.metric)
            )
            for place, model in ((place, comparison.models[place]) for place in group.members)
            if group.metric in model.history.validation
        ]
        if lines:
            lowest = ", ".join(f"{line.name} {line.validation.best[1]:.4g}" for line in lines)
            note = "Validation with its lowest value circled; lower is better." + (
                " Training faint, smoothed." if any(line.train for line in lines) else ""
            )
            alt = f"{group.title}, against images seen. Lowest: {lowest}"
            found.append(Chart(group.title, alt, note, partial(overlay, group.metric, lines)))
    for model in comparison.models:
        if discriminator_chart(model.history) is not None:
            alt = f"Mean logits of the discriminator of {model.name} on real and on generated images, and r_t"
            note = "Mean logits on real and on generated images, smoothed; r_t near 1 shows overfitting."
            found.append(Chart(f"Discriminator of {model.name}", alt, note, partial(_existing, model.history)))
    return found


def _existing(history: History) -> Figure:
    figure = discriminator_chart(history)
    assert figure is not None
    return figure
