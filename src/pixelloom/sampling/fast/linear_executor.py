"""Linear layers at the positions of a wavefront: one matrix product per row of taps,

    out = bias + sum over rows r of taps    view_r [M, taps_r * in] @ weight_r [taps_r * in, out]

where view_r lies in the cache (:mod:`pixelloom.sampling.fast.layout`). A 1x1 convolution is one product with a slot.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pixelloom.layers.reads import Kernel, Offsets, Position
from pixelloom.sampling.fast.context import Context, Executor, Operand
from pixelloom.sampling.fast.ir import Node
from pixelloom.sampling.fast.planner import FeatureGroup
from pixelloom.sampling.fast.recorder import Calls
from pixelloom.sampling.fast.wavefronts import Columns, Wavefront


def pointwise_linear(context: Context, kernel: Kernel, group: FeatureGroup, operand: Operand) -> Executor:
    """A 1x1 convolution: one matrix product."""
    weight, bias = _weights(context, kernel, group)
    inputs = context.index(context.plan.gathers[group.slot][0].columns)
    matrix = weight[kernel.taps.index((0, 0)), inputs].contiguous()  # [taps, in, out] -> [in, out]

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        calls.append(_affine(bias, operand.bind(wavefront, calls), matrix, out))
        return out

    return Executor(bind, fixed=operand.fixed, strided=True)


def linear(context: Context, node: Node, kernel: Kernel, group: FeatureGroup) -> Executor:
    """A convolution: matrix products of views of the cache, one per row of taps."""
    weight, bias = _weights(context, kernel, group)
    # Per row of taps, [(taps - 1) * in + features, out]: all features of the taps but for the last one.
    rows = [
        (row, torch.cat((weight[row.indices[:-1]].flatten(0, 1), weight[row.indices[-1], : row.features])))
        for row in _tap_rows(node, kernel, group.columns)
    ]
    if not rows:  # as in the first of ordered channels, which reads nothing of its own pixel
        zero = torch.zeros(weight.shape[2], dtype=context.dtype, device=context.device) if bias is None else bias

        def bind_bias(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
            calls.append(partial(out.copy_, zero))
            return out

        return Executor(bind_bias, fixed=True)
    cache = context.caches[node.edges[0].source]
    windows = [
        (slice(0, row.features), len(row.indices), row.first, kernel.stride, matrix, number)
        for number, (row, matrix) in enumerate(rows)
    ]

    def bind(wavefront: Wavefront, out: Tensor, calls: Calls) -> Tensor:
        start = 0
        for segment in wavefront.segments:
            end = start + segment.n * wavefront.images
            part = out if end - start == len(out) else out[start:end]
            for columns, taps, first, stride, matrix, number in windows:
                view = cache.view(segment, columns, taps, first, stride)
                if view.ndim == 3:  # [n, images, k], where no single distance reaches all rows
                    context.scratch.reset()
                    copy = context.scratch.take(view.shape, view.dtype)
                    calls.append(partial(copy.copy_, view))
                    view = copy.flatten(0, 1)  # [n, images, k] -> [n * images, k]
                calls.append(_affine(bias, view, matrix, part) if not number else partial(part.addmm_, view, matrix))
            start = end
        return out

    return Executor(bind, strided=True)


def _weights(context: Context, kernel: Kernel, group: FeatureGroup) -> tuple[Tensor, Tensor | None]:
    """Weight [taps, in, out] and bias [out] of the output features of a group."""
    columns = context.index(group.columns)
    weight = kernel.weight.detach().to(context.device, context.dtype)[:, :, columns]
    bias = None if kernel.bias is None else kernel.bias.detach().to(context.device, context.dtype)[columns]
    return weight, bias


class _TapRow(NamedTuple):
    """Horizontally adjacent taps, whose features are contiguous in the cache.

    Attributes:
        first: offset of the first tap.
        features: number of features that are read at the last tap; at the others, all.
        indices: of the taps in the kernel.
    """

    first: Position
    features: int
    indices: list[int]


def _tap_rows(node: Node, kernel: Kernel, columns: Columns) -> list[_TapRow]:
    """The taps that some columns read, in rows.

    A tap of which only the first features are read ends its row, as the features after them may not be ready yet. With
    3x3 taps of type B and one channel: (-1, -1 .. 1) and (0, -1 .. 0).
    """
    whole = kernel.weight.shape[1]
    features: dict[Position, int] = {}
    for edge in node.edges:
        assert isinstance(edge.where, Offsets)
        used = None if edge.features is None else np.flatnonzero(edge.features.cpu().numpy()[columns].any(0))
        last = whole if used is None else int(used[-1]) + 1 if len(used) else 0
        for tap in edge.where.taps:
            features[tap] = max(features.get(tap, 0), last)
    rows: list[_TapRow] = []
    for index, tap in enumerate(kernel.taps):
        last = features.get(tap, 0)
        if not last:
            continue
        if rows:
            first, before, indices = rows[-1]
            if before == whole and tap == (first[0], first[1] + len(indices)):
                rows[-1] = _TapRow(first, last, [*indices, index])
                continue
        rows.append(_TapRow(tap, last, [index]))
    return rows


def _affine(bias: Tensor | None, values: Tensor, matrix: Tensor, out: Tensor) -> partial[Tensor]:
    """out = values @ matrix + bias"""
    if bias is None:
        return partial(torch.mm, values, matrix, out=out)
    return partial(torch.addmm, bias, values, matrix, out=out)
