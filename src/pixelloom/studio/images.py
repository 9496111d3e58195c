"""Images between files, levels and the page: exact PNG, shown by nearest neighbor."""

from __future__ import annotations

import base64
import html
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import Display, Levels
from pixelloom.data.image_source import ImageSource
from pixelloom.data.io.decode import ACCEPTED
from pixelloom.models.family import GenerativeModel
from pixelloom.runs.score import opened
from pixelloom.viz.grid import to_image

MOST_FILES = 64
"""Files of one upload."""
MAX_BYTES = 16 << 20
"""Bytes of one uploaded file."""
_SIDE = 112  # CSS pixels: small images are shown at about this size


def png_of(image: Image.Image) -> bytes:
    """The PNG file of an image, which has the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def pngs_of(images: Levels, levels: Display) -> list[bytes]:
    """A PNG file, pixel by pixel, of each image, levels uint8 [N, C, H, W]."""
    return [png_of(to_image(image, levels)) for image in images]


def data_url(png: bytes) -> str:
    """A PNG file as a URL that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def gallery(
    images: Sequence[bytes],
    captions: Sequence[str] = (),
    *,
    columns: int | None = None,
    side: int = _SIDE,
    note: str = "",
) -> str:
    """PNG files beside each other as HTML, each pixel an integer number of CSS pixels.

    Args:
        images: PNG files.
        captions: a line below each; of several lines if it has line breaks.
        columns: images in a row; default: as many as fit.
        side: size that small images are enlarged to.
        note: a line above all.
    """
    style = f' style="grid-template-columns: repeat({columns}, max-content)"' if columns else ""
    cells = []
    for i, data in enumerate(images):
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
        scale = max(1, side // max(width, height))
        text = captions[i] if i < len(captions) else ""
        lines = "<br>".join(html.escape(line) for line in text.split("\n")) if text else ""
        caption = f"<figcaption>{lines}</figcaption>" if lines else ""
        alt = html.escape(text.replace("\n", ", ") or f"image {i + 1}", quote=True)
        cells.append(
            f'<figure><img src="{data_url(data)}" alt="{alt}" width="{width * scale}" height="{height * scale}" '
            f'data-width="{width}" data-height="{height}">{caption}</figure>'
        )
    head = f"<p>{html.escape(note)}</p>" if note else ""
    return f'{head}<div class="gallery{" fixed" if columns else ""}"{style}>{"".join(cells)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML."""
    columns = "".join(f"<th>{html.escape(word)}</th>" for word in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(word)}</td>" for word in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def contents_of(paths: Sequence[str] | None) -> list[tuple[str, bytes]]:
    """(name, content) of uploaded files; names are without folders, and all different.

    Raises:
        DataError: without files, for too many, or for one that is too large.
    """
    files = [Path(path) for path in paths or ()]
    if not files:
        raise DataError("no images: drop image files first")
    if len(files) > MOST_FILES:
        raise DataError(f"{len(files)} files: at most {MOST_FILES} at a time")
    found: dict[str, bytes] = {}
    for path in files:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path.name}: is larger than {MAX_BYTES >> 20} MB")
        name, number = path.name, 2
        while name in found:
            name, number = f"{path.stem}-{number}{path.suffix}", number + 1
        found[name] = path.read_bytes()
    return list(found.items())


@contextmanager
def fitted(model: GenerativeModel, files: Sequence[tuple[str, bytes]]) -> Iterator[ImageSource]:
    """Image files as a model takes them, fitted as its training images were.

    Args:
        model: the model.
        files: name and content of each.

    Raises:
        DataError: if one is no image file, or does not fit the model.
    """
    for name, _ in files:
        if Path(name).suffix.lower() not in ACCEPTED:
            raise DataError(f"{name}: is no image file; accepted are {' '.join(ACCEPTED)}")
    with tempfile.TemporaryDirectory(prefix="pixelloom-") as folder:
        for name, data in files:
            (Path(folder) / name).write_bytes(data)
        with opened(model, folder, "all") as source:
            yield source


def levels_of(model: GenerativeModel, files: Sequence[tuple[str, bytes]]) -> tuple[list[str], Levels]:
    """Names and levels, uint8 [N, C, H, W], of image files.

    Raises:
        DataError: if one cannot be read, or does not fit the model.
    """
    with fitted(model, files) as source:
        taken = source.take(range(len(source.names)))
        if len(taken.good) < len(source.names):
            bad = sorted(set(range(len(source.names))) - set(taken.good))
            raise DataError(f"{source.names[bad[0]]}: cannot be read as an image")
        return [Path(name).name for name in source.names], np.asarray(taken.images)


def integer(name: str, value: object, least: int, most: int) -> int:
    """A whole number of a form.

    Raises:
        UsageError: for anything else, or a number out of its range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or value % 1:
        raise UsageError(f"{name}: a whole number from {least} to {most}")
    return int(value)
