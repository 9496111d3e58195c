"""What is drawn is what the labels say, in the colours that were promised, and the same for a seed for ever."""

from __future__ import annotations

import numpy as np
import pytest

from pixelloom.data.drawn import SHAPES, choose, colour_digits, resample, shapes
from pixelloom.errors import DataError


def masks(images: np.ndarray) -> np.ndarray:
    """True where a pixel has not the colour of the upper left corner's pixel, bool [n, H, W]."""
    return (images != images[:, :, :1, :1]).any(1)


@pytest.mark.parametrize("sides", [(32, 32), (64, 64), (24, 40)])
def test_shapes_have_two_colours_and_keep_off_the_border(sides: tuple[int, int]) -> None:
    images, labels = shapes(300, *sides, seed=0, stream=0)
    assert images.shape == (300, 3, *sides)
    assert images.dtype == np.uint8
    assert set(labels.tolist()) == {0, 1, 2}
    for image in images:
        assert len(np.unique(image.reshape(3, -1), axis=1).T) == 2
    inside = masks(images)
    corners = inside[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert not corners.any()


@pytest.mark.parametrize("label", range(3))
def test_shapes_have_the_area_and_extent_of_their_kind(label: int) -> None:
    """Of the circumscribed circle: 1 for the circle, 2 / pi for the square, 3 sqrt(3) / 4 pi for the triangle."""
    images, labels = shapes(600, 128, 128, seed=1, stream=0)
    inside = masks(images[labels == label])
    y, x = np.mgrid[:128, :128] + 0.5
    ratios = []
    for mask in inside:
        n = mask.sum()
        cx, cy = (x * mask).sum() / n, (y * mask).sum() / n  # the centroid is the centre of all three
        r2 = ((x - cx) ** 2 + (y - cy) ** 2)[mask].max()
        ratios.append(n / (np.pi * r2))
        assert 0.18 * 128 - 2 < r2**0.5 < 0.38 * 128 + 1
    expected = [1.0, 2 / np.pi, 3 * 3**0.5 / (4 * np.pi)][label]
    assert np.median(ratios) == pytest.approx(expected, rel=0.05), SHAPES[label]


def test_shapes_are_spread_evenly() -> None:
    _, labels = shapes(6000, 8, 8, seed=0, stream=0)
    counts = np.bincount(labels, minlength=3)
    assert (abs(counts - 2000) < 4.5 * (6000 * 2 / 9) ** 0.5).all()


def test_shapes_are_a_function_of_seed_and_stream() -> None:
    few, _ = shapes(10, 16, 16, seed=3, stream=1)
    many, _ = shapes(1500, 16, 16, seed=3, stream=1)
    assert np.array_equal(few, many[:10])
    assert not np.array_equal(few, shapes(10, 16, 16, seed=3, stream=2)[0])
    assert not np.array_equal(few, shapes(10, 16, 16, seed=4, stream=1)[0])


def test_a_seed_names_a_set_of_shapes_for_good() -> None:
    images, labels = shapes(4, 8, 8, seed=0, stream=0)
    assert labels.tolist() == [0, 2, 1, 0]
    assert images[:, :, 0, 0].tolist() == [[225, 168, 141], [34, 61, 38], [35, 55, 66], [32, 45, 41]]


def test_coloured_digits_mix_two_colours_by_grey_value() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (2000, 1, 6, 6)).astype(np.uint8)
    grey[:, 0, 0, 0], grey[:, 0, 0, 1] = 0, 255
    images = colour_digits(grey, seed=0, stream=0)
    assert images.shape == (2000, 3, 6, 6)
    assert images.max() == 3
    ground, ink = images[:, :, 0, 0].astype(float), images[:, :, 0, 1].astype(float)
    assert (ground != ink).any(1).all()
    v = grey / 255
    exact = ground[:, :, None, None] + (ink - ground)[:, :, None, None] * v
    assert np.abs(images - exact).max() <= 0.5
    for colour in (ground, ink):  # each of the 64 colours, about equally often
        counts = np.bincount((colour @ [16, 4, 1]).astype(int), minlength=64)
        assert len(counts) == 64
        assert (abs(counts - 2000 / 64) < 5 * (2000 / 64) ** 0.5).all()
    assert np.array_equal(images[:5], colour_digits(grey[:5], seed=0, stream=0))
    assert not np.array_equal(images, colour_digits(grey, seed=1, stream=0))


def test_choose_takes_as_many_of_each_class() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 500)
    chosen = choose(labels, (7, 8), 20, seed=0, stream=0)
    assert np.bincount(labels[chosen], minlength=10).tolist() == [0] * 7 + [20, 20, 0]
    assert (np.diff(chosen) > 0).all()
    assert not np.array_equal(chosen, choose(labels, (7, 8), 20, seed=1, stream=0))
    with pytest.raises(DataError, match="200 images of the digit 7 are needed, and only"):
        choose(labels, (7, 8), 200, seed=0, stream=0)


def test_resample_keeps_flat_and_orientation() -> None:
    images = np.zeros((2, 1, 28, 28), np.uint8)
    images[0] = 77
    images[1, 0, :14, 14:] = 255
    got = resample(images, 64, 32)
    assert got.shape == (2, 1, 64, 32)
    assert (got[0] == 77).all()
    assert (got[1, 0, :28, 20:] == 255).all()
    assert (got[1, 0, 36:] == 0).all()
    assert (got[1, 0, :, :12] == 0).all()
    assert np.array_equal(resample(images, 28, 28), images)
