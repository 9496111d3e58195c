"""What must hold of every pixel model, as functions: the tests call them, and the mutation tests see them fail.

Each raises AssertionError when its invariant is broken. Expectations are computed here from definitions, by loops and
enumeration, never by the code under test.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeAlias
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import scipy.stats
import torch
from torch import Tensor, nn

from pixelloom.core.rng import image_noise
from pixelloom.core.types import Batch, ImageSpec
from pixelloom.heads.discrete import Head
from pixelloom.layers.blocks import GatedBlock, ResidualBlock
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.models import order_ensemble
from pixelloom.models.pixel import PixelModel
from pixelloom.sampling import ancestral
from settings import Setting

Method: TypeAlias = Literal["fast", "plain"]
Bools = npt.NDArray[np.bool_]
JUST_BELOW_1 = float(np.nextafter(1.0, 0.0))

# Causality


def layer_reads(mask: str, kernel: int, spec: ImageSpec, groups: int, inputs: int) -> Bools:
    """Who reads whom through one masked layer, [groups * H * W, inputs * H * W], by the words of the paper."""
    h, w, r = spec.height, spec.width, kernel // 2
    reads = np.zeros((groups, h, w, inputs, h, w), bool)
    for (y, x), (v, u) in itertools.product(itertools.product(range(h), range(w)), repeat=2):
        if abs(v - y) <= r and abs(u - x) <= r:
            for g, c in itertools.product(range(groups), range(inputs)):
                own = groups > 1 and c < g if mask == "A" else c <= g
                reads[g, y, x, c, v, u] = (v, u) < (y, x) or ((v, u) == (y, x) and own)
    return reads.reshape(groups * h * w, inputs * h * w)


def reachable(setting: Setting) -> Bools:
    """Which input value each output value should depend on, [C * H * W, C * H * W], by following all layers."""
    spec, groups = setting.image, setting.image.channels if setting.ordered else 1
    first = layer_reads("A", setting.config.first_kernel, spec, groups, spec.channels)
    for kernel in setting.kernels:
        first = layer_reads("B", kernel, spec, groups, groups) @ first
    return first if setting.ordered else np.tile(first, (spec.channels, 1))


def earlier(spec: ImageSpec, ordered: bool) -> Bools:
    """Which values come before which: pixels in raster order, then (if ordered) the channels of a pixel."""
    c, y, x = (axis.reshape(-1) for axis in np.indices(spec.shape))
    pixel = y * spec.width + x
    before = pixel[None, :] < pixel[:, None]
    return before | ((pixel[None, :] == pixel[:, None]) & (c[None, :] < c[:, None])) if ordered else before


def jacobian(network: nn.Module, spec: ImageSpec, seed: int) -> npt.NDArray[np.float64]:
    """d output / d input at a random picture, [C * H * W, C * H * W], in float64.

    The parameters of one value (its contiguous share of the outputs) are mixed with random weights into one number.
    Row i of the batch is asked for the gradient of output i alone, so one backward pass gives the whole matrix.
    """
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(1, *spec.shape, generator=generator, dtype=torch.float64)
    x = picture.repeat(spec.dims, 1, 1, 1).requires_grad_()
    params = network.double()(x).unflatten(1, (spec.channels, -1))
    mix = torch.randn(params.shape[2], generator=generator, dtype=torch.float64)
    torch.einsum("bclhw,l->bchw", params, mix).flatten(1).diagonal().sum().backward()
    assert x.grad is not None
    return x.grad.flatten(1).numpy()


def dependences(setting: Setting, expected: Bools, most: int = 20) -> Bools:
    """Where a gradient is not zero, [C * H * W, C * H * W], for some of a few random networks and pictures.

    One draw may miss what rectifiers happen to switch off, so more are added until all that is expected was seen.
    """
    seen = np.zeros_like(expected)
    for seed in range(most):
        seen |= jacobian(setting.model(seed).network, setting.image, seed) != 0
        if not (expected & ~seen).any():
            break
    return seen


def check_causality(setting: Setting) -> None:
    """Gradient causality both ways: exactly zero for what must not be seen, not zero for what must be."""
    expected = reachable(setting)
    seen = dependences(setting, expected)
    leaks = np.argwhere(seen & ~earlier(setting.image, setting.ordered))
    assert not len(leaks), f"{len(leaks)} outputs depend on themselves or the future, first (output, input) {leaks[0]}"
    differing = np.argwhere(seen != expected)
    assert not len(differing), f"{len(differing)} dependences are not those of the masks, first {differing[0]}"


def check_future_is_ignored(setting: Setting, seed: int = 0) -> None:
    """Outputs are bit-identical when the value itself and all that come after it move one level up or down."""
    spec, model = setting.image, setting.model(seed)
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, spec.levels, spec.dims)
    step = np.where(picture == 0, 1, np.where(picture == spec.levels - 1, -1, rng.choice([-1, 1], spec.dims)))
    before = earlier(spec, setting.ordered)
    changed = np.where(before, picture, picture + step)  # row i: all but what comes before value i
    same = np.broadcast_to(picture, changed.shape)
    with torch.no_grad():
        a, b = (
            model.predict(torch.from_numpy(rows.astype(np.uint8)).reshape(-1, *spec.shape))
            .unflatten(1, (spec.channels, -1))
            .movedim(2, -1)
            .flatten(1, 3)
            for rows in (same, changed)
        )
    rows = torch.arange(spec.dims)
    assert torch.equal(a[rows, rows], b[rows, rows]), "an output changed with the value it predicts or a later one"
    assert not torch.equal(a, b), "nothing changed at all: the check saw nothing"


# Small worlds


def all_images(spec: ImageSpec) -> Tensor:
    """Every image there is, uint8 [levels ** dims, C, H, W]."""
    values = np.array(list(itertools.product(range(spec.levels), repeat=spec.dims)), np.uint8)
    return torch.from_numpy(values).reshape(-1, *spec.shape)


def value_probabilities(model: PixelModel, images: Tensor, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """p(x_i | x_<i) of each value of each image at a temperature, [N, C, H, W], read off the head's table."""
    with torch.no_grad():
        table = model.head.table(model.predict(images), temperature, images)
    return table.gather(2, images[:, :, None].long())[:, :, 0].numpy()


def exact(model: PixelModel, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probability of every image of a small world, [N]: the product over its values."""
    return value_probabilities(model, all_images(model.spec), temperature).reshape(-1, model.spec.dims).prod(1)


def check_world_sums_to_one(model: PixelModel) -> None:
    """The probabilities of all images add up to 1, and are those of the head's table."""
    probabilities = model.log_prob(all_images(model.spec), batch=1000).exp().numpy()
    assert abs(probabilities.sum() - 1) < 1e-6, f"all images together have probability {probabilities.sum()}"
    np.testing.assert_allclose(probabilities, exact(model), rtol=1e-4)


def check_draws(draws: Tensor, probabilities: npt.NDArray[np.float64], spec: ImageSpec) -> None:
    """Chi-square of draws against the exact probability of each image of a small world.

    Images are taken in order and pooled, so that every cell expects 5 draws or more; neighbors differ in the last
    values only.
    """
    place = spec.levels ** np.arange(spec.dims)[::-1]
    counts = np.bincount(draws.flatten(1).numpy().astype(np.int64) @ place, minlength=len(probabilities))
    expected = probabilities * len(draws)
    assert counts[probabilities == 0].sum() == 0, "an impossible image was drawn"
    cells = [[0.0, 0.0]]
    for count, expectation in zip(counts, expected, strict=True):
        if cells[-1][1] >= 5:
            cells.append([0.0, 0.0])
        cells[-1][0] += count
        cells[-1][1] += expectation
    if cells[-1][1] < 5 and len(cells) > 1:
        rest = cells.pop()
        cells[-1] = [cells[-1][0] + rest[0], cells[-1][1] + rest[1]]
    assert len(cells) >= 4, "too few draws for a test"
    observed, wanted = np.array(cells).T
    p = scipy.stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue
    assert p > 1e-3, f"draws do not follow the model: p = {p:.1e} over {len(cells)} cells"


def check_sampler(
    model: PixelModel, method: Method = "fast", temperature: float = 1.0, n: int = 6000, seed: int = 0
) -> None:
    """What the model draws follows the product of its own tempered conditionals."""
    draws = model.sample(n, seed=seed, temperature=temperature, batch=n, method=method)
    check_draws(draws, exact(model, temperature), model.spec)


def check_batch_free(model: PixelModel, method: Method = "fast") -> None:
    """A picture depends on (seed, index) alone, and its likelihood on itself alone."""
    sample = partial(model.sample, seed=3, method=method)
    whole = sample(7)
    for batch in (1, 2, 3, 7, 100):
        assert torch.equal(sample(7, batch=batch), whole), f"other pictures in batches of {batch}"
    for first in (1, 4, 6):
        assert torch.equal(sample(7 - first, first=first), whole[first:]), f"others from {first} on"
    together = model.log_prob(whole)
    alone = torch.cat([model.log_prob(image[None]) for image in whole])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=0)


# The fast sampler


def check_fast_is_plain(model: PixelModel, n: int = 3, *, loop: bool = False, **options: Any) -> Tensor:
    """In float64 the fast sampler draws the images of the plain loop, value for value; returns them.

    With ``loop`` the loop itself draws them. Otherwise one parallel pass over the finished images x takes its place:
    the fast sampler must have drawn each value from what this pass predicts, and draws from the pass by the same noise
    must give x again. If the network is causal (each is tested for it), the loop gives x too, by induction over the
    values: those before i are those of x, so the loop predicts for value i what the pass predicts, and draws x[i].
    """
    options |= {"precision": "fp64"}
    params: Tensor | None = None
    loop = loop or order_ensemble.orders(model.network) > 1
    if loop or options.get("guidance"):  # with guidance each value is computed twice
        images = model.sample(n, batch=n, **options)
    else:
        images, params = drawn_from(model, n, **options)
    predicted: list[Tensor] = []

    def one_pass(
        predict: ancestral.Predict,
        head: Head,
        spec: ImageSpec,
        noise: Tensor,
        *,
        temperature: float = 1.0,
        given: Tensor | None = None,
        mask: Tensor | None = None,
        on_step: ancestral.OnStep | None = None,
    ) -> Tensor:
        predicted.append(predict(images))
        known = None if given is None or mask is None else (given, mask)
        return head.draw(predicted[0], noise, temperature, known)

    with torch.no_grad(), patch.object(ancestral, "sample", ancestral.sample if loop else one_pass):
        expected = model.sample(n, batch=n, method="plain", **options)
    wrong = (images != expected).nonzero().tolist()
    assert not wrong, f"{len(wrong)} of {images.numel()} values differ, first (image, channel, row, column) {wrong[0]}"
    if params is not None:
        check_logits(model, params, predicted[0], 1e-9, mask=options.get("mask"))
    return images


def check_logits(
    model: PixelModel, params: Tensor, expected: Tensor, tolerance: float, mask: Tensor | None = None
) -> None:
    """Parameters that values were drawn from are those expected; NaN, for none, only where all was known."""
    unknown = torch.ones(len(params), *model.spec.shape, dtype=torch.bool)
    if mask is not None:
        unknown &= ~mask
    if model.head.groups == 1:
        unknown = unknown.any(1, keepdim=True)
    none = params.isnan()
    assert not (none & unknown.repeat_interleave(params.shape[1] // unknown.shape[1], 1)).any(), "values without a draw"
    worst = float(torch.where(none, 0, params - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    assert worst <= tolerance, f"off by {worst:.1e} of the largest"


class Recorded:
    """A head that keeps the parameters it draws from, with the noise: no two values of images have the same."""

    def __init__(self, head: Head, seen: list[tuple[Tensor, Tensor]]) -> None:
        self.head, self.seen = head, seen
        self.groups, self.outputs, self.kind = head.groups, head.outputs, head.kind

    def draw(self, params: Tensor, noise: Tensor, *rest: Any) -> Tensor:
        self.seen.append((noise.flatten(1)[:, 0], params.flatten(1).clone()))
        return self.head.draw(params, noise, *rest)

    def of_channel(self) -> Recorded:
        return Recorded(self.head.of_channel(), self.seen)


def drawn_from(model: PixelModel, n: int, seed: int = 0, **options: Any) -> tuple[Tensor, Tensor]:
    """Pictures of the fast sampler and the parameters from which each was drawn, [n, outputs, H, W].

    NaN where none were drawn from; an error if any were more than once.
    """
    head, seen = model.head, []
    model.head = Recorded(head, seen)  # type: ignore[assignment]
    try:
        images = model.sample(n, seed=seed, batch=n, **options)
    finally:
        model.head = head
    if not seen:  # every pixel was known
        return images, torch.full((n, head.outputs, *model.spec.shape[1:]), torch.nan, dtype=torch.float64)
    noise = image_noise(model.spec, seed, 0, n)[:, : head.groups].flatten()  # [n, groups, H, W]
    keys, params = torch.cat([key for key, _ in seen]), torch.cat([values for _, values in seen])
    ascending, order = noise.sort()
    place = order[torch.searchsorted(ascending, keys).clamp(max=len(noise) - 1)]
    assert torch.equal(noise[place], keys), "something was drawn by the noise of another value"
    assert len(place.unique()) == len(place), "a value was drawn more than once"
    found = params.new_full((len(noise), params.shape[1]), torch.nan)
    found[place] = params
    grid = (n, head.groups, *model.spec.shape[1:], -1)
    return images, found.view(grid).movedim(-1, 2).flatten(1, 2)


def check_every_logit(model: PixelModel, tolerance: float, n: int = 3, **options: Any) -> None:
    """What the fast sampler draws from, everywhere, is what one pass over the finished picture predicts."""
    images, params = drawn_from(model, n, **options)
    with torch.no_grad():
        expected = model.predict(images)
    assert float(expected.abs().max()) > 0.5, "nothing to compare"
    check_logits(model, params, expected, tolerance)


# Callers that share a model


def check_callbacks_change_nothing(
    model: PixelModel, calls: Sequence[dict[str, Any]], method: Method, n: int = 5
) -> None:
    """A callback that draws other images, and makes samplers, while images are drawn."""
    expected = [model.sample(n, method=method, **call) for call in calls]
    for call, images in zip(calls, expected, strict=True):
        drawn_within: list[Tensor] = []

        def callback(step: int, steps: int, _: Tensor, drawn_within: list[Tensor] = drawn_within) -> None:
            if step == max(1, steps // 2):
                model.fast_sampler()
                drawn_within.extend(model.sample(n, method=method, **other) for other in calls)

        assert torch.equal(model.sample(n, method=method, on_step=callback, batch=3, **call), images)
        assert len(drawn_within) >= len(calls)
        for number, other in enumerate(drawn_within):
            assert torch.equal(other, expected[number % len(calls)])


def check_threads_do_not_mix(
    model: PixelModel, calls: Sequence[dict[str, Any]], method: Method, n: int = 5, rounds: int = 3
) -> None:
    """Threads that draw by one model at once; in their first steps they wait for each other, so all are at work."""
    expected = [model.sample(n, method=method, **call) for call in calls]
    together = threading.Barrier(len(calls), timeout=60)

    def draw(call: dict[str, Any]) -> list[Tensor]:
        waits = iter(range(8))  # fewer than any call has steps, or one would wait for a thread that is done

        def wait(*_: Any) -> None:
            if next(waits, None) is not None:
                together.wait()

        return [model.sample(n, method=method, on_step=wait, batch=3, **call) for _ in range(rounds)]

    with ThreadPoolExecutor(len(calls)) as pool:
        for images, found in zip(expected, pool.map(draw, calls), strict=True):
            for one in found:
                assert torch.equal(one, images)


def check_samplers_do_not_mix(model: PixelModel, calls: Sequence[dict[str, Any]], n: int = 5) -> None:
    """Two samplers of one model, and one sampler whose callback calls it again, by their noise and conditioning."""
    samplers = model.fast_sampler(), model.fast_sampler()
    noises = [image_noise(model.spec, seed, 0, n) for seed in (0, 1)]
    labels = [torch.full((n,), label) for label in (0, 2)]
    expected = [
        ancestral.sample(partial(model.predict, labels=label), model.head, model.spec, noise)
        for noise, label in zip(noises, labels, strict=True)
    ]
    for inner in samplers:
        within: list[Tensor] = []

        def callback(step: int, *_: Any, inner: Any = inner, within: list[Tensor] = within) -> None:
            if step == 3:
                within.append(inner.sample(noises[1], conditioning={"labels": labels[1]}))

        for _ in range(2):  # the second time with buffers that have been used
            found = samplers[0].sample(noises[0], conditioning={"labels": labels[0]}, on_step=callback)
            assert torch.equal(found, expected[0])
        assert all(torch.equal(images, expected[1]) for images in within)
        assert len(within) == 2


def check_layers_put_in_place_are_drawn_by(make: Callable[[], PixelModel], n: int = 4) -> None:
    """A plan serves as long as the layers are the very same: one in place of another is drawn by from then on."""
    model = make()
    before = model.sample(n)
    for seed in range(4):
        torch.manual_seed(seed)
        network: Any = model.network
        last = network.output  # dropped here: its address may serve the next one
        network.output = MaskedConv2d(last.weight.shape[1], last.weight.shape[0], 1, mask="B").double()
        nn.init.normal_(network.output.weight)
        del last
        drawn = model.sample(n)
        assert torch.equal(drawn, model.sample(n, method="plain"))
        assert not torch.equal(drawn, before)


# Heads


def check_head_sums_to_one(head: Head, spec: ImageSpec, scale: float = 3.0) -> None:
    """Probabilities of all levels add up to 1, in the table and by the nats that training sees, each level counted."""
    params = scale * torch.randn(2, head.outputs, 2, 3, generator=torch.Generator().manual_seed(0))
    table = head.table(params)
    assert table.shape == (2, spec.channels, spec.levels, 2, 3)
    assert table.dtype == torch.float64
    assert float((table.sum(2) - 1).abs().max()) < 1e-12
    levels = torch.arange(spec.levels, dtype=torch.uint8)
    nats = torch.stack([head.nats(params, level.expand(2, spec.channels, 2, 3)) for level in levels], dim=2)
    torch.testing.assert_close(nats.double(), -table.log(), rtol=1e-5, atol=1e-5)
    assert float(((-nats.double()).exp().sum(2) - 1).abs().max()) < 1e-5


def check_draw_inverts(head: Head, spec: ImageSpec) -> None:
    """A draw is the first level whose distribution function exceeds the noise, by a plain loop over levels."""
    generator = torch.Generator().manual_seed(0)
    params = 2 * torch.randn(4, head.outputs, 3, 5, generator=generator)
    noise = torch.rand(4, spec.channels, 3, 5, generator=generator, dtype=torch.float64)
    noise[0], noise[1] = 0.0, JUST_BELOW_1
    drawn = head.draw(params, noise)
    assert drawn.dtype == torch.uint8
    table = head.table(params)
    for b, c, y, x in np.ndindex(*noise.shape):
        probabilities, level, total = table[b, c, :, y, x].tolist(), 0, 0.0
        for level, p in enumerate(probabilities):  # noqa: B007
            total += p
            if total > float(noise[b, c, y, x]):
                break
        assert int(drawn[b, c, y, x]) == level


def check_thirds(setting: Setting) -> None:
    """The parameters that the head reads for a channel are those that the network's masks keep for it (trap 3).

    Moving channel c of a pixel changes what the head says about later channels of that pixel, and of no others.
    """
    spec, model = setting.image, setting.model()
    base = torch.randint(0, spec.levels, (64, *spec.shape), generator=torch.Generator().manual_seed(0)).byte()
    i, j = spec.height // 2, spec.width // 2
    for c in range(spec.channels):
        moved = base.clone()
        moved[:, c, i, j] = (spec.levels - 1) * (base[:, c, i, j] < spec.levels / 2)
        with torch.no_grad():
            before, after = (model.head.table(model.predict(x))[:, :, :, i, j] for x in (base, moved))
        changed = (before != after).any(2).any(0).tolist()
        assert changed == [setting.ordered and other > c for other in range(spec.channels)], f"channel {c}"


# Layers and blocks


def check_taps(conv: MaskedConv2d) -> None:
    """Forward writes no weights; masked taps get a gradient of exactly 0, do not move and do not matter (trap 4)."""
    mask = conv.mask.bool()
    before, version = conv.weight.detach().clone(), conv.weight._version
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.1)
    x = torch.randn(2, conv.weight.shape[1], 6, 7, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        optimizer.zero_grad()
        conv(x).square().sum().backward()
        assert step or conv.weight._version == version, "forward wrote to the weights"
        assert conv.weight.grad is not None
        assert bool((conv.weight.grad[~mask] == 0).all()), "masked taps have a gradient"
        assert bool((conv.weight.grad[mask] != 0).any())
        optimizer.step()
    assert torch.equal(conv.weight.detach()[~mask], before[~mask]), "masked taps moved"
    out = conv(x)
    with torch.no_grad():
        conv.weight[~mask] = 1e3
    assert torch.equal(conv(x), out), "masked taps matter"


def check_residual(block: ResidualBlock, features: int) -> None:
    """The branch is added once, to the input itself, which stays as it was (trap 5)."""
    given = torch.randn(2, features, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block, x = block.double().eval(), given.clone()
    assert float(block.branch(x).detach().abs().max()) > 0.1
    torch.testing.assert_close(block(x) - given, block.branch(x), rtol=1e-9, atol=1e-12)
    assert torch.equal(x, given), "the branch wrote over the short-cut"


def check_starts_as_identity(block: GatedBlock, features: int) -> None:
    """A gated block changes nothing before training, and can learn from the first step."""
    x = torch.randn(2, features, 5, 5, generator=torch.Generator().manual_seed(0))
    out = block(x)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert block.up.weight.grad is not None
    assert float(block.up.weight.grad.abs().max()) > 0


# Figures


def in_batches(images: Tensor, sizes: Sequence[int]) -> Iterator[Batch]:
    """An ordered pass in batches of these sizes."""
    for part in torch.split(images, list(sizes)):
        yield Batch(part, None)


def check_every_image_counts(
    score: Callable[[Callable[[Tensor], Tensor], Iterator[Batch]], Tensor], model: PixelModel
) -> None:
    """An uneven, ragged pass gives each image's own figure, in float64 and in order (trap 10)."""
    images = torch.randint(0, model.spec.levels, (11, *model.spec.shape), generator=torch.Generator().manual_seed(0))
    alone = torch.cat([model.log_prob(image[None]) for image in images])
    scored = score(model.log_prob, in_batches(images.byte(), (4, 1, 4, 2)))
    assert scored.dtype == torch.float64
    assert scored.shape == alone.shape
    torch.testing.assert_close(scored, alone, rtol=1e-6, atol=0)
