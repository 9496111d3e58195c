"""Images of several sizes in one file: bytes as documented, own shapes, names and order, and limits before memory."""

from __future__ import annotations

import io
import json
import math
import re
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codec_mutations import Parts
from codec_toys import LocalCodec
from commands import caller
from pixelloom.codec import archive, container, image_files, layout, manifest, sizes, strips
from pixelloom.codec.archive import Source, compress_files, extract
from pixelloom.codec.arrays import compress, decompress, open_pxl
from pixelloom.codec.container import PIXELS, Writer
from pixelloom.codec.image_files import levels_of
from pixelloom.codec.manifest import Entry, Form
from pixelloom.codec.reader import PxlFile
from pixelloom.core.errors import CodecError, DataError, UsageError
from pixelloom.core.types import ImageSpec, Levels
from test_codec_container import LOCAL, MODEL, mixed
from test_codec_sizes import local

GRAY = ImageSpec(1, 4, 4, 256)
GRAYS = LocalCodec(GRAY, np.zeros((50, *GRAY.shape), np.uint8))
IMAGES = mixed()
SIZES = [(4, 6), (5, 3), (4, 6), (9, 2), (5, 3), (5, 3), (4, 6), (2, 9), (5, 3)]


def coded(size: tuple[int, int], seed: int) -> bytes:
    """A PNG file of a few gray dots on black."""
    draw, buffer = np.random.default_rng(seed), io.BytesIO()
    pixels = np.where(draw.random(size) < 0.1, draw.integers(1, 256, size), 0).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files() -> list[Source]:
    """Nine images of four sizes in turns, and a file that is none."""
    names = ["b", "a", "z", "y", "x", "c", "d", "w", "v"]
    found = [Source(f"{name}.png", Path(name), coded(SIZES[i], i)) for i, name in enumerate(names)]
    return [*found[:4], Source("no.png", Path("no"), b"text"), *found[4:]]


def packed(block: int = 64) -> bytes:
    buffer = io.BytesIO()
    compress_files(files(), GRAYS, buffer, block=block)
    return buffer.getvalue()


def shapes(file: PxlFile) -> list[tuple[int, tuple[int, int], bool]]:
    return [(block.n, (block.spec.height, block.spec.width), block.sized) for block in file.index.blocks]


# ------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("block", [1, 2, 4096])
def test_each_image_has_its_own_shape(block: int) -> None:
    with open_pxl(compress([image[None] for image in IMAGES], LOCAL, block=block), LOCAL) as file:
        assert len(file) == len(IMAGES) == 17
        for i in (0, 16, 7, 9, 10, -17, 5):
            assert np.array_equal(file[i].numpy(), IMAGES[i])
        assert all(np.array_equal(found.numpy(), image) for found, image in zip(file, IMAGES, strict=True))
        runs = {1: 17, 2: 3 + 2 + 1 + 2 + 2, 4096: 5}[block]
        assert len(file.index.blocks) == runs
        with pytest.raises(IndexError):
            file[17]


def test_arrays_of_several_sizes_name_open_pxl() -> None:
    data = compress([image[None] for image in IMAGES], LOCAL)
    with pytest.raises(UsageError, match=r"holds images of 3 sizes; read them with pixelloom\.open_pxl"):
        decompress(data, LOCAL)


def test_images_of_one_other_size_are_those_of_the_header() -> None:
    """A file of one size has no sizes of blocks, whatever the size of the export."""
    images = np.zeros((7, 1, 3, 9), np.uint8)
    data = compress(images, LOCAL, block=2)
    assert torch.equal(decompress(data, LOCAL), torch.from_numpy(images))
    with PxlFile(data, LOCAL) as file:
        assert shapes(file) == [(2, (3, 9), False)] * 3 + [(1, (3, 9), False)]
    assert compress(images, LOCAL.resized(3, 9), block=2) == data
    assert len(compress([], LOCAL)) == len(compress(IMAGES[0][None][:0], LOCAL)) == 59 + 1 + 2 + 12


def test_a_block_of_large_images_has_few(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PIXELS == 1 << 20
    monkeypatch.setattr("pixelloom.codec.container.PIXELS", 60)
    for image, most in (((3, 7), 2), ((4, 4), 3), ((8, 8), 1)):
        with PxlFile(compress([np.zeros((1, 1, 4, 5), np.uint8), np.zeros((7, 1, *image), np.uint8)], LOCAL)) as file:
            assert [block.n for block in file.index.blocks[1:]] == [most] * (7 // most) + [7 % most] * (7 % most > 0)
        with PxlFile(compress(np.zeros((7, 1, *image), np.uint8), LOCAL)) as file:
            assert file.header.block == most
    with PxlFile(compress(np.zeros((7, 1, 4, 4), np.uint8), MODEL)) as file:  # of a model of one size
        assert file.header.block == 64


def test_sizes_of_the_format() -> None:
    """26 bytes a block of another size, at most, and its packed levels."""
    writer = Writer(out := io.BytesIO(), LOCAL, block=4096)
    noise = np.random.default_rng(0).integers(0, 4, (200, 1, 3, 7), dtype=np.uint8)
    writer.put(noise)
    writer.close()
    assert len(out.getvalue()) == 59 + 1 + 2 + 12 + 200 * 21 // 4 + 4 + 2 + 2 * (3 + 1 + 2)


def test_a_block_of_another_size_is_as_documented() -> None:
    """A block of a size that the header has not, raw: 2 images of 1 x 3, after one of 4 x 4."""
    writer = Writer(out := io.BytesIO(), LOCAL, block=4)
    image = np.full((1, 1, 4, 4), 3, np.uint8)
    writer.put(image)
    levels = np.array([[[[3, 2, 1]]], [[[1, 3, 2]]]], np.uint8)
    writer.put(levels)
    writer.close()
    data = out.getvalue()
    payload = bytes([0b11100101, 0b11100000])
    check = zlib.crc32(data[:55] + struct.pack("<IHHH", 1, 2, 1, 3) + payload + levels.tobytes())
    first = zlib.crc32(data[:55] + struct.pack("<IHHH", 0, 1, 4, 4) + b"\xff" * 4 + image.tobytes())
    blocks = b"\3\1" + struct.pack("<I", first) + b"\xff" * 4 + b"\5\1\3\3\2" + struct.pack("<I", check) + payload
    entries = b"\3\1" + struct.pack("<I", zlib.crc32(b"\xff" * 4))[:2]
    entries += b"\5\1\3\3\2" + struct.pack("<I", zlib.crc32(payload))[:2]
    index = b"\0\0" + entries
    content = zlib.crc32(struct.pack("<II", first, check))
    tail = struct.pack("<II", len(index), content)
    end = struct.pack("<I", zlib.crc32(data[:55] + index + tail))
    assert data[59:] == blocks + b"\0" + index + tail + end


def test_a_model_of_one_size_writes_no_other() -> None:
    for codec in (MODEL, None):
        writer = Writer(io.BytesIO(), codec, spec=MODEL.spec)
        with pytest.raises(DataError, match=r"\[1, 1, 4, 5\], not uint8 \[N, C, H, W\] of 1x4x4"):
            writer.put(np.zeros((1, 1, 4, 5), np.uint8))
    with pytest.raises(DataError, match="not uint8"):
        Writer(io.BytesIO(), LOCAL).put(np.zeros((1, 3, 4, 5), np.uint8))


# ------------------------------------------------------------------------------------------------------ archives


@pytest.mark.parametrize("block", [1, 2, 64])
def test_files_of_several_sizes_come_out_as_they_went_in(block: int, tmp_path: Path) -> None:
    data = packed(block)
    with PxlFile(data, GRAYS) as file:
        entries = archive.entries_of(file)
        assert [entry.name for entry in entries] == [source.name for source in files()]
        assert extract(file, tmp_path / "out").files == 10
        if block == 64:  # the most common size first
            assert shapes(file) == [(4, (5, 3), False), (3, (4, 6), True), (1, (9, 2), True), (1, (2, 9), True)]
        of_files = {source.name: source.content or b"" for source in files()}
        for i, (entry, strip) in enumerate(archive.in_blocks(entries)):
            assert not strip
            found = levels_of(of_files[entry.name], GRAY, any_size=True)
            assert not isinstance(found, str)
            assert np.array_equal(file[i].numpy(), found.levels)
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert written == of_files


def test_images_of_equal_size_share_blocks() -> None:
    with PxlFile(packed(3), GRAYS) as file:
        assert [n for n, *_ in shapes(file)] == [3, 1, 3, 1, 1]


def test_salvage_names_the_images_of_a_damaged_block(tmp_path: Path) -> None:
    data = bytearray(packed())
    with PxlFile(bytes(data)) as file:
        data[file.index.blocks[1].end - 1] ^= 1
    for damaged, end in ((data, "an intact end"), (data[:-1] + bytes([data[-1] ^ 1]), "a damaged end")):
        with PxlFile(bytes(damaged), GRAYS, salvage=True) as file:
            done = extract(file, tmp_path / end, salvage=True)
        assert done.lost == ["block 1: b.png to d.png"]
        lost = ("b.png", "z.png", "d.png")
        right = {source.name: source.content for source in files() if source.name not in lost}
        assert {path.name: path.read_bytes() for path in (tmp_path / end).iterdir()} == right


def test_groups_come_back() -> None:
    rows = [Entry(str(i), Form("PNG", "L"), group) for i, group in enumerate((0, 1, 1, 0, 2, 1))]
    assert manifest.parse(manifest.packed(rows), 6, 0, "") == rows
    assert [entry.name for entry, _ in archive.in_blocks(rows)] == ["0", "3", "1", "2", "5", "4"]
    assert b"group" not in manifest.expand(manifest.packed([row._replace(group=0) for row in rows]), 1 << 20)


@pytest.mark.parametrize(
    "group", [[[0, 5]], [[0, 7]], [[-1, 6]], [[0, -1], [0, 7]], [[0.5, 6]], [[0]], 3, "x", [["0", 6]]]
)
def test_forged_groups_are_refused(group: object) -> None:
    rows = [Entry(str(i), Form("PNG", "L"), i % 2) for i in range(6)]
    found = json.loads(manifest.expand(manifest.packed(rows), 1 << 20)) | {"group": group}
    with pytest.raises(CodecError, match="names: the manifest is damaged"):
        manifest.parse(manifest.compress(json.dumps(found).encode()), 6, 0, "")


@pytest.fixture
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of more than 40 pixels are cut into strips of up to 20 pixels."""
    monkeypatch.setattr(layout, "MAX_PIXELS", 40)
    monkeypatch.setattr(strips, "STRIP", 20)
    monkeypatch.setattr(container, "PIXELS", 20)


@pytest.mark.parametrize(
    ("size", "heights"),
    [((9, 7), [2, 2, 2, 2, 1]), ((5, 8), [5]), ((41, 1), [14, 14, 13]), ((2, 30), [1, 1]), ((6, 10), [2, 2, 2])],
)
@pytest.mark.usefixtures("_small_limits")
def test_large_images_are_cut_into_strips(size: tuple[int, int], heights: list[int]) -> None:
    levels = np.arange(2 * math.prod(size), dtype=np.uint8).reshape(2, *size)
    found = list(strips.cut(levels))
    assert [strip.shape[1] for strip in found] == heights
    assert strips.count_of(*size) == len(heights)
    assert strips.rows_of(*size) == heights[0]
    assert np.array_equal(np.concatenate(found, axis=1), levels)


@pytest.mark.usefixtures("_small_limits")
@pytest.mark.parametrize("block", [1, 3, 64])
def test_files_of_large_images_come_out_as_they_went_in(block: int, tmp_path: Path) -> None:
    rows = [Source(f"{i}.png", Path(), coded(size, i)) for i, size in enumerate([(9, 7), (4, 6), (9, 7), (2, 30)])]
    buffer = io.BytesIO()
    done = compress_files(rows, GRAYS, buffer, block=block)
    assert not done.stored
    with PxlFile(buffer.getvalue(), GRAYS) as file:
        assert len(file) == 5 + 1 + 5 + 2
        entries = archive.entries_of(file)
        assert [entry.kind.strips for entry in entries if isinstance(entry.kind, Form)] == [5, 1, 5, 2]
        extract(file, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        source.name: source.content for source in rows
    }


@pytest.mark.usefixtures("_small_limits")
def test_salvage_leaves_out_an_image_of_which_a_strip_is_lost(tmp_path: Path) -> None:
    rows = [Source(f"{i}.png", Path(), coded((9, 7), i)) for i in range(3)]
    buffer = io.BytesIO()
    compress_files(rows, GRAYS, buffer, block=1)
    for lost in (5, 7, 9):  # the first strip of the second image, one between, the last one
        data = bytearray(buffer.getvalue())
        with PxlFile(bytes(data)) as file:
            data[file.index.blocks[lost].end - 1] ^= 1
        with PxlFile(bytes(data), GRAYS, salvage=True) as file:
            done = extract(file, tmp_path / str(lost), salvage=True)
        assert done.lost == [f"block {lost}: 1.png to 1.png"]
        assert {path.name: path.read_bytes() for path in (tmp_path / str(lost)).iterdir()} == {
            source.name: source.content for source in rows if source.name != "1.png"
        }


@pytest.mark.parametrize("count", [0, 1, -2, 1 << 33, 2.0, "2"])
def test_forged_numbers_of_strips_are_refused(count: object) -> None:
    rows = [Entry(str(i), Form("PNG", "L", strips=2)) for i in range(3)]
    assert manifest.parse(manifest.packed(rows), 6, 0, "") == rows
    found = json.loads(manifest.expand(manifest.packed(rows), 1 << 20))
    found["forms"][0][5] = count
    with pytest.raises(CodecError, match="names: the manifest is damaged"):
        manifest.parse(manifest.compress(json.dumps(found).encode()), 6, 0, "")


def test_images_that_are_too_large_are_stored_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_PIXELS", 30)
    assert levels_of(coded((4, 8), 0), GRAY, any_size=True) == "more than 30 pixels"
    with pytest.raises(UsageError, match=r"4000x3000 pixels: models of any size take up to 4194304 pixels; cut them"):
        compress(np.zeros((1, 1, 4000, 3000), np.uint8), GRAYS)


def test_a_file_that_changes_its_size_meanwhile_is_an_error() -> None:
    reads = [0]

    class Changing(Source):
        def read(self) -> bytes:
            reads[0] += 1
            return coded((4, 6) if reads[0] % 2 else (5, 3), 0)

    others = [Source(name, Path(name), coded(size, 0)) for name, size in (("a", (5, 3)), ("c", (5, 3)), ("d", (4, 6)))]
    with pytest.raises(DataError, match=r"b\.png: has changed while it was compressed"):
        compress_files([*others, Changing("b.png", Path("b.png"))], GRAYS, io.BytesIO())


def test_every_flipped_bit_and_every_cut_is_an_error() -> None:
    data = compress([image[None] for image in IMAGES], LOCAL, block=3)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        for damaged in (bytes(flipped), data[: bit // 8]) if bit % 8 == 0 else (bytes(flipped),):
            with pytest.raises(CodecError), PxlFile(damaged, LOCAL) as file:
                list(file)


# -------------------------------------------------------------------------------------------------------- limits


class Untouched(LocalCodec):
    """A model that must not be asked for anything."""

    def resized(self, height: int, width: int) -> LocalCodec:
        raise AssertionError((height, width))

    def decode(self, payload: bytes, n: int) -> torch.Tensor:
        raise AssertionError(payload)


def test_forged_sizes_allocate_nothing() -> None:
    """In index and head, with right CRCs: refused by numbers alone."""
    parts = Parts(compress([image[None] for image in IMAGES], LOCAL))
    untouched = Untouched(LOCAL.spec, np.zeros((50, *LOCAL.spec.shape), np.uint8))
    sized = next(block for block in parts.index.blocks if block.sized and not block.raw)
    for height, width, n in ((2049, 2048, 1), (65535, 65535, 1), (2048, 2048, 2), (1, 65536, 1), (0, 4, 1), (4, 0, 1),
                             (4, 4, 3), (1 << 40, 1, 1), (32, 32, 4097), (16, 16, 0)):  # fmt: skip
        description = b"".join(map(layout.varint, (5, height, width, sized.tag, n)))
        blocks, entries = list(parts.blocks), [(block.description, block.check or 0) for block in parts.index.blocks]
        blocks[sized.number] = description + blocks[sized.number][len(sized.description) :]
        entries[sized.number] = (description, sized.check or 0)
        data = parts.joined(blocks=blocks, index=layout.pack_index(entries, 0, 0))
        tracemalloc.start()
        with pytest.raises(CodecError, match=rf"index: block {sized.number} "):
            list(PxlFile(data, untouched))
        with PxlFile(data, untouched, salvage=True) as file:
            assert file.end_error is not None
            assert [block.number for block in file._walk()] == list(range(sized.number))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 17


def test_the_work_of_decoding_is_bounded_by_the_size_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer pads payloads that claim more values than their bytes allow; without, a file is refused unread."""
    many = np.zeros((4000, 1, 4, 4), np.uint8)
    codec, blank = LocalCodec(ImageSpec(1, 4, 4, 2), many), many[:400]
    plain = compress(blank, codec)
    monkeypatch.setattr(layout, "FREE_VALUES", 64)
    monkeypatch.setattr(layout, "VALUES_A_BYTE", 16)
    padded = compress(blank, codec)
    assert len(padded) > len(plain)
    with PxlFile(padded, codec) as file:
        assert sum(not block.raw for block in file.index.blocks) == 7
        assert torch.equal(torch.cat(list(file.blocks())), torch.from_numpy(blank))
        ends = [block.end for block in file.index.blocks]
    values = [16 * min(400, 64 * (i + 1)) for i in range(7)]
    assert all(value <= 64 + 16 * end for value, end in zip(values, ends, strict=True))
    assert 64 + 16 * (ends[-1] - layout.HEAD_SIZE) < values[-1]  # and no more than that, but for a head
    untouched = Untouched(codec.spec, many)
    assert untouched.identity == codec.identity
    with pytest.raises(CodecError, match=r"index: block \d+ ends \d+ bytes that claim \d+ values, which none writes"):
        PxlFile(plain, untouched)
    with PxlFile(plain, untouched, salvage=True) as file:
        assert len(list(file._walk())) < 7


def test_a_header_of_another_size_bounds_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images of 2^22 pixels in a block of the header's size: within 2^26 values, but not for a resized model."""
    untouched = Untouched(LOCAL.spec, np.zeros((50, *LOCAL.spec.shape), np.uint8))
    buffer = io.BytesIO()
    writer = Writer(buffer, LOCAL, block=2)
    writer.put(np.zeros((2, 1, 4, 4), np.uint8))
    writer.close()
    parts = Parts(buffer.getvalue())
    data = parts.joined(head=parts.head[:48] + struct.pack("<HH", 2048, 2048) + parts.head[52:])
    with pytest.raises(CodecError, match="that claim 8388608 values, which none writes"):
        PxlFile(data, untouched)
    monkeypatch.setattr(layout, "FREE_VALUES", 1 << 26)
    tracemalloc.start()
    with PxlFile(data, untouched) as file, pytest.raises(CodecError, match="2 images of 2048x2048 pixels, which its"):
        file[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 17


def test_a_model_of_one_size_refuses_blocks_of_others() -> None:
    """The same file under the identity of a model that has one size."""
    data = compress([image[None] for image in IMAGES], LOCAL)

    class One(LocalCodec):
        is_local = False

    one = One(LOCAL.spec, np.zeros((50, *LOCAL.spec.shape), np.uint8))
    file = open_pxl(data, one)
    assert np.array_equal(file[2].numpy(), IMAGES[2])
    with pytest.raises(
        CodecError, match=r"block 1 \(images 5 to 7\): 3 images of 3x7 pixels, which its model does not"
    ):
        file[5]


def test_few_plans_are_kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of sizes that are kept have the pixels of one largest image, together."""
    assert layout.MAX_PIXELS == sizes.MAX_PIXELS
    monkeypatch.setattr(sizes, "MAX_PIXELS", 60)
    codec = replace(local("bernoulli"))
    for height in (2, 3, 4, 5, 12):
        codec.resized(height, 5)
        assert codec._planned <= 60
    assert list(codec._sizes) == [(12, 5)]


# ---------------------------------------------------------------------------------------------- a lowered network


def test_photographs_of_all_sizes_by_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line with a local model, nothing replaced."""
    monkeypatch.chdir(tmp_path)
    run, codec, draw = caller(capsys), local(), np.random.default_rng(0)
    codec.save(Path("export.safetensors"))
    photos: dict[str, Levels] = {}
    Path("photos").mkdir()
    for name, (height, width) in {"a": (7, 9), "b": (5, 8), "c": (7, 9), "d": (6, 5), "e": (5, 8), "f": (7, 9)}.items():
        photos[name] = draw.integers(100, 130, (height, width, 3), dtype=np.uint8)
        Image.fromarray(photos[name]).save(f"photos/{name}.png")
    assert run("compress", "photos", "-o", "x.pxl", "--model", "export.safetensors").code == 0
    listed = json.loads(run("list", "x.pxl", "--json").out)
    assert [(b["images"], b["height"], b["width"]) for b in listed["blocks"]] == [(3, 7, 9), (2, 5, 8), (1, 6, 5)]
    assert [row["image"] for row in listed["files"]] == [0, 3, 1, 5, 4, 2]
    assert re.search(r"2 +5 +1 +6x5 ", run("list", "x.pxl").out)
    with open_pxl("x.pxl") as file:
        for row in listed["files"]:
            pixels = file[row["image"]].permute(1, 2, 0)  # [C, H, W] -> [H, W, C]
            assert np.array_equal(pixels.numpy(), photos[row["name"][0]])
    assert run("test", "x.pxl").out == "x.pxl: intact, 6 images\n"
    assert run("decompress", "x.pxl", "-o", "out").code == 0
    assert [path.name for path in sorted(Path("out").iterdir())] == [f"{name}.png" for name in photos]
    assert all(np.array_equal(np.asarray(Image.open(f"out/{name}.png")), photos[name]) for name in photos)
