"""--fit tiles: files cut into pieces of one size, for training on photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelloom.core.errors import DataError, UsageError
from pixelloom.data.catalog import DataConfig, load
from pixelloom.data.io.decode import decode
from pixelloom.data.io.folders import read_images
from pixelloom.data.io.reading import Reading


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def test_tiles_are_the_pixels_side_by_side(tmp_path: Path) -> None:
    pixels = noise(11, 17)
    write(tmp_path / "a.png", pixels)
    tiles, remarks = decode((tmp_path / "a.png").read_bytes(), "a.png", Reading((4, 5), fit="tiles"))
    assert len(tiles) == 2 * 3
    assert remarks == []
    for k, tile in enumerate(tiles):  # 3 rows and 2 columns are left: 1 and 1 of them before the tiles
        y, x = 1 + 4 * (k // 3), 1 + 5 * (k % 3)
        assert np.array_equal(tile, pixels[y : y + 4, x : x + 5])


@pytest.mark.parametrize("size", [(32, 24), (128, 96)])
def test_a_jpeg_is_not_shrunk(tmp_path: Path, size: tuple[int, int]) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 768).astype(np.uint8)[:, None, None], (768, 512, 3))
    Image.fromarray(np.ascontiguousarray(smooth)).save(tmp_path / "a.jpg", quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    (whole,), _ = decode(data, "a.jpg", Reading())
    tiles, _ = decode(data, "a.jpg", Reading(size, fit="tiles"))
    assert len(tiles) == (768 // size[0]) * (512 // size[1])
    left = 512 % size[1] // 2
    assert np.array_equal(tiles[0], whole[: size[0], left : left + size[1]])


def test_smaller_images_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise(9, 9))
    write(tmp_path / "b.png", noise(7, 20))
    found = read_images(tmp_path, Reading((8, 8), fit="tiles"))
    assert found.images.shape == (1, 3, 8, 8)
    assert "1 image smaller than a tile left out" in found.note
    with pytest.raises(DataError, match="all are smaller than a tile"):
        read_images(tmp_path, Reading((16, 16), fit="tiles"))


def test_the_tiles_of_a_file_stay_in_one_split(tmp_path: Path) -> None:
    for i in range(40):
        pixels = noise(16, 16, i)
        pixels[..., 0] = i  # red is the number of the file
        write(tmp_path / f"{i:02}.png", pixels)
    data = load(DataConfig(source=str(tmp_path), size=4, fit="tiles"))
    parts = [split.all()[0] for split in (data.train, data.val, data.test)]
    assert sum(map(len, parts)) == 40 * 16
    files = [set(images[:, 0, 0, 0].tolist()) for images in parts]
    assert set.union(*files) == set(range(40))
    assert sum(map(len, files)) == 40


def test_tiles_need_a_size_and_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="set it"):
        Reading(fit="tiles")
    with pytest.raises(UsageError, match="cut from image files"):
        load(DataConfig(source="digits", size=4, fit="tiles"))
    np.save(tmp_path / "a.npy", noise(9, 9)[None].repeat(20, 0))
    with pytest.raises(UsageError, match="cut from image files"):
        load(DataConfig(source=str(tmp_path / "a.npy"), size=4, fit="tiles"))
