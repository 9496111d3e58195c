"""Conversions of levels, for all numbers of levels and all values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelloom.core.errors import UsageError
from pixelloom.core.rng import bits
from pixelloom.data import pixels
from pixelloom.data.pixels import Scaling

ALL_LEVELS = range(2, 257)
SCALINGS = {"unit": Scaling.unit(), "symmetric": Scaling.symmetric(), "standard": Scaling(0.1307, 0.3081)}


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_model_space_gives_every_level_back(scaling: Scaling) -> None:
    for levels in ALL_LEVELS:
        x = torch.arange(levels, dtype=torch.uint8)
        assert torch.equal(pixels.from_model(pixels.to_model(x, levels, scaling), levels, scaling), x), levels


def test_model_space_by_definition() -> None:
    x = torch.tensor([0, 1, 16], dtype=torch.uint8)
    assert pixels.to_model(x, 17, Scaling.unit()).tolist() == [0.0, 1 / 16, 1.0]
    assert pixels.to_model(x, 17, Scaling.symmetric()).tolist() == [-1.0, -0.875, 1.0]
    assert pixels.to_model(x, 17, Scaling(0.25, 0.5)).tolist() == [-0.5, -0.375, 1.5]
    assert pixels.to_model(x, 17, Scaling.unit()).dtype == torch.float32


def test_model_space_clamps_what_a_network_overshoots() -> None:
    y = torch.tensor([-7.0, 7.0])
    assert pixels.from_model(y, 17, Scaling.symmetric()).tolist() == [0, 16]


def test_standard_scaling_is_the_mean_and_deviation() -> None:
    images = np.random.default_rng(0).integers(0, 17, (5000, 1, 2, 3)).astype(np.uint8)
    scaling = Scaling.standard(images, 17)
    assert scaling.shift == pytest.approx((images / 16).mean(), abs=1e-12)
    assert scaling.scale == pytest.approx((images / 16).std(), abs=1e-12)


def test_standard_scaling_of_constant_images_only_centers() -> None:
    assert Scaling.standard(np.full((3, 1, 2, 2), 8, np.uint8), 17) == Scaling(0.5, 1.0)


def test_quantize_is_floor_and_covers_all_levels() -> None:
    v = np.arange(256, dtype=np.uint8)
    for levels in ALL_LEVELS:
        q = pixels.quantize(v, 256, levels)
        assert q.tolist() == [i * levels // 256 for i in range(256)]
        assert set(q.tolist()) == set(range(levels))


def test_quantize_from_few_levels() -> None:
    v = np.arange(17, dtype=np.uint8)
    assert pixels.quantize(v, 17, 17).tolist() == list(range(17))
    assert pixels.quantize(v, 17, 2).tolist() == [0] * 9 + [1] * 8


def test_quantize_refuses_more_levels_than_there_are() -> None:
    with pytest.raises(UsageError, match=r"17 levels; choose 2 to 17, not 256"):
        pixels.quantize(np.zeros(1, np.uint8), 17, 256)


def test_display_bytes_are_monotone_and_reach_black_and_white() -> None:
    for levels in ALL_LEVELS:
        b = pixels.to_bytes(np.arange(levels, dtype=np.uint8), levels).astype(int)
        assert b[0] == 0
        assert b[-1] == 255
        assert (np.diff(b) > 0).all()
        assert np.abs(b - 255 * np.arange(levels) / (levels - 1)).max() <= 1


def test_a_saved_image_reads_back_as_the_same_levels() -> None:
    for levels in ALL_LEVELS:
        v = np.arange(levels, dtype=np.uint8)
        assert np.array_equal(pixels.quantize(pixels.to_bytes(v, levels), 256, levels), v), levels


def test_threshold_is_strict() -> None:
    v = np.array([0, 84, 85, 127, 128, 255], np.uint8)
    assert pixels.threshold(v, 256, 0.5).tolist() == [0, 0, 0, 0, 1, 1]
    assert pixels.threshold(v, 256, 0.33).tolist() == [0, 0, 1, 1, 1, 1]
    assert pixels.threshold(np.arange(17, dtype=np.uint8), 17, 0.5).tolist() == [0] * 9 + [1] * 8


def test_drawn_bits_have_the_right_mean_at_every_level() -> None:
    n = 20_000
    for levels in (2, 4, 17, 256):
        v = np.unique(np.linspace(0, levels - 1, 9).astype(np.uint8))
        images = np.repeat(v[:, None], n, axis=1)
        mean = pixels.draw_bits(images, levels, bits(levels)).mean(1)
        p = v / (levels - 1)
        assert mean[0] == 0
        assert mean[-1] == 1
        assert (np.abs(mean - p) <= 4.5 * np.sqrt(p * (1 - p) / n)).all()


def test_drawn_bits_are_a_fixed_stream() -> None:
    """The bits of a static binarization must never change."""
    drawn = pixels.draw_bits(np.full(24, 128, np.uint8), 256, bits(0, 1, 2))
    assert "".join(map(str, drawn)) == "000011100010111101010111"


def test_bits_of_an_image_depend_on_its_key_alone() -> None:
    images = np.full((4, 1, 5, 5), 100, np.uint8)
    together = pixels.draw_bits_each(images, 256, 3, 1, [10, 11, 12, 13])
    alone = pixels.draw_bits_each(images[:1], 256, 3, 1, [12])
    assert np.array_equal(together[2], alone[0])
    assert len({image.tobytes() for image in together}) == 4
    for seed, stream in ((4, 1), (3, 2)):
        assert not np.array_equal(together, pixels.draw_bits_each(images, 256, seed, stream, [10, 11, 12, 13]))
