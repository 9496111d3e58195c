"""Layout of composed images: where text, stacks, labels and tiles lie, pixel by pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from pixelloom.core.errors import UsageError
from pixelloom.viz import canvas
from pixelloom.viz.canvas import Line


def block(width: int, height: int, color: str, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (width, height), color)


def ink(image: Image.Image) -> tuple[int, int, int, int]:
    """First and last row, first and last column that are not white."""
    ys, xs = np.nonzero(np.asarray(image.convert("L")) < 128)
    return int(ys.min()), int(ys.max()), int(xs.min()), int(xs.max())


def test_stacks_place_blocks_with_gaps() -> None:
    red, blue = block(3, 2, "red"), block(5, 4, "blue")
    below = np.asarray(canvas.vstack([red, blue], 1))
    assert below.shape == (7, 5, 3)
    assert (below[:2, :3] == (255, 0, 0)).all()
    assert (below[3:, :] == (0, 0, 255)).all()
    assert (below[2] == 255).all()
    assert (below[:2, 3:] == 255).all()
    assert (np.asarray(canvas.vstack([red, blue], align="right"))[:2, 2:] == (255, 0, 0)).all()
    beside = np.asarray(canvas.hstack([red, blue], 2, "middle"))
    assert beside.shape == (4, 10, 3)
    assert (beside[1:3, :3] == (255, 0, 0)).all()
    assert (beside[:, 5:] == (0, 0, 255)).all()
    assert (beside[:, 3:5] == 255).all()


def test_gray_blocks_stay_gray_and_transparent_ones_lie_on_white() -> None:
    gray = block(2, 2, "black", "L")
    assert canvas.vstack([gray, gray]).mode == "L"
    assert canvas.vstack([gray, block(1, 1, "red")]).mode == "RGB"
    clear = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    assert canvas.hstack([clear]).getpixel((0, 0)) == (255, 255, 255)


def test_margins() -> None:
    padded = np.asarray(canvas.pad(block(2, 2, "black", "L"), 1, 2, 3, 4))
    assert padded.shape == (8, 6)
    assert (padded[2:4, 1:3] == 0).all()
    assert padded.sum() == 255 * (48 - 4)
    assert canvas.widen(block(2, 2, "red"), 7).size == (7, 2)
    assert canvas.widen(block(9, 2, "red"), 7).size == (9, 2)


@pytest.mark.parametrize("width", [60, 100, 300])
def test_lines_are_as_wide_as_allowed_and_no_word_is_lost(width: int) -> None:
    text = "one two three four five six seven eight nine ten"
    lines = canvas.wrap(Line(text), width)
    assert " ".join(lines) == text
    assert all(canvas.text_width(line) <= width for line in lines)
    for line, following in itertools.pairwise(lines):
        assert canvas.font(15).getlength(f"{line} {following.split()[0]}") > width  # the next word did not fit


def test_long_words_are_broken_and_empty_text_has_no_lines() -> None:
    parts = canvas.wrap(Line("a " + "x" * 99), 100)
    assert "".join(parts) == "a" + "x" * 99
    assert all(canvas.text_width(part) <= 100 for part in parts)
    assert canvas.wrap(Line(""), 100) == []


def test_a_paragraph_has_a_line_for_each_line() -> None:
    two = canvas.paragraph([Line("first", 20), Line("second line", 10, canvas.SOFT)])
    assert two.size == (max(canvas.text_width("first", 20), canvas.text_width("second line", 10)), 28 + 14)
    assert ink(two)[0] < 28 <= ink(two)[1]
    assert canvas.paragraph([Line("a b c d e f", 20)], 40).height > 28
    assert canvas.paragraph([], 40).size == (40, 1)


def test_text_has_letters_of_other_alphabets() -> None:
    boxes = {np.asarray(canvas.paragraph([Line(letter, 30)], 40)).tobytes() for letter in "кошλΩż"}
    assert len(boxes) == 6  # a missing letter would be the same box


def test_labels_are_centered() -> None:
    columns = canvas.column_labels(["I", "I"], [20, 70], 100, 12)
    assert columns.size == (100, 24)
    pixels = np.asarray(columns) < 128
    for half, center in ((pixels[:, :50], 20), (pixels[:, 50:], 20)):
        xs = np.nonzero(half)[1]
        assert abs((xs.min() + xs.max()) / 2 - center) <= 1
    rows = canvas.row_labels(["I", "III"], [20, 60], 80, 12)
    pixels = np.asarray(rows) < 128
    assert rows.height == 80
    for half, center in ((pixels[:40], 20), (pixels[40:], 20)):
        ys, xs = np.nonzero(half)
        assert abs((ys.min() + ys.max()) / 2 - center) <= 2
        assert rows.width - 9 <= xs.max() <= rows.width - 5  # right-aligned before a gap


@pytest.mark.parametrize("size", [(6, 8), (3, 4), (7, 5)])
def test_enlarging_repeats_the_nearest_pixel(size: tuple[int, int]) -> None:
    values = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    large = canvas.enlarge(values, size)
    assert large.shape == (2, *size)
    for y in range(size[0]):
        for x in range(size[1]):
            assert np.array_equal(large[:, y, x], values[:, y * 3 // size[0], x * 4 // size[1]])


def test_centers_of_tiles() -> None:
    layout = canvas.tile_layout(6, (4, 5), columns=3, scale=2, margin=1)
    assert (layout.rows, layout.size) == (2, (1 + 2 * 9, 1 + 3 * 11))
    assert layout.row_centers == [1 + 4, 1 + 9 + 4]
    assert layout.column_centers == [1 + 5, 1 + 11 + 5, 1 + 22 + 5]
    assert layout.corner(4) == (10, 12)


def test_sizes_that_programs_refuse_to_open() -> None:
    canvas.check_size(8900, 10_000, "this")
    with pytest.raises(UsageError, match="this would have 8901 x 10000 pixels, too many to be opened; draw less"):
        canvas.check_size(8901, 10_000, "this", "draw less")
