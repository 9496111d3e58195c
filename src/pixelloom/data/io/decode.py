"""Decoding of one image file into uint8 levels.

Every change of pixel values is reported in ``Decoded.remarks``. A damaged file raises ``DamageError``, which callers
may skip. A valid file that needs a choice (16 bit, float, LAB, another size) raises ``DataError`` with the option to
set. Headers are checked before pixels are decoded.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from pixelloom.core.errors import DataError, UsageError

Pixels = npt.NDArray[np.uint8]

ACCEPTED = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm")
"""Extensions (lower case) of image files."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""The Pillow decoders in use; the format is detected from the content, not from the extension."""

MAX_PIXELS = 1 << 26
"""Largest number of pixels (67 million), checked in the header: a file of a few kB can claim gigabytes."""

MAX_SIDE = 1 << 15
"""Largest height and width, checked in the header."""

MAX_BYTES = 1 << 28
"""Largest file (256 MiB), checked before it is read."""

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


class DamageError(DataError):
    """A file that cannot be decoded: truncated, corrupted, of an unknown format, or with an implausible header."""


class SizeError(DataError):
    """A valid image of another size than requested, under ``fit="error"``."""


@dataclass(frozen=True)
class Reading:
    """Options for reading image files.

    Attributes:
        size: (height, width) in pixels of all images; None if they have one size.
        gray: convert to one channel, ITU-R 601-2 luma (299 R + 587 G + 114 B) / 1000.
        fit: for images of another size, center crop and resize, resize, resize and pad, or raise.
        background: color (name or #rrggbb) behind transparent pixels and around padded images.
        bits: 8 converts 16-bit values by ``value >> 8``; None raises.
        frames: frames to read of animated and multipage files.
        bad_images: skip damaged files up to 1 % of all files, or raise at the first.

    Raises:
        UsageError: for an invalid background or size.
    """

    size: tuple[int, int] | None = None
    gray: bool = False
    fit: Literal["crop", "resize", "pad", "error"] = "crop"
    background: str = "white"
    bits: Literal[8] | None = None
    frames: Literal["first", "all"] = "first"
    bad_images: Literal["skip", "error"] = "skip"

    def __post_init__(self) -> None:
        if self.size is not None and not all(1 <= side <= MAX_SIDE for side in self.size):
            raise UsageError(f"size: sides must be 1 to {MAX_SIDE}, not {self.size[0]}x{self.size[1]}")
        color(self.background)


class Decoded(NamedTuple):
    """Frames, each uint8 [H, W, C] with C = 1 (gray) or 3 (RGB), and remarks on changed pixel values."""

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
            flat = _flatten(image, data, reading, remarks)
            if reading.size is not None:
                flat = fit_to(flat, reading, name, remarks)
            frames.append(np.asarray(flat, np.uint8).reshape(flat.height, flat.width, -1))  # [H, W, C], also of [H, W]
            total += frames[-1].size
            if total > 3 * MAX_PIXELS:
                raise DamageError(f"{name}: the frames have more than {MAX_PIXELS:,} pixels; use frames=first")
    return Decoded(frames, remarks)


def size_of(data: bytes) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header.

    Raises:
        DamageError: for a file without a valid header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                transposed = "exif" in image.info and image.getexif().get(0x0112, 1) >= 5  # Orientation
                return (image.width, image.height) if transposed else (image.height, image.width)
        except _DAMAGE as error:
            raise DamageError(str(error)) from error


def printable(name: str) -> str:
    """A file name for messages: escapes unprintable characters and shortens long names in the middle."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
    return safe if len(safe) <= 100 else f"{safe[:50]}...{safe[-45:]}"


@lru_cache(maxsize=16)
def color(text: str) -> tuple[int, int, int]:
    """(R, G, B) of a color name or #rrggbb.

    Raises:
        UsageError: for another text.
    """
    try:
        rgb = ImageColor.getrgb(text)
    except ValueError:
        rgb = None
    if rgb is None or len(rgb) != 3:
        raise UsageError(f"background: {text!r} is not a color; use a name such as white, or #rrggbb")
    return rgb


def _frames(data: bytes, name: str, reading: Reading, remarks: list[str]) -> Iterator[Image.Image]:
    """Decode the frames of a file, in its own mode, after EXIF orientation."""
    if data.startswith(b"\x89PNG"):
        _check_png(data, name)
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
            if reading.size is not None and reading.fit != "error" and image.format == "JPEG":
                # libjpeg decodes at 1/2, 1/4 or 1/8 of the size much faster. Four times the target size is kept, so
                # that a center crop moves by at most an eighth of a pixel, and values by about one level.
                image.draft(None, (4 * max(reading.size), 4 * max(reading.size)))
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


def _check_png(data: bytes, name: str) -> None:
    """Check all chunks and their CRC up to IEND; Pillow reads truncated and corrupted PNG files without an error.

    A chunk is its length (4 bytes), type (4), data and CRC-32 of type and data (PNG specification, section 5.3).
    """
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise DamageError(f"{name}: CRC mismatch, the file is corrupted")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise DamageError(f"{name}: truncated PNG")


def _check_header(image: ImageFile.ImageFile, data: bytes, name: str, reading: Reading, remarks: list[str]) -> None:
    """Reject implausible sizes, and bit depths and color spaces without a conversion, by the header."""
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise DamageError(
            f"{name}: the header claims {height}x{width} pixels; the limit is {MAX_PIXELS:,}, and {MAX_SIDE:,} a side"
        )
    if image.mode == "F":
        raise DataError(f"{name}: float pixels have no fixed scale; save it as an 8-bit PNG")
    depth = _depth(image, data)
    if depth > 16:
        raise DataError(f"{name}: {depth}-bit pixels have no fixed scale; save it as an 8-bit PNG")
    if image.mode not in _MODES or (depth > 8 and not _shifts(image, depth)):
        kind = image.mode if depth <= 8 else f"{depth}-bit {image.format} {image.mode}"
        raise DataError(f"{name}: {kind} pixels are not supported; save it as a gray or RGB PNG")
    if depth == 16 and reading.bits is None:
        raise DataError(f"{name}: 16-bit pixels; set --bits 8 to keep the upper 8 bits")
    if depth == 16:
        remarks.append("reduced from 16 to 8 bits")


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


def _flatten(image: Image.Image, data: bytes, reading: Reading, remarks: list[str]) -> Image.Image:
    """Convert to mode L if the file or ``reading`` is gray, else RGB, and composite transparency on the background."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
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


def fit_to(image: Image.Image, reading: Reading, name: str, remarks: list[str]) -> Image.Image:
    """Convert an image (mode L or RGB) to ``reading.size`` by ``reading.fit``.

    - crop: resize the largest centered box of the target's aspect ratio.
    - resize: scale both sides independently.
    - pad: shrink to fit (never enlarge) and center on the background.

    Filters: BOX (exact means) if both sides shrink by integer factors, else LANCZOS if a side shrinks, else BICUBIC.

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
        inner = _scale(image, max(1, round(w * scale)), max(1, round(h * scale)))
        canvas = Image.new("RGB", (width, height), color(reading.background)).convert(image.mode)
        canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
        return canvas
    if reading.fit == "crop":
        cw = w if w * height <= h * width else max(1, round(h * width / height))
        ch = h if w * height >= h * width else max(1, round(w * height / width))
        # Whole pixels: a box with an offset of half a pixel would blur images that need no scaling.
        left, top = (w - cw) // 2, (h - ch) // 2
        image = image.crop((left, top, left + cw, top + ch))
    if image.width < width or image.height < height:
        remarks.append("enlarged")
    return _scale(image, width, height)


def _scale(image: Image.Image, width: int, height: int) -> Image.Image:
    w, h = image.size
    if (w, h) == (width, height):
        return image
    if w % width == 0 and h % height == 0:
        return image.resize((width, height), Image.Resampling.BOX)
    enlarges = w <= width and h <= height
    return image.resize((width, height), Image.Resampling.BICUBIC if enlarges else Image.Resampling.LANCZOS)
