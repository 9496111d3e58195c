"""PixelSNAIL: by the paper's equations, position by position; its receptive field; fast images equal plain ones."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from checks import check_every_logit, check_fast_is_plain, check_world_sums_to_one, earlier, jacobian
from fast_toys import masks, poisoned, random_images
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.layers.causal_attention import CausalAttention
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks.pixel.pixelsnail import PixelSNAIL, PixelSNAILConfig
from pixelloom.runs.recipes import RECIPES
from pixelloom.sampling.fast.analysis import Dataflow, assert_autoregressive, receptive_field
from pixelloom.sampling.fast.causality import NotAutoregressiveError
from settings import BERNOULLI, BINARY_WORLD, COLOR_WORLD, INDEPENDENT, ORDERED, live

Array = npt.NDArray[np.float64]
World = tuple[PixelSNAILConfig, HeadConfig, ImageSpec]

SMALL = PixelSNAILConfig(channels=6, blocks=2, layers=1, keys=3)
HEADS = PixelSNAILConfig(channels=8, blocks=1, layers=2, heads=2, keys=4, values=6, dropout=0.3)
LOCAL = PixelSNAILConfig(channels=6, blocks=2, layers=1, keys=4, window=1)
WORLDS: dict[str, World] = {
    "Bernoulli": (SMALL, BERNOULLI, ImageSpec(1, 5, 4, 2)),
    "categorical": (HEADS, ORDERED, ImageSpec(1, 4, 5, 7)),
    "local": (LOCAL, ORDERED, ImageSpec(1, 6, 4, 3)),
    "Bernoulli, three channels": (SMALL, BERNOULLI, ImageSpec(3, 3, 4, 2)),
    "ordered": (HEADS, ORDERED, ImageSpec(3, 4, 3, 4)),
    "independent": (SMALL, INDEPENDENT, ImageSpec(3, 3, 3, 5)),
    "a row": (SMALL, ORDERED, ImageSpec(3, 1, 6, 3)),
    "a column": (LOCAL, BERNOULLI, ImageSpec(1, 7, 1, 2)),
    "a pixel": (SMALL, ORDERED, ImageSpec(3, 1, 1, 4)),
}
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def fresh(world: World, classes: int = 0) -> PixelModel:
    config, head, image = world
    torch.manual_seed(0)
    return PixelModel.build(
        PixelDescription(
            network="pixelsnail", model=config, head=head, image=image, scaling=Scaling.symmetric(), classes=classes
        )
    )


def model_of(world: World, seed: int = 0, classes: int = 0) -> PixelModel:
    """As if trained, in float64."""
    model = fresh(world, classes)
    live(model.network, seed).double()
    return model


# What depends on what


@each_world
def test_is_autoregressive(world: World) -> None:
    model = model_of(world)
    Dataflow(model.network, model.spec.shape, model.head.groups).check()
    assert_autoregressive(model.network, model.spec, groups=model.head.groups)


@pytest.mark.parametrize("name", ["categorical", "independent", "a row"])
def test_no_blind_spot(name: str) -> None:
    """Every value sees all before it, and nothing else: by what layers say, and by the gradient."""
    model = model_of(WORLDS[name])
    spec, groups = model.spec, model.head.groups
    expected = earlier(spec, groups > 1)
    seen = np.zeros_like(expected)
    for seed in range(4):
        seen |= jacobian(live(model.network, seed), spec, seed) != 0
    np.testing.assert_array_equal(seen, expected)
    last = expected.reshape(*spec.shape, *spec.shape)[-1]
    for position in np.ndindex(spec.height, spec.width):
        np.testing.assert_array_equal(receptive_field(model.network, spec, position, groups), last[position])


def test_attention_alone_sees_the_pixels_on_the_right() -> None:
    """Without it, all that lies further to the right than a step is a blind spot, however many layers there are."""
    spec = ImageSpec(1, 6, 8, 2)
    network = PixelSNAIL(PixelSNAILConfig(channels=4, blocks=1, layers=6, keys=2), spec, outputs=1, groups=1)
    network.set_submodule("blocks.0.attention", CausalAttention(own=False, above=0))
    field = receptive_field(network, spec, (4, 3))[0]
    y, x = np.indices((6, 8))
    np.testing.assert_array_equal(field, (y < 4) & (x <= 4) | (y == 4) & (x < 3))


def test_attention_to_itself_is_found_out() -> None:
    network = PixelSNAIL(SMALL, BINARY_WORLD, outputs=1, groups=1)
    network.set_submodule("blocks.1.attention", CausalAttention(own=True))
    with pytest.raises(NotAutoregressiveError, match=r"blocks\.1\..* at offset .* depends on its own pixel"):
        assert_autoregressive(network, BINARY_WORLD, by="schedule")
    with pytest.raises(NotAutoregressiveError, match="depends on channel 0 of the pixel at row 0, column 0"):
        assert_autoregressive(live(network).double(), BINARY_WORLD, by="gradient")


# The paper's equations, position by position


def window(x: Array, weight: Array, bias: Array, top: int, left: int) -> Array:
    """bias + sum over taps of weight[:, :, i, j] x[y + top + i, x + left + j], zeros beyond the edge: [out, H, W]."""
    out = np.zeros((len(weight), *x.shape[1:]))
    for y, u, i, j in np.ndindex(*x.shape[1:], *weight.shape[2:]):
        v, w = y + top + i, u + left + j
        if 0 <= v < x.shape[1] and 0 <= w < x.shape[2]:
            out[:, y, u] += weight[:, :, i, j] @ x[:, v, w]
    return out + bias[:, None, None]


def concat_elu(x: Array) -> Array:
    both = np.concatenate((x, -x))
    return np.where(both > 0, both, np.expm1(np.minimum(both, 0)))


class Paper:
    """The equations of the paper with the weights of a network."""

    def __init__(self, network: PixelSNAIL, config: PixelSNAILConfig) -> None:
        self.p = {name: value.detach().numpy() for name, value in network.state_dict().items()}
        self.config = config

    def conv(self, name: str, x: Array, top: int = 0, left: int = 0) -> Array:
        weight = self.p[f"{name}.weight"]
        return window(x, weight, self.p.get(f"{name}.bias", np.zeros(len(weight))), top, left)

    def residual(self, name: str, x: Array, y: Array | None = None, label: int | None = None) -> Array:
        """Layers that see near have 2x2 kernels: a position, the one on its left, and the two above these."""
        near = -(self.p[f"{name}.enter.weight"].shape[2] - 1)
        assert near == -(".near." in name)
        h = self.conv(f"{name}.enter", concat_elu(x), near, near)
        if y is not None:
            h = h + self.conv(f"{name}.extra.0", concat_elu(y))
        h = self.conv(f"{name}.gate", concat_elu(h), near, near)
        if label is not None:
            h = h + self.p[f"{name}.classes.0.weight"][label][:, None, None]
        p, q = np.split(h, 2)
        return x + p / (1 + np.exp(-q))

    def attention(self, q: Array, k: Array, v: Array) -> Array:
        """Strictly before, in each head."""
        out, width = np.zeros_like(v), q.shape[2]
        for i in range(q[0].size):
            y, x = divmod(i, width)
            read = [divmod(j, width) for j in range(i)]
            read = [(a, b) for a, b in read if self.config.window is None or a >= y - self.config.window]
            halves = zip(*(np.split(part, self.config.heads) for part in (q, k, v, out)), strict=True)
            for qh, kh, vh, oh in halves if read else ():
                weights = np.exp([qh[:, y, x] @ kh[:, a, b] / math.sqrt(len(qh)) for a, b in read])
                oh[:, y, x] = sum(w * vh[:, a, b] for w, (a, b) in zip(weights / weights.sum(), read, strict=True))
        return out

    def trunk(self, image: Array, label: int | None) -> Array:
        """[C, H, W] -> [channels, H, W]"""
        _, height, width = image.shape
        inside = np.concatenate((image, np.ones((1, height, width))))
        h = self.conv("above", inside, -1, -1) + self.conv("beside", inside, -1, -1)
        assert self.p["above.weight"].shape[2:] == (1, 3)
        assert self.p["beside.weight"].shape[2:] == (2, 1)
        rows, columns = np.indices((height, width))
        where = np.stack(((rows - height / 2) / height, (columns - width / 2) / width))
        for number in range(self.config.blocks):
            block = f"blocks.{number}"
            for layer in range(self.config.layers):
                h = self.residual(f"{block}.near.{layer}", h, label=label)
            content = self.residual(f"{block}.content", np.concatenate((image, h, where)))
            asked = self.residual(f"{block}.question", np.concatenate((h, where)))
            key, value = self.conv(f"{block}.key", content), self.conv(f"{block}.value", content)
            found = self.attention(self.conv(f"{block}.query", asked), key, value)
            h = self.residual(f"{block}.mix", h, found, label)
        return h


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("name", ["Bernoulli", "categorical", "local", "independent"])
def test_follows_the_equations(name: str, classes: int) -> None:
    model = model_of(WORLDS[name], classes=classes)
    network, spec = model.network, model.spec
    assert isinstance(network, PixelSNAIL)
    for embedding in (p for n, p in network.named_parameters() if ".classes." in n):
        torch.nn.init.normal_(embedding)
    x = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([classes, 1])
    paper = Paper(network, WORLDS[name][0])
    with torch.no_grad():
        found = network(x, labels) if classes else network(x)
        for image, label, out in zip(x, labels.tolist(), found, strict=True):
            trunk = torch.from_numpy(paper.trunk(image.numpy(), label if classes else None))
            torch.testing.assert_close(out, network.output(trunk[None], image[None])[0], rtol=1e-6, atol=1e-6)
    assert float(found.abs().max()) > 0.3


# Before training


@each_world
def test_first_prediction_is_uniform_and_every_parameter_learns(world: World) -> None:
    model = fresh(world, classes=3)
    images = random_images(model.spec, 6)
    expected = -model.spec.dims * math.log(model.spec.levels)
    assert model.log_prob(images).tolist() == pytest.approx([expected] * 6, rel=1e-6)
    if min(model.spec.shape[1:]) == 1:  # some taps always lie beyond the edge, and one pixel attends to nothing
        return
    live(model.network)
    labels = torch.arange(6) % 4
    model.head.nats(model.predict(images, labels), images).sum().backward()
    for name, parameter in model.network.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


def test_dropout_acts_in_training_only() -> None:
    model = model_of(WORLDS["categorical"])
    images = random_images(model.spec, 2)
    assert torch.equal(model.predict(images), model.predict(images))
    model.network.train()
    assert not torch.equal(model.predict(images), model.predict(images))


# Probabilities and images


@pytest.mark.parametrize(
    "world",
    [(SMALL, BERNOULLI, BINARY_WORLD), (HEADS, ORDERED, COLOR_WORLD), (LOCAL, INDEPENDENT, COLOR_WORLD)],
    ids=["binary", "ordered", "independent"],
)
def test_probabilities_of_all_images_sum_to_one(world: World) -> None:
    check_world_sums_to_one(model_of(world))


@each_world
def test_fast_images_equal_the_plain_ones(world: World) -> None:
    model = model_of(world)
    with poisoned():
        for seed in (0, 5):
            check_fast_is_plain(model, n=2, seed=seed)
    model.network.output.last.weight.data.mul_(3)
    check_every_logit(model, 1e-9, n=2)


@pytest.mark.parametrize("name", ["Bernoulli", "ordered", "local"])
@pytest.mark.parametrize("place", ["the top", "scattered", "different in each"])
def test_partly_known_images(name: str, place: str) -> None:
    model = model_of(WORLDS[name])
    given, mask = random_images(model.spec, 3), masks(model.spec, 3)[place]
    images = check_fast_is_plain(model, given=given, mask=mask)
    assert torch.equal(images[mask.expand_as(given)], given[mask.expand_as(given)])


@pytest.mark.parametrize("name", ["Bernoulli", "ordered"])
def test_images_of_classes(name: str) -> None:
    model = model_of(WORLDS[name], classes=3)
    for embedding in (p for n, p in model.network.named_parameters() if ".classes." in n):
        torch.nn.init.normal_(embedding)
    labels = torch.tensor([0, 3, 1, 2])
    images = check_fast_is_plain(model, n=4, labels=labels)
    assert not torch.equal(check_fast_is_plain(model, n=4, labels=labels.flip(0)), images)
    with pytest.raises(UsageError, match="labels"):
        model.network(torch.zeros(1, *model.spec.shape).double())


def test_the_recipe_is_causal() -> None:
    run = RECIPES["pixelsnail"]
    assert isinstance(run.model, PixelSNAILConfig)
    model = model_of((run.model, run.head, ImageSpec(1, 3, 5, 2)))
    assert_autoregressive(model.network, model.spec)
    assert receptive_field(model.network, model.spec, (2, 4)).sum() == 14


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"heads": 3}, "keys=16 cannot be shared evenly by heads=3"),
        ({"heads": 4, "values": 6}, "values=6 cannot be shared evenly by heads=4"),
        ({"heads": 4, "channels": 12}, "values=6 cannot be shared evenly by heads=4"),
        ({"blocks": 0}, "greater than or equal to 1"),
        ({"window": -1}, "greater than or equal to 0"),
        ({"kernels": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        PixelSNAILConfig.model_validate(settings)
