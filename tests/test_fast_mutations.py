"""Each guard of the fast sampler can fail: one thing is broken, and the check that the tests rely on turns red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import checks
import fast_toys
from fast_toys import TALL, double, masks, of_make, of_size, random_images, single
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.reads import HERE, Kernel, Offsets, Read
from pixelloom.sampling.fast import passes, sampler, trace
from pixelloom.sampling.fast.analysis import Schedule
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.layout import CacheLayout
from pixelloom.sampling.fast.planner import PixelGroup, Plan
from pixelloom.sampling.fast.runtime import Runtime
from pixelloom.sampling.fast.wavefronts import Segment
from settings import CONFIGS

Patch = pytest.MonkeyPatch

GRAY, COLOR, INDEPENDENT = (of_size(name, 6, 7) for name in ("mnist-gray", "gated-rgb-20", "rgb-independent"))


# What is broken


def features_too_early(patch: Patch) -> None:
    """Features are computed one step before all that they read is known."""
    right = sampler.schedule

    def wrong(*args: Any) -> Schedule:
        found = right(*args)
        return replace(found, ready=[found.ready[0], *(np.where(r > 0, r - 1, r) for r in found.ready[1:])])

    patch.setattr(sampler, "schedule", wrong)


def pixels_too_early(patch: Patch) -> None:
    """Pixels are drawn one step before their distribution is known."""
    right = sampler.schedule

    def wrong(*args: Any) -> Schedule:
        found = right(*args)
        return replace(
            found, ready=[np.where(found.ready[0] > 1, found.ready[0] - 1, found.ready[0]), *found.ready[1:]]
        )

    patch.setattr(sampler, "schedule", wrong)


def tap_not_declared(patch: Patch) -> None:
    """A layer reads one position less than its forward does."""

    def reads(self: MaskedConv2d) -> tuple[Read, ...]:
        here = Read(HERE, self.mask[:, :, self.radius, self.radius] > 0)
        return (Read(Offsets(self._past[1:])), here) if self.radius else (here,)

    patch.setattr(MaskedConv2d, "reads", reads)


def center_lost(patch: Patch) -> None:
    """The kernel has nothing at its own position."""
    right = MaskedConv2d.kernel

    def kernel(self: MaskedConv2d) -> Kernel:
        found = right(self)
        return found._replace(weight=torch.cat((found.weight[:-1], torch.zeros_like(found.weight[-1:]))))

    patch.setattr(MaskedConv2d, "kernel", kernel)


def kernel_mirrored(patch: Patch) -> None:
    """Taps run from right to left, as in a convolution of the textbooks."""
    right = MaskedConv2d.kernel

    def kernel(self: MaskedConv2d) -> Kernel:
        found = right(self)
        order = sorted(range(len(found.taps) - 1), key=lambda tap: (found.taps[tap][0], -found.taps[tap][1]))
        return found._replace(weight=found.weight[[*order, -1]])

    patch.setattr(MaskedConv2d, "kernel", kernel)


def kernel_of_the_first_call(patch: Patch) -> None:
    """Weights are kept when they change."""
    patch.setattr(MaskedConv2d, "kernel", cache(MaskedConv2d.kernel))


def _unwritten(patch: Patch, chosen: Callable[[list[int]], int]) -> None:
    right = Runtime.__init__

    def init(self: Runtime, *args: Any) -> None:
        right(self, *args)
        self.caches[chosen(sorted(self.caches))].writes = lambda *args: None  # type: ignore[method-assign]
        for task in self._tasks:
            task.direct = False  # nothing is computed in a cache

    patch.setattr(Runtime, "__init__", init)


def features_never_written(patch: Patch) -> None:
    """Features of one node are not written to its cache."""
    _unwritten(patch, lambda nodes: nodes[len(nodes) // 2])


def pixels_never_written(patch: Patch) -> None:
    """Drawn pixels are not written to the cache of the image."""
    _unwritten(patch, lambda nodes: nodes[0])


def row_released_too_early(patch: Patch) -> None:
    """The first row that is still read is released."""
    right = Cache.advance

    def advance(self: Cache, step: int) -> None:
        right(self, step)
        if step in self.layout.moves:
            self.line(self.first_row).zero_()

    patch.setattr(Cache, "advance", advance)


def rows_moved_too_little(patch: Patch) -> None:
    """Rows do not move up by as many as their addresses say."""
    right = Cache.advance

    def advance(self: Cache, step: int) -> None:
        right(self, step)
        if step in self.layout.moves:
            self.flat.copy_(self.flat.roll(self.row, 0))

    patch.setattr(Cache, "advance", advance)


def skew_off_by_one(patch: Patch) -> None:
    """Views use a row distance that is one position too short."""
    right = Cache.view

    def view(self: Cache, segment: Segment, columns: slice, taps: int = 1, *more: Any) -> Tensor:
        self.row -= taps > 1
        found = right(self, segment, columns, taps, *more)
        self.row += taps > 1
        return found

    patch.setattr(Cache, "view", view)


def margin_too_narrow(patch: Patch) -> None:
    """The last tap reaches into the neighboring image."""
    patch.setattr(CacheLayout, "pitch", property(lambda self: self.width + max(0, self.margin - 1)))


def norm_folded_with_the_wrong_sign(patch: Patch) -> None:
    """The shift of a batch norm is taken away from the bias in place of added."""
    right = passes._fold_into_kernel

    def wrong(kernel: Callable[[], Kernel], change: Callable[..., Any], constant: Any) -> Kernel:
        minus = replace(constant, value=lambda known: -constant.value(known))
        return right(kernel, change, minus if change is passes.operator.add else constant)

    patch.setattr(passes, "_fold_into_kernel", wrong)


def bias_added_twice(patch: Patch) -> None:
    """Once with the taps before the center, and once with the center."""
    right = passes._select_taps
    patch.setattr(passes, "_select_taps", lambda kernel, edges: right(kernel, edges)._replace(bias=kernel().bias))


def in_place_ignored(patch: Patch) -> None:
    """References to an overwritten tensor keep the old value."""
    patch.setattr(trace._GraphBuilder, "_overwrite", lambda self, ref, value: value)


def _other_planes(patch: Patch, dtype: torch.dtype, change: Callable[[Tensor], Tensor]) -> None:
    right = sampler._planes
    patch.setattr(sampler, "_planes", lambda images: right(change(images) if images.dtype == dtype else images))


def noise_of_another_position(patch: Patch) -> None:
    """Pixels are drawn by the noise of their mirror image."""
    _other_planes(patch, torch.float64, lambda noise: noise.flip(-1))


def noise_of_another_image(patch: Patch) -> None:
    """Images of a batch are drawn by the noise of the next."""
    _other_planes(patch, torch.float64, lambda noise: noise.roll(1, 0))


def known_drawn_over(patch: Patch) -> None:
    """Values that are known in some images only are drawn."""
    _other_planes(patch, torch.bool, torch.zeros_like)


def parameters_of_another_channel(patch: Patch) -> None:
    """Red is drawn from the parameters of green, green from blue, blue from red."""
    right = Plan._group_pixels

    def rotated(self: Plan) -> list[PixelGroup]:
        found = right(self)
        columns = [columns for _, _, columns in found]
        return [pixels._replace(columns=columns[i - len(found) + 1]) for i, pixels in enumerate(found)]

    patch.setattr(Plan, "_group_pixels", rotated)


def channels_in_reverse(patch: Patch) -> None:
    """Channels that are drawn together are put down in the other order."""
    right = Runtime.step

    def step(self: Runtime, number: int, draw: Any) -> None:
        right(self, number, lambda *args: draw(*args).flip(1))

    patch.setattr(Runtime, "step", step)


# What turns red


def gray() -> None:
    checks.check_fast_is_plain(double(GRAY))


def gray_by_the_loop() -> None:
    checks.check_fast_is_plain(double(GRAY), n=2, loop=True)


def color() -> None:
    checks.check_fast_is_plain(double(COLOR))


def independent() -> None:
    checks.check_fast_is_plain(double(INDEPENDENT))


def logits() -> None:
    checks.check_every_logit(single(COLOR), tolerance=1e-5)


def completed() -> None:
    checks.check_fast_is_plain(
        double(GRAY), given=random_images(GRAY.image, 3), mask=masks(GRAY.image, 3)["different in each"]
    )


def tall() -> None:
    checks.check_fast_is_plain(double(TALL), n=2)


def skip_connection() -> None:
    checks.check_fast_is_plain(of_make(fast_toys.skip_connection_over_an_in_place_relu))


def changed_weights() -> None:
    model, other = (double(CONFIGS["gated-batch"], seed) for seed in (0, 4))
    model.sample(1)
    model.network.load_state_dict(other.network.state_dict())
    checks.check_fast_is_plain(model)


MUTATIONS: list[tuple[Callable[[Patch], None], list[Callable[[], None]]]] = [
    (features_too_early, [gray, color, logits]),
    (pixels_too_early, [gray, gray_by_the_loop, color, logits]),
    (tap_not_declared, [gray, logits]),
    (center_lost, [gray, logits]),
    (kernel_mirrored, [gray, gray_by_the_loop, logits]),
    (kernel_of_the_first_call, [changed_weights]),
    (features_never_written, [gray, color, logits]),
    (pixels_never_written, [gray, color, logits]),
    (row_released_too_early, [tall]),
    (rows_moved_too_little, [tall]),
    (skew_off_by_one, [gray, logits]),
    (margin_too_narrow, [gray, logits]),
    (norm_folded_with_the_wrong_sign, [gray]),
    (bias_added_twice, [color, logits]),
    (in_place_ignored, [skip_connection]),
    (noise_of_another_position, [gray, gray_by_the_loop, color]),
    (noise_of_another_image, [gray, color]),
    (known_drawn_over, [completed]),
    (parameters_of_another_channel, [color, logits]),
    (channels_in_reverse, [independent]),
]


@cache
def hold_when_nothing_is_broken(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    ("mutation", "check"),
    [
        pytest.param(mutation, check, id=f"{mutation.__name__}, {check.__name__}")
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
