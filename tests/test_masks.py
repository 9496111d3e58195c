"""Masks of hidden pixels: named regions, boxes, strokes, and the random masks of training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pixelloom.core.errors import UsageError
from pixelloom.core.types import Batch, ImageSpec
from pixelloom.data.conditions import Condition
from pixelloom.data.masks import NUMBERS, REGIONS, box, fixed_masks, random_masks, region, strokes
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig, make_head
from pixelloom.layers.condition_encoder import ConditionEncoder
from pixelloom.objectives.base import Monitor
from pixelloom.objectives.config import OptimConfig
from pixelloom.objectives.likelihood import likelihood

DRAWN = {
    "bottom": ["......", "......", "######", "######", "######"],
    "top": ["######", "######", "......", "......", "......"],
    "left": ["###..."] * 5,
    "right": ["...###"] * 5,
    "center": ["......", ".###..", ".###..", "......", "......"],
}


def of_text(rows: list[str]) -> Tensor:
    """A mask as rows of text, # for hidden."""
    return torch.tensor([[c == "#" for c in row] for row in rows])


@pytest.mark.parametrize("name", REGIONS)
def test_regions_are_as_drawn(name: str) -> None:
    assert torch.equal(region(name, 5, 6), of_text(DRAWN[name]))


@pytest.mark.parametrize(("share", "count"), [("0%", 0), ("75%", 22), ("100%", 30), ("33.3%", 10)])
def test_a_share_of_random_pixels(share: str, count: int) -> None:
    mask = region(share, 5, 6)
    assert int(mask.sum()) == count
    assert torch.equal(mask, region(share, 5, 6))
    assert count in (0, 30) or not torch.equal(mask, region(share, 5, 6, seed=1))


def test_shares_are_nested_and_uniform() -> None:
    few, many = region("20%", 8, 8, seed=3), region("60%", 8, 8, seed=3)
    assert bool((few <= many).all())
    mean = torch.stack([region("25%", 4, 4, seed) for seed in range(400)]).double().mean(0)
    assert float((mean - 0.25).abs().max()) < 5 * math.sqrt(0.25 * 0.75 / 400)


@pytest.mark.parametrize("name", ["middle", "120%", "-1%", "x%", "", "nan%"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="hide: bottom, top, left, right, center, or a share of random pixels"):
        region(name, 5, 6)


def test_a_box() -> None:
    assert torch.equal(box((1, 2, 3, 2), 5, 6), of_text(["......", "..##..", "..##..", "..##..", "......"]))
    assert not bool(box((5, 6, 0, 0), 5, 6).any())
    for wrong in ((3, 0, 3, 1), (0, 5, 1, 2), (-1, 0, 1, 1), (0, 0, -1, 1)):
        with pytest.raises(UsageError, match="do not lie within an image of 5x6"):
            box(wrong, 5, 6)


def test_strokes_are_pixels_near_a_line() -> None:
    generator = torch.Generator().manual_seed(0)
    points, radius = torch.rand(6, 3, 2, generator=generator), 0.5 + 2 * torch.rand(6, generator=generator)
    found = strokes(points, radius, 7, 9)
    steps = np.linspace(0, 1, 2001)[:, None]
    for mask, line, r in zip(found, points.double().numpy() * [7, 9], radius.tolist(), strict=True):
        way = np.concatenate([a + steps * (b - a) for a, b in itertools.pairwise(line)])
        for y in range(7):
            for x in range(9):
                distance = np.hypot(*(way - [y + 0.5, x + 0.5]).T).min()
                if abs(distance - r) > 1e-3:
                    assert bool(mask[y, x]) == (distance < r)


def test_each_kind_of_random_mask_occurs_a_sixth_of_the_time() -> None:
    n, side = 3000, 12
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(n, NUMBERS, generator=generator)
    masks = random_masks(numbers, torch.rand(n, side, side, generator=generator))[:, 0]
    kind = (numbers[:, 0] * 6).long()
    for number in range(6):
        of_kind = masks[kind == number]
        assert abs(len(of_kind) - n / 6) < 5 * math.sqrt(n * 5 / 36)
        rows, columns = of_kind.any(2), of_kind.any(1)  # [k, H], [k, W]
        if number == 0:
            assert bool(of_kind.all())
        elif number == 1:  # one side of a cut: rows or columns, hidden or not as a whole
            whole = (of_kind == of_kind[:, :1]).flatten(1).all(1) | (of_kind == of_kind[:, :, :1]).flatten(1).all(1)
            assert bool(whole.all())
            for edge in (of_kind[:, 0], of_kind[:, -1], of_kind[:, :, 0], of_kind[:, :, -1]):
                assert 0.15 < float(edge.all(1).double().mean()) < 0.45  # all four sides are hidden at times
        elif number == 2:
            assert torch.equal(of_kind, rows[:, :, None] & columns[:, None])
        elif number == 3:
            inside = ~of_kind
            assert torch.equal(inside, inside.any(2)[:, :, None] & inside.any(1)[:, None])
        elif number == 5:
            share = of_kind.double().mean((1, 2))
            assert np.allclose(np.quantile(share, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.06)


def test_fixed_masks_never_change() -> None:
    masks = fixed_masks(50, 6, 5)
    assert torch.equal(masks[:20], fixed_masks(20, 6, 5))
    assert masks.shape == (50, 1, 6, 5)
    assert not torch.equal(masks, fixed_masks(50, 6, 5, seed=1))
    assert int(masks.sum()) == 786


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_the_conditioning_image_holds_the_known_pixels_and_where_they_are(levels: int) -> None:
    spec = ImageSpec(3, 4, 5, levels)
    condition = Condition("mask", spec)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(levels, (3, *spec.shape), dtype=torch.uint8, generator=generator)
    hidden = torch.rand(3, 1, 4, 5, generator=generator) < 0.5
    given = condition.partly(images, hidden)
    planes, shown = condition.planes(given), condition.to_images(given)
    for i in range(3):
        for y in range(4):
            for x in range(5):
                known = not bool(hidden[i, 0, y, x])
                assert int(given[i, 3, y, x]) == float(planes[i, 3, y, x]) == known
                for c in range(3):
                    value = int(images[i, c, y, x])
                    assert int(given[i, c, y, x]) == (value if known else 0)
                    assert float(planes[i, c, y, x]) == pytest.approx(value / (levels - 1) if known else 0)
                    assert int(shown[i, c, y, x]) == (value if known else levels // 2)
    assert torch.equal(condition.hidden(given), hidden)
    assert torch.equal(condition.of(images), torch.zeros_like(given))
    assert condition.spec == ImageSpec(4, 4, 5, levels)


class _Seen(nn.Module):
    """Keeps what it is given; its logits are a parameter."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(-2, 2, spec.dims).view(spec.shape))
        self.condition: Tensor | None = None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        self.condition = condition
        return self.logits.expand(len(x), -1, -1, -1)


def test_the_loss_is_the_mean_over_hidden_pixels() -> None:
    spec = ImageSpec(1, 6, 6, 2)
    condition, network = Condition("mask", spec), _Seen(spec)
    head = make_head(HeadConfig(), spec)
    objective = likelihood(
        network, head, 2, Scaling.symmetric(), OptimConfig(), Monitor("bits/dim", _nothing), condition=condition
    )
    images = (torch.rand(40, *spec.shape, generator=torch.Generator().manual_seed(1)) < 0.5).to(torch.uint8)
    torch.manual_seed(0)
    loss, stats = objective.phases[0].loss(Batch(images, None))
    assert network.condition is not None
    hidden = network.condition[:, 1:] == 0
    assert 0.3 < float(hidden.float().mean()) < 0.8
    assert torch.equal(network.condition[:, :1], images * ~hidden)
    p = torch.sigmoid(network.logits.detach().double()).expand(40, -1, -1, -1)
    nats = -torch.where(images == 1, p, 1 - p).log()
    assert float(loss.detach()) == pytest.approx(float(nats[hidden].mean()), rel=1e-5)
    assert float(stats["bits/dim"]) == pytest.approx(float(nats[hidden].mean()) / math.log(2), rel=1e-5)
    loss.backward()
    assert network.logits.grad is not None
    expected = ((p - images.double()) * hidden).sum(0) / hidden.sum()
    torch.testing.assert_close(network.logits.grad.double(), expected, rtol=0, atol=1e-6)


def _nothing(_: nn.Module) -> Mapping[str, float]:
    return {}


@pytest.mark.parametrize(("height", "width"), [(28, 28), (5, 7), (32, 20), (1, 40)])
def test_every_known_pixel_reaches_every_position(height: int, width: int) -> None:
    torch.manual_seed(0)
    encoder = ConditionEncoder(2, 3, height, width).double()
    for y, x in ((0, 0), (height - 1, width - 1), (0, width - 1), (height // 2, width // 2)):
        image = torch.zeros(1, 2, height, width, dtype=torch.float64, requires_grad=True)
        encoder(image)[0, :, y, x].sum().backward()
        assert image.grad is not None
        assert bool((image.grad[0].abs().sum(0) > 0).all())
