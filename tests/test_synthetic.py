"""Synthetic images agree with their labels and documented colors, and depend on the seed alone."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from pixelloom.core.errors import DataError
from pixelloom.core.types import Levels
from pixelloom.data import synthetic
from pixelloom.data.synthetic import SHAPES, choose, color_digits, resample, scene, shapes


def masks(images: np.ndarray) -> np.ndarray:
    """Whether the color of a pixel differs from the upper left pixel, bool [n, H, W]."""
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
    """Share of the circumscribed circle: 1 for the circle, 2 / pi for the square, 3 sqrt(3) / 4 pi for the triangle."""
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


GRAY = np.kron(np.arange(300 * 49).reshape(300, 1, 7, 7) * 89 % 251, np.ones((4, 4))).astype(np.uint8)
"""Of areas that are larger than the enlarged digit's strokes."""


def ground_of(images: Levels, seed: int = 0, stream: int = 0) -> Levels:
    """The background patches, from empty digits."""
    return color_digits(np.zeros_like(images), seed, stream)


def places(monkeypatch: pytest.MonkeyPatch, count: int, seed: int, stream: int) -> npt.NDArray[np.int64]:
    """Row and column of each patch's upper left corner in the scene, in half pixels, [count, 2].

    They are read from scenes whose rows, or columns, alternate in brightness at growing periods.
    """
    found = np.zeros((count, 2), np.int64)
    for bit in range(9):
        rows, columns = np.mgrid[: synthetic.SCENE, : synthetic.SCENE]
        planes = [255 * (axis >> bit & 1) for axis in (rows, columns, rows)]
        with monkeypatch.context() as patched:
            patched.setattr(synthetic, "scene", lambda *_, planes=planes: np.stack(planes).astype(np.uint8))
            patched.setattr(synthetic, "_reduction", lambda: np.eye(28, 64) * 16)  # the upper left part of a patch
            images = color_digits(np.zeros((count, 1, 28, 28), np.uint8), seed, stream)
        found |= (images[:, :2, 0, 0] > 1).astype(np.int64) << bit
    return found


def enlarged(digit: npt.NDArray[np.uint8]) -> list[list[Fraction]]:
    """28x28 to 64x64 by linear interpolation with aligned corners, in fractions."""

    def line(values: list[Fraction]) -> list[Fraction]:
        out = []
        for i in range(64):
            at = Fraction(27 * i, 63)
            low = min(int(at), 26)
            out.append(values[low] * (1 - (at - low)) + values[low + 1] * (at - low))
        return out

    rows = [line([Fraction(int(v)) for v in row]) for row in digit]
    return [list(row) for row in zip(*(line(list(column)) for column in zip(*rows, strict=True)), strict=True)]


def test_colored_digits_are_made_as_the_course_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch of 64x64, inverted where the enlarged digit is above half, and the means of its areas in two bits."""
    images, whole = color_digits(GRAY, seed=0, stream=0), scene(512, 512, seed=0).astype(np.int64)
    assert images.shape == (300, 3, 28, 28)
    assert images.dtype == np.uint8
    assert set(np.unique(images)) == {0, 1, 2, 3}
    corners = places(monkeypatch, 300, seed=0, stream=0)
    for i in (0, 7):
        top, left = corners[i]
        patch = whole[:, top : top + 64, left : left + 64]
        ink = np.array([[value > Fraction(255, 2) for value in row] for row in enlarged(GRAY[i, 0])])
        assert 0.1 < ink.mean() < 0.9
        mixed = np.where(ink, 255 - patch, patch).repeat(7, 1).repeat(7, 2)  # 448 = 28 * 16 on a side
        sums = mixed.reshape(3, 28, 16, 28, 16).sum((2, 4))
        np.testing.assert_array_equal(images[i], sums * 4 // (256 * 256))


def test_ink_is_the_inverse_of_the_ground_within_strokes() -> None:
    """Level v becomes 3 - v where a whole area is ink, but where its mean lies at the edge of a level's bin."""
    full = np.full((100, 1, 28, 28), 255, np.uint8)
    ground, inverse = ground_of(full).astype(int), color_digits(full, 0, 0).astype(int)
    assert (inverse == 3 - ground).mean() > 0.98
    assert np.abs(inverse - (3 - ground)).max() <= 1
    assert len(np.unique(ground[0].reshape(3, -1), axis=1).T) > 2  # neither ground nor ink has one color


def test_places_are_uniform_over_all_that_fit_and_differ_between_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = places(monkeypatch, 2_700, seed=0, stream=0)
    assert corners.min() == 0
    assert corners.max() == 512 - 64
    for axis in (0, 1):
        counts = np.histogram(corners[:, axis], bins=9, range=(-0.5, 449.5))[0]
        expected = 2_700 * np.array([50] * 8 + [49]) / 449
        assert (np.abs(counts - expected) < 5 * expected**0.5).all()
    assert abs(np.corrcoef(corners.T)[0, 1]) < 5 / 2_700**0.5
    for other in (places(monkeypatch, 500, seed=1, stream=0), places(monkeypatch, 500, seed=0, stream=1)):
        assert (other == corners[:500]).all(1).sum() < 5


def test_colored_digits_are_a_function_of_seed_and_stream() -> None:
    images = color_digits(GRAY, seed=0, stream=0)
    assert np.array_equal(images, color_digits(GRAY, seed=0, stream=0))
    assert np.array_equal(images[:5], color_digits(GRAY[:5], seed=0, stream=0))
    assert not np.array_equal(images, color_digits(GRAY, seed=1, stream=0))
    assert not np.array_equal(images, color_digits(GRAY, seed=0, stream=1))


def test_a_seed_names_a_set_of_colored_digits_for_good() -> None:
    """Integer arithmetic gives the same values on every machine."""
    images = color_digits(GRAY, seed=0, stream=0)
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "64f3567afcfd0664"


def test_the_scene_is_soft_pale_and_a_function_of_the_seed() -> None:
    image = scene(512, 512, seed=0).astype(int)
    assert image.shape == (3, 512, 512)
    means = image.mean((1, 2))
    assert np.abs(means - (197, 143, 187)).max() < 12
    assert means[0] > means[2] > means[1]
    neighbors = np.abs(np.diff(image, axis=2))
    assert neighbors.mean() < 12  # the grain alone: uniform over 25 values, 8.3 apart on average
    assert image.std((1, 2)).min() > 15  # and yet no flat ground
    assert not np.array_equal(image, scene(512, 512, seed=1))
    assert np.array_equal(image, scene(512, 512, seed=0))


def test_choose_takes_as_many_of_each_class() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 500)
    chosen = choose(labels, (7, 8), 20, seed=0, stream=0)
    assert np.bincount(labels[chosen], minlength=10).tolist() == [0] * 7 + [20, 20, 0]
    assert (np.diff(chosen) > 0).all()
    assert not np.array_equal(chosen, choose(labels, (7, 8), 20, seed=1, stream=0))
    with pytest.raises(DataError, match="200 images of the digit 7 are needed, but there are only"):
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
