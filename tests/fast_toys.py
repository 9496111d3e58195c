"""Models for the tests of the fast sampler, masks of known pixels, and caches in which an early read gives NaN."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.heads.discrete import HeadConfig
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.models.pixel import PixelModel
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from pixelloom.sampling.fast.analysis import NEVER
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.runtime import Runtime
from random_networks import Attention, Case, Coarse, Earlier, Mean, OwnRow, Product, Shift, Up, Window
from settings import BERNOULLI, CONFIGS, INDEPENDENT, ORDERED, Setting, live, tiny


@torch.no_grad()
def with_unit_variance(model: PixelModel) -> PixelModel:
    """Scale every layer until its features vary by 1 from image to image (Mishkin and Matas 2016).

    A deep network with any weights gives nearly the same output for every image: equality of images would prove little.
    """

    def unit(layer: Any, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(inputs[0].mean((0, 2, 3)) + 0.1)  # type: ignore[union-attr]
            layer.running_var.copy_(inputs[0].var((0, 2, 3)) + 0.1)  # type: ignore[union-attr]
            return layer.forward(inputs[0])
        if not isinstance(layer, (MaskedConv2d, nn.Conv2d, Window)):
            return None
        spread = out.std(0).mean((1, 2))
        scale = torch.where(spread > 1e-9, spread, 1)[:, None, None]
        layer.weight /= scale[..., None]
        if layer.bias is None:
            return out / scale
        shift = out.mean((0, 2, 3)) - 0.3 * layer.bias
        layer.bias.copy_((layer.bias - shift) / scale.flatten())
        return (out - shift[:, None, None]) / scale

    hooks = [layer.register_forward_hook(unit) for layer in model.network.modules()]
    model.predict(random_images(model.spec, 16))
    for hook in hooks:
        hook.remove()
    return model


def single(setting: Setting, seed: int = 0) -> PixelModel:
    """With weights in float32."""
    return with_unit_variance(setting.model(seed))


def double(setting: Setting, seed: int = 0) -> PixelModel:
    """With weights in float64, where rounding moves no pixel."""
    model = setting.model(seed)
    model.network.double()
    return with_unit_variance(model)


TALL = tiny("gated", BERNOULLI, ImageSpec(1, 40, 3, 2), first_kernel=5)
"""Tall enough that caches release rows."""


def of_size(name: str, height: int, width: int) -> Setting:
    image = CONFIGS[name].image
    return CONFIGS[name].on(ImageSpec(image.channels, height, width, image.levels))


def random_images(spec: ImageSpec, n: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).integers(0, spec.levels, (n, *spec.shape), dtype=np.uint8))


def masks(spec: ImageSpec, n: int) -> dict[str, Tensor]:
    """Masks of known values for n images."""
    rng = np.random.default_rng(3)
    top = torch.arange(spec.height)[:, None] < spec.height // 2
    last = torch.zeros(spec.shape, dtype=torch.bool)
    last[-1, -1, -1] = True
    return {
        "the top": top,
        "the bottom": ~top,
        "the right": torch.arange(spec.width) > spec.width // 2,
        "scattered": torch.from_numpy(rng.random((1, *spec.shape)) < 0.5),
        "different in each": torch.from_numpy(rng.random((n, *spec.shape)) < 0.5),
        "one channel": (torch.arange(spec.channels) == spec.channels // 2)[:, None, None],
        "all but the last value": ~last,
        "everything": torch.tensor(True),
        "nothing": torch.tensor(False),
        "everything of one image": (torch.arange(n) == 1)[:, None, None, None],
    }


# Networks with a forward of their own


class Parts(nn.Module):
    """Layers for the forward passes below: 8 features, 5 levels, images of 5 x 6."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (MaskedConv2d(n, 8, 3, mask=m) for n, m in ((1, "A"), (8, "B"), (8, "B")))  # type: ignore[arg-type]
        self.narrow, self.wide = MaskedConv2d(8, 1, 3, mask="B"), MaskedConv2d(8, 16, 3, mask="B")
        self.one = nn.Conv2d(8, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 1, groups=4)
        self.norm, self.other_norm = nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False)
        self.rectify = nn.ReLU(inplace=True)
        self.gain, self.rows, self.columns = (
            nn.Parameter(torch.zeros(size)) for size in ((8, 1, 1), (8, 5, 1), (1, 6))
        )
        self.factor = nn.Parameter(torch.zeros(()))
        self.register_buffer("table", torch.randn(8, 5, 6))
        self.before, self.beside = Mean(8, Earlier(own=False)), Mean(8, OwnRow(own=True))
        self.attention, self.product = Attention(8, Earlier(own=True)), Product(8)
        self.left, self.up = Shift(8, 0, 1), Shift(8, 2, -1)
        self.coarse = Coarse(
            Window(8, 8, (0, 1, 0, 1), (2, 2)), Shift(8, 1, 0), nn.ReLU(), nn.BatchNorm2d(8), Up(8, (2, 2), (5, 6))
        )
        self.output = MaskedConv2d(8, 5, 1, mask="B")


def image_arithmetic(s: Any, x: Tensor) -> Tensor:
    x = 2 * x - 1
    return s.output(torch.tanh(s.a(x)) + s.a(x * x).clamp(min=-0.5))


def skip_connection_over_an_in_place_relu(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    branch = s.b(s.rectify(h))
    return s.output(h + F.relu(branch, inplace=True) + branch)


def arithmetic_in_place(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    same = h
    same += s.b(h).sigmoid()
    h /= 2
    return s.output(h - same * s.gain)


def copies_in_place(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    copy, same = h.clone(), h.contiguous()
    copy += 1
    return s.output(copy * h.sigmoid() + F.relu(same, inplace=True) * h)


def chunks_gate(s: Any, x: Tensor) -> Tensor:
    a, b = s.wide(F.elu(s.a(x))).chunk(2, dim=1)
    p, q, r = torch.split(a.tanh() * b.sigmoid(), [2, 5, 1], dim=1)
    return s.output(s.b(torch.cat((r, p, q), 1)))


def features_joined(s: Any, x: Tensor) -> Tensor:
    h = F.gelu(s.a(x))
    joined = torch.cat([h[:, -3:], s.b(h)[:, :4], s.narrow(h)], dim=1)
    return s.output(s.c(joined) + joined)


def norms_before_and_after(s: Any, x: Tensor) -> Tensor:
    h = s.b(F.silu(s.norm(s.a(x))))
    return s.output(F.relu(s.other_norm(s.c(s.norm(h)))) + h)


def norms_of_one_layer_twice(s: Any, x: Tensor) -> Tensor:
    h = s.b(s.a(x))
    return s.output(s.norm(h) - s.other_norm(h) * s.norm(s.norm(s.a(x))))


def tables(s: Any, x: Tensor) -> Tensor:
    h = s.a(x) + s.rows * s.columns + s.table
    return s.output(F.relu(s.b(h)) * s.factor.exp() - s.table.abs() / (1 + s.columns**2))


def one_feature_and_many(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    one = s.narrow(h)
    return s.output(s.b(one * s.gain + s.rows) + h * one - s.narrow(s.b(h)) * s.gain)


def ordinary_convolutions(s: Any, x: Tensor) -> Tensor:
    return s.output(s.one(F.leaky_relu(s.grouped(s.a(x)), 0.2)))


def all_earlier_positions(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.output(s.b(s.before(h)) + s.attention(s.one(h), s.grouped(h)))


def the_row_so_far(s: Any, x: Tensor) -> Tensor:
    return s.output(F.relu(s.beside(s.b(s.a(x)))) + s.product(s.left(s.a(x)), s.up(s.a(x))))


def coarser_and_back(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.output(s.b(h) + s.coarse(h).tanh())


def branches_of_different_delay(s: Any, x: Tensor) -> Tensor:
    h = s.up(s.a(x))
    return s.output(torch.lerp(h, s.up(s.b(s.left(h))), 0.3) * torch.minimum(s.before(h), s.gain))


def nothing_of_the_image(s: Any, x: Tensor) -> Tensor:
    return s.output(s.a(0 * x) + s.table)


Make: TypeAlias = Callable[[Any, Tensor], Tensor]
MAKES: list[Make] = [
    value for value in list(globals().values()) if getattr(value, "__annotations__", {}).get("s") == "Any"
]


def of_make(forward: Make, seed: int = 0) -> PixelModel:
    network: nn.Module = type(forward.__name__, (Parts,), {"forward": forward})()
    description = Setting(PixelCNNConfig(), ORDERED, ImageSpec(1, 5, 6, 5)).fresh().description
    return with_unit_variance(PixelModel(live(network, seed).double(), description))


def model_of(case: Case) -> PixelModel:
    """One output per channel is a Bernoulli logit, two are those of a categorical head."""
    channels, height, width = case.shape
    with torch.no_grad():
        outputs = case.network(torch.zeros(1, *case.shape).double()).shape[1]
    order = ORDERED if case.groups > 1 or channels == 1 else INDEPENDENT
    kind = "bernoulli" if outputs == channels else "categorical"
    head = HeadConfig.model_validate({"kind": kind, "channels": order.channels})
    setting = Setting(PixelCNNConfig(), head, ImageSpec(channels, height, width, 2))
    return with_unit_variance(PixelModel(copy.deepcopy(case.network), setting.fresh().description))


# Early reads


@contextmanager
def poisoned() -> Iterator[Counter[str]]:
    """Fill all that is not written yet with NaN, except margins: caches, released rows, pixels that are not drawn.

    Zero times NaN is NaN, so features under a zero weight must not be read early either. Yields counts of NaN fills.
    """
    counts: Counter[str] = Counter()
    reset, advance, start = Cache.reset, Cache.advance, Runtime.begin

    def poison(cache: Cache, first: int) -> None:
        for y in range(max(first, 0), cache.first_row + cache.layout.rows - cache.layout.bottom):
            cache.line(y).fill_(torch.nan)
            counts["rows"] += 1

    def poisoned_reset(self: Cache) -> None:
        reset(self)
        poison(self, 0)

    def poisoned_advance(self: Cache, step: int) -> None:
        end = self.first_row + self.layout.rows
        advance(self, step)
        if self.first_row + self.layout.rows > end:
            poison(self, max(end, self.first_row))
            counts["moves"] += 1

    def poisoned_start(self: Runtime, image: Tensor) -> None:
        start(self, image)
        for c, y, x in np.argwhere(self.plan.schedule.ready[0] != NEVER).tolist():
            self.caches[0].line(y)[:, x, c] = torch.nan
            counts["pixels"] += 1

    with (
        patch.object(Cache, "reset", poisoned_reset),
        patch.object(Cache, "advance", poisoned_advance),
        patch.object(Runtime, "begin", poisoned_start),
    ):
        yield counts
