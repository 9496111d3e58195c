"""Heads: sums to 1 at any number of levels, extreme logits, low precision, draws by inversion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from checks import JUST_BELOW_1, check_draw_inverts, check_head_sums_to_one
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.heads.discrete import Bernoulli, Categorical, Head, HeadConfig, check_temperature, make_head

HEADS: dict[str, Head] = {
    f"{kind.__name__} {spec}, {channels}": kind(spec, channels)
    for channels in ("ordered", "independent")
    for image_channels in (1, 3)
    for kind, levels in ((Bernoulli, 2), (Categorical, 2), (Categorical, 4), (Categorical, 17), (Categorical, 256))
    for spec in (ImageSpec(image_channels, 2, 3, levels),)
}
each_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def spec_of(head: Head) -> ImageSpec:
    assert isinstance(head, Bernoulli | Categorical)
    return head.spec


@each_head
def test_probabilities_sum_to_one(head: Head) -> None:
    check_head_sums_to_one(head, spec_of(head))
    check_head_sums_to_one(head, spec_of(head), scale=0.01)


@each_head
def test_draws_invert_the_distribution_function(head: Head) -> None:
    check_draw_inverts(head, spec_of(head))


@each_head
def test_outputs_and_groups(head: Head) -> None:
    spec = spec_of(head)
    assert head.outputs == spec.channels * (1 if head.kind == "bernoulli" else spec.levels)
    assert isinstance(head, Bernoulli | Categorical)
    assert head.groups == (spec.channels if head.channels == "ordered" else 1)


@each_head
@pytest.mark.parametrize("size", [50.0, 1e4])
def test_extreme_logits(head: Head, size: float) -> None:
    """No NaN, no infinity, and the right nats: 0 for the certain level, the gap of the logits for the others."""
    spec = spec_of(head)
    for certain in {0, spec.levels // 2, spec.levels - 1}:
        if head.kind == "bernoulli":
            params, gap = torch.full((1, head.outputs, 2, 3), size if certain else -size), size
        else:
            params = torch.full((1, spec.channels, spec.levels, 2, 3), -size)
            params[:, :, certain] = size
            params, gap = params.flatten(1, 2), 2 * size
        for level in {0, certain, spec.levels - 1}:
            nats = head.nats(params, torch.full((1, *spec.shape), level, dtype=torch.uint8))
            assert nats.flatten().tolist() == pytest.approx([0.0 if level == certain else gap] * spec.dims, rel=1e-6)
        table = head.table(params)
        assert bool(table.isfinite().all())
        assert float((table.sum(2) - 1).abs().max()) < 1e-12
        for noise in (0.0, 0.5, JUST_BELOW_1) if size > 100 else (1e-9, 0.5):
            drawn = head.draw(params, torch.full((1, *spec.shape), noise, dtype=torch.float64))
            assert drawn.unique().tolist() == [certain]


@each_head
def test_gradient_is_probability_minus_truth(head: Head) -> None:
    """Also the proof that no sigmoid or softmax stands before a loss that applies its own (trap 5)."""
    spec = spec_of(head)
    params = torch.randn(2, head.outputs, 2, 3, requires_grad=True)
    x = torch.randint(0, spec.levels, (2, *spec.shape)).byte()
    head.nats(params, x).sum().backward()
    assert params.grad is not None
    table = head.table(params.detach())
    truth = torch.nn.functional.one_hot(x.long(), spec.levels).movedim(-1, 2)
    expected = table - truth if head.kind == "categorical" else (table - truth)[:, :, 1:]
    torch.testing.assert_close(params.grad.double(), expected.flatten(1, 2), rtol=1e-4, atol=1e-6)


@each_head
def test_low_precision_ends_at_the_head(head: Head) -> None:
    """Parameters in bf16 give the same as in float32, and results are float32 and float64."""
    spec = spec_of(head)
    low = (5 * torch.randn(2, head.outputs, 2, 3)).bfloat16()
    x = torch.randint(0, spec.levels, (2, *spec.shape)).byte()
    noise = torch.rand(2, *spec.shape, dtype=torch.float64)
    assert head.nats(low, x).dtype == torch.float32
    assert head.table(low).dtype == torch.float64
    assert torch.equal(head.nats(low, x), head.nats(low.float(), x))
    assert torch.equal(head.table(low), head.table(low.float()))
    assert torch.equal(head.draw(low, noise, 0.7), head.draw(low.float(), noise, 0.7))


@each_head
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(head: Head, temperature: float) -> None:
    params = torch.randn(2, head.outputs, 2, 3, dtype=torch.float64)
    powers = head.table(params) ** (1 / temperature)
    expected = powers / powers.sum(2, keepdim=True)
    torch.testing.assert_close(head.table(params, temperature), expected, rtol=1e-9, atol=1e-12)
    noise = torch.rand(2, *spec_of(head).shape, dtype=torch.float64)
    assert torch.equal(head.draw(params, noise, temperature), head.draw(params / temperature, noise))


@pytest.mark.parametrize("levels", [2, 4, 17, 256])
def test_uniform_levels_at_the_edges_of_the_noise(levels: int) -> None:
    """Level k owns the noise in [k / L, (k + 1) / L): its first and last numbers, over all levels."""
    head = Categorical(ImageSpec(1, 1, levels, levels))
    params = torch.zeros(1, levels, 1, levels)
    edges = torch.arange(levels, dtype=torch.float64) / levels
    for nudge, noise in ((0.25, edges + 0.25 / levels), (0.75, edges + 0.75 / levels)):
        assert head.draw(params, noise.reshape(1, 1, 1, -1)).flatten().tolist() == list(range(levels)), nudge
    for noise, level in ((0.0, 0), (JUST_BELOW_1, levels - 1)):
        drawn = head.draw(params, torch.full((1, 1, 1, levels), noise, dtype=torch.float64))
        assert drawn.unique().tolist() == [level]
    beyond = torch.ones(1, 1, 1, levels, dtype=torch.float64)  # what noise becomes when it is rounded to float32
    assert head.draw(params, beyond).unique().tolist() == [levels - 1]


def test_bernoulli_is_the_difference_of_two_levels() -> None:
    spec = ImageSpec(3, 2, 3, 2)
    logit = 3 * torch.randn(4, 3, 2, 3)
    two = torch.stack((torch.zeros_like(logit), logit), dim=2).flatten(1, 2)
    x = torch.randint(0, 2, (4, 3, 2, 3)).byte()
    noise = torch.rand(4, 3, 2, 3, dtype=torch.float64)
    one, other = Bernoulli(spec), Categorical(spec)
    torch.testing.assert_close(one.nats(logit, x), other.nats(two, x))
    torch.testing.assert_close(one.table(logit, 0.6), other.table(two, 0.6))
    assert torch.equal(one.draw(logit, noise), other.draw(two, noise))


def test_impossible_levels_are_never_drawn() -> None:
    """Rounding leaves a distribution function short of 1; noise above it must not fall to an impossible last level."""
    spec = ImageSpec(1, 1, 500, 256)
    head, rng = Categorical(spec), np.random.default_rng(0)
    logits = np.full((1, 256, 1, 500), -1e4)
    logits[:, 30:50] = rng.normal(size=(1, 20, 1, 500))
    params = torch.from_numpy(logits)
    assert float(head.table(params).cumsum(2)[:, :, -1].min()) < 1  # the case is there
    for noise, level in ((0.0, 30), (JUST_BELOW_1, 49)):
        drawn = head.draw(params, torch.full((1, 1, 1, 500), noise, dtype=torch.float64))
        assert drawn.unique().tolist() == [level]


def test_contiguous_thirds() -> None:
    """Output c * L + v is level v of channel c (trap 3)."""
    spec = ImageSpec(3, 1, 1, 4)
    params = torch.zeros(1, 12, 1, 1)
    params[0, 1 * 4 + 2] = math.log(3)
    table = Categorical(spec).table(params)[0, :, :, 0, 0]
    sixth = 1 / 6
    expected = torch.tensor([[0.25] * 4, [sixth, sixth, 0.5, sixth], [0.25] * 4], dtype=torch.float64)
    torch.testing.assert_close(table, expected, rtol=1e-6, atol=0)


def test_make_head_fits_the_configuration() -> None:
    image = ImageSpec(3, 2, 2, 2)
    head = make_head(HeadConfig(kind="bernoulli", channels="independent"), image)
    assert head == Bernoulli(image, "independent")
    assert make_head(HeadConfig(kind="categorical"), image) == Categorical(image, "ordered")
    assert make_head(HeadConfig(), image) == Bernoulli(image, "ordered")
    assert make_head(HeadConfig(), ImageSpec(1, 8, 8, 17)) == Categorical(ImageSpec(1, 8, 8, 17), "ordered")
    with pytest.raises(UsageError, match=r"Bernoulli head needs 2 levels, these images have 17; use head\.kind="):
        make_head(HeadConfig(kind="bernoulli"), ImageSpec(1, 8, 8, 17))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_temperatures_that_are_none(temperature: float) -> None:
    with pytest.raises(UsageError, match=f"temperature: must be a positive number, not {temperature}"):
        check_temperature(temperature)


@pytest.mark.parametrize("temperature", [1e-3, 0.01, 1.0, 100.0])
def test_temperatures_that_are_some(temperature: float) -> None:
    check_temperature(temperature)
    head = Categorical(ImageSpec(1, 2, 3, 17))
    assert bool(head.table(torch.randn(1, 17, 2, 3), temperature).isfinite().all())
