"""Masks against their definition, and the cropped convolution against the whole masked kernel."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from checks import check_taps
from pixelloom.layers import masked_conv
from pixelloom.layers.masked_conv import MaskedConv2d, causal_mask, center_mask, draw_mask, feature_groups, group_sizes
from settings import live

SHAPES = [(6, 3, 3), (20, 20, 3), (64, 7, 3), (5, 3, 1), (4, 9, 2)]  # out, in, groups


def whole_mask(kernel: int, mask: str, out: int, inputs: int, groups: int) -> Tensor:
    """The mask of a whole k x k kernel by the words of the paper, one weight at a time."""
    seen = torch.zeros(out, inputs, kernel, kernel, dtype=torch.bool)
    for o, i, y, x in itertools.product(range(out), range(inputs), range(kernel), range(kernel)):
        before = (y, x) < (kernel // 2, kernel // 2)
        center = (y, x) == (kernel // 2, kernel // 2)
        reader, read = math.floor(o * groups / out), math.floor(i * groups / inputs)
        seen[o, i, y, x] = before or (center and (read < reader if mask == "A" else read <= reader))
    return seen


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize(("out", "inputs", "groups"), SHAPES)
def test_mask_is_its_definition_and_crops_nothing_but_zeros(
    kernel: int, mask: masked_conv.Mask, out: int, inputs: int, groups: int
) -> None:
    whole = whole_mask(kernel, mask, out, inputs, groups)
    rows = kernel // 2 + 1
    assert torch.equal(causal_mask(kernel, mask, out, inputs, groups), whole[:, :, :rows])
    assert not whole[:, :, rows:].any()
    assert torch.equal(center_mask(mask, out, inputs, groups), whole[:, :, kernel // 2, kernel // 2])


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_cropped_kernel_equals_the_whole_masked_kernel(
    kernel: int, mask: masked_conv.Mask, groups: int, bias: bool
) -> None:
    conv = MaskedConv2d(4, 8, kernel, mask=mask, groups=groups, bias=bias).double()
    live(conv)
    whole = torch.randn(8, 4, kernel, kernel, dtype=torch.float64)  # what lies below the center must not matter
    whole[:, :, : kernel // 2 + 1] = conv.weight.detach()
    whole *= whole_mask(kernel, mask, 8, 4, groups)
    x = torch.randn(2, 4, 6, 9, dtype=torch.float64)
    torch.testing.assert_close(conv(x), F.conv2d(x, whole, conv.bias, padding=kernel // 2), rtol=1e-12, atol=1e-12)
    assert conv.weight.shape == (8, 4, kernel // 2 + 1, kernel)  # 4x7 of 7x7: the rest is not even stored


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("mask", ["A", "B"])
def test_own_row_is_read_and_rows_below_never(kernel: int, mask: masked_conv.Mask) -> None:
    """Trap 2: clearing the wrong half of the center row removes the pixel's own row and leaks the rows below."""
    conv = MaskedConv2d(1, 1, kernel, mask=mask)
    torch.nn.init.ones_(conv.weight)
    x = torch.zeros(1, 1, 9, 9, requires_grad=True)
    conv(x)[0, 0, 4, 4].backward()
    assert x.grad is not None
    r = kernel // 2
    expected = np.zeros((9, 9))
    expected[4 - r : 4, 4 - r : 5 + r] = 1
    expected[4, 4 - r : 4] = 1
    expected[4, 4] = mask == "B"
    np.testing.assert_array_equal(x.grad[0, 0].numpy(), expected)


@pytest.mark.parametrize(
    ("mask", "read"),
    [
        ("A", [[0, 0, 0], [1, 0, 0], [1, 1, 0]]),
        ("B", [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
    ],
)
def test_red_before_green_before_blue(mask: masked_conv.Mask, read: list[list[int]]) -> None:
    assert center_mask(mask, 3, 3, 3).int().tolist() == read
    doubled = center_mask(mask, 6, 6, 3).int()
    assert doubled[::2, ::2].tolist() == doubled[1::2, 1::2].tolist() == read  # contiguous: R R G G B B


def test_both_halves_of_a_gate_are_masked_alike() -> None:
    halves = causal_mask(3, "B", 2 * 7, 7, 3, copies=2).chunk(2)
    assert torch.equal(halves[0], halves[1])
    assert torch.equal(halves[0], causal_mask(3, "B", 7, 7, 3))
    assert not torch.equal(torch.cat(halves), causal_mask(3, "B", 14, 7, 3))  # thirds of 14 are not twice thirds of 7


@pytest.mark.parametrize("features", [1, 2, 3, 4, 5, 20, 22, 64, 120, 768])
@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_groups_are_contiguous_and_fair(features: int, groups: int) -> None:
    if features < groups:
        with pytest.raises(ValueError, match=f"{features} features cannot be shared among {groups} image channels"):
            feature_groups(features, groups)
        return
    group, sizes = feature_groups(features, groups).tolist(), group_sizes(features, groups)
    assert group == sorted(group)
    assert sizes == [group.count(g) for g in range(groups)]
    assert sum(sizes) == features
    assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1


def test_sixty_four_features_for_three_channels() -> None:
    assert group_sizes(64, 3) == [22, 21, 21]
    assert group_sizes(768, 3) == [256, 256, 256]


@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize(("features", "kernel", "groups", "copies"), [(6, 3, 1, 1), (7, 5, 3, 1), (8, 1, 3, 2)])
def test_masked_taps_never_move_or_matter(
    mask: masked_conv.Mask, features: int, kernel: int, groups: int, copies: int
) -> None:
    check_taps(MaskedConv2d(features, copies * features, kernel, mask=mask, groups=groups, copies=copies))


def test_nothing_is_multiplied_where_nothing_is_masked() -> None:
    conv = MaskedConv2d(4, 5, 1, mask="B")
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias))
    assert bool(conv.mask.all())


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize("groups", [1, 3])
def test_initial_scale_counts_the_taps_that_exist(kernel: int, mask: masked_conv.Mask, groups: int) -> None:
    """He et al.: variance 2 / fan-in keeps the scale of rectified features, whatever the mask takes away."""
    if (kernel, mask, groups) == (1, "A", 1):
        assert not MaskedConv2d(30, 600, 1, mask="A").mask.any()
        return
    torch.manual_seed(0)
    conv = MaskedConv2d(30, 600, kernel, mask=mask, groups=groups)
    fan_in = float(conv.mask.flatten(1).sum(1).mean())
    assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)


def test_image_smaller_than_the_kernel() -> None:
    conv = MaskedConv2d(1, 2, 7, mask="B")
    assert conv(torch.ones(1, 1, 1, 2)).shape == (1, 2, 1, 2)
    out = conv(torch.ones(1, 1, 1, 2))[0, :, 0]
    taps = conv.weight.detach()[:, 0, 3]
    torch.testing.assert_close(out[:, 0], taps[:, 3])
    torch.testing.assert_close(out[:, 1], taps[:, 2] + taps[:, 3])


@pytest.mark.parametrize("kernel", [0, -1, 2, 4])
def test_kernels_without_a_center_are_refused(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"odd and positive, not {kernel}"):
        MaskedConv2d(4, 4, kernel, mask="B")


def test_other_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="2 features cannot be shared among 3 image channels: give at least 3"):
        MaskedConv2d(3, 2, 3, mask="A", groups=3)
    with pytest.raises(ValueError, match="'A' or 'B', not 'C'"):
        causal_mask(3, "C", 3, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="9 output features do not divide into 2"):
        MaskedConv2d(4, 9, 3, mask="B", copies=2)


DRAWINGS = {
    (5, "A", 1): "# # # # #\n# # # # #\n# # . . .\n. . . . .\n. . . . .",
    (5, "B", 1): "# # # # #\n# # # # #\n# # # . .\n. . . . .\n. . . . .",
    (3, "A", 3): "# # #\n# # .\n. . .",  # blue reads the red of its own pixel
    (1, "A", 1): ".",
    (1, "B", 1): "#",
}


@pytest.mark.parametrize(("case", "drawing"), DRAWINGS.items(), ids=str)
def test_masks_can_be_printed(case: tuple[int, masked_conv.Mask, int], drawing: str) -> None:
    kernel, mask, groups = case
    drawn = draw_mask(causal_mask(kernel, mask, 3, 3, groups))
    assert drawn == drawing
    assert drawn.isascii()


def test_the_docstring_draws_the_masks() -> None:
    assert masked_conv.__doc__ is not None
    assert masked_conv.__doc__.isascii()
    rows = [line.strip()[:9] for line in masked_conv.__doc__.splitlines()]
    begin = rows.index("# # # # #")
    drawn = "\n".join(rows[begin : begin + 5])
    assert drawn.replace("?", ".") == DRAWINGS[5, "A", 1]
    assert drawn.replace("?", "#") == DRAWINGS[5, "B", 1]


def test_printing_a_layer_says_what_it_reads() -> None:
    assert "2, 4, kernel=4x7 of 7x7, mask=A" in str(MaskedConv2d(2, 4, 7, mask="A"))
