"""Causal attention at the positions of a wavefront: their queries over the cached keys and values.

Position p attends to one range of positions in raster order, ``Earlier.span(p)``. Positions whose ranges begin at the
same position are computed by one call over the longest of these ranges, with a mask for the shorter ones. Every key in
it is ready, as the position with the longest range needs it at this step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pixelloom.layers.reads import Earlier, Position, Size
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.context import Context, Executor, Operand
from pixelloom.sampling.fast.planner import FeatureGroup
from pixelloom.sampling.fast.recorder import Calls
from pixelloom.sampling.fast.wavefronts import Segment, Wavefront


class _Call(NamedTuple):
    """One call of ``attend``.

    Attributes:
        queries: indices of positions of the wavefront, None for all.
        first: beginning of the range of keys.
        end: end of that range.
        allowed: bool [queries, end - first], None for all.
    """

    queries: Tensor | None
    first: int
    end: int
    allowed: Tensor | None


def attention(
    context: Context,
    group: FeatureGroup,
    attend: Callable[..., Tensor],
    where: Earlier,
    size: Size,
    query: Operand,
    keys: Cache,
    values: Cache,
) -> Executor:
    """The executor of an attention layer.

    Args:
        context: of the batch.
        group: the features.
        attend: as the layer declares it (:mod:`pixelloom.layers.reads`).
        where: positions that each position attends to.
        size: of the grid.
        query: the queries, [M, features].
        keys: cache of the keys.
        values: cache of the values.
    """
    calls_of: dict[tuple[Segment, ...], list[_Call]] = {}
    single: Any = getattr(getattr(attend, "__self__", None), "single", None)
    if not (keys.layout.image_major and values.layout.image_major):
        single = None
    bound: list[_Single] = []

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        q = query.bind(wavefront, calls)
        if not query.fixed:
            own = context.buffer(("query", group.slot), group.sweep, wavefront.rows, query.features)
            calls.append(partial(own.copy_, q))
            q = own
        q = q.view(-1, wavefront.images, q.shape[1])  # [M, features] -> [positions, images, features]
        if len(q) == 1 and single is not None:
            if not bound:
                bound.append(_Single(single(q[0], keys.tokens(), values.tokens(), out), where, size))
            calls.append(bound[0].run)
            bound[0].move(wavefront)
            if context.binding is not None:
                context.binding.moving(bound[0].move)
            return out
        context.unkept()
        if wavefront.segments not in calls_of:
            calls_of[wavefront.segments] = _calls(wavefront.positions, where, size, keys.flat.device)
        calls.append(partial(_attend, attend, calls_of[wavefront.segments], q, keys, values, out))
        return out

    return Executor(bind)


class _Single:
    """The attention of a single position, whose range moves."""

    def __init__(self, attend: Callable[[int, int], object], where: Earlier, size: Size) -> None:
        self.attend, self.where, self.size = attend, where, size
        self.first, self.end = 0, 0

    def move(self, wavefront: Wavefront) -> None:
        """Attend from the position of a wavefront."""
        self.first, self.end = self.where.span((wavefront.segments[0].y, wavefront.segments[0].x), self.size)

    def run(self) -> None:
        """Compute."""
        self.attend(self.first, self.end)


def _attend(
    attend: Callable[..., Tensor], calls: list[_Call], q: Tensor, keys: Cache, values: Cache, out: Tensor
) -> None:
    """Attention of the queries [positions, images, features] by some calls."""
    rows = out.view(*q.shape[:2], -1)  # [M, features] -> [positions, images, features]
    for queries, first, end, allowed in calls:
        mine = q if queries is None else q[queries]
        k, v = (_tokens(cache, first, end) for cache in (keys, values))
        # attend takes and gives [images, positions, features].
        found = attend(mine.transpose(0, 1), k, v, allowed).transpose(0, 1)
        if queries is None:
            rows.copy_(found)
        else:
            rows[queries] = found


def _calls(positions: list[Position], where: Earlier, size: Size, device: torch.device) -> list[_Call]:
    """Group positions by the beginning of their ranges."""
    spans = [where.span(position, size) for position in positions]
    calls: list[_Call] = []
    for first in sorted({first for first, _ in spans}):
        ends = {index: end for index, (start, end) in enumerate(spans) if start == first}
        queries = None if len(ends) == len(spans) else torch.tensor(list(ends), device=device)
        # The first position may have an empty range: then one key is read, and masked.
        end, allowed = max(first + 1, *ends.values()), None
        if min(ends.values()) < end:
            # [keys] < [queries, 1] -> [queries, keys]
            allowed = (
                torch.arange(first, end, device=device) < torch.tensor(list(ends.values()), device=device)[:, None]
            )
        calls.append(_Call(queries, first, end, allowed))
    return calls


def _tokens(cache: Cache, first: int, end: int) -> Tensor:
    """Positions first .. end - 1 in raster order, [images, N, features]; a view if the cache is image-major."""
    if cache.layout.image_major:
        return cache.tokens()[:, first:end]
    places = torch.arange(first, end, device=cache.flat.device)
    width = cache.layout.width
    return cache.gather(places // width, places % width, torch.ones_like(places, dtype=torch.bool))
