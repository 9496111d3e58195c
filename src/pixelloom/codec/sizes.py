"""Lowered networks for images of other sizes than those of the training.

A network is *local* if it computes every position alike: all nodes lie on the grid of the image, read at fixed offsets,
and have no constants of their own for a row or a column. Its integers are then defined for every height and width. So
is the order of values: the earliest schedule, in which a value has step 0 if its distribution reads nothing, and else
one step more than the latest value that it reads.

The parallel pass of a large image is cut into windows of rows. A window begins ``above`` rows before the first row that
it computes, as far up as the output reads, so that all its values are those of the whole image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pixelloom.codec.execution import Execution
from pixelloom.codec.operations import IntegerNode
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.layers.reads import Offsets, Size

MAX_PIXELS = 1 << 22
"""Of an image of another size. Planning takes 160 bytes a pixel for one masked layer, more for several."""
WINDOW = 1 << 15
"""Pixels that the parallel pass computes at once, at least."""
_LOCAL = frozenset((
    "image", "linear", "rescale", "table", "relu", "sum", "product", "affine", "concat", "shift", "embedding", "padded",
    "both-signs", "gate", "normalize",
))  # fmt: skip


def reach(nodes: Sequence[IntegerNode]) -> tuple[int, int]:
    """Rows (above, below) an output position that it depends on, directly or through other nodes.

    Raises:
        ModelError: if the network is not local, naming the node that fixes the size.
    """
    height, width = nodes[0].size
    found: list[tuple[int, int]] = []
    for node in nodes:
        why = _not_local(node, (height, width))
        if why:
            raise ModelError(f"{node.name}: {why}, so that the model takes images of {height}x{width} pixels only")
        above, below = 0, 0
        for edge in node.edges:
            assert isinstance(edge.where, Offsets)
            rows = [dy for dy, _ in edge.where.taps] or [0]
            above, below = max(above, found[edge.source][0] - min(rows)), max(below, found[edge.source][1] + max(rows))
        found.append((above, below))
    return found[-1]


def _not_local(node: IntegerNode, size: Size) -> str:
    """What fixes the size of the images; empty if nothing does."""
    if node.size != size:
        return f"is computed on a grid of {node.size[0]}x{node.size[1]} positions"
    if any(not isinstance(e.where, Offsets) or e.where.stride != (1, 1) or e.where.up != (1, 1) for e in node.edges):
        return "reads other positions than those at fixed offsets"
    if node.kind == "affine" and any(tuple(node.tensors[n].shape[1:]) != (1, 1) for n in ("multiplier", "constant")):
        return "has learned positions"
    return "" if node.kind in _LOCAL else f"is of the kind {node.kind!r}"


def of_size(nodes: Sequence[IntegerNode], size: Size) -> list[IntegerNode]:
    """A local network for images of another size."""
    return [replace(node, size=size) for node in nodes]


def spec_of_size(spec: ImageSpec, height: int, width: int) -> ImageSpec:
    """Images of another size.

    Raises:
        UsageError: for less than one pixel, or too many.
    """
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise UsageError(
            f"images of {height}x{width} pixels: 1 to {MAX_PIXELS} pixels are possible; cut them into tiles"
        )
    return replace(spec, height=height, width=width)


class Windows:
    """The parallel pass of a local network over images of one size, in windows of rows.

    Args:
        nodes: the network, for any size.
        spec: shape and levels of the images.
        groups: channel groups of the head.
        dtype: float32 or float64.
    """

    def __init__(self, nodes: Sequence[IntegerNode], spec: ImageSpec, groups: int, dtype: torch.dtype) -> None:
        self.above, self.below = reach(nodes)
        around = self.above + self.below
        self.rows = min(spec.height, max(2 * around + 1, around + WINDOW // spec.width))
        window = replace(spec, height=self.rows)
        self.height = spec.height
        self.execution = Execution(of_size(nodes, (self.rows, spec.width)), window, groups, dtype)

    def __call__(self, levels: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their parameters [B, rows, W, outputs], from top to bottom, for levels uint8 [B, C, H, W]."""
        done = 0
        while done < self.height:
            start = min(max(0, done - self.above), self.height - self.rows)
            end = self.height if start + self.rows == self.height else start + self.rows - self.below
            logits = self.execution.logits(levels[:, :, start : start + self.rows])
            yield slice(done, end), logits[:, done - start : end - start]
            done = end
