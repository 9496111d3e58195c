"""When can each feature of each pixel be computed? The schedule of a network, derived from what its layers read.

A feature is ready when all that it reads is, and a pixel is known one step after its distribution is:

    ready(node, p)  = max over reads q of ready(input, q)
    ready(pixel, p) = ready(output, p) + 1,    0 where the pixel is known from the start

Features that are ready at the same step form a wavefront and are computed together. A stack of 7x7 masked convolutions
on a 28x28 image has ready(y, x) = x + 4 y: 136 steps instead of 784.

The equations have a solution only if no pixel needs itself or its future. So the same reads prove causality: carrying
forward the raster index of the latest pixel that each feature depends on shows which layer, if any, looks too far.
Carried backward from one output they give its receptive field.

Features that read differently, such as the groups of a network with ordered channels, are ready at different times.
They are told apart as *classes*: features of one node that read the same classes of its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pixelloom.core.errors import ModelError
from pixelloom.core.types import Conditioning, ImageSpec
from pixelloom.layers.reads import Closure, Marks, Positions, Values
from pixelloom.sampling.fast.ir import Join, Node, Recurrence
from pixelloom.sampling.fast.passes import folded, ordered_apart
from pixelloom.sampling.fast.trace import trace

NEVER = -1


class NotAutoregressiveError(ModelError):
    """A pixel's distribution depends on the pixel itself or on a later one."""


@dataclass(frozen=True)
class _Source:
    """A class reads these classes of a node."""

    node: int
    where: Positions
    classes: tuple[int, ...]


class Dataflow:
    """What depends on what, in a network for images of some shape.

    Args:
        network: maps [B, C, H, W] to [B, outputs, H, W].
        shape: (C, H, W).
        groups: C if the channels of a pixel are ordered, each seeing those before it: then the outputs are C equal
            contiguous parts, one a channel. 1 if a position of the output predicts its whole pixel.
        conditioning: further arguments of the network's forward, for one image; only names and shapes count.

    Raises:
        ModelError: if a layer does not say what it reads.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, int, int],
        groups: int = 1,
        conditioning: Conditioning | None = None,
    ) -> None:
        self.nodes = ordered_apart(folded(trace(network, shape, conditioning)))
        self.shape, self.groups = shape, groups
        output = self.nodes[-1]
        if output.size != shape[1:] or output.features % groups or (groups > 1 and groups != shape[0]):
            raise ModelError(
                f"{output.name}: the network gives {output.features} features on a {output.size[0]}x{output.size[1]} "
                f"grid, which does not fit images of {shape} in {groups} channel groups"
            )
        # The class of each feature of each node, and what each class reads.
        self.labels: list[npt.NDArray[np.int64]] = []
        self.sources: list[list[list[_Source]]] = []
        for node in self.nodes:
            labels, sources = self._classes(node)
            self.labels.append(labels)
            self.sources.append(sources)

    def _classes(self, node: Node) -> tuple[npt.NDArray[np.int64], list[list[_Source]]]:
        if not self.labels:  # the image: one class a channel
            return np.arange(self.shape[0]), [[] for _ in range(self.shape[0])]
        columns: list[npt.NDArray[np.bool_]] = []
        for edge in node.edges:
            of_input = self.labels[edge.source]
            member = of_input[:, None] == np.arange(of_input.max() + 1)
            if edge.features is None:
                columns.append(np.ones((node.features, member.shape[1]), bool))
            else:
                columns.append(edge.features.cpu().numpy() @ member)
        rows = np.concatenate(columns, axis=1) if columns else np.zeros((node.features, 0), bool)
        kinds, first, labels = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)  # classes in the order of their first feature
        place = np.argsort(order)
        sources = []
        for kind in kinds[order]:
            cuts = np.split(kind, np.cumsum([column.shape[1] for column in columns])[:-1])
            reads = zip(node.edges, cuts, strict=True) if columns else ()
            sources.append(
                [_Source(e.source, e.where, tuple(map(int, np.flatnonzero(cut)))) for e, cut in reads if cut.any()]
            )
        return place[labels.reshape(-1)], sources

    def forward(self, pixels: Values, nothing: int) -> list[Values]:
        """Carry whole numbers from the pixels [C, H, W] through the network: of all that it reads, each feature takes
        the largest. One array [classes, height, width] a node; ``nothing`` where nothing is read.
        """
        values = [pixels]
        known: dict[
            tuple[Positions, bytes, tuple[int, ...], tuple[int, int]], Values
        ] = {}  # layers alike give values alike
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
        """Carry marks from output classes [classes, H, W] back: what is read, directly or not, by a marked output."""
        marks = [np.zeros((len(kinds), *node.size), bool) for node, kinds in zip(self.nodes, self.sources, strict=True)]
        marks[-1] = outputs.copy()
        known: dict[tuple[Positions, bytes, tuple[int, ...], tuple[int, int]], Marks] = {}
        for number in range(len(self.nodes) - 1, 0, -1):
            operation = self.nodes[number].operation
            if isinstance(operation, Recurrence):  # its state here is made of its states before
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

    def predicting(self) -> list[list[int]]:
        """For each image channel the classes of the output that its distribution is read from."""
        labels = self.labels[-1].reshape(self.groups, -1)
        parts = [sorted(set(map(int, part))) for part in labels]
        return parts if self.groups > 1 else parts * self.shape[0]

    # Is it autoregressive?

    def check(self) -> None:
        """Prove that no pixel's distribution depends on the pixel itself or on a later one.

        Raises:
            NotAutoregressiveError: naming the first layer that looks too far, and the offset at which it does.
        """
        index = raster(self.shape, self.groups)
        latest = self.forward(index, NEVER)
        wrong = np.zeros(latest[-1].shape, bool)
        for channel, classes in enumerate(self.predicting()):
            for one in classes:
                wrong[one] |= latest[-1][one] >= index[channel]
        if not wrong.any():
            return
        raise NotAutoregressiveError(self._fault(wrong, latest, index))

    def _fault(self, wrong: Marks, latest: list[Values], index: Values) -> str:
        """Follow the latest pixel that a wrong output depends on, back to the layer that let it in.

        Going back from a wrong output, always to an input that knows the same latest pixel, the layer to name is the
        one whose input may know as much at its own position. What lies further back may be ahead of its position with
        good reason, to be shifted later.
        """
        kind, y, x = (int(i) for i in np.argwhere(wrong)[0])
        number, channel = len(self.nodes) - 1, self._channel_of(kind)
        reader, source, row, column, v, u = 0, 0, y, x, y, x
        while number:
            place = number, y, x
            number, kind, y, x = self._input_with(number, kind, y, x, latest)
            if not reader or not isinstance(self.nodes[place[0]].operation, Join):  # which only hands on
                (reader, row, column), source, v, u = place, number, y, x
            if not self._knows_too_much(number, kind, y, x, latest[number], index[channel]):
                break
        node, read = self.nodes[reader], self.nodes[source]
        same = node.size == read.size
        where = f"at offset ({v - row:+d}, {u - column:+d})" if same else f"at position ({v}, {u}) of another grid"
        blame = "its own pixel" if (v, u) == (row, column) or not same else "what comes later"
        return (
            f"{node.name}: reads {read.name} {where} (rows down, columns right), and so the distribution of a pixel "
            f"depends on {blame}: the network is not autoregressive. First seen at row {row}, column {column}"
        )

    def _channel_of(self, kind: int) -> int:
        return next(channel for channel, classes in enumerate(self.predicting()) if kind in classes)

    def _knows_too_much(self, number: int, kind: int, y: int, x: int, latest: Values, index: Values) -> bool:
        """Whether a feature depends on the pixel value that its position stands for or on a later one; on a coarser
        grid on the first of them.

        With ordered channels it is enough that some feature there may be read for this channel and knows all that it
        may: which of them was meant for which channel is written nowhere.
        """
        first = (p * -(-of // n) for p, n, of in zip((y, x), self.nodes[number].size, self.shape[1:], strict=True))
        own = int(index[tuple(min(p, of - 1) for p, of in zip(first, self.shape[1:], strict=True))])
        if self.groups == 1:
            return bool(latest[kind, y, x] >= own)
        before = latest[:, y, x][latest[:, y, x] < own]
        return not (len(before) and (own % self.groups == 0 or before.max() == own - 1))

    def _input_with(self, number: int, kind: int, y: int, x: int, latest: list[Values]) -> tuple[int, int, int, int]:
        """(node, class, row, column) of an input that depends on the same latest pixel."""
        aim = latest[number][kind, y, x]
        for read in self.sources[number][kind]:
            height, width = self.nodes[read.node].size
            for v, u in read.where.of((y, x), (height, width)):
                if 0 <= v < height and 0 <= u < width:
                    for one in read.classes:
                        if latest[read.node][one, v, u] == aim:
                            return read.node, one, v, u
        raise AssertionError("a value without an origin")


def raster(shape: tuple[int, int, int], groups: int) -> Values:
    """When each pixel value comes in raster order, [C, H, W]; the channels of a pixel together, unless ordered."""
    channels, height, width = shape
    pixel = np.arange(height * width, dtype=np.int64).reshape(1, height, width).repeat(channels, 0)
    return pixel if groups == 1 else pixel * channels + np.arange(channels)[:, None, None]


@dataclass(frozen=True)
class Schedule:
    """When each class of each node is computed at each position.

    Attributes:
        flow: the network.
        ready: one array [classes, height, width] a node: the step, or -1 where the value is not needed. For the image
            (node 0) the first step at which the pixel may be read, -1 where it was known.
        steps: how many there are.
    """

    flow: Dataflow
    ready: list[Values]
    steps: int


def schedule(flow: Dataflow, known: Marks | None = None) -> Schedule:
    """The earliest step for everything that is needed to draw the pixels that are not known, [C, H, W].

    Raises:
        NotAutoregressiveError: if there is no schedule in raster order.
    """
    flow.check()
    known = np.zeros(flow.shape, bool) if known is None else known
    ready = _solve(flow, known)
    drawn = np.zeros_like(ready[-1], dtype=bool)
    for channel, classes in enumerate(flow.predicting()):
        drawn[classes] |= ~known[channel]
    needed = flow.backward(drawn)
    needed[0] = ~known
    steps = 1 + max((int(r[n].max()) for r, n in zip(ready[1:], needed[1:], strict=True) if n.any()), default=-1)
    return Schedule(flow, [np.where(n, r, NEVER) for r, n in zip(ready, needed, strict=True)], steps)


def _solve(flow: Dataflow, known: Marks) -> list[Values]:
    """The times at which everything is ready: iterated until they no longer change.

    Every value depends on earlier ones only, so there is exactly one solution, whatever the iteration starts from, and
    a pixel is solved once it and all before it stand still. What comes after is guessed by going on as the solved ones
    do. That is nearly always right, and saves most of the iterations, of which there would be one a step; after a
    guess that did not help, the next one waits twice as long.
    """
    pixels = np.zeros(flow.shape, np.int64)
    solved, wait, rest = 0, 1, 1
    while True:
        ready = flow.forward(pixels, 0)
        after = np.stack([ready[-1][classes].max(0) for classes in flow.predicting()]) + 1
        after[known] = 0
        moving = np.flatnonzero((after != pixels).any(axis=0))
        if not len(moving):
            return ready
        pixels, before, solved = after, solved, int(moving[0])
        rest -= 1
        if rest <= 0:
            wait = 1 if solved > before + 8 else 2 * wait
            rest = wait
            _guess(pixels, *divmod(solved, flow.shape[2]))
            pixels[known] = 0


def _guess(times: Values, row: int, column: int) -> None:
    """Go on from the rows above ``row`` and the columns before ``column`` in it, at the pace of the last few."""
    period = _period(column)
    for x in range(column, times.shape[2]) if period else ():
        times[:, row, x] = 2 * times[:, row, x - period] - times[:, row, x - 2 * period]
    period = _period(row + 1)
    for y in range(row + 1, times.shape[1]) if period else ():
        times[:, y] = 2 * times[:, y - period] - times[:, y - 2 * period]


def _period(solved: int) -> int:
    """The longest of some periods that the solved ones show twice: strided networks repeat every 2 or 4 positions."""
    return next((p for p in (4, 2, 1) if solved >= 2 * p), 0)


def receptive_field(network: nn.Module, spec: ImageSpec, position: tuple[int, int], groups: int = 1) -> Marks:
    """Which pixel values the distribution at a position depends on, bool [C, H, W]; with ordered channels, that of the
    last channel.

    Raises:
        ModelError: if a layer does not say what it reads.
        IndexError: if the position lies outside the image.
    """
    if not all(0 <= place < side for place, side in zip(position, spec.shape[1:], strict=True)):
        raise IndexError(f"position {position} lies outside an image of {spec.height}x{spec.width}")
    flow = Dataflow(network, spec.shape, groups)
    outputs = np.zeros((len(flow.sources[-1]), *spec.shape[1:]), bool)
    outputs[(flow.predicting()[-1], *([p] * len(flow.predicting()[-1]) for p in position))] = True
    return flow.backward(outputs)[0]


def assert_autoregressive(
    network: nn.Module, spec: ImageSpec, *, groups: int = 1, by: Sequence[str] = ("schedule", "gradient"), seed: int = 0
) -> None:
    """Check that no pixel's distribution depends on the pixel itself or on a later one, for a network of any origin.

    Args:
        network: maps [B, C, H, W] to [B, outputs, H, W].
        spec: the images.
        groups: C when the channels of a pixel are ordered and the outputs are C equal contiguous parts, else 1.
        by: "schedule" follows what the layers say they read: a proof, if they say the truth. "gradient" differentiates
            the network itself at a random image: it finds what is really read, as far as weights and activations let
            it through.
        seed: of that image.

    Raises:
        NotAutoregressiveError: naming the layer and offset at fault, or the output and pixel.
        ModelError: if a layer does not say what it reads.
        ValueError: for another way to check, or none.
    """
    ways = {by} if isinstance(by, str) else set(by)
    if not ways or not ways <= {"schedule", "gradient"}:
        raise ValueError(f"by takes 'schedule', 'gradient' or both, not {by!r}")
    if "schedule" in ways:
        Dataflow(network, spec.shape, groups).check()
    if "gradient" in ways:
        _check_gradient(network, spec, groups, seed)


def _check_gradient(network: nn.Module, spec: ImageSpec, groups: int, seed: int) -> None:
    """Row i of the batch is asked for the gradient of output i alone, so one backward pass tells all that it reads."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    first = next(network.parameters())
    image = torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed)).to(first)
    index = torch.from_numpy(raster(spec.shape, groups))
    try:
        for row in range(spec.height):
            x = image.expand(groups * spec.width, *spec.shape).clone().requires_grad_()
            params = network(x).unflatten(1, (groups, -1)).abs().sum(2)[:, :, row]  # [groups * W, groups, W]
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
    finally:
        for module in training:
            module.training = True
