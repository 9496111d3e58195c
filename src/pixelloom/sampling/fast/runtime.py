"""The runtime: a plan executed step by step for one batch.

At each step, for each feature group whose sweep has a wavefront then, in topological order:

    1. gather     the operands, from slots of this step or from caches
    2. compute    one matrix product per row of taps, or the operation's function: [M, features]
    3. scatter    the result into its slot, and into its node's cache if a later reader needs it

Then the pixels whose parameters are complete are drawn and written to the cache of the image.

Each feature of each pixel is computed once. The work is that of one parallel pass, without the products that masks set
to zero, in as many steps as the longest chain of dependencies. Features equal those of the parallel pass up to the
rounding of sums taken in another order, hence equal noise gives the images of the plain loop
(:mod:`pixelloom.sampling.ancestral`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.types import Conditioning
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.executors import Context, Executor, executor_of, gather_executor
from pixelloom.sampling.fast.ir import Constants
from pixelloom.sampling.fast.planner import FeatureGroup, Plan
from pixelloom.sampling.fast.wavefronts import Ranges, Wavefront, ranges_of

Draw = Callable[[Tensor, Wavefront, tuple[int, ...]], Tensor]
"""(parameters [M, n], the pixels, the channels) -> values of these pixels in model space, [M, channels]."""


class _Task(NamedTuple):
    """A feature group of this batch.

    Attributes:
        wavefronts: by step.
        run: computes the value [M, features] of a wavefront.
        slot: where the value is kept during the step.
        cache: where it is kept for later steps, if it is.
        ranges: its features in that cache.
    """

    wavefronts: dict[int, Wavefront]
    run: Executor
    slot: int
    cache: Cache | None
    ranges: Ranges


class Runtime:
    """Executes a plan for one batch of images, with the weights at the time of construction.

    Args:
        plan: what to compute at each step.
        images: batch size.
        dtype: of the features, equal to that of the weights.
        device: of the features, equal to that of the weights.
        conditioning: of these images.
    """

    def __init__(
        self,
        plan: Plan,
        images: int,
        dtype: torch.dtype,
        device: torch.device,
        conditioning: Conditioning | None = None,
    ) -> None:
        self.plan = plan
        self.caches = {node: Cache(layout, images, dtype, device) for node, layout in plan.caches.items()}
        slots: list[Tensor | None] = [None] * plan.slots
        self.context = Context(plan, images, dtype, device, self.caches, slots, Constants(conditioning))
        self.wavefronts = [
            {step: Wavefront(segments, images, sweep.ready.shape[1]) for step, segments in sweep.segments.items()}
            for sweep in plan.sweeps
        ]
        with torch.no_grad():
            self._tasks = [self._task(group) for group in plan.computed()]
        self.context.constants.clear()
        self._draws = [
            (self.wavefronts[pixels.sweep], pixels.channels, ranges_of(np.array(pixels.channels)), run)
            for pixels, gather in zip(plan.pixel_groups, plan.parameters, strict=True)
            for run in [gather_executor(self.context, gather)]
        ]

    def _task(self, group: FeatureGroup) -> _Task:
        run, ranges = executor_of(self.context, group), ranges_of(group.columns)
        return _Task(self.wavefronts[group.sweep], run, group.slot, self.caches.get(group.node), ranges)

    def begin(self, image: Tensor) -> None:
        """Start new images: values in model space [H * W, images, C], of which only the known ones will be read."""
        for cache in self.caches.values():
            cache.reset()
        height, width = self.plan.nodes[0].size
        rows = image.view(height, width, *image.shape[1:])  # [H * W, images, C] -> [H, W, images, C]
        for y in range(height):
            self.caches[0].line(y).copy_(rows[y].transpose(0, 1))  # [W, images, C] -> [images, W, C]

    def reorder(self, images: Tensor) -> None:
        """After a step: image i continues image images[i], int64 [images of the batch]."""
        for cache in self.caches.values():
            cache.reorder(images)

    def step(self, step: int, draw: Draw) -> None:
        """Compute all features that are ready at a step, then draw the pixels whose parameters are complete."""
        for kept in self.caches.values():
            kept.advance(step)
        for wavefronts, run, slot, cache, ranges in self._tasks:
            if step in wavefronts:
                wavefront = wavefronts[step]
                value = self.context.slots[slot] = run(wavefront)
                if cache is not None:
                    cache.write(wavefront, ranges, value)
        for wavefronts, channels, ranges, parameters in self._draws:
            if step in wavefronts:
                wavefront = wavefronts[step]
                self.caches[0].write(wavefront, ranges, draw(parameters(wavefront), wavefront, channels))
