"""Compressed files: bytes as documented, any image by one block, and never a wrong image out of a damaged file."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import pixelloom
from codec_mutations import MUTATIONS, Parts, foreign
from codec_toys import SPEC, LocalCodec, TableCodec, entropy, images_of, toy
from pixelloom.codec import layout
from pixelloom.codec.arrays import compress, decompress, open_pxl
from pixelloom.codec.container import Writer
from pixelloom.codec.layout import Header
from pixelloom.codec.reader import Lost, PxlFile, whole
from pixelloom.core.errors import CodecError, DataError, UsageError
from pixelloom.core.types import ImageSpec, Levels

PLACE = re.compile(r"block \d+ \(images \d+ to \d+\)|header:|index:|end:|end of the blocks:|names:|stored file")
REMEDY = re.compile(r"file again|--salvage|update Pixelloom|give the export|give a file of")
GOLDEN = (
    "8950584c0d0a1a0a 01 0002 00 0700 "  # magic, version, needs 0.2, reserved, profile
    "fa0eb4021562a642c940faa6c2483e6439ed4163c5a6e6d5272370f3d1343f0b "  # identity
    "0100 0400 0400 03 0400 94c8c415"  # C, H, W, levels - 1, images a block, CRC
)
MODEL, IMAGES = toy(), images_of(22)
LOCAL = LocalCodec(SPEC, np.zeros((50, *SPEC.shape), np.uint8))
Images = Sequence[Levels] | Levels
SPECS = [ImageSpec(1, 3, 5, 2), ImageSpec(3, 2, 2, 17), ImageSpec(1, 4, 4, 256), ImageSpec(2, 1, 1, 5)]


def noise(n: int, spec: ImageSpec, seed: int = 0) -> Levels:
    return np.random.default_rng(seed).integers(0, spec.levels, (n, *spec.shape), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 30])
def test_images_come_out_as_they_went_in(spec: ImageSpec, n: int) -> None:
    codec = toy(spec)
    for images in (images_of(n, spec), noise(n, spec)):
        for block in (1, 8, 4096):
            data = compress(images, codec, block=block)
            assert torch.equal(decompress(data, codec), torch.from_numpy(images))
            blocks = -(-n // block)
            assert len(data) <= layout.packed_size(spec, 1) * n + 8 * blocks + 80


def test_a_file_is_as_small_as_its_model_says() -> None:
    data = compress(IMAGES, MODEL, block=22)
    assert len(data) <= entropy(MODEL, IMAGES) / 8 + 1 + 8 + 80
    assert (
        len(compress(IMAGES, MODEL, block=1)) <= entropy(MODEL, IMAGES) / 8 + 22 * (8 + 2) + 80
    )  # payloads are whole bytes


@pytest.mark.parametrize("levels", [2, 3, 16, 17, 255, 256])
def test_a_file_is_never_larger_than_packed_levels(levels: int) -> None:
    """The bound of the format: 8 bytes a block and 80 a file, for images that the model finds as unlikely as it can."""
    spec = ImageSpec(1, 5, 7, levels)
    codec = TableCodec(spec, np.zeros((50, *spec.shape), np.uint8))
    worst = np.full((300, *spec.shape), levels - 1, np.uint8)
    for n, block in ((1, 1), (1, 200), (300, 1), (300, 7), (299, 300), (300, 129)):
        packed = sum(layout.packed_size(spec, min(block, n - i)) for i in range(0, n, block))
        assert len(compress(worst[:n], codec, block=block)) <= packed + 8 * -(-n // block) + 80


def test_images_may_come_in_any_portions() -> None:
    one = compress(IMAGES, MODEL, block=4)
    for size in (1, 3, 4, 5, 21):
        portions = (IMAGES[i : i + size] for i in range(0, len(IMAGES), size))
        assert compress(portions, MODEL, block=4) == one
    assert compress(torch.from_numpy(IMAGES), MODEL, block=4) == one


def test_a_writer_holds_one_block() -> None:
    class Counting(io.RawIOBase):
        written = 0

        def write(self, data: object) -> int:
            self.written += len(bytes(data))  # type: ignore[call-overload]
            return 0

    spec = ImageSpec(1, 64, 64, 256)
    sink = Counting()
    writer = Writer(sink, None, spec=spec, block=16)
    image = noise(1, spec)
    tracemalloc.start()
    for _ in range(1000):
        writer.put(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert writer.close().images == 1000
    assert sink.written > 1000 * spec.dims
    assert peak < 8 * 16 * spec.dims


def test_a_portion_can_be_reused_by_its_owner() -> None:
    out, portion = io.BytesIO(), IMAGES[:3].copy()
    writer = Writer(out, MODEL, block=4)
    writer.put(portion)
    portion[:] = 0
    writer.put(IMAGES[3:5])
    writer.close()
    assert torch.equal(decompress(out.getvalue(), MODEL), torch.from_numpy(IMAGES[:5]))


def test_one_image_decodes_one_block() -> None:
    codec = toy()
    file = open_pxl(compress(IMAGES, codec, block=4), codec)
    codec.decoded = 0
    assert torch.equal(file[9], torch.from_numpy(IMAGES[9]))
    assert torch.equal(file[10], torch.from_numpy(IMAGES[10]))
    assert codec.decoded == 1
    assert torch.equal(file[-1], torch.from_numpy(IMAGES[-1]))
    assert codec.decoded == 2
    assert len(file) == 22
    for i in (22, -23):
        with pytest.raises(IndexError):
            file[i]
    file[3][:] = 9  # a copy
    assert torch.equal(torch.stack(list(file)), torch.from_numpy(IMAGES))


def test_files_paths_and_bytes_are_opened(tmp_path: Path) -> None:
    data = compress(IMAGES, MODEL)
    path = tmp_path / "x.pxl"
    path.write_bytes(data)
    for source in (data, path, str(path), io.BytesIO(data)):
        with open_pxl(source, MODEL) as file:
            assert torch.equal(file[2], torch.from_numpy(IMAGES[2]))
    with pytest.raises(DataError, match=r"absent\.pxl: cannot be read: No such file"):
        open_pxl(tmp_path / "absent.pxl")


def test_a_model_that_errs_costs_space_only(caplog: pytest.LogCaptureFixture) -> None:
    """A block that does not decode to the same images is stored raw; without the check it is an error to read."""

    class Wrong(TableCodec):
        def decode(self, payload: bytes, n: int) -> torch.Tensor:
            found = super().decode(payload, n)
            if n == 6:
                found[0, 0, 0, 0] ^= 1
            return found

    wrong = Wrong(SPEC, images_of(50, SPEC, 1))
    assert torch.equal(decompress(compress(IMAGES, wrong, block=16), MODEL), torch.from_numpy(IMAGES))
    assert "block 1 does not decode to the same images" in caplog.text
    with pytest.raises(CodecError, match="block 1") as error:
        decompress(compress(IMAGES, wrong, block=16, verify=False), wrong)
    assert error.value.exit_code == 5


# ------------------------------------------------------------------------------------------------------ bytes


def test_the_header_is_as_documented() -> None:
    data = compress(IMAGES, MODEL, block=4)
    assert data[:59] == bytes.fromhex(GOLDEN)
    assert data[14:46] == MODEL.identity
    assert Header.parse(data[:59], "") == Header(SPEC, 4, MODEL.identity, 7)


def test_a_small_file_is_as_documented() -> None:
    """Two binary images of 2 x 2, without a model: one raw block of 4 + 4 bits."""
    spec, out = ImageSpec(1, 2, 2, 2), io.BytesIO()
    writer = Writer(out, None, spec=spec, block=2)
    writer.put(np.array([[[[1, 0], [0, 1]]], [[[0, 1], [1, 1]]]], np.uint8))
    writer.close()
    tail = out.getvalue()[59:]
    assert tail[0] == 1  # raw, a whole block
    assert tail[5] == 0b10010111  # after the CRC
    assert tail[6] == 0  # no further block
    assert tail[7:9] == b"\0\0"  # index: no stored files, no manifest
    assert tail[9] == 1  # the tag again, and after it 16 bits of a CRC
    assert tail[12:16] == b"\5\0\0\0"  # bytes of the index
    assert len(tail) == 12 + 12


def test_integers_of_variable_length() -> None:
    for value, text in ((0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (1 << 34, "8080808040")):
        assert layout.varint(value).hex() == text
        assert layout.read_varint(bytes.fromhex(text), 0) == (value, len(text) // 2)
    for text in ("", "80", "8000", "ffffffffffffffffff01"):
        with pytest.raises(ValueError, match="does not end"):
            layout.read_varint(bytes.fromhex(text), 0)


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 16, 17, 100, 256])
def test_packed_levels(levels: int) -> None:
    spec = ImageSpec(3, 3, 5, levels)
    images = noise(3, spec)
    data = layout.pack(images, spec)
    bits = (levels - 1).bit_length()
    text = "".join(f"{value:0{bits}b}" for value in images.ravel())
    assert data == int(text.ljust(8 * len(data), "0"), 2).to_bytes(len(data), "big")
    assert len(data) == layout.packed_size(spec, 3)
    assert np.array_equal(layout.unpack(data, spec, 3), images)


def test_the_bits_that_fill_a_byte_are_zero() -> None:
    spec = ImageSpec(1, 1, 3, 2)
    assert layout.pack(np.ones((1, 1, 1, 3), np.uint8), spec) == b"\xe0"
    with pytest.raises(ValueError, match="not filled with zeros"):
        layout.unpack(b"\xe1", spec, 1)


def test_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    """FAULTS 24: another process with other kernels and two threads reads and writes the same bytes."""
    (tmp_path / "x.pxl").write_bytes(compress(IMAGES, MODEL, block=4))
    program = (
        "import sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "from codec_toys import *; from pixelloom.codec.arrays import compress, decompress\n"
        "data = open(sys.argv[2], 'rb').read(); torch.set_num_threads(2)\n"
        "assert torch.equal(decompress(data, toy()), torch.from_numpy(images_of(22)))\n"
        "assert compress(images_of(22), toy(), block=4) == data"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    argv = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "x.pxl")]
    subprocess.run(argv, check=True, env=environment)


# ------------------------------------------------------------------------------------------- what is refused


def test_images_that_do_not_fit_are_refused() -> None:
    """FAULTS 27"""
    with pytest.raises(DataError, match=r"level 4 is outside the model's 4, 0 to 3"):
        compress(np.full((1, 1, 4, 4), 4, np.uint8), MODEL)
    for shape in ((1, 3, 4, 4), (1, 1, 4, 5), (1, 4, 4), (4, 4)):
        with pytest.raises(
            DataError, match=re.escape(f"images are uint8 {list(shape)}, not uint8 [N, C, H, W] of 1x4")
        ):
            compress(np.zeros(shape, np.uint8), MODEL)
    with pytest.raises(DataError, match="float64"):
        compress(np.zeros((1, 1, 4, 4)), MODEL)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 to 4096"):
        compress(IMAGES, MODEL, block=0)


def test_other_models_are_refused() -> None:
    """FAULTS 23: by its SHA-256; the expected model is named."""
    data, other = compress(IMAGES, MODEL), toy(seed=2)
    with pytest.raises(CodecError) as error:
        decompress(data, other)
    assert MODEL.identity.hex() in str(error.value)
    assert other.identity.hex() in str(error.value)
    assert "give the export" in str(error.value)
    with pytest.raises(CodecError, match=MODEL.identity.hex()):
        decompress(data)


def test_a_model_of_any_size_reads_files_of_any_size() -> None:
    local = LocalCodec(SPEC, IMAGES)
    wide = local.resized(3, 9)
    images = images_of(5, wide.spec)
    data = compress(images, wide, block=2)
    assert torch.equal(decompress(data, local), torch.from_numpy(images))
    assert torch.equal(decompress(compress(IMAGES, local), wide), torch.from_numpy(IMAGES))
    parts = Parts(data)
    for size in (b"\xff\0\xff\0", b"\3\0\x08\0"):  # too large for the model; another one with right CRCs
        with pytest.raises(CodecError, match=r"header:|index:|block 0"):
            decompress(parts.joined(head=parts.head[:48] + size + parts.head[52:]), local)


def test_files_of_newer_versions_name_what_they_need() -> None:
    """FAULTS 26"""
    head = bytearray(compress(IMAGES, MODEL)[:59])
    head[8:11] = 2, 9, 1
    with pytest.raises(
        CodecError, match=rf"header: format version 2 needs Pixelloom >= 9\.1; this is {pixelloom.__version__}"
    ):
        Header.parse(bytes(head), "x.pxl")
    head[8:11] = 65, 0, 2  # a version that this Pixelloom would know, were there such a one
    with pytest.raises(CodecError, match="header: is damaged"):
        Header.parse(bytes(head), "x.pxl")


def test_headers_that_claim_much_are_refused_before_memory_is_reserved() -> None:
    """FAULTS 25: 65535 x 65535 images, 2^32 images, with right CRCs."""
    parts = Parts(compress(IMAGES, MODEL, block=4))
    wide = bytearray(parts.head)
    wide[48:52] = b"\xff" * 4
    cases = [
        parts.joined(head=bytes(wide)),
        parts.joined(index=parts.tail[:2] + layout.varint(1 << 40) + parts.tail[3:]),
        parts.joined(index=parts.tail[:2] + b"\3\xff\x1f" + parts.tail[3:]),
        parts.data[:-12] + b"\xff" * 12,
    ]
    for data in cases:
        tracemalloc.start()
        with pytest.raises(CodecError, match=r"header:|index:|end:"):
            decompress(data, MODEL)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 17


def test_many_images_are_not_decoded_into_memory() -> None:
    spec = ImageSpec(1, 64, 64, 256)
    file = PxlFile(compress(IMAGES, MODEL), MODEL)
    block = file.index.blocks[0]._replace(spec=spec, n=1 << 21)
    file.header, file.index = Header(spec, 64), file.index._replace(blocks=[block])
    with pytest.raises(UsageError, match="open_pxl"):
        whole(file)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "header: the file is empty"),
    (b"\x89PN", "header: this is no .pxl file"),
    (b"\x89PXL\n\x1a\n" + bytes(60), "header: damaged, as by a transfer in text mode"),
    (b"\x89PXL\r\n\x1a\n", "header: the file is cut after 8 bytes"),
    (b"\xff\xd8\xff\xe0" + bytes(80), "header: this is no .pxl file; give a file of `pixelloom compress`"),
])  # fmt: skip
def test_what_is_no_file_of_ours(data: bytes, message: str) -> None:
    """FAULTS 22: empty and random files."""
    with pytest.raises(CodecError, match=message):
        decompress(data, MODEL)


# ----------------------------------------------------------------------------------------------------- damage


def judged(data: bytes, codec: TableCodec, images: Images, salvage: tuple[Images, ...]) -> str:
    """Read a damaged file as a whole and by salvage; the message of the error, or "" if the images are right."""
    said = ""
    try:
        with PxlFile(data, codec) as file:
            found = list(file)
    except CodecError as error:
        said = str(error)
    else:
        assert equal(found, images), "wrong images"
    assert not said or (PLACE.search(said) and REMEDY.search(said)), said
    refused = ""
    try:
        with PxlFile(data, codec, salvage=True) as file:
            for part in file.intact():
                if not isinstance(part, Lost):
                    block, levels = part
                    places = slice(block.first, block.first + block.n)
                    assert any(equal(levels, right[places]) for right in salvage), "wrong images"
    except CodecError as error:
        refused = str(error)
    assert not refused or PLACE.search(refused), refused
    return said


def equal(found: Sequence[torch.Tensor] | torch.Tensor, right: Images) -> bool:
    """Whether images are the same, in size and number as well."""
    return len(found) == len(right) and all(np.array_equal(a.numpy(), b) for a, b in zip(found, right, strict=True))


def files() -> Iterator[tuple[TableCodec, Images, Parts, Parts, Images]]:
    """(model, images, file, another file of the model, its images), of coded and of raw blocks, the last of 3 sizes."""
    small = ImageSpec(1, 2, 3, 2)
    for spec, block, n in ((SPEC, 4, 18), (small, 3, 11), (small, 8, 8)):
        codec = toy(spec)
        images, others = images_of(n, spec), images_of(n, spec, 9)
        images[: 2 * block : 2] = noise(block, spec)[: len(images[: 2 * block : 2])]
        one, two = compress(images, codec, block=block), compress(others, codec, block=block)
        yield codec, images, Parts(one), Parts(two), others
    one, two = (compress([image[None] for image in mixed(seed)], LOCAL, block=3) for seed in (0, 1))
    yield LOCAL, mixed(0), Parts(one), Parts(two), mixed(1)


def mixed(seed: int = 0) -> list[Levels]:
    """17 images of 3 sizes, of which those of a header's size come twice; some are noise, others almost empty."""
    draw, found = np.random.default_rng(seed), []
    for count, size, share in ((5, (4, 4), 0.1), (3, (3, 7), 0.1), (2, (4, 4), 1), (4, (7, 3), 0.1), (3, (3, 7), 1)):
        for _ in range(count):
            image = draw.integers(0, 4, (1, *size), dtype=np.uint8)
            found.append(np.where(draw.random(image.shape) < share, image, np.uint8(0)))
    return found


def mutate(rounds: int, seed: int) -> Counter[str]:
    """Count the errors of damaged files by their place."""
    places: Counter[str] = Counter()
    draw = np.random.default_rng(seed)
    worlds = [world for world in files() if len(world[2].blocks) > 1]
    for i in range(rounds):
        codec, images, parts, other, others = worlds[i % len(worlds)]
        mutation = MUTATIONS[i % len(MUTATIONS)]
        data = mutation(parts, other, draw)
        # With a forged index, salvage takes a block of another file: its own CRC and that of the index are right.
        said = judged(data, codec, images, (images, others) if mutation is foreign else (images,))
        found = PLACE.search(said)
        places[re.sub(r"\d+.*", "", found[0]) if found else "none"] += 1
    return places


def test_no_damaged_file_gives_a_wrong_image() -> None:
    """FAULTS 22: 2,000 files with flipped bits, cuts, swapped blocks and forgeries with right CRCs."""
    places = mutate(2_000, 0)
    assert set(places) >= {"block ", "header:", "index:", "end:"}
    assert places["none"] < 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_no_damaged_file_of_many_gives_a_wrong_image(seed: int) -> None:
    assert mutate(10_000, seed)["none"] < 200


def test_every_flipped_bit_is_an_error() -> None:
    codec = toy()
    data = compress(np.concatenate((images_of(5), noise(4, SPEC))), codec, block=4)
    assert len(PxlFile(data).index.blocks) == 3
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            decompress(bytes(flipped), codec)


def test_every_cut_is_an_error() -> None:
    data = compress(IMAGES, MODEL, block=4)
    for size in range(len(data)):
        with pytest.raises(CodecError):
            decompress(data[:size], MODEL)


def test_a_damaged_block_leaves_the_others_readable() -> None:
    data = bytearray(compress(IMAGES, MODEL, block=4))
    with PxlFile(bytes(data), MODEL) as file:
        data[file.index.blocks[2].start + 7] ^= 4
    file = open_pxl(bytes(data), MODEL)
    assert torch.equal(file[3], torch.from_numpy(IMAGES[3]))
    with pytest.raises(CodecError, match=r"block 2 \(images 8 to 11\): is damaged.*--salvage"):
        file[9]
    assert torch.equal(file[12], torch.from_numpy(IMAGES[12]))


def salvaged(data: bytes) -> tuple[list[int], list[int]]:
    """Numbers of intact blocks, whose images are checked, and of lost ones."""
    good, bad = [], []
    with PxlFile(data, MODEL, salvage=True) as file:
        for part in file.intact():
            if isinstance(part, Lost):
                bad.append(part.block.number)
            else:
                block, levels = part
                assert np.array_equal(levels.numpy(), IMAGES[block.first : block.first + block.n])
                good.append(block.number)
    return good, bad


def test_salvage_returns_what_is_intact() -> None:
    data = compress(IMAGES, MODEL, block=4)  # 6 blocks, the last of 2 images
    starts = [block.start for block in PxlFile(data).index.blocks]
    assert salvaged(data) == ([0, 1, 2, 3, 4, 5], [])

    def flipped(*places: int) -> bytes:
        found = bytearray(data)
        for place in places:
            found[place] ^= 1
        return bytes(found)

    assert salvaged(flipped(starts[1] + 6, starts[4] + 8)) == ([0, 2, 3, 5], [1, 4])
    assert salvaged(flipped(starts[1])) == ([0, 2, 3, 4, 5], [1])  # the length in its head, which the index has too
    assert salvaged(flipped(-1)) == ([0, 1, 2, 3, 4, 5], [])  # the end
    assert salvaged(flipped(-30, starts[2] + 6)) == ([0, 1, 3, 4, 5], [2])  # the index
    assert salvaged(data[: starts[4] + 3]) == ([0, 1, 2, 3], [])  # cut
    assert salvaged(data + b"more") == ([0, 1, 2, 3, 4, 5], [])
    assert salvaged(data[: starts[2]] + data[starts[3] :]) == ([0, 1], [2, 3, 4])  # one is missing: places are wrong
    with pytest.raises(CodecError, match="header"):
        salvaged(flipped(20))
