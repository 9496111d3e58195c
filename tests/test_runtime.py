"""The fast sampler draws the images of the plain loop: any head, shape, mask, batch and forward."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from checks import check_every_logit, check_fast_is_plain, drawn_from
from fast_toys import MAKES, Make, double, masks, model_of, of_make, of_size, poisoned, random_images, single
from pixelloom.core.errors import ModelError
from pixelloom.core.rng import image_noise
from pixelloom.core.types import ImageSpec
from pixelloom.heads.discrete import HeadConfig
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.sampling.fast.causality import NotAutoregressiveError
from profiles import examples
from random_networks import Case, causal
from settings import BERNOULLI, CONFIGS, INDEPENDENT, ORDERED, Setting, tiny

each_config = pytest.mark.parametrize("setting", CONFIGS.values(), ids=CONFIGS)
SOME = ["mnist-gray", "mnist-binary", "gated-head", "gated-rgb-20", "rgb-independent"]
some_configs = pytest.mark.parametrize("name", SOME)
SHAPES = {"square": (5, 5), "wide": (3, 8), "tall": (8, 3), "row": (1, 9), "column": (9, 1), "pixel": (1, 1)}


def pairs(names: Sequence[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Each of the others with two of the names, in turn: each name with several of the others."""
    turn = itertools.cycle(names)
    return [(next(turn), other) for other in others for _ in range(2)]


# Equality


@each_config
def test_images_are_those_of_the_plain_loop(setting: Setting) -> None:
    images = check_fast_is_plain(double(setting))
    assert len(images.unique(dim=0)) > 1


@pytest.mark.parametrize(("name", "shape"), pairs(SOME, SHAPES))
def test_images_of_any_shape(name: str, shape: str) -> None:
    check_fast_is_plain(double(of_size(name, *SHAPES[shape]), seed=1), n=2, seed=1)


HEADS = {
    "Bernoulli": (BERNOULLI, 2),
    "Bernoulli, independent": (HeadConfig(kind="bernoulli", channels="independent"), 2),
    "two levels": (ORDERED, 2),
    "all levels": (ORDERED, 256),
    "all levels, independent": (INDEPENDENT, 256),
    "logistics": (HeadConfig(kind="logistics", mixtures=3), 256),
    "logistics of few levels": (HeadConfig(kind="logistics", mixtures=2), 5),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", HEADS)
def test_heads_of_any_kind(name: str, channels: int) -> None:
    head, levels = HEADS[name]
    model = double(tiny("gated", head, ImageSpec(channels, 4, 5, levels)))
    images = check_fast_is_plain(model)
    check_fast_is_plain(model, seed=1, given=images, mask=masks(model.spec, 3)["different in each"])


@some_configs
@pytest.mark.parametrize("temperature", [0.3, 1.9])
def test_temperatures(name: str, temperature: float) -> None:
    model = double(CONFIGS[name])
    images = check_fast_is_plain(model, temperature=temperature)
    assert not torch.equal(images, model.sample(3))


@pytest.mark.parametrize(("name", "place"), pairs(SOME, masks(ImageSpec(1, 2, 2, 2), 1)))
def test_partly_known_images(name: str, place: str) -> None:
    setting = of_size(name, 4, 5)
    model, mask, given = double(setting), masks(setting.image, 3)[place], random_images(setting.image, 3)
    images = check_fast_is_plain(model, given=given, mask=mask)
    known = mask.expand_as(given)
    assert torch.equal(images[known], given[known])
    assert int((~known).sum()) < 10 or not torch.equal(images, given)


def test_each_step_draws_what_its_wavefront_reaches() -> None:
    """Pixel (y, x) of a stack of 7x7 kernels is drawn at step x + 4 y, and shown from then on."""
    model = double(of_size("mnist-gray", 4, 9))
    seen: list[tuple[int, int, Tensor]] = []
    images = model.sample(3, on_step=lambda done, total, so_far: seen.append((done, total, so_far.clone())))
    y, x = np.indices((4, 9))
    assert [(done, total) for done, total, _ in seen] == [(done, 9 + 4 * 3) for done in range(1, 9 + 4 * 3 + 1)]
    for done, _, so_far in seen:
        drawn = torch.from_numpy(x + 4 * y < done)
        assert torch.equal(so_far, torch.where(drawn, images, 0))


def test_known_values_cost_no_step() -> None:
    """What depends on known values alone is computed at once; the rest waits no longer than it must."""
    model = double(of_size("mnist-gray", 6, 6))

    def steps(mask: Tensor) -> int:
        totals: list[int] = []
        model.sample(
            1, given=random_images(model.spec, 1), mask=mask, on_step=lambda done, of, images: totals.append(of)
        )
        return totals[0] if totals else 0

    rows = torch.arange(6)[:, None]
    assert [steps(rows < known) for known in range(7)] == [6 + 4 * 5, 6 + 4 * 4, 6 + 4 * 3, 14, 10, 6, 0]
    assert steps(torch.arange(6) != 3) == 6  # one column: each of its pixels needs the one above


# Every number that is drawn from


@each_config
def test_each_draw_is_made_from_what_one_pass_predicts(setting: Setting) -> None:
    check_every_logit(single(setting), tolerance=1e-5)
    check_every_logit(double(setting), tolerance=1e-13)


@each_config
def test_half_precision_stays_close_to_one_pass_of_its_own(setting: Setting) -> None:
    """bf16 keeps 8 bits of a number: its sums differ by their order, and so do the images, by a little."""
    model = single(setting)
    images = model.sample(3, precision="bf16")
    model.network.to(torch.bfloat16)
    check_every_logit(model, tolerance=0.08)
    assert int(images.max()) < model.spec.levels
    assert torch.equal(images, model.sample(3))


@each_config
def test_known_values_are_not_drawn(setting: Setting) -> None:
    """Parameters are drawn from where something is unknown in some image, and nowhere else; a pixel whose channels are
    drawn together counts as a whole.
    """
    model, spec = double(setting), setting.image
    mask = torch.from_numpy(np.random.default_rng(0).random((1, *spec.shape)) < 0.6)
    images, params = drawn_from(model, 2, given=random_images(spec, 1), mask=mask)
    groups = model.head.groups
    together = mask if groups > 1 else mask.all(1, keepdim=True)
    drawn = ~params.isnan().unflatten(1, (groups, -1))
    assert torch.equal(drawn, ~together[:, :, None].expand_as(drawn))
    expected = model.predict(images).unflatten(1, (groups, -1))
    torch.testing.assert_close(params.unflatten(1, (groups, -1))[drawn], expected[drawn], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("name", "height", "width", "n"), [("mnist-binary", 12, 12, 64), ("colored-mnist", 8, 7, 16)])
def test_single_precision_draws_the_same_images(name: str, height: int, width: int, n: int) -> None:
    model = single(of_size(name, height, width))
    plain, fast = (model.sample(n, seed=5, method=method) for method in ("plain", "fast"))  # type: ignore[arg-type]
    assert torch.equal(fast, plain)
    assert len(plain.unique(dim=0)) == n


# Batches, and reuse of buffers


@pytest.mark.parametrize("name", ["mnist-gray", "gated", "gated-rgb-20"])
def test_batches_of_any_size_draw_the_plain_images(name: str) -> None:
    model = double(of_size(name, 3, 4))
    plain = model.sample(7, seed=2, method="plain")
    mask = masks(model.spec, 7)["different in each"]
    completed = model.sample(7, seed=2, method="plain", given=plain.flip(0), mask=mask)
    for batch in (1, 2, 5, 7, 9, None):
        assert torch.equal(model.sample(7, seed=2, batch=batch), plain)
        assert torch.equal(model.sample(7, seed=2, batch=batch, given=plain.flip(0), mask=mask), completed)


@pytest.mark.parametrize("name", ["mnist-gray", "gated-rgb-20"])
def test_buffers_forget_the_batch_before(name: str) -> None:
    model = double(of_size(name, 5, 5))
    sampler, given = model.fast_sampler(), random_images(model.spec, 8)
    drawn = []
    for seed, n, mask in (
        (1, 8, None),
        (2, 8, None),
        (3, 5, "scattered"),
        (4, 8, None),
        (5, 3, None),
        (6, 1, "the top"),
    ):
        noise = image_noise(model.spec, seed, 0, n)
        where = None if mask is None else masks(model.spec, n)[mask].expand(n, *model.spec.shape)
        known = None if mask is None else given[:n]
        images = sampler.sample(noise, given=known, mask=where)
        expected = model.sample(n, seed=seed, method="plain", given=known, mask=where)
        assert torch.equal(images, expected), f"batch with seed {seed}"
        drawn.append((images, expected))
    assert all(torch.equal(images, expected) for images, expected in drawn), "a batch wrote over one before"


@pytest.mark.parametrize("name", ["mnist-gray", "gated", "gated-batch", "gated-rgb-20"])
def test_weights_that_have_changed_are_used(name: str) -> None:
    """Training statistics and learned positions included."""
    model, other = double(CONFIGS[name]), double(CONFIGS[name], seed=4)
    before, expected = check_fast_is_plain(model), check_fast_is_plain(other)
    model.network.load_state_dict(other.network.state_dict())
    assert torch.equal(model.sample(3), expected)
    assert not torch.equal(before, expected)


# Networks with a forward of their own


@pytest.mark.parametrize("forward", MAKES, ids=[make.__name__ for make in MAKES])
def test_networks_with_a_forward_of_their_own(forward: Make) -> None:
    model = of_make(forward)
    images = check_fast_is_plain(model, n=4, loop=True)
    assert len(images.unique(dim=0)) == 4
    mask, other = masks(model.spec, 4)["different in each"], random_images(model.spec, 4)
    check_fast_is_plain(model, n=4, seed=1, given=other, mask=mask)
    check_fast_is_plain(model, n=2, seed=2, given=other[:1], mask=masks(model.spec, 1)["the top"])


@examples(80)
@given(causal(largest=6), st.integers(0, 99), st.sampled_from(list(masks(ImageSpec(1, 2, 2, 2), 1))))
def test_random_networks(case: Case, seed: int, place: str) -> None:
    """Drawn from caches in which nothing is there before it is written."""
    model = model_of(case)
    with poisoned():
        images = check_fast_is_plain(model, seed=seed)
        check_fast_is_plain(model, n=2, seed=seed, given=images[1:], mask=masks(model.spec, 2)[place])


# What cannot be drawn fast


@pytest.mark.parametrize("name", ["first", "blocks.1.mix"])
def test_a_network_that_reads_ahead_is_refused_before_anything_is_drawn(name: str) -> None:
    model = CONFIGS["gated"].model()
    layer = model.network.get_submodule(name)
    assert isinstance(layer, MaskedConv2d)
    inputs, outputs = layer.weight.shape[1], layer.weight.shape[0]
    model.network.set_submodule(name, nn.Conv2d(inputs, outputs, 3, padding=1))
    with pytest.raises(NotAutoregressiveError, match=name):
        drawn_from(model, 1, on_step=lambda *_: pytest.fail("a step was made"))
    assert model.sample(1, method="plain").shape == (1, 1, 8, 8)  # which cannot know


def test_a_layer_that_does_not_say_what_it_reads_is_named() -> None:
    model = CONFIGS["gated"].model()
    model.network.set_submodule("blocks.1.norm", nn.GroupNorm(2, 8))
    with pytest.raises(ModelError, match=r"blocks\.1\.norm \(GroupNorm\): does not say which positions it reads"):
        model.sample(1, on_step=lambda *_: pytest.fail("a step was made"))


def test_layers_that_are_put_in_place_of_others_are_used() -> None:
    model, other = (double(CONFIGS["gated-head"], seed) for seed in (0, 4))
    before = model.sample(3)
    model.network.output = other.network.output
    check_fast_is_plain(model)
    assert not torch.equal(model.sample(3), before)
