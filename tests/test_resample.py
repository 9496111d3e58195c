"""``--resample nearest``: pixels are copied, so that sprites and indexed images keep their colors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import caller
from image_files import encoded, put
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import load
from pixelloom.data.config import DataConfig
from pixelloom.data.io.decode import Reading, decode
from pixelloom.data.memory import dataset_of
from pixelloom.runs.evaluate import data_for, load_data
from small_models import flat, save_run


def chosen(new: int, old: int) -> np.ndarray:
    """The source pixel of each pixel: the one that its center lies in."""
    return np.array([(2 * i + 1) * old // (2 * new) for i in range(new)])


def nearest(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return pixels[chosen(height, pixels.shape[0])][:, chosen(width, pixels.shape[1])]


def sprite(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    palette = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 250, 10)], np.uint8)
    return palette[np.random.default_rng(seed).integers(0, 4, (height, width))]


SPRITE = sprite(0)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (8, 8), (7, 11), (16, 5), (33, 20)])
@pytest.mark.parametrize("indexed", [True, False])
def test_each_pixel_is_copied(height: int, width: int, indexed: bool) -> None:
    image = Image.fromarray(SPRITE)
    data = encoded(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=4) if indexed else image)
    reading = Reading(size=(height, width), fit="resize", resample="nearest")
    found = decode(data, "x.png", reading).frames[0]
    assert np.array_equal(found, nearest(SPRITE, height, width))
    smooth = decode(data, "x.png", Reading(size=(height, width), fit="resize")).frames[0]
    assert len(np.unique(smooth.reshape(-1, 3), axis=0)) > 4


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        ("crop", (8, 4), nearest(SPRITE[:, 4:12], 8, 4)),
        ("pad", (8, 12), np.pad(nearest(SPRITE, 8, 8), ((0, 0), (2, 2), (0, 0)), constant_values=255)),
        ("resize", (16, 16), SPRITE),
    ],
)
def test_with_each_fit(fit: Any, size: tuple[int, int], expected: np.ndarray) -> None:
    found = decode(encoded(SPRITE), "x.png", Reading(size=size, fit=fit, resample="nearest")).frames[0]
    assert np.array_equal(found, expected)


def test_a_large_jpeg_is_not_averaged_by_its_decoder() -> None:
    data = encoded(np.random.default_rng(3).integers(0, 256, (512, 512)), "JPEG", quality=100)
    found = decode(data, "x.jpg", Reading(size=(8, 8), resample="nearest")).frames[0]
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(found[..., 0], nearest(np.asarray(image), 8, 8))


def test_arrays_and_named_data_sets_keep_their_values() -> None:
    values = np.random.default_rng(1).integers(0, 4, (30, 6, 6)).astype(np.uint8) * 80
    config = DataConfig(source="x", size=9, resample="nearest")
    data = dataset_of(values, config=config)
    every = np.concatenate([data.split(split).all()[0] for split in ("train", "val", "test")])
    assert np.unique(every).tolist() == [0, 80, 160, 240]
    expected = {bytes(nearest(image, 9, 9)) for image in values}
    assert {bytes(image) for image in every} == expected
    assert data.note == "images resized from 6x6 to 9x9 (crop, nearest)"
    small, large = (load(DataConfig(size=size, resample="nearest")) for size in (None, 24))
    assert large.spec == ImageSpec(1, 24, 24, 17)
    before, after = small.test.all()[0], large.test.all()[0]
    assert np.array_equal(after, before.repeat(3, 2).repeat(3, 3))
    assert "resized from 8x8 to 24x24 (crop, nearest)" in large.note


def test_evaluation_resizes_as_training_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of the sprites' four levels, on sprites of another size: with the other filter there are more levels."""
    monkeypatch.chdir(tmp_path)
    trained = DataConfig(source="old", size="8x8", levels=4, gray=True, resample="nearest").model_dump(mode="json")
    model = flat(ImageSpec(1, 8, 8, 4), trained)
    assert data_for(model, "new").resample == "nearest"
    assert data_for(model, "new", {"resample": "antialias"}).resample == "antialias"
    binary = np.random.default_rng(2).integers(0, 2, (40, 16, 16)).astype(np.uint8) * 255
    put(tmp_path / "new", {f"{i}.png": encoded(image) for i, image in enumerate(binary)})
    levels = load_data(model, "new").train.all()[0]
    assert np.unique(levels).tolist() == [0, 3]
    save_run(model, Path("runs/flat"))
    done = caller(capsys)("evaluate", "flat", "--data", "new", "--json")
    assert done.code == 0
    assert "size 8x8 (crop, nearest), gray, 4 levels" in done.err
