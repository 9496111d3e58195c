"""Models of several orders: the mean of probabilities of whole images, each order causal, equal images."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from checks import all_images, check_draws, check_fast_is_plain
from fast_toys import masks, poisoned, random_images
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.rng import image_noise
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import Scaling
from pixelloom.engine.config import TrainConfig
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.order_ensemble import InSequence, average, choose, members, orders
from pixelloom.models.pixel import PixelDescription, PixelModel, load_pixel
from pixelloom.networks.pixel.made import MADE, MADEConfig
from pixelloom.objectives.base import OptimConfig
from pixelloom.runs.config import PixelRun
from pixelloom.runs.train import train
from pixelloom.sampling.fast.analysis import assert_autoregressive
from settings import BERNOULLI, INDEPENDENT, ORDERED, live

Array = npt.NDArray[np.float64]

DEEP = MADEConfig(hidden=2, layers=2, direct=True, orders=3)
WORLDS: dict[str, tuple[MADEConfig, HeadConfig, ImageSpec]] = {
    "binary": (DEEP, BERNOULLI, ImageSpec(1, 4, 5, 2)),
    "levels": (MADEConfig(hidden=3, orders=2), ORDERED, ImageSpec(1, 3, 3, 4)),
    "ordered": (DEEP, ORDERED, ImageSpec(3, 2, 3, 4)),
    "independent": (DEEP, INDEPENDENT, ImageSpec(2, 3, 2, 3)),
}
each_world = pytest.mark.parametrize("name", WORLDS)
TINY = ImageSpec(1, 2, 2, 2)


def model_of(config: MADEConfig, head: HeadConfig, spec: ImageSpec, embedding: int = 0, classes: int = 0) -> PixelModel:
    """As if trained, in float64."""
    model = PixelModel.build(
        PixelDescription(
            network="made",
            model=config,
            head=head,
            image=spec,
            scaling=Scaling.numbers(spec.levels) if embedding else Scaling.symmetric(),
            embedding=embedding,
            classes=classes,
        )
    )
    live(model.network).double()
    return model


def sequence(model: PixelModel, order: int) -> Array:
    part = next(part for part in model.network.modules() if isinstance(part, MADE))
    return part.sequence(order).numpy()


GOLDEN = [[0, 5, 4, 6, 7, 1, 2, 8, 3], [4, 2, 7, 5, 0, 8, 1, 3, 6], [3, 6, 0, 7, 5, 8, 2, 1, 4]]

# Orders


def test_orders_are_the_same_everywhere() -> None:
    """Stored by no model, so they may never change."""
    made = MADE(MADEConfig(orders=4), ImageSpec(1, 3, 3, 2), outputs=1, groups=1)
    assert made.sequence(0).tolist() == list(range(9))
    assert [made.sequence(order).tolist() for order in (1, 2, 3)] == GOLDEN
    whole = MADE(MADEConfig(orders=2), ImageSpec(1, 20, 20, 2), outputs=1, groups=1).sequence(1)
    assert sorted(whole.tolist()) == list(range(400))
    assert abs(np.corrcoef(whole, np.arange(400))[0, 1]) < 0.15


def test_an_image_has_an_order_by_its_number_alone() -> None:
    chosen = choose(5, 3, 0, 4000)
    np.testing.assert_array_equal(choose(5, 3, 1000, 10), chosen[1000:1010])
    counts = np.bincount(chosen, minlength=5)
    assert len(counts) == 5
    assert float(((counts - 800) ** 2 / 800).sum()) < 18.5  # chi-square with 4 degrees, p = 0.001
    assert not np.array_equal(choose(5, 4, 0, 100), chosen[:100])


# The likelihood, by the paper's masks


def conditionals(model: PixelModel, order: int, image: Array) -> Array:
    """Logits of one order by dense layers and degrees: pixel q is number rank[q], a unit of pixel p knows rank[p]."""
    config = model.description.model
    p = {key: value.numpy() for key, value in model.network.state_dict().items()}
    places = sequence(model, order)
    rank = np.empty(len(places), int)
    for number, pixel in enumerate(places):
        rank[pixel] = number

    def dense(x: Array, name: str, inputs: int, outputs: int, shift: int) -> Array:
        degree_in, degree_out = np.repeat(rank + shift, inputs), np.repeat(rank, outputs)
        return (p[f"{name}.weight"] * (degree_in[None] <= degree_out[:, None])) @ x + p[f"{name}.bias"]

    line = image.transpose(1, 2, 0).reshape(-1)
    h, inputs, shift = line, len(image), 1
    for number in range(config.layers):
        h = np.maximum(dense(h, f"layers.{number}", inputs, config.hidden, shift), 0)
        inputs, shift = config.hidden, 0
    out = dense(h, "last", inputs, 1, 0)
    return out + dense(line, "direct", len(image), 1, 1) if config.direct else out


@pytest.mark.parametrize("config", [DEEP, MADEConfig(hidden=3, orders=5), MADEConfig(layers=3, direct=True, orders=2)])
@pytest.mark.parametrize("spec", [TINY, ImageSpec(1, 2, 3, 2)], ids=str)
def test_probabilities_are_the_mean_over_orders_of_those_of_whole_images(config: MADEConfig, spec: ImageSpec) -> None:
    model = model_of(config, BERNOULLI, spec)
    images = all_images(spec)
    found = model.log_prob(images, batch=7).numpy()
    of_order = []
    for order in range(config.orders):
        logs = []
        for image in images.numpy():
            logits, bits = conditionals(model, order, 2.0 * image - 1), image.reshape(-1).astype(int)
            logs.append(sum(-math.log1p(math.exp(-z if bit else z)) for z, bit in zip(logits, bits, strict=True)))
        of_order.append(logs)
    assert np.exp(of_order).sum(1).tolist() == pytest.approx([1] * config.orders, abs=1e-9)
    expected = np.log(np.exp(of_order).mean(0))
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # nats are summed in float32
    assert float(np.exp(found).sum()) == pytest.approx(1, abs=1e-6)
    assert spec == TINY or float(np.abs(np.array(of_order[0]) - expected).max()) > 0.1  # no order says what all say
    # Better than the mean of the orders, for every image (Jensen).
    assert bool((found > np.mean(of_order, axis=0) - 1e-6).all())
    assert spec == TINY or float((found - np.mean(of_order, axis=0)).max()) > 0.05


def test_a_mean_in_logs_keeps_what_is_small() -> None:
    logs = [torch.tensor([-2000.0, -1.0], dtype=torch.float64), torch.tensor([-2001.0, -900.0], dtype=torch.float64)]
    expected = [-2000 + math.log((1 + math.exp(-1)) / 2), -1 + math.log(0.5)]
    assert average(logs).tolist() == pytest.approx(expected, abs=1e-12)
    assert average(logs[:1]) is logs[0]


@each_world
def test_each_order_sums_to_one_over_a_world(name: str) -> None:
    config, head, _ = WORLDS[name]
    spec = ImageSpec(1, 2, 2, 3) if name == "levels" else ImageSpec(2, 1, 2, 3) if head.kind != "bernoulli" else TINY
    for model in (model_of(config, head, spec), model_of(config, head, spec, embedding=2)):
        probabilities = model.log_prob(all_images(spec)).exp()
        assert float(probabilities.sum()) == pytest.approx(1, abs=1e-6)


# What depends on what


@each_world
def test_each_order_is_causal_in_its_own_sequence(name: str) -> None:
    """By gradients where pixels stand; and taken in sequence, by what layers say they read."""
    config, head, spec = WORLDS[name]
    model = model_of(config, head, spec)
    groups, pixels = model.head.groups, spec.height * spec.width
    for order, member in enumerate(members(model.network)):
        rank = np.argsort(sequence(model, order))
        x = torch.randn(1, *spec.shape, generator=torch.Generator().manual_seed(order), dtype=torch.float64)
        x = x.repeat(pixels * spec.channels, 1, 1, 1).requires_grad_()
        out = member(x).unflatten(1, (spec.channels, -1)).sum(2).flatten(1).diagonal().sum()
        (gradient,) = torch.autograd.grad(out, x)
        seen = gradient.flatten(1).numpy() != 0
        for (c, p), (d, q) in itertools.product(itertools.product(range(spec.channels), range(pixels)), repeat=2):
            before = rank[q] < rank[p] or (p == q and d < c and groups > 1)
            assert not seen[c * pixels + p, d * pixels + q] or before
        assert seen.sum() > 0.4 * seen.shape[0] * (pixels - 1) / 2  # some units are off
        assert_autoregressive(InSequence(model.network, order).network, spec, groups=groups)


@each_world
def test_taken_in_sequence_an_order_is_raster_order(name: str) -> None:
    config, head, spec = WORLDS[name]
    for embedding in (0, 2):
        model = model_of(config, head, spec, embedding)
        x = model._to_model(random_images(spec, 4)).double()
        results = []
        for order, member in enumerate(members(model.network)):
            way = InSequence(model.network, order)
            assert orders(way.network) == orders(member) == 1
            found = way.put_back(way.network(way.taken(x)))
            torch.testing.assert_close(found, member(x), rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(way.taken(x).flatten(2)[:, :, 0], x.flatten(2)[:, :, way.places[0]])
            results.append(found.detach())
        assert all(float((a - b).abs().max()) > 0.05 for a, b in itertools.combinations(results, 2))


def test_members_share_the_weights_and_follow_them() -> None:
    model = model_of(*WORLDS["binary"])
    shared = members(model.network)
    assert orders(model.network) == len(shared) == 3
    for member in shared:
        assert all(a is b for a, b in zip(member.parameters(), model.network.parameters(), strict=True))
    before = model.sample(4)
    with torch.no_grad():
        model.network.get_parameter("last.bias").add_(3)
    after = model.sample(4)
    assert float(after.float().mean()) > float(before.float().mean())
    fresh = PixelModel(model.network, model.description)
    assert torch.equal(fresh.sample(4), after)


def test_one_order_is_the_network_itself() -> None:
    model = model_of(MADEConfig(), BERNOULLI, TINY)
    assert members(model.network) == [model.network]
    assert model.network.order == 0  # type: ignore[comparison-overlap]


# Training


def test_training_draws_an_order_for_each_batch_and_evaluation_none() -> None:
    config, head, spec = WORLDS["binary"]
    model = model_of(config, head, spec)
    x = torch.randn(2, *spec.shape, dtype=torch.float64)
    each = [member(x) for member in members(model.network)]
    model.network.train()
    torch.manual_seed(0)
    drawn = [
        next(i for i, out in enumerate(each) if torch.equal(out, found))
        for found in (model.network(x) for _ in range(60))
    ]
    assert min(np.bincount(drawn, minlength=3)) > 10
    torch.manual_seed(0)
    assert torch.equal(model.network(x), each[drawn[0]])
    model.network.eval()
    assert torch.equal(model.network(x), each[0])
    model.network.train()
    for member in members(model.network):
        assert torch.equal(member(x), member(x))


def test_weights_start_for_as_many_inputs_as_a_pixel_has_on_average() -> None:
    torch.manual_seed(0)
    made = MADE(MADEConfig(hidden=4, orders=8), ImageSpec(1, 8, 8, 2), outputs=1, groups=1)
    weight = made.get_parameter("layers.0.weight").detach()
    assert float(weight[:4].std()) == pytest.approx(float(weight[-4:].std()), rel=0.2)
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / 32), rel=0.02)


RUN = PixelRun(
    network="made",
    model=MADEConfig(hidden=1, direct=True, orders=4),
    data=DataConfig(source="digits", levels=2),
    optim=OptimConfig(lr=3e-3),
    train=TrainConfig(batch=32, images=1600, threads=1, ema=0.1),
    samples=0,
)


@pytest.mark.slow
def test_a_run_learns_and_its_figure_is_the_models(tmp_path: Path) -> None:
    model = load_pixel(train(RUN, tmp_path / "run"))
    assert orders(model.network) == 4
    metrics = model.description.training.validation.metrics
    assert metrics["bits/dim"] < 0.75  # 1 before


def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    short = RUN.train.model_copy(update={"images": 640, "checkpoint_every": 320, "validate_every": 320})
    whole = train(RUN.model_copy(update={"train": short}), tmp_path / "whole")
    half = short.model_copy(update={"images": 320})
    train(RUN.model_copy(update={"train": half}), tmp_path / "parts")
    parts = train(RUN.model_copy(update={"train": short}), tmp_path / "parts", resume=True)
    a, b = (load_pixel(folder).network.state_dict() for folder in (whole, parts))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


# Images


@each_world
def test_fast_images_equal_the_plain_ones(name: str) -> None:
    for embedding in (0, 2):
        model = model_of(*WORLDS[name], embedding)
        with poisoned():
            check_fast_is_plain(model, n=8, seed=1)


def test_images_of_classes() -> None:
    model = model_of(*WORLDS["binary"], classes=3)
    labels = [0, 1, 2, 2, 1, 1]
    images = check_fast_is_plain(model, n=6, labels=labels)
    assert not torch.equal(images, check_fast_is_plain(model, n=6, labels=labels[::-1]))
    check_fast_is_plain(model, n=6, labels=labels, guidance=1.0)


@each_world
def test_images_are_those_of_a_loop_over_the_pixels_in_their_order(name: str) -> None:
    """Where they stand, with the noise of each pixel, from the network that keeps to the order."""
    config, head, spec = WORLDS[name]
    model = model_of(config, head, spec)
    found, chosen = model.sample(6, seed=5, first=2), choose(config.orders, 5, 2, 6)
    assert len(set(chosen.tolist())) > 1
    groups = [[c] for c in range(spec.channels)] if model.head.groups > 1 else [list(range(spec.channels))]
    for i, order in enumerate(chosen.tolist()):
        noise = image_noise(spec, 5, 2 + i, 1)
        x, member = torch.zeros(1, *spec.shape, dtype=torch.uint8), members(model.network)[order]
        for place in sequence(model, order):
            at = (
                ...,
                slice(int(place) // spec.width, int(place) // spec.width + 1),
                slice(int(place) % spec.width, int(place) % spec.width + 1),
            )
            for channels in groups:
                with torch.no_grad():
                    params = member(model._to_model(x).double())
                x[at][:, channels] = model.head.draw(params[at], noise[at])[:, channels]
        assert torch.equal(x[0], found[i])


def test_images_depend_on_seed_and_number_alone() -> None:
    model = model_of(*WORLDS["binary"])
    whole = model.sample(9, seed=2)
    for batch in (1, 2, 20):
        assert torch.equal(model.sample(9, seed=2, batch=batch), whole)
    assert torch.equal(model.sample(4, seed=2, first=5), whole[5:])
    assert not torch.equal(model.sample(9, seed=3), whole)


def test_draws_follow_the_probabilities() -> None:
    model = model_of(MADEConfig(hidden=2, direct=True, orders=3), BERNOULLI, TINY)
    probabilities = model.log_prob(all_images(TINY)).exp().numpy()
    check_draws(model.sample(4000, seed=1), probabilities, TINY)


@pytest.mark.parametrize("method", ["fast", "plain"])
def test_those_who_watch_see_whole_batches_one_after_the_other(method: Any) -> None:
    """As with any model: at the last step of a batch its images are there, under their numbers."""
    model = model_of(*WORLDS["binary"])
    seen: list[tuple[int, int, Tensor]] = []
    images = model.sample(
        7,
        seed=3,
        batch=4,
        method=method,
        on_step=lambda step, steps, images: seen.append((step, steps, images.clone())),
    )
    done = [batch for step, steps, batch in seen if step == steps]
    assert [len(batch) for batch in done] == [4, 3]
    assert torch.equal(torch.cat(done), images)
    starts = [number for number, (step, _, _) in enumerate(seen) if step == 1]
    for start, end in itertools.pairwise([*starts, len(seen)]):
        assert [step for step, _, _ in seen[start:end]] == list(range(1, end - start + 1))


def test_those_who_watch_see_the_pixels_where_they_stand() -> None:
    model = model_of(*WORLDS["binary"])
    seen: list[Tensor] = []
    whole = model.sample(1, seed=0, on_step=lambda step, steps, images: seen.append(images.clone()))
    places = sequence(model, int(choose(3, 0, 0, 1)[0]))
    for step, images in enumerate(seen, 1):
        assert not images.flatten()[places[step:]].any()
        assert torch.equal(images.flatten()[places[:step]], whole.flatten()[places[:step]])


def test_what_has_no_meaning_in_several_orders_is_refused() -> None:
    model = model_of(*WORLDS["binary"])
    mask, given = masks(model.spec, 2)["the top"], random_images(model.spec, 2)
    with pytest.raises(UsageError, match=r"given: this model averages over 3 orders of the pixels.*model\.orders=1"):
        model.sample(2, given=given, mask=mask)
    with pytest.raises(UsageError, match="predict: this model averages over 3 orders"):
        model.predict(given)
    with pytest.raises(UsageError, match="n: must be 1 or more"):
        model.sample(0)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        MADEConfig(orders=0)
    with pytest.raises(ModelError):  # an order other than raster cannot be followed where it stands
        assert_autoregressive(members(model.network)[1], model.spec, by="schedule")


@pytest.mark.parametrize("embedding", [0, 2])
def test_saved_and_loaded(embedding: int, tmp_path: Path) -> None:
    model = model_of(*WORLDS["ordered"], embedding)
    model.network.float()
    model.save(tmp_path)
    loaded = load_pixel(tmp_path)
    images = random_images(model.spec, 5)
    assert orders(loaded.network) == 3
    assert torch.equal(loaded.log_prob(images), model.log_prob(images))
    assert torch.equal(loaded.sample(5), model.sample(5))
