"""Charts of several runs: a figure of theirs on one axis, and what each discriminator says; for light and dark ground.

matplotlib is imported where it draws, and only its object interface is used: no global state, no display.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pixelloom.report.model import Comparison
from pixelloom.viz import curves
from pixelloom.viz.curves import BITS, FAKE, R_T, REAL, History, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = (
    *("#3b7fc4", "#cf7420", "#2f9670", "#c2528b", "#8468d0", "#93841c", "#3a97b5", "#b0614f", "#6f8f2f", "#7f7f7f"),
)
"""A color a model, in order; each stands out from a light and from a dark ground."""
_SIZE = (5.0, 3.6)  # inches: letters stay readable at the width of a phone
_FAR = 10  # times the nearest distance: from there on a plain axis would press the nearer runs onto its baseline


@dataclass(frozen=True)
class Line:
    """One run among several: its name, its color, and the figure in validation and training."""

    name: str
    color: str
    validation: Series
    train: Series | None = None


def overlay(figure: str, lines: Sequence[Line]) -> Figure:
    """The same figure of several runs on one axis: training faint and smoothed, validation with the best ringed."""
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
    if figure != BITS and least > 0 and max(bests) > _FAR * min(bests):
        axes.set_yscale("log")
        low = 0.8 * least
    axes.set(ylabel=figure, ylim=(low, high))
    if figure == BITS:
        curves.in_nats(axes)
    curves.against_images(axes, [line.validation.images[-1] for line in lines])
    _name(drawing, lines)
    return drawing


def _name(drawing: Figure, lines: Sequence[Line]) -> None:
    """A legend below, of names that are text and no formulas."""
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=line.color, marker="o", markersize=3) for line in lines]
    legend = drawing.legend(keys, [f"{i}" for i in range(len(lines))], loc="outside lower center", frameon=False)
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_parse_math(False)
        text.set_text(f"{shortened(line.name)}: {line.validation.best[1]:.4g}")


def shortened(name: str, length: int = 44) -> str:
    """Without its middle, if it is longer."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


def sides(history: History) -> Figure | None:
    """What the discriminator of a run says, for a place beside :func:`overlay`; None for a run without one."""
    train = {name: series for name, series in history.train.items() if name in (REAL, FAKE, R_T)}
    return curves.figure_of(History(train, {}), _SIZE)


def in_ink(figure: Figure, ink: str) -> bytes:
    """A PNG without ground, all letters and axes in one color."""
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
    """One of a comparison's charts.

    Attributes:
        title: figure and ground.
        told: what it shows, in words.
        note: how it is to be read.
        draw: makes it anew; a figure is dyed in one ink.
    """

    title: str
    told: str
    note: str
    draw: Callable[[], Figure]


def color(place: int) -> str:
    """Of the model at a place in the list."""
    return PALETTE[place % len(PALETTE)]


def charts(comparison: Comparison) -> list[Chart]:
    """A chart for each group of figures that compare and have a history, then one for each discriminator."""
    found = []
    for group in comparison.groups():
        lines = [
            Line(
                entry.name, color(place), entry.history.validation[group.figure], entry.history.train.get(group.figure)
            )
            for place, entry in ((place, comparison.entries[place]) for place in group.members)
            if group.figure in entry.history.validation
        ]
        if lines:
            lowest = ", ".join(f"{line.name} {line.validation.best[1]:.4g}" for line in lines)
            note = "Validation with its lowest ringed; lower is better." + (
                " Training faint, smoothed." if any(line.train for line in lines) else ""
            )
            told = f"{group.title}, against images seen. Lowest: {lowest}"
            found.append(Chart(group.title, told, note, partial(overlay, group.figure, lines)))
    for entry in comparison.entries:
        if sides(entry.history) is not None:
            told = f"Mean logits of the discriminator of {entry.name} on real and on generated pictures, and its dial"
            note = "Mean logits on real and on generated pictures, smoothed, and the dial: 0 is chance."
            found.append(Chart(f"The discriminator of {entry.name}", told, note, partial(_sides, entry.history)))
    return found


def _sides(history: History) -> Figure:
    figure = sides(history)
    assert figure is not None
    return figure
