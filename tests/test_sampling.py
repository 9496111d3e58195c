"""Both samplers: true to the model on small worlds, the same image at any batch size, known pixels kept."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from checks import Method, all_images, check_batch_free, check_draws, check_sampler, check_world_sums_to_one, exact
from checks import value_probabilities as conditionals
from pixelloom.core.errors import UsageError
from pixelloom.core.rng import image_noise
from pixelloom.core.types import ImageSpec
from pixelloom.models.inputs import Precision
from pixelloom.models.pixel import PixelModel
from pixelloom.sampling import ancestral
from settings import BERNOULLI, INDEPENDENT, ORDERED, WORLDS, Setting, tiny

each_world = pytest.mark.parametrize("setting", WORLDS.values(), ids=WORLDS)
each_method = pytest.mark.parametrize("method", ["fast", "plain"])

SMALL = {
    "gray": tiny("gated", ORDERED, ImageSpec(1, 3, 4, 17), norm="channel", positions=True),
    "binary": tiny("residual", BERNOULLI, ImageSpec(1, 4, 3, 2)),
    "batch norm": tiny("plain", ORDERED, ImageSpec(1, 3, 3, 5), norm="batch", bias=False),
    "ordered": tiny("preactivation", ORDERED, ImageSpec(3, 2, 3, 4)),
    "independent": tiny("plain", INDEPENDENT, ImageSpec(3, 2, 3, 256)),
}
each_small = pytest.mark.parametrize("setting", SMALL.values(), ids=SMALL)


# Truth on small worlds


@each_world
def test_all_images_together_have_probability_one(setting: Setting) -> None:
    for seed in range(3):
        check_world_sums_to_one(setting.model(seed))
    check_world_sums_to_one(setting.fresh())


def tempered() -> Iterator[tuple[Setting, Method, float]]:
    """Both methods in every world, one at a temperature below 1, the other above, in turn."""
    for i, setting in enumerate(WORLDS.values()):
        low, high = ("fast", "plain") if i % 2 else ("plain", "fast")
        yield setting, low, 0.6  # type: ignore[misc]
        yield setting, high, 1.7  # type: ignore[misc]


@each_method
@each_world
def test_draws_follow_the_exact_probabilities(setting: Setting, method: Method) -> None:
    check_sampler(setting.model(1), method)


@pytest.mark.parametrize(
    ("setting", "method", "temperature"),
    list(tempered()),
    ids=lambda value: "" if isinstance(value, Setting) else str(value),
)
def test_draws_follow_the_tempered_conditionals(setting: Setting, temperature: float, method: Method) -> None:
    model = setting.model(1)
    check_sampler(model, method, temperature, n=3000)
    moved = np.abs(exact(model, temperature) - exact(model)).sum()
    assert moved > 0.1  # the two distributions are apart, so that ignoring the temperature would be seen


@each_method
@each_world
def test_next_to_no_temperature_draws_the_likeliest_level_of_each_value(setting: Setting, method: Method) -> None:
    models = (setting.model(seed) for seed in range(20))
    model, frozen = next((m, p) for m in models if (p := exact(m, 0.01)).max() > 0.999)  # one without near ties
    draws = model.sample(20, temperature=0.01, method=method)
    assert torch.equal(draws, all_images(model.spec)[[int(frozen.argmax())]].expand_as(draws))


def given_the_rest(model: PixelModel, image: Tensor, mask: Tensor) -> np.ndarray:
    """Exact p(unknown | the past of each) for all images of a world, 0 for those that differ from what is known."""
    images = all_images(model.spec)
    fits = ((images == image) | ~mask).flatten(1).all(1).numpy()
    unknown = (~mask).flatten(1).numpy()
    steps = np.where(unknown, conditionals(model, images).reshape(len(images), -1), 1.0)
    return np.where(fits, steps.prod(1), 0.0)


MASKS = {
    # per value in (channel, row, column) order; a beginning in raster order, and known values after unknown ones
    "a beginning": ([1, 1, 0, 0], [1, 0, 1, 0, 1, 0]),
    "one channel": ([0, 1, 0, 0], [1, 1, 0, 0, 0, 0]),
    "the end": ([0, 0, 1, 1], [0, 1, 0, 1, 0, 1]),
    "scattered": ([1, 0, 0, 1], [0, 1, 0, 0, 1, 0]),
}


@each_method
@pytest.mark.parametrize("place", MASKS)
@pytest.mark.parametrize("name", ["binary, 2 levels, gated", "color, ordered, gated", "color, independent, gated"])
def test_draws_given_a_part_of_the_image(name: str, place: str, method: Method) -> None:
    model = WORLDS[name].model(1)
    spec = model.spec
    mask = torch.tensor(MASKS[place][spec.channels > 1]).bool().reshape(1, *spec.shape)
    image = torch.randint(0, spec.levels, (1, *spec.shape), generator=torch.Generator().manual_seed(4)).byte()
    expected = given_the_rest(model, image, mask)
    assert expected.sum() == pytest.approx(1)
    if place == "a beginning":  # known values first: then this is Bayes' rule
        joint = np.where(expected > 0, exact(model), 0)
        np.testing.assert_allclose(expected, joint / joint.sum(), rtol=1e-9)
    check_draws(model.sample(3000, given=image, mask=mask, batch=3000, method=method), expected, spec)


# One image, however it is drawn


@each_method
@each_small
def test_same_image_at_any_batch_size_and_offset(setting: Setting, method: Method) -> None:
    check_batch_free(setting.model(), method)


@each_method
@each_small
def test_seeds_and_indices_choose_the_image(setting: Setting, method: Method) -> None:
    model = setting.model()
    images = model.sample(6, seed=5, method=method)
    assert images.dtype == torch.uint8
    assert images.shape == (6, *setting.image.shape)
    assert int(images.max()) < setting.image.levels
    assert torch.equal(images, model.sample(6, seed=5, method=method))
    assert not torch.equal(images, model.sample(6, seed=6, method=method))
    assert len(images.unique(dim=0)) > 1


def test_noise_is_uniform_and_each_images_own() -> None:
    spec = ImageSpec(3, 8, 9, 4)
    noise = image_noise(spec, seed=2, first=0, n=50)
    assert noise.dtype == torch.float64
    assert noise.shape == (50, *spec.shape)
    assert 0 <= float(noise.min()) < 0.001 < 0.999 < float(noise.max()) < 1
    assert len(noise.unique()) == noise.numel()
    assert torch.equal(image_noise(spec, seed=2, first=7, n=3), noise[7:10])
    assert not torch.equal(image_noise(spec, seed=3, first=0, n=1), noise[:1])
    assert not torch.equal(image_noise(spec, seed=0, first=2, n=1), noise[:1])  # seed and index differ
    histogram = np.histogram(noise.numpy(), bins=20, range=(0, 1))[0]
    assert float(((histogram - noise.numel() / 20) ** 2).sum() / (noise.numel() / 20)) < 44  # chi-square, p > 0.001


def test_an_image_stays_the_same_for_good() -> None:
    """numpy keeps the stream of a seed; a change here changes every published seed."""
    noise = image_noise(ImageSpec(1, 1, 3, 2), seed=1, first=2, n=1)
    assert noise.flatten().tolist() == np.random.default_rng((1, 2)).random(3).tolist()
    assert noise.flatten().tolist() == [0.44841514333227195, 0.4308819875443376, 0.4199991293921922]


# The loop itself


class Watched:
    """A model's predictions, counted."""

    def __init__(self, model: PixelModel) -> None:
        self.model, self.calls = model, 0

    def __call__(self, levels: Tensor) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            return self.model.predict(levels)


def draw(model: PixelModel, n: int = 2, **options: object) -> tuple[Tensor, int]:
    """Images and the number of passes that they took."""
    predict = Watched(model)
    noise = image_noise(model.spec, 0, 0, n)
    images = ancestral.sample(predict, model.head, model.spec, noise, **options)  # type: ignore[arg-type]
    return images, predict.calls


@each_small
def test_one_pass_a_value_where_channels_are_ordered_and_one_a_pixel_where_not(setting: Setting) -> None:
    spec = setting.image
    images, passes = draw(setting.model())
    assert passes == spec.height * spec.width * (spec.channels if setting.ordered else 1)
    assert torch.equal(images, setting.model().sample(2, method="plain"))


@each_small
def test_known_values_are_kept_and_cost_nothing(setting: Setting) -> None:
    model, spec = setting.model(), setting.image
    given = torch.randint(0, spec.levels, (2, *spec.shape)).byte()
    everywhere, nowhere = torch.ones_like(given).bool(), torch.zeros_like(given).bool()
    images, passes = draw(model, given=given, mask=everywhere)
    assert torch.equal(images, given)
    assert passes == 0
    assert torch.equal(draw(model, given=given, mask=nowhere)[0], draw(model)[0])
    half = torch.rand(given.shape) < 0.5
    images, _ = draw(model, given=given, mask=half)
    assert torch.equal(images[half], given[half])
    assert not torch.equal(images, given)
    assert given.data_ptr() != images.data_ptr()


@each_small
def test_what_stands_under_the_unknown_does_not_matter(setting: Setting) -> None:
    """No sentinel value: unknown is what the mask says (trap 11)."""
    model, spec = setting.model(), setting.image
    mask = torch.rand(2, *spec.shape) < 0.4
    given = torch.randint(0, spec.levels, (2, *spec.shape)).byte()
    other = torch.where(mask, given, torch.randint(0, spec.levels, (2, *spec.shape)).byte())
    assert not torch.equal(given, other)
    assert torch.equal(draw(model, given=given, mask=mask)[0], draw(model, given=other, mask=mask)[0])


@each_method
def test_each_image_may_know_something_else(method: Method) -> None:
    model = SMALL["ordered"].model()
    given = torch.randint(0, 4, (2, 3, 2, 3)).byte()
    mask = torch.rand(2, 3, 2, 3) < 0.5
    together = model.sample(2, given=given, mask=mask, method=method)
    assert torch.equal(together[mask], given[mask])
    for i in range(2):
        alone = model.sample(1, first=i, given=given[i : i + 1], mask=mask[i : i + 1], method=method)
        assert torch.equal(alone[0], together[i])


@each_method
def test_masks_and_images_broadcast(method: Method) -> None:
    model = SMALL["ordered"].model()
    image = torch.randint(0, 4, (1, 3, 2, 3)).byte()
    top = torch.tensor([[True], [False]])  # [H, 1]: the first row of every channel of every image
    images = model.sample(5, given=image.numpy(), mask=top, batch=2, method=method)
    assert torch.equal(images[:, :, :1], image[:, :, :1].expand(5, -1, -1, -1))
    assert len(images.unique(dim=0)) > 1
    whole = model.sample(5, given=image.expand(5, -1, -1, -1), mask=top.expand(5, 3, 2, 3), method=method)
    assert torch.equal(images, whole)


@each_method
@each_small
def test_steps_are_announced_with_what_is_drawn_so_far(setting: Setting, method: Method) -> None:
    model = setting.model()
    seen: list[tuple[int, int, Tensor]] = []
    images = model.sample(3, method=method, on_step=lambda done, of, x: seen.append((done, of, x.clone())))
    total = setting.image.height if method == "plain" else len(seen)
    assert [(done, of) for done, of, _ in seen] == [(done, total) for done in range(1, total + 1)]
    before = torch.zeros_like(images)
    for done, _, so_far in seen:
        assert torch.equal(so_far[before != 0], before[before != 0]), "what is drawn stays"
        assert torch.equal(so_far[so_far != 0], images[so_far != 0]), "nothing but what is drawn"
        if method == "plain":
            assert torch.equal(so_far[:, :, :done], images[:, :, :done])
            assert not so_far[:, :, done:].any()
        before = so_far
    assert torch.equal(before, images)
    assert not torch.equal(seen[0][2], images)


@each_method
def test_steps_are_announced_batch_by_batch(method: Method) -> None:
    model = SMALL["gray"].model()
    calls: list[tuple[int, int, int]] = []
    model.sample(5, batch=2, method=method, on_step=lambda done, of, so_far: calls.append((done, of, len(so_far))))
    steps = calls[0][1]
    assert calls == [(done, steps, n) for n in (2, 2, 1) for done in range(1, steps + 1)]


@each_method
def test_known_values_are_shown_from_the_first_step_on(method: Method) -> None:
    model = SMALL["ordered"].model()
    given = torch.randint(1, 4, (2, 3, 2, 3)).byte()
    mask = torch.rand(2, 3, 2, 3) < 0.5
    seen: list[Tensor] = []
    images = model.sample(2, given=given, mask=mask, method=method, on_step=lambda done, of, x: seen.append(x.clone()))
    for so_far in seen:
        assert torch.equal(so_far[mask], given[mask])
        assert torch.equal(so_far[so_far != 0], images[so_far != 0])
    if method == "fast":  # one step is not enough to draw the last pixel
        assert not seen[0][:, :, -1, -1][~mask[:, :, -1, -1]].any()


class Stopped(Exception):
    """Raised by a callback."""


@each_method
def test_a_callback_that_raises_leaves_no_trace(method: Method) -> None:
    model = SMALL["gray"].model()
    expected = model.sample(3, seed=2, method=method)
    for last in (1, 3):

        def stop(done: int, total: int, so_far: Tensor, last: int = last) -> None:
            if done == last:
                raise Stopped

        with pytest.raises(Stopped):
            model.sample(3, seed=1, method=method, on_step=stop)
        assert torch.equal(model.sample(3, seed=2, method=method), expected)


@each_method
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_sampling_needs_no_gradient_and_leaves_the_model_alone(method: Method, precision: Precision | None) -> None:
    model = SMALL["gray"].model()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    model.sample(2, method=method, precision=precision)
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert not any(module.training for module in model.network.modules())
    for name, value in model.network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name


# Misuse


@each_method
@pytest.mark.parametrize("temperature", [0.0, -0.5, math.nan, math.inf])
def test_temperatures_are_checked_before_anything_is_drawn(temperature: float, method: Method) -> None:
    model = SMALL["gray"].model()
    with pytest.raises(UsageError, match="temperature: must be a positive number"):
        model.sample(1, temperature=temperature, method=method)
    predict = Watched(model)
    with pytest.raises(UsageError, match="temperature"):
        ancestral.sample(
            predict, model.head, model.spec, torch.zeros(1, *model.spec.shape).double(), temperature=temperature
        )
    assert predict.calls == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"n": 0}, "n: must be 1 or more, not 0"),
        ({"n": -3}, "n: must be 1 or more, not -3"),
        ({"batch": 0}, "batch: must be 1 or more, not 0"),
        ({"seed": -1}, "seed: must be 0 or more, not -1"),
        ({"first": -1}, "first: must be 0 or more, not -1"),
        ({"method": "slow"}, "method: 'fast' or 'plain', not 'slow'"),
        ({"precision": "fp16"}, "precision: fp32, bf16, fp64, not 'fp16'"),
        ({"precision": "fp16", "method": "plain"}, "precision: fp32, bf16, fp64, not 'fp16'"),
        ({"given": torch.zeros(1, 1, 3, 4).byte()}, "give both, the partly known images and the mask"),
        ({"mask": torch.zeros(1, 1, 3, 4).bool()}, "give both, the partly known images and the mask"),
        ({"given": torch.zeros(1, 1, 4, 3).byte(), "mask": torch.ones(1).bool()}, "takes [N, 1, 3, 4]"),
        ({"given": torch.zeros(3, 1, 3, 4).byte(), "mask": torch.ones(1).bool()}, "do not fit 2 images"),
        ({"given": torch.zeros(1, 1, 3, 4).byte(), "mask": torch.ones(2, 5).bool()}, "do not fit 2 images"),
        ({"given": torch.full((1, 1, 3, 4), 17).byte(), "mask": torch.ones(1).bool()}, "go from 0 to 16, found 17"),
        ({"given": torch.zeros(1, 1, 3, 4), "mask": torch.ones(1).bool()}, "not torch.float32; quantize them"),
        ({"given": -torch.ones(1, 1, 3, 4).long(), "mask": torch.ones(1).bool()}, "from 0 to 16, found -1"),
    ],
)
def test_arguments_that_draw_nothing_are_refused(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        SMALL["gray"].model().sample(**{"n": 2} | arguments)  # type: ignore[arg-type]
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
