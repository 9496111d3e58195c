"""``pixelloom score --layout mvtec``: areas of images and of pixels against counting pairs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import Command, caller
from pixelloom.data.catalog import load
from score_toys import DATA, INK, SPEC
from small_models import flat, save_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    save_run(flat(SPEC, DATA.model_dump(mode="json"), ink=INK), Path("runs/flat"))
    return caller(capsys)


def save(path: str, pixels: np.ndarray) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(pixels) * 255).save(path)


def defects() -> tuple[np.ndarray, np.ndarray]:
    """A folder of 6 good images and 4 with a bright spot; images and masks, bool [10, 8, 8], good ones first."""
    draw = np.random.default_rng(0)
    images, masks = draw.random((10, 8, 8)) < 0.3, np.zeros((10, 8, 8), bool)
    for i in range(6, 10):
        masks[i, i - 5 : i - 2, 2:6] = True
        images[i] |= masks[i] & (draw.random((8, 8)) < 0.9)
        save(f"parts/ground_truth/spot/{i:03d}_mask.png", masks[i])
    for i, image in enumerate(images):
        save(f"parts/test/{'good' if i < 6 else 'spot'}/{i:03d}.png", image)
        save(f"parts/train/good/{i:03d}.png", ~image)
    return images, masks


def test_areas_of_images_and_pixels(run: Command) -> None:
    images, masks = defects()
    words = ("score", "flat", "--data", "parts", "--layout", "mvtec", "--false-alarms", "0.1")
    said = run(*words, "--json", "--maps", "maps")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    held, _ = load(DATA).val.all()
    reference = held[[i * 151 // 76 for i in range(76)], 0]
    cost = np.array([-math.log2(1 - INK), -math.log2(INK)])
    maps = cost[images.astype(int)] - cost[reference].mean(0)
    inside, outside = maps[masks].round(4), maps[~masks].round(4)
    pairs = (inside[:, None] > outside).mean() + (inside[:, None] == outside).mean() / 2
    assert abs(found["pixel_auroc"] - pairs) < 2e-3
    ink = images.reshape(10, -1).sum(1)
    expected = (ink[6:, None] > ink[:6]).mean() + (ink[6:, None] == ink[:6]).mean() / 2
    area = found["detection"]["likelihood"]
    assert (area["normals"], area["outliers"], found["images"]) == (6, 4, 10)
    assert abs(area["auroc"] - expected) < 0.03  # equal ink gives bits that differ by rounding
    assert np.allclose(np.load("maps/test/spot/006.png.map.npy"), maps[6], atol=1e-5)
    said = run(*words)
    assert f"AUROC of single pixels {found['pixel_auroc']:.4f}" in said.out


def test_what_is_missing_is_named(run: Command) -> None:
    defects()
    words = ("score", "flat", "--layout", "mvtec", "--false-alarms", "0.1", "--data")
    assert "not of the layout mvtec" in run(*words, "parts/test").err
    assert "leave out --against" in run(*words, "parts", "--against", "digits").err
    Path("parts/ground_truth/spot/007_mask.png").unlink()
    said = run(*words, "parts")
    assert said.code == 3
    assert "test/spot/007.png has no mask ground_truth/spot/007_mask.png" in said.err
