"""The checks of compressed files can fail: a line of the source is rewritten, and the check turns red."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import test_codec_archive
import test_codec_container
from codec_mutations import Parts, foreign, lengths, payload, swapped
from codec_toys import LocalCodec, images_of
from pixelloom.codec import archive, layout, manifest
from pixelloom.codec.arrays import compress, decompress
from pixelloom.codec.container import Writer
from pixelloom.codec.layout import Block, Header, Trailer
from pixelloom.codec.manifest import Entry, Form
from pixelloom.codec.reader import PxlFile
from pixelloom.core import atomic
from pixelloom.core.errors import CodecError, DataError, UsageError
from pixelloom.core.types import ImageSpec
from test_codec_archive import CODECS, GRAY, forged, unpacked
from test_codec_container import IMAGES, MODEL, judged, mutate
from test_rewritten import Edit

OTHERS = images_of(22, seed=9)


def sound() -> bytes:
    """A file by the code as it is now."""
    return compress(IMAGES, MODEL, block=4)


def said(data: bytes) -> str:
    """The error of a file."""
    try:
        decompress(data, MODEL)
    except (CodecError, UsageError) as error:
        return str(error)
    return ""


def refused(data: bytes, salvage: bool = False) -> None:
    """Neither a wrong image nor an image at all comes out."""
    found: object = None
    with suppress(CodecError):
        if salvage:
            with PxlFile(data, MODEL, salvage=True) as file:
                found = list(file.intact())
        else:
            found = decompress(data, MODEL)
    assert found is None, "was read"


def changed(mutation: Callable[..., bytes], rounds: int = 40) -> None:
    """Files of one kind of damage give no wrong images and no other errors."""
    parts, other, draw = Parts(sound()), Parts(compress(OTHERS, MODEL, block=4)), np.random.default_rng(0)
    for _ in range(rounds):
        try:
            judged(mutation(parts, other, draw), MODEL, IMAGES, (IMAGES,))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise AssertionError(f"crashed: {error}") from error


def blocks_are_of_their_place() -> None:
    changed(swapped)


def blocks_are_of_their_file() -> None:
    parts, other, draw = Parts(sound()), Parts(compress(OTHERS, MODEL, block=4)), np.random.default_rng(0)
    for _ in range(20):
        refused(foreign(parts, other, draw))


def payloads_have_their_bytes() -> None:
    changed(payload)


def payloads_have_their_lengths() -> None:
    changed(lengths)


def headers_are_bound() -> None:
    """Another number of levels, with right CRCs of header and end: packed levels are the same, but not their pixels."""
    buffer = io.BytesIO()
    writer = Writer(buffer, None, spec=MODEL.spec)
    writer.put(IMAGES)
    writer.close()
    parts = Parts(buffer.getvalue())
    head = bytearray(parts.head)
    head[52] -= 1
    refused(parts.joined(head=bytes(head)))


def the_end_knows_its_header() -> None:
    """A header of another file with the same blocks but another number a block is found before a block is blamed."""
    one, two = compress(IMAGES[:1], MODEL, block=4), compress(IMAGES[:1], MODEL, block=8)
    assert "end:" in said(two[:59] + one[59:])


def the_index_is_checked() -> None:
    """A flipped bit in it is no damage of a block."""
    data = bytearray(sound())
    with PxlFile(bytes(data)) as file:
        data[file.index.end + 3] ^= 1
    assert "end:" in said(bytes(data))


def lengths_sum() -> None:
    parts, opened = Parts(sound()), False
    with suppress(CodecError):
        opened = bool(PxlFile(parts.joined(index=b"\5\0" + parts.tail[2:])))
    assert not opened


def described(claimed: Callable[[Block], Block]) -> str:
    """The error of a file whose first block is described in another way, in head and index."""
    parts = Parts(sound())
    block = parts.index.blocks[0]
    new = claimed(block)
    blocks = [new.head(0) + parts.blocks[0][block.head_size :], *parts.blocks[1:]]
    entries = [(each.description, each.check or 0) for each in (new, *parts.index.blocks[1:])]
    try:
        PxlFile(parts.joined(blocks=blocks, index=layout.pack_index(entries, 0, 0)))
    except CodecError as error:
        return str(error)
    return ""


def blocks_have_few_images() -> None:
    assert "another number of images" in described(lambda block: block._replace(tag=block.tag | 2, n=4))


def blocks_have_few_pixels() -> None:
    for height, width, n in ((1 << 11, (1 << 11) + 1, 1), (1 << 11, 1 << 10, 3), ((1 << 16) - 1, (1 << 16) - 1, 4096)):
        spec = ImageSpec(1, height, width, 4)
        found = described(lambda block, spec=spec, n=n: block._replace(sized=True, tag=block.tag | 2, n=n, spec=spec))  # type: ignore[misc]
        assert "the limit is 4194304 pixels" in found


def a_size_is_not_that_of_the_header() -> None:
    found = described(lambda block: block._replace(sized=True, tag=block.tag | 2))
    assert "which no version writes" in found


def a_size_has_a_number() -> None:
    spec = ImageSpec(1, 3, 7, 4)
    found = described(lambda block: block._replace(sized=True, tag=block.tag & ~2, spec=spec))
    assert "another number of images" in found


def resized_models_decode_few_pixels() -> None:
    asked: list[object] = []

    class Large(LocalCodec):
        def resized(self, height: int, width: int) -> LocalCodec:
            asked.append((height, width))
            return super().resized(4, 4)

    codec = Large(MODEL.spec, IMAGES)
    file = PxlFile(compress(IMAGES, codec), codec)
    asked.clear()
    spec = ImageSpec(1, 1 << 11, 1 << 11, 4)
    with suppress(CodecError):
        file._codec_of(file.index.blocks[0]._replace(n=2, spec=spec))
    assert not asked


def sizes_are_limited() -> None:
    parts = Parts(sound())
    assert "claims 4 images" in said(parts.joined(head=parts.head[:48] + b"\xff" * 4 + parts.head[52:]))


def heads_are_compared() -> None:
    data = bytearray(sound())
    with PxlFile(bytes(data)) as file:
        data[file.index.blocks[2].start] ^= 128  # the index is right, so that the place of the next block is too
    refused(bytes(data))


def the_byte_after_the_blocks_counts() -> None:
    data = bytearray(sound())
    with PxlFile(bytes(data)) as file:
        data[file.index.stored - 1] ^= 1
    refused(bytes(data))


def other_models_are_refused() -> None:
    """Before their wrong images are compared: the error names both identities."""
    message = ""
    try:
        decompress(sound(), test_codec_container.toy(seed=2))
    except CodecError as error:
        message = str(error)
    assert MODEL.identity.hex() in message


def levels_are_checked() -> None:
    found = None
    with suppress(DataError):
        writer = Writer(io.BytesIO(), None, spec=MODEL.spec)
        writer.put(np.full((1, 1, 4, 4), 4, np.uint8))
        found = writer.close()
    assert found is None


def nothing_grows() -> None:
    test_codec_container.test_a_file_is_never_larger_than_packed_levels(17)


def portions_are_kept() -> None:
    test_codec_container.test_a_portion_can_be_reused_by_its_owner()


def every_bit_counts() -> None:
    found = None
    codec, images, parts, *_ = list(test_codec_container.files())[1]
    block = next(block for block in parts.index.blocks if block.raw)
    data = bytearray(parts.blocks[block.number])
    data[-1] ^= 1  # a bit that fills the last byte
    blocks = list(parts.blocks)
    check = layout.block_check(parts.header, block.first, images[block.first : block.first + block.n], data[5:])
    data[1:5] = check.to_bytes(4, "little")
    blocks[block.number] = bytes(data)
    with suppress(CodecError), PxlFile(parts.joined(blocks=blocks), codec) as file:
        found = file.decode(block._replace(check=None))
    assert found is None


def in_folder(act: Callable[[Path], None]) -> Callable[[], None]:
    """A check in a folder of its own."""

    def check() -> None:
        with tempfile.TemporaryDirectory() as folder:
            act(Path(folder))

    return check


def names_stay_inside(root: Path) -> None:
    for name in ("../x.png", "/tmp/pixelloom-x.png", "a\\b", "x\0"):
        with suppress(CodecError, UsageError, ValueError, OSError):
            unpacked(forged([Entry(name, Form("PNG", "L"))], 1), root / "inner/out", CODECS[GRAY])
        assert not list(root.rglob("*.png")) + list(root.glob("inner/out/*")), name


def names_differ(root: Path) -> None:
    message = ""
    try:
        unpacked(forged([Entry("a", Form("PNG", "L"))] * 2, 2), root / "out", CODECS[GRAY])
    except (CodecError, OSError) as error:
        message = str(error)
    assert "the name of two files" in message


def links_are_not_followed(root: Path) -> None:
    (root / "out").mkdir()
    (root / "other").mkdir()
    (root / "out/link").symlink_to(root / "other")
    with suppress(UsageError):
        unpacked(forged([Entry("link/x.png", Form("PNG", "L"))], 1), root / "out", CODECS[GRAY])
    assert not list((root / "other").iterdir())


def files_stay(root: Path) -> None:
    (root / "x.png").write_text("mine")
    with suppress(UsageError):
        unpacked(forged([Entry("x.png", Form("PNG", "L"))], 1), root, CODECS[GRAY])
    assert (root / "x.png").read_bytes() == b"mine"


def nothing_is_half_written(root: Path) -> None:
    with suppress(OSError), atomic.whole_file(root / "x") as file:
        file.write(b"half")
        raise OSError
    assert list(root.iterdir()) == []
    rows = [Entry(name, Form("PNG", "L")) for name in ("a", "b", "c", "d")]
    data = bytearray(forged(rows, 4))
    data[-30] ^= 1
    with suppress(CodecError):
        unpacked(bytes(data), root / "out", CODECS[GRAY])
    assert list(root.iterdir()) == []


def temporary_folders_go(root: Path) -> None:
    unpacked(forged([Entry("x.png", Form("PNG", "L"))], 1), root / "out", CODECS[GRAY])
    assert [path.name for path in (root / "out").iterdir()] == ["x.png"]


def manifests_end() -> None:
    found = None
    text = manifest.packed([Entry("x.png", Form("PNG", "L"))]) + b"more"
    with suppress(CodecError):
        found = archive.entries_of(PxlFile(forged([], 1, text=text)))
    assert found is None


def groups_are_of_all_images() -> None:
    found = None
    text = b'{"names":["x.png"],"forms":[["PNG","L","","",""]],"form":[[0,1]],"stored":[],"group":[[0,2]]}'
    with suppress(CodecError):
        found = archive.entries_of(PxlFile(forged([], 1, text=manifest.compress(text))))
    assert found is None


def manifests_are_bounded() -> None:
    test_codec_archive.test_a_manifest_that_expands_without_end_is_refused()


def stored_files_are_checked(root: Path) -> None:
    test_codec_archive.test_stored_files_that_expand_to_another_size_are_refused(root)


def images_are_compared() -> None:
    """A PNG whose chunks cannot be kept in their places is not taken."""
    for case in ("a palette with gamma", "a PGM of 16 levels", "transparent", "transparent color"):
        test_codec_archive.test_images_that_are_stored_as_they_are(case)


def palettes_are_restored() -> None:
    test_codec_archive.test_images_that_are_stored_as_they_are("a palette")


def errors_of_models_cost_space(root: Path) -> None:
    class Wrong(test_codec_container.TableCodec):
        def decode(self, payload: bytes, n: int) -> torch.Tensor:
            return super().decode(payload, n) ^ 1

    data = compress(IMAGES, Wrong(test_codec_container.SPEC, images_of(50, test_codec_container.SPEC, 1)))
    found = None
    with suppress(CodecError):
        found = decompress(data, MODEL)
    assert found is not None
    assert all(block.raw for block in PxlFile(data).index.blocks)


MUTATIONS: dict[str, tuple[Edit, Callable[[], None]]] = {
    "the CRC of a block forgets its place": (
        Edit(layout, "block_check", 'struct.pack("<IHHH", first, n, height, width)', "b''"),
        blocks_are_of_their_place,
    ),
    "the CRC of a block forgets the header": (
        Edit(layout, "block_check", "header.unchecked() + ", ""),
        headers_are_bound,
    ),
    "the CRC of a block covers the header with its CRC": (
        Edit(layout, "block_check", "header.unchecked()", "header.pack()"),
        headers_are_bound,
    ),
    "the CRC of a block forgets the levels": (
        Edit(layout, "block_check", "zlib.crc32(levels.tobytes(), check)", "check"),
        lambda: test_codec_container.test_a_model_that_errs_costs_space_only(Caplog()),  # type: ignore[arg-type]
    ),
    "the CRC of a block is not compared": (
        Edit(PxlFile, "_checked", "payload) != check:", "payload) != check and False:"),
        payloads_have_their_bytes,
    ),
    "the content is not compared": (
        Edit(PxlFile, "check_content", "content != self.trailer.content", "False"),
        blocks_are_of_their_file,
    ),
    "the CRC of the end is not compared": (
        Edit(PxlFile, "_end", "trusted and trailer.pack(self.header, index) != tail", "False"),
        the_index_is_checked,
    ),
    "the CRC of the end covers the header with its CRC": (
        Edit(Trailer, "pack", "header.unchecked()", "header.pack()"),
        the_end_knows_its_header,
    ),
    "heads are not compared with the index": (
        Edit(PxlFile, "_read", "data[: block.head_size] != block.head(check)", "False"),
        heads_are_compared,
    ),
    "the byte after the blocks is not read": (
        Edit(PxlFile, "_end", "self._at(found.stored - 1, 1) != layout.varint(layout.END)", "False"),
        the_byte_after_the_blocks_counts,
    ),
    "the lengths need not sum": (
        Edit(layout, "parse_index", "start + 1 + stored + manifest != end", "False"),
        lengths_sum,
    ),
    "blocks have any number of images": (
        Edit(layout, "read_block", "not 1 <= n <= (MAX_BLOCK if sized else header.block - counted)", "False"),
        blocks_have_few_images,
    ),
    "blocks have any number of pixels": (
        Edit(layout, "read_block", "n * spec.height * spec.width > MAX_PIXELS", "False"),
        blocks_have_few_pixels,
    ),
    "a block repeats the size of the header": (
        Edit(layout, "read_block", "or (height, width) == spec.shape[1:]", ""),
        a_size_is_not_that_of_the_header,
    ),
    "a size needs no number of images": (
        Edit(layout, "read_block", "sized > counted or ", ""),
        a_size_has_a_number,
    ),
    "a resized model decodes any number of pixels": (
        Edit(PxlFile, "_codec_of", "block.n * spec.height * spec.width <= layout.MAX_PIXELS", "True"),
        resized_models_decode_few_pixels,
    ),
    "groups of images are not counted": (
        Edit(manifest, "_groups", "sum(count for _, count in runs) != images", "False"),
        groups_are_of_all_images,
    ),
    "identities are not compared": (
        Edit(PxlFile, "_checked_model", "codec.identity != identity", "False"),
        other_models_are_refused,
    ),
    "the CRC of the header is not compared": (
        Edit(Header, "parse", "zlib.crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]", "False"),
        lambda: refused(sound()[:55] + b"????" + sound()[59:]),
    ),
    "images of any size are taken": (
        Edit(Header, "parse", "values > MAX_VALUES", "False"),
        sizes_are_limited,
    ),
    "levels are not checked": (
        Edit(Writer, "put", "found.size and found.max() >= spec.levels", "False"),
        levels_are_checked,
    ),
    "larger payloads are written": (
        Edit(Writer, "_coded", ">= 2 + layout.packed_size(spec, len(levels))", "< 0"),
        nothing_grows,
    ),
    "blocks are not decoded": (
        Edit(Writer, "_coded", "self._verify and not", "False and not"),
        in_folder(errors_of_models_cost_space),
    ),
    "portions are not copied": (
        Edit(Writer, "put", ".copy()", ""),
        portions_are_kept,
    ),
    "bits that fill a byte are not checked": (
        Edit(layout, "unpack", "flat[count * bits :].any()", "False"),
        every_bit_counts,
    ),
    "parts of names are not checked": (
        Edit(manifest, "check_names", "all(map(_is_part, parts))", "True"),
        in_folder(names_stay_inside),
    ),
    "a backslash is a plain character": (
        Edit(manifest, "_is_part", "\\\\:", ""),
        in_folder(names_stay_inside),
    ),
    "names may be equal": (
        Edit(manifest, "check_names", "name in files:", "False:"),
        in_folder(names_differ),
    ),
    "links are followed": (
        Edit(archive, "check_free", "not path.parent.resolve().is_relative_to(root)", "False"),
        in_folder(links_are_not_followed),
    ),
    "files are overwritten": (
        Edit(archive, "check_free", "(path.exists() or path.is_symlink()) and not force", "False"),
        in_folder(files_stay),
    ),
    "temporary files stay": (
        Edit(atomic, "whole_file", "temporary.unlink()", "pass"),
        in_folder(nothing_is_half_written),
    ),
    "the temporary folder stays": (
        Edit(archive, "_folder_beside", "shutil.rmtree(temporary, ignore_errors=True)", "pass"),
        in_folder(temporary_folders_go),
    ),
    "manifests of any size": (
        Edit(manifest, "expand", "reader.decompress(data, most + 1)", "reader.decompress(data)"),
        manifests_are_bounded,
    ),
    "a manifest that is cut": (
        Edit(manifest, "expand", "len(found) > most or not reader.eof or reader.unused_data", "False"),
        manifests_end,
    ),
    "stored files are not compared": (
        Edit(archive, "_stored", "len(data) != kind.length or zlib.crc32(data) != kind.check", "False"),
        in_folder(stored_files_are_checked),
    ),
}  # fmt: skip


class Caplog:
    """What the log would hold, with all that is looked for."""

    text = "block 1 does not decode to the same images"


@pytest.mark.parametrize("name", MUTATIONS)
def test_an_edit_turns_its_check_red(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    edit, check = MUTATIONS[name]
    check()
    edit.make(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check()


def test_the_sound_code_passes_a_few_of_each_damage() -> None:
    assert mutate(170, 5)["none"] < 10
