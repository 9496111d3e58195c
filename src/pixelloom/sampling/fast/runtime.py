"""The runtime: a plan executed step by step for one batch.

At each step, for each feature group whose sweep has a wavefront then, in topological order:

    1. gather     the operands, from slots of this step or from caches
    2. compute    one matrix product per row of taps, or the operation's function: [M, features]
    3. scatter    the result into its slot, and into its node's cache if a later reader needs it

All of these are calls with preallocated results. They are bound to their memory first: once per number of rows, or per
step where they read or write a cache. The program of a step serves all steps with wavefronts of the same shapes: the
views in it move (:mod:`pixelloom.sampling.fast.program`).

Then the pixels whose parameters are complete are drawn and written to the cache of the image.

Each feature of each pixel is computed once. The work is that of one parallel pass, without the products that masks set
to zero, in as many steps as the longest chain of dependencies. Features equal those of the parallel pass up to the
rounding of sums taken in another order, hence equal noise gives the images of the plain loop
(:mod:`pixelloom.sampling.ancestral`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.types import Conditioning
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.context import Context, Operand, operand_of
from pixelloom.sampling.fast.executors import both_signs, executor_of
from pixelloom.sampling.fast.ir import Constants, Elementwise, Linear, Operation
from pixelloom.sampling.fast.planner import FeatureGroup, Gather, PixelGroup, Plan
from pixelloom.sampling.fast.program import Binding, Program, all_move
from pixelloom.sampling.fast.recorder import Calls, Scratch
from pixelloom.sampling.fast.wavefronts import Wavefront, ranges_of

Draw = Callable[[Tensor, Wavefront, tuple[int, ...]], Tensor]
"""(parameters [M, n], the pixels, the channels) -> values of these pixels in model space, [M, channels].

The memory of the parameters is used again at the next step.
"""


Readers: TypeAlias = list[tuple[Gather, Operation | None]]
"""Reads of a slot, with the operation that reads; None for parameters of pixels."""


class _Task:
    """A feature group of this batch: binds its calls at each step.

    Args:
        context: of the batch.
        group: the features.
        wavefronts: by step.
        readers: gathers of its slot, with the operations that read them.
    """

    def __init__(
        self, context: Context, group: FeatureGroup, wavefronts: dict[int, Wavefront], readers: Readers
    ) -> None:
        self.context, self.group, self.wavefronts = context, group, wavefronts
        self.executor = executor_of(context, group)
        self.cache, self.ranges = context.caches.get(group.node), ranges_of(group.columns)
        # A result is computed in the cache if all readers can read it there.
        self.direct = self.cache is not None and self.executor.strided and len(self.ranges) == 1
        for gather, operation in readers:
            readable = isinstance(operation, Elementwise | Linear)
            self.direct &= readable and gather.within is not None and len(gather.within) == len(group.columns)
        self._bound: dict[int, tuple[Calls, Tensor]] = {}
        if (self.executor.fixed or not self.executor.view) and not self.direct:
            context.fixed.add(group.slot)

    def bind(self, wavefront: Wavefront, calls: Calls) -> None:
        """Append the calls of a wavefront."""
        if self.context.binding is not None:
            self.context.binding.follow(self.group.sweep, wavefront)
        slots, slot = self.context.slots, self.group.slot
        if self.direct and self._bind_in_cache(wavefront, calls):
            return
        if self.executor.fixed:
            bound = self._bound.get(wavefront.rows)
            if bound is None:
                own: Calls = []
                bound = self._bound[wavefront.rows] = own, self._value(wavefront, own)
            calls += bound[0]
            slots[slot] = value = bound[1]
        else:
            slots[slot] = value = self._value(wavefront, calls)
        if self.cache is not None:
            if self.executor.view:  # perhaps of another cache, where it moves; parts of it would not
                copy = self.context.buffer(("own", slot), self.group.sweep, wavefront.rows, value.shape[1])
                calls.append(partial(copy.copy_, value))
                value = copy
            self.cache.writes(wavefront, self.ranges, value, calls)

    def _value(self, wavefront: Wavefront, calls: Calls) -> Tensor:
        group = self.group
        out = self.context.buffer(group.slot, group.sweep, wavefront.rows, len(group.columns))
        return self.executor.bind(wavefront, out, calls)

    def _bind_in_cache(self, wavefront: Wavefront, calls: Calls) -> bool:
        """Compute the value where it is kept, if its rows have one distance there."""
        if len(wavefront.segments) > 1:
            return False
        assert self.cache is not None
        out = self.cache.view(wavefront.segments[0], self.ranges[0][0])
        if out.ndim > 2:
            return False
        self.context.slots[self.group.slot] = self.executor.bind(wavefront, out, calls)
        return True


class _Draw(NamedTuple):
    """Pixels that are drawn at a step.

    Attributes:
        sweep: number of the sweep.
        channels: of the image.
        parameters: [M, n].
        value: where the drawn values are put, [M, channels].
        writes: calls that write them to the cache of the image.
    """

    sweep: int
    channels: tuple[int, ...]
    parameters: Tensor
    value: Tensor
    writes: Calls


class _DrawTask:
    """A group of pixels of this batch."""

    def __init__(self, context: Context, number: int, pixels: PixelGroup, operand: Operand) -> None:
        self.context, self.number, self.operand = context, number, operand
        self.sweep, self.channels = pixels.sweep, pixels.channels
        self.ranges = ranges_of(np.array(pixels.channels))

    def bind(self, wavefront: Wavefront, binding: Binding) -> _Draw:
        """The pixels of a wavefront; appends the calls that gather their parameters."""
        binding.follow(self.sweep, wavefront)
        parameters, writes = self.operand.bind(wavefront, binding.calls), list[Callable[[], object]]()
        key = ("drawn", self.number)
        value = self.context.buffer(key, self.sweep, wavefront.rows, len(self.channels))
        self.context.caches[0].writes(wavefront, self.ranges, value, writes)
        return _Draw(self.sweep, self.channels, parameters, value, writes)


def _readers(plan: Plan) -> dict[int, Readers]:
    """The readers of each slot. Those of a negated operand that is concatenated with its original are left out."""
    readers: dict[int, Readers] = defaultdict(list)
    for group in plan.computed():
        operation, gathers = plan.nodes[group.node].operation, plan.gathers[group.slot]
        for gather in gathers[:1] if both_signs(plan, group) else gathers:
            if gather.slot is not None:
                readers[gather.slot].append((gather, operation))
    for gather in plan.parameters:
        if gather.slot is not None:
            readers[gather.slot].append((gather, None))
    return readers


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
        self.context = Context(
            plan, images, dtype, device, self.caches, slots, Constants(conditioning), Scratch(device)
        )
        self.wavefronts = [
            {step: Wavefront(segments, images, sweep.ready.shape[1]) for step, segments in sweep.segments.items()}
            for sweep in plan.sweeps
        ]
        readers = _readers(plan)
        with torch.no_grad():
            self._tasks = [
                _Task(self.context, group, self.wavefronts[group.sweep], readers[group.slot])
                for group in plan.computed()
                if readers[group.slot] or group.node in self.caches
            ]
        self.context.constants.clear()
        self._draws = [
            _DrawTask(self.context, number, pixels, operand_of(self.context, gather, pixels.sweep))
            for number, (pixels, gather) in enumerate(zip(plan.pixel_groups, plan.parameters, strict=True))
        ]
        self._advances = {
            step: [cache for cache in self.caches.values() if step in cache.layout.moves]
            for step in {step for layout in plan.caches.values() for step in layout.moves}
        }
        self._programs: dict[Any, tuple[Program, list[_Draw]]] = {}

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
        for kept in self._advances.get(step, ()):
            kept.advance(step)
        program, draws = self._program(step)
        for call in program.calls:
            call()
        for drawn in draws:
            drawn.value.copy_(draw(drawn.parameters, self.wavefronts[drawn.sweep][step], drawn.channels))
            for call in drawn.writes:
                call()

    def _program(self, step: int) -> tuple[Program, list[_Draw]]:
        """The program of a step, and the pixels that are drawn then."""
        cuda = self.context.device.type == "cuda"  # a step is captured with all its addresses
        key = step if cuda else self.plan.shapes[step]
        known = self._programs.get(key)
        if known is not None:
            if not cuda:
                known[0].move(step, self.wavefronts)
            return known
        binding = Binding()
        self.context.bind(None if cuda else binding)
        for task in self._tasks:
            wavefront = task.wavefronts.get(step)
            if wavefront is not None:
                task.bind(wavefront, binding.calls)
        draws = [
            task.bind(self.wavefronts[task.sweep][step], binding)
            for task in self._draws
            if step in self.wavefronts[task.sweep]
        ]
        self.context.bind(None)
        made = binding.program(), draws
        calls = [*binding.calls, *(call for drawn in draws for call in drawn.writes)]
        if cuda or (binding.kept and all_move(made[0], calls)):
            self._programs[key] = made
        return made
