"""The parallel pass over a list of nodes: every value of whole images at once.

The nodes are those of :mod:`pixelloom.sampling.fast.ir`, traced from a network or lowered to integers. Values are held
with features last, [B, H, W, F], in contiguous memory: a 1x1 convolution is then one matrix product, and a lookup in a
table needs no copy.

Larger windows use ``conv2d``. Its sums are exact for the integers of a lowered network only where each algorithm behind
it multiplies and adds; :func:`pixelloom.codec.carriers.exact_arithmetic` excludes the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelloom.core.errors import ModelError
from pixelloom.layers.reads import Earlier, Kernel, Offsets
from pixelloom.sampling.fast import ir
from pixelloom.sampling.fast.ir import Constant, Constants, Node, Operand
from pixelloom.sampling.fast.recurrence_executor import topological_levels

Run = Callable[[Sequence[Tensor]], Tensor]
"""Values of the inputs of a node, each [B, H, W, F] -> its value."""


class ParallelPass:
    """A parallel pass with the weights at the time of construction.

    Args:
        nodes: in topological order, the image first, the output last.
        dtype: of all values.

    Raises:
        ModelError: for an operation that has no parallel form here.
    """

    def __init__(self, nodes: Sequence[Node], dtype: torch.dtype) -> None:
        self.nodes, self.dtype = nodes, dtype
        self._constants = Constants()
        with torch.no_grad():
            self._runs = [self._run_of(node) for node in nodes[1:]]
        last = {source: number for number, node in enumerate(nodes) for source in node.inputs}
        self._dead: list[list[int]] = [[] for _ in nodes]
        for source, number in last.items():
            self._dead[number].append(source)

    @torch.no_grad()
    def __call__(self, image: Tensor, look: Callable[[int, Tensor], None] | None = None) -> Tensor:
        """Values of the output, [B, H, W, outputs], from an image [B, H, W, C] in model space.

        Args:
            image: pixels.
            look: callback (number of a node, its value), for every node.
        """
        values: dict[int, Tensor] = {0: image.to(self.dtype)}
        if look is not None:
            look(0, values[0])
        for number, run in enumerate(self._runs, start=1):
            node = self.nodes[number]
            values[number] = run([values[source] for source in node.inputs])
            if look is not None:
                look(number, values[number])
            for dead in self._dead[number]:
                del values[dead]
        return values[len(self.nodes) - 1]

    def _run_of(self, node: Node) -> Run:
        match node.operation:
            case ir.Elementwise():
                return self._elementwise(node.operation)
            case ir.Concat(origin=origin):
                return _concat(origin)
            case ir.Linear(kernel=kernel):
                return self._linear(kernel(), node.size)
            case ir.Pointwise(module=module):
                rows: Any = getattr(module, "rows", None)  # the module on values with features last
                if rows is not None:
                    return lambda values: rows(*values).contiguous()
                return lambda values: _rows(module(*map(_planes, values)))
            case ir.Shift(where=where):
                return lambda values: _shifted(values[0], where, node.size)
            case ir.Shuffle(factor=factor):
                return lambda values: _rows(F.pixel_shuffle(_planes(values[0]), factor))
            case ir.Recurrence():
                return _recurrence(node, node.operation)
            case ir.Attention():
                return _attention(node)
            case _:
                raise ModelError(f"{node.name}: a layer with a rule of its own (at) has no parallel pass here")

    def _elementwise(self, operation: ir.Elementwise) -> Run:
        def resolved(value: Any) -> Any:
            """A constant that broadcasts to [B, F, H, W], as one that broadcasts to [B, H, W, F]."""
            if not isinstance(value, Constant):
                return value
            found = self._constants.resolve(value)
            if not isinstance(found, Tensor) or found.ndim < 3:
                return found
            found = found.detach().movedim(-3, -1)
            return found.to(self.dtype) if found.is_floating_point() else found

        args = [resolved(value) for value in operation.args]
        kwargs = {name: resolved(value) for name, value in operation.kwargs.items()}

        def run(values: Sequence[Tensor]) -> Tensor:
            def operand(value: Any) -> Any:
                return values[value.index] if isinstance(value, Operand) else value

            found: Tensor = operation.function(
                *map(operand, args), **{name: operand(value) for name, value in kwargs.items()}
            )
            return found

        return run

    def _linear(self, kernel: Kernel, size: tuple[int, int]) -> Run:
        weight = kernel.weight.detach().to(self.dtype)
        bias = None if kernel.bias is None else kernel.bias.detach().to(self.dtype)
        if not kernel.taps:  # the first of ordered channels reads nothing
            return lambda values: torch.zeros(*values[0].shape[:1], *size, weight.shape[2], dtype=self.dtype)
        if list(kernel.taps) == [(0, 0)] and kernel.stride == (1, 1):
            return lambda values: F.linear(values[0], weight[0].T, bias)
        top, left = (min(tap[axis] for tap in kernel.taps) for axis in (0, 1))
        rows, columns = (max(tap[axis] for tap in kernel.taps) - low + 1 for axis, low in ((0, top), (1, left)))
        window = weight.new_zeros(weight.shape[2], weight.shape[1], rows, columns)
        for number, (dy, dx) in enumerate(kernel.taps):
            window[:, :, dy - top, dx - left] += weight[number].T  # [in, out] -> [out, in]
        window = window.contiguous(memory_format=torch.channels_last)
        (sy, sx), (height, width) = kernel.stride, size

        def run(values: Sequence[Tensor]) -> Tensor:
            x = _planes(values[0])
            below = (height - 1) * sy + top + rows - x.shape[2]
            right = (width - 1) * sx + left + columns - x.shape[3]
            return _rows(F.conv2d(F.pad(x, (-left, right, -top, below)), window, bias, kernel.stride))

        return run


def _planes(rows: Tensor) -> Tensor:
    """[B, H, W, F] -> [B, F, H, W], a view."""
    return rows.permute(0, 3, 1, 2)


def _rows(planes: Tensor) -> Tensor:
    """[B, F, H, W] -> [B, H, W, F] in contiguous memory."""
    return planes.permute(0, 2, 3, 1).contiguous()


def _concat(origin: tuple[tuple[int, int], ...]) -> Run:
    pieces: list[tuple[int, int, int]] = []  # (input, first feature, end)
    for source, feature in origin:
        if pieces and pieces[-1][0] == source and pieces[-1][2] == feature:
            pieces[-1] = (source, pieces[-1][1], feature + 1)
        else:
            pieces.append((source, feature, feature + 1))
    if len(pieces) == 1:
        source, first, end = pieces[0]
        return lambda values: values[source][..., first:end].contiguous()
    return lambda values: torch.cat([values[source][..., first:end] for source, first, end in pieces], dim=-1)


def _shifted(value: Tensor, where: Offsets, size: tuple[int, int]) -> Tensor:
    """out[y, x] = in[floor(y * stride / up) + dy, ...], zero outside."""
    (dy, dx), out = where.taps[0], value
    for axis, shift, side in ((1, dy, size[0]), (2, dx, size[1])):
        read = torch.arange(side) * where.stride[axis - 1] // where.up[axis - 1] + shift
        inside = (read >= 0) & (read < value.shape[axis])
        out = out.index_select(axis, read.clamp(0, value.shape[axis] - 1))
        if not bool(inside.all()):
            out = out * inside.to(out.dtype).view(-1, 1, 1) if axis == 1 else out * inside.to(out.dtype).view(-1, 1)
    return out


def _recurrence(node: Node, operation: ir.Recurrence) -> Run:
    """One call of ``step`` for each topological level of the grid, unless its owner computes whole images."""
    owner = getattr(operation.step, "__self__", None)
    if owner is not None and hasattr(owner, "whole"):
        return lambda values: owner.whole(values[0])

    def run(values: Sequence[Tensor]) -> Tensor:
        x = values[0]
        n, height, width, _ = x.shape
        grid = [(y, q) for y in range(height) for q in range(width)]
        outside = height * width
        states = x.new_zeros(n, outside + 1, node.features)  # the last one lies outside
        for level in topological_levels(grid, operation.carried):
            places = torch.tensor([index for index, _ in level])
            found = x.flatten(1, 2)[:, places]  # [B, H * W, in] -> [B, positions, in]
            carried = [
                states[:, torch.tensor([outside if (q := sources[i]) is None else q for _, sources in level])]
                for i in range(len(operation.carried))
            ]
            # [B, positions, features] -> [B * positions, features], and back
            value = operation.step(found.flatten(0, 1), *(state.flatten(0, 1) for state in carried))
            states[:, places] = value.view(n, len(level), -1)
        return states[:, :outside].view(n, height, width, -1).contiguous()

    return run


def _attention(node: Node) -> Run:
    assert isinstance(node.operation, ir.Attention)
    attend = node.operation.attend
    where = next(edge.where for edge in node.edges if edge.input)
    assert isinstance(where, Earlier)
    height, width = node.size
    spans = torch.tensor([where.span((y, x), node.size) for y in range(height) for x in range(width)])
    keys = torch.arange(height * width)
    allowed = (spans[:, :1] <= keys) & (keys < spans[:, 1:])  # [queries, keys]

    def run(values: Sequence[Tensor]) -> Tensor:
        q, k, v = (value.flatten(1, 2) for value in values)  # [B, H, W, F] -> [B, H * W, F]
        found: Tensor = attend(q, k, v, allowed)
        return found.view(len(q), height, width, -1)

    return run


def readers_of(inputs: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each node, the nodes that read it, from the inputs of all nodes."""
    found: list[list[int]] = [[] for _ in inputs]
    for number, sources in enumerate(inputs):
        for source in dict.fromkeys(sources):
            found[source].append(number)
    return found
