"""What is drawn is what the labels say, in the colors that were promised, and the same for a seed forever."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pixelloom.data import drawn
from pixelloom.data.drawn import SHAPES, choose, color_digits, resample, scene, shapes
from pixelloom.errors import DataError
from pixelloom.types import Levels


def masks(images: np.ndarray) -> np.ndarray:
    """True where a pixel has not the color of the upper left corner's pixel, bool [n, H, W]."""
    return (images != images[:, :, :1, :1]).any(1)


@pytest.mark.parametrize("sides", [(32, 32), (64, 64), (24, 40)])
def test_shapes_have_two_colors_and_keep_off_the_border(sides: tuple[int, int]) -> None:
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
        cx, cy = (x * mask).sum() / n, (y * mask).sum() / n  # the centroid is the center of all three
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


GRAY = np.random.default_rng(0).integers(0, 256, (500, 1, 28, 28)).astype(np.uint8)
GRAY[:, 0, 0, :4] = 0, 127, 128, 255


def grounds(seed: int = 0, stream: int = 0, n: int = 500) -> Levels:
    """The patches that digits of no ink lie on, which are those of all digits."""
    return color_digits(np.zeros_like(GRAY[:n]), seed, stream)


def places(monkeypatch: pytest.MonkeyPatch, count: int, seed: int, stream: int) -> npt.NDArray[np.int64]:
    """Row and column of each digit's upper left corner in the scene, [count, 2]: read from a scene that states them."""

    def stated(height: int, width: int, seed: int) -> Levels:
        rows, columns = np.mgrid[:height, :width].astype(np.uint8)
        return np.stack([rows, columns, rows])

    with monkeypatch.context() as patched:
        patched.setattr(drawn, "scene", stated)
        images = color_digits(np.zeros((count, 1, 2, 3), np.uint8), seed, stream)
    return images[:, :2, 0, 0].astype(np.int64)


def test_colored_digits_are_their_patch_inverted_above_half_gray() -> None:
    images, ground, above = color_digits(GRAY, seed=0, stream=0), grounds(), GRAY > 127
    assert above[0, 0, 0, :4].tolist() == [False, False, True, True]
    assert images.shape == (500, 3, 28, 28)
    assert images.dtype == np.uint8
    assert set(np.unique(images)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(images, np.where(above, 3 - ground.astype(int), ground))
    assert len(np.unique(ground[0].reshape(3, -1), axis=1).T) > 2  # a ground of one color would be the older kind


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_training_validation_and_test_digits_lie_on_patches_of_one_scene(
    stream: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = scene(228, 228, seed=0)
    corners = places(monkeypatch, 500, seed=0, stream=stream)
    for image, (top, left) in zip(grounds(stream=stream), corners, strict=True):
        np.testing.assert_array_equal(image, ground[:, top : top + 28, left : left + 28])


def test_places_are_uniform_over_all_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = places(monkeypatch, 40_200, seed=0, stream=0)
    assert corners[:3].tolist() == [[39, 141], [145, 29], [76, 2]]  # a seed names a data set for good
    for axis in (0, 1):
        counts = np.bincount(corners[:, axis])
        assert len(counts) == 201
        assert (np.abs(counts - 200) < 5 * 200**0.5).all()
    assert abs(np.corrcoef(corners.T)[0, 1]) < 5 / 40_200**0.5
    for other in (places(monkeypatch, 500, seed=1, stream=0), places(monkeypatch, 500, seed=0, stream=1)):
        assert (other == corners[:500]).all(1).sum() < 5


def test_colored_digits_are_a_function_of_seed_and_stream() -> None:
    images = color_digits(GRAY, seed=0, stream=0)
    assert np.array_equal(images, color_digits(GRAY, seed=0, stream=0))
    assert np.array_equal(images[:5], color_digits(GRAY[:5], seed=0, stream=0))
    assert not np.array_equal(images, color_digits(GRAY, seed=1, stream=0))
    assert not np.array_equal(images, color_digits(GRAY, seed=0, stream=1))


def test_the_scene_is_soft_pale_and_a_function_of_the_seed() -> None:
    for seed in range(3):
        ground = scene(228, 228, seed)
        assert ground.shape == (3, 228, 228)
        assert ground.dtype == np.uint8
        assert (ground[:, :, 1:] == ground[:, :, :-1]).mean() > 0.85  # of independent levels few neighbors are equal
        means = ground.mean((1, 2))
        assert (means > 1.2).all()
        assert means[1] < min(means[0], means[2])
        assert all(len(np.unique(plane)) > 1 for plane in ground)
    assert np.array_equal(scene(40, 30, seed=0), scene(40, 30, seed=0))
    assert not np.array_equal(scene(40, 30, seed=0), scene(40, 30, seed=1))


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
