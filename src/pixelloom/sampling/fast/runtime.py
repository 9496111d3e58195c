"""The fast sampler: every feature of every pixel computed once, as soon as what it reads is known.

At each step of the schedule, for each node in turn: gather what is read at the positions of the wavefront, one matrix
product (or the function itself), scatter into the cache if somebody reads it later. Then draw the pixels whose
distribution is complete. The work is that of one parallel pass, without the products that the masks would throw away,
in as many steps as the dependencies force.

The same noise as for the plain loop gives the same pictures (:mod:`pixelloom.sampling.ancestral`): the numbers are the
same up to the rounding of sums taken in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.types import Conditioning
from pixelloom.sampling.fast.caches import Cache, Wavefront
from pixelloom.sampling.fast.executors import Context, Run, gathering, run_of
from pixelloom.sampling.fast.ir import Constants
from pixelloom.sampling.fast.planner import FeatureGroup, Plan, Runs, runs_of

Draw = Callable[[Tensor, Wavefront, tuple[int, ...]], Tensor]
"""(parameters [M, n], which pixels, which channels) -> values of these pixels in model space, [M, channels]."""

_Task: TypeAlias = tuple[dict[int, Wavefront], Run, int, Cache | None, Runs]
"""(positions at each step, what to run there, slot for the value, cache to keep it in, where in the cache)"""


class Incremental:
    """A network run step by step for a batch of images, with the weights that it has now.

    Args:
        plan: what to compute when.
        images: batch size.
        dtype: of the features, that of the weights.
        device: of the features, that of the weights.
        conditioning: what the network is conditioned on, for these images.
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
        values: list[Tensor | None] = [None] * plan.slots
        self.context = Context(plan, images, dtype, device, self.caches, values, Constants(conditioning))
        self.wavefronts = [
            {step: Wavefront(segments, images, wave.ready.shape[1]) for step, segments in wave.segments.items()}
            for wave in plan.waves
        ]
        with torch.no_grad():
            self._tasks = [self._task(part) for parts in plan.parts[1:] for part in parts]
        self.context.constants.forget()
        self._drawn = [
            (self.wavefronts[wave], channels, runs_of(np.array(channels)), gathering(self.context, gather))
            for (wave, channels, _), gather in zip(plan.pixels, plan.drawn, strict=True)
        ]

    def _task(self, part: FeatureGroup) -> _Task:
        run = run_of(self.context, part)
        return self.wavefronts[part.wave], run, part.slot, self.caches.get(part.node), runs_of(part.columns)

    def begin(self, image: Tensor) -> None:
        """Start new images: values in model space [H * W, images, C], of which only known ones will be read."""
        for cache in self.caches.values():
            cache.begin()
        height, width = self.plan.nodes[0].size
        rows = image.view(height, width, *image.shape[1:])
        for y in range(height):
            self.caches[0].line(y).copy_(rows[y].transpose(0, 1))

    def step(self, step: int, draw: Draw) -> None:
        """Compute everything that is ready at a step, and draw the pixels that then can be."""
        for kept in self.caches.values():
            kept.before(step)
        for wavefronts, run, slot, cache, runs in self._tasks:
            if step in wavefronts:
                wavefront = wavefronts[step]
                value = self.context.values[slot] = run(wavefront)
                if cache is not None:
                    cache.write(wavefront, runs, value)
        for wavefronts, channels, runs, params in self._drawn:
            if step in wavefronts:
                wavefront = wavefronts[step]
                self.caches[0].write(wavefront, runs, draw(params(wavefront), wavefront, channels))
