"""The mixture of logistics against scipy and enumeration: any depth, coupled channels, extremes, draws by inversion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import torch
from torch import Tensor

from checks import (
    JUST_BELOW_1,
    Method,
    all_images,
    check_batch_free,
    check_draws,
    check_fast_is_plain,
    check_sampler,
    check_world_sums_to_one,
    value_probabilities,
)
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.heads.discrete import Categorical, HeadConfig, make_head
from pixelloom.heads.logistic_mixture import Logistics, _Mixture
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from settings import Setting

LEVELS = (2, 3, 4, 17, 256)
HEADS = {
    f"{channels} x {levels} levels, {mixtures} components": Logistics(ImageSpec(channels, 2, 3, levels), mixtures)
    for channels, mixtures, depths in ((1, 10, LEVELS), (3, 5, LEVELS), (1, 1, (2, 256)), (2, 3, (4,)), (3, 1, (17,)))
    for levels in depths
}
each_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
each_method = pytest.mark.parametrize("method", ["fast", "plain"])


def random_params(head: Logistics, scale: float = 1.0, b: int = 2, seed: int = 0) -> Tensor:
    return scale * torch.randn(b, head.outputs, 2, 3, generator=torch.Generator().manual_seed(seed))


def random_levels(head: Logistics, b: int = 2, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, head.spec.levels, (b, head.spec.channels, 2, 3), generator=generator).byte()


# The truth, position by position


def cut(head: Logistics, params: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The parameters of one position by name, from the words of the class."""
    m, c = head.mixtures, head.spec.channels
    rows = params.reshape(-1, m)
    shares = np.array([-1 + (2 * k + 1) / m for k in range(m)])
    pairs = [(later, earlier) for later in range(c) for earlier in range(later)]
    assert len(rows) == 1 + 2 * c + len(pairs)
    weights = np.exp(rows[0] - rows[0].max())
    return {
        "weights": weights / weights.sum(),
        "means": rows[1 : 1 + c] + shares,
        "scales": np.exp((rows[1 + c : 1 + 2 * c] - math.log(m)).clip(-7, 7)),
        "betas": {pair: np.tanh(row) for pair, row in zip(pairs, rows[1 + 2 * c :], strict=True)},
    }


def bin_probability(level: int, levels: int, mean: float, scale: float) -> float:
    """By scipy's distribution function, from the side on which it is small."""
    width = 2 / (levels - 1)
    y = -1 + width * level
    low = -math.inf if level == 0 else y - width / 2
    high = math.inf if level == levels - 1 else y + width / 2
    logistic = scipy.stats.logistic(mean, scale)
    if low > mean:
        return float(logistic.sf(low) - logistic.sf(high))
    return float(logistic.cdf(high) - logistic.cdf(low))


def joint_probability(head: Logistics, params: npt.NDArray[np.float64], pixel: tuple[int, ...]) -> float:
    """P of the first channels of a pixel: sum over components of weight times product over channels."""
    part, levels = cut(head, params), head.spec.levels
    y = [-1 + 2 * level / (levels - 1) for level in pixel]
    total = 0.0
    for k in range(head.mixtures):
        p = part["weights"][k]
        for c, level in enumerate(pixel):
            mean = part["means"][c, k] + sum(part["betas"][c, e][k] * y[e] for e in range(c))
            p *= bin_probability(level, levels, mean, part["scales"][c, k])
        total += p
    return total


@each_head
def test_the_table_is_that_of_scipys_logistic(head: Logistics) -> None:
    """At any number of levels (trap 9: 1/255 and 127.5): conditionals are ratios of sums over components."""
    params, x = random_params(head), random_levels(head)
    table = head.table(params, 1.0, x)
    assert table.shape == (2, head.spec.channels, head.spec.levels, 2, 3)
    assert table.dtype == torch.float64
    flat = params.double().numpy()
    some = {0, 1, head.spec.levels // 2, head.spec.levels - 2, head.spec.levels - 1}
    for b, i, j in ((0, 0, 0), (1, 1, 2)):
        pixel = tuple(x[b, :, i, j].tolist())
        for c in range(head.spec.channels):
            before = joint_probability(head, flat[b, :, i, j], pixel[:c]) if c else 1.0
            for level in some:
                expected = joint_probability(head, flat[b, :, i, j], (*pixel[:c], level)) / before
                assert float(table[b, c, level, i, j]) == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_every_level_of_a_row_of_256() -> None:
    """All of them, edges included, for a narrow, a bin-wide and a wide component."""
    for log_scale in (-6.0, math.log(2 / 255), 0.5):
        head = Logistics(ImageSpec(1, 1, 1, 256), 1)
        params = torch.tensor([0.0, 0.3, log_scale]).view(1, 3, 1, 1)
        expected = [bin_probability(v, 256, float(params[0, 1]), math.exp(float(params[0, 2]))) for v in range(256)]
        np.testing.assert_allclose(head.table(params)[0, 0, :, 0, 0], expected, rtol=1e-8, atol=1e-300)


# Sums to 1, nats


def nats_of_every_level(head: Logistics, params: Tensor, x: Tensor) -> Tensor:
    """By the nats that training sees, with each channel in turn at each level, [B, C, L, H, W]."""
    nats = []
    for level in range(head.spec.levels):
        moved = [torch.cat((x[:, :c], torch.full_like(x[:, :1], level), x[:, c + 1 :]), 1) for c in range(x.shape[1])]
        nats.append(torch.stack([head.nats(params, image)[:, c] for c, image in enumerate(moved)], dim=1))
    return torch.stack(nats, dim=2)


@each_head
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_probabilities_sum_to_one_and_are_those_of_the_nats(head: Logistics, scale: float) -> None:
    params, x = random_params(head, scale), random_levels(head)
    table = head.table(params, 1.0, x)
    assert float((table.sum(2) - 1).abs().max()) < 1e-12
    nats = nats_of_every_level(head, params, x)
    assert nats.dtype == torch.float32
    some = table > 1e-300  # float64 ends there, the nats do not
    torch.testing.assert_close(nats.double()[some], -table[some].log(), rtol=1e-4, atol=2e-4)
    assert bool((nats[~some] > 600).all())
    assert float(((-nats.double()).exp().sum(2) - 1).abs().max()) < 2e-5
    assert torch.equal(head.nats(params, x), nats.gather(2, x[:, :, None].long())[:, :, 0])


@pytest.mark.parametrize("levels", LEVELS)
def test_small_probabilities_are_kept(levels: int) -> None:
    """No lower bound for a bin far from the mean (trap 9: the fallback for differences below 1e-5)."""
    head = Logistics(ImageSpec(1, 1, levels, levels), 1)
    params = torch.tensor([0.0, 50.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 1, levels)
    nats = head.nats(params, torch.arange(levels, dtype=torch.uint8).view(1, 1, 1, levels)).flatten().double()
    # Below the mean F(z) = exp(z), so each bin but the last is its upper edge less its lower one.
    width = 2 / (levels - 1)
    upper = [-1 + width * (v + 0.5) - 50 for v in range(levels)]
    expected = [-z - (math.log(-math.expm1(-width)) if v else 0.0) for v, z in enumerate(upper[:-1])]
    assert min(expected) > 40
    assert nats[:-1].tolist() == pytest.approx(expected, rel=1e-6)
    assert float(nats[-1]) == pytest.approx(0.0, abs=1e-6)


EXTREMES = [-1e4, -30.0, 0.0, 30.0, 1e4]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_parameters(levels: int, channels: int, dtype: torch.dtype) -> None:
    """No NaN, no infinity, gradients that can be used, sums of 1 (trap 9: 0 times -inf)."""
    n = 400
    head = Logistics(ImageSpec(channels, 1, n, levels), 3)
    rng = np.random.default_rng(0)
    params = torch.from_numpy(rng.choice(EXTREMES, (1, head.outputs, 1, n))).to(dtype).requires_grad_()
    x = torch.from_numpy(rng.integers(0, levels, (1, channels, 1, n), dtype=np.uint8))
    nats = head.nats(params, x)
    assert nats.dtype == torch.float32
    assert bool(nats.isfinite().all())
    assert float(nats.detach().min()) > -1e-5
    assert float(nats.detach().max()) > 1e4
    nats.double().mean().backward()
    assert params.grad is not None
    assert bool(params.grad.isfinite().all())
    assert bool((params.grad != 0).any())
    table = head.table(params.detach(), 1.0, x)
    assert float((table.sum(2) - 1).abs().max()) < 1e-12
    for noise in (0.0, 0.5, JUST_BELOW_1):
        drawn = head.draw(params.detach(), torch.full((1, channels, 1, n), noise, dtype=torch.float64))
        assert int(drawn.max()) < levels
        reached = head.table(params.detach(), 1.0, drawn).gather(2, drawn[:, :, None].long())
        assert float(reached.min()) > 0, "an impossible level was drawn"


@each_head
def test_gradients_are_those_of_the_table(head: Logistics) -> None:
    """d nats / d parameter by central differences of the float64 table."""
    params, x = random_params(head, 0.7), random_levels(head)
    leaf = params.clone().requires_grad_()
    head.nats(leaf, x).sum().backward()
    assert leaf.grad is not None

    def total(moved: Tensor) -> float:
        return -float(head.table(moved, 1.0, x).gather(2, x[:, :, None].long()).log().sum())

    for o in range(head.outputs):
        step = torch.zeros_like(params, dtype=torch.float64)
        step[1, o, 1, 2] = 1e-5
        expected = (total(params.double() + step) - total(params.double() - step)) / 2e-5
        assert float(leaf.grad[1, o, 1, 2]) == pytest.approx(expected, rel=2e-3, abs=2e-4)


@each_head
def test_low_precision_ends_at_the_head(head: Logistics) -> None:
    """Parameters in bf16 give what the same numbers in float32 give, under mixed precision too."""
    low, x = random_params(head, 2.0).bfloat16(), random_levels(head)
    noise = torch.rand(2, head.spec.channels, 2, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head.nats(low, x), head.table(low, 1.0, x), head.draw(low, noise)
    whole = head.nats(low.float(), x), head.table(low.float(), 1.0, x), head.draw(low.float(), noise)
    assert [value.dtype for value in mixed] == [torch.float32, torch.float64, torch.uint8]
    for a, b in zip(mixed, whole, strict=True):
        assert torch.equal(a, b)


def test_one_channel_keeps_its_axes() -> None:
    """Results are separate for each image and position (trap 9: a sum over the axis of the components)."""
    head = Logistics(ImageSpec(1, 2, 3, 17), 4)
    params, x = random_params(head, b=5), random_levels(head, b=5)
    whole = head.nats(params, x)
    assert whole.shape == (5, 1, 2, 3)
    for b, i, j in itertools.product(range(5), range(2), range(3)):
        alone = head.nats(params[b : b + 1, :, i : i + 1, j : j + 1], x[b : b + 1, :, i : i + 1, j : j + 1])
        assert float(alone) == pytest.approx(float(whole[b, 0, i, j]), rel=1e-6)


# Draws


def bounds(head: Logistics, params: Tensor, drawn: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The distribution function below and at each level that was drawn, by a running sum of the table."""
    table = head.table(params, temperature, drawn)
    upper = table.cumsum(2)
    place = drawn[:, :, None].long()
    return (upper - table).gather(2, place)[:, :, 0], upper.gather(2, place)[:, :, 0]


@each_head
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
def test_draws_invert_the_table(head: Logistics, temperature: float) -> None:
    generator = torch.Generator().manual_seed(3)
    params = random_params(head, 1.5, b=20)
    noise = torch.rand(20, head.spec.channels, 2, 3, generator=generator, dtype=torch.float64)
    noise[0], noise[1] = 0.0, JUST_BELOW_1
    drawn = head.draw(params, noise, temperature)
    assert drawn.dtype == torch.uint8
    assert int(drawn.max()) < head.spec.levels
    low, high = bounds(head, params, drawn, temperature)
    assert bool((low <= noise + 1e-14).all())
    assert bool((noise < high + 1e-14).all())
    assert len(drawn.unique()) >= min(head.spec.levels, 4)


@each_head
@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_where_a_level_ends_the_next_begins(head: Logistics, temperature: float) -> None:
    """Noise a hair below the distribution function at a level draws that level, a hair above the next one."""
    params, x = random_params(head, 0.5), random_levels(head)
    x = x.clamp(max=head.spec.levels - 2)
    _, edge = bounds(head, params, x, temperature)
    last = head.spec.channels - 1
    known = (x, (torch.arange(head.spec.channels) < last)[:, None, None].expand(x.shape))
    for side, expected in ((-1e-10, x[:, last]), (1e-10, x[:, last] + 1)):
        assert torch.equal(head.draw(params, edge + side, temperature, known)[:, last], expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_probabilities(channels: int, temperature: float) -> None:
    """Chi-square over all colors of a pixel, whose probabilities are products of the table's."""
    spec = ImageSpec(channels, 1, 1, 4)
    head = Logistics(spec, 3)
    params = 0.7 * torch.randn(1, head.outputs, 1, 1, generator=torch.Generator().manual_seed(5))
    colors = all_images(spec)
    table = head.table(params.expand(len(colors), -1, -1, -1), temperature, colors)
    probabilities = table.gather(2, colors[:, :, None].long()).flatten(1).prod(1)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    if temperature == 1:
        flat = params.double().numpy()[0, :, 0, 0]
        expected = [joint_probability(head, flat, tuple(color.flatten().tolist())) for color in colors]
        np.testing.assert_allclose(probabilities, expected, rtol=1e-9)
    noise = torch.from_numpy(np.random.default_rng(0).random((20_000, channels, 1, 1)))
    drawn = head.draw(params.expand(20_000, -1, -1, -1), noise, temperature)
    check_draws(drawn, probabilities.numpy(), spec)


def test_channels_follow_what_is_known_of_the_pixel() -> None:
    head = Logistics(ImageSpec(3, 2, 3, 17), 4)
    params, x = random_params(head, b=30), random_levels(head, b=30)
    noise = torch.rand(30, 3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    free = head.draw(params, noise)
    assert torch.equal(head.draw(params, noise, 1.0, (x, torch.zeros_like(x, dtype=torch.bool))), free)
    assert torch.equal(head.draw(params, noise, 1.0, (x, torch.ones_like(x, dtype=torch.bool))), x)
    red = torch.tensor([True, False, False])[:, None, None].expand(x.shape)
    drawn = head.draw(params, noise, 1.0, (x, red))
    assert torch.equal(drawn[:, 0], x[:, 0])
    low, high = bounds(head, params, drawn, 1.0)
    assert bool(((low <= noise) & (noise < high))[:, 1:].all())
    assert not torch.equal(drawn[:, 1:], free[:, 1:])
    green = red.roll(1, dims=1)
    assert torch.equal(head.draw(params, noise, 1.0, (x, green))[:, 0], free[:, 0])  # what comes later steers nothing


@each_head
@pytest.mark.parametrize("temperature", [0.5, 2.0, 100.0])
def test_temperature_divides_the_log_probabilities(head: Logistics, temperature: float) -> None:
    """As with a softmax, for levels of any probability."""
    params, x = random_params(head).double(), random_levels(head)
    powers = head.table(params, 1.0, x) ** (1 / temperature)
    expected = powers / powers.sum(2, keepdim=True)
    torch.testing.assert_close(head.table(params, temperature, x), expected, rtol=1e-9, atol=1e-12)


@each_head
def test_a_temperature_next_to_one_draws_the_same(head: Logistics) -> None:
    """The two ways of drawing, by the distribution function and by the table, agree."""
    params = random_params(head, 2.0, b=50)
    noise = torch.from_numpy(np.random.default_rng(2).random((50, head.spec.channels, 2, 3)))
    assert torch.equal(head.draw(params, noise, 1.0), head.draw(params, noise, 1 + 1e-12))


# Before training


@pytest.mark.parametrize("mixtures", [2, 5, 10])
def test_parameters_of_zero_are_a_beginning(mixtures: int) -> None:
    """One channel is nearly uniform; components go apart, to two peaks that no single logistic could follow."""
    head = Logistics(ImageSpec(1, 1, 256, 256), mixtures)
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256)
    parameters = torch.zeros(1, head.outputs, 1, 1, requires_grad=True)
    excess = float(head.nats(parameters.detach().expand(-1, -1, -1, 256), every).mean()) / math.log(2) - 8
    assert 0 < excess < {2: 0.6, 5: 0.2, 10: 0.1}[mixtures]
    peaks = (torch.where(every % 2 == 0, 40, 200) + every % 8).byte()
    optimizer = torch.optim.Adam([parameters], lr=0.1)
    losses, slopes = [], []
    for _ in range(100):
        optimizer.zero_grad()
        loss = head.nats(parameters.expand(-1, -1, -1, 256), peaks).mean()
        loss.backward()
        assert parameters.grad is not None
        losses.append(float(loss.detach()))
        slopes.append(parameters.grad.view(-1, mixtures).clone())
        optimizer.step()
    # Components alike would have slopes alike and stay so for ever.
    apart = torch.cdist(slopes[0].T, slopes[0].T) + torch.eye(mixtures)
    assert float(slopes[0].abs().amax(0).min()) > 0.01
    assert float(apart.min()) > 0.01
    # The path after some forty steps hangs on the last bit: a sharp component may jump between the peaks, so that the
    # loss of any one step says little. The least loss on the way does not: over eighty starts that lay up to 0.1 from
    # zero it was 2.86 to 2.98.
    assert math.log(8) < min(losses) < 3.5  # 8 levels occur, spread over 14
    one = Logistics(ImageSpec(1, 1, 256, 256), 1)
    spread = torch.cartesian_prod(torch.zeros(1), torch.linspace(-1, 1, 41), torch.linspace(-5, 2, 36))
    alone = one.nats(spread.view(-1, 3, 1, 1).expand(-1, -1, -1, 256), peaks.expand(len(spread), -1, -1, -1))
    assert float(alone.mean((1, 2, 3)).min()) > 5.8


# Each guard can fail


def closed_ends(right: Callable[[_Mixture, Tensor], Tensor], self: _Mixture, x: Tensor) -> Tensor:
    """The first and the last bin end half a level beyond, as if they were inside."""
    return right(replace(self, levels=self.levels + 2), x + 1)


def clamped(right: Callable[[_Mixture, Tensor], Tensor], self: _Mixture, x: Tensor) -> Tensor:
    """No bin has less than 1e-5."""
    return right(self, x).clamp(min=math.log(1e-5))


def levels_of_8_bits(right: Callable[[_Mixture, Tensor], Tensor], self: _Mixture, x: Tensor) -> Tensor:
    """Bins as narrow as those of 256 levels."""
    wide = replace(self, levels=256)
    return torch.where(x == self.levels - 1, right(wide, torch.full_like(x, 255)), right(wide, x))


def weights_stay(right: Callable[[_Mixture, Tensor], Any], self: _Mixture, x: Tensor) -> Any:
    """Every channel chooses a component anew."""
    log_p, rest = right(self, x)
    return log_p, replace(rest, log_weights=self.log_weights)


def means_stay(right: Callable[[_Mixture, Tensor], Any], self: _Mixture, x: Tensor) -> Any:
    """The channels before move nothing."""
    log_p, rest = right(self, x)
    return log_p, replace(rest, means=self.means[1:])


def one_level_up(right: Callable[[_Mixture], Tensor], self: _Mixture) -> Tensor:
    """The distribution function of the level below."""
    cdf = right(self)
    return torch.cat((torch.zeros_like(cdf[:, :1]), cdf[:, :-2], cdf[:, -1:]), dim=1)


GRAY, COLOR = Logistics(ImageSpec(1, 2, 3, 17), 3), Logistics(ImageSpec(3, 2, 3, 17), 3)


@pytest.mark.parametrize(
    ("name", "broken", "check"),
    [
        ("_log_bins", closed_ends, partial(test_probabilities_sum_to_one_and_are_those_of_the_nats, GRAY, 1.0)),
        ("_log_bins", closed_ends, partial(test_the_table_is_that_of_scipys_logistic, GRAY)),
        ("_log_bins", clamped, partial(test_probabilities_sum_to_one_and_are_those_of_the_nats, GRAY, 4.0)),
        ("_log_bins", clamped, partial(test_small_probabilities_are_kept, 17)),
        ("_log_bins", levels_of_8_bits, partial(test_the_table_is_that_of_scipys_logistic, GRAY)),
        ("after", weights_stay, partial(test_the_table_is_that_of_scipys_logistic, COLOR)),
        ("after", means_stay, partial(test_the_table_is_that_of_scipys_logistic, COLOR)),
        ("after", means_stay, partial(test_draws_follow_the_probabilities, 3, 1.0)),
        ("cdf", one_level_up, partial(test_draws_invert_the_table, GRAY, 1.0)),
        ("cdf", one_level_up, partial(test_draws_follow_the_probabilities, 1, 1.0)),
        ("cdf", one_level_up, partial(test_a_temperature_next_to_one_draws_the_same, GRAY)),
    ],
    ids=lambda value: getattr(value, "__name__", None) or getattr(getattr(value, "func", None), "__name__", value),
)
def test_a_broken_head_is_seen(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: Callable[..., Any], check: Callable[[], None]
) -> None:
    check()
    monkeypatch.setattr(_Mixture, name, broken_by(broken, getattr(_Mixture, name)))
    with pytest.raises(AssertionError):
        check()


def broken_by(broken: Callable[..., Any], right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args: broken(right, self, *args)


# Small worlds


def world(image: ImageSpec, **more: object) -> Setting:
    config = PixelCNNConfig.model_validate(
        {"block": "gated", "channels": 12, "first_kernel": 3, "kernel": 3, "blocks": 2, "norm": "channel"} | more
    )
    return Setting(config, HeadConfig(kind="logistics", mixtures=3), image)


WORLDS = {
    "binary": world(ImageSpec(1, 2, 2, 2)),
    "five levels": world(ImageSpec(1, 2, 2, 5)),
    "color": world(ImageSpec(3, 2, 1, 4)),
    "binary color": world(ImageSpec(3, 2, 2, 2)),
}
each_world = pytest.mark.parametrize("setting", WORLDS.values(), ids=WORLDS)


@each_world
def test_all_images_together_have_probability_one(setting: Setting) -> None:
    for seed in range(2):
        check_world_sums_to_one(setting.model(seed))
    check_world_sums_to_one(setting.fresh())


@each_method
@each_world
def test_images_follow_the_exact_probabilities(setting: Setting, method: Method) -> None:
    check_sampler(setting.model(2), method)
    check_sampler(setting.model(2), method, temperature=0.6, n=3000)


@each_method
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_images_of_which_a_channel_is_known(channel: int, method: Method) -> None:
    """The other channels follow it where they come after it, in the first pixel and in the second."""
    model = WORLDS["color"].model(1)
    spec = model.spec
    mask = (torch.arange(3) == channel)[:, None, None].expand(1, *spec.shape)
    known = torch.randint(0, 4, (1, *spec.shape), generator=torch.Generator().manual_seed(4)).byte()
    images = all_images(spec)
    fits = ((images == known) | ~mask).flatten(1).all(1).numpy()
    steps = np.where((~mask).flatten(1).numpy(), value_probabilities(model, images).reshape(len(images), -1), 1.0)
    expected = np.where(fits, steps.prod(1), 0.0)
    assert expected.sum() == pytest.approx(1)
    check_draws(model.sample(3000, given=known, mask=mask, batch=3000, method=method), expected, spec)


@pytest.mark.parametrize("image", [ImageSpec(1, 5, 4, 256), ImageSpec(3, 4, 3, 256), ImageSpec(3, 3, 4, 17)], ids=str)
def test_fast_images_equal_the_plain_ones(image: ImageSpec) -> None:
    model = world(image, channels=20).model()
    for seed in range(3):
        assert len(check_fast_is_plain(model, seed=seed).unique()) > 5
    given = torch.randint(0, image.levels, (1, *image.shape), generator=torch.Generator().manual_seed(0)).byte()
    mask = torch.rand(3, *image.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    drawn = check_fast_is_plain(model, given=given, mask=mask, temperature=0.9)
    assert torch.equal(drawn[mask], given.expand_as(drawn)[mask])
    check_batch_free(model)


# Configuration


def test_parameters_of_a_position() -> None:
    for channels, count in ((1, 3), (2, 6), (3, 10), (4, 15)):  # the paper: 10 numbers a component for RGB
        head = Logistics(ImageSpec(channels, 2, 2, 256), 7)
        assert head.outputs == 7 * count
        assert head.groups == 1
        assert head.kind == "logistics"


def test_making_the_head() -> None:
    image = ImageSpec(3, 2, 2, 256)
    assert make_head(HeadConfig(kind="logistics"), image) == Logistics(image, 10)
    assert make_head(HeadConfig(kind="logistics", mixtures=4), image) == Logistics(image, 4)
    assert make_head(HeadConfig(kind="categorical", mixtures=4), image) == Categorical(image)
    with pytest.raises(UsageError, match=r"head\.channels: a mixture of logistics orders the channels of a pixel"):
        make_head(HeadConfig(kind="logistics", channels="independent"), image)
    gray = ImageSpec(1, 2, 2, 256)  # nothing to order
    assert make_head(HeadConfig(kind="logistics", channels="independent"), gray) == Logistics(gray)


def test_the_table_of_several_channels_needs_their_levels() -> None:
    head = Logistics(ImageSpec(2, 2, 3, 4))
    params, x = random_params(head), random_levels(head)
    with pytest.raises(ValueError, match="give the levels x"):
        head.table(params)
    other = x.clone()
    other[:, 1] = 3 - other[:, 1]  # of the last channel nothing depends
    assert torch.equal(head.table(params, 1.0, x), head.table(params, 1.0, other))
    other[:, 0] = 3 - other[:, 0]
    assert not torch.equal(head.table(params, 1.0, x)[:, 1], head.table(params, 1.0, other)[:, 1])
