"""Violations of causality: the layer that causes one, and a check by differentiation.

:mod:`pixelloom.sampling.fast.analysis` finds outputs that depend on their own or a later pixel, and asks here for the
layer to name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pixelloom.core.errors import ModelError
from pixelloom.core.types import ImageSpec
from pixelloom.layers.reads import Marks, Values
from pixelloom.sampling.fast.ir import Concat
from pixelloom.sampling.fast.random_twin import evaluated, random_twin, randomize

if TYPE_CHECKING:
    from pixelloom.sampling.fast.analysis import Dataflow


class NotAutoregressiveError(ModelError):
    """A pixel's distribution depends on the pixel itself or on a later one."""


def raster_index(shape: tuple[int, int, int], groups: int) -> Values:
    """The index of each pixel value in raster order, [C, H, W]; equal for the channels of a pixel, unless ordered."""
    channels, height, width = shape
    pixel = np.arange(height * width, dtype=np.int64).reshape(1, height, width).repeat(channels, 0)
    return pixel if groups == 1 else pixel * channels + np.arange(channels)[:, None, None]


def diagnose(flow: Dataflow, wrong: Marks, latest: list[Values], index: Values) -> str:
    """Trace the latest pixel that a wrong output depends on back to the layer at fault.

    The path leads from a wrong output to a read with the same latest pixel, again and again. The layer at fault is
    the first whose input may depend on that pixel at the input's own position. Layers further back may be ahead of
    their position legitimately, to be shifted later.
    """
    kind, y, x = (int(i) for i in np.argwhere(wrong)[0])
    number, channel = len(flow.nodes) - 1, _channel_of(flow, kind)
    reader, source, row, column, v, u = 0, 0, y, x, y, x
    while number:
        place = number, y, x
        number, kind, y, x = _input_with(flow, number, kind, y, x, latest)
        if not reader or not isinstance(flow.nodes[place[0]].operation, Concat):  # which reads its own position only
            (reader, row, column), source, v, u = place, number, y, x
        if not _depends_on_future(flow, number, kind, y, x, latest[number], index[channel]):
            break
    node, read = flow.nodes[reader], flow.nodes[source]
    same = node.size == read.size
    where = f"at offset ({v - row:+d}, {u - column:+d})" if same else f"at position ({v}, {u}) of another grid"
    blame = "its own pixel" if (v, u) == (row, column) or not same else "what comes later"
    return (
        f"{node.name}: reads {read.name} {where} (rows down, columns right), and so the distribution of a pixel "
        f"depends on {blame}: the network is not autoregressive. First seen at row {row}, column {column}"
    )


def _channel_of(flow: Dataflow, kind: int) -> int:
    return next(channel for channel, classes in enumerate(flow.output_classes()) if kind in classes)


def _depends_on_future(flow: Dataflow, number: int, kind: int, y: int, x: int, latest: Values, index: Values) -> bool:
    """Whether a feature depends on the pixel value at its own position or on a later one.

    On a coarser grid, a position stands for the first of its pixels. With ordered channels, nothing states which
    feature belongs to which channel. There a position is accepted if one of its features depends on all that this
    channel may depend on, and on nothing later.
    """
    first = (p * -(-of // n) for p, n, of in zip((y, x), flow.nodes[number].size, flow.shape[1:], strict=True))
    own = int(index[tuple(min(p, of - 1) for p, of in zip(first, flow.shape[1:], strict=True))])
    if flow.groups == 1:
        return bool(latest[kind, y, x] >= own)
    before = latest[:, y, x][latest[:, y, x] < own]
    return not (len(before) and (own % flow.groups == 0 or before.max() == own - 1))


def _input_with(
    flow: Dataflow, number: int, kind: int, y: int, x: int, latest: list[Values]
) -> tuple[int, int, int, int]:
    """(node, class, row, column) of a read with the same latest pixel."""
    aim = latest[number][kind, y, x]
    for read in flow.sources[number][kind]:
        height, width = flow.nodes[read.node].size
        for v, u in read.where.of((y, x), (height, width)):
            if 0 <= v < height and 0 <= u < width:
                for one in read.classes:
                    if latest[read.node][one, v, u] == aim:
                        return read.node, one, v, u
    raise AssertionError("a value without an origin")


def check_gradient(network: nn.Module, spec: ImageSpec, groups: int, seed: int) -> None:
    """Differentiate each image row in one backward pass: copy i of the image gets the gradient of output i alone.

    Raises:
        NotAutoregressiveError: naming the output and the pixel.
        ModelError: if the output does not have the shape [B, outputs, H, W].
    """
    image = _random_image(network, spec, seed)
    index = torch.from_numpy(raster_index(spec.shape, groups)).to(image.device)
    with evaluated(network):
        for row in range(spec.height):
            x = image.expand(groups * spec.width, *spec.shape).clone().requires_grad_()
            # [groups * W, outputs, H, W] -> [groups * W, groups, outputs / groups, H, W] -> [groups * W, groups, W]
            out: Any = _run(network, x, groups)
            params = out.unflatten(1, (groups, -1)).abs().sum(2)[:, :, row]
            # Copy (group, column) keeps its own output: [groups, W, groups, W] -> [W, W, groups] -> [groups, W].
            mine = params.unflatten(0, (groups, spec.width)).diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)
            (gradient,) = torch.autograd.grad(mine.sum(), x)
            own = index[:groups, row] if groups > 1 else index[:1, row]
            late = (gradient != 0) & (index[None] >= own.reshape(-1, 1, 1, 1))
            if late.any():
                which, c, v, u = (int(i) for i in torch.nonzero(late)[0])
                raise NotAutoregressiveError(
                    f"the output at row {row}, column {which % spec.width} depends on channel {c} of the pixel at row "
                    f"{v}, column {u}, which is not before it: the network is not autoregressive"
                )


def check_gradients(network: nn.Module, spec: ImageSpec, groups: int, seed: int) -> None:
    """:func:`check_gradient` of the network, and of a copy with noise added to its weights, where none is zero.

    Raises:
        NotAutoregressiveError: naming the output and the pixel.
    """
    for one in _with_noise(network, seed):
        check_gradient(one, spec, groups, seed)


def gradient_field(network: nn.Module, spec: ImageSpec, position: tuple[int, int], groups: int) -> Marks:
    """The pixel values [C, H, W] that have a gradient of the output at a position, with ordered channels the last."""
    found = np.zeros(spec.shape, bool)
    for seed, one in enumerate(_with_noise(network, 0)):
        with evaluated(one):
            x = _random_image(one, spec, seed)[None].requires_grad_()
            out: Any = _run(one, x, groups)
            params = out.unflatten(1, (groups, -1))[:, -1]
            (gradient,) = torch.autograd.grad(params[..., position[0], position[1]].abs().sum(), x)
        found |= (gradient[0] != 0).cpu().numpy()
    return found


def _with_noise(network: nn.Module, seed: int) -> list[nn.Module]:
    """The network, and a copy with noise added to its weights if it can be copied."""
    try:
        twin = random_twin(network)
    except (RuntimeError, TypeError, AttributeError):
        return [network]
    randomize(twin, seed, scale=0.5)
    return [network, twin]


def _random_image(network: nn.Module, spec: ImageSpec, seed: int) -> Tensor:
    image = torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed))
    return image.to(next(network.parameters(), image))


def _run(network: nn.Module, x: Tensor, groups: int) -> Tensor:
    """The output of a network; raises ModelError for another shape than [B, outputs, H, W]."""
    out: Tensor = network(x)
    if out.ndim != 4 or out.shape[0] != len(x) or out.shape[2:] != x.shape[2:] or out.shape[1] % groups:
        channels = f", with outputs a multiple of {groups}" if groups > 1 else ""
        raise ModelError(f"the network maps {list(x.shape)} to {list(out.shape)}, not to [B, outputs, H, W]{channels}")
    return out
