"""Fitting of an image to a size: crop, resize or pad; or tiles of that size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pixelloom.data.io.reading import Reading, SizeError, color


def fit_to(image: Image.Image, reading: Reading, name: str, remarks: list[str]) -> Image.Image:
    """Convert an image (mode L or RGB) to ``reading.size`` by ``reading.fit``.

    - crop: resize the largest centered box of the target's aspect ratio.
    - resize: scale both sides independently.
    - pad: shrink to fit (never enlarge) and center on the background; a colored background makes RGB of L.

    Filters of ``reading.resample``: antialias is BOX (exact means) if both sides shrink by integer factors, else
    LANCZOS if a side shrinks, else BICUBIC; nearest copies the pixel at floor((i + 1/2) old / new) and adds no colors.

    Raises:
        SizeError: for another size under fit="error".
    """
    assert reading.size is not None
    (height, width), (w, h) = reading.size, image.size
    if (h, w) == (height, width):
        return image
    if reading.fit == "error":
        raise SizeError(f"{name}: {h}x{w} pixels, not {height}x{width}; choose --fit crop, resize or pad")
    if reading.fit == "pad":
        scale = min(1.0, height / h, width / w)
        inner = _scale(image, max(1, round(w * scale)), max(1, round(h * scale)), reading.resample)
        mode = "RGB" if reading.colored_background else image.mode
        canvas = Image.new("RGB", (width, height), color(reading.background)).convert(mode)
        canvas.paste(inner.convert(mode), ((width - inner.width) // 2, (height - inner.height) // 2))
        return canvas
    if reading.fit == "crop":
        cw = w if w * height <= h * width else max(1, round(h * width / height))
        ch = h if w * height >= h * width else max(1, round(w * height / width))
        # Whole pixels: a box with an offset of half a pixel would blur images that need no scaling.
        left, top = (w - cw) // 2, (h - ch) // 2
        image = image.crop((left, top, left + cw, top + ch))
    if image.width < width or image.height < height:
        remarks.append("enlarged")
    return _scale(image, width, height, reading.resample)


def tiles_of(image: Image.Image, size: tuple[int, int], remarks: list[str]) -> list[Image.Image]:
    """Cut an image into tiles of (height, width) side by side, row by row, without scaling.

    What is left at the edges is cut off, half of it at either side. An image smaller than a tile gives none.
    """
    (height, width), (w, h) = size, image.size
    rows, columns = h // height, w // width
    if not rows * columns:
        remarks.append("smaller than a tile left out")
    top, left = (h - rows * height) // 2, (w - columns * width) // 2
    corners = [(left + j * width, top + i * height) for i in range(rows) for j in range(columns)]
    return [image.crop((x, y, x + width, y + height)) for x, y in corners]


def _scale(image: Image.Image, width: int, height: int, resample: str) -> Image.Image:
    w, h = image.size
    if (w, h) == (width, height):
        return image
    if resample == "nearest":
        # Not Pillow's filter: it sums float steps, so that a center on a border falls on either side.
        rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in ((height, h), (width, w)))
        return Image.fromarray(np.asarray(image)[rows[:, None], columns])
    if w % width == 0 and h % height == 0:
        return image.resize((width, height), Image.Resampling.BOX)
    enlarges = w <= width and h <= height
    return image.resize((width, height), Image.Resampling.BICUBIC if enlarges else Image.Resampling.LANCZOS)
