"""Layout and lifetime of caches, which keep features for readers of later steps or other positions.

A cache stores rows of the image, features last:

    address(y, image, x) = y * (images * pitch + skew) + image * pitch + x,    pitch = width + margin

*Margins.* The margin, zeros to the right of each row, also pads the next row on its left. So a row of taps is one
contiguous range of memory at every position.

*Skew.* It is the number of columns that a wavefront moves left per row: 4 for ready(y, x) = x + 4y. Then

    address(y, image + 1, x)        = address(y, image, x) + pitch
    address(y + 1, image, x - skew) = address(y, image, x) + images * pitch

and the positions * images rows of a wavefront have one constant distance. A strided view of the cache, without a copy,
is the left operand of their matrix product.

*Release.* A row is dead after the step of its last reader. A cache has twice as many rows as are ever alive at once.
When it is full, the live rows move to its top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from pixelloom.layers.reads import HERE, Earlier, Offsets, Positions, Size
from pixelloom.sampling.fast.analysis import NEVER
from pixelloom.sampling.fast.wavefronts import Sweep

Reader: TypeAlias = tuple[Positions, Sweep]
"""The positions that a feature group reads of a node, and when it is computed."""


@dataclass
class CacheLayout:
    """Layout of the cache of one node.

    Attributes:
        features: number of features per position.
        width: of the grid.
        rows: rows that are stored, those above and below the image included.
        top: rows of zeros above the image.
        bottom: rows of zeros below the image.
        margin: zeros to the right of each row, which readers of both neighbors share.
        skew: columns that a wavefront moves left per row.
        image_major: whether each image is contiguous, row after row, as attention reads it; then there are no margins.
        moves: step -> by how many rows the contents move up before it.
    """

    features: int
    width: int
    rows: int = 0
    top: int = 0
    bottom: int = 0
    margin: int = 0
    skew: int = 0
    image_major: bool = False
    moves: dict[int, int] = field(default_factory=dict)

    @property
    def pitch(self) -> int:
        """Distance between the rows of consecutive images."""
        return self.width + self.margin


def plan_layout(
    features: int, size: Size, readers: Sequence[Reader], writers: Sequence[Sweep], steps: int
) -> CacheLayout:
    """Lay out the cache of a node.

    Args:
        features: number of features of the node.
        size: (height, width) of its grid.
        readers: all that read the cache.
        writers: sweeps of the node's feature groups; none if all values are there from the start, as of the image.
        steps: number of steps of the schedule.
    """
    height, width = size
    layout = CacheLayout(features, width)
    slopes: Counter[int] = Counter()
    for where, sweep in readers:
        # Margins are as wide as readers reach beyond the edges.
        layout.top = max(layout.top, -where.rows(0)[0])
        layout.bottom = max(layout.bottom, where.rows(len(sweep.ready) - 1)[1] - height + 1)
        if isinstance(where, Offsets):
            columns = [dx for _, dx in where.taps]
            end = (sweep.ready.shape[1] - 1) * where.stride[1] // where.up[1]
            layout.margin = max(layout.margin, -min(columns), end + max(columns) - width + 1)
        for segments in sweep.segments.values():
            for segment in segments:
                if segment.dy == 1 and segment.n > 1:
                    slopes[-segment.dx] += segment.n
    earlier = any(isinstance(where, Earlier) for where, _ in readers)
    layout.image_major = earlier and layout.margin == layout.top == layout.bottom == 0
    if slopes:  # the skew that suits most positions
        layout.skew = max(0, slopes.most_common(1)[0][0])
    layout.rows = layout.top + height + layout.bottom
    if writers and not layout.bottom and not layout.image_major:
        _release_rows(layout, [*readers, *((HERE, sweep) for sweep in writers)], steps)
    return layout


def _release_rows(layout: CacheLayout, users: Sequence[Reader], steps: int) -> None:
    """Reduce a cache to twice the rows that are alive at once, and plan when its contents move up.

    At step t the rows lowest[t] .. highest[t] are alive, A of them at most. A full cache of 2A rows moves them by more
    than A rows, so the source and the destination do not overlap.
    """
    last_use = np.full(layout.rows, NEVER)  # row -> last step at which it is used; rows above the image come first
    highest = np.full(steps, NEVER)  # step -> last row used until then; readers may use the margin of a new row
    for where, sweep in users:
        reach = [(first + layout.top, last + layout.top) for first, last in map(where.rows, range(len(sweep.ready)))]
        for (first, last), ready in zip(reach, sweep.ready, strict=True):
            last_use[first : last + 1] = np.maximum(last_use[first : last + 1], ready.max())
        for step, row in sweep.lowest.items():
            highest[step] = max(highest[step], reach[row][1])
    highest = np.maximum.accumulate(highest)
    used = last_use[None, :] >= np.arange(steps)[:, None]  # [steps, rows]: whether a row is used at a step or later
    lowest = np.where(used.any(axis=1), used.argmax(axis=1), layout.rows)
    alive = int((highest - lowest + 1).max())
    if alive < 1 or 2 * alive >= layout.rows:
        return
    layout.rows, first = 2 * alive, 0
    for step in range(steps):
        if highest[step] - first >= layout.rows:
            layout.moves[step] = int(lowest[step]) - first
            first = int(lowest[step])
