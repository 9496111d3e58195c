"""``compress``, ``decompress``, ``test`` and ``list FILE``: manners of xz and zstd, and nothing lost or overwritten."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pixelloom as pl
from codec_toys import LocalCodec, TableCodec, images_of, toy
from commands import Command, caller
from pixelloom.cli import main
from pixelloom.codec import lookup
from pixelloom.codec.container import Writer
from pixelloom.core.errors import CodecError, ModelError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import to_bytes
from small_models import flat

GRAY, RGB = ImageSpec(1, 4, 6, 256), ImageSpec(3, 4, 6, 256)
MODEL, OTHER = toy(GRAY), toy(RGB)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Commands in an empty folder, with two packaged models, and exports as files of a single word."""
    monkeypatch.chdir(tmp_path)
    models = {"gray": MODEL, "rgb": OTHER, "further": toy(GRAY, 3)}
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    for name in models:
        (packaged / name).write_text(name)
    monkeypatch.setattr(lookup, "load", lambda path: models[path.read_text()])
    monkeypatch.setattr(lookup, "packaged", lambda: {name: packaged / name for name in ("gray", "rgb")})
    monkeypatch.setattr(lookup, "_identity", lambda path: models[path.read_text()].identity.hex())
    return caller(capsys)


@pytest.fixture
def images(run: Command) -> Path:
    """Nine images, and one of another size."""
    root = Path("images")
    (root / "inner").mkdir(parents=True)
    for i, image in enumerate(images_of(9, GRAY)):
        Image.fromarray(image[0]).save(root / f"inner/{i}.png")
    Image.new("L", (9, 5)).save(root / "wide.png")
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_there_and_back(run: Command, images: Path) -> None:
    said = run("compress", "images")
    assert (said.code, said.out) == (0, "images.pxl\n")
    assert "model: gray" in said.err
    assert "1 of 10 files are stored as they are: 5x9 pixels (1)" in said.err
    assert "9 images in 1 blocks" in said.err
    assert f"the model {MODEL.identity.hex()[:16]} is needed" in said.err
    before = tree(images)
    said = run("decompress", "images.pxl", "-o", "out")
    assert (said.code, said.out) == (0, "out\n")
    assert tree(Path("out")) == before == tree(images)
    assert Path("images.pxl").is_file()
    images.rename("old")
    assert run("decompress", "images.pxl").out == "images\n"
    assert tree(images) == before


def test_one_json_object(run: Command, images: Path) -> None:
    found = json.loads(run("compress", "images", "-o", "x.pxl", "--block", "4", "--json").out)
    size = Path("x.pxl").stat().st_size
    assert found["file"] == "x.pxl"
    assert (found["bytes"], found["images"], found["blocks"]) == (size, 9, 3)
    assert found["model"] == MODEL.identity.hex()
    assert found["stored"] == [{"name": "wide.png", "reason": "5x9 pixels"}]
    assert found["source_bytes"] == sum(map(len, tree(images).values()))
    assert found["bits_per_dim"] == pytest.approx(8 * found["payload_bytes"] / (9 * 24))
    listed = json.loads(run("list", "x.pxl", "--json").out)
    assert [block["images"] for block in listed["blocks"]] == [4, 4, 1]
    assert [row["name"] for row in listed["files"]] == [*(f"inner/{i}.png" for i in range(9)), "wide.png"]
    assert [row["stored"] for row in listed["files"]] == [False] * 9 + [True]
    assert (listed["images"], listed["levels"], listed["model"]) == (9, 256, MODEL.identity.hex())
    assert listed["bits_per_dim"] == pytest.approx(8 * size / (9 * 24))
    heads = sum(block["bytes"] for block in listed["blocks"]) - found["payload_bytes"]
    assert 0 < heads <= 3 * 7
    done = json.loads(run("decompress", "x.pxl", "--json").out)
    assert done == {"folder": "x", "files": 10, "lost": []}
    tested = json.loads(run("test", "x.pxl", "--json").out)
    assert tested == [{"file": "x.pxl", "intact": True, "images": 9, "stored": 1, "error": None}]


def test_blocks_are_listed_without_the_model(run: Command, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("compress", "images", "-o", "x.pxl", "--block", "4")

    def broken(path: Path) -> TableCodec:
        raise AssertionError(path)

    monkeypatch.setattr(lookup, "load", broken)
    lines = run("list", "x.pxl").out.splitlines()
    assert lines[0].split() == ["block", "first", "images", "pixels", "bytes", "bits/dim", "coding"]
    rows = [line.split()[:4] for line in lines[1:4]]
    assert rows == [["0", "0", "4", "4x6"], ["1", "4", "4", "4x6"], ["2", "8", "1", "4x6"]]
    assert "9 images 1x4x6 with 256 levels, 1 stored files" in lines[-1]
    assert run("list", "x.pxl", "-v").out.splitlines()[-1] == "wide.png (stored)"


class Stream:
    """Standard input or output of bytes."""

    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(data)
        self.buffer.isatty = lambda: terminal  # type: ignore[method-assign]

    def write(self, text: str) -> int:
        return self.buffer.write(text.encode())

    def flush(self) -> None:
        """As any stream."""


def test_dashes_are_standard_input_and_output(run: Command, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = (images / "inner/3.png").read_bytes()
    written = one
    for argv in (("compress", "-", "-o", "-"), ("decompress", "-", "-o", "-")):
        out = Stream()
        monkeypatch.setattr(sys, "stdin", Stream(written))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            assert main(list(argv)) == 0
        written = out.buffer.getvalue()
    assert written == one
    run("compress", "images", "-o", "x.pxl")
    monkeypatch.setattr(sys, "stdin", Stream(Path("x.pxl").read_bytes()))
    assert run("decompress", "-", "-o", "out").code == 0
    assert tree(Path("out")) == tree(images)
    monkeypatch.setattr(sys, "stdin", Stream(Path("x.pxl").read_bytes()))
    assert run("test", "-").out == "-: intact, 9 images, 1 stored files\n"
    monkeypatch.setattr(sys, "stdin", Stream(one))
    assert run("compress", "-", "-o", "one.pxl").code == 0
    assert run("decompress", "one.pxl").code == 0
    assert tree(Path("one")) == {"stdin.png": one}


def test_bytes_are_not_written_to_a_terminal(run: Command, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("compress", str(images / "wide.png"), str(images / "inner/1.png"), "-o", "x.pxl")
    run("compress", str(images / "inner/1.png"), "-o", "one.pxl")
    for argv in (["compress", "images", "-o", "-"], ["decompress", "one.pxl", "-o", "-"]):
        out = Stream(terminal=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            assert main(argv) == 2
        assert out.buffer.getvalue() == b""


WRONG = [
    ("compress", 2, "IMAGES: name image files"),
    ("compress images -o x.pxl -k --rm", 2, "--keep, --rm: choose one"),
    ("compress images -o x.pxl --rm --no-verify", 2, "--rm: removes sources of verified files only"),
    ("compress images -o - --json", 2, "--json: standard output is the compressed file"),
    ("compress images images/wide.png", 2, "--out: name the file to write"),
    ("compress images - -o x.pxl", 2, "- is a single image from standard input"),
    ("compress images -o kept.pxl", 2, "kept.pxl: exists already"),
    ("compress images -o images", 2, "images: is a folder"),
    ("compress images/wide.png -o images/wide.png -f", 2, "images/wide.png: is one of the images"),
    ("compress images -o x.pxl --block 0", 2, "--block"),
    ("compress images -o x.pxl --block 4097", 2, "--block"),
    ("compress absent -o x.pxl", 3, "absent: no such file or folder"),
    ("compress packaged -o x.pxl", 3, "packaged: holds no images"),
    ("compress images -o x.pxl --model absent", 4, "absent: is no export of a model and no packaged one (gray, rgb)"),
    ("compress images/wide.png -o x.pxl", 4, "no packaged model takes these images (gray, rgb); train one"),
    ("decompress", 2, "FILE"),
    ("decompress absent.pxl", 3, "absent.pxl: cannot be read: No such file"),
    ("decompress kept.pxl", 5, "kept.pxl: header: this is no .pxl file"),
    ("decompress images/wide.png -o out", 5, "header: this is no .pxl file; give a file of `pixelloom compress`"),
    ("decompress good", 2, "--out: name the folder to write to, as good does not end in .pxl"),
    ("decompress good -o -", 2, "-o -: writes a single image, the file holds 10"),
    ("decompress good -o out -k --rm", 2, "--keep, --rm: choose one"),
    ("decompress good -o - --rm", 2, "--rm: is for files"),
    ("decompress good -o images", 2, "images/inner/0.png: exists already"),
    ("decompress good -o out --model rgb", 5, MODEL.identity.hex()),
    ("test", 2, "FILES: name .pxl files"),
    ("test absent.pxl", 3, "absent.pxl: cannot be read"),
    ("test kept.pxl", 5, "kept.pxl: header"),
    ("list absent.pxl", 3, "absent.pxl: cannot be read"),
    ("list kept.pxl", 5, "kept.pxl: header"),
    ("list recipe", 2, "Did you mean 'recipes'?"),
]


@pytest.mark.parametrize(("argv", "code", "part"), WRONG, ids=[argv for argv, _, _ in WRONG])
def test_errors_are_a_line_and_write_nothing(argv: str, code: int, part: str, run: Command, images: Path) -> None:
    run("compress", "images", "-o", "x.pxl")
    Path("x.pxl").rename("good")
    Path("kept.pxl").write_text("mine")
    before = tree(Path())
    said = run(*argv.split())
    assert (said.code, said.out) == (code, "")
    assert part in said.err.splitlines()[-1]
    assert "Traceback" not in said.err
    assert tree(Path()) == before


def test_files_are_replaced_and_removed_when_asked_only(run: Command, images: Path) -> None:
    before = tree(images)
    Path("x.pxl").write_text("old")
    assert run("compress", "images", "-o", "x.pxl", "-f", "-k").code == 0
    assert tree(images) == before
    (images / "notes.txt").write_text("no image")
    said = run("compress", "images", "-o", "x.pxl", "--force", "--rm")
    assert said.code == 0
    assert "1 other files are left out" in said.err
    assert tree(images) == {"notes.txt": b"no image"}
    assert run("decompress", "x.pxl", "-o", "images", "--rm").code == 0
    assert tree(images) == before | {"notes.txt": b"no image"}
    assert not Path("x.pxl").exists()


def test_sources_stay_if_the_file_reads_back_otherwise(
    run: Command, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Writer.close

    def wrong(self: Any, manifest: bytes = b"") -> Any:
        done = close(self, manifest)
        self._file.seek(70)
        self._file.write(b"?")
        return done

    monkeypatch.setattr(Writer, "close", wrong)
    before = tree(images)
    said = run("compress", "images", "-o", "x.pxl", "--rm")
    assert said.code == 5
    assert "x.pxl: block 0 (images 0 to 8): reads back with other bytes" in said.err
    assert not Path("x.pxl").exists()
    assert tree(images) == before
    assert run("compress", "images", "-o", "x.pxl", "--no-verify").code == 0  # as asked


def test_a_damaged_file_gives_nothing_but_what_is_asked_for(run: Command, images: Path) -> None:
    """FAULTS 22: exit code 5; block, images and remedy are named; --salvage writes the others."""
    run("compress", "images", "-o", "x.pxl", "--block", "4")
    data = bytearray(Path("x.pxl").read_bytes())
    with pl.open_pxl("x.pxl") as file:
        data[file.index.blocks[1].start + 8] ^= 1
    Path("x.pxl").write_bytes(data)
    for argv in ("decompress x.pxl -o out", "test x.pxl", "decompress x.pxl -o out --json"):
        said = run(*argv.split())
        assert (said.code, Path("out").exists()) == (5, False)
        assert "x.pxl: block 1 (images 4 to 7): is damaged" in said.err
        assert "copy or download the file again, or save the intact images with --salvage" in said.err
    assert json.loads(run("test", "x.pxl", "--json").out)[0]["intact"] is False
    said = run("decompress", "x.pxl", "-o", "out", "--salvage", "--rm")
    assert said.code == 5
    assert "6 files are saved, lost are: block 1: inner/4.png to inner/7.png" in said.err
    assert Path("x.pxl").exists()
    lost = {f"inner/{i}.png" for i in range(4, 8)}
    assert tree(Path("out")) == {name: data for name, data in tree(images).items() if name not in lost}


def test_all_damaged_files_are_named(run: Command, images: Path) -> None:
    run("compress", "images", "-o", "x.pxl", "--block", "2")
    data = bytearray(Path("x.pxl").read_bytes())
    with pl.open_pxl("x.pxl") as file:
        for block in file.index.blocks[1:3]:
            data[block.start + 8] ^= 1
    Path("y.pxl").write_bytes(data)
    Path("z.pxl").write_bytes(data[:70])
    said = run("test", "z.pxl", "x.pxl", "y.pxl")
    assert said.code == 5
    assert said.out == "x.pxl: intact, 9 images, 1 stored files\n"
    assert "z.pxl: end: is damaged or missing" in said.err
    assert "Lost in all: block 1: inner/2.png to inner/3.png; block 2: inner/4.png to inner/5.png" in said.err


def test_models_are_found_by_their_identity(run: Command, images: Path, tmp_path: Path) -> None:
    """FAULTS 23: among the packaged ones, beside the file, or by --model; else the identity and a remedy are named."""
    Path("further.safetensors").write_text("further")
    assert run("compress", "images", "-o", "x.pxl", "--model", "further.safetensors").code == 0
    identity = toy(GRAY, 3).identity.hex()
    assert run("test", "x.pxl").code == 0  # beside the file
    Path("models").mkdir()
    Path("further.safetensors").rename("models/any.safetensors")
    assert run("test", "x.pxl").code == 0  # in a folder beside it
    Path("models").rename(tmp_path / "packaged/models")
    said = run("test", "x.pxl")
    assert said.code == 5
    assert (
        f"x.pxl: needs the model {identity}, which is not among the packaged ones (gray, rgb) or beside the file"
        in said.err
    )
    assert "--model PATH" in said.err
    assert run("test", "x.pxl", "--model", "packaged/models/any.safetensors").code == 0
    assert run("test", "x.pxl", "--model", "packaged/models").code == 0  # the only export in a folder
    said = run("test", "x.pxl", "--model", "gray")
    assert said.code == 5
    assert identity in said.err
    assert MODEL.identity.hex() in said.err


def test_an_export_is_found_beside_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a lowered network, and nothing replaced: by path, by folder, by identity beside the file; or not at all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lookup, "packaged", dict)
    run, spec = caller(capsys), ImageSpec(1, 4, 6, 2)
    levels, model = torch.zeros(6, 1, 4, 6, dtype=torch.uint8), flat(spec, ink=0.1)
    levels[4, 0, 2, 3] = 1
    codec = pl.lower(model, calibration=levels)
    codec.save(Path("export.safetensors"))
    model.save(Path("run/model"))  # a model is no export
    codec.save(Path("run/codec.safetensors"))
    Path("images").mkdir()
    for i, image in enumerate(to_bytes(levels.numpy(), 2)):
        Image.fromarray(image[0]).save(f"images/{i}.png")
    assert run("compress", "images", "-o", "x.pxl", "--model", "export.safetensors").code == 0
    assert run("compress", "images", "-o", "y.pxl", "--model", "run").code == 0
    assert Path("x.pxl").read_bytes() == Path("y.pxl").read_bytes()
    assert torch.equal(pl.open_pxl("x.pxl")[4], levels[4])
    Path("export.safetensors").unlink()
    assert run("test", "x.pxl").out == "x.pxl: intact, 6 images\n"
    Path("run/codec.safetensors").rename("run/codec.kept")
    said = run("decompress", "x.pxl", "-o", "out")
    assert said.code == 5
    assert f"x.pxl: needs the model {codec.identity.hex()}, which is not among the packaged ones (none)" in said.err
    assert run("decompress", "x.pxl", "-o", "out", "--model", "run/codec.kept").code == 0
    assert tree(Path("out")) == tree(Path("images"))
    said = run("decompress", "x.pxl", "-o", "other", "--model", "run/model")
    assert (said.code, "holds 0 exports" in said.err) == (4, True)


def test_the_model_that_takes_most_is_chosen(run: Command, images: Path) -> None:
    for i, image in enumerate(images_of(3, RGB)):
        Image.fromarray(image.transpose(1, 2, 0)).save(f"{i}.png")
    assert "model: rgb" in run("compress", "0.png", "1.png", "2.png", "images/inner/4.png", "-o", "x.pxl").err
    assert run("compress", "images", "-o", "y.pxl", "--model", "rgb").code == 0
    assert run("decompress", "y.pxl", "-o", "out").code == 0
    assert tree(Path("out")) == tree(images)


def test_a_model_of_any_size_takes_all_images(run: Command, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = LocalCodec(ImageSpec(1, 8, 8, 256), images_of(20, ImageSpec(1, 8, 8, 256)))
    monkeypatch.setattr(lookup, "load", lambda path: local)
    monkeypatch.setattr(lookup, "_identity", lambda path: local.identity.hex())
    said = run("compress", "images", "-o", "x.pxl", "--model", "gray")
    assert "10 images in 2 blocks" in said.err
    listed = json.loads(run("list", "x.pxl", "--json").out)
    assert [(b["images"], b["height"], b["width"]) for b in listed["blocks"]] == [(9, 4, 6), (1, 5, 9)]
    assert (listed["height"], listed["width"]) == (None, None)
    assert listed["bits_per_dim"] == pytest.approx(8 * listed["bytes"] / (9 * 24 + 45))
    lines = run("list", "x.pxl").out.splitlines()
    assert [line.split()[3] for line in lines[:3]] == ["pixels", "4x6", "5x9"]
    assert "10 images of 2 sizes, 1 channels with 256 levels, 0 stored files" in lines[-1]
    assert run("decompress", "x.pxl", "-o", "out").code == 0
    assert tree(Path("out")) == tree(images)


@pytest.mark.parametrize("command", ["compress", "decompress"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing(
    command: str, number: int, run: Command, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("compress", "images", "-o", "x.pxl", "--block", "2").code == 0
    before, method = tree(Path()), "encode" if command == "compress" else "decode"
    work = getattr(TableCodec, method)

    def stopped(self: TableCodec, *given: Any) -> Any:
        os.kill(os.getpid(), number)
        return work(self, *given)

    monkeypatch.setattr(TableCodec, method, stopped)
    said = run(*("compress images -o y.pxl" if command == "compress" else "decompress x.pxl -o out").split())
    assert said.code == 128 + number
    assert "nothing is written" in said.err
    assert tree(Path()) == before
    assert not list(Path().rglob("*.part"))
    assert not Path("out").exists()


def test_arrays_from_python(run: Command) -> None:
    levels = torch.from_numpy(images_of(20, GRAY))
    data = pl.compress(levels, "gray", block=8)
    assert torch.equal(pl.decompress(data), levels)
    assert torch.equal(pl.decompress(data, MODEL), levels)
    assert torch.equal(pl.decompress(data, "gray"), levels)
    Path("x.pxl").write_bytes(data)
    assert torch.equal(pl.open_pxl("x.pxl")[13], levels[13])
    assert run("decompress", "x.pxl").code == 0
    assert np.array_equal(np.asarray(Image.open("x/00013.png")), levels[13, 0].numpy())
    with pytest.raises(CodecError, match="was compressed by the model"):
        pl.decompress(data, "rgb")
    with pytest.raises(ModelError, match="no packaged one"):
        pl.compress(levels, "absent")


def test_stored_files_are_no_array(run: Command, images: Path) -> None:
    run("compress", "images", "-o", "x.pxl")
    with pytest.raises(pl.UsageError, match="holds stored files as well; use `pixelloom decompress`"):
        pl.decompress(Path("x.pxl").read_bytes())
    assert len(pl.open_pxl("x.pxl")) == 9
