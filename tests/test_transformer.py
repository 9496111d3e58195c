"""The pixel transformer: by its equations, position by position; windows, rotations; fast images equal plain ones."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.special
import torch
from pydantic import ValidationError

from checks import check_every_logit, check_fast_is_plain, check_world_sums_to_one, earlier, jacobian
from fast_toys import masks, poisoned, random_images
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.layers.causal_attention import Rotary
from pixelloom.layers.shifted_conv import BoxConv2d
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks.pixel.transformer import PixelTransformer, PixelTransformerConfig
from pixelloom.runs.recipes import RECIPES
from pixelloom.sampling.fast.analysis import Dataflow, assert_autoregressive, receptive_field
from pixelloom.sampling.fast.causality import NotAutoregressiveError
from settings import BERNOULLI, BINARY_WORLD, COLOR_WORLD, INDEPENDENT, ORDERED, live

Array = npt.NDArray[np.float64]
World = tuple[PixelTransformerConfig, HeadConfig, ImageSpec]

SMALL = PixelTransformerConfig(channels=6, layers=2, heads=2, hidden=10)
ROTARY = PixelTransformerConfig(channels=8, layers=2, heads=2, positions="rotary", hidden=9, dropout=0.3)
LOCAL = PixelTransformerConfig(channels=6, layers=3, heads=1, window=1, every=2, first_kernel=3)
NEAR = PixelTransformerConfig(channels=6, layers=1, heads=3, window=0, first_kernel=5, kernel=3)
WORLDS: dict[str, World] = {
    "Bernoulli": (SMALL, BERNOULLI, ImageSpec(1, 5, 6, 2)),
    "categorical": (ROTARY, ORDERED, ImageSpec(1, 6, 4, 7)),
    "local": (LOCAL, ORDERED, ImageSpec(1, 6, 5, 3)),
    "near": (NEAR, BERNOULLI, ImageSpec(1, 5, 5, 2)),
    "Bernoulli, three channels": (LOCAL, BERNOULLI, ImageSpec(3, 4, 4, 2)),
    "ordered": (SMALL, ORDERED, ImageSpec(3, 4, 3, 4)),
    "independent": (ROTARY, INDEPENDENT, ImageSpec(3, 3, 4, 5)),
    "a row": (SMALL, ORDERED, ImageSpec(3, 1, 6, 3)),
    "a column": (NEAR, BERNOULLI, ImageSpec(1, 7, 1, 2)),
    "a pixel": (ROTARY, ORDERED, ImageSpec(3, 1, 1, 4)),
}
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def fresh(world: World, classes: int = 0) -> PixelModel:
    config, head, image = world
    torch.manual_seed(0)
    return PixelModel.build(
        PixelDescription(
            network="pixel-transformer",
            model=config,
            head=head,
            image=image,
            scaling=Scaling.symmetric(),
            classes=classes,
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


@pytest.mark.parametrize("name", ["categorical", "local", "independent", "a row"])
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


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_each_layer_looks_back_over_its_window(layers: int, window: int) -> None:
    """A feature at the start of a row already knows the last pixel of the row above, hence one row more at the end."""
    spec = ImageSpec(1, 8, 3, 2)
    config = PixelTransformerConfig(channels=4, layers=layers, heads=1, window=window)
    network = PixelTransformer(config, spec, outputs=1, groups=1)
    field = receptive_field(network, spec, (7, 1))[0]
    first = 21 - 3 * layers * window - 1  # the pixel before the first position that is attended to
    assert field.reshape(-1).tolist() == [max(first, 0) <= i < 22 for i in range(24)]


def test_a_layer_that_looks_ahead_is_named() -> None:
    network = PixelTransformer(SMALL, BINARY_WORLD, outputs=1, groups=1)
    network.set_submodule("layers.1.up", BoxConv2d(6, 10, top=0, bottom=0, left=0, right=1))
    with pytest.raises(NotAutoregressiveError, match=r"layers\.1\.up: reads .* at offset \(\+0, \+1\)"):
        assert_autoregressive(network, BINARY_WORLD, by="schedule")
    with pytest.raises(NotAutoregressiveError, match="the output at row 0, column 0 depends on channel 0"):
        assert_autoregressive(live(network).double(), BINARY_WORLD, by="gradient")


# The equations, position by position


class Equations:
    """With the weights of a network."""

    def __init__(self, network: PixelTransformer, config: PixelTransformerConfig) -> None:
        self.p = {name: value.detach().numpy() for name, value in network.state_dict().items()}
        self.config = config

    def dense(self, name: str, x: Array) -> Array:
        """[in, H, W] -> [out, H, W]"""
        weight = self.p[f"{name}.weight"].reshape(len(self.p[f"{name}.weight"]), -1)
        return np.einsum("oi,ihw->ohw", weight, x) + self.p[f"{name}.bias"][:, None, None]

    def norm(self, name: str, x: Array) -> Array:
        normed = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        return normed * self.p[f"{name}.gain"][:, None, None] + self.p[f"{name}.bias"][:, None, None]

    def masked(self, weight: Array, x: Array, own: bool) -> Array:
        """A kxk kernel of mask A or B, of which rows from the top to the center are stored."""
        out, r = np.zeros((len(weight), *x.shape[1:])), weight.shape[3] // 2
        for y, u in np.ndindex(*x.shape[1:]):
            for v, w in np.ndindex(*x.shape[1:]):
                if abs(v - y) <= r and abs(w - u) <= r and ((v, w) < (y, u) or (own and (v, w) == (y, u))):
                    out[:, y, u] += weight[:, :, v - y + r, w - u + r] @ x[:, v, w]
        return out

    def turned(self, x: Array) -> Array:
        """Pairs (a, b) as complex numbers a + i b, turned by an angle a position: half of them a row, half a column."""
        height, width = x.shape[1:]
        pairs = len(x) // 2
        rates = [math.pi / max(height, width) ** (j / max(1, pairs // 2 - 1)) for j in range(pairs // 2)]
        rows, columns = np.indices((height, width))
        angles = np.stack([r * rows for r in rates] + [r * columns for r in rates])
        turned = (x[:pairs] + 1j * x[pairs:]) * np.exp(1j * angles)
        return np.concatenate((turned.real, turned.imag))

    def attention(self, number: int, q: Array, k: Array, v: Array) -> Array:
        c, width, out = self.config, q.shape[2], np.zeros_like(v)
        everything = c.window is None or (c.every and (number + 1) % c.every == 0)
        for qh, kh, vh, oh in zip(*(np.split(part, c.heads) for part in (q, k, v, out)), strict=True):
            if c.positions == "rotary":
                qh, kh = self.turned(qh), self.turned(kh)  # noqa: PLW2901
            for i in range(qh[0].size):
                y, x = divmod(i, width)
                read = [divmod(j, width) for j in range(i + 1)]
                read = [(a, b) for a, b in read if everything or a >= y - c.window]
                weights = np.exp([qh[:, y, x] @ kh[:, a, b] / math.sqrt(len(qh)) for a, b in read])
                oh[:, y, x] = sum(w * vh[:, a, b] for w, (a, b) in zip(weights / weights.sum(), read, strict=True))
        return out

    def trunk(self, image: Array, label: int | None) -> Array:
        """[C, H, W] -> [channels, H, W]"""
        line = image.reshape(len(image), -1)
        shifted = np.concatenate((np.zeros((len(line), 1)), line[:, :-1]), axis=1).reshape(image.shape)
        h = self.dense("before", shifted)
        if self.config.first_kernel > 1:
            h = h + self.masked(self.p["context.0.weight"], image, own=False)
        h = h + self.p["positions.rows"] + self.p["positions.columns"]
        for number in range(self.config.layers):
            name = f"layers.{number}"
            if label is not None:
                h = h + self.p[f"{name}.classes.0.weight"][label][:, None, None]
            q, k, v = np.split(self.dense(f"{name}.inputs", self.norm(f"{name}.norm", h)), 3)
            h = h + self.dense(f"{name}.outputs", self.attention(number, q, k, v))
            inner = self.masked(self.p[f"{name}.up.weight"], self.norm(f"{name}.inner_norm", h), own=True)
            inner = inner + self.p[f"{name}.up.bias"][:, None, None]
            h = h + self.dense(f"{name}.down", inner * (1 + scipy.special.erf(inner / math.sqrt(2))) / 2)
        return self.norm("norm", h)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("name", ["Bernoulli", "categorical", "local", "near", "independent"])
def test_follows_the_equations(name: str, classes: int) -> None:
    model = model_of(WORLDS[name], classes=classes)
    network, spec = model.network, model.spec
    assert isinstance(network, PixelTransformer)
    for embedding in (p for n, p in network.named_parameters() if ".classes." in n):
        torch.nn.init.normal_(embedding)
    x = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([classes, 1])
    equations = Equations(network, WORLDS[name][0])
    with torch.no_grad():
        found = network(x, labels) if classes else network(x)
        for image, label, out in zip(x, labels.tolist(), found, strict=True):
            trunk = torch.from_numpy(equations.trunk(image.numpy(), label if classes else None))
            torch.testing.assert_close(out, network.output(trunk[None], image[None])[0], rtol=1e-6, atol=1e-7)
    assert float(found.abs().max()) > 0.3


def test_products_of_rotated_features_depend_on_the_offset_alone() -> None:
    spec, heads = ImageSpec(1, 5, 7, 2), 2
    rotary = Rotary(16, heads, spec).double()
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(16, generator=generator, dtype=torch.float64)[None, :, None, None] for _ in range(2))
    turned_q, turned_k = (rotary(x.expand(1, 16, 5, 7))[0].unflatten(0, (heads, 8)) for x in (q, k))
    products = torch.einsum("hfyx,hfvu->hyxvu", turned_q, turned_k)
    by_offset: dict[tuple[int, ...], float] = {}
    for h, y, x, v, u in np.ndindex(*products.shape):
        one = float(products[h, y, x, v, u])
        assert one == pytest.approx(by_offset.setdefault((h, v - y, u - x), one), abs=1e-5)
    assert len({round(one, 5) for one in by_offset.values()}) == len(by_offset) == heads * 9 * 13
    for h in range(heads):
        plain = (q[0, 8 * h : 8 * h + 8] * k[0, 8 * h : 8 * h + 8]).sum()
        assert by_offset[h, 0, 0] == pytest.approx(float(plain), abs=1e-5)


# Before training


@each_world
def test_first_prediction_is_uniform_and_every_parameter_learns(world: World) -> None:
    model = fresh(world, classes=3)
    images = random_images(model.spec, 6)
    expected = -model.spec.dims * math.log(model.spec.levels)
    assert model.log_prob(images).tolist() == pytest.approx([expected] * 6, rel=1e-6)
    if model.spec.height * model.spec.width == 1:  # nothing comes before
        return
    live(model.network)
    model.head.nats(model.predict(images, torch.arange(6) % 4), images).sum().backward()
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
    [(SMALL, BERNOULLI, BINARY_WORLD), (ROTARY, ORDERED, COLOR_WORLD), (LOCAL, INDEPENDENT, COLOR_WORLD)],
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


@pytest.mark.parametrize("name", ["Bernoulli", "categorical", "local", "ordered"])
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


def test_one_pixel_a_step() -> None:
    assert model_of(WORLDS["Bernoulli"]).fast_sampler().steps == 30


def test_the_recipe_is_causal() -> None:
    run = RECIPES["pixel-transformer"]
    assert isinstance(run.model, PixelTransformerConfig)
    model = model_of((run.model, run.head, ImageSpec(1, 3, 5, 2)))
    assert_autoregressive(model.network, model.spec)
    assert receptive_field(model.network, model.spec, (2, 4)).sum() == 14


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"heads": 3}, "channels=64 cannot be shared evenly: choose a multiple of 3"),
        ({"heads": 2, "channels": 12, "positions": "rotary"}, "channels=12 .* choose a multiple of 8"),
        ({"first_kernel": 2}, "an odd side such as 3, not 2"),
        ({"kernel": 4}, "an odd side such as 5, not 4"),
        ({"positions": "sine"}, "'learned' or 'rotary'"),
        ({"window": -1}, "greater than or equal to 0"),
        ({"depth": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        PixelTransformerConfig.model_validate(settings)
