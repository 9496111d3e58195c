"""Image files to levels of a model and back, with the same pixels and mode, or a reason why a model cannot take them.

What is not pixels (form, metadata, palette) goes into a :class:`~pixelloom.codec.manifest.Form`.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from pixelloom.codec import strips
from pixelloom.codec.layout import check_size, over_limit
from pixelloom.codec.manifest import Form
from pixelloom.core.errors import PixelloomError, UsageError
from pixelloom.core.types import ImageSpec, Levels
from pixelloom.data.io.decode import MAX_PIXELS
from pixelloom.data.io.png import checked_png
from pixelloom.data.pixels import quantize, to_bytes

FORMATS = ("PNG", "BMP", "PPM")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
SUFFIX = {"PNG": ".png", "BMP": ".bmp", "PPM": ".ppm"}
OPAQUE = np.iinfo(np.uint8).max
_KEPT = 1 << 16  # bytes of PNG chunks
_EARLY = (b"gAMA", b"cHRM", b"iCCP", b"sRGB", b"sBIT", b"cICP", b"mDCV", b"cLLI")  # chunks before a palette

_NO_IMAGE = (
    PixelloomError, OSError, SyntaxError, ValueError, LookupError, TypeError, Image.DecompressionBombError
)  # fmt: skip


class Fitting(NamedTuple):
    """An image as a model takes it."""

    levels: Levels
    """uint8 [C, H, W]"""
    form: Form


def size_of(data: bytes) -> tuple[int, int] | None:
    """(height, width) of an image file as it is stored, whatever its orientation; None for other files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                return image.height, image.width
        except _NO_IMAGE:
            return None


def levels_of(data: bytes, spec: ImageSpec, *, any_size: bool = False) -> Fitting | str:
    """The levels of an image file, or why it has to be stored as it is.

    Whatever is returned has been restored by :func:`file_of` and compared: pixels and mode, and all bytes if the format
    is not PNG.

    Args:
        data: content of the file.
        spec: shape and levels of the images that a model takes.
        any_size: whether it takes other heights and widths as well.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = _levels(data, spec, any_size)
            if isinstance(found, str):
                return found
            again = file_of(found.levels, found.form, spec)
            if found.form.format != "PNG":
                return found if again == data else f"{found.form.format} of a rare form"
            if _chunks(again) != _chunks(data) or not _same(again, data):
                return "metadata that would change"
        except _NO_IMAGE:
            return "not an image that can be decoded"
    return found


def takes_size(spec: ImageSpec, size: tuple[int, int]) -> bool:
    """Whether a model of any size takes images of a height and width, in strips if they are large."""
    try:
        check_size(replace(spec, height=strips.rows_of(*size), width=size[1]))
    except (UsageError, ValueError):
        return False
    return True


def _same(a: bytes, b: bytes) -> bool:
    """Whether two image files have the same mode, size, pixels and palette."""
    with Image.open(io.BytesIO(a)) as one, Image.open(io.BytesIO(b)) as two:
        palettes = (one.getpalette(), two.getpalette()) if one.mode == two.mode == "P" else (None, None)
        return (one.mode, one.size, one.tobytes(), palettes[0]) == (two.mode, two.size, two.tobytes(), palettes[1])


def _levels(data: bytes, spec: ImageSpec, any_size: bool) -> Fitting | str:
    with Image.open(io.BytesIO(data)) as image:
        kind, size = image.format or "", (image.height, image.width)
        if kind not in FORMATS:
            return f"{kind} file"
        if getattr(image, "n_frames", 1) > 1:
            return "several frames"
        if size != (spec.height, spec.width):
            if not any_size:
                return f"{size[0]}x{size[1]} pixels"
            if not takes_size(spec, size):
                return f"{size[0]}x{size[1]} pixels, and {over_limit()}"
        if image.mode not in MODES:
            return f"mode {image.mode}"
        if "transparency" in image.info:
            return "transparency"
        if image.height * image.width > MAX_PIXELS:
            return f"more than {MAX_PIXELS} pixels"
        before, after = _chunks(data) if kind == "PNG" else (b"", b"")
        if len(before) + len(after) > _KEPT:
            return "large metadata"
        image.load()
        mode, pixels = image.mode, np.asarray(image.convert("L") if image.mode == "1" else image, np.uint8)
        palette = b""
        if mode == "P":
            palette = bytes(image.getpalette() or ())
    pixels = pixels.reshape(*size, -1)  # [H, W] or [H, W, C] -> [H, W, C]
    if mode == "P":
        if any(chunk in before for chunk in _EARLY):
            return "palette and color metadata"
        table = np.frombuffer(palette, np.uint8).reshape(-1, 3)
        if not len(table) or pixels.max() >= len(table) or (_first_index(table)[pixels] != pixels).any():
            return "palette with equal colors"
        pixels = table[pixels[..., 0]]  # [H, W] -> [H, W, 3]
    if mode in ("LA", "RGBA"):
        if (pixels[..., -1] != OPAQUE).any():
            return "transparency"
        pixels = pixels[..., :-1]
    return _of_model(pixels, spec, Form(kind, mode, before, after, palette, strips.count_of(*size)))


def _of_model(pixels: Levels, spec: ImageSpec, form: Form) -> Fitting | str:
    """Bytes [H, W, C] in the channels and levels of a model."""
    if spec.channels not in (1, 3):
        return f"{pixels.shape[-1]} channels"
    if spec.channels == 1:
        if (pixels != pixels[..., :1]).any():
            return "color"
        pixels = pixels[..., :1]
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], spec.channels)).transpose(2, 0, 1)  # [H, W, C] -> [C, H, W]
    levels = quantize(np.ascontiguousarray(pixels), 256, spec.levels)
    if (to_bytes(levels, spec.levels) != pixels).any():
        return f"values between the model's {spec.levels} levels"
    return Fitting(levels, form)


def _first_index(table: Levels) -> Levels:
    """For each index of a palette [n, 3] the first one of the same color, uint8 [n]."""
    _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)].astype(np.uint8)


def file_of(levels: Levels, form: Form, spec: ImageSpec) -> bytes:
    """An image file of levels uint8 [C, H, W].

    Raises:
        ValueError: if the form is not one of these levels.
    """
    pixels = to_bytes(levels, spec.levels).transpose(1, 2, 0)  # [C, H, W] -> [H, W, C]
    color = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    if form.mode == "P":
        table = np.frombuffer(form.palette, np.uint8).reshape(-1, 3).astype(np.int64)
        keys, first = np.unique(table @ (1 << 16, 1 << 8, 1), return_index=True)  # color as one number -> its index
        wanted = color.astype(np.int64) @ (1 << 16, 1 << 8, 1)
        place = np.searchsorted(keys, wanted).clip(0, len(keys) - 1)
        if (keys[place] != wanted).any():
            raise ValueError("a color that is not in the palette")
        image = Image.fromarray(first[place].astype(np.uint8))
        image.putpalette(form.palette)
    elif form.mode == "1":
        image = Image.fromarray(pixels[..., 0]).convert("1", dither=Image.Dither.NONE)
    else:
        plain = color if form.mode.startswith("RGB") else pixels[..., :1]
        if form.mode.endswith("A"):
            plain = np.concatenate((plain, np.full_like(plain[..., :1], OPAQUE)), -1)
        image = Image.fromarray(np.ascontiguousarray(plain[..., 0] if form.mode == "L" else plain), form.mode)
    buffer = io.BytesIO()
    try:
        image.save(buffer, form.format)
    except OSError as error:  # a mode that the format lacks
        raise ValueError(str(error)) from error
    return with_chunks(buffer.getvalue(), form) if form.before or form.after else buffer.getvalue()


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    """Chunks of a PNG file before and after its pixels, other than IHDR, PLTE, IDAT and IEND, as they are.

    Raises:
        DamageError: for a damaged file.
    """
    checked_png(data, "")
    found, at, side = [b"", b""], 8, 0
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind == b"IDAT":
            side = 1
        elif kind not in (b"IHDR", b"PLTE", b"IEND"):
            found[side] += data[at:end]
        at = end
    return found[0], found[1]


def with_chunks(data: bytes, form: Form) -> bytes:
    """A PNG file with the chunks of a form: some before the first IDAT, some before IEND."""
    at = 8
    while data[at + 4 : at + 8] != b"IDAT":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return data[:at] + form.before + data[at:-12] + form.after + data[-12:]
