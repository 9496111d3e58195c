"""Archives: the same names, modes and pixels come out, whatever goes in; nothing is written outside, or by halves."""

from __future__ import annotations

import errno
import io
import json
import lzma
import os
import re
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from codec_mutations import MUTATIONS, Parts, foreign
from codec_toys import TableCodec, images_of, toy
from pixelloom.codec import archive, manifest
from pixelloom.codec.archive import Source, check_written, compress_files, extract, sources
from pixelloom.codec.container import Writer
from pixelloom.codec.image_files import Fitting, file_of, levels_of
from pixelloom.codec.manifest import Entry, Form, Stored
from pixelloom.codec.reader import PxlFile
from pixelloom.core.atomic import whole_file
from pixelloom.core.errors import CodecError, DataError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import to_bytes

GRAY, BITS, RGB = ImageSpec(1, 4, 6, 256), ImageSpec(1, 4, 6, 2), ImageSpec(3, 4, 6, 256)
CODECS = {spec: toy(spec) for spec in (GRAY, BITS, RGB, ImageSpec(1, 4, 6, 17))}


def gray(seed: int = 0) -> Image.Image:
    return Image.fromarray(images_of(1, GRAY, seed)[0, 0])


def color(seed: int = 0) -> Image.Image:
    return Image.fromarray(images_of(1, RGB, seed)[0].transpose(1, 2, 0))


def black_and_white(seed: int = 0) -> Image.Image:
    return Image.fromarray(images_of(1, BITS, seed)[0, 0] * np.uint8(255))


def coded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def grays_in_a_palette() -> Image.Image:
    """Indices in reverse order of the grays."""
    image = Image.fromarray(images_of(1, GRAY)[0, 0])
    image.putpalette([value for level in range(255, -1, -1) for value in (level,) * 3])
    return image


def text() -> PngInfo:
    found = PngInfo()
    found.add_text("Title", "one")
    found.add(b"gAMA", (45455).to_bytes(4, "big"))
    found.add(b"tEXt", b"Late\0text", after_idat=True)
    return found


def palette(colors: list[int], indices: list[int]) -> Image.Image:
    image = Image.new("P", (6, 4))
    image.putpalette(colors)
    image.putdata((indices * 24)[:24])
    return image


def opaque(mode: str, alpha: int) -> Image.Image:
    image = (gray() if mode == "LA" else color()).convert(mode)
    image.putalpha(alpha)
    return image


TAKEN: dict[str, tuple[ImageSpec, bytes]] = {
    "gray PNG": (GRAY, coded(gray())),
    "gray BMP": (GRAY, coded(gray(), "BMP")),
    "PGM": (GRAY, coded(gray(), "PPM")),
    "PPM": (RGB, coded(color(), "PPM")),
    "color PNG": (RGB, coded(color())),
    "color BMP": (RGB, coded(color(), "BMP")),
    "gray of three channels": (GRAY, coded(gray().convert("RGB"))),
    "gray for a model of colors": (RGB, coded(gray())),
    "opaque, gray": (GRAY, coded(opaque("LA", 255))),
    "opaque, color": (RGB, coded(opaque("RGBA", 255))),
    "bits, mode 1": (BITS, coded(black_and_white().convert("1"))),
    "bits, BMP": (BITS, coded(black_and_white().convert("1"), "BMP")),
    "bits, PBM": (BITS, coded(black_and_white().convert("1"), "PPM")),
    "bits, mode L": (BITS, coded(black_and_white())),
    "mode 1 for 256 levels": (GRAY, coded(black_and_white().convert("1"))),
    "palette of grays": (GRAY, coded(grays_in_a_palette())),
    "palette of colors": (RGB, coded(palette([1, 2, 3, 200, 100, 0, 9, 9, 9], [2, 0, 1, 1]))),
    "unused equal colors in a palette": (RGB, coded(palette([1, 2, 3, 4, 5, 6, 1, 2, 3], [0, 1]))),
    "texts and gamma": (GRAY, coded(gray(), pnginfo=text())),
    "resolution": (GRAY, coded(gray(), dpi=(300, 300))),
    "interlaced or not": (GRAY, coded(gray(), compress_level=0)),
    "17 levels": (
        ImageSpec(1, 4, 6, 17),
        coded(Image.fromarray(to_bytes(images_of(1, ImageSpec(1, 4, 6, 17)), 17)[0, 0])),
    ),
}
STORED: dict[str, tuple[ImageSpec, bytes, str]] = {
    "another size": (GRAY, coded(gray().resize((4, 6))), "6x4 pixels"),
    "transparent": (RGB, coded(opaque("RGBA", 254)), "transparency"),
    "transparent color": (GRAY, coded(gray(), transparency=3), "transparency"),
    "16 bit": (GRAY, coded(Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 999)), "mode I;16"),
    "color": (GRAY, coded(color()), "color"),
    "JPEG": (GRAY, coded(gray(), "JPEG"), "JPEG file"),
    "GIF": (GRAY, coded(gray(), "GIF"), "GIF file"),
    "TIFF": (GRAY, coded(gray(), "TIFF"), "TIFF file"),
    "WebP": (RGB, coded(color(), "WEBP", lossless=True), "WEBP file"),
    "an animation": (GRAY, coded(gray(), save_all=True, append_images=[gray(1)]), "several frames"),
    "a palette": (RGB, coded(palette([1, 2, 3, 4, 5, 6, 1, 2, 3], [0, 1, 2])), "palette with equal colors"),
    "gray levels between those of the model": (BITS, coded(gray()), "values between the model's 2 levels"),
    "CMYK": (RGB, coded(color().convert("CMYK"), "TIFF"), "TIFF file"),
    "a palette with gamma": (GRAY, coded(grays_in_a_palette(), pnginfo=text()), "palette and color metadata"),
    "a comment in a PGM": (GRAY, b"P5\n# comment\n6 4\n255\n" + bytes(24), "PPM of a rare form"),
    "a PGM of 16 levels": (GRAY, b"P5\n6 4\n15\n" + bytes(24), "PPM of a rare form"),
    "large metadata": (GRAY, coded(gray(), icc_profile=np.random.default_rng(0).bytes(1 << 17)), "large metadata"),
    "empty": (GRAY, b"", "not an image that can be decoded"),
    "text": (GRAY, b"hello", "not an image that can be decoded"),
    "cut": (GRAY, coded(gray())[:-20], "not an image that can be decoded"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_images_that_a_model_takes(case: str) -> None:
    """Mode, size, pixels and palette are the same; all bytes of formats without metadata, all chunks of PNG."""
    spec, data = TAKEN[case]
    found = levels_of(data, spec)
    assert isinstance(found, Fitting), found
    assert found.levels.shape == spec.shape
    assert found.levels.max() < spec.levels
    again = file_of(found.levels, found.form, spec)
    same_image(again, data)
    if found.form.format != "PNG":
        assert again == data


def same_image(a: bytes, b: bytes) -> None:
    one, two = Image.open(io.BytesIO(a)), Image.open(io.BytesIO(b))
    assert (one.format, one.mode, one.size, one.tobytes()) == (two.format, two.mode, two.size, two.tobytes())
    assert one.getpalette() == two.getpalette()
    one.load(), two.load()
    assert one.info == two.info


@pytest.mark.parametrize("case", STORED)
def test_images_that_are_stored_as_they_are(case: str) -> None:
    """FAULTS 27"""
    spec, data, reason = STORED[case]
    assert levels_of(data, spec) == reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of all kinds in a folder with folders."""
    root = tmp_path / "images"
    (root / "ä/deep er").mkdir(parents=True)
    for i in range(11):
        (root / f"{i:05d}.png").write_bytes(coded(gray(i)))
    for i, (name, (_, data)) in enumerate(TAKEN.items()):
        (root / "ä" / f"{name}{i}.png").write_bytes(data)
    for name, (_, data, _) in STORED.items():
        (root / "ä/deep er" / f"{name}.jpg").write_bytes(data)
    return root


def packed(root: Path, codec: TableCodec | None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    compress_files(sources([root])[0], codec, buffer, **options)
    return buffer.getvalue()


def unpacked(data: bytes, out: Path, codec: TableCodec | None, *, salvage: bool = False) -> archive.Extracted:
    with PxlFile(data, codec, salvage=salvage) as file:
        return extract(file, out, salvage=salvage)


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("codec", [*CODECS.values(), None], ids=lambda codec: str(codec and codec.spec))
def test_a_folder_comes_out_as_it_went_in(codec: TableCodec | None, folder: Path, tmp_path: Path) -> None:
    data = packed(folder, codec, block=4)
    assert unpacked(data, tmp_path / "out", codec).files == len(tree(folder))
    before, after = tree(folder), tree(tmp_path / "out")
    assert sorted(after) == sorted(before)
    for name in before:
        if after[name] != before[name]:
            same_image(after[name], before[name])
    if codec is not None:
        assert sum(after[name] != before[name] for name in before) < len(before)
    else:
        assert after == before
    assert not list(tmp_path.rglob("*.part"))


def test_names_and_reasons_are_told(folder: Path) -> None:
    buffer = io.BytesIO()
    done = compress_files(sources([folder])[0], CODECS[GRAY], buffer)
    assert ("ä/deep er/JPEG.jpg", "JPEG file") in done.stored
    assert done.written.images + len(done.stored) == len(tree(folder))
    assert done.source_bytes == sum(map(len, tree(folder).values()))
    assert dict(done.reasons())["JPEG file"] == 1
    assert done.written.size == len(buffer.getvalue())
    assert 0 < done.stored_bytes < done.written.size


def test_order_is_kept(tmp_path: Path) -> None:
    names = ["b.png", "a.jpg", "c.png", "10.png", "9.png"]
    files = [
        Source(name, Path(name), coded(gray(i), "JPEG" if "jpg" in name else "PNG")) for i, name in enumerate(names)
    ]
    buffer = io.BytesIO()
    compress_files(files, CODECS[GRAY], buffer)
    assert [entry.name for entry in archive.entries_of(PxlFile(buffer.getvalue()))] == names


def test_numbered_names_cost_nothing() -> None:
    form = Form("PNG", "L")
    rows = [Entry(f"train/{i:05d}.png", form) for i in range(1000)]
    data = manifest.packed(rows)
    assert len(data) < 120
    assert manifest.parse(data, 1000, 0, "") == rows


@pytest.mark.parametrize("names", [
    [], ["a"], ["1", "2", "3"], ["01", "02"], ["9.png", "10.png", "11.png"], ["09", "10", "011"], ["a1b2", "a1b3"],
    ["0", "1"], ["00", "01"], ["099", "100", "101"], ["x9", "x10", "x010"], ["7", "7x", "8"], ["1" * 30, "2" * 30],
    ["99999999.png", "100000000.png", "999999999.png"],
])  # fmt: skip
def test_names_come_back(names: list[str]) -> None:
    rows = [Entry(name, Form("PNG", "L")) for name in names]
    assert [row.name for row in manifest.parse(manifest.packed(rows), len(names), 0, "")] == names


# --------------------------------------------------------------------------------------- names that would do harm


HARMFUL = ["/etc/passwd", "../x", "a/../../x", "a/./b", "", "a//b", "a/", "C:x", "a\\b", "\\x", "a\0b", "a\nb", ".",
           "..", "x" * 256, "/".join(["x" * 200] * 6), "\udc80"]  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    """In a file whose CRCs are right, before anything is written; and when an archive is made."""
    with pytest.raises(ValueError, match="is no relative path"):
        manifest.check_names([name])
    if name == "\udc80":
        return  # JSON of UTF-8 has no such character
    data = forged([Entry(name, Form("PNG", "L"))], images=1)
    with pytest.raises(CodecError, match=r"names: .* is no relative path within the folder; nothing is written"):
        unpacked(data, tmp_path / "inner/out", CODECS[GRAY])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["x/y/z", "x/y"]])
def test_names_that_collide_are_refused(names: list[str], tmp_path: Path) -> None:
    data = forged([Entry(name, Form("PNG", "L")) for name in names], images=2)
    with pytest.raises(CodecError, match=r"name of two files|name of a file and of a folder"):
        unpacked(data, tmp_path / "out", CODECS[GRAY])


def forged(rows: list[Entry], images: int, stored: bytes = b"", text: bytes | None = None) -> bytes:
    """A valid file of images with a manifest of one's own."""
    buffer = io.BytesIO()
    writer = Writer(buffer, CODECS[GRAY])
    writer.put(images_of(images, GRAY))
    writer.store(stored)
    writer.close(manifest.packed(rows) if text is None else text)
    return buffer.getvalue()


def test_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "other")
    (tmp_path / "out/x.png").symlink_to(tmp_path / "other/made.png")
    for name, message in (("link/x.png", "lies outside"), ("x.png", "exists already")):
        with pytest.raises(UsageError, match=message):
            unpacked(forged([Entry(name, Form("PNG", "L"))], 1), tmp_path / "out", CODECS[GRAY])
    with PxlFile(forged([Entry("x.png", Form("PNG", "L"))], 1), CODECS[GRAY]) as file:
        extract(file, tmp_path / "out", force=True)  # the link is replaced, not what it points to
    assert list((tmp_path / "other").iterdir()) == []
    assert not (tmp_path / "out/x.png").is_symlink()


BAD_MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda m: [],
    "a number": lambda m: 1,
    "no names": lambda m: m.pop("names") and m,
    "more names": lambda m: m | {"names": [*m["names"], "more"]},
    "a billion names": lambda m: m | {"names": [["x", 0, 0, 10**9, ""]]},
    "a billion files": lambda m: m | {"names": [["x", 0, 0, 10**9, ""]], "form": [[0, 10**9]]},
    "a negative count": lambda m: m | {"form": [[0, 4], [0, -1]]},
    "a fraction": lambda m: m | {"form": [[0, 3.0]]},
    "an unknown form": lambda m: m | {"form": [[5, 3]]},
    "a negative form": lambda m: m | {"form": [[-2, 3]]},
    "another format": lambda m: m | {"forms": [["EPS", "L", "", "", ""]]},
    "another mode": lambda m: m | {"forms": [["PNG", "F", "", "", ""]]},
    "no base64": lambda m: m | {"forms": [["PNG", "L", "??", "", ""]]},
    "chunks of no PNG": lambda m: m | {"forms": [["BMP", "L", "AAAA", "", ""]]},
    "a palette without its mode": lambda m: m | {"forms": [["PNG", "L", "", "", "AAAA"]]},
    "a mode without its palette": lambda m: m | {"forms": [["PNG", "P", "", "", ""]]},
    "stored files that are not there": lambda m: m | {"stored": [[5, 5, 0]], "form": [[0, 3], [-1, 1]]},
    "a very wide number": lambda m: m | {"names": [["x", 1000, 0, 3, ""]]},
    "numbers as names": lambda m: m | {"names": [1, 2, 3]},
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_forged_manifests_are_refused(case: str, tmp_path: Path) -> None:
    rows = [Entry(name, Form("PNG", "L")) for name in "abc"]
    sound = json.loads(manifest.expand(manifest.packed(rows), 1 << 20))
    text = manifest.compress(json.dumps(BAD_MANIFESTS[case](sound)).encode())
    with pytest.raises(CodecError, match=r"names: the manifest is damaged \(.*file again"):
        unpacked(forged(rows, 3, text=text), tmp_path / "out", CODECS[GRAY])
    assert not (tmp_path / "out").exists()


def test_a_mode_that_its_format_lacks_is_named(tmp_path: Path) -> None:
    rows = [Entry(name, Form("BMP", "LA")) for name in "abc"]
    with pytest.raises(CodecError, match=r"names: a: cannot write mode LA as BMP"):
        unpacked(forged(rows, 3), tmp_path / "out", CODECS[GRAY])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [
    b"\0", b"not lzma", manifest.compress(b"{"), manifest.compress(b"[" * 100_000), manifest.compress(b"\xff"),
    lzma.compress(b"{}", lzma.FORMAT_XZ), manifest.compress(b"{}") + b"more", manifest.compress(b"{}")[:-3],
])  # fmt: skip
def test_manifests_that_are_none_are_refused(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(CodecError, match=r"names: the manifest is damaged"):
        unpacked(forged([], 1, text=text), tmp_path / "out", CODECS[GRAY])


def test_a_manifest_that_expands_without_end_is_refused() -> None:
    """1 GB of zeros in 150 kB, and a dictionary of 1 GB."""
    bomb = lzma.compress(bytes(1 << 26), lzma.FORMAT_ALONE)
    greedy = bytearray(manifest.compress(b"{}"))
    greedy[1:5] = (1 << 30).to_bytes(4, "little")
    for text in (bomb, bytes(greedy)):
        tracemalloc.start()
        with pytest.raises(CodecError, match="names: the manifest is damaged"):
            archive.entries_of(PxlFile(forged([], 1, text=text)))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3 * manifest.MAX_JSON


def test_stored_files_that_expand_to_another_size_are_refused(tmp_path: Path) -> None:
    body = manifest.compress(bytes(1000))
    for length in (999, 1001, 10**8):
        rows = [Entry("x.jpg", Stored(len(body), length, zlib.crc32(bytes(1000))))]
        with pytest.raises(CodecError, match=r"stored file x\.jpg: is damaged; .*file again"):
            unpacked(forged(rows, 0, body), tmp_path / "out", CODECS[GRAY])
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------- damage


def test_damaged_archives_write_nothing_and_salvage_writes_what_is_intact(folder: Path, tmp_path: Path) -> None:
    """FAULTS 22: a wrong file is never written, whatever is damaged."""
    codec, draw = CODECS[GRAY], np.random.default_rng(0)
    names = [f"{i:05d}.png" for i in range(9)]
    files = [Source(name, folder / name) for name in names] + [Source("x.jpg", folder / "ä/deep er/JPEG.jpg")]
    first, second = io.BytesIO(), io.BytesIO()
    compress_files(files, codec, first, block=2)
    compress_files([Source(name, folder / "00010.png") for name in names] + files[9:], codec, second, block=2)
    right = {source.name: source.read() for source in files}
    parts, other = Parts(first.getvalue()), Parts(second.getvalue())
    errors = 0
    for i in range(40 * len(MUTATIONS)):
        mutation = MUTATIONS[i % len(MUTATIONS)]
        if mutation is foreign:
            continue
        data, out = mutation(parts, other, draw), tmp_path / "out"
        for salvage in (False, True):
            said, done = "", archive.Extracted()
            try:
                done = unpacked(data, out, codec, salvage=salvage)
            except CodecError as error:
                said = str(error)
            if said:
                errors += not salvage
                assert re.search(r"block \d|header|index|end|names|stored", said)
            assert out.exists() == bool(done.files)
            if not out.exists():
                continue
            written = tree(out)
            for name, content in written.items():
                if name in right and not any("names" in lost for lost in done.lost):
                    assert content == right[name] or name == "x.jpg", (mutation, name)
                else:
                    assert content in right.values()
            assert done.lost or len(written) == len(right)
            for path in sorted(out.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            out.rmdir()
    assert errors > 500


def test_salvage_names_what_is_lost(folder: Path, tmp_path: Path) -> None:
    data = bytearray(packed(folder, CODECS[GRAY], block=4))
    with PxlFile(bytes(data)) as file:
        entries = archive.entries_of(file)
        data[file.index.blocks[1].start + 7] ^= 1
        data[file.index.stored + 3] ^= 1
    done = unpacked(bytes(data), tmp_path / "out", CODECS[GRAY], salvage=True)
    stored = next(entry.name for entry in entries if isinstance(entry.kind, Stored))
    assert done.lost == ["block 1: 00004.png to 00007.png", f"stored file {stored}"]
    assert done.files == len(entries) - 5
    cut = unpacked(bytes(data[: 59 + 40]), tmp_path / "cut", CODECS[GRAY], salvage=True)
    assert cut.files == 0 or "00000.png" in tree(tmp_path / "cut")
    assert any("names" in lost for lost in cut.lost)


# ----------------------------------------------------------------------------------------- writing, whole or not


def test_existing_files_stay(folder: Path, tmp_path: Path) -> None:
    data, out = packed(folder, CODECS[GRAY]), tmp_path / "out"
    out.mkdir()
    (out / "00003.png").write_text("mine")
    (out / "notes.txt").write_text("mine too")
    with pytest.raises(UsageError, match=r"00003\.png: exists already; .*--force"):
        unpacked(data, out, CODECS[GRAY])
    assert tree(out) == {"00003.png": b"mine", "notes.txt": b"mine too"}
    with PxlFile(data, CODECS[GRAY]) as file:
        extract(file, out, force=True)
    assert len(tree(out)) == len(tree(folder)) + 1


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_full_disk_leaves_nothing(at: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 17 of compressed files: neither a file nor images, when writing fails at some write."""
    data, codec, before = packed(folder, CODECS[GRAY]), CODECS[GRAY], {*tmp_path.iterdir()}
    target = tmp_path / "x.pxl"

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, at

        def write(self, content: bytes) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.file.write(content)

    for old in (None, b"old"):
        if old:
            target.write_bytes(old)
        with pytest.raises(OSError, match="No space"), whole_file(target) as file:
            compress_files(sources([folder])[0], codec, Full(file))
        assert (target.read_bytes() if target.exists() else None) == old
    target.unlink()
    left = [at]

    def full(*given: Any) -> bytes:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return file_of(*given)

    monkeypatch.setattr(archive, "file_of", full)
    with pytest.raises(OSError, match="No space"):
        unpacked(data, tmp_path / "new/out", codec)
    assert {*tmp_path.iterdir()} == before


def test_a_file_that_changes_meanwhile_is_an_error(folder: Path) -> None:
    """A stored file is read twice; the second time it must be the same."""
    path, reads = folder / "ä/deep er/JPEG.jpg", [0]

    class Changing(Source):
        def read(self) -> bytes:
            reads[0] += 1
            return path.read_bytes() + bytes(reads[0])

    with pytest.raises(DataError, match=r"JPEG\.jpg: has changed while it was compressed"):
        compress_files([Changing("x.jpg", path)], CODECS[GRAY], io.BytesIO())


def test_what_is_written_is_read_back(folder: Path) -> None:
    buffer = io.BytesIO()
    done = compress_files(sources([folder])[0], CODECS[GRAY], buffer, block=4)
    check_written(buffer, done, "x.pxl")
    with PxlFile(buffer.getvalue()) as file:
        places = [file.index.blocks[2].start + 6, file.index.stored + 9, file.index.manifest + 20, 30, file.size - 3]
    for place in places:
        changed = bytearray(buffer.getvalue())
        changed[place] ^= 2
        with pytest.raises(CodecError):
            check_written(io.BytesIO(changed), done, "x.pxl")


def test_arguments_become_names(tmp_path: Path) -> None:
    for name in ("a/x.png", "a/b/y.PNG", "b/x.png", "a/notes.txt", "z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(coded(gray()))

    def names(*paths: str) -> list[str]:
        return [source.name for source in sources([tmp_path / path for path in paths])[0]]

    assert names("a") == ["b/y.PNG", "x.png"]
    assert sources([tmp_path / "a"])[1] == 1  # notes.txt
    assert names("a", "b", "z.png") == ["a/b/y.PNG", "a/x.png", "b/x.png", "z.png"]
    assert names("z.png", "a/x.png") == ["z.png", "x.png"]
    for paths, message in ((["a/x.png", "b/x.png"], "'x.png' is the name of two files"), (["none"], "no such file")):
        with pytest.raises(DataError, match=message):
            names(*paths)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no images; accepted are \.png"):
        names("empty")
    bad = os.fsencode(tmp_path) + b"/a/\xff.png"
    Path(os.fsdecode(bad)).write_bytes(coded(gray()))
    with pytest.raises(DataError, match="is no relative path"):
        names("a")
