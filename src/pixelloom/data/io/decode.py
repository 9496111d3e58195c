"""One picture file to pixels: every rule by which the bytes of an image file become uint8 levels stands here.

Nothing is clipped, dropped or guessed in silence. A damaged file raises `DamageError` (a reader of many may skip it);
a file that is sound but needs a decision (16 bit, float, LAB, another size) raises `DataError` and names the option.
The header is checked before a pixel is decoded.
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
"""Extensions (lower case) of the picture files that are looked for."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""The only decoders that are ever tried, whatever a file calls itself."""

MAX_PIXELS = 1 << 26
"""Larger pictures (67 million pixels) are refused from the header: a few kB can claim gigabytes."""

MAX_SIDE = 1 << 15
"""Longer strips are refused from the header."""

MAX_BYTES = 1 << 28
"""Larger files (256 MiB) are refused unread."""

# What Pillow's decoders let escape when bytes are damaged (found by flipping bits in files of every format).
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


# Modes with a rule below, and the places where an orientation can stand.
_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "I;16", "I;16B", "I;16L"))
_UPRIGHT = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))


class DamageError(DataError):
    """A file that cannot be read as a picture: truncated, altered, of no known kind, or hostile in its header."""


class SizeError(DataError):
    """A sound picture that is not of the size asked for, under ``fit="error"``."""


@dataclass(frozen=True)
class Reading:
    """How picture files become arrays.

    size: (height, width) in pixels of every picture; None keeps the size that all of them share.
    gray: one channel, ITU-R 601-2 luma (299 R + 587 G + 114 B) / 1000.
    fit: what to do with another size: center crop to the aspect and scale, stretch, letterbox, or stop.
    background: color (name or #rrggbb) beneath transparent pixels and around padded pictures.
    bits: 8 reads 16-bit files by ``value >> 8``; None refuses them.
    frames: of animated and multipage files.
    bad_images: damaged files are counted and named, up to 1 % of them; or the first one stops.
    Raises UsageError for a background or size that is none.
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
            raise UsageError(f"size: sides from 1 to {MAX_SIDE}, not {self.size[0]}x{self.size[1]}")
        color(self.background)


class Decoded(NamedTuple):
    """Frames, each uint8 [H, W, C] with C of 1 (gray) or 3 (RGB), and what was done to get them."""

    frames: list[Pixels]
    remarks: list[str]


def decode(data: bytes, name: str, reading: Reading) -> Decoded:
    """The pixels of one image file given as bytes; ``name`` is for the messages.

    Raises DamageError, SizeError, or DataError for a kind of file that is refused.
    """
    name = shown(name)
    if not data:
        raise DamageError(f"{name}: 0 bytes")
    remarks: list[str] = []
    frames: list[Pixels] = []
    held = 0
    # Pillow warns where this file decides (bombs, broken EXIF); its words would reach users without a file name.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for picture in _frames(data, name, reading, remarks):
            flat = _flatten(picture, data, reading, remarks)
            if reading.size is not None:
                flat = fit_to(flat, reading, name, remarks)
            frames.append(np.asarray(flat, np.uint8).reshape(flat.height, flat.width, -1))
            held += frames[-1].size
            if held > 3 * MAX_PIXELS:
                raise DamageError(f"{name}: its frames hold more than {MAX_PIXELS:,} pixels; use frames=first")
    return Decoded(frames, remarks)


def size_of(data: bytes) -> tuple[int, int]:
    """(height, width) as shown, that is after EXIF orientation, from the header. Raises DamageError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                turned = "exif" in picture.info and picture.getexif().get(0x0112, 1) >= 5
                return (picture.width, picture.height) if turned else (picture.height, picture.width)
        except _DAMAGE as error:
            raise DamageError(str(error)) from error


def shown(name: str) -> str:
    """A file name fit for one line of text: unprintable characters escaped, the middle of a long one left out."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
    return safe if len(safe) <= 100 else f"{safe[:50]}...{safe[-45:]}"


@lru_cache(maxsize=16)
def color(text: str) -> tuple[int, int, int]:
    """(R, G, B) of a color name or #rrggbb. Raises UsageError."""
    try:
        rgb = ImageColor.getrgb(text)
    except ValueError:
        rgb = None
    if rgb is None or len(rgb) != 3:
        raise UsageError(f"background: {text!r} is no color; use a name such as white, or #rrggbb")
    return rgb


def _frames(data: bytes, name: str, reading: Reading, remarks: list[str]) -> Iterator[Image.Image]:
    """Loaded frames in the file's own mode, upright. All decoding happens here."""
    if data.startswith(b"\x89PNG"):
        _check_png(data, name)
    with _damage(name):
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        # A camera's MPO is a JPEG followed by previews of itself, so only its first frame is a picture.
        many = picture.format != "MPO" and bool(getattr(picture, "is_animated", False))
        count = int(getattr(picture, "n_frames", 1)) if many and reading.frames == "all" else 1
    if many and count == 1:
        remarks.append("of several frames, the first taken")
    for k in range(count):
        with _damage(name):
            picture.seek(k)
        _check_header(picture, data, name, reading, remarks)
        with _damage(name):
            if reading.size is not None and reading.fit != "error" and picture.format == "JPEG":
                # libjpeg decodes to 1/2, 1/4 or 1/8 far faster. Taken where at least four times the size is left: a
                # center crop is then off by an eighth of a pixel at most, and values by one level or so.
                picture.draft(None, (4 * max(reading.size), 4 * max(reading.size)))
            picture.load()
            orientation = picture.getexif().get(0x0112, 1) if _UPRIGHT & picture.info.keys() else 1
            upright = ImageOps.exif_transpose(picture) if 2 <= orientation <= 8 else picture
        if upright is not picture:
            remarks.append("turned by EXIF orientation")
        yield upright


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Whatever Pillow raises on damaged bytes leaves as DamageError with the file's name and a reason."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DamageError(f"{name}: no picture of a known kind") from error
    except _DAMAGE as error:
        raise DamageError(f"{name}: {error or type(error).__name__}") from error


def _check_png(data: bytes, name: str) -> None:
    """Every chunk whole and its CRC right, to IEND: Pillow loads cut and altered PNG files without a word."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise DamageError(f"{name}: bad CRC, the file was altered")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise DamageError(f"{name}: truncated PNG")


def _check_header(picture: ImageFile.ImageFile, data: bytes, name: str, reading: Reading, remarks: list[str]) -> None:
    """Refuse by what the header says: hostile sizes, and depths and color spaces without a rule."""
    width, height = picture.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise DamageError(
            f"{name}: its header claims {height}x{width} pixels; the limit is {MAX_PIXELS:,}, and {MAX_SIDE:,} a side"
        )
    if picture.mode == "F":
        raise DataError(f"{name}: float pixels have no fixed scale; save it as an 8-bit PNG")
    depth = _depth(picture, data)
    if depth > 16:
        raise DataError(f"{name}: {depth}-bit pixels have no fixed scale; save it as an 8-bit PNG")
    if picture.mode not in _MODES or (depth > 8 and not _shifts(picture, depth)):
        space = picture.mode if depth <= 8 else f"{depth}-bit {picture.format} {picture.mode}"
        raise DataError(f"{name}: {space} pixels are not read; save it as a PNG, gray or RGB")
    if depth == 16 and reading.bits is None:
        raise DataError(f"{name}: 16-bit pixels; --bits 8 keeps their upper 8 bits")
    if depth == 16:
        remarks.append("of 16 bit, shifted to 8")


def _depth(picture: ImageFile.ImageFile, data: bytes) -> int:
    """Bits a value in the file; Pillow's mode hides them (a 16-bit RGB file opens as 8-bit RGB)."""
    if picture.format == "PNG":
        return data[24]  # IHDR: length 4, type 4, width 4, height 4, then the depth
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return int(max(picture.tag_v2.get(258, (1,))))  # BitsPerSample
    if picture.format == "PPM" and picture.tile:
        args = picture.tile[0].args
        maxval = args[-1] if isinstance(args, tuple) and isinstance(args[-1], int) else 255
        return 16 if maxval > 255 or args == "I;16B" else 8
    return 8


def _shifts(picture: ImageFile.ImageFile, depth: int) -> bool:
    """Whether 16-bit values reach us whole, or as their upper byte: then the rule ``value >> 8`` can be kept.

    Not so for 12-bit and signed TIFF, TIFF where 0 is white, PNM of an odd maxval, or one transparent 16-bit color.
    """
    if depth != 16 or "transparency" in picture.info or picture.mode == "CMYK":
        return False
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return picture.mode != "I" and picture.tag_v2.get(262) != 0  # PhotometricInterpretation: 0 is WhiteIsZero
    return picture.format == "PNG" or picture.tile[0].args == "I;16B"


def _flatten(picture: Image.Image, data: bytes, reading: Reading, remarks: list[str]) -> Image.Image:
    """Mode L where the file is gray (or gray is asked for), else RGB; transparency composited on the background."""
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    gray = (
        picture.mode in ("1", "L", "LA") or (picture.format == "PNG" and data[25] in (0, 4)) or _gray_palette(picture)
    )
    if picture.mode == "CMYK":
        remarks.append("from CMYK, its color profile not applied")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
        if alpha.getextrema() != (255, 255):
            canvas = Image.new("RGB", picture.size, color(reading.background))
            canvas.paste(picture.convert("RGB"), mask=alpha)
            picture = canvas
            remarks.append(f"with transparency, composited on {reading.background}")
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    return picture.convert("L") if gray or reading.gray else picture


def _gray_palette(picture: Image.Image) -> bool:
    """A palette of grays alone: what PNG optimizers make of small gray pictures."""
    if picture.mode not in ("P", "PA"):
        return False
    table = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return bool((table == table[:, :1]).all())


def fit_to(picture: Image.Image, reading: Reading, name: str, remarks: list[str]) -> Image.Image:
    """The picture (mode L or RGB) at ``reading.size``, by ``reading.fit``; as it is when it has that size.

    crop: the largest centered box of the target's aspect, scaled. resize: both sides scaled on their own. pad: reduced
    to fit inside (never enlarged), centered on the background. Filters: BOX (exact means) when both sides shrink by
    whole factors, LANCZOS when a side shrinks otherwise, BICUBIC when none does. Raises SizeError for fit="error".
    """
    assert reading.size is not None
    (height, width), (w, h) = reading.size, picture.size
    if (h, w) == (height, width):
        return picture
    if reading.fit == "error":
        raise SizeError(f"{name}: {h}x{w} pixels, not {height}x{width}; choose --fit crop, resize or pad")
    if reading.fit == "pad":
        scale = min(1.0, height / h, width / w)
        inner = _scale(picture, max(1, round(w * scale)), max(1, round(h * scale)))
        ground = Image.new("RGB", (width, height), color(reading.background)).convert(picture.mode)
        ground.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
        return ground
    if reading.fit == "crop":
        cw = w if w * height <= h * width else max(1, round(h * width / height))
        ch = h if w * height >= h * width else max(1, round(w * height / width))
        # Whole pixels: a box at half a pixel would blur pictures that need no scaling at all.
        left, top = (w - cw) // 2, (h - ch) // 2
        picture = picture.crop((left, top, left + cw, top + ch))
    if picture.width < width or picture.height < height:
        remarks.append("smaller than asked for, enlarged")
    return _scale(picture, width, height)


def _scale(picture: Image.Image, width: int, height: int) -> Image.Image:
    w, h = picture.size
    if (w, h) == (width, height):
        return picture
    if w % width == 0 and h % height == 0:
        return picture.resize((width, height), Image.Resampling.BOX)
    enlarges = w <= width and h <= height
    return picture.resize((width, height), Image.Resampling.BICUBIC if enlarges else Image.Resampling.LANCZOS)
