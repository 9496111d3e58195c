"""Maps of attention as images: the right square lights up, in the color that its weight has on the scale."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps

from pixelloom.core.errors import UsageError
from pixelloom.viz import attention_maps

INFERNO = colormaps["inferno"]
HOTTEST = np.rint(255 * np.array(INFERNO(1.0)[:3])).astype(np.uint8)
FRAME = np.array([0x2D, 0xE2, 0xE6], np.uint8)


def hot(shape: tuple[int, ...], *at: int) -> np.ndarray:
    weights = np.zeros(shape, np.float32)
    weights[at] = 1
    return weights


def black(n: int, side: int = 8) -> np.ndarray:
    return np.zeros((n, 1, side, side), np.uint8)


def box(of: np.ndarray) -> tuple[int, int, int, int]:
    """Rows and columns (first, last) that a mask spans."""
    ys, xs = np.nonzero(of)
    return ys.min(), ys.max(), xs.min(), xs.max()


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (12, 20)])
@pytest.mark.parametrize("side", [1, 4])
def test_a_pixel_belongs_to_the_position_whose_square_holds_it(size: tuple[int, int], side: int) -> None:
    grid = (side, 2 * side)
    high, wide = size[0] / grid[0], size[1] / grid[1]
    for y in range(size[0]):
        for x in range(size[1]):
            i, j = attention_maps.place((y, x), size, grid)
            assert i * high <= y < (i + 1) * high
            assert j * wide <= x < (j + 1) * wide
    assert attention_maps.place((5, 7), size, size) == (5, 7)


def test_the_middles_of_equal_parts() -> None:
    assert attention_maps.points((64, 64), 1) == [(32, 32)]
    assert attention_maps.points((6, 9), 3) == [(1, 1), (1, 4), (1, 7), (3, 1), (3, 4), (3, 7), (5, 1), (5, 4), (5, 7)]


@pytest.mark.parametrize(("keys", "at"), [((2, 4), (1, 2)), ((8, 8), (7, 0)), ((1, 1), (0, 0))])
def test_one_weight_lights_its_square_and_no_other(keys: tuple[int, int], at: tuple[int, int]) -> None:
    shades = attention_maps.overlay(black(1)[0], 2, hot(keys, *at), 1.0, scale=3)
    assert shades.shape == (24, 24, 3)
    high, wide = 24 // keys[0], 24 // keys[1]
    lit = np.zeros((24, 24), bool)
    lit[at[0] * high : (at[0] + 1) * high, at[1] * wide : (at[1] + 1) * wide] = True
    assert (shades[lit] == HOTTEST).all()
    assert (shades[~lit] <= 4).all()  # the first color of the scale is all but black


def test_shades_are_heat_over_the_dimmed_image() -> None:
    rng = np.random.default_rng(0)
    image, weights = rng.integers(0, 4, (3, 6, 6)).astype(np.uint8), rng.random((3, 2))
    shades = attention_maps.overlay(image, 4, weights, 1.5)
    for y in range(6):
        for x in range(6):
            heat = np.array(INFERNO(weights[y // 2, x // 3] / 1.5)[:3])
            gray = image[:, y, x].mean() / 3
            expected = 255 * (1 - (1 - attention_maps.DIM * gray) * (1 - heat))
            assert np.abs(shades[y, x] - expected).max() <= 1.5


def test_an_unseen_place_is_the_image_dimmed() -> None:
    shades = attention_maps.overlay(np.full((1, 2, 2), 255, np.uint8), 256, np.zeros((1, 1)), 1.0)
    assert np.abs(shades.astype(int) - round(255 * attention_maps.DIM)).max() <= 4


def test_the_scale_of_a_row_is_common_and_never_calls_a_uniform_map_bright() -> None:
    uniform = np.full((2, 4, 4), 1 / 16, np.float32)
    strip = attention_maps.Strip([], black(2), [(0, 0)] * 2, uniform, (4, 4))
    assert (strip.top, strip.uniform) == (4 / 16, 1 / 16)
    sharp = uniform.copy()
    sharp[1] = hot((4, 4), 2, 2) * 0.8
    assert attention_maps.Strip([], black(2), [(0, 0)] * 2, sharp, (4, 4)).top == pytest.approx(0.8)
    assert (
        attention_maps.Strip([], black(2), [(0, 0)] * 2, np.full((2, 1, 2), 0.5), (4, 4)).top == 1
    )  # no weight exceeds 1


def test_the_sheet_frames_the_query_and_lights_its_key() -> None:
    """The image, its map at 4 x 4, all at 10 pixels a pixel: key (1, 3) of the query at row 5, column 2."""
    images, asked = black(1), [(5, 2)]
    strips = [
        attention_maps.Strip(["picture"], images, asked),
        attention_maps.Strip(["layer"], images, asked, hot((1, 4, 4), 0, 1, 3), (4, 4)),
    ]
    paper = np.asarray(attention_maps.sheet(strips, 2, scale=10)).astype(np.uint8)
    framed, lit = (paper == FRAME).all(2), (paper == HOTTEST).all(2)
    ink = (paper == 0).all(2)  # the image is black, and the map's first color nearly
    top, _, left, right = box(ink)
    assert right - left >= 79
    rows = np.nonzero(framed.any(1))[0]
    cut = rows[:-1][np.diff(rows) > 10][0] + 1  # between the frame on the image and the one on the map
    y0, y1, x0, x1 = box(framed[:cut])
    assert (y0 + 2, y1 - 2, x0 + 2, x1 - 2) == (top + 50, top + 59, left + 20, left + 29)  # around the pixel
    y0, y1, x0, x1 = box(framed[cut:])
    second = cut + y0 + 2 - 40  # position (2, 1) begins 40 pixels below the map's top
    assert (y1 - y0 - 3, x1 - x0 - 3) == (20, 20)
    assert x0 + 2 == left + 20
    area = np.zeros_like(lit)
    area[second + 20 : second + 40, left + 60 : left + 80] = True
    assert (lit[area]).all()
    assert not lit[:, : left + 80][~area[:, : left + 80]].any()


def test_images_are_shown_in_their_colors() -> None:
    image = np.zeros((1, 3, 8, 8), np.uint8)
    image[0, :, 1, 6] = (200, 100, 50)
    paper = np.asarray(attention_maps.sheet([attention_maps.Strip(["x"], image, [(4, 1)])], 256, scale=5))
    assert (paper == (200, 100, 50)).all(2).sum() == 25


def test_too_many_pixels_are_refused() -> None:
    strip = attention_maps.Strip(["x"], black(16, 128), [(0, 0)] * 16)
    with pytest.raises(UsageError, match="too many to be opened"):
        attention_maps.sheet([strip] * 5, 2, scale=40)
