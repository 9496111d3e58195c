"""Attention at the positions of one step: the queries of now over the keys and values kept so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from pixelloom.layers.reads import Earlier, Position, Size
from pixelloom.sampling.fast.caches import Cache, Wavefront
from pixelloom.sampling.fast.planner import Segment

_Group: TypeAlias = tuple[Tensor | None, int, int, Tensor | None]
"""(which positions of a wavefront, None for all; first and end of what they attend to; which of it each may attend to)"""


def attention(
    attend: Callable[..., Tensor],
    where: Earlier,
    size: Size,
    query: Callable[[Wavefront], Tensor],
    keys: Cache,
    values: Cache,
) -> Callable[[Wavefront], Tensor]:
    """What to run: ``attend`` as a layer declares it (:mod:`pixelloom.layers.reads`), for queries [M, features]."""
    known: dict[tuple[Segment, ...], list[_Group]] = {}

    def run(wavefront: Wavefront) -> Tensor:
        if wavefront.segments not in known:  # masks are there before a graph is captured, which could not make them
            known[wavefront.segments] = _groups(wavefront.positions, where, size, keys.flat.device)
        groups = known[wavefront.segments]
        q = query(wavefront)
        q = q.view(-1, wavefront.images, q.shape[1])
        parts = []
        for places, first, end, allowed in groups:
            mine = q if places is None else q[places]
            k, v = (_tokens(cache, first, end) for cache in (keys, values))
            parts.append(attend(mine.transpose(0, 1), k, v, allowed).transpose(0, 1))
        if len(parts) == 1:
            return parts[0].flatten(0, 1)
        out = torch.cat(parts)
        for (places, *_), part in zip(groups, parts, strict=True):
            out[places] = part
        return out.flatten(0, 1)

    return run


def _groups(positions: list[Position], where: Earlier, size: Size, device: torch.device) -> list[_Group]:
    """Positions that attend to ranges with the same beginning, together: all of the longest range is ready by then."""
    spans = [where.span(position, size) for position in positions]
    groups: list[_Group] = []
    for first in sorted({first for first, _ in spans}):
        ends = {place: end for place, (start, end) in enumerate(spans) if start == first}
        places = None if len(ends) == len(spans) else torch.tensor(list(ends), device=device)
        # At the first position there may be nothing to attend to: the answer is zero, whatever is attended to instead.
        end, allowed = max(first + 1, *ends.values()), None
        if min(ends.values()) < end:
            allowed = (
                torch.arange(first, end, device=device) < torch.tensor(list(ends.values()), device=device)[:, None]
            )
        groups.append((places, first, end, allowed))
    return groups


def _tokens(cache: Cache, first: int, end: int) -> Tensor:
    """The positions of a range in raster order, [images, N, features]; a copy, unless each image lies in one piece."""
    if cache.layout.tokens:
        return cache.tokens()[:, first:end]
    places = torch.arange(first, end, device=cache.flat.device)
    width = cache.layout.width
    return cache.at(places // width, places % width, torch.ones_like(places, dtype=torch.bool))
