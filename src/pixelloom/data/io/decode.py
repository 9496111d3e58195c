"""Decoding of one image file into uint8 levels.

Every change of pixel values is reported in ``Decoded.remarks``. A damaged file raises ``DamageError``, which callers
may skip. A valid file that needs a choice (16 bit, float, LAB, another size) raises ``DataError`` with the option to
set. Headers are checked before pixels are decoded.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError, features

from pixelloom.core.errors import DataError
from pixelloom.data.io.fit import fit_to, tiles_of
from pixelloom.data.io.png import SIGNATURE, checked_png, without_text
from pixelloom.data.io.reading import MAX_SIDE, DamageError, Reading, SizeError, color, printable
from pixelloom.data.io.value_range import BITS_8, extrema, option

__all__ = ["ACCEPTED", "FORMATS", "DamageError", "Decoded", "Pixels", "Reading", "SizeError", "decode", "printable"]

Pixels = npt.NDArray[np.uint8]

_AVIF = features.check("avif")

ACCEPTED = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
    *((".avif",) if _AVIF else ()),
)
"""Extensions (lower case) of image files; AVIF if this build of Pillow reads it."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", *(("AVIF",) if _AVIF else ()))
"""The Pillow decoders in use; the format is detected from the content, not from the extension."""

MAX_PIXELS = 1 << 26
"""Largest number of pixels (67 million), checked in the header: a file of a few kB can claim gigabytes."""

MAX_BYTES = 1 << 28
"""Largest file (256 MiB), checked before it is read."""

VALUES_TO = "with 16-bit values of up to "
"""Begins the remark with the largest 16-bit value of a file that is reduced by a shift."""

# Exceptions of Pillow's decoders on damaged files, found by flipping bits in files of each format.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# Pillow modes that _flatten converts, and the metadata keys that may contain an orientation.
_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "I;16", "I;16B", "I;16L"))
_UPRIGHT = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))


class Decoded(NamedTuple):
    """Frames or their tiles, each uint8 [H, W, C] with C = 1 (gray) or 3 (RGB), and remarks on changed pixel values."""

    frames: list[Pixels]
    remarks: list[str]


def decode(data: bytes, name: str, reading: Reading) -> Decoded:
    """Decode the bytes of one image file.

    Args:
        data: content of the file.
        name: of the file, for messages.
        reading: options.

    Raises:
        DamageError: for a damaged file.
        SizeError: for another size under ``fit="error"``.
        DataError: for a valid file without a conversion to 8 bits, gray or RGB.
    """
    name = printable(name)
    if not data:
        raise DamageError(f"{name}: 0 bytes")
    remarks: list[str] = []
    frames: list[Pixels] = []
    total = 0
    # Pillow's warnings (large images, invalid EXIF) have no file name; these cases are handled here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for image in _frames(data, name, reading, remarks):
            for flat in _fitted(_flatten(image, data, name, reading, remarks), name, reading, remarks):
                # [H, W, C], also of [H, W]
                frames.append(np.asarray(flat, np.uint8).reshape(flat.height, flat.width, -1))
                total += frames[-1].size
            if total > 3 * MAX_PIXELS:
                raise DamageError(f"{name}: the frames have more than {MAX_PIXELS:,} pixels; use frames=first")
    return Decoded(frames, remarks)


def _fitted(image: Image.Image, name: str, reading: Reading, remarks: list[str]) -> list[Image.Image]:
    if reading.size is None:
        return [image]
    if reading.fit == "tiles":
        return tiles_of(image, reading.size, remarks)
    return [fit_to(image, reading, name, remarks)]


def size_of(data: bytes) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header.

    Raises:
        DamageError: for a file without a valid header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            clean = without_text(data) if data.startswith(SIGNATURE) else data
            with Image.open(io.BytesIO(clean), formats=FORMATS) as image:
                transposed = "exif" in image.info and image.getexif().get(0x0112, 1) >= 5  # Orientation
                return (image.width, image.height) if transposed else (image.height, image.width)
        except _DAMAGE as error:
            raise DamageError(str(error)) from error


def _frames(data: bytes, name: str, reading: Reading, remarks: list[str]) -> Iterator[Image.Image]:
    """Decode the frames of a file, in its own mode, after EXIF orientation."""
    if data.startswith(SIGNATURE):
        data = checked_png(data, name)
    with _damage(name):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        # In an MPO file of a camera, the frames after the first are previews.
        multiframe = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        count = int(getattr(image, "n_frames", 1)) if multiframe and reading.frames == "all" else 1
    if multiframe and count == 1:
        remarks.append("with several frames, of which the first was read")
    for k in range(count):
        with _damage(name):
            image.seek(k)
        _check_header(image, data, name, reading, remarks)
        with _damage(name):
            drafts = reading.fit not in ("error", "tiles") and reading.resample != "nearest"
            if reading.size is not None and drafts and image.format == "JPEG":
                # libjpeg decodes at 1/2, 1/4 or 1/8 of the size much faster. Four times the target size is kept, so
                # that a center crop moves by at most an eighth of a pixel, and values by about one level.
                image.draft(None, (4 * max(reading.size), 4 * max(reading.size)))
            with _library_messages(image):
                image.load()
            orientation = image.getexif().get(0x0112, 1) if _UPRIGHT & image.info.keys() else 1
            upright = ImageOps.exif_transpose(image) if 2 <= orientation <= 8 else image
        if upright is not image:
            remarks.append("rotated by EXIF orientation")
        yield upright


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Convert the exceptions of Pillow on damaged data into DamageError with the file name and the cause."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DamageError(f"{name}: not an image of a known format") from error
    except _DAMAGE as error:
        raise DamageError(f"{name}: {error or type(error).__name__}") from error


_stderr = threading.Lock()


@contextmanager
def _library_messages(image: ImageFile.ImageFile) -> Iterator[None]:
    """Catch what libtiff writes to the process's standard error, without the file's name, while it decodes.

    Raises:
        OSError: with the first message that is not a warning; damaged fax data are decoded without another error.
    """
    if not image.tile or image.tile[0][0] != "libtiff":
        yield
        return
    with _stderr, tempfile.TemporaryFile() as caught:
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        caught.seek(0)
        lines = caught.read(1 << 16).decode(errors="replace").splitlines()
    errors = [line for line in lines if line.strip() and "warning" not in line.lower()]
    if errors:
        raise OSError(printable(errors[0].strip().removesuffix(".")))


def _check_header(image: ImageFile.ImageFile, data: bytes, name: str, reading: Reading, remarks: list[str]) -> None:
    """Reject implausible sizes, and bit depths and color spaces without a conversion, by the header."""
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise DamageError(
            f"{name}: the header claims {height}x{width} pixels; the limit is {MAX_PIXELS:,}, and {MAX_SIDE:,} a side"
        )
    depth = _depth(image, data)
    if reading.range is not None and _ranges(image, depth):
        remarks.append(f"scaled from --range {reading.range}")
        return
    if image.mode == "F" or depth > 16:
        kind = "float" if image.mode == "F" else f"{depth}-bit"
        raise DataError(f"{name}: {kind} pixels have no fixed scale; {_range_advice(image, name)}")
    if image.mode not in _MODES or (depth > 8 and not _shifts(image, depth)):
        kind = image.mode if depth <= 8 else f"{depth}-bit {image.format} {image.mode}"
        raise DataError(f"{name}: {kind} pixels are not supported; save it as a gray or RGB PNG")
    if depth == 16 and reading.bits is None and not _is_full(reading):
        if not _ranges(image, depth):
            raise DataError(f"{name}: 16-bit pixels; set {BITS_8} to keep the upper 8 bits")
        way = _range_advice(image, name)
        raise DataError(f"{name}: 16-bit pixels; set {BITS_8} to keep the upper 8 bits, or {way}")
    if depth == 16:
        remarks.append("reduced from 16 to 8 bits")


def _is_full(reading: Reading) -> bool:
    """Whether the range is that of 16 bits, where scaling is ``value >> 8``."""
    return reading.range is not None and (reading.range.low, reading.range.high) == (0, (1 << 16) - 1)


def _ranges(image: ImageFile.ImageFile, depth: int) -> bool:
    """Whether Pillow returns values of more than 8 bits or floats complete, so that a range can scale them."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(262) == 0:  # WhiteIsZero
        return False
    whole = image.format in ("PNG", "TIFF") and "transparency" not in image.info
    return whole and (image.mode in ("F", "I") or (image.mode.startswith("I;16") and depth in (12, 16)))


def _range_advice(image: ImageFile.ImageFile, name: str) -> str:
    """The values of an image and the range that fits them. Decodes it; its header has been checked."""
    with _damage(name):
        values = np.asarray(image)
    low, high = extrema(values, name)
    return f"set {option(low, high, values.dtype)} for the values {low:g} to {high:g}"


def _depth(image: ImageFile.ImageFile, data: bytes) -> int:
    """Bits per value in the file. Pillow's mode does not tell: it opens a 16-bit RGB file as 8-bit RGB."""
    if image.format == "PNG":
        return data[24]  # IHDR: length 4, type 4, width 4, height 4, then the depth
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(258, (1,))))  # BitsPerSample
    if image.format == "PPM" and image.tile:
        args = image.tile[0].args
        maxval = args[-1] if isinstance(args, tuple) and isinstance(args[-1], int) else 255
        return 16 if maxval > 255 or args == "I;16B" else 8
    return 8


def _shifts(image: ImageFile.ImageFile, depth: int) -> bool:
    """Whether Pillow returns 16-bit values complete or as their upper byte, so that ``value >> 8`` is possible.

    Not for 12-bit and signed TIFF, TIFF with white as 0, PNM with a maximum other than 65535, or a transparent color.
    """
    if depth != 16 or "transparency" in image.info or image.mode == "CMYK":
        return False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.mode != "I" and image.tag_v2.get(262) != 0  # PhotometricInterpretation: 0 is WhiteIsZero
    return image.format == "PNG" or image.tile[0].args == "I;16B"


def _flatten(image: Image.Image, data: bytes, name: str, reading: Reading, remarks: list[str]) -> Image.Image:
    """Convert to mode L if the file or ``reading`` is gray, else RGB, and composite transparency on the background.

    A gray image that is composited on a colored background becomes RGB.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if reading.range is not None:
            return Image.fromarray(reading.range.to_bytes(values, name))
        remarks.append(f"{VALUES_TO}{int(values.max())}")
        return Image.fromarray((values >> 8).astype(np.uint8))
    gray = image.mode in ("1", "L", "LA") or (image.format == "PNG" and data[25] in (0, 4)) or _gray_palette(image)
    if image.mode == "CMYK":
        remarks.append("converted from CMYK without its color profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            canvas = Image.new("RGB", image.size, color(reading.background))
            canvas.paste(image.convert("RGB"), mask=alpha)
            image = canvas
            gray = gray and not reading.colored_background
            remarks.append(f"with transparency, composited on {reading.background}")
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image.convert("L") if gray or reading.gray else image


def _gray_palette(image: Image.Image) -> bool:
    """Whether the palette has only grays, as PNG optimizers write small gray images."""
    if image.mode not in ("P", "PA"):
        return False
    table = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)  # [colors, 3]
    return bool((table == table[:, :1]).all())
