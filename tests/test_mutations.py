"""Each guard can fail: one thing is broken, and the check that the tests rely on turns red.

Every mutation runs its check on the sound code first, so that what turns it red is the break and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import checks
from pixelloom.core.rng import image_noise
from pixelloom.core.types import Batch, Conditioning, ImageSpec
from pixelloom.heads.discrete import Categorical
from pixelloom.layers import blocks, masked_conv
from pixelloom.layers.blocks import GatedBlock, ResidualBlock
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.metrics.likelihood import score
from pixelloom.models import pixel
from pixelloom.models.pixel import PixelModel
from pixelloom.networks.pixel import pixelcnn
from pixelloom.sampling import ancestral
from pixelloom.sampling.fast import sampler as fast
from settings import CONFIGS, WORLDS
from test_shared_models import Case, of_classes, of_images, of_nothing

Patch = pytest.MonkeyPatch

COLOR = CONFIGS["gated-rgb-20"]
COLOR_WORLD = WORLDS["color, ordered, gated"]
BINARY_WORLD = WORLDS["binary, 2 levels, gated"]
BATCH_NORM = CONFIGS["gated-batch"].on(ImageSpec(1, 4, 4, 5))
HEAD_SPEC = ImageSpec(3, 2, 3, 17)


# What is broken


def first_mask_b(patch: Patch) -> None:
    """The first layer sees the pixel that it predicts."""

    def wrong(*args: Any, mask: masked_conv.Mask, **options: Any) -> MaskedConv2d:
        return MaskedConv2d(*args, mask="B", **options)

    patch.setattr(pixelcnn, "MaskedConv2d", wrong)


def later_mask_a(patch: Patch) -> None:
    """Later layers do not see their own position: causal, but blind to more than the masks say."""

    def wrong(*args: Any, mask: masked_conv.Mask, **options: Any) -> MaskedConv2d:
        return MaskedConv2d(*args, mask="A", **options)

    patch.setattr(blocks, "MaskedConv2d", wrong)


def groups_swapped(patch: Patch) -> None:
    """Blue before green before red: still a distribution that sums to 1, but not the one that the loop draws from."""
    right = masked_conv.feature_groups
    patch.setattr(masked_conv, "feature_groups", lambda features, groups: groups - 1 - right(features, groups))


def groups_interleaved(patch: Patch) -> None:
    """R, G, B, R, G, B ... where the head reads thirds."""
    patch.setattr(masked_conv, "feature_groups", lambda features, groups: torch.arange(features) % groups)


def groups_forgotten(patch: Patch) -> None:
    """All features of a pixel see each other."""

    def wrong(*args: Any, groups: int, **options: Any) -> MaskedConv2d:
        return MaskedConv2d(*args, groups=1, **options)

    patch.setattr(blocks, "MaskedConv2d", wrong)


def row_below(patch: Patch) -> None:
    """The kernel hangs one row too low."""

    def forward(self: MaskedConv2d, x: Tensor) -> Tensor:
        r = self.radius
        return F.conv2d(F.pad(x, (r, r, max(r - 1, 0), min(r, 1))), self.weight * self.mask, self.bias)

    patch.setattr(MaskedConv2d, "forward", forward)


def weights_unmasked(patch: Patch) -> None:
    """The mask is forgotten in forward."""

    def forward(self: MaskedConv2d, x: Tensor) -> Tensor:
        r = self.radius
        return F.conv2d(F.pad(x, (r, r, r, 0)), self.weight, self.bias)

    patch.setattr(MaskedConv2d, "forward", forward)


def weights_overwritten(patch: Patch) -> None:
    """weight.data *= mask, as in the tutorials (trap 4)."""

    def forward(self: MaskedConv2d, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        r = self.radius
        return F.conv2d(F.pad(x, (r, r, r, 0)), self.weight, self.bias)

    patch.setattr(MaskedConv2d, "forward", forward)


def gate_misgrouped(patch: Patch) -> None:
    """Thirds of both halves together, in place of thirds of each."""

    def wrong(*args: Any, copies: int = 1, **options: Any) -> MaskedConv2d:
        return MaskedConv2d(*args, copies=1, **options)

    patch.setattr(blocks, "MaskedConv2d", wrong)


def norm_over_all_groups(patch: Patch) -> None:
    """One normalization for all features of a pixel: red learns of blue by its mean."""
    right = blocks.ChannelNorm
    patch.setattr(blocks, "ChannelNorm", lambda features, groups: right(features, 1))


def norm_over_positions(patch: Patch) -> None:
    """A normalization over the image: the first pixel learns of the last."""

    def forward(self: blocks.ChannelNorm, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[1:]) * self.gain[:, None, None] + self.bias[:, None, None]

    patch.setattr(blocks.ChannelNorm, "forward", forward)


def batch_norm_in_training(patch: Patch) -> None:
    """The model leaves its network in training mode (trap 7)."""
    right = PixelModel.__init__

    def init(self: PixelModel, *args: Any) -> None:
        right(self, *args)
        self.network.train()

    patch.setattr(PixelModel, "__init__", init)


def residual_doubled(patch: Patch) -> None:
    """x is added inside the block and again outside (trap 5)."""
    patch.setattr(ResidualBlock, "forward", lambda self, x: x + (x + self.branch(x)))


def residual_lost(patch: Patch) -> None:
    """A block without its short-cut."""
    patch.setattr(ResidualBlock, "forward", lambda self, x: self.branch(x))


def residual_overwritten(patch: Patch) -> None:
    """A rectifier that writes over the input which the short-cut still needs."""
    right = torch.nn.ReLU
    patch.setattr(torch.nn, "ReLU", lambda inplace=False: right(inplace=True))


def gate_not_at_zero(patch: Patch) -> None:
    """The last layer of a gated block starts as any other."""
    patch.setattr(torch.nn.init, "zeros_", lambda tensor: tensor)


def last_level_dropped(patch: Patch) -> None:
    """The softmax leaves out the highest level, whose share goes to the others."""

    def table(self: Categorical, params: Tensor, temperature: float = 1.0, x: Tensor | None = None) -> Tensor:
        logits = self._logits(params).double() / temperature
        shares = F.softmax(logits[..., :-1], dim=-1)
        return F.pad(shares, (0, 1)).permute(0, 3, 4, 1, 2)

    patch.setattr(Categorical, "table", table)


def nats_without_last_level(patch: Patch) -> None:
    """Training normalizes over all levels but the highest."""

    def nats(self: Categorical, params: Tensor, x: Tensor) -> Tensor:
        logits = self._logits(params).float()
        picked = logits.gather(-1, x.permute(0, 2, 3, 1).long()[..., None])[..., 0]
        return (logits[..., :-1].logsumexp(-1) - picked).permute(0, 3, 1, 2)

    patch.setattr(Categorical, "nats", nats)


def unnormalized(patch: Patch) -> None:
    """A sigmoid for each level in place of a softmax over them."""

    def table(self: Categorical, params: Tensor, temperature: float = 1.0, x: Tensor | None = None) -> Tensor:
        return torch.sigmoid(self._logits(params).double() / temperature).permute(0, 3, 4, 1, 2)

    patch.setattr(Categorical, "table", table)


def levels_before_channels(patch: Patch) -> None:
    """The head views its parameters as [levels, channels] in place of contiguous thirds (trap 3)."""

    def logits(self: Categorical, params: Tensor) -> Tensor:
        return params.permute(0, 2, 3, 1).unflatten(-1, (self.spec.levels, self.spec.channels)).transpose(-1, -2)

    patch.setattr(Categorical, "_logits", logits)


def draw_one_too_high(patch: Patch) -> None:
    """An inversion that counts the level that the noise falls into."""
    right = Categorical.draw

    def draw(self: Categorical, params: Tensor, noise: Tensor, *rest: Any) -> Tensor:
        return (right(self, params, noise, *rest) + 1).clamp(max=self.spec.levels - 1)

    patch.setattr(Categorical, "draw", draw)


def temperature_ignored(patch: Patch) -> None:
    """Every draw is made at temperature 1."""
    right = Categorical.draw
    patch.setattr(
        Categorical, "draw", lambda self, params, noise, _=1.0, *known: right(self, params, noise, 1.0, *known)
    )


def channels_drawn_at_once(patch: Patch) -> None:
    """All channels of a pixel from one pass, although they are ordered (trap 3)."""
    right = ancestral.sample

    def sample(predict: Any, head: Categorical, *args: Any, **options: Any) -> Tensor:
        at_once = replace(head, channels="independent")  # a loop that takes the order for none
        return right(predict, at_once, *args, **options)

    patch.setattr(pixel.ancestral, "sample", sample)


def noise_of_the_batch(patch: Patch) -> None:
    """One generator for all images of a batch."""

    def noise(spec: ImageSpec, seed: int, first: int, n: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((seed, first)).random((n, *spec.shape)))

    patch.setattr(pixel, "image_noise", noise)


def noise_reused(patch: Patch) -> None:
    """One number for all values of an image."""
    right = image_noise
    patch.setattr(pixel, "image_noise", lambda *args: right(*args)[:, :1, :1, :1].expand(-1, *args[0].shape))


def blindfold(patch: Patch) -> None:
    """The network is shown an empty image at every step."""
    right = ancestral.sample

    def sample(predict: Any, *args: Any, **options: Any) -> Tensor:
        return right(lambda x: predict(torch.zeros_like(x)), *args, **options)

    patch.setattr(pixel.ancestral, "sample", sample)


# What turns red

causality = partial(checks.check_causality, COLOR)
future = partial(checks.check_future_is_ignored, COLOR)
thirds = partial(checks.check_thirds, COLOR)
head_sums = partial(checks.check_head_sums_to_one, Categorical(HEAD_SPEC), HEAD_SPEC)
head_draws = partial(checks.check_draw_inverts, Categorical(HEAD_SPEC), HEAD_SPEC)


def binary_world() -> None:
    checks.check_world_sums_to_one(BINARY_WORLD.model())


def color_world() -> None:
    checks.check_world_sums_to_one(COLOR_WORLD.model())


def draws() -> None:
    checks.check_sampler(COLOR_WORLD.model(1), "plain")


def fast_draws() -> None:
    checks.check_sampler(COLOR_WORLD.model(1), "fast")


def tempered_draws() -> None:
    checks.check_sampler(COLOR_WORLD.model(1), "plain", temperature=0.6, n=3000)


def tempered_fast_draws() -> None:
    checks.check_sampler(COLOR_WORLD.model(1), "fast", temperature=0.6, n=3000)


def batch_free() -> None:
    checks.check_batch_free(BATCH_NORM.model(), "plain")


def fast_batch_free() -> None:
    checks.check_batch_free(BATCH_NORM.model(), "fast")


def taps() -> None:
    checks.check_taps(MaskedConv2d(6, 6, 3, mask="B", groups=3))


def residual() -> None:
    checks.check_residual(ResidualBlock(8, 6, 3, activation="before", norm="none", bias=True, groups=1), 8)


def identity() -> None:
    checks.check_starts_as_identity(GatedBlock(8, 4, 3, norm="none", bias=True, groups=1, dropout=0.0), 8)


def kept_conditioning(patch: Patch) -> None:
    """The model keeps the conditioning of the batch that was last begun, and all who draw by it use that one."""
    made, used, latest = PixelModel.conditioning, PixelModel.forward, dict[PixelModel, Conditioning]()

    def conditioning(self: PixelModel, *args: Any) -> Conditioning:
        latest[self] = made(self, *args)
        return latest[self]

    def stale(self: PixelModel, network: nn.Module, levels: Tensor, given: Conditioning) -> Tensor:
        rows = {name: latest[self][name][: len(value)] for name, value in given.items()}
        if any(rows[name].shape != value.shape for name, value in given.items()):
            rows = {}
        return used(self, network, levels, {**given, **rows})

    patch.setattr(PixelModel, "conditioning", conditioning)
    patch.setattr(PixelModel, "forward", stale)


def stale_conditioning(patch: Patch) -> None:
    """Buffers, and with them the conditioning that they were made for, serve the next batch too."""
    right = fast.FastSampler._buffers
    patch.setattr(fast.FastSampler, "_buffers", lambda self, n, _: self.__dict__.setdefault("kept", right(self, n, _)))


def noise_kept_by_the_sampler(patch: Patch) -> None:
    """A call that begins while another is drawing writes its noise over the other's."""
    right = fast._Batch.__init__

    def shared(self: fast._Batch, sampler: fast.FastSampler, *args: Any) -> None:
        right(self, sampler, *args)
        self.noise = sampler.__dict__.setdefault("kept", self.noise)

    patch.setattr(fast._Batch, "__init__", shared)


def plans_by_address(patch: Patch) -> None:
    """The last plan serves whatever layers there are."""
    right = PixelModel._plan
    patch.setattr(PixelModel, "_plan", lambda self, *args: self.__dict__.setdefault("kept", right(self, *args)))


def callbacks(case: Case, method: checks.Method) -> None:
    checks.check_callbacks_change_nothing(*case(), method)


def threads(case: Case, method: checks.Method) -> None:
    checks.check_threads_do_not_mix(*case(), method)


def conditioned_batches() -> None:
    model, calls = of_classes()
    plain = model.sample(5, method="plain", **calls[0])
    assert torch.equal(model.sample(5, batch=2, **calls[0]), plain)


def samplers() -> None:
    checks.check_samplers_do_not_mix(*of_classes())


def other_layers() -> None:
    checks.check_layers_put_in_place_are_drawn_by(lambda: of_nothing()[0])


MUTATIONS: list[tuple[Callable[[Patch], None], list[Callable[[], None]]]] = [
    (first_mask_b, [causality, future, binary_world, color_world]),
    (later_mask_a, [causality]),
    (groups_swapped, [causality, future, thirds, draws]),
    (groups_interleaved, [causality, future, thirds, color_world]),
    (groups_forgotten, [causality, future, thirds, color_world]),
    (row_below, [causality, future, binary_world]),
    (weights_unmasked, [causality, future, binary_world, color_world, taps]),
    (weights_overwritten, [taps]),
    (gate_misgrouped, [causality, future, thirds, color_world]),
    (norm_over_all_groups, [causality, future, thirds, color_world]),
    (norm_over_positions, [causality, future, binary_world]),
    (batch_norm_in_training, [batch_free]),
    (residual_doubled, [residual]),
    (residual_lost, [residual]),
    (residual_overwritten, [residual]),
    (gate_not_at_zero, [identity]),
    (last_level_dropped, [head_sums, color_world]),
    (nats_without_last_level, [head_sums, color_world]),
    (unnormalized, [head_sums, color_world]),
    (levels_before_channels, [thirds, color_world]),
    (draw_one_too_high, [head_draws, draws, fast_draws]),
    (temperature_ignored, [tempered_draws, tempered_fast_draws]),
    (channels_drawn_at_once, [draws]),
    (noise_of_the_batch, [batch_free, fast_batch_free]),
    (noise_reused, [draws, fast_draws]),
    (blindfold, [draws]),
    (
        kept_conditioning,
        [
            partial(callbacks, of_classes, "plain"),
            partial(callbacks, of_images, "plain"),
            partial(threads, of_classes, "plain"),
        ],
    ),
    (stale_conditioning, [conditioned_batches]),
    (noise_kept_by_the_sampler, [samplers]),
    (plans_by_address, [other_layers]),
]


def name_of(check: Callable[[], None]) -> str:
    return check.func.__name__ if isinstance(check, partial) else check.__name__


@cache
def hold_when_nothing_is_broken(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    ("mutation", "check"),
    [
        pytest.param(mutation, check, id=f"{mutation.__name__}, {name_of(check)}")
        for mutation, them in MUTATIONS
        for check in them
    ],
)
def test_a_break_turns_its_check_red(
    monkeypatch: Patch, mutation: Callable[[Patch], None], check: Callable[[], None]
) -> None:
    hold_when_nothing_is_broken(check)
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        check()


# Ways to score a data set that are wrong (trap 10)

LogProb = Callable[[Tensor], Tensor]


def dropping_the_last(log_prob: LogProb, batches: Iterator[Batch]) -> Tensor:
    return score(log_prob, list(batches)[:-1])


def dropping_ragged(log_prob: LogProb, batches: Iterator[Batch]) -> Tensor:
    return score(log_prob, [batch for batch in batches if len(batch.images) == 4])


def means_of_batches(log_prob: LogProb, batches: Iterator[Batch]) -> Tensor:
    return torch.cat([log_prob(x).mean()[None].expand(len(x)) for x, _ in batches])


def in_float32(log_prob: LogProb, batches: Iterator[Batch]) -> Tensor:
    return score(log_prob, batches).float()


@pytest.mark.parametrize("wrong", [dropping_the_last, dropping_ragged, means_of_batches, in_float32])
def test_a_wrong_pass_is_found(wrong: Callable[[LogProb, Iterator[Batch]], Tensor]) -> None:
    model = BATCH_NORM.model()
    checks.check_every_image_counts(score, model)
    with pytest.raises(AssertionError):
        checks.check_every_image_counts(wrong, model)
