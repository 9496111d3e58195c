"""A recurrence at the positions of a wavefront: their inputs, and the states that they carry on.

A state depends on the states at the offsets ``carried``, such as (0, -1) along a row. Where those lie in earlier
wavefronts, they are in the cache, and one call of ``step`` computes the whole wavefront. Where some lie in the same
wavefront, as when inputs of a whole row are ready together, the positions are sorted into topological levels,

    level(p) = 1 + max over carried offsets d with p + d in the wavefront of level(p + d),    0 where there are none

and ``step`` is called once per level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from pixelloom.layers.reads import Position
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.wavefronts import Ranges, Segment, Wavefront

Level: TypeAlias = list[tuple[int, tuple[int | None, ...]]]
"""(index of a position, for each carried offset the index of the position there, None if its state is in the cache)"""


def recurrence(
    step: Callable[..., Tensor],
    carried: tuple[Position, ...],
    operand: Callable[[Wavefront], Tensor],
    states: Cache,
    ranges: Ranges,
) -> Callable[[Wavefront], Tensor]:
    """The executor of a recurrence.

    Args:
        step: inputs [M, in] and states [M, out], one tensor per carried offset -> states [M, out].
        carried: offsets of these states.
        operand: executor of the inputs.
        states: cache of earlier states.
        ranges: the states' features in it.
    """
    levels_of: dict[tuple[Segment, ...], list[Level]] = {}

    def run(wavefront: Wavefront) -> Tensor:
        levels = levels_of.get(wavefront.segments) or topological_levels(wavefront.positions, carried)
        levels_of[wavefront.segments] = levels
        inputs = [operand(wavefront), *(states.read(wavefront, ranges, offset) for offset in carried)]
        if len(levels) == 1:
            return step(*inputs)
        # [M, features] -> per position [images, features]
        x, *cached = [torch.split(rows, wavefront.images) for rows in inputs]
        done: dict[int, Tensor] = {}
        for level in levels:
            before = [
                torch.cat([rows[index] if (one := sources[i]) is None else done[one] for index, sources in level])
                for i, rows in enumerate(cached)
            ]
            value = step(torch.cat([x[index] for index, _ in level]), *before)
            done.update(zip((index for index, _ in level), torch.split(value, wavefront.images), strict=True))
        return torch.cat([done[index] for index in range(len(x))])

    return run


def topological_levels(positions: list[Position], carried: tuple[Position, ...]) -> list[Level]:
    """Topological levels of the positions of a wavefront: each carries states of earlier levels only."""
    index = {position: i for i, position in enumerate(positions)}
    mirrored = any(dy == 0 and dx > 0 for dy, dx in carried)
    depth: dict[int | None, int] = {None: -1}
    levels: list[Level] = []
    for y, x in sorted(positions, key=lambda p: (p[0], -p[1] if mirrored else p[1])):  # in the order of the recurrence
        sources = tuple(index.get((y + dy, x + dx)) for dy, dx in carried)
        own = index[y, x]
        depth[own] = 1 + max((depth[one] for one in sources), default=-1)
        if depth[own] == len(levels):
            levels.append([])
        levels[depth[own]].append((own, sources))
    return levels
