"""A comparison as one self-contained HTML page: images inline, no scripts, light and dark.

The template engine escapes all text, so nothing in a file, such as the name of a run, can become markup.
"""

from __future__ import annotations

import base64
import io
from importlib import resources
from typing import Any

from pixelloom.core.types import Display, Levels
from pixelloom.report.charts import Chart, charts, color, in_ink
from pixelloom.report.model import Comparison, ModelEntry
from pixelloom.viz.grid import grid

_ABREAST = 5  # models beside each other on a wide screen
LIGHT, DARK = "#1d2023", "#e9e9e6"  # text color on a light and on a dark background


def page(comparison: Comparison) -> str:
    """The page, as HTML."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files("pixelloom.report").joinpath("templates/compare.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    models = [_model(place, model, comparison) for place, model in enumerate(comparison.models)]
    return environment.from_string(text).render(
        title=comparison.title,
        summary=comparison.summary,
        models=models,
        abreast=min(len(models), _ABREAST),
        charts=[_chart(chart) for chart in charts(comparison)],
        columns=list(comparison.models[0].row()),
        tables=comparison.tables(),
        cautions=comparison.cautions(),
        unmeasured=comparison.unmeasured(),
        not_comparable=comparison.not_comparable(),
        broken=comparison.broken,
    )


def _model(place: int, model: ModelEntry, comparison: Comparison) -> dict[str, Any]:
    return {
        "name": model.name,
        "color": color(place),
        "about": model.about,
        "given": None if model.given is None else _grid(model.given, model.spec.display),
        "samples": _grid(model.samples, model.spec.display),
        "caption": model.caption(comparison.seed),
        "row": list(model.row().items()),
    }


def _chart(chart: Chart) -> dict[str, str]:
    light, dark = (_inline(in_ink(chart.draw(), ink)) for ink in (LIGHT, DARK))
    return {"title": chart.title, "alt": chart.alt, "note": chart.note, "light": light, "dark": dark}


def _grid(images: Levels, levels: Display) -> str:
    buffer = io.BytesIO()
    grid(images, levels).save(buffer, "PNG")
    return _inline(buffer.getvalue())


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
