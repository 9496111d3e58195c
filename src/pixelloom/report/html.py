"""A comparison as one web page that needs nothing beside it: pictures inline, no script, light and dark.

Whatever a file says, a run's name for instance, is text: the template engine escapes all of it.
"""

from __future__ import annotations

import base64
import io
from importlib import resources
from typing import Any

from PIL.Image import Image

from pixelloom.core.types import Levels
from pixelloom.report.charts import Chart, charts, color, in_ink
from pixelloom.report.model import Comparison, Entry
from pixelloom.viz.grid import grid

_ABREAST = 5  # models beside each other on a wide screen
LIGHT, DARK = "#1d2023", "#e9e9e6"  # ink on each ground


def page(comparison: Comparison) -> str:
    """The page, as HTML."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files("pixelloom.report").joinpath("templates/compare.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    models = [_model(place, entry, comparison) for place, entry in enumerate(comparison.entries)]
    return environment.from_string(text).render(
        title=comparison.title,
        summary=comparison.summary,
        models=models,
        abreast=min(len(models), _ABREAST),
        charts=[_chart(chart) for chart in charts(comparison)],
        columns=list(comparison.entries[0].facts()),
        tables=comparison.tables(),
        notes=comparison.cautions(),
        unmeasured=comparison.unmeasured(),
        apart=comparison.apart(),
        broken=comparison.broken,
    )


def _model(place: int, entry: Entry, comparison: Comparison) -> dict[str, Any]:
    return {
        "name": entry.name,
        "color": color(place),
        "about": entry.about,
        "given": None if entry.given is None else _grid(entry.given, entry.spec.levels),
        "samples": _grid(entry.samples, entry.spec.levels),
        "caption": entry.caption(comparison.seed),
        "facts": list(entry.facts().items()),
    }


def _chart(chart: Chart) -> dict[str, str]:
    light, dark = (_inline(in_ink(chart.draw(), ink)) for ink in (LIGHT, DARK))
    return {"title": chart.title, "told": chart.told, "note": chart.note, "light": light, "dark": dark}


def _grid(images: Levels, levels: int) -> str:
    buffer = io.BytesIO()
    picture: Image = grid(images, levels)
    picture.save(buffer, "PNG")
    return _inline(buffer.getvalue())


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
