"""Where the fast sampler keeps what it has computed: planes of pixels, and rows of features laid out for reading.

Values of a wavefront are matrices [positions * images, features], positions first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelloom.layers.reads import Position
from pixelloom.sampling.fast.planner import CacheLayout, Runs, Segment


@dataclass(frozen=True)
class Wavefront:
    """Positions of one step, for all images of a batch: M = positions * images rows, positions first."""

    segments: tuple[Segment, ...]
    images: int
    width: int

    @property
    def rows(self) -> int:
        """M"""
        return self.images * sum(segment.n for segment in self.segments)

    @property
    def positions(self) -> list[Position]:
        """In order."""
        return [(s.y + i * s.dy, s.x + i * s.dx) for s in self.segments for i in range(s.n)]

    def of(self, planes: Tensor) -> Tensor:
        """Rows of a tensor [H * W, images or 1, n] -> [M, n]."""
        found = [part.expand(-1, self.images, -1) for part in self._views(planes)]
        return (found[0] if len(found) == 1 else torch.cat(found)).flatten(0, 1)

    def put(self, planes: Tensor, rows: Tensor) -> None:
        """Write [M, n] to a tensor [H * W, images, n]."""
        start = 0
        for view in self._views(planes):
            end = start + view.shape[0] * self.images
            view.copy_(rows[start:end].view(view.shape))
            start = end

    def _views(self, planes: Tensor) -> list[Tensor]:
        views = []
        for s in self.segments:
            step = max(1, s.dy * self.width + s.dx)
            first = s.y * self.width + s.x
            views.append(planes[first : first + step * (s.n - 1) + 1 : step])
        return views


class Cache:
    """Features of one node for a batch of images, laid out as :mod:`pixelloom.sampling.fast.planner` says."""

    def __init__(self, layout: CacheLayout, images: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layout, self.images = layout, images
        # Distances between neighbors in a column, and between the same position of neighboring images.
        self.row, self.pitch = images * layout.pitch + layout.skew, layout.pitch
        if layout.tokens:
            self.row, self.pitch = layout.width, layout.width * layout.rows
        size = 2 * layout.margin + layout.rows * (images * layout.pitch + layout.skew)
        self.flat = torch.zeros(size, layout.features, dtype=dtype, device=device)
        self.first = 0

    def begin(self) -> None:
        """Forget the images before: only what is written by then is read, but sums must not meet a NaN of theirs."""
        self.flat.zero_()
        self.first = -self.layout.top

    def before(self, step: int) -> None:
        """Release rows that nobody will read again. What stays is less than half, so it moves without overlap."""
        rows = self.layout.moves.get(step)
        if rows:
            start, size = self.layout.margin, max(0, self.layout.rows - rows) * self.row
            moved = start + rows * self.row
            self.flat[start : start + size] = self.flat[moved : moved + size]
            self.first += rows

    def address(self, y: int, x: int) -> int:
        """Of the first image's features at a position, in rows of ``flat``."""
        return self.layout.margin + (y - self.first) * self.row + x

    def view(
        self, segment: Segment, columns: slice, taps: int = 1, tap: Position = (0, 0), stride: Position = (1, 1)
    ) -> Tensor:
        """Features at the positions of a segment moved by a tap, and of the ``taps`` - 1 positions right of each.

        Returns:
            [n * images, k], or [n, images, k] where no single distance reaches them all. No copy.
        """
        features, pitch = self.layout.features, self.pitch
        width = (taps - 1) * features + columns.stop - columns.start
        y, x = segment.y * stride[0] + tap[0], segment.x * stride[1] + tap[1]
        offset = self.address(y, x) * features + columns.start
        between = segment.dy * stride[0] * self.row + segment.dx * stride[1]
        if segment.n == 1 or between == self.images * pitch:
            return self.flat.as_strided((segment.n * self.images, width), (pitch * features, 1), offset)
        if self.images == 1:
            return self.flat.as_strided((segment.n, width), (between * features, 1), offset)
        size, strides = (segment.n, self.images, width), (between * features, pitch * features, 1)
        return self.flat.as_strided(size, strides, offset)

    def line(self, y: int) -> Tensor:
        """All of one row of the image, [images, width, features]."""
        features, pitch = self.layout.features, self.pitch
        size, strides = (self.images, self.layout.width, features), (pitch * features, features, 1)
        return self.flat.as_strided(size, strides, self.address(y, 0) * features)

    def tokens(self) -> Tensor:
        """All positions in raster order, [images, H * W, features]."""
        size = (self.images, self.layout.width * self.layout.rows, self.layout.features)
        return self.flat[: size[0] * size[1]].view(size)

    def read(self, wavefront: Wavefront, runs: Runs, tap: Position = (0, 0), stride: Position = (1, 1)) -> Tensor:
        """Features at the positions moved by a tap, [M, k]; without a copy where they lie in one piece."""
        rows = []
        for segment in wavefront.segments:
            views = [self.view(segment, run, 1, tap, stride).flatten(0, -2) for run, _ in runs]
            rows.append(views[0] if len(views) == 1 else torch.cat(views, dim=1))
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def write(self, wavefront: Wavefront, runs: Runs, value: Tensor) -> None:
        """Keep [M, k] for later."""
        start = 0
        for segment in wavefront.segments:
            end = start + segment.n * self.images
            for run, place in runs:
                view = self.view(segment, run)
                view.copy_(value[start:end, place].view(view.shape))
            start = end

    def at(self, rows: Tensor, columns: Tensor, present: Tensor) -> Tensor:
        """All features of all images at some positions [...]: [images, ..., features], 0 where not present. A copy."""
        address = self.layout.margin + (rows - self.first) * self.row + columns
        images = torch.arange(self.images, device=address.device) * self.pitch
        found = self.flat[images.view(-1, *[1] * address.ndim) + address.masked_fill(~present, 0)]
        return found.masked_fill(~present[..., None], 0)
