"""Completion of partly known images, held to conditional probabilities that are enumerated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from checks import all_images
from commands import caller
from pixelloom import api
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.masks import region
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.order_ensemble import InSequence, sequence
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks import PIXEL_NETWORKS
from pixelloom.networks.pixel.gated import GatedPixelCNNConfig
from pixelloom.networks.pixel.made import MADEConfig
from pixelloom.networks.pixel.nade import NADEConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from pixelloom.networks.pixel.pixelcnnpp import PixelCNNPlusPlusConfig
from pixelloom.networks.pixel.pixelrnn import DiagonalBiLSTMConfig, RowLSTMConfig
from pixelloom.networks.pixel.pixelsnail import PixelSNAILConfig
from pixelloom.networks.pixel.transformer import PixelTransformerConfig
from pixelloom.sampling.particles import Particles, effective_sample_size, systematic
from settings import BERNOULLI, ORDERED, live

BITS = ImageSpec(1, 3, 3, 2)
SMALL = GatedPixelCNNConfig(channels=6, layers=2, first_kernel=3, kernel=3)
Array = npt.NDArray[np.float64]

MASKS = {
    "bottom": [[0, 0, 0], [1, 1, 1], [1, 1, 1]],
    "top": [[1, 1, 1], [1, 0, 0], [0, 0, 0]],
    "left": [[1, 0, 0], [1, 0, 0], [1, 0, 0]],
    "corners": [[1, 0, 1], [0, 0, 0], [1, 0, 1]],
    "center": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "everything": [[1, 1, 1]] * 3,
    "nothing": [[0, 0, 0]] * 3,
}


def model_of(spec: ImageSpec = BITS, head: HeadConfig = BERNOULLI, **more: Any) -> PixelModel:
    """A narrow network with random weights, in float64."""
    config = more.pop("model", SMALL)
    name = next(name for name, (kind, _) in PIXEL_NETWORKS.items() if isinstance(config, kind))
    description = PixelDescription(
        network=name, model=config, head=head, image=spec, scaling=Scaling.symmetric(), **more
    )  # fmt: skip
    torch.manual_seed(0)
    model = PixelModel.build(description)
    live(model.network).double()
    return model


def conditional(log_prob: Tensor, images: Tensor, given: Tensor, hidden: Tensor) -> dict[bytes, float]:
    """p(hidden | known) of every image that agrees with ``given`` [C, H, W] where ``hidden`` [H, W] is false."""
    agrees = ((images == given) | hidden).flatten(1).all(1)
    chosen = log_prob[agrees].exp()
    keys = [image.numpy().tobytes() for image in images[agrees]]
    return dict(zip(keys, (chosen / chosen.sum()).tolist(), strict=True))


def variation(drawn: Tensor, truth: dict[bytes, float]) -> float:
    """Total variation between the frequencies of images [m, C, H, W] and their probabilities."""
    count = dict.fromkeys(truth, 0)
    for key in (image.numpy().tobytes() for image in drawn):
        assert key in count, "a known pixel has changed"
        count[key] += 1
    return sum(abs(count[key] / len(drawn) - p) for key, p in truth.items()) / 2


def noise_of(truth: dict[bytes, float], m: int) -> float:
    """The total variation that m exact draws have on average, by 20 repetitions."""
    p = np.array(list(truth.values()))
    counts = np.random.default_rng(0).multinomial(m, p / p.sum(), 20)
    return float(np.abs(counts / m - p).sum(1).mean() / 2)


def check_completions(model: PixelModel, mask: list[list[int]], method: Any, **options: Any) -> None:
    """Draws follow the enumerated conditional, known pixels stay, and log-probabilities are the enumerated ones."""
    hidden, images = torch.tensor(mask).bool(), all_images(model.spec)
    given = images[173 % len(images)]
    truth = conditional(model.log_prob(images, **options), images, given, hidden)
    n, m = (32, 1600) if method == "particles" else (200, 4000)
    found = model.complete(given.expand(m // n, *given.shape), hidden, n, method=method, seed=1, **options)
    drawn = found.images.flatten(0, 1)
    assert torch.equal(drawn[..., ~hidden], given[..., ~hidden].expand(m, -1, -1))
    assert variation(drawn, truth) < noise_of(truth, m) + 0.02
    expected = torch.tensor([truth[image.numpy().tobytes()] for image in drawn]).double().log()
    if found.ess is None:
        torch.testing.assert_close(found.log_prob.flatten(), expected, rtol=0, atol=1e-6)
    else:  # the evidence is an estimate
        assert (found.log_prob.flatten() - expected).abs().mean() < 0.1


@pytest.mark.parametrize("name", ["bottom", "everything", "nothing"])
def test_holes_that_come_last_are_completed_exactly(name: str) -> None:
    model = model_of()
    check_completions(model, MASKS[name], "order")
    assert model.complete(all_images(BITS)[:1], torch.tensor(MASKS[name]), 1).method == "order"


@pytest.mark.parametrize("name", MASKS)
def test_particles_complete_any_hole(name: str) -> None:
    check_completions(model_of(), MASKS[name], "particles")


# Several orders


ORDERS = {
    "gated-pixelcnn": SMALL,
    "pixelcnn": PixelCNNConfig(channels=6, hidden=3, blocks=1, first_kernel=3, kernel=3, positions=True),
    "nade": NADEConfig(hidden=5),
    "row-lstm": RowLSTMConfig(hidden=3, layers=1),
    "diagonal-bilstm": DiagonalBiLSTMConfig(hidden=3, layers=1),
    "pixelcnn-pp": PixelCNNPlusPlusConfig(channels=4, blocks=1, dropout=0.0),
    "pixelsnail": PixelSNAILConfig(channels=4, blocks=1, layers=1),
    "pixel-transformer": PixelTransformerConfig(channels=8, layers=1, heads=2, hidden=8),
}


def turned(image: Array, order: int) -> Array:
    """The image [C, H, W] as order ``order`` scans it, by the words of its definition."""
    if order & 4:
        image = image.transpose(0, 2, 1)
    if order & 2:
        image = image[:, ::-1]
    return np.ascontiguousarray(image[:, :, ::-1] if order & 1 else image)


@pytest.mark.parametrize("name", ORDERS)
def test_a_model_of_several_orders_is_the_mean_of_its_network_on_turned_images(name: str) -> None:
    model = model_of(model=ORDERS[name], orders=8)
    network = model.network.network
    images = all_images(BITS)
    each = []
    for order in range(8):
        view = torch.from_numpy(np.stack([turned(image, order) for image in images.numpy()]))
        params = network(view.double() * 2 - 1, labels=torch.full((len(view),), order))
        each.append(-model.head.nats(params, view).double().flatten(1).sum(1))
    expected = torch.stack(each).exp().mean(0).log()
    torch.testing.assert_close(model.log_prob(images), expected, rtol=0, atol=1e-6)
    assert len({round(float(values.detach().exp().mean()), 9) for values in each}) == 1  # each sums to 1
    assert max(float((each[0] - other).detach().abs().max()) for other in each[1:]) > 0.05  # and the orders differ
    assert float(expected.detach().exp().sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("order", range(8))
def test_each_order_is_causal_in_its_sequence_and_samples_alike(order: int) -> None:
    model = model_of(orders=8, classes=2)
    way = InSequence(model.network, order)
    one = model.of_network(way.network)
    noise = torch.rand(5, *BITS.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1])
    fast = one.draw(noise, labels=labels)
    assert torch.equal(fast, one.draw(noise, labels=labels, method="plain"))
    view = torch.from_numpy(np.stack([turned(image, order) for image in way.put_back(fast).numpy()]))
    assert torch.equal(view, fast)
    params = model.network.network(fast.double() * 2 - 1, labels=order * 3 + labels)
    expected = -model.head.nats(params, fast).double().flatten(1).sum(1)
    torch.testing.assert_close(one.log_prob(fast, labels), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["bottom", "top", "left", "everything"])
def test_half_planes_are_exact_in_one_of_eight_orders(name: str) -> None:
    """The draws follow the orders that end in the hole, weighted by what each says of the known pixels."""
    model, hidden = model_of(orders=8), torch.tensor(MASKS[name]).bool()
    images = all_images(BITS)
    given, joint = images[173], []
    for order in range(8):
        ranks = sequence(model.network, order, 9).argsort().view(3, 3)
        if hidden.all() or hidden.logical_not().sum() == 0 or ranks[hidden].min() > ranks[~hidden].max():
            joint.append(
                model.of_network(InSequence(model.network, order).network).log_prob(
                    InSequence(model.network, order).taken(images)
                )
            )
    assert 0 < len(joint) <= 8
    truth = conditional(torch.stack(joint).logsumexp(0), images, given, hidden)
    found = model.complete(given.expand(20, *given.shape), hidden, 200, seed=1)
    assert found.method == "order"
    drawn = found.images.flatten(0, 1)
    assert variation(drawn, truth) < noise_of(truth, len(drawn)) + 0.02
    expected = torch.tensor([truth[image.numpy().tobytes()] for image in drawn]).double().log()
    torch.testing.assert_close(found.log_prob.flatten(), expected, rtol=0, atol=1e-6)


def test_a_short_run_of_several_orders(tmp_path: Path) -> None:
    """Planning, validation, samples and saving go through the whole of a run."""
    settings = {"model.channels": 6, "model.layers": 2, "model.first_kernel": 3, "model.kernel": 3, "train.batch": 8}
    model = api.train(
        "gated-pixelcnn", data="digits", out=tmp_path, images=16, precision="fp32",
        overrides={**settings, "orders": 8, "samples": 2, "validation_images": 8},
    )  # fmt: skip
    assert isinstance(model, PixelModel)
    assert model.description.orders == 8
    again = api.load(tmp_path)
    images = model.sample(3, seed=1)
    assert torch.equal(again.sample(3, seed=1), images)
    assert torch.equal(again.log_prob(images), model.log_prob(images))  # type: ignore[attr-defined]
    assert (tmp_path / "samples" / "final.png").exists() or any((tmp_path / "samples").iterdir())


def test_training_uses_every_order_of_each_image() -> None:
    model = model_of(orders=8)
    x, seen = all_images(BITS)[[5]].double() * 2 - 1, set()
    expected = []
    for order in range(8):
        model.network.order = order
        expected.append(model.network(x))
    model.network.order = None
    model.network.train()
    for _ in range(100):
        out = model.network(x.expand(3, -1, -1, -1))
        seen |= {number for row in out for number, other in enumerate(expected) if torch.equal(row, other[0])}
    assert seen == set(range(8))


@pytest.mark.parametrize(
    ("spec", "orders_", "text"),
    [
        (ImageSpec(1, 3, 4, 2), 8, r"orders: 1, 2 or 4 \(8 is for square images\) for images of 3x4, not 8"),
        (BITS, 3, r"orders: 1, 2, 4 or 8 for images of 3x3, not 3"),
    ],
)
def test_other_numbers_of_orders_are_refused(spec: ImageSpec, orders_: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        model_of(spec, orders=orders_)


# A conditioning image of the known pixels


def masked_model(spec: ImageSpec = BITS, head: HeadConfig = BERNOULLI, **more: Any) -> PixelModel:
    """A model that is conditioned on partly known images."""
    config = SMALL.model_copy(update={"condition_encoder": "u-net"})
    return model_of(spec, head, model=config, condition="mask", **more)


def by_hand(model: PixelModel, image: Tensor, hidden: Tensor) -> float:
    """log p(hidden | known) of one image, value by value: the network sees the known pixels, and those before each."""
    assert model.condition is not None
    levels = model.spec.levels - 1
    known = (~hidden).double()
    planes = torch.cat((image / levels * known, known[None]))[None]
    params = model.network(image[None].double() / levels * 2 - 1, condition=planes)
    nats = model.head.nats(params, image[None])[0].double()
    return -float(nats[:, hidden].detach().sum())


@pytest.mark.parametrize("name", MASKS)
def test_a_model_of_partly_known_images_is_a_distribution_of_the_hidden_pixels(name: str) -> None:
    model, hidden, images = masked_model(), torch.tensor(MASKS[name]).bool(), all_images(BITS)
    assert model.condition is not None
    given = images[173]
    agrees = images[((images == given) | hidden).flatten(1).all(1)]
    log_prob = model.log_prob(agrees, condition=model.condition.partly(agrees, hidden[None, None]))
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-6)
    expected = [by_hand(model, image, hidden) for image in agrees]
    torch.testing.assert_close(log_prob, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)
    truth = {image.numpy().tobytes(): math.exp(p) for image, p in zip(agrees, expected, strict=True)}
    found = model.complete(given.expand(20, *given.shape), hidden, 200, seed=2)
    assert found.method == "mask"
    drawn = found.images.flatten(0, 1)
    assert variation(drawn, truth) < noise_of(truth, len(drawn)) + 0.02
    of_each = torch.tensor([truth[image.numpy().tobytes()] for image in drawn]).double().log()
    torch.testing.assert_close(found.log_prob.flatten(), of_each, rtol=0, atol=1e-5)


def test_known_pixels_after_the_hole_steer_it_with_a_mask_and_with_particles_only() -> None:
    hidden = torch.tensor([[1, 1, 1], [0, 0, 0], [0, 0, 0]]).bool()
    images = all_images(BITS)[[0, 511]]  # black and white below the hole
    first = masked_model()
    drawn = first.complete(images, hidden, 64, seed=3, labels=None).images
    alone = first.sample(64, seed=3)
    assert not torch.equal(drawn[0, :, :, :1], drawn[1, :, :, :1])
    assert not torch.equal(drawn[1, :, :, :1], alone[:, :, :1])


def test_nothing_known_is_the_ordinary_model() -> None:
    model, everything = masked_model(), torch.ones(3, 3, dtype=torch.bool)
    images = all_images(BITS)
    assert float(model.log_prob(images).exp().sum()) == pytest.approx(1, abs=1e-6)
    found = model.complete(images[:1], everything, 16, seed=5)
    assert torch.equal(found.images[0], model.sample(16, seed=5))
    torch.testing.assert_close(found.log_prob[0], model.log_prob(found.images[0]))


@pytest.mark.parametrize("method", ["order", "mask", "particles"])
@pytest.mark.parametrize("head", [ORDERED, HeadConfig(kind="logistics", mixtures=2)], ids=["categorical", "logistics"])
def test_known_pixels_of_color_images_stay_with_classes_too(method: Any, head: HeadConfig) -> None:
    spec = ImageSpec(3, 4, 4, 5)
    build = masked_model if method == "mask" else model_of
    config = {} if method == "mask" else {"model": SMALL.model_copy(update={"channels": 6})}
    model = build(spec, head, classes=3, **config)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(5, (3, *spec.shape), dtype=torch.uint8, generator=generator)
    hidden = torch.rand(3, 4, 4, generator=generator) < 0.5
    if method == "order":
        hidden[:] = region("bottom", 4, 4)
    found = model.complete(images, hidden, 4, seed=1, method=method, labels=[0, 1, 3], particles=16)
    where = hidden[:, None, None].expand(3, 4, 3, 4, 4)
    assert torch.equal(found.images[~where], images[:, None].expand(3, 4, -1, -1, -1)[~where])
    assert bool(found.log_prob.isfinite().all())
    one = model.complete(images[1:2], hidden[1:2], 4, seed=1, method=method, labels=[1], particles=16)
    assert one.method == method
    again = model.complete(images, hidden, 4, seed=1, method=method, labels=[0, 1, 3], particles=16)
    assert torch.equal(again.images, found.images)


# Particles


def test_effective_sample_size() -> None:
    weights = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    expected = torch.tensor([4, 1, 16 / 10, 0], dtype=torch.float64)
    torch.testing.assert_close(effective_sample_size(weights.log()), expected)


def test_systematic_resampling_draws_each_its_share() -> None:
    weights = torch.tensor([0.5, 0.25, 0.2, 0.05], dtype=torch.float64)
    counts = torch.zeros(4)
    for u in np.linspace(0, 1, 200, endpoint=False):
        rows = systematic(weights.log()[None] + 7, 10, torch.tensor([u]))[0]
        count = torch.bincount(rows, minlength=4)
        assert bool((count >= (10 * weights).floor()).all() and (count <= (10 * weights).ceil()).all())
        counts += count
    assert torch.allclose(counts / 2000, weights.float(), atol=0.005)


def test_weights_by_hand() -> None:
    """Two images of four particles: one is resampled, the other is not, and the evidence is the product of means."""
    particles = Particles(torch.full((2, 3), 0.5, dtype=torch.float64), 4)
    first = torch.tensor([[0.8, 0.1, 0.05, 0.05], [0.5, 0.5, 0.4, 0.6]], dtype=torch.float64)
    particles.weigh(first.log().flatten())
    rows = particles.ancestors()
    # Points 1/8, 3/8, 5/8, 7/8 in the shares 0.8, 0.1, 0.05, 0.05: three times the first, once the second.
    assert rows is not None
    assert rows.tolist() == [0, 0, 0, 1, 4, 5, 6, 7]
    assert particles.ancestors() is None  # nothing has changed
    second = torch.tensor([[0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    particles.weigh(second.log().flatten())
    assert particles.ancestors() is None
    expected = [math.log(0.25 * 0.5), math.log((0.5 + 0.4 + 0.6) / 4)]
    torch.testing.assert_close(particles.evidence(), torch.tensor(expected, dtype=torch.float64))
    sizes = [1 / (0.8**2 + 0.1**2 + 2 * 0.05**2), 1.5**2 / (0.25 + 0.16 + 0.36)]
    torch.testing.assert_close(particles.least_ess, torch.tensor(sizes, dtype=torch.float64))
    assert particles.resampled.tolist() == [1, 0]
    # The first image has three particles of origin 0 and one of origin 1, the second one weights 0.5, 0, 0.4, 0.6.
    expected = [1 / (0.75**2 + 0.25**2), 1.5**2 / (0.25 + 0.16 + 0.36)]
    torch.testing.assert_close(particles.lineages(), torch.tensor(expected, dtype=torch.float64))


def test_the_evidence_is_an_unbiased_estimate() -> None:
    model, hidden, images = model_of(), torch.tensor(MASKS["left"]).bool(), all_images(BITS)
    given = images[173]
    joint = model.log_prob(images)
    truth = joint[((images == given) | hidden).flatten(1).all(1)].exp().sum()
    found = model.complete(given.expand(200, *given.shape), hidden, 1, seed=1, method="particles", particles=32)
    evidence = (model.log_prob(found.images[:, 0]) - found.log_prob[:, 0]).exp()
    assert abs(float(evidence.mean() - truth)) < 4 * float(evidence.std()) / math.sqrt(200)
    assert found.ess is not None
    assert bool((found.ess > 0).all() and (found.ess <= 32).all())


@pytest.mark.parametrize(
    "name", ["pixelcnn", "row-lstm", "diagonal-bilstm", "pixelcnn-pp", "pixelsnail", "nade", "made"]
)
def test_particles_of_every_network(name: str) -> None:
    """Rows of all caches follow their ancestors: a wrong row would change the conditionals of later pixels."""
    config = MADEConfig(hidden=2) if name == "made" else ORDERS[name]
    model, hidden, images = model_of(model=config), torch.tensor(MASKS["left"]).bool(), all_images(BITS)
    given = images[173]
    truth = conditional(model.log_prob(images), images, given, hidden)
    found = model.complete(given.expand(40, *given.shape), hidden, 32, seed=1, method="particles")
    assert variation(found.images.flatten(0, 1), truth) < noise_of(truth, 1280) + 0.02


class Turning:
    """In place of weights: after some steps, the rows continue those of a permutation."""

    def __init__(self, rows: dict[int, Tensor]) -> None:
        self.rows, self.step = rows, -1

    def weigh(self, log_likelihood: Tensor) -> None:
        """Keep nothing."""

    def ancestors(self) -> Tensor | None:
        """The permutation of this step."""
        self.step += 1
        return self.rows.get(self.step)


@pytest.mark.parametrize("name", [*ORDERS, "made", "color"])
def test_rows_continue_their_ancestors(name: str) -> None:
    """Rows of equal noise below the first row of the image: after a permutation, row j is row p[j] of the batch."""
    spec, head = (ImageSpec(3, 4, 5, 4), ORDERED) if name == "color" else (ImageSpec(1, 4, 5, 2), BERNOULLI)
    config = MADEConfig(hidden=2) if name == "made" else ORDERS.get(name, SMALL)
    model = model_of(spec, head, model=config)
    sampler, generator = model.fast_sampler(), torch.Generator().manual_seed(0)
    noise = torch.rand(1, *spec.shape, dtype=torch.float64, generator=generator).repeat(6, 1, 1, 1)
    noise[:, :, 0] = torch.rand(6, spec.channels, spec.width, dtype=torch.float64, generator=generator)
    plain = sampler.sample(noise)
    assert len(plain.flatten(1).unique(dim=0)) > 2
    last = max(int(sampler.plan.sweeps[group.sweep].ready[0].max()) for group in sampler.plan.pixel_groups)
    first, second = (torch.randperm(6, generator=generator) for _ in range(2))
    for rows, total in (({last: first}, first), ({last: first, last + 1: second}, first[second])):
        turned = sampler.sample(noise, particles=Turning(rows))  # type: ignore[arg-type]
        assert torch.equal(turned, plain[total])


def test_a_collapse_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of()
    with torch.no_grad():
        for parameter in model.network.output.parameters():
            parameter.mul_(40)
    hidden = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0]]).bool()
    model.complete(all_images(BITS)[[3, 170]], hidden, 2, method="particles", particles=64)
    assert "particles have effective weight or lines of their own" in caplog.text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mask": torch.ones(2, 3)}, r"mask: \[3, 3\], one or 2 of them, is needed, not \[2, 3\]"),
        ({"mask": torch.full((3, 3), 2)}, "mask: true or 1 for hidden pixels and false or 0 for known ones"),
        ({"n": 0}, "n: must be 1 or more, not 0"),
        ({"temperature": 0}, "temperature: must be a positive number, not 0"),
        ({"temperature": float("nan")}, "temperature: must be a positive number, not nan"),
        ({"method": "best"}, "method: auto, order, mask, particles, not 'best'"),
        ({"method": "mask"}, "this model is not conditioned on partly known images; train --condition mask"),
        ({"method": "particles", "n": 9, "particles": 8}, "9 completions need as many particles or more, not 8"),
        (
            {"method": "particles", "temperature": 0.5},
            "particles follow the model's own distribution; use temperature 1",
        ),
        ({"method": "order", "mask": torch.eye(3)}, "image 0 has known pixels after hidden ones in every pixel order"),
        ({"images": torch.zeros(2, 1, 3, 4, dtype=torch.uint8)}, r"images: the model takes \[N, 1, 3, 3\]"),
        ({"labels": 1}, "this model is unconditional"),
        ({"condition": torch.zeros(1, 1, 3, 3, dtype=torch.uint8)}, "takes no conditioning image"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], text: str) -> None:
    arguments = {"images": all_images(BITS)[:2], "mask": region("bottom", 3, 3), "n": 2} | change
    with pytest.raises(UsageError, match=text):
        model_of().complete(**arguments)


def test_no_images_give_no_completions() -> None:
    for model, method in ((model_of(), "order"), (masked_model(), "mask"), (model_of(), "particles")):
        found = model.complete(torch.zeros(0, 1, 3, 3, dtype=torch.uint8), region("top", 3, 3), 3, method=method)  # type: ignore[arg-type]
        assert tuple(found.images.shape) == (0, 3, 1, 3, 3)
        assert tuple(found.log_prob.shape) == (0, 3)


def test_evaluate_and_info_say_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"model.channels": 6, "model.layers": 2, "model.first_kernel": 3, "model.kernel": 3, "train.batch": 8}
    model = api.train(
        "mnist-complete", data="digits", out="run", images=16, precision="fp32",
        overrides={**settings, "samples": 2, "validation_images": 8},
    )  # fmt: skip
    assert isinstance(model, PixelModel)
    assert model.description.model.condition_encoder == "u-net"  # type: ignore[attr-defined]
    assert "per hidden value under random masks" in Path("run/model/README.md").read_text()
    run = caller(capsys)
    said = run("evaluate", "run", "--limit", 8)
    assert "conditional on" not in said.out
    found = api.evaluate(model, limit=8)
    assert f"{found.nats_per_image:.2f}" in said.out
    assert "condition   mask, the known pixels and where they are" in run("info", "run").out
    images = model.sample(3, seed=1)  # nothing known
    assert run("sample", "run", "-n", 3, "--seed", 1, "--npy", "a.npy").code == 0
    assert np.array_equal(np.load("a.npy"), images.numpy())
    assert "use pixelloom complete" in run("sample", "run", "--condition-from", "test").err
