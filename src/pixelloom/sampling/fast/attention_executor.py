"""Causal attention at the positions of a wavefront: their queries over the cached keys and values.

Position p attends to one range of positions in raster order, ``Earlier.span(p)``. Positions whose ranges begin at the
same position are computed by one call over the longest of these ranges, with a mask for the shorter ones. Every key in
it is ready, as the position with the longest range needs it at this step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pixelloom.layers.reads import Earlier, Position, Size
from pixelloom.sampling.fast.caches import Cache
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
    attend: Callable[..., Tensor],
    where: Earlier,
    size: Size,
    query: Callable[[Wavefront], Tensor],
    keys: Cache,
    values: Cache,
) -> Callable[[Wavefront], Tensor]:
    """The executor of an attention layer.

    Args:
        attend: as the layer declares it (:mod:`pixelloom.layers.reads`).
        where: positions that each position attends to.
        size: of the grid.
        query: executor of the queries, [M, features].
        keys: cache of the keys.
        values: cache of the values.
    """
    calls_of: dict[tuple[Segment, ...], list[_Call]] = {}

    def run(wavefront: Wavefront) -> Tensor:
        if wavefront.segments not in calls_of:  # in the first batch: a CUDA graph of later ones cannot make masks
            calls_of[wavefront.segments] = _calls(wavefront.positions, where, size, keys.flat.device)
        calls = calls_of[wavefront.segments]
        q = query(wavefront)
        q = q.view(-1, wavefront.images, q.shape[1])  # [M, features] -> [positions, images, features]
        outputs = []
        for queries, first, end, allowed in calls:
            mine = q if queries is None else q[queries]
            k, v = (_tokens(cache, first, end) for cache in (keys, values))
            # attend takes and gives [images, positions, features].
            outputs.append(attend(mine.transpose(0, 1), k, v, allowed).transpose(0, 1))
        if len(outputs) == 1:
            return outputs[0].flatten(0, 1)  # [positions, images, features] -> [M, features]
        out = torch.cat(outputs)
        for call, output in zip(calls, outputs, strict=True):
            out[call.queries] = output
        return out.flatten(0, 1)  # [positions, images, features] -> [M, features]

    return run


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
