"""Dataflow analysis: from what layers read to the schedule, the proof of causality, and receptive fields.

Input: the nodes of a network. All results solve equations on the graph of (node, feature, position).

*Schedule.* A feature is ready when all its reads are, and a pixel is drawn when its parameters are ready:

    ready(node, p)  = max over reads q of ready(input, q)
    ready(pixel, p) = ready(output, p) + 1,    0 where the pixel is known from the start

Example: a stack of 7x7 masked convolutions on 28x28 pixels. Through the first layer, output (y, x) reads pixels up to
(y, x - 1) in its own row and up to (y - 1, x + 3) in the row above, hence

    ready(y, x) = max(ready(y, x - 1), ready(y - 1, x + 3)) + 1 = x + 4 y

for outputs, and the last pixel is drawn at step 27 + 4 * 27 = 135: 136 steps instead of 784.

*Causality.* The equations have a solution only if no pixel needs itself or a later one. Let latest(node, p) be the
largest raster index among the pixels that a feature depends on, by the same recurrence on reads. The network is
autoregressive if and only if latest(output, p) < index(p) at every p.

*Receptive field.* Marks are carried backward from one output: an input is marked if a marked feature reads it.

*Classes.* Features of a node that read the same classes of its inputs have equal solutions, so the equations are solved
per class: one for most nodes, three where R, G and B are ordered channels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from pixelloom.core.errors import ModelError
from pixelloom.core.types import Conditioning, ImageSpec
from pixelloom.layers.reads import Closure, Marks, Positions, Values
from pixelloom.sampling.fast.causality import (
    NotAutoregressiveError,
    check_gradient,
    check_gradients,
    diagnose,
    gradient_field,
    raster_index,
)
from pixelloom.sampling.fast.ir import Node, Recurrence
from pixelloom.sampling.fast.passes import fold_affine, split_ordered_kernels
from pixelloom.sampling.fast.trace import trace

NEVER = -1
_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class Source:
    """A read of some classes of a node at some positions."""

    node: int
    where: Positions
    classes: tuple[int, ...]


class Dataflow:
    """The dependencies of a network for images of one shape.

    Args:
        network: maps [B, C, H, W] to [B, outputs, H, W]; or its nodes, traced and folded.
        shape: (C, H, W).
        groups: C if the channels of a pixel are ordered, each conditioned on those before it: the outputs are then C
            contiguous blocks of equal size, one per channel. 1 if all outputs predict the whole pixel.
        conditioning: further arguments of the network's forward, for one image; only names and shapes are used.

    Attributes:
        nodes: the network after all passes.
        labels: per node, the class of each feature, int64 [features].
        sources: per node and class, the reads.

    Raises:
        ModelError: if a layer does not declare its reads.
    """

    def __init__(
        self,
        network: nn.Module | Sequence[Node],
        shape: tuple[int, int, int],
        groups: int = 1,
        conditioning: Conditioning | None = None,
    ) -> None:
        traced = fold_affine(trace(network, shape, conditioning)) if isinstance(network, nn.Module) else list(network)
        self.nodes = split_ordered_kernels(traced)
        self.shape, self.groups = shape, groups
        output = self.nodes[-1]
        if output.size != shape[1:] or output.features % groups or (groups > 1 and groups != shape[0]):
            raise ModelError(
                f"{output.name}: the network gives {output.features} features on a {output.size[0]}x{output.size[1]} "
                f"grid, which does not fit images of {shape} in {groups} channel groups"
            )
        self.labels: list[npt.NDArray[np.int64]] = []
        self.sources: list[list[list[Source]]] = []
        for node in self.nodes:
            labels, sources = self._classes(node)
            self.labels.append(labels)
            self.sources.append(sources)

    def _classes(self, node: Node) -> tuple[npt.NDArray[np.int64], list[list[Source]]]:
        """Partition the features of a node: labels and reads of its classes.

        Row f of a 0/1 matrix says which classes of which inputs feature f reads; equal rows form a class.
        """
        if not self.labels:  # the image: one class per channel
            return np.arange(self.shape[0]), [[] for _ in range(self.shape[0])]
        columns: list[npt.NDArray[np.bool_]] = []
        for edge in node.edges:
            of_input = self.labels[edge.source]
            member = of_input[:, None] == np.arange(of_input.max() + 1)  # [in, classes]
            if edge.features is None:
                columns.append(np.ones((node.features, member.shape[1]), bool))
            else:
                columns.append(edge.features.cpu().numpy() @ member)  # [out, in] @ [in, classes]
        rows = np.concatenate(columns, axis=1) if columns else np.zeros((node.features, 0), bool)
        kinds, first, labels = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)  # classes in the order of their first feature
        place = np.argsort(order)
        sources = []
        for kind in kinds[order]:
            cuts = np.split(kind, np.cumsum([column.shape[1] for column in columns])[:-1])
            reads = zip(node.edges, cuts, strict=True) if columns else ()
            sources.append(
                [Source(e.source, e.where, tuple(map(int, np.flatnonzero(cut)))) for e, cut in reads if cut.any()]
            )
        return place[labels.reshape(-1)], sources

    def forward(self, pixels: Values, nothing: int) -> list[Values]:
        """Propagate integers from the pixels [C, H, W] forward: each feature takes the maximum of its reads.

        Returns:
            One array [classes, height, width] per node, ``nothing`` where nothing is read.
        """
        values = [pixels]
        # Equal layers on equal values give equal values, as in a stack of equal blocks.
        known: dict[tuple[Positions, bytes, tuple[int, ...], tuple[int, int]], Values] = {}
        for node, sources in zip(self.nodes[1:], self.sources[1:], strict=True):
            out = np.full((len(sources), *node.size), nothing, np.int64)
            for kind, reads in enumerate(sources):
                for read in reads:
                    for one in read.classes:
                        plane = values[read.node][one]
                        key = (read.where, plane.tobytes(), plane.shape, node.size)
                        if key not in known:
                            known[key] = read.where.latest(plane, node.size, nothing)
                        np.maximum(out[kind], known[key], out=out[kind])
            values.append(out)
        return values

    def backward(self, outputs: Marks) -> list[Marks]:
        """Propagate marks from the output [classes, H, W] back to all that it reads, directly or indirectly."""
        marks = [np.zeros((len(kinds), *node.size), bool) for node, kinds in zip(self.nodes, self.sources, strict=True)]
        marks[-1] = outputs.copy()
        known: dict[tuple[Positions, bytes, tuple[int, ...], tuple[int, int]], Marks] = {}
        for number in range(len(self.nodes) - 1, 0, -1):
            operation = self.nodes[number].operation
            if isinstance(operation, Recurrence):  # a state depends on the states that it carries
                marks[number] = Closure(operation.carried).back(marks[number], self.nodes[number].size)
            for plane, reads in zip(marks[number], self.sources[number], strict=True):
                if not plane.any():
                    continue
                for read in reads:
                    size = self.nodes[read.node].size
                    key = (read.where, plane.tobytes(), plane.shape, size)
                    if key not in known:
                        known[key] = read.where.back(plane, size)
                    for one in read.classes:
                        marks[read.node][one] |= known[key]
        return marks

    def output_classes(self) -> list[list[int]]:
        """For each image channel, the classes of the output that parametrize its distribution."""
        labels = self.labels[-1].reshape(self.groups, -1)  # [outputs] -> [groups, outputs / groups]
        classes = [sorted(set(map(int, block))) for block in labels]
        return classes if self.groups > 1 else classes * self.shape[0]

    # Causality

    def check(self) -> None:
        """Prove that no pixel's distribution depends on the pixel itself or on a later one.

        Raises:
            NotAutoregressiveError: naming the layer at fault, and the offset that it must not read.
        """
        index = raster_index(self.shape, self.groups)
        latest = self.forward(index, NEVER)
        wrong = np.zeros(latest[-1].shape, bool)
        for channel, classes in enumerate(self.output_classes()):
            for one in classes:
                wrong[one] |= latest[-1][one] >= index[channel]
        if not wrong.any():
            return
        raise NotAutoregressiveError(diagnose(self, wrong, latest, index))


@dataclass(frozen=True)
class Schedule:
    """The step at which each class of each node is computed at each position.

    Attributes:
        flow: the network.
        ready: per node the steps [classes, height, width], -1 where the value is not needed. For the image (node 0),
            the first step at which a pixel may be read, -1 where it is known from the start.
        steps: number of steps.
    """

    flow: Dataflow
    ready: list[Values]
    steps: int


def schedule(flow: Dataflow, known: Marks | None = None) -> Schedule:
    """The earliest schedule of all values that are needed to draw the unknown pixels.

    Args:
        flow: the network.
        known: pixel values that are known from the start, bool [C, H, W].

    Raises:
        NotAutoregressiveError: if the network is not autoregressive in raster order.
    """
    flow.check()
    known = np.zeros(flow.shape, bool) if known is None else known
    ready = _solve(flow, known)
    drawn = np.zeros_like(ready[-1], dtype=bool)
    for channel, classes in enumerate(flow.output_classes()):
        drawn[classes] |= ~known[channel]
    needed = flow.backward(drawn)
    needed[0] = ~known
    steps = 1 + max((int(r[n].max()) for r, n in zip(ready[1:], needed[1:], strict=True) if n.any()), default=-1)
    return Schedule(flow, [np.where(n, r, NEVER) for r, n in zip(ready, needed, strict=True)], steps)


def _solve(flow: Dataflow, known: Marks) -> list[Values]:
    """Solve the recurrence of ``ready`` by fixed-point iteration.

    Every value depends on earlier ones only. So the fixed point is unique, from any start, and a pixel is solved once
    it and all pixels before it did not change. Plain iteration would take one pass per step. Extrapolation from the
    solved pixels to those after them is nearly always right and saves most passes; if it did not help, the wait until
    the next one doubles.
    """
    pixels = np.zeros(flow.shape, np.int64)
    solved, wait, rest = 0, 1, 1
    while True:
        ready = flow.forward(pixels, 0)
        after = np.stack([ready[-1][classes].max(0) for classes in flow.output_classes()]) + 1
        after[known] = 0
        moving = np.flatnonzero((after != pixels).any(axis=0))
        if not len(moving):
            return ready
        pixels, before, solved = after, solved, int(moving[0])
        rest -= 1
        if rest <= 0:
            wait = 1 if solved > before + 8 else 2 * wait
            rest = wait
            _extrapolate(pixels, *divmod(solved, flow.shape[2]))
            pixels[known] = 0


def _extrapolate(times: Values, row: int, column: int) -> None:
    """Extrapolate linearly from the rows above ``row``, and in it from the columns before ``column``."""
    period = _period(column)
    for x in range(column, times.shape[2]) if period else ():
        times[:, row, x] = 2 * times[:, row, x - period] - times[:, row, x - 2 * period]
    period = _period(row + 1)
    for y in range(row + 1, times.shape[1]) if period else ():
        times[:, y] = 2 * times[:, y - period] - times[:, y - 2 * period]


def _period(solved: int) -> int:
    """The longest period that the solved positions contain twice: strided networks repeat every 2 or 4 positions."""
    return next((p for p in (4, 2, 1) if solved >= 2 * p), 0)


def receptive_field(network: nn.Module, spec: ImageSpec, position: tuple[int, int], groups: int = 1) -> Marks:
    """The pixel values that the distribution at a position depends on; with ordered channels, that of the last one.

    Args:
        network: maps [B, C, H, W] to [B, outputs, H, W].
        spec: shape of the images.
        position: (row, column).
        groups: as for :class:`Dataflow`.

    If the reads of a layer are unknown, the gradient at two random images decides, and a warning says so.

    Returns:
        bool [C, H, W]

    Raises:
        ModelError: if the output does not fit the images.
        IndexError: if the position lies outside the image.
    """
    if not all(0 <= place < side for place, side in zip(position, spec.shape[1:], strict=True)):
        raise IndexError(f"position {position} lies outside an image of {spec.height}x{spec.width}")
    try:
        flow = Dataflow(network, spec.shape, groups)
    except ModelError as error:
        found = gradient_field(network, spec, position, groups)
        _log.warning("receptive field by gradient, since the layers cannot be read: %s", error)
        return found
    outputs = np.zeros((len(flow.sources[-1]), *spec.shape[1:]), bool)
    outputs[(flow.output_classes()[-1], *([p] * len(flow.output_classes()[-1]) for p in position))] = True
    return flow.backward(outputs)[0]


def assert_autoregressive(
    network: nn.Module, spec: ImageSpec, *, groups: int = 1, by: Sequence[str] = ("schedule", "gradient"), seed: int = 0
) -> tuple[str, ...]:
    """Check that no pixel's distribution depends on the pixel itself or on a later one, for any network.

    Args:
        network: maps [B, C, H, W] to [B, outputs, H, W].
        spec: shape of the images.
        groups: as for :class:`Dataflow`.
        by: "schedule" analyzes what layers read, as they declare it or as it is observed (masked convolutions of any
            origin): a proof, if the declarations are true. "gradient" differentiates the network at a random image: it
            finds actual dependencies, unless a weight or an activation is zero there. With both, gradients alone decide
            if the reads of a layer are unknown, also those of a copy with other weights; a warning says so.
        seed: of that image.

    Returns:
        The checks that were made, of ("schedule", "gradient").

    Raises:
        NotAutoregressiveError: naming the layer and offset at fault, or the output and pixel.
        ModelError: by "schedule" alone, if the reads of a layer are unknown; if the output does not fit the images.
        ValueError: for an unknown check, or none.
    """
    ways = {by} if isinstance(by, str) else set(by)
    if not ways or not ways <= {"schedule", "gradient"}:
        raise ValueError(f"by takes 'schedule', 'gradient' or both, not {by!r}")
    if "schedule" in ways:
        try:
            Dataflow(network, spec.shape, groups).check()
        except NotAutoregressiveError:
            raise
        except ModelError as error:
            if "gradient" not in ways:
                raise
            check_gradients(network, spec, groups, seed)
            _log.warning("checked by gradient alone, since the layers cannot be read: %s", error)
            return ("gradient",)
    if "gradient" in ways:
        check_gradient(network, spec, groups, seed)
    return tuple(way for way in ("schedule", "gradient") if way in ways)
