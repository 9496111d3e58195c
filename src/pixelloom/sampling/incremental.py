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
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pixelloom.layers.reads import Kernel, Offsets, Position, Positions
from pixelloom.sampling.caches import Cache, Front
from pixelloom.sampling.graph import Constant, Each, Join, Layer, Linear, Node, Slot
from pixelloom.sampling.plan import Columns, Fetch, Part, Plan, Runs, Segment, runs_of

Draw = Callable[[Tensor, Front, tuple[int, ...]], Tensor]
"""(parameters [M, n], which pixels, which channels) -> values of these pixels in model space, [M, channels]."""

Run = Callable[[Front], Tensor]
"""The value of one part at the positions of a step, [M, features of the part]."""


_Task: TypeAlias = tuple[dict[int, Front], Run, int, Cache | None, Runs]
"""(positions at each step, what to run there, slot for the value, cache to keep it in, where in the cache)"""


class Incremental:
    """A network run step by step for a batch of images, with the weights that it has now.

    Args:
        plan: what to compute when.
        images: batch size.
        dtype: of the features, that of the weights.
        device: of the features, that of the weights.
    """

    def __init__(self, plan: Plan, images: int, dtype: torch.dtype, device: torch.device) -> None:
        self.plan, self.images, self.dtype, self.device = plan, images, dtype, device
        self.caches = {node: Cache(layout, images, dtype, device) for node, layout in plan.caches.items()}
        self.values: list[Tensor | None] = [None] * plan.slots
        self.fronts = [
            {step: Front(segments, images, wave.ready.shape[1]) for step, segments in wave.segments.items()}
            for wave in plan.waves
        ]
        self._tasks = [self._task(part) for parts in plan.parts[1:] for part in parts]
        self._drawn = [
            (self.fronts[wave], channels, runs_of(np.array(channels)), self._fetching(fetch))
            for (wave, channels, _), fetch in zip(plan.pixels, plan.drawn, strict=True)
        ]

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
        for fronts, run, slot, cache, runs in self._tasks:
            if step in fronts:
                front = fronts[step]
                value = self.values[slot] = run(front)
                if cache is not None:
                    cache.write(front, runs, value)
        for fronts, channels, runs, params in self._drawn:
            if step in fronts:
                front = fronts[step]
                self.caches[0].write(front, runs, draw(params(front), front, channels))

    def _task(self, part: Part) -> _Task:
        return self.fronts[part.wave], self._run_of(part), part.slot, self.caches.get(part.node), runs_of(part.columns)

    # Operations

    def _run_of(self, part: Part) -> Run:
        node = self.plan.nodes[part.node]
        fetched = [self._fetching(fetch) for fetch in self.plan.fetches[part.slot]]
        match node.operation:
            case Each():
                return self._each(node.operation, part, fetched)
            case Join():
                return lambda front: (
                    torch.cat([f(front) for f in fetched], dim=1) if len(fetched) > 1 else fetched[0](front)
                )
            case Linear():
                return self._linear(node, node.operation.kernel(), part)
            case Layer(module=module, at=None):
                select = _selection(part.columns, node.features)
                return lambda front: select(module(*(f(front)[:, :, None, None] for f in fetched))[:, :, 0, 0])
            case Layer():
                return self._gathering(node, node.operation, part)
            case _:
                raise AssertionError(node)

    def _fetching(self, fetch: Fetch) -> Run:
        """Features of another node at the same positions."""
        if fetch.slot is None or fetch.within is None:
            cache = self.caches[fetch.node]
            runs = runs_of(fetch.columns)
            return lambda front: cache.read(front, runs)
        part = next(part for part in self.plan.parts[fetch.node] if part.slot == fetch.slot)
        slot, select = fetch.slot, _selection(fetch.within, len(part.columns))
        return lambda front: select(self._value(slot))

    def _value(self, slot: int) -> Tensor:
        value = self.values[slot]
        assert value is not None
        return value

    def _each(self, operation: Each, part: Part, fetched: list[Run]) -> Run:
        """A function of features at one position; constants are cut to the features of the part."""

        def argument(value: Any) -> Run:
            if isinstance(value, Slot):
                return fetched[value.index]
            if isinstance(value, Constant):
                return self._constant(value.value(), part)
            return lambda front: value

        args = [argument(value) for value in operation.args]
        kwargs = {name: argument(value) for name, value in operation.kwargs.items()}
        function = operation.function
        return lambda front: function(*(a(front) for a in args), **{name: a(front) for name, a in kwargs.items()})

    def _constant(self, value: Any, part: Part) -> Run:
        if not isinstance(value, Tensor) or value.ndim == 0:
            return lambda front: value
        value = value.detach().to(self.device, self.dtype if value.is_floating_point() else None)
        value = value.reshape(1, *[1] * (4 - value.ndim), *value.shape)[0] if value.ndim < 4 else value
        features, height, width = value.shape[-3:]
        value = value.reshape(features, height, width)
        if features > 1:
            value = value[torch.from_numpy(part.columns).to(self.device)]
        if height == width == 1:
            row = value.flatten()
            return lambda front: row
        planes = value.expand(len(value), *self.plan.nodes[part.node].size).flatten(1).t().contiguous()[:, None]
        return lambda front: front.of(planes)

    def _linear(self, node: Node, kernel: Kernel, part: Part) -> Run:
        """Matrix products, one for each row of taps, on features where they lie."""
        columns = torch.from_numpy(part.columns).to(self.device)
        weight = kernel.weight.detach().to(self.device, self.dtype)[:, :, columns]
        bias = None if kernel.bias is None else kernel.bias.detach().to(self.device, self.dtype)[columns]
        fetches = self.plan.fetches[part.slot]
        if fetches:
            here = weight[kernel.taps.index((0, 0)), torch.from_numpy(fetches[0].columns).to(self.device)].contiguous()
            read = self._fetching(fetches[0])
            return lambda front: _product(bias, read(front), here)
        rows = [
            (tap, count, slice(0, last), torch.cat((weight[taps[:-1]].flatten(0, 1), weight[taps[-1], :last])))
            for tap, count, last, taps in _runs(node, kernel, part.columns)
        ]
        if not rows:  # as the first channel of a pixel reads nothing of the pixel
            nothing = torch.zeros(len(columns), dtype=self.dtype, device=self.device) if bias is None else bias
            return lambda front: nothing.expand(front.rows, -1)
        cache = self.caches[node.edges[0].source]

        def product(segment: Segment) -> Tensor:
            def values(number: int) -> Tensor:
                tap, count, features, _ = rows[number]
                return cache.view(segment, features, count, tap, kernel.stride).flatten(0, -2)

            out = _product(bias, values(0), rows[0][3])
            for number in range(1, len(rows)):
                out.addmm_(values(number), rows[number][3])
            return out

        return lambda front: _joined([product(segment) for segment in front.segments])

    def _gathering(self, node: Node, operation: Layer, part: Part) -> Run:
        """Any other layer: what it reads, copied out position by position."""
        at, select = operation.at, _selection(part.columns, node.features)
        assert at is not None

        def run(front: Front) -> Tensor:
            inputs, present = [], torch.empty(0)
            for number, source in enumerate(node.inputs):
                reads = [edge.where for edge in node.edges if edge.input == number]
                rows, columns, present = self._reads(reads, front.positions, self.plan.nodes[source].size)
                inputs.append(self.caches[source].at(rows, columns, present).transpose(0, 1).flatten(0, 1))
            everywhere = present[:, None].expand(-1, self.images, -1).flatten(0, 1)
            return select(at(*inputs, everywhere))

        return run

    def _reads(
        self, reads: list[Positions], positions: list[Position], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and columns that each position reads, and which of them lie inside the image, each [n, N]."""
        lists = [[q for where in reads for q in where.of(p, size)] for p in positions]
        most = max(map(len, lists))
        found = np.full((len(lists), most, 2), -1)
        for row, read in zip(found, lists, strict=True):
            row[: len(read)] = np.array(read).reshape(-1, 2)
        inside = ((found >= 0) & (found < size)).all(-1)
        rows, columns = (torch.from_numpy(found[..., i].copy()).to(self.device) for i in (0, 1))
        return rows, columns, torch.from_numpy(inside).to(self.device)


def _joined(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _product(bias: Tensor | None, values: Tensor, matrix: Tensor) -> Tensor:
    return values @ matrix if bias is None else torch.addmm(bias, values, matrix)


def _selection(columns: Columns, features: int) -> Callable[[Tensor], Tensor]:
    """Takes some columns of a matrix; all of them, or a range, without a copy."""
    if len(columns) == features and np.array_equal(columns, np.arange(features)):
        return lambda value: value
    runs = runs_of(columns)
    if len(runs) == 1:
        chosen = runs[0][0]
        return lambda value: value[:, chosen]
    return lambda value: torch.cat([value[:, run] for run, _ in runs], dim=1)


def _runs(node: Node, kernel: Kernel, columns: Columns) -> list[tuple[Position, int, int, list[int]]]:
    """Rows of neighbouring taps as (first tap, number, features read at the last one, numbers of the taps).

    A tap of which only some features are read ends its row: what comes after the last of them may not be known yet.
    """
    features: dict[Position, int] = {}
    for edge in node.edges:
        assert isinstance(edge.where, Offsets)
        used = None if edge.features is None else np.flatnonzero(edge.features.cpu().numpy()[columns].any(0))
        for tap in edge.where.taps:
            whole = kernel.weight.shape[1]
            last = whole if used is None else int(used[-1]) + 1 if len(used) else 0
            features[tap] = max(features.get(tap, 0), last)
    found: list[tuple[Position, int, int, list[int]]] = []
    for number, tap in enumerate(kernel.taps):
        last = features.get(tap, 0)
        if not last:
            continue
        if found:
            first, count, before, taps = found[-1]
            if before == kernel.weight.shape[1] and tap == (first[0], first[1] + count):
                found[-1] = (first, count + 1, last, [*taps, number])
                continue
        found.append((tap, 1, last, [number]))
    return found
