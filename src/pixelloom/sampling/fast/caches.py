"""Caches of one batch: memory in the planned layout, and strided views of it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pixelloom.layers.reads import Position
from pixelloom.sampling.fast.layout import CacheLayout
from pixelloom.sampling.fast.program import Binding, view_of
from pixelloom.sampling.fast.recorder import Calls
from pixelloom.sampling.fast.wavefronts import Ranges, Segment, Wavefront


class Cache:
    """Features of one node for a batch of images, laid out as :mod:`pixelloom.sampling.fast.layout` describes."""

    def __init__(self, layout: CacheLayout, images: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layout, self.images = layout, images
        # Distances, in addresses, between rows of one image, and between the same row of consecutive images.
        self.row, self.pitch = images * layout.pitch + layout.skew, layout.pitch
        if layout.image_major:
            self.row, self.pitch = layout.width, layout.width * layout.rows
        size = 2 * layout.margin + layout.rows * (images * layout.pitch + layout.skew)
        self.flat = torch.zeros(size, layout.features, dtype=dtype, device=device)  # [addresses, features]
        self.first_row = 0  # of the image, or above it, that is stored at the top
        self.binding: Binding | None = None  # records views while a step is bound

    @property
    def unit(self) -> int:
        """Numbers per address."""
        return self.layout.features

    def reset(self) -> None:
        """Prepare for new images. Zeros, since a stale NaN times a weight of zero would be NaN."""
        self.flat.zero_()
        self.first_row = -self.layout.top

    def reorder(self, images: Tensor) -> None:
        """Image i gets the features of image images[i], int64 [images]."""
        layout = self.layout
        if layout.image_major:
            rows, width = 1, layout.width * layout.rows
        else:
            rows, width = layout.rows, layout.pitch
        # Row by row, [rows, images, width * features]: a row begins at margin + y * (distance between rows).
        size = (rows, self.images, width * layout.features)
        strides = (self.row * layout.features, width * layout.features, 1)
        view = self.flat.as_strided(size, strides, layout.margin * layout.features)
        view.copy_(view[:, images])

    def advance(self, step: int) -> None:
        """Move live rows to the top where the plan says so. They are less than half, so they do not overlap."""
        rows = self.layout.moves.get(step)
        if rows:
            start, size = self.layout.margin, max(0, self.layout.rows - rows) * self.row
            source = start + rows * self.row
            self.flat[start : start + size] = self.flat[source : source + size]
            self.first_row += rows

    def address(self, y: int, x: int) -> int:
        """The address of a position of the first image: its index in ``flat``."""
        return self.layout.margin + (y - self.first_row) * self.row + x

    def view(
        self, segment: Segment, columns: slice, taps: int = 1, tap: Position = (0, 0), stride: Position = (1, 1)
    ) -> Tensor:
        """View the features that a segment reads under a row of taps, without a copy.

        Args:
            segment: positions of the readers.
            columns: range of features; with several taps it begins at 0 and ends the range of the last tap.
            taps: number of horizontally adjacent taps.
            tap: offset of the first.
            stride: of the read.

        Returns:
            [n * images, k], or [n, images, k] where no single distance reaches all, with k = (taps - 1) * features +
            len(columns).
        """
        features, pitch = self.layout.features, self.pitch
        width = (taps - 1) * features + columns.stop - columns.start
        y, x = segment.y * stride[0] + tap[0], segment.x * stride[1] + tap[1]
        offset = self.address(y, x) * features + columns.start
        between = segment.dy * stride[0] * self.row + segment.dx * stride[1]  # from position to position of the segment
        # Where the skew is that of the segment, between = images * pitch, and row (i, image) is at (i * images + image)
        # * pitch: shape [n * images, width], strides (pitch * features, 1).
        if segment.n == 1 or between == self.images * pitch:
            return self._view(offset, (segment.n * self.images, width), (pitch * features, 1), stride)
        # One image: shape [n, width], strides (between * features, 1).
        if self.images == 1:
            return self._view(offset, (segment.n, width), (between * features, 1), stride)
        # Otherwise: shape [n, images, width], strides (between * features, pitch * features, 1).
        size, strides = (segment.n, self.images, width), (between * features, pitch * features, 1)
        return self._view(offset, size, strides, stride)

    def _view(
        self,
        offset: int,
        size: tuple[int, ...],
        strides: tuple[int, ...],
        stride: Position = (1, 1),
        up: Position = (1, 1),
    ) -> Tensor:
        return view_of(self, self.binding, offset, size, strides, stride, up)

    def line(self, y: int) -> Tensor:
        """View one row of all images, [images, width, features]."""
        features, pitch = self.layout.features, self.pitch
        size, strides = (self.images, self.layout.width, features), (pitch * features, features, 1)
        return self.flat.as_strided(size, strides, self.address(y, 0) * features)

    def tokens(self) -> Tensor:
        """View all positions of an image-major cache in raster order, [images, H * W, features]."""
        size = (self.images, self.layout.width * self.layout.rows, self.layout.features)
        return self.flat[: size[0] * size[1]].view(size)  # [images * H * W, features] -> [images, H * W, features]

    def view3(self, segment: Segment, up: Position, first: int, count: int, step: int = 1) -> Tensor:
        """View every ``step``-th feature from ``first`` on for an upsampling, [n, images, count]."""
        features = self.layout.features
        between = segment.dy * self.row + segment.dx
        strides = (between * features, self.pitch * features, step)
        offset = self.address(segment.y, segment.x) * features + first
        return self._view(offset, (segment.n, self.images, count), strides, up=up)

    def reads(
        self,
        wavefront: Wavefront,
        ranges: Ranges,
        out: Tensor,
        calls: Calls,
        tap: Position = (0, 0),
        stride: Position = (1, 1),
    ) -> None:
        """Append the calls that copy the features under one tap of each position to ``out`` [M, k]."""
        start = 0
        for segment in wavefront.segments:
            end = start + segment.n * self.images
            for columns, indices in ranges:
                view = self.view(segment, columns, 1, tap, stride)
                calls.append(partial(_rows_like(out[start:end, indices], view).copy_, view))
            start = end

    def writes(self, wavefront: Wavefront, ranges: Ranges, value: Tensor, calls: Calls) -> None:
        """Append the calls that write [M, k] at the positions."""
        start = 0
        for segment in wavefront.segments:
            end = start + segment.n * self.images
            for columns, indices in ranges:
                view = self.view(segment, columns)
                part = value if view.shape == value.shape else value[start:end, indices]
                calls.append(partial(view.copy_, _rows_like(part, view)))
            start = end

    def read(self, wavefront: Wavefront, ranges: Ranges, tap: Position = (0, 0), stride: Position = (1, 1)) -> Tensor:
        """Read features under one tap of each position, [M, k]."""
        out = self.flat.new_empty(wavefront.rows, ranges[-1][1].stop)
        calls: Calls = []
        self.reads(wavefront, ranges, out, calls, tap, stride)
        for call in calls:
            call()
        return out

    def write(self, wavefront: Wavefront, ranges: Ranges, value: Tensor) -> None:
        """Write [M, k] at the positions."""
        calls: Calls = []
        self.writes(wavefront, ranges, value, calls)
        for call in calls:
            call()

    def gather(self, rows: Tensor, columns: Tensor, present: Tensor) -> Tensor:
        """Copy all features of all images at some positions.

        Args:
            rows: int64 [...]
            columns: int64 [...]
            present: bool [...], false where zeros are returned instead.

        Returns:
            [images, ..., features]
        """
        address = self.layout.margin + (rows - self.first_row) * self.row + columns
        images = torch.arange(self.images, device=address.device) * self.pitch
        # [images, 1, ...] + [...] -> addresses [images, ...]
        found = self.flat[images.view(-1, *[1] * address.ndim) + address.masked_fill(~present, 0)]
        return found.masked_fill(~present[..., None], 0)


def _rows_like(rows: Tensor, view: Tensor) -> Tensor:
    """[n * images, k] in the shape of a view, which is that or [n, images, k]."""
    return rows if view.ndim == 2 else rows.view(*view.shape[:2], -1)
