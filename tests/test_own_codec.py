"""`compress --train-minutes`: which images a model is trained for, and that the file is read with it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec_models import GRAY, images_of, model_of
from commands import Command, caller
from pixelloom.codec import archive
from pixelloom.codec.export import lower
from pixelloom.codec.model import CodecModel
from pixelloom.core.errors import CodecError, DataError
from pixelloom.core.types import ImageSpec, Levels
from pixelloom.runs import own_codec


def png(pixels: Levels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def drawn(shape: tuple[int, ...], values: list[int], n: int, seed: int = 0) -> list[bytes]:
    generator = np.random.default_rng(seed)
    return [png(np.array(values, np.uint8)[generator.integers(len(values), size=shape)]) for _ in range(n)]


@pytest.mark.parametrize(
    ("values", "levels"),
    [([0, 255], 2), ([0, 85, 170, 255], 4), ([0, 17, 255], 16), ([0, 1, 255], 256), ([0], 2), ([7], 256)],
)
def test_the_fewest_levels_keep_all_values(values: list[int], levels: int) -> None:
    images = np.array(values, np.uint8).reshape(len(values), 1, 1, 1)
    found = own_codec._spec(images)
    assert found.levels == levels or (levels == 256 and found.levels > 16)
    from pixelloom.data.pixels import quantize, to_bytes

    assert np.array_equal(to_bytes(quantize(images, 256, found.levels), found.levels), images)


def test_the_most_common_size_is_taken() -> None:
    few, many = drawn((6, 5), [0, 255], 21), drawn((4, 4), [0, 255], 25)
    found, tiled = own_codec._for_training(own_codec._by_size([*few, *many, b"no image"]))
    assert not tiled
    assert found.shape == (25, 1, 4, 4)
    for image, data in zip(found, many, strict=True):
        assert np.array_equal(image[0], np.asarray(Image.open(io.BytesIO(data))))


def test_one_colored_image_makes_all_colored() -> None:
    gray, color = drawn((4, 4), [0, 9], 20), drawn((4, 4, 3), [0, 255], 1)
    found, _ = own_codec._for_training(own_codec._by_size([*gray, *color]))
    assert found.shape == (21, 3, 4, 4)
    assert (found[:20] == found[:20, :1]).all()
    assert not (found[20] == found[20, :1]).all()


def test_images_of_several_sizes_are_cut_into_tiles() -> None:
    sizes = [(9, 4), (5, 13), (4, 4), (3, 20), (8, 8)] * 3
    files = [drawn(size, [0, 255], 1, seed)[0] for seed, size in enumerate(sizes)]
    found, tiled = own_codec._for_training(own_codec._by_size(files))
    assert tiled
    assert found.shape == ((2 + 3 + 1 + 0 + 4) * 3, 1, 4, 4)  # the median of the shorter sides
    images = {
        size: [np.asarray(Image.open(io.BytesIO(data))) for data in files[i::5]] for i, size in enumerate(sizes[:5])
    }
    expected = [image[y : y + 4, x : x + 4] for image in images[5, 13] for y in (0,) for x in (0, 4, 8)]
    assert np.array_equal(found[6:15, 0], np.stack(expected))
    with pytest.raises(DataError, match="8 tiles of images of several sizes are too few"):
        own_codec._for_training(own_codec._by_size([*files[1:10:5], *files[2:10:5], files[3]]))


@pytest.mark.parametrize("n", [0, 19])
def test_too_few_images_are_refused(n: int) -> None:
    with pytest.raises(DataError, match=f"{n} images of one size are too few"):
        own_codec.train_codec([*drawn((4, 4), [0, 255], n), b"no image"], 0.1)


def test_a_folder_is_compressed_by_its_own_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = caller(capsys)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(60):  # six stripes, each black or white: 6 bits of 36, once that is learned
        stripes = [number >> bit & 1 for bit in range(6)]
        pixels = np.repeat(np.array(stripes, np.uint8)[:, None] * 255, 6, axis=1)
        (folder / f"{number:02d}.png").write_bytes(png(pixels))
    small = {"model.channels": 4, "model.layers": 2, "model.hidden": 4, "train.images": 3000, "train.minutes": None}
    recipe = own_codec._recipe
    monkeypatch.setattr(own_codec, "_recipe", lambda spec: (recipe(spec)[0], recipe(spec)[1] | small))
    said = run("compress", "images", "--train-minutes", "5", "--json")  # ends by train.images
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["images"] == 60
    assert found["raw_blocks"] == 0  # shorter than one bit a pixel
    assert found["bytes_with_model"] == found["bytes"] + (tmp_path / "images.safetensors").stat().st_size
    assert CodecModel.load(tmp_path / "images.safetensors").spec == ImageSpec(1, 6, 6, 2)
    assert run("decompress", "images.pxl", "-o", "back").code == 0  # finds the model beside the file
    for path in folder.iterdir():
        back = np.asarray(Image.open(tmp_path / "back" / path.name))
        assert np.array_equal(back, np.asarray(Image.open(path)))


def test_images_of_several_sizes_are_compressed_by_a_local_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = caller(capsys)
    folder = tmp_path / "images"
    folder.mkdir()
    sizes = [(8, 8), (12, 8), (8, 17), (16, 16)]
    for number in range(24):
        (folder / f"{number:02d}.png").write_bytes(drawn(sizes[number % 4], [0, 0, 0, 255], 1, number)[0])
    small = {"model.channels": 4, "model.blocks": 1, "model.hidden": 4, "train.images": 200, "train.minutes": None}
    recipe = own_codec._local_recipe
    monkeypatch.setattr(own_codec, "_local_recipe", lambda spec: (recipe(spec)[0], recipe(spec)[1] | small))
    said = run("compress", "images", "--train-minutes", "5", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["images"] == 24
    codec = CodecModel.load(tmp_path / "images.safetensors")
    assert codec.is_local
    assert codec.spec == ImageSpec(1, 8, 8, 2)
    assert run("decompress", "images.pxl", "-o", "back").code == 0
    for path in folder.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_an_earlier_file_keeps_its_model_until_the_new_one_is_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run: Command = caller(capsys)
    (tmp_path / "a.png").write_bytes(drawn(GRAY.shape[1:], [0], 1)[0])
    (tmp_path / "a.pxl").write_bytes(b"earlier file")
    (tmp_path / "a.safetensors").write_bytes(b"earlier model")
    codec = lower(model_of("gated-pixelcnn", GRAY), images_of(GRAY, 4))
    monkeypatch.setattr(own_codec, "train_codec", lambda *_: codec)

    def damaged(*_: object) -> None:
        raise CodecError("reads back with other bytes")

    options = ("compress", "a.png", "-o", "a.pxl", "--train-minutes", "1", "-f")
    with monkeypatch.context() as patch:
        patch.setattr(archive, "check_written", damaged)
        assert run(*options).code == 5
    assert (tmp_path / "a.pxl").read_bytes() == b"earlier file"
    assert (tmp_path / "a.safetensors").read_bytes() == b"earlier model"
    assert run(*options).code == 0
    assert CodecModel.load(tmp_path / "a.safetensors").identity == codec.identity


def test_train_minutes_needs_a_place_beside_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run: Command = caller(capsys)
    (tmp_path / "a.png").write_bytes(drawn((4, 4), [0, 255], 1)[0])
    (tmp_path / "b.safetensors").write_bytes(b"kept")
    for more, said in (
        (["-o", "b.pxl"], "b.safetensors: exists already"),
        (["-o", "-"], "--train-minutes"),
        (["--model", "x"], "--train-minutes"),
        (["-o", "c.pxl"], "too few"),
    ):
        found = run("compress", "a.png", "--train-minutes", "1", *more)
        assert found.code in (2, 3), more
        assert said in found.err
    assert (tmp_path / "b.safetensors").read_bytes() == b"kept"
    assert run("compress", "a.png", "--train-minutes", "0").code == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("compress a.png --modl x", "--modl: neither an option nor a file. Did you mean '--model'?"),
        ("compress a.png --train-minuts=3", "Did you mean '--train-minutes'?"),
        ("decompress --salvge", "Did you mean '--salvage'?"),
        ("test --modl=x", "Did you mean '--model'?"),
    ],
)
def test_a_typo_in_an_option_is_no_file(
    line: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = caller(capsys)(*line.split())
    assert found.code == 2
    assert said in found.err
