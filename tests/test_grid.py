"""Grids pixel by pixel, and what a pixel sees."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from pixelloom.core.errors import ModelError, UsageError
from pixelloom.data.pixels import quantize, to_bytes
from pixelloom.viz import canvas
from pixelloom.viz import grid as plots
from pixelloom.viz import receptive_field as fields


def levels_of(n: int, channels: int, height: int, width: int, levels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, levels, (n, channels, height, width)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("levels", [2, 4, 17, 256])
def test_every_pixel_of_a_grid(channels: int, levels: int) -> None:
    images = levels_of(5, channels, 3, 4, levels)
    sheet = np.asarray(plots.grid(images, levels, columns=2, scale=3, margin=2)).reshape(3 * 11 + 2, 2 * 14 + 2, -1)
    shown = to_bytes(images, levels)
    covered = np.zeros(sheet.shape[:2], bool)
    for i in range(5):
        top, left = 2 + i // 2 * 11, 2 + i % 2 * 14
        for y in range(9):
            for x in range(12):
                assert np.array_equal(sheet[top + y, left + x], shown[i, :, y // 3, x // 3])
        covered[top : top + 9, left : left + 12] = True
    ground = np.unique(sheet[~covered].reshape(-1, channels), axis=0)
    assert len(ground) == 1  # margins and the empty last tile are one color ...
    assert 0 < ground.min() <= ground.max() < 255  # ... that is neither black nor white


def test_the_ends_of_the_scale_are_black_and_white() -> None:
    sheet = np.asarray(plots.grid(np.array([0, 16], np.uint8).reshape(2, 1, 1, 1), 17, columns=2, scale=1, margin=0))
    assert sheet.tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("n", "side", "size"),
    [(25, 8, 5 * (96 + 4) + 4), (25, 28, 5 * (84 + 1) + 1), (9, 64, 3 * (128 + 1) + 1), (1, 200, 202)],
)
def test_small_images_come_out_large(n: int, side: int, size: int) -> None:
    assert plots.grid(np.zeros((n, 1, side, side), np.uint8), 2).size == (size, size)


def test_a_crowd_is_enlarged_less() -> None:
    few, crowd = (plots.grid(np.zeros((n, 1, 8, 8), np.uint8), 2) for n in (4, 2500))
    assert few.width == 2 * 100 + 4
    assert 2000 < crowd.width < 2600


@pytest.mark.parametrize(("n", "size"), [(1, (1, 1)), (2, (2, 1)), (3, (2, 2)), (7, (3, 3)), (12, (4, 3))])
def test_as_square_as_can_be(n: int, size: tuple[int, int]) -> None:
    assert plots.grid(np.zeros((n, 1, 1, 1), np.uint8), 2, scale=1, margin=0).size == size


def test_channels_that_are_no_colors_stand_side_by_side() -> None:
    images = levels_of(1, 2, 3, 4, 256)
    sheet = np.asarray(plots.grid(images, 256, scale=1, margin=0))
    assert np.array_equal(sheet, np.concatenate([images[0, 0], images[0, 1]], axis=1))


@pytest.mark.parametrize(
    ("images", "wish", "word"),
    [
        (np.zeros((0, 1, 2, 2), np.uint8), {}, "one image or more"),
        (np.zeros((1, 2, 2), np.uint8), {}, r"\[N, C, H, W\]"),
        (np.zeros((1, 1, 2, 2), np.uint8), {"columns": 0}, "columns"),
        (np.zeros((1, 1, 2, 2), np.uint8), {"scale": 0}, "scale"),
        (np.zeros((1, 1, 2, 2), np.uint8), {"margin": -1}, "margin"),
    ],
)
def test_what_no_grid_can_be_made_of(images: np.ndarray, wish: dict[str, int], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        plots.grid(images, 2, **wish)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("levels", [2, 4, 17, 256])
def test_a_saved_image_gives_its_levels_back(channels: int, levels: int, tmp_path: Path) -> None:
    image = levels_of(1, channels, 5, 7, levels)[0]
    plots.save_png(plots.to_image(image, levels), tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as read:
        assert read.format == "PNG"
        pixels = np.asarray(read).reshape(5, 7, channels).transpose(2, 0, 1)
    assert np.array_equal(quantize(pixels, 256, levels), image)


def test_an_image_that_cannot_be_saved_leaves_no_part(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent/one\.png"):
        plots.save_png(Image.new("L", (2, 2)), tmp_path / "absent" / "one.png")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- large grids, field_kinds


def test_a_sheet_is_the_size_of_its_grid() -> None:
    for n, shape, wish in (
        (5, (1, 3, 4), {}),
        (7, (2, 8, 6), {"columns": 3}),
        (3, (3, 5, 5), {"scale": 2, "margin": 0}),
    ):
        layout = plots.grid_layout(n, shape, **wish)
        image = plots.grid(np.zeros((n, *shape), np.uint8), 2, **wish)
        assert layout.size == (image.height, image.width)


def test_a_grid_that_nobody_could_open_is_refused() -> None:
    side = math.isqrt(canvas.MAX_PIXELS)
    assert Image.MAX_IMAGE_PIXELS is not None
    assert canvas.MAX_PIXELS <= Image.MAX_IMAGE_PIXELS
    assert math.prod(plots.grid_layout(1, (1, side, side), scale=1, margin=0).size) <= canvas.MAX_PIXELS
    for n, shape, scale in ((1, (1, side + 1, side + 1), 1), (10, (3, 1000, 1000), 3), (10**7, (1, 8, 8), None)):
        with pytest.raises(UsageError, match=rf"a grid of {n} images .* too many to be opened"):
            plots.grid_layout(n, shape, scale=scale, margin=0)


FIELD = """
.....
.##..
.###.
##P..
.....
"""


def picture_of(text: str, marks: str) -> np.ndarray:
    return np.isin(np.array([list(line) for line in text.split()]), list(marks))


def test_what_each_pixel_is_to_another() -> None:
    field = np.stack([picture_of(FIELD, "#"), picture_of(FIELD, "#P")])  # of two channels, one sees its own pixel
    kinds = fields.field_kinds(field, (3, 2))
    # The rectangle of the seen pixels: rows 1 to 3, columns 0 to 3.
    assert kinds.tolist() == [[3, 3, 3, 3, 3], [2, 1, 1, 2, 3], [2, 1, 1, 1, 3], [1, 1, 0, 4, 4], [4, 4, 4, 4, 4]]
    assert fields.field_kinds(np.zeros((1, 2, 2), bool), (0, 1)).tolist() == [[3, 0], [4, 4]]
    leak = np.zeros((1, 2, 2), bool)
    leak[0, 1, 1] = True
    assert fields.field_kinds(leak, (0, 1))[1, 1] == list(fields.FIELD_KINDS).index("later, but read")
    for position in ((-1, 0), (0, -1), (2, 0), (0, 2)):
        with pytest.raises(UsageError, match="rows 0 to 1 and columns 0 to 1"):
            fields.field_kinds(leak, position)


@pytest.mark.parametrize("size", [(5, 5), (3, 40), (40, 3), (1, 1), (100, 100)])
def test_the_chart_shows_each_pixel_in_its_color_and_counts_them(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    position = (size[0] // 2, size[1] // 2)
    kinds = fields.field_kinds(rng.random((1, *size)) < 0.5, position)
    figure = fields.field_figure(kinds)
    (axes,) = figure.axes
    (mesh,) = axes.collections
    figure.draw_without_rendering()
    colors = [to_rgb(fields.FIELD_KINDS[name]) for name in fields.FIELD_KINDS]
    assert np.allclose(mesh.to_rgba(kinds.ravel())[:, :3], [colors[kind] for kind in kinds.ravel()])
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(size), kinds)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # row 0 on top
    legend = axes.get_legend()
    assert legend is not None
    told = [text.get_text() for text in legend.get_texts()]
    assert told[0] == f"row {position[0]}, column {position[1]}"
    truth = {name: int((kinds == kind).sum()) for kind, name in enumerate(fields.FIELD_KINDS)}
    assert told[1:5] == [f"{truth[name]:,} {name}" for name in list(fields.FIELD_KINDS)[1:5]]
    assert len(told) == (6 if truth["later, but read"] else 5)
    # Nothing is cut off.
    width, height = figure.get_size_inches() * figure.dpi
    for box in (legend.get_window_extent(), axes.get_tightbbox()):
        assert box is not None
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_a_receptive_field_is_drawn_into_a_file(tmp_path: Path) -> None:
    fields.receptive_field(picture_of(FIELD, "#")[None], (3, 2), tmp_path / "field.png")
    with Image.open(tmp_path / "field.png") as drawn:
        colors = {color for _, color in drawn.convert("RGB").getcolors(1 << 24) or []}
    names = list(fields.FIELD_KINDS)
    for name in names[:5]:
        assert tuple(round(255 * part) for part in to_rgb(fields.FIELD_KINDS[name])) in colors
    assert tuple(round(255 * part) for part in to_rgb(fields.FIELD_KINDS[names[5]])) not in colors
    with pytest.raises(ModelError, match=r"absent/x\.png"):
        fields.receptive_field(picture_of(FIELD, "#")[None], (3, 2), tmp_path / "absent" / "x.png")
