"""Completion of partly known images, held to conditional probabilities that are enumerated."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from checks import all_images
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.order_ensemble import InSequence, sequence
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks import PIXEL_NETWORKS
from pixelloom.networks.pixel.gated import GatedPixelCNNConfig
from pixelloom.networks.pixel.nade import NADEConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from pixelloom.networks.pixel.pixelcnnpp import PixelCNNPlusPlusConfig
from pixelloom.networks.pixel.pixelrnn import DiagonalBiLSTMConfig, RowLSTMConfig
from pixelloom.networks.pixel.pixelsnail import PixelSNAILConfig
from pixelloom.networks.pixel.transformer import PixelTransformerConfig
from settings import BERNOULLI, live

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
    for image in drawn:
        count[image.numpy().tobytes()] += 1
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
    assert float(expected.exp().sum()) == pytest.approx(1, abs=1e-6)


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
