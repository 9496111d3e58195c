"""Execution of a lowered network: all values of given images at once, or the values of new images one by one.

Both give the same integers. The order of the values in a block is that of the schedule: by step, then by group of
channels that are coded together, then by position in raster order, then by image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelloom.codec.carriers import exact_arithmetic
from pixelloom.codec.fusion import fused
from pixelloom.codec.kinds import executable
from pixelloom.codec.operations import IntegerNode
from pixelloom.codec.parallel import ParallelPass
from pixelloom.core.threads import ThreadChoice
from pixelloom.core.types import ImageSpec
from pixelloom.sampling.fast.analysis import Dataflow, schedule
from pixelloom.sampling.fast.ir import Node
from pixelloom.sampling.fast.passes import split_ordered_kernels
from pixelloom.sampling.fast.planner import Plan
from pixelloom.sampling.fast.runtime import Runtime
from pixelloom.sampling.fast.wavefronts import Wavefront

_CPU = torch.device("cpu")
Draw = Callable[[Tensor, int, slice], Tensor]
"""(parameters [M, n], number of the channel group, its channels) -> levels uint8 [M, channels]; rows as in the plan.

The memory of the parameters is used again at the next step.
"""


@dataclass(frozen=True)
class Order:
    """The step at which each value is coded, int64 [C, H, W]; channels that are coded together have equal steps."""

    steps: npt.NDArray[np.int64]
    groups: int

    @cached_property
    def values(self) -> npt.NDArray[np.int64]:
        """(channel group, position in raster order) of each draw in order, int64 [groups * H * W, 2]."""
        step = self.steps.reshape(len(self.steps), -1)[:: len(self.steps) // self.groups]  # [groups, H * W]
        group, position = (axis.ravel() for axis in np.indices(step.shape))
        found = np.lexsort((position, group, step.ravel()))
        return np.stack((group[found], position[found]), axis=1)


class Execution:
    """A lowered network in one precision.

    Args:
        nodes: of the lowered network.
        spec: shape and levels of the images.
        groups: channel groups of the head.
        dtype: float32 or float64; both hold the same integers.
        order: the order of a stored network; None for that of the schedule.
        fuse: whether to compute the same integers in fewer steps.
    """

    def __init__(
        self,
        nodes: Sequence[IntegerNode],
        spec: ImageSpec,
        groups: int,
        dtype: torch.dtype,
        order: Order | None = None,
        *,
        fuse: bool = True,
    ) -> None:
        self.spec, self.groups, self.dtype = spec, groups, dtype
        self.image = nodes[0].tensors["table"]
        self.nodes = [executable(node) for node in nodes]
        self._executed = fused(nodes, groups) if fuse else self.nodes
        self._given = order
        self._runtime: Runtime | None = None
        self._passes, self._steps = ThreadChoice(), ThreadChoice()

    @cached_property
    def _pass(self) -> ParallelPass:
        return ParallelPass(split_ordered_kernels(self._executed), self.dtype)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the fast sampler."""
        found = self._plan(self._executed)
        if self._given is not None and not np.array_equal(self._order_of(found).values, self._given.values):
            return self._plan(self.nodes)  # a fused node waits for all that it reads
        return found

    def _plan(self, nodes: list[Node]) -> Plan:
        return Plan(schedule(Dataflow(nodes, self.spec.shape, self.groups)))

    def _order_of(self, plan: Plan) -> Order:
        steps = np.zeros(self.spec.shape, np.int64)
        for pixels in plan.pixel_groups:
            steps[list(pixels.channels)] = plan.sweeps[pixels.sweep].ready
        return Order(steps, self.groups)

    @cached_property
    def own_order(self) -> Order:
        """The order in which the plan draws the values."""
        return self._order_of(self.plan)

    @property
    def order(self) -> Order:
        """The order of the values in a block."""
        return self.own_order if self._given is None else self._given

    def logits(self, levels: Tensor) -> Tensor:
        """Parameters of the head as integers, [B, H, W, outputs], for levels uint8 [B, C, H, W]."""

        def work() -> Tensor:
            image = self.image[levels.permute(0, 2, 3, 1).long()]  # -> [B, H, W, C]
            return self._pass(image.to(self.dtype))

        with exact_arithmetic(), self._passes.tuner(None, _CPU) as tuner:
            return tuner.run(levels.numel(), work)

    @torch.inference_mode(mode=False)  # memory that is kept is written to again, perhaps outside of that mode
    @torch.no_grad()
    def draw(self, images: int, draw: Draw) -> Tensor:
        """New images, levels uint8 [images, C, H, W], whose values a callback draws in the order of the plan."""
        height, width = self.spec.shape[1:]
        planes = torch.zeros(height * width, images, self.spec.channels, dtype=torch.uint8)

        def drawn(params: Tensor, wavefront: Wavefront, channels: tuple[int, ...]) -> Tensor:
            which = slice(channels[0], channels[-1] + 1)
            levels = draw(params, channels[0] if self.groups > 1 else 0, which)
            wavefront.scatter(planes[..., which], levels)
            return self.image[levels.long()].to(self.dtype)

        with exact_arithmetic(), self._steps.tuner(None, _CPU) as tuner:
            if self._runtime is None or self._runtime.context.images != images:
                self._runtime = Runtime(self.plan, images, self.dtype, _CPU)
            runtime = self._runtime  # used by one thread at once, as exact_arithmetic() is held by one
            runtime.begin(self.image[planes.long()].to(self.dtype))
            for step, work in enumerate(self.plan.values_per_step):
                tuner.run(work * images, partial(runtime.step, step, drawn))
        # [H * W, images, C] -> [images, C, H * W] -> [images, C, H, W]
        return planes.permute(1, 2, 0).reshape(images, self.spec.channels, height, width)

    def draw_plainly(self, images: int, draw: Draw) -> Tensor:
        """As :meth:`draw` by one parallel pass per step, for a stored order that the plan does not have."""
        levels = torch.zeros(images, *self.spec.shape, dtype=torch.uint8)
        flat = levels.flatten(2)  # [images, C, H * W], a view
        size = self.spec.channels // self.groups
        order, steps = self.order.values, self.order.steps.reshape(self.spec.channels, -1)
        start = 0
        while start < len(order):
            step, group = steps[order[start, 0] * size, order[start, 1]], int(order[start, 0])
            end = start
            while end < len(order) and order[end, 0] == group and steps[group * size, order[end, 1]] == step:
                end += 1
            places = torch.from_numpy(order[start:end, 1].copy())
            logits = self.logits(levels).flatten(1, 2)  # [images, H * W, outputs]
            outputs = logits.shape[2] // self.groups
            params = logits[:, places, group * outputs : (group + 1) * outputs].transpose(
                0, 1
            )  # [positions, images, n]
            which = slice(group * size, (group + 1) * size)
            found = draw(params.flatten(0, 1), group, which).view(end - start, images, size)
            flat[:, which, places] = found.permute(1, 2, 0)  # [positions, images, c] -> [images, c, positions]
            start = end
        return levels
