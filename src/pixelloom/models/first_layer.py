"""What the first layer of a pixel model reads."""

from __future__ import annotations

from collections.abc import Collection

from pixelloom.layers.reads import Offsets, Position
from pixelloom.sampling.fast.analysis import Dataflow


def first_taps(flow: Dataflow) -> tuple[Position, ...] | None:
    """Offsets of the image that the first layer reads, in raster order; None if it reads all earlier pixels.

    The first layer is the first operation on each path from the image that mixes positions, with the shifts before and
    after it; parallel layers, such as the two stacks of a gated network, are joined.
    """
    width = flow.shape[2]
    offsets: list[set[Position]] = [{(0, 0)}]
    mixed: list[int] = [0]  # operations on the way that mix positions
    first: set[Position] = set()
    for sources in flow.sources[1:]:
        reads = [read for kind in sources for read in kind]
        found, depth = set[Position](), 0
        for read in reads:
            if mixed[read.node] > 1:
                depth = max(depth, mixed[read.node])
                continue
            if not isinstance(read.where, Offsets) or read.where.stride != (1, 1) or read.where.up != (1, 1):
                if mixed[read.node] == 0:
                    return None
                depth, taps = max(depth, 2), list[Position]()
            else:
                # (-1, width - 1) wraps around the edge: from the first pixel of a row to the last one above it.
                taps = [tap for tap in read.where.taps if tap != (-1, width - 1)]
            depth = max(depth, mixed[read.node] + (len(taps) > 1))
            found |= {(dy + v, dx + u) for dy, dx in taps for v, u in offsets[read.node]}
        if depth > 1:  # a second layer: what it reads of the first counts
            for read in reads:
                if mixed[read.node] == 1:
                    first |= offsets[read.node]
        offsets.append(found if depth <= 1 else set())
        mixed.append(min(depth, 2))
    if not first:
        first = offsets[-1]
    return tuple(sorted(tap for tap in first if tap <= (0, 0))) or None


def draw_taps(taps: Collection[Position]) -> str:
    """Offsets (row, column) as text, ``#`` for each of them and ``.`` for others, with the center in the middle."""
    above, aside = (max(1, *(abs(tap[axis]) for tap in taps)) for axis in (0, 1))
    rows = [[(dy, dx) in taps for dx in range(-aside, aside + 1)] for dy in range(-above, above + 1)]
    return "\n".join(" ".join("#" if tap else "." for tap in row) for row in rows)
