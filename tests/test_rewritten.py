"""Guards of data, training, metrics and sampling can fail: a line of the source is rewritten, and the check turns red.

Each mutation is an edit that a real bug would resemble. Every check runs on the sound code first, so that what turns it
red is the edit and nothing else.
"""

from __future__ import annotations

import inspect
import itertools
import math
import sys
import textwrap
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from checks import check_causality, check_fast_is_plain, check_head_sums_to_one
from fast_toys import double, of_size, random_images
from pixelloom.core import rng
from pixelloom.core.types import ImageSpec
from pixelloom.data import pixels, stream
from pixelloom.data.catalog import load
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import quantize_table, to_model
from pixelloom.data.splits import Split
from pixelloom.engine.hooks import Validate
from pixelloom.engine.optim import EMA, ema_gamma
from pixelloom.engine.signals import Signals
from pixelloom.engine.state import State
from pixelloom.heads.discrete import Bernoulli, Categorical
from pixelloom.heads.logistic_mixture import Logistics, _Mixture
from pixelloom.layers import masked_conv
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.metrics import distances, results
from pixelloom.metrics.results import Reference
from pixelloom.models.pixel import PixelModel
from pixelloom.objectives.base import Monitor
from pixelloom.runs import evaluate
from pixelloom.sampling import sharding
from pixelloom.sampling.fast import drawer
from pixelloom.sampling.fast import sampler as fast
from pixelloom.sampling.fast.runtime import Runtime
from settings import CONFIGS
from small_models import flat
from test_shared_models import of_classes

Patch = pytest.MonkeyPatch
Check = Callable[[], None]


@dataclass(frozen=True)
class Edit:
    """``old`` becomes ``new`` in the source of a function; ``old`` must stand there exactly once."""

    owner: Any
    name: str
    old: str
    new: str

    def make(self, patch: Patch) -> None:
        function = inspect.unwrap(inspect.getattr_static(self.owner, self.name))
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.old) == 1, f"{self.old!r} is not in {self.name} exactly once"
        names: dict[str, Any] = {}
        code = "from __future__ import annotations\n" + source.replace(self.old, self.new)
        exec(code, vars(sys.modules[function.__module__]), names)
        patch.setattr(self.owner, self.name, names[self.name])


# Sampling


def threads_change_no_image() -> None:
    """A batch in shards, each drawn by a thread, is the batch in one piece; so is one begun at another image."""
    model, calls = of_classes()
    for call in calls:
        whole = model.sample(5, threads=1, **call)
        with patch.object(sharding, "shard_count", lambda images, *_: min(images, 3)):
            assert torch.equal(model.sample(5, threads=3, **call), whole)


def guidance_is_equation_6() -> None:
    """Images are draws from (1 + w) cond - w uncond of one pass over them, hence those of the loop."""
    model, _ = of_classes()
    labels, null, weight = torch.tensor([0, 1, 2, 0, 1]), torch.full((5,), model.description.classes), 1.5
    for method in ("fast", "plain"):
        images = model.sample(5, labels=labels, guidance=weight, method=method)  # type: ignore[arg-type]
        cond, uncond = model.predict(images, labels), model.predict(images, null)
        logits = (1 + weight) * cond - weight * uncond
        assert torch.equal(model.head.draw(logits, rng.image_noise(model.spec, 0, 0, 5)), images)


def labels_reach_the_network() -> None:
    """A likelihood given a label is that of the network called with this label."""
    model, _ = of_classes()
    images = random_images(model.spec, 3)
    x = to_model(images, model.spec.levels, model.description.scaling).double()
    for label in range(model.description.classes + 1):
        params = model.network(x, labels=torch.full((3,), label))
        nats = -model.head.table(params).gather(2, images[:, :, None].long()).log().flatten(1).sum(1)
        torch.testing.assert_close(-model.log_prob(images, label), nats.detach(), rtol=1e-5, atol=1e-5)


def images_with_borders() -> None:
    check_fast_is_plain(double(of_size("mnist-gray", 6, 7)))


def last_column_not_written(patch: Patch) -> None:
    """What is computed at the border of the image is not kept for those that read it later."""
    right = Runtime.step

    def step(self: Runtime, number: int, draw: Any) -> None:
        right(self, number, draw)
        for task in self._tasks:
            if task.cache is not None and number in task.wavefronts:
                for y, x in task.wavefronts[number].positions:
                    if x == task.cache.layout.width - 1:
                        task.cache.line(y)[:, x, torch.from_numpy(task.group.columns)] = 0

    patch.setattr(Runtime, "step", step)


# Networks and heads


def masks_of_every_layer() -> None:
    check_causality(CONFIGS["mnist-gray"].on(ImageSpec(1, 6, 7, 256)))


def mask_of_the_first_layer(patch: Patch) -> None:
    """All layers of this size use the mask of the first, A."""
    right, masks = MaskedConv2d.__init__, dict[int, Tensor]()

    def init(self: MaskedConv2d, *args: Any, **options: Any) -> None:
        right(self, *args, **options)
        self.mask = masks.setdefault(self.weight.shape[-1], self.mask)[:, :1].expand_as(self.mask).clone()

    patch.setattr(MaskedConv2d, "__init__", init)


def mask_of_the_second_layer(patch: Patch) -> None:
    """The first layer uses the mask of the second, B."""
    right = masked_conv.causal_mask
    patch.setattr(masked_conv, "causal_mask", lambda kernel, mask, *rest: right(kernel, "B", *rest))


def temperature_is_a_power() -> None:
    """Tempered probabilities are p^(1/T) over their sum, for each head."""
    generator = torch.Generator().manual_seed(0)
    for head in (
        Categorical(ImageSpec(3, 2, 2, 5)),
        Bernoulli(ImageSpec(1, 2, 2, 2)),
        Logistics(ImageSpec(1, 2, 2, 9), 3),
    ):
        params = 2 * torch.randn(4, head.outputs, 2, 2, generator=generator, dtype=torch.float64)
        for temperature in (0.5, 2.0):
            powers = head.table(params) ** (1 / temperature)
            expected = powers / powers.sum(2, keepdim=True)
            torch.testing.assert_close(head.table(params, temperature), expected, rtol=1e-9, atol=1e-12)


def bins_of_a_mixture() -> None:
    spec = ImageSpec(1, 2, 3, 17)
    check_head_sums_to_one(Logistics(spec, 3), spec)


# Data


def streams_are_apart() -> None:
    """No two purposes draw the same numbers; bits of a training image are not those it is evaluated by."""
    names = [name for name in dir(rng.Stream) if name.isupper()]
    drawn = {tuple(rng.uniform(8, 3, int(getattr(rng.Stream, name)), 0)) for name in names}
    assert len(drawn) == len(names) > 15
    gray = Split(np.full((40, 1, 4, 4), 128, np.uint8))
    spec = ImageSpec(1, 4, 4, 2)
    visited = stream.Stream(gray, spec, 40, dynamic=True).batch_at(0).images
    evaluated = next(stream.ordered(gray, spec, 40, dynamic=True)).images
    assert 0.4 < float((visited == evaluated).double().mean()) < 0.6


def number_used_twice(patch: Patch) -> None:
    """Evaluation draws its bits by the number of training."""
    numbers = {name: int(member) for name, member in rng.Stream.__members__.items()}
    patch.setattr(rng, "Stream", SimpleNamespace(**numbers | {"EVAL_BITS": numbers["TRAIN_BITS"]}))


def every_epoch_has_its_order() -> None:
    """Each epoch visits every image once, in an order of its own."""
    store = np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1)
    source = stream.Stream(Split(store), ImageSpec(1, 1, 1, 256), 10)
    getattr(stream._permutation, "cache_clear", int)()  # a rewritten one has no cache
    orders = [
        [int(v) for step in range(3 * e, 3 * e + 3) for v in source.batch_at(step).images.flatten()] for e in (0, 1, 2)
    ]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def display_is_black_to_white() -> None:
    """Bytes run from 0 to 255, within half a bin of v / (levels - 1), and quantize back to the levels."""
    for levels in (2, 3, 4, 17, 256):
        v = np.arange(levels)
        shown = pixels.to_bytes(v.astype(np.uint8), levels)
        assert (shown[0], shown[-1]) == (0, 255)
        assert (np.abs(shown - 255 * v / (levels - 1)) <= 128 / levels).all()
        assert (quantize_table(256, levels)[shown] == v).all()


def levels_come_back() -> None:
    for levels, scaling in itertools.product((2, 5, 256), (pixels.Scaling.symmetric(), pixels.Scaling(0.13, 0.31))):
        x = torch.arange(levels, dtype=torch.uint8)
        assert torch.equal(pixels.from_model(to_model(x, levels, scaling), levels, scaling), x)


# Training


def weights_are_averaged_once() -> None:
    """By hand: w' = beta w' + (1 - beta) w with beta = (1 - 1 / t)^(gamma + 1), Karras et al. 2024, section 3.1."""
    layer, expected = nn.Linear(1, 1, bias=False), 0.0
    ema = EMA(layer, 0.1)
    for t in range(1, 9):
        with torch.no_grad():
            layer.weight.fill_(t**2)
        ema.update(t)
        beta = (1 - 1 / t) ** (ema_gamma(0.1) + 1)
        expected = beta * expected + (1 - beta) * t**2
        (average,) = ema.module.parameters()
        assert float(average) == pytest.approx(expected, rel=1e-5)


def lowest_is_best() -> None:
    """Of a monitored metric, with the step at which it was."""
    values, kept = iter([math.nan, 3.0, 1.0, 2.0, 1.5]), list[float]()

    def measure(module: nn.Module) -> Mapping[str, float]:
        return {"bits": next(values)}

    run: Any = SimpleNamespace(
        due=lambda *_: True,
        config=SimpleNamespace(validate_every=1, minutes=None),
        objective=SimpleNamespace(monitor=Monitor("bits", measure)),
        state=State(),
        progress=0.5,
        signals=Signals(),
        ema_weights=lambda: nullcontext(nn.Identity()),
        report=lambda metrics: None,
    )
    hook = Validate(lambda module, metrics, state: kept.append(metrics["bits"]))
    for step in range(1, 6):
        run.state.step = step
        hook.on_step(run, {})
    assert (run.state.best, run.state.best_step, kept) == (1.0, 3, [3.0, 1.0])


# Metrics

INK = 0.3
DIGITS = DataConfig(source="digits", binarize="threshold@0.5")


def likelihood_is_that_of_the_split() -> None:
    """Of independent bits, counted by hand over the images of the split that was asked for."""
    data = load(DIGITS)
    model = flat(data.spec, ink=INK)
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        ones = split.all()[0].astype(float).mean()
        bits = -(ones * math.log2(INK) + (1 - ones) * math.log2(1 - INK))
        found, _ = evaluate.likelihood_of(model, DIGITS, name)
        assert found.bits_per_dim == pytest.approx(bits, rel=1e-6)
        assert found.n == len(split)


def baseline_is_of_two_halves() -> None:
    """All of one half are within the neighborhoods of this half, but not of another one."""
    real = np.random.default_rng(0).exponential(30, (100, 1, 6, 6)).clip(max=255).astype(np.uint8)
    (found,) = results.measure(real, Reference(real), 256, metrics=["precision"], extractor="pixels")
    assert found.baseline is not None
    assert 0.3 < found.baseline < 0.9


def precision_is_of_samples() -> None:
    """Samples at one real image are all precise and recall little; samples everywhere and beyond, the other way."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    narrow = real[:1] + 1e-3 * torch.randn(200, 2, generator=generator, dtype=torch.float64)
    found = distances.neighborhoods(real, narrow)
    assert found.precision == 1
    assert found.recall < 0.1
    found = distances.neighborhoods(narrow, real)
    assert found.precision < 0.1
    assert found.recall == 1


MUTATIONS: dict[str, tuple[Edit | Callable[[Patch], None], Check]] = {
    "a shard draws by the noise of the first images": (
        Edit(sharding._Shards, "__init__", "slice(a, b) for", "slice(0, b - a) for"),
        threads_change_no_image,
    ),
    "a shard has the conditioning of the first images": (
        Edit(fast, "_rows_of", "part[rows] for", "part[: rows.stop - rows.start] for"),
        threads_change_no_image,
    ),
    "guidance away from the class": (
        Edit(drawer, "guided", "cond + weight * (cond - uncond)", "cond + weight * (uncond - cond)"),
        guidance_is_equation_6,
    ),
    "guidance with the null class in the place of the class": (
        Edit(drawer, "guided", "cond + weight * (cond - uncond)", "uncond + weight * (uncond - cond)"),
        guidance_is_equation_6,
    ),
    "the label is off by one": (
        Edit(PixelModel, "conditioning", "labels.to(self.device)", "(labels.to(self.device) - 1).clamp(min=0)"),
        labels_reach_the_network,
    ),
    "the last column is not written into the cache": (last_column_not_written, images_with_borders),
    "all layers use the mask of the first": (mask_of_the_first_layer, masks_of_every_layer),
    "the first layer uses the mask of the second": (mask_of_the_second_layer, masks_of_every_layer),
    "temperature divides probabilities": (
        Edit(Categorical, "table", "logits = logits / temperature", "logits = F.softmax(logits, dim=-1) / temperature"),
        temperature_is_a_power,
    ),
    "temperature multiplies": (
        Edit(Bernoulli, "table", "params.double() / temperature", "params.double() * temperature"),
        temperature_is_a_power,
    ),
    "the last bin of a mixture is as narrow as the others": (
        Edit(_Mixture, "_log_bins", ".masked_fill(last, 0)", ""),
        bins_of_a_mixture,
    ),
    "a stream's number is used twice": (number_used_twice, streams_are_apart),
    "all epochs have one order": (
        Edit(stream, "_permutation", "rng.Stream.SHUFFLE, epoch)", "rng.Stream.SHUFFLE, 0)"),
        every_epoch_has_its_order,
    ),
    "white is gray": (
        Edit(pixels, "bytes_table", "np.rint(WHITE * v / (levels - 1))", "256 * v // levels"),
        display_is_black_to_white,
    ),
    "levels are cut, not rounded": (Edit(pixels, "from_model", "v.round()", "v.floor()"), levels_come_back),
    "the EMA's decay acts twice": (
        Edit(EMA, "update", "** self.exponent", "** (2 * self.exponent)"),
        weights_are_averaged_once,
    ),
    "the highest value is the best": (
        Edit(Validate, "on_step", "value < state.best", "value > state.best"),
        lowest_is_best,
    ),
    "no number counts as the best": (
        Edit(Validate, "on_step", "math.isfinite(value) and ", ""),
        lowest_is_best,
    ),
    "validation images stand for the test split": (
        Edit(evaluate, "scored", "split_of(data, split)", "data.val"),
        likelihood_is_that_of_the_split,
    ),
    "one half is measured against itself": (
        Edit(results, "_distances", "real[order[part:]], real[order[:part]]", "real[order[:part]], real[order[:part]]"),
        baseline_is_of_two_halves,
    ),
    "precision and recall are swapped": (
        Edit(distances, "neighborhoods", "real, fake = _centered(real, fake)", "fake, real = _centered(real, fake)"),
        precision_is_of_samples,
    ),
}


@cache
def hold_when_nothing_is_broken(check: Check) -> None:
    check()


@pytest.mark.parametrize("name", MUTATIONS)
def test_an_edit_turns_its_check_red(monkeypatch: Patch, name: str) -> None:
    mutation, check = MUTATIONS[name]
    hold_when_nothing_is_broken(check)
    if isinstance(mutation, Edit):
        mutation.make(monkeypatch)
    else:
        mutation(monkeypatch)
    with pytest.raises(AssertionError):
        check()
