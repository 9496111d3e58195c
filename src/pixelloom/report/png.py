"""A comparison as one PNG: a column per model, charts and remarks below."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from pixelloom.core.types import Display, Levels
from pixelloom.report.charts import charts, color, in_ink
from pixelloom.report.model import Comparison, ModelEntry
from pixelloom.viz import canvas
from pixelloom.viz.canvas import INK, RULE, SOFT, Line
from pixelloom.viz.grid import grid, grid_layout

_MARGIN, _GAP, _LABELS = 36, 28, 176  # pixels: around the image, between columns and parts, and before the columns
_COLUMN, _FEW = 360, (3, 540)  # pixels of a column, and of one of at most three; wider if its samples are
_ABREAST = 6  # columns beside each other; more models begin a new band
_CAPTION, _HEADING, _NAME, _TITLE = 13, 17, 18, 26  # pixels: sizes of text

Row = tuple[str, list[Image.Image]]
"""A label, and a cell for each column."""


def draw(comparison: Comparison) -> Image.Image:
    """Draw the comparison, RGB.

    Raises:
        UsageError: if the image would have too many pixels.
    """
    models = comparison.models
    column = max(
        _FEW[1] if len(models) <= _FEW[0] else _COLUMN,
        *(_grid(model.samples, model.spec.display, 0).width for model in models),
    )
    drawn = [(chart, Image.open(io.BytesIO(in_ink(chart.draw(), INK)))) for chart in charts(comparison)]
    columns = min(len(models), _ABREAST)
    width = max(_LABELS + columns * (column + _GAP), *(image.width for _, image in drawn), 640)
    title = [Line(comparison.title, _TITLE, bold=True), Line(comparison.summary, color=SOFT)]
    blocks = [canvas.paragraph(title, width)]
    for start in range(0, len(models), _ABREAST):
        blocks.append(_band(comparison, range(start, min(start + _ABREAST, len(models))), column))
    cards = [
        canvas.vstack([canvas.paragraph([Line(c.title, bold=True), Line(c.note, _CAPTION, SOFT)], image.width), image])
        for c, image in drawn
    ]
    each = max(1, (width + _GAP) // (max((card.width for card in cards), default=1) + _GAP))
    blocks += [canvas.hstack(cards[i : i + each], _GAP) for i in range(0, len(cards), each)]
    for heading, lines in comparison.remarks().items():
        if lines:
            blocks.append(canvas.paragraph([Line(heading, _HEADING, bold=True), *map(Line, lines)], width))
    height = sum(block.height + _GAP for block in blocks) - _GAP + 2 * _MARGIN
    canvas.check_size(height, width + 2 * _MARGIN, "the image", "draw fewer with -n")
    whole = canvas.vstack([canvas.widen(block, width) for block in blocks], _GAP)
    return canvas.pad(whole, _MARGIN, _MARGIN, _MARGIN, _MARGIN)


def _band(comparison: Comparison, places: range, column: int) -> Image.Image:
    """A column per model: name, samples and a table, in rows of equal height."""
    models = [comparison.models[place] for place in places]
    rows: list[Row] = [
        ("", [_head(model, place, column) for place, model in zip(places, models, strict=True)]),
        ("samples", [_grid(model.samples, model.spec.display, column) for model in models]),
        ("", [canvas.paragraph([Line(m.caption(comparison.seed), _CAPTION, SOFT)], column) for m in models]),
    ]
    if any(model.given is not None for model in models):
        blank = Image.new("RGB", (1, 1), "white")
        given = [blank if m.given is None else _grid(m.given, m.spec.display, column) for m in models]
        rows.append(("given", given))
    texts = [model.row() for model in models]
    rows += [(what, [canvas.paragraph([Line(text[what])], column) for text in texts]) for what in texts[0]]
    rows += _sample_metrics(comparison, places, column)
    return canvas.vstack([_row(label, cells, column) for label, cells in rows])


def _row(label: str, cells: Sequence[Image.Image], column: int) -> Image.Image:
    """A row of a band; one of text begins with a line above it."""
    gap = 14 if label else 4
    first = canvas.paragraph([Line(label, color=SOFT)], _LABELS - 16)
    row = canvas.pad(
        canvas.hstack([canvas.widen(first, _LABELS), *(canvas.widen(cell, column + _GAP) for cell in cells)]), top=gap
    )
    if label and label not in ("given", "samples"):
        ImageDraw.Draw(row).line([(0, gap // 2 - 1), (row.width - _GAP, gap // 2 - 1)], RULE)
    return row


def _head(model: ModelEntry, place: int, column: int) -> Image.Image:
    """The name, with the color of its curves, and what the model is."""
    text = [Line(model.name, _NAME, bold=True), Line(model.about, _CAPTION, SOFT)]
    block = canvas.pad(canvas.paragraph(text, column - 24), left=24)
    ImageDraw.Draw(block).ellipse((0, 4, 14, 18), color(place))
    return block


def _grid(images: Levels, levels: Display, width: int) -> Image.Image:
    """A grid as large as the width allows, in whole pixels."""
    scale = 1
    while grid_layout(len(images), images.shape[1:], scale=scale + 1).size[1] <= width:
        scale += 1
    return grid(images, levels, scale=scale).convert("RGB")


def _sample_metrics(comparison: Comparison, places: range, column: int) -> list[Row]:
    """Sample metrics, as rows with empty cells for models without them."""
    rows = list[Row]()
    for table in comparison.tables():
        texts = {place: (table.title, *results) for place, results in table.rows}
        for i, head in enumerate(("", *table.heads)):
            size, ink = (canvas.TEXT, INK) if i else (_CAPTION, SOFT)
            lines = ([Line(texts[place][i], size, ink)] if place in texts else [] for place in places)
            rows.append((head, [canvas.paragraph(line, column) for line in lines]))
    return rows
