"""Reading a user's images: each conversion by its values, each invalid source by its error."""

from __future__ import annotations

import io
import logging
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from image_files import encoded, flat, put, zipped
from pixelloom.core.errors import DataError, UsageError
from pixelloom.data.io import folders, scan, stacks
from pixelloom.data.io.decode import DamageError, Reading, decode, printable, size_of
from pixelloom.data.io.folders import DecodedImages, read_images
from pixelloom.data.io.value_range import ValueRange

READ = Reading()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path_factory.mktemp("cache")))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written byte by byte: Pillow writes neither 16-bit color nor wrong headers."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def one(data: bytes, **reading: Any) -> np.ndarray:
    frames, _ = decode(data, "x.png", Reading(**reading))
    assert len(frames) == 1
    return frames[0]


# ---------------------------------------------------------------- row 1: nothing to read


@pytest.mark.parametrize(
    ("contents", "match"),
    [
        ({}, r"no image found \(it is empty\); accepted are \.png \.jpg"),
        ({"a.docx": b"x", "b.docx": b"x", "c": b"x"}, r"2 \.docx, 1 no extension"),
        ({"a.png": b"no"}, r"no readable image \(a\.png: not an image of a known format\)"),
        ({".hidden.png": flat(0), "__MACOSX/._a.png": b"x"}, "no image found"),
    ],
)
def test_folder_or_zip_without_images(tmp_path: Path, contents: dict[str, bytes], match: str) -> None:
    folder = put(tmp_path / "set", contents)
    folder.mkdir(exist_ok=True)
    for source in (folder, zipped(tmp_path / "set.zip", contents)):
        with pytest.raises(DataError, match=match):
            read_images(source, READ)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("none", None, "no such file or folder; give a folder of images .*or a file of"),
        ("a.png", flat(1), "a single image is not a data set"),
        ("a.mp4", b"x", "not a source of images"),
        ("a.zip", b"<html>not a zip</html>", "not a readable zip file"),
        ("a.npy", b"<html>", "not a readable .npy file"),
        ("a.npz", b"PK", "not a readable .npz file"),
        ("a.txt", b"\n# only this\n", "no image found"),
    ],
)
def test_no_source(tmp_path: Path, name: str, data: bytes | None, match: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=match) as caught:
        read_images(tmp_path / name, READ)
    assert name in str(caught.value)
    assert str(caught.value).count("\n") <= 1


# ---------------------------------------------------------------- row 2: damaged files

WHOLE = encoded(np.arange(3 * 40 * 40).reshape(40, 40, 3) % 251)
PHOTO = encoded(np.arange(3 * 40 * 40).reshape(40, 40, 3) % 251, "JPEG")
DAMAGED = {
    "truncated png": (WHOLE[: len(WHOLE) // 2], "truncated PNG"),
    "png without end": (WHOLE[:-12], "truncated PNG"),
    "altered png": (WHOLE[:60] + bytes([WHOLE[60] ^ 1]) + WHOLE[61:], "CRC mismatch"),
    "truncated jpeg": (PHOTO[: len(PHOTO) * 3 // 4], "truncated"),
    "truncated gif": ((gif := encoded(np.eye(40) * 99, "GIF"))[: len(gif) // 2], "truncated"),
    "truncated tiff": ((tif := encoded(np.eye(40) * 99, "TIFF"))[: len(tif) // 2], "."),
    "truncated webp": ((webp := encoded(np.eye(40) * 99, "WEBP"))[: len(webp) // 2], "."),
    "truncated bmp": ((bmp := encoded(np.eye(40) * 99, "BMP"))[: len(bmp) // 2], "truncated"),
    "empty": (b"", "0 bytes"),
    "text": (b"this is no image at all", "not an image of a known format"),
}


@pytest.mark.parametrize(("data", "match"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_is_named_and_skipped_or_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes, match: str
) -> None:
    put(tmp_path, {"a.png": flat(10), "bad.png": data, "c.png": flat(30)})
    decoded = read_images(tmp_path, READ)
    assert decoded.images[:, 0, 0, 0].tolist() == [10, 30]
    assert "1 of 3 files skipped (bad.png: " in decoded.note
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "bad.png" in caplog.text
    with pytest.raises(DataError, match=rf"bad\.png: .*{match}"):
        read_images(tmp_path, Reading(bad_images="error"))


@pytest.mark.parametrize(("total", "bad", "goes_on"), [(3, 1, True), (3, 2, False), (200, 2, True), (200, 3, False)])
def test_one_percent_of_damage_or_one_file_is_let_go(tmp_path: Path, total: int, bad: int, goes_on: bool) -> None:
    put(tmp_path, {f"{i:03}.png": b"" if i < bad else flat(i) for i in range(total)})
    if goes_on:
        assert read_images(tmp_path, READ).images[:, 0, 0, 0].tolist() == list(range(bad, total))
    else:
        with pytest.raises(DataError, match=rf"more than 1 % of {total} .*000\.png: 0 bytes; 001\.png"):
            read_images(tmp_path, READ)


def test_labels_stay_with_their_images_where_one_is_skipped(tmp_path: Path) -> None:
    put(tmp_path, {"test/b/1.png": flat(4), "train/a/1.png": flat(1), "train/a/2.png": b"", "train/b/1.png": flat(3)})
    decoded = read_images(tmp_path, READ)
    assert decoded.images[:, 0, 0, 0].tolist() == [4, 1, 3]
    assert decoded.labels is not None
    assert decoded.labels.tolist() == [1, 0, 1]
    assert decoded.splits == {"train": slice(1, 3), "test": slice(0, 1)}


# ---------------------------------------------------------------- row 3: bombs


@pytest.mark.parametrize(
    "data",
    [
        png(100_000, 100_000, 8, 2, b""),
        png(1, 100_000, 8, 0, b""),
        png(9000, 9000, 8, 0, b""),
        b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(3) + b"\x2c" + bytes(8) + b"\x00\x02\x00;",
        b"P5 70000 70000 255\n",
    ],
    ids=["bomb", "strip", "81 megapixels", "gif", "pgm"],
)
def test_bomb_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    def load(*_: Any) -> None:
        pytest.fail("the image was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(DamageError, match=r"x\.png: (the header claims|Image size)"):
        decode(data, "x.png", READ)


# ---------------------------------------------------------------- rows 4 to 6: modes, depths, transparency


def tiff(mode: str, value: Any) -> bytes:
    return encoded(Image.new(mode, (2, 2), value), "TIFF")


def indexed(entries: list[int], transparent: int | None = None, kind: str = "PNG") -> bytes:
    image = Image.new("P", (2, 2), 1)
    image.putpalette(entries)
    return encoded(image, kind, **({} if transparent is None else {"transparency": transparent}))


RGB16 = png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 0x12FF, 0x80FF, 0xFF00))
GRAY16 = png(1, 1, 16, 0, b"\0" + struct.pack(">H", 0x12FF))
VALUES: dict[str, tuple[bytes, dict[str, Any], list[int]]] = {
    "gray": (flat(7), {}, [7]),
    "one bit": (encoded(Image.new("1", (2, 2), 1)), {}, [255]),
    "rgb": (encoded([[[1, 2, 3]]]), {}, [1, 2, 3]),
    "palette": (indexed([0, 0, 0, 9, 8, 7]), {}, [9, 8, 7]),
    "palette of grays is gray": (indexed([0, 0, 0, 9, 9, 9]), {}, [9]),
    "gif palette": (indexed([0, 0, 0, 9, 8, 7], kind="GIF"), {}, [9, 8, 7]),
    "cmyk": (tiff("CMYK", (255, 0, 0, 0)), {}, [0, 255, 255]),
    "cmyk black": (tiff("CMYK", (0, 0, 0, 255)), {}, [0, 0, 0]),
    "luma": (encoded([[[200, 100, 50]]]), {"gray": True}, [124]),  # (299 * 200 + 587 * 100 + 114 * 50) / 1000 = 124.2
    "16 bit gray by shift": (GRAY16, {"bits": 8}, [0x12]),
    "16 bit rgb by shift": (RGB16, {"bits": 8}, [0x12, 0x80, 0xFF]),
    "16 bit gray and alpha": (png(1, 1, 16, 4, b"\0" + struct.pack(">2H", 0x12FF, 0xFFFF)), {"bits": 8}, [0x12]),
    "16 bit tiff by shift": (tiff("I;16", 0x12FF), {"bits": 8}, [0x12]),
    "16 bit pgm by shift": (b"P5 1 1 65535\n\x12\xff", {"bits": 8}, [0x12]),
    "8 bit stays as it is with bits=8": (flat(7), {"bits": 8}, [7]),
    "la on white": (encoded(Image.new("LA", (2, 2), (0, 0))), {}, [255]),
    "rgba on white": (encoded(Image.new("RGBA", (2, 2), (200, 0, 0, 51))), {}, [244, 204, 204]),
    "rgba on black": (encoded(Image.new("RGBA", (2, 2), (200, 0, 0, 51))), {"background": "black"}, [40, 0, 0]),
    "rgba on a color": (encoded(Image.new("RGBA", (2, 2), (9, 9, 9, 0))), {"background": "#010203"}, [1, 2, 3]),
    "opaque rgba": (encoded(Image.new("RGBA", (2, 2), (1, 2, 3, 255))), {}, [1, 2, 3]),
    "transparent palette entry": (indexed([0, 0, 0, 9, 8, 7], 1), {"background": "#010203"}, [1, 2, 3]),
    "transparent color": (encoded([[[1, 2, 3]]], transparency=(1, 2, 3)), {}, [255, 255, 255]),
    "la on a color": (encoded(Image.new("LA", (2, 2), (0, 0))), {"background": "#ff0000"}, [255, 0, 0]),
    "half la on a color": (encoded(Image.new("LA", (2, 2), (100, 51))), {"background": "#ff0000"}, [224, 20, 20]),
    "la on a color, to gray": (
        encoded(Image.new("LA", (2, 2), (0, 0))),
        {"background": "#ff0000", "gray": True},
        [76],
    ),
    "opaque la": (encoded(Image.new("LA", (2, 2), (7, 255))), {"background": "#ff0000"}, [7]),
    "gray palette with a transparent entry, on a color": (
        indexed([0, 0, 0, 9, 9, 9], 1),
        {"background": "#010203"},
        [1, 2, 3],
    ),
    "12 bit in 16 by range": (GRAY16, {"range": ValueRange(0, 8191)}, [0x12FF >> 5]),
    "16 bit by the full range is the shift": (GRAY16, {"range": ValueRange(0, 65535)}, [0x12]),
    "16 bit rgb by the full range": (RGB16, {"range": ValueRange(0, 65535)}, [0x12, 0x80, 0xFF]),
    "16 bit by the file's largest": (GRAY16, {"range": ValueRange(0)}, [255]),
    "8 bit stays as it is under a range": (flat(7), {"range": ValueRange(0, 4095)}, [7]),
    "float tiff by range": (tiff("F", 0.5), {"range": ValueRange(0, 1)}, [128]),
    "float tiff of both signs": (tiff("F", -0.5), {"range": ValueRange(-1, 1)}, [64]),
    "32 bit tiff by range": (tiff("I", 70_000), {"range": ValueRange(0, 139_999)}, [128]),
    "transparent gray": (png(1, 1, 8, 0, b"\0\7", chunk(b"tRNS", b"\0\7")), {}, [255]),
}


@pytest.mark.parametrize(("data", "reading", "value"), VALUES.values(), ids=VALUES)
def test_pixel_values(data: bytes, reading: dict[str, Any], value: list[int]) -> None:
    pixels = one(data, **reading)
    assert pixels.dtype == np.uint8
    assert (pixels == value).all()
    assert pixels.shape[2] == len(value)


@pytest.mark.parametrize(
    ("data", "given", "match"),
    [
        (GRAY16, ValueRange(0, 4095), r"values 4863 to 4863 are not within --range 0:4095; set --range 0:8191"),
        (tiff("F", -0.5), ValueRange(0, 1), r"values -0.5 to -0.5 are not within --range 0:1; set --range=-1:1"),
        (tiff("F", float("nan")), ValueRange(0, 1), "NaN or infinite"),
        (RGB16, ValueRange(0, 4095), "16-bit pixels; set --bits 8 to keep the upper 8 bits$"),
    ],
)
def test_a_range_never_clips(data: bytes, given: ValueRange, match: str) -> None:
    with pytest.raises(DataError, match=rf"x\.png: .*{match}"):
        one(data, range=given)


@pytest.mark.parametrize(("text", "low", "high"), [("0:4095", 0, 4095), ("-1:1", -1, 1), ("max", 0, None)])
def test_texts_of_a_range(text: str, low: float, high: float | None) -> None:
    assert ValueRange.parse(text) == ValueRange(low, high)
    assert ValueRange.parse(str(ValueRange(low, high))) == ValueRange(low, high)


@pytest.mark.parametrize("text", ["", "5", "1:0", "0:0", "a:b", "0:inf", "nan:1", "0:1:2", "max:1"])
def test_texts_that_are_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="choose LOW:HIGH, such as 0:4095, or max"):
        ValueRange.parse(text)


def test_bits_and_range_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="give one of bits and range"):
        Reading(bits=8, range=ValueRange(0, 1))


def test_radiographs_of_12_bits_are_told_by_their_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (3, 8, 8)).astype(np.uint16)
    values[0, 0, 0], values[1, 1, 1] = 0, 4095
    for i, image in enumerate(values):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    with pytest.raises(
        DataError, match=r"0\.png: 16-bit pixels; set --bits 8 .* or set --range 0:4095 for the values 0"
    ):
        read_images(tmp_path, READ)
    shifted = read_images(tmp_path, Reading(bits=8))
    assert "16-bit values reach only 4095, 16 of 256 levels: set --range 0:4095 instead of --bits 8" in shifted.note
    scaled = read_images(tmp_path, Reading(range=ValueRange(0, 4095)))
    assert np.array_equal(scaled.images[:, 0], values >> 4)
    assert "3 images scaled from --range 0:4095" in scaled.note
    full = put(tmp_path / "full", {"a.png": GRAY16, "b.png": png(1, 1, 16, 0, b"\0\xff\xfe")})
    assert "16-bit values reach 65534" in read_images(full, Reading(bits=8)).note


LONG = "node " * 300_000  # 1.5 MB that compress to 6 kB


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "many", "profile"])
def test_pixels_of_a_png_are_read_and_texts_are_not(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    info, options = PngImagePlugin.PngInfo(), {}
    if kind == "zTXt":
        info.add_text("notes", LONG, zip=True)
    elif kind == "iTXt":
        info.add_itxt("XML:com.adobe.xmp", LONG, zip=True)
    elif kind == "many":
        for i in range(70):
            info.add_text(f"note {i}", LONG[:1_000_000], zip=True)
    else:
        options["icc_profile"] = LONG.encode() * 2
    data = encoded(pixels, pnginfo=info, **options)
    assert np.array_equal(one(data), pixels)
    assert size_of(data) == (8, 8)


def test_damaged_fax_data_are_named_and_the_library_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(bool)
    data = bytearray(encoded(Image.fromarray(noise), "TIFF", compression="group4"))
    for k in range(len(data) - 300, len(data) - 240, 7):
        data[k] ^= 0x5A
    with pytest.raises(DamageError, match=r"^x\.tif: "):
        decode(bytes(data), "x.tif", READ)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "kind"), [("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.avif", "AVIF")])
def test_other_extensions_of_known_formats(tmp_path: Path, name: str, kind: str) -> None:
    put(tmp_path, {name: encoded(np.full((16, 16, 3), 80), kind)})
    assert np.abs(read_images(tmp_path, READ).images.astype(int) - 80).max() <= 1


TAG = struct.pack("<HHI", 262, 3, 1)  # PhotometricInterpretation, one short; Pillow writes 1, BlackIsZero
REFUSED = {
    "float": (tiff("F", 0.5), {"bits": 8}, "float pixels have no fixed scale"),
    "32 bit": (tiff("I", 70_000), {"bits": 8}, "32-bit pixels"),
    "lab": (tiff("LAB", (1, 2, 3)), {}, "LAB pixels are not supported"),
    "16 bit gray": (GRAY16, {}, "16-bit pixels; set --bits 8"),
    "16 bit rgb, which opens as 8 bit": (RGB16, {}, "16-bit pixels; set --bits 8"),
    "16 bit tiff": (tiff("I;16", 9), {}, "16-bit pixels; set --bits 8"),
    "16 bit tiff where 0 is white": (tiff("I;16", 9).replace(TAG + b"\1", TAG + b"\0"), {"bits": 8}, "16-bit TIFF"),
    "pgm of odd maxval": (b"P5 1 1 1023\n\x01\xff", {"bits": 8}, "16-bit PPM I pixels are not supported"),
    "color ppm of 16 bit": (b"P6 1 1 65535\n\x12\xff\x12\xff\x12\xff", {"bits": 8}, "16-bit PPM RGB"),
    "16 bit with a transparent color": (
        png(1, 1, 16, 0, b"\0\1\2", chunk(b"tRNS", b"\1\2")),
        {"bits": 8},
        "16-bit PNG",
    ),
}


@pytest.mark.parametrize(("data", "reading", "match"), REFUSED.values(), ids=REFUSED)
def test_refused_modes_stop_even_where_damage_is_skipped(
    tmp_path: Path, data: bytes, reading: dict[str, Any], match: str
) -> None:
    put(tmp_path, {"a.png": flat(1), "b.png": data})
    with pytest.raises(DataError, match=rf"b\.png: .*{match}"):
        read_images(tmp_path, Reading(**reading))


def test_conversions_are_counted_in_the_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clear = encoded(Image.new("RGBA", (4, 4), (1, 2, 3, 0)))
    put(
        tmp_path,
        {"a.png": clear, "b.png": clear, "c.tif": encoded(Image.new("CMYK", (4, 4)), "TIFF"), "d.png": flat(9)},
    )
    note = read_images(tmp_path, READ).note
    assert "2 images with transparency, composited on white" in note
    assert "1 image converted from CMYK" in note
    assert "1 image converted from gray to RGB" in note
    assert "2 images with transparency" in caplog.text


@pytest.mark.parametrize("first", ["gray", "color"])
def test_gray_and_colored_images_together_are_rgb(tmp_path: Path, first: str) -> None:
    contents = {"a.png": flat(5, 1, 1), "b.png": encoded([[[1, 2, 3]]])}
    names = ["a.png", "b.png"] if first == "gray" else ["b.png", "a.png"]
    put(tmp_path, {f"{i}.png": contents[name] for i, name in enumerate(names)})
    values = read_images(tmp_path, READ).images[:, :, 0, 0].tolist()
    assert values == ([[5, 5, 5], [1, 2, 3]] if first == "gray" else [[1, 2, 3], [5, 5, 5]])
    assert read_images(tmp_path, Reading(gray=True)).images[:, :, 0, 0].tolist() == (
        [[5], [2]] if first == "gray" else [[2], [5]]
    )


@pytest.mark.parametrize("wrong", [{"background": "mauvish"}, {"background": "#11223344"}, {"size": (0, 4)}])
def test_reading_names_the_wrong_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Reading(**wrong)


# ---------------------------------------------------------------- rows 7 and 8: frames, orientation


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_frames_first_or_all(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    values = [10, 90, 200]
    still = [Image.new("L", (4, 4), value) for value in values]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(
        still[0].convert("RGB"), kind, save_all=True, append_images=[f.convert("RGB") for f in still[1:]], **options
    )
    put(tmp_path, {"a.png": data, "b.png": encoded(np.full((4, 4, 3), 255))})
    first = read_images(tmp_path, READ)
    assert first.images[:, 0, 0, 0].tolist() == [10, 255]
    assert "1 image with several frames, of which the first was read" in caplog.text
    assert read_images(tmp_path, Reading(frames="all")).images[:, 0, 0, 0].tolist() == [*values, 255]


def test_a_camera_s_preview_frame_is_no_image() -> None:
    still = [Image.new("RGB", (16, 16), (value,) * 3) for value in (10, 200)]
    data = encoded(still[0], "MPO", save_all=True, append_images=still[1:])
    frames, remarks = decode(data, "x.jpg", Reading(frames="all"))
    assert [int(frame[0, 0, 0]) for frame in frames] == [10]
    assert remarks == []


STORED_AS = {  # EXIF orientation: how a viewer turns what is stored
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.T, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    stored = np.kron(np.arange(0, 240, 20).reshape(3, 4), np.ones((8, 8), int))  # 8x8 blocks survive JPEG
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = one(encoded(stored, kind, exif=exif, **options))[:, :, 0]
    expected = STORED_AS.get(orientation, lambda a: a)(stored)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (1 if kind == "JPEG" else 0)


# ---------------------------------------------------------------- row 9: sizes

RAMP = np.arange(0, 160, 10, dtype=np.uint8).reshape(2, 8)  # 2 high, 8 wide
FITS: dict[str, tuple[np.ndarray, dict[str, Any], Any]] = {
    "same size, whatever the fit": (RAMP, {"size": (2, 8), "fit": "error"}, RAMP),
    "crop takes the center": (RAMP, {"size": (2, 4)}, RAMP[:, 2:6]),
    "crop of an odd margin stays on the grid": (RAMP, {"size": (2, 5)}, RAMP[:, 1:6]),
    "crop of a tall image": (RAMP.T, {"size": (4, 2)}, RAMP.T[2:6]),
    "crop then exact means": (np.repeat(RAMP, 2, 0), {"size": (2, 2)}, [[25, 45], [105, 125]]),
    "whole factors give exact means": (RAMP, {"size": (1, 4), "fit": "resize"}, [[45, 65, 85, 105]]),
    "pad adds and never enlarges": (
        RAMP,
        {"size": (4, 10), "fit": "pad", "background": "black"},
        np.pad(RAMP, ((1, 1), (1, 1))),
    ),
    "pad reduces to fit": (
        np.full((8, 4), 50),
        {"size": (4, 4), "fit": "pad"},
        [[255, 50, 50, 255]] * 4,
    ),
    "pad with a color makes color": (
        np.full((1, 2), 50),
        {"size": (1, 4), "fit": "pad", "background": "#ff0000"},
        [[255, 50, 50, 255]],
    ),
    "one value stays one value when enlarged": (np.full((2, 2), 9), {"size": (5, 7)}, np.full((5, 7), 9)),
    "one value stays one value when reduced": (np.full((9, 9), 9), {"size": (4, 5)}, np.full((4, 5), 9)),
}


@pytest.mark.parametrize(("pixels", "reading", "expected"), FITS.values(), ids=FITS)
def test_fit(pixels: np.ndarray, reading: dict[str, Any], expected: Any) -> None:
    assert one(encoded(pixels), **reading)[:, :, 0].tolist() == np.asarray(expected).tolist()


@pytest.mark.parametrize("side", [32, 64, 200])
def test_large_jpeg_is_brought_to_size_as_its_png_is(side: int) -> None:
    y, x = np.mgrid[0:800, 0:1000]
    image = np.stack([x / 4, y / 4, 128 + 60 * np.sin(x * side / 2000)], -1).astype(np.uint8)
    photo = one(encoded(image, "JPEG", quality=95, subsampling=0), size=(side, side)).astype(int)
    assert np.abs(photo - one(encoded(image), size=(side, side))).max() <= 4


def test_mixed_sizes_list_the_five_commonest(tmp_path: Path) -> None:
    sides = [4] * 6 + [5] * 5 + [6] * 4 + [7] * 3 + [8] * 2 + [9]
    turned = Image.Exif()
    turned[0x0112] = 6
    contents = {f"{i:02}.png": flat(0, side, 3) for i, side in enumerate(sides)}
    contents["00.png"] = encoded(np.zeros((3, 4)), exif=turned)  # printable 4 high, 3 wide
    put(tmp_path, contents)
    with pytest.raises(DataError, match=r"6 sizes .*4x3 \(6\), 5x3 \(5\), 6x3 \(4\), 7x3 \(3\), 8x3 \(2\); .*--size"):
        read_images(tmp_path, READ)
    with pytest.raises(DataError, match=r"not all images are 4x3, most frequent 4x3 \(6\), 5x3.*--fit crop"):
        read_images(tmp_path, Reading(size=(4, 3), fit="error"))
    decoded = read_images(tmp_path, Reading(size=(4, 4)))
    assert decoded.images.shape == (21, 1, 4, 4)
    assert "21 images enlarged" in decoded.note


# ---------------------------------------------------------------- row 10: layouts, names, links, permissions

LAYOUTS: dict[str, tuple[list[str], dict[str, list[int]] | None, tuple[str, ...], list[int] | None]] = {
    "flat": (["1.png", "2.png"], None, (), None),
    "classes": (["a/1.png", "b/1.png", "b/2.png"], None, ("a", "b"), [0, 1, 1]),
    "deeper folders are merged": (["a/x/1.png", "a/y/1.png", "b/1.png"], None, ("a", "b"), [0, 0, 1]),
    "one folder is a wrapper": (["w/1.png", "w/2.png"], None, (), None),
    "wrapper around classes": (["w/v/a/1.png", "w/v/b/1.png"], None, ("a", "b"), [0, 1]),
    "splits": (["test/1.png", "train/1.png", "train/2.png"], {"train": [1, 2], "test": [0]}, (), None),
    "splits and classes": (
        ["test/a/1.png", "train/a/1.png", "train/b/1.png", "valid/b/1.png"],
        {"train": [1, 2], "val": [3], "test": [0]},
        ("a", "b"),
        [0, 0, 1, 1],
    ),
    "other names of splits": (
        ["w/Testing/1.png", "w/Training/1.png", "w/Validation/1.png"],
        {"train": [1], "val": [2], "test": [0]},
        (),
        None,
    ),
    "train alone": (["train/a/1.png", "train/b/1.png"], {"train": [0, 1]}, ("a", "b"), [0, 1]),
    "a class called train": (["bus/1.png", "train/1.png"], None, ("bus", "train"), [0, 1]),
    "unlabeled test": (["test/1.png", "train/a/1.png", "train/b/1.png"], {"train": [1, 2], "test": [0]}, (), None),
    "loose images beside classes": (["1.png", "a/1.png", "b/1.png"], None, (), None),
}


@pytest.mark.parametrize(("names", "parts", "classes", "labels"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_layouts(
    tmp_path: Path,
    kind: str,
    names: list[str],
    parts: dict[str, list[int]] | None,
    classes: tuple[str, ...],
    labels: list[int] | None,
) -> None:
    contents = {name: flat(i) for i, name in enumerate(names)}
    source = put(tmp_path / "set", contents) if kind == "folder" else zipped(tmp_path / "set.zip", contents)
    decoded = read_images(source, READ)
    order = np.arange(len(names))
    assert decoded.images[:, 0, 0, 0].tolist() == order.tolist()
    assert (None if decoded.splits is None else {k: order[v].tolist() for k, v in decoded.splits.items()}) == parts
    assert decoded.classes == classes
    assert (None if decoded.labels is None else decoded.labels.tolist()) == labels
    assert decoded.source_levels == 256
    assert bool(decoded.note) == (names[0] in ("1.png", "test/1.png") and any("/a/" in f"/{name}" for name in names))


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["test/1.png", "train/1.png", "extra/1.png"], r"in extra/ are outside the split folders \(test, train\)"),
        (["train/1.png", "preview.png"], r"images in the top folder are outside the split folders \(train\)"),
        (["train/1.png", "val/1.png", "valid/1.png"], "two folders name the same split: train, val, valid"),
    ],
)
def test_ambiguous_splits(tmp_path: Path, names: list[str], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_images(put(tmp_path, {name: flat(1) for name in names}), READ)


def test_strange_names_are_read(tmp_path: Path) -> None:
    names = ["ünï/日本.png", "ünï/new\nline.png", "ünï/a b.png", f"{'l' * 200}/{'x' * 240}.PNG"]
    put(tmp_path, {name: flat(i) for i, name in enumerate(names)})
    put(Path(os.fsdecode(os.fsencode(tmp_path))), {"ünï/" + os.fsdecode(b"\xff\xfe.png"): b""})
    decoded = read_images(tmp_path, READ)
    assert decoded.classes == ("l" * 200, "ünï")
    assert decoded.labels is not None
    assert dict(zip(decoded.images[:, 0, 0, 0].tolist(), decoded.labels.tolist(), strict=True)) == {
        0: 1,
        1: 1,
        2: 1,
        3: 0,
    }
    assert r"\udcff\udcfe.png: 0 bytes" in decoded.note
    decoded.note.encode()


def test_shown_names_are_one_short_line() -> None:
    assert printable("a\nb\x1b[31m\udc80é") == r"a\nb\x1b[31m\udc80é"
    assert len(printable("x" * 1000)) <= 100


def test_a_class_written_in_two_unicode_forms_is_one(tmp_path: Path) -> None:
    put(tmp_path, {"test/caf\u00e9/1.png": flat(1), "train/cafe\u0301/1.png": flat(2), "train/tea/1.png": flat(3)})
    assert read_images(tmp_path, READ).classes == ("caf\u00e9", "tea")


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = put(tmp_path / "set", {"a/1.png": flat(1), "b/1.png": flat(2)})
    (root / "b" / "loop").symlink_to(root)
    (root / "b" / "self.png").symlink_to("self.png")
    (root / "b" / "link.png").symlink_to(root / "a" / "1.png")
    put(tmp_path / "elsewhere", {"1.png": flat(3)})
    (root / "c").symlink_to(tmp_path / "elsewhere")
    decoded = read_images(root, READ)
    assert decoded.images[:, 0, 0, 0].tolist() == [1, 2, 1, 3]
    assert decoded.classes == ("a", "b", "c")
    assert "1 of 5 files skipped (b/self.png: no such file, or a broken link)" in decoded.note
    assert "1 folder linked more than once, read once" in decoded.note


def test_a_pipe_named_like_an_image_does_not_hang(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": flat(1)})
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    assert len(read_images(tmp_path, READ).images) == 1
    assert "b.png: no such file" in read_images(tmp_path / "list.txt", READ).note


def test_no_permission_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"a.png": flat(1), "b.png": flat(2), "locked/c.png": flat(3)})
    real_open, real_scan = Path.open, os.scandir

    def refusing_open(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *arguments, **options)

    def refusing_scan(path: Path) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real_scan(path)

    monkeypatch.setattr(Path, "open", refusing_open)
    decoded = read_images(tmp_path, READ)
    assert decoded.images[:, 0, 0, 0].tolist() == [1, 3]
    assert "b.png: Permission denied" in decoded.note
    monkeypatch.setattr(scan.os, "scandir", refusing_scan)
    with pytest.raises(DataError, match=r"locked: folder cannot be listed \(Permission denied\)"):
        read_images(tmp_path, READ)


# ---------------------------------------------------------------- row 11: files that go or change meanwhile


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: path.write_bytes(flat(99, 7, 7) * 2), "modified while the folder was read"),
        (lambda path: os.utime(path, ns=(1, 1)), "modified while the folder was read"),
    ],
    ids=["deleted", "rewritten", "touched"],
)
def test_a_file_that_changes_between_listing_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, reason: str
) -> None:
    put(tmp_path, {"a.png": flat(1), "b.png": flat(2), "c.png": flat(3)})

    def decode_and_change(data: bytes, name: str, reading: Reading) -> Any:
        if name == "a.png":
            change(tmp_path / "b.png")
        return decode(data, name, reading)

    monkeypatch.setattr(folders, "decode", decode_and_change)
    decoded = read_images(tmp_path, READ)
    assert decoded.images[:, 0, 0, 0].tolist() == [1, 3]
    assert f"b.png: {reason}" in decoded.note


# ---------------------------------------------------------------- zips and lists


def test_zip_members_are_never_written_and_names_lead_nowhere(tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    zipped(inside / "set.zip", {"../../evil.png": flat(1), "/etc/evil.png": flat(2), "a\\b\\c.png": flat(3)})
    before = sorted(tmp_path.rglob("*"))
    assert sorted(read_images(inside / "set.zip", READ).images[:, 0, 0, 0].tolist()) == [1, 2, 3]
    assert sorted(tmp_path.rglob("*")) == before


def test_zip_member_with_a_bad_crc_or_a_huge_claim_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "set.zip", {"a.png": flat(1), "b.bmp": encoded(np.full((4, 4), 77), "BMP")})
    data = path.read_bytes()
    at = data.rindex(b"\x4d" * 16)  # the pixels of b.bmp, stored as they are
    path.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    assert "b.bmp: Bad CRC-32" in read_images(path, READ).note
    zipped(path, {"a.png": flat(1), "b.png": flat(2) + bytes(100_000)})
    monkeypatch.setattr(scan, "MAX_BYTES", 50_000)
    assert "b.png: 100," in read_images(path, READ).note


def test_encrypted_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", {"a.png": flat(1)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="encrypted; unpack it"):
        read_images(path, READ)


def test_list_of_files_keeps_its_order(tmp_path: Path) -> None:
    put(tmp_path, {"pics/é.png": flat(1), "pics/b.unknown": flat(2), "c.png": flat(3)})
    text = f"\ufeff# header\n\npics/b.unknown\r\n{tmp_path / 'c.png'}\npics/é.png\nc.png\nmissing\0name.png\n"
    (tmp_path / "list.txt").write_text(text, encoding="utf-8", newline="")
    decoded = read_images(tmp_path / "list.txt", READ)
    assert decoded.images[:, 0, 0, 0].tolist() == [2, 3, 1, 3]
    assert (decoded.labels, decoded.splits, decoded.classes) == (None, None, ())
    assert r"missing\x00name.png: no such file" in decoded.note


# ---------------------------------------------------------------- arrays


def saved(path: Path, array: Any = None, **named: Any) -> Path:
    with path.open("wb") as file:
        np.save(file, array) if array is not None else np.savez_compressed(file, **named)
    return path


def counted(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 256).astype(np.uint8).reshape(shape)


@pytest.mark.parametrize("large", [False, True], ids=["read", "mapped"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((5, 6, 7), (0, None, 1, 2)),
        ((5, 4, 4), (0, None, 1, 2)),
        ((5, 6, 7, 1), (0, 3, 1, 2)),
        ((5, 6, 7, 3), (0, 3, 1, 2)),
        ((5, 1, 6, 7), (0, 1, 2, 3)),
        ((5, 3, 6, 7), (0, 1, 2, 3)),
        ((5, 3, 2, 2), (0, 1, 2, 3)),
        ((5, 6, 3, 1), (0, 3, 1, 2)),
    ],
)
def test_axes_are_told_by_the_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], axes: tuple[int, ...], large: bool
) -> None:
    if large:
        monkeypatch.setattr(stacks, "IN_MEMORY", 1)
    array = counted(*shape)
    expected = array[:, None] if axes[1] is None else array.transpose([a for a in axes if a is not None])
    images = read_images(saved(tmp_path / "a.npy", array), READ).images
    assert isinstance(images, np.memmap) == large
    assert np.array_equal(images, expected)
    assert images.shape == expected.shape


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (counted(9, 3, 9, 3), r"may be \[N, C, H, W\] or \[N, H, W, C\]"),
        (counted(9, 1, 9, 1), r"may be \[N, C, H, W\] or \[N, H, W, C\]"),
        (counted(9, 8, 3), r"may be one image \[H, W, C\]"),
        (counted(9, 8, 8, 4), "no second or last axis of 1 or 3 channels"),
        (counted(9, 8), r"is not an array of images; save \[N, H, W\]"),
        (counted(0, 8, 8), "is not an array of images"),
        (np.zeros((2, 8, 8), np.float32), r"is float32; pixels must be uint8 or bool: save \(x \* 255\)"),
        (np.zeros((2, 8, 8), np.uint16), "is uint16; pixels must be uint8 or bool"),
        (np.array([object()]), "Python objects, which are not unpickled"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, array: np.ndarray, match: str) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.save(file, array, allow_pickle=True)
    with pytest.raises(DataError, match=match):
        read_images(tmp_path / "a.npy", READ)


def test_bool_array_has_two_levels(tmp_path: Path) -> None:
    decoded = read_images(saved(tmp_path / "a.npy", np.eye(5, dtype=bool)[None]), READ)
    assert decoded.source_levels == 2
    assert decoded.images.dtype == np.uint8
    assert np.array_equal(decoded.images[0, 0], np.eye(5))


A, B, C = counted(4, 5, 5), counted(3, 5, 5) // 2, counted(2, 5, 5) // 3
NPZ: dict[str, tuple[dict[str, Any], dict[str, slice] | None, tuple[str, ...], list[int] | None]] = {
    "images": ({"images": A}, None, (), None),
    "images and labels": ({"images": A, "labels": [0, 1, 1, 0]}, None, ("0", "1"), [0, 1, 1, 0]),
    "gaps in the labels": ({"images": A, "labels": [[7], [-2], [7], [3]]}, None, ("-2", "3", "7"), [2, 0, 2, 1]),
    "named classes": (
        {"images": A, "labels": [0, 1, 1, 0], "classes": ["cat", "dog", "eel"]},
        None,
        ("cat", "dog", "eel"),
        [0, 1, 1, 0],
    ),
    "a single array of any name": ({"arr_0": A}, None, (), None),
    "splits": (
        {"test": C, "train": A, "valid": B},
        {"train": slice(0, 4), "val": slice(4, 7), "test": slice(7, 9)},
        (),
        None,
    ),
    "x and y": (
        {"x_train": A, "y_train": [0, 1, 1, 0], "x_test": B, "y_test": [2, 0, 0]},
        {"train": slice(0, 4), "test": slice(4, 7)},
        ("0", "1", "2"),
        [0, 1, 1, 0, 2, 0, 0],
    ),
    "_images and _labels": (
        {"train_images": A, "train_labels": [[0], [1], [1], [0]]},
        {"train": slice(0, 4)},
        ("0", "1"),
        [0, 1, 1, 0],
    ),
    "test without labels": (
        {"X_train": A, "Y_train": [0, 1, 1, 0], "X_test": B},
        {"train": slice(0, 4), "test": slice(4, 7)},
        (),
        None,
    ),
}


@pytest.mark.parametrize(("named", "parts", "classes", "labels"), NPZ.values(), ids=NPZ)
def test_npz_keys(
    tmp_path: Path,
    named: dict[str, Any],
    parts: dict[str, slice] | None,
    classes: tuple[str, ...],
    labels: list[int] | None,
) -> None:
    decoded = read_images(saved(tmp_path / "a.npz", **named), READ)
    assert decoded.splits == parts
    assert (decoded.classes, None if decoded.labels is None else decoded.labels.tolist()) == (classes, labels)
    for name, part in (parts or {"": slice(None)}).items():
        key = next(k for k in named if np.ndim(named[k]) == 3 and name in k.lower())
        assert np.array_equal(decoded.images[part][:, 0], named[key])


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ({"foo": A, "bar": B}, "needs images .* it contains foo, bar"),
        ({"images": A, "train": B}, "needs images"),
        ({"val": A, "validation": B, "train": C}, "val and validation have the same role"),
        ({"images": A, "labels": [0, 1]}, r"labels is int64 \[2\]; save integers \[4\]"),
        ({"images": A, "labels": [0.0, 1, 1, 0]}, "labels is float64"),
        ({"images": A, "labels": [0, 1, 2, 0], "classes": ["a", "b"]}, "one for each label from 0 to 2"),
        ({"train": A, "test": counted(2, 6, 6)}, "test and train differ in image size or type"),
        ({"train": A, "test": B > 3}, "test and train differ in image size or type"),
        ({"images": A, "levels": 1}, "levels must be one integer from 2 to 256"),
        ({"images": A, "levels": [2, 3]}, "levels must be one integer"),
        ({"images": A, "levels": 99}, "images has the value 99, but levels is 99"),
        ({"images": A, "labels": np.array([1, None, 2, 3])}, "Python objects, which are not unpickled"),
    ],
)
def test_npz_that_is_refused(tmp_path: Path, named: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_images(saved(tmp_path / "a.npz", **named), READ)


def test_npz_levels(tmp_path: Path) -> None:
    decoded = read_images(saved(tmp_path / "a.npz", images=A % 17, levels=17, extra=[1]), READ)
    assert decoded.source_levels == 17
    assert decoded.note == "arrays ignored: extra"
    assert np.array_equal(decoded.images[:, 0], A % 17)


def test_arrays_are_brought_to_size_within_their_levels(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.npz", images=np.full((2, 4, 4), 3, np.uint8), levels=17)
    padded = read_images(source, Reading(size=(4, 6), fit="pad", background="#808080")).images
    assert padded[1, 0].tolist() == [[8, 3, 3, 3, 3, 8]] * 4
    assert read_images(source, Reading(size=(2, 2))).images[0, 0].tolist() == [[3, 3], [3, 3]]
    with pytest.raises(DataError, match=r"a\.npz: 4x4 pixels, not 2x2; choose --fit"):
        read_images(source, Reading(size=(2, 2), fit="error"))
    rng = np.random.default_rng(0)
    noisy = saved(tmp_path / "b.npz", images=rng.choice(np.array([0, 16], np.uint8), (20, 9, 9)), levels=17)
    assert read_images(noisy, Reading(size=(12, 12))).images.max() == 16
    color = saved(tmp_path / "c.npy", np.full((2, 4, 4, 3), (200, 100, 50), np.uint8))
    assert (read_images(color, Reading(gray=True)).images == np.full((2, 1, 4, 4), 124)).all()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_header_that_claims_more_than_there_is(tmp_path: Path, suffix: str) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 1000, 1000)})
    data = stream.getvalue() + bytes(100)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data) if suffix == ".npy" else zipped(path, {"images.npy": data})
    with pytest.raises(DataError, match=r"the header claims .* but 100 bytes follow"):
        read_images(path, READ)


def test_a_damaged_npz_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=counted(9, 8, 8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz: not a readable \.npz file \(Bad CRC-32"):
        read_images(path, READ)


# ---------------------------------------------------------------- as a whole


def test_order_is_by_name_and_the_same_from_folder_and_zip(tmp_path: Path) -> None:
    contents = {f"{name}.png": flat(i) for i, name in enumerate(["b/2", "a/10", "a/2", "b/1"])}
    results: list[DecodedImages] = [
        read_images(put(tmp_path / "set", contents), READ),
        read_images(zipped(tmp_path / "set.zip", contents), READ),
    ]
    for decoded in results:
        assert decoded.images[:, 0, 0, 0].tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("", True), ("a.zip", True), ("a.NPZ", True), ("a.txt", True), ("a.png", False), ("none.zip", False)],
)
def test_is_image_source(tmp_path: Path, name: str, expected: bool) -> None:
    put(tmp_path, {"a.zip": b"", "a.NPZ": b"", "a.txt": b"", "a.png": b""})
    assert folders.is_image_source(tmp_path / name) is expected


def test_reading_images_needs_no_torch() -> None:
    code = "import sys, pixelloom.data.io.folders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
