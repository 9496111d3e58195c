"""A comparison as one picture: a column a model, charts below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pixelloom.core.errors import UsageError
from pixelloom.core.types import Levels
from pixelloom.report.charts import charts, color, in_ink
from pixelloom.report.model import Comparison, Entry
from pixelloom.viz.grid import LARGEST_SHEET, grid, sheet

_INK, _SOFT, _RULE = "#1d2023", "#5d636a", "#dcdcd6"
_MARGIN, _GAP, _LABELS = 36, 28, 176  # pixels
_COLUMN, _FEW = 360, (3, 540)  # pixels of a column, and of one where there are few; wider where its pictures are
_ABREAST = 6  # columns; further models stand below
_TEXT, _TITLE = 15, 26  # pixels: size of letters

Line = tuple[str, str, int, bool]
"""Text, color, size, bold."""


def poster(comparison: Comparison) -> Image.Image:
    """The picture, RGB.

    Raises:
        UsageError: if it would have more pixels than programs open without alarm.
    """
    entries = comparison.entries
    column = max(
        _FEW[1] if len(entries) <= _FEW[0] else _COLUMN,
        *(_grid(entry.samples, entry.spec.levels, 0).width for entry in entries),
    )
    charted = [(chart, Image.open(io.BytesIO(in_ink(chart.draw(), _INK)))) for chart in charts(comparison)]
    columns = min(len(entries), _ABREAST)
    width = max(_LABELS + columns * (column + _GAP), *(drawn.width for _, drawn in charted), 640)
    blocks = [_stack([(comparison.title, _INK, _TITLE, True), (comparison.summary, _SOFT, _TEXT, False)], width)]
    for start in range(0, len(entries), _ABREAST):
        blocks.append(_band(comparison, range(start, min(start + _ABREAST, len(entries))), column, width))
    abreast = [
        _under(_stack([(chart.title, _INK, _TEXT, True), (chart.note, _SOFT, 13, False)], drawn.width), drawn)
        for chart, drawn in charted
    ]
    each = max(1, (width + _GAP) // (max((block.width for block in abreast), default=1) + _GAP))
    blocks += [_beside(abreast[i : i + each]) for i in range(0, len(abreast), each)]
    blocks += [_notes(title, lines, width) for title, lines in comparison.remarks().items() if lines]
    return _joined(blocks, width)


def _joined(blocks: Sequence[Image.Image], width: int) -> Image.Image:
    size = width + 2 * _MARGIN, sum(block.height + _GAP for block in blocks) + 2 * _MARGIN - _GAP
    if size[0] * size[1] > LARGEST_SHEET:
        raise UsageError(
            f"the picture would have {size[0]} x {size[1]} pixels, too many to be opened; draw fewer with -n"
        )
    whole, y = Image.new("RGB", size, "white"), _MARGIN
    for block in blocks:
        whole.paste(block, (_MARGIN, y))
        y += block.height + _GAP
    return whole


def _band(comparison: Comparison, places: range, column: int, width: int) -> Image.Image:
    """A column a model: name, pictures, facts, in rows of one height."""
    entries = [comparison.entries[place] for place in places]
    rows: list[tuple[str, list[Image.Image]]] = [
        ("", [_head(entry, place, column) for place, entry in zip(places, entries, strict=True)])
    ]
    rows.append(("samples", [_grid(entry.samples, entry.spec.levels, column) for entry in entries]))
    rows.append(("", [_stack([(e.caption(comparison.seed), _SOFT, 13, False)], column) for e in entries]))
    if any(entry.given is not None for entry in entries):
        blank = Image.new("RGB", (1, 1), "white")
        drawn = [_grid(e.given, e.spec.levels, column) if e.given is not None else blank for e in entries]
        rows.append(("given", drawn))
    facts = [entry.facts() for entry in entries]
    for what in facts[0]:
        rows.append((what, [_stack([(fact[what], _INK, _TEXT, False)], column) for fact in facts]))
    rows += _measured(comparison, places, column)
    space = [14 if what else 4 for what, _ in rows]
    labels = [_stack([(what, _SOFT, _TEXT, False)], _LABELS - 16) for what, _ in rows]
    heights = [max(part.height for part in (label, *cells)) for label, (_, cells) in zip(labels, rows, strict=True)]
    whole, y = Image.new("RGB", (width, sum(heights) + sum(space)), "white"), 0
    pen = ImageDraw.Draw(whole)
    for (what, cells), label, height, gap in zip(rows, labels, heights, space, strict=True):
        if what and what not in ("given", "samples"):
            pen.line([(0, y + gap // 2 - 1), (_LABELS + len(cells) * (column + _GAP) - _GAP, y + gap // 2 - 1)], _RULE)
        y += gap
        whole.paste(label, (0, y))
        for i, cell in enumerate(cells):
            whole.paste(cell, (_LABELS + i * (column + _GAP), y))
        y += height
    return whole


def _head(entry: Entry, place: int, column: int) -> Image.Image:
    """The name with the color of its curves, and what it is."""
    block = _stack([(entry.name, _INK, 18, True), (entry.about, _SOFT, 13, False)], column - 24)
    whole = Image.new("RGB", (column, block.height), "white")
    whole.paste(block, (24, 0))
    ImageDraw.Draw(whole).ellipse((0, 4, 14, 18), color(place))
    return whole


def _grid(images: Levels, levels: int, width: int) -> Image.Image:
    """As large as the width allows, by whole pixels."""
    small = grid(images, levels, scale=1)
    scale = 1
    while sheet(len(images), images.shape[1:], scale=scale + 1).size[1] <= width:
        scale += 1
    return (small if scale == 1 else grid(images, levels, scale=scale)).convert("RGB")


def _measured(comparison: Comparison, places: range, column: int) -> list[tuple[str, list[Image.Image]]]:
    """Figures of samples, as rows beneath those models that have them."""
    rows = list[tuple[str, list[Image.Image]]]()
    for table in comparison.tables():
        of = {place: (table.title, *figures) for place, figures in table.rows}
        for i, what in enumerate(("", *table.columns)):
            ink, size = (_INK, _TEXT) if i else (_SOFT, 13)
            texts = ([(of[place][i], ink, size, False)] if place in of else [] for place in places)
            rows.append((what, [_stack(text, column) for text in texts]))
    return rows


def _notes(title: str, lines: Sequence[str], width: int) -> Image.Image:
    return _stack([(title, _INK, 17, True), *((line, _INK, _TEXT, False) for line in lines)], width)


def _stack(lines: Sequence[Line], width: int) -> Image.Image:
    """Texts one below the other, broken where they are too long."""
    laid = [
        (part, ink, _font(size, bold), size)
        for text, ink, size, bold in lines
        for part in _broken(text, size, bold, width)
    ]
    whole = Image.new("RGB", (width, max(1, sum(round(1.4 * size) for *_, size in laid))), "white")
    pen, y = ImageDraw.Draw(whole), 0
    for part, ink, font, size in laid:
        pen.text((0, y), part, ink, font)
        y += round(1.4 * size)
    return whole


def _broken(text: str, size: int, bold: bool, width: int) -> list[str]:
    """Lines no wider than so many pixels: between words where that is possible."""
    font, lines = _font(size, bold), [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] * bool(lines[-1])
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines if any(lines) else []


def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """That of the charts, which knows more alphabets than Pillow's own."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size)


def _under(upper: Image.Image, lower: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (max(upper.width, lower.width), upper.height + lower.height), "white")
    whole.paste(upper, (0, 0))
    whole.paste(lower, (0, upper.height), lower if lower.mode == "RGBA" else None)
    return whole


def _beside(blocks: Sequence[Image.Image]) -> Image.Image:
    width = sum(block.width + _GAP for block in blocks) - _GAP
    whole, x = Image.new("RGB", (width, max(block.height for block in blocks)), "white"), 0
    for block in blocks:
        whole.paste(block, (x, 0))
        x += block.width + _GAP
    return whole
