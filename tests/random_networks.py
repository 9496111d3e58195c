"""Random causal networks, the same with one layer that reads ahead, and what they read.

Strategies for hypothesis draw a :class:`Case`. Its layers mix positions in every way that reads can be declared: by
kernels and by ``at``, to a coarser grid and back, along the row, over all that came before, of one input and of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from pixelloom.layers.blocks import ChannelNorm, Positions
from pixelloom.layers.masked_conv import Mask, MaskedConv2d, center_mask
from pixelloom.layers.reads import HERE, Closure, Earlier, Kernel, Offsets, OwnRow, Position, Read, Size, box
from pixelloom.sampling.fast.ir import Node
from settings import live

Bools: TypeAlias = npt.NDArray[np.bool_]
Built: TypeAlias = tuple[nn.Module, int]
"""A block and the number of its output features."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network in evaluation mode, float64, for images of a shape; ``wrong`` names the layer that reads ahead."""

    network: nn.Module
    shape: tuple[int, int, int]
    groups: int
    wrong: str | None = None


# Layers that declare what they read


class Shift(nn.Module):
    """out[y, x] = in[y - down, x - right]"""

    def __init__(self, features: int, down: int, right: int) -> None:
        super().__init__()
        self.features, self.down, self.right = features, down, right

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        height, width = x.shape[2:]
        for y, u in np.ndindex(height, width):
            if 0 <= y - self.down < height and 0 <= u - self.right < width:
                out[:, :, y, u] = x[:, :, y - self.down, u - self.right]
        return out

    def reads(self) -> tuple[Read, ...]:
        return (Read(Offsets(((-self.down, -self.right),)), "same"),)


class Window(nn.Module):
    """A convolution over the taps of a box (top, bottom, left, right); ``here`` masks the features read at (0, 0)."""

    mask: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        sides: tuple[int, int, int, int],
        stride: Position = (1, 1),
        here: Tensor | None = None,
    ) -> None:
        super().__init__()
        top, bottom, left, right = self.sides = sides
        self.stride, self.here = stride, here
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, bottom - top + 1, right - left + 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        mask = torch.ones_like(self.weight)
        if here is not None:
            mask[:, :, -top, -left] = here.float()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom, left, right = self.sides
        return F.conv2d(F.pad(x, (-left, right, -top, bottom)), self.weight * self.mask, self.bias, self.stride)

    def reads(self) -> tuple[Read, ...]:
        taps = box(*self.sides)
        if self.here is None:
            return (Read(Offsets(taps, self.stride)),)
        others = tuple(tap for tap in taps if tap != (0, 0))
        return Read(Offsets(others, self.stride)), Read(Offsets(((0, 0),), self.stride), self.here)

    def kernel(self) -> Kernel:
        weight = (self.weight * self.mask).permute(2, 3, 1, 0).flatten(0, 1)
        return Kernel(box(*self.sides), weight, self.bias, self.stride)


class Up(nn.Module):
    """Nearest neighbor, out[p] = in[floor(p / factor) + ahead], cut to a size."""

    def __init__(self, features: int, factor: Position, size: Size, ahead: Position = (0, 0)) -> None:
        super().__init__()
        self.features, self.factor, self.size, self.ahead = features, factor, size, ahead

    def forward(self, x: Tensor) -> Tensor:
        (down, right), (height, width) = self.ahead, self.size
        x = F.pad(x, (0, right, 0, down))[:, :, down:, right:]
        return x.repeat_interleave(self.factor[0], 2).repeat_interleave(self.factor[1], 3)[:, :, :height, :width]

    def reads(self) -> tuple[Read, ...]:
        return (Read(Offsets((self.ahead,), up=self.factor), "same"),)


class Mean(nn.Module):
    """The mean of what came before, in the row or in the whole image; with ``itself`` of the position too."""

    def __init__(self, features: int, where: Earlier | OwnRow) -> None:
        super().__init__()
        self.features, self.where = features, where

    def forward(self, x: Tensor) -> Tensor:
        lines = x.flatten(2) if isinstance(self.where, Earlier) else x
        total = lines.cumsum(-1) - (0 if self.where.own else lines)
        count = torch.arange(lines.shape[-1]).to(x) + self.where.own
        return (total / count.clamp(min=1)).view(x.shape)

    def reads(self) -> tuple[Read, ...]:
        same = torch.eye(self.features, dtype=torch.bool)  # "same", written as a matrix
        return (Read(self.where, same),)

    def at(self, x: Tensor, present: Tensor) -> Tensor:
        return (x * present[..., None]).sum(1) / present.sum(1, keepdim=True).clamp(min=1)


class Attention(nn.Module):
    """Two inputs: out[p] = query[p] + sum over the earlier q of sigmoid(query[p] value[q]) value[q]."""

    def __init__(self, features: int, where: Earlier) -> None:
        super().__init__()
        self.features, self.where = features, where

    def forward(self, query: Tensor, value: Tensor) -> Tensor:
        keys = value.flatten(2)[:, :, None]
        places = torch.arange(keys.shape[-1])
        earlier = places < places[:, None] + self.where.own
        queries = query.flatten(2)[..., None]
        return query + ((queries * keys).sigmoid() * keys * earlier).sum(-1).view(value.shape)

    def reads(self) -> tuple[Read, ...]:
        return Read(HERE, "same"), Read(self.where, "same", input=1)

    def at(self, query: Tensor, value: Tensor, present: Tensor) -> Tensor:
        return query[:, 0] + ((query * value).sigmoid() * value * present[..., None]).sum(1)


class Product(nn.Module):
    """Two inputs at the same position: a sigmoid(b) + b, which depends on b where a is nothing too."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b.sigmoid() + b

    def reads(self) -> tuple[Read, ...]:
        return Read(HERE, "same", input=0), Read(HERE, "same", input=1)


class Recurrent(nn.Module):
    """A state at each position: tanh of what is here and of the states at some offsets. It mixes all features."""

    def __init__(self, features: int, carried: tuple[Position, ...]) -> None:
        super().__init__()
        self.features, self.carried = features, carried
        self.enter = nn.Parameter(torch.zeros(features, features))
        self.carry = nn.Parameter(torch.zeros(len(carried), features, features))

    def step(self, x: Tensor, *states: Tensor) -> Tensor:
        return torch.tanh(x @ self.enter + sum(s @ weight for s, weight in zip(states, self.carry, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        states: dict[Position, Tensor] = {}
        for y, u in np.ndindex(*x.shape[2:]):
            before = [states.get((y + dy, u + dx), torch.zeros_like(x[:, :, 0, 0])) for dy, dx in self.carried]
            states[y, u] = self.step(x[:, :, y, u], *before)
        return torch.stack([*states.values()], dim=2).view(x.shape)

    def reads(self) -> tuple[Read, ...]:
        return (Read(Closure(self.carried)),)


class Attend(nn.Module):
    """Three inputs: out[p] = sum over the earlier q of sigmoid(query[p] . key[q]) value[q]."""

    def __init__(self, where: Earlier) -> None:
        super().__init__()
        self.where = where

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        weights = (q @ k.mT).sigmoid()
        if allowed is None:
            return weights @ v
        # What nobody may read yet may be anything, even no number.
        return weights.masked_fill(~allowed, 0) @ v.masked_fill(~allowed.any(0)[:, None], 0)

    def forward(self, *inputs: Tensor) -> Tensor:
        q, k, v = (x.flatten(2).mT for x in inputs)
        places = torch.arange(q.shape[1])
        out = self.attend(q, k, v, places < places[:, None] + self.where.own)
        return out.mT.view(inputs[0].shape)

    def reads(self) -> tuple[Read, ...]:
        return Read(HERE), Read(self.where, input=1), Read(self.where, input=2)


# Blocks with an ordinary forward


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Gate(nn.Module):
    def __init__(self, mix: nn.Module) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.mix(x).chunk(2, dim=1)
        return a * torch.sigmoid(b)


class Halves(nn.Module):
    """Two ranges of features on ways of their own, put together in the other order."""

    def __init__(self, sizes: list[int], left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.sizes, self.left, self.right = sizes, left, right

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, self.sizes, dim=1)
        return torch.cat((self.right(b), self.left(a)), dim=1)


class Coarse(nn.Module):
    """Fewer positions and back."""

    def __init__(self, down: nn.Module, before: nn.Module, body: nn.Module, after: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down, self.before, self.body, self.after, self.up = down, before, body, after, up

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.after(self.body(self.before(self.down(x)))))


class Fork(nn.Module):
    """Several ways into a layer of several inputs."""

    def __init__(self, join: nn.Module, *ways: nn.Module) -> None:
        super().__init__()
        self.join, self.ways = join, nn.ModuleList(ways)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.join(*[way(x) for way in self.ways])
        return out


class Network(nn.Module):
    """Pixels -> a mask A convolution, and perhaps a mean of the pixels before -> body -> parameters."""

    def __init__(
        self, first: nn.Module, pixels: nn.Module | None, lift: nn.Module, body: nn.Module, output: nn.Module
    ) -> None:
        super().__init__()
        self.first, self.pixels, self.lift, self.body, self.output = first, pixels, lift, body, output

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.pixels is not None:
            h = h + self.lift(self.pixels(x))
        return self.output(self.body(h))


# Strategies

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (nn.ELU, nn.SiLU, nn.Tanh, nn.GELU, nn.LeakyReLU, nn.Softplus)
CARRIED = (((0, -1),), ((-1, 0),), ((0, -1), (-1, 0)), ((-1, 1), (0, -1)), ((-1, -1), (-1, 1), (0, -2)))
FACTORS = ((2, 2), (1, 2), (2, 1), (3, 2))
FAULTS = ("mask", "conv", "right", "below", "up", "unshifted", "pixels", "order")


def _conv(rng: Random, inputs: int, outputs: int, groups: int, mask: Mask = "B", copies: int = 1) -> MaskedConv2d:
    side = rng.choice((1, 3, 5, 7))
    bias = rng.random() < 0.5
    return MaskedConv2d(inputs, copies * outputs, side, mask=mask, groups=groups, copies=copies, bias=bias)


def _width(rng: Random, groups: int) -> int:
    return rng.randint(groups, groups + 2)


def _block(rng: Random, f: int, groups: int, size: Size, depth: int) -> Built:
    """A causal block, for f features on a grid of some size."""
    kinds = ["conv", "relu", "gate", "activation", "norm", "positions", "shift", "mean", "fork", "attention"]
    if groups == 1:
        kinds += ["recurrent", "attend"]
    if depth:
        kinds += ["residual", "coarse", "coarse"] + ["halves"] * (groups == 1 and f > 1)
    kind = rng.choice(kinds)
    earlier, itself = rng.choice((Earlier, OwnRow)), rng.random() < 0.5
    if kind in ("conv", "relu"):
        conv = _conv(rng, f, g := _width(rng, groups), groups)
        return (conv if kind == "conv" else nn.Sequential(conv, nn.ReLU(inplace=True))), g
    if kind == "gate":
        return Gate(_conv(rng, f, g := _width(rng, groups), groups, copies=2)), g
    if kind == "halves":
        left, g = _body(rng, f // 2, 1, size, 0)
        right, h = _body(rng, f - f // 2, 1, size, 0)
        return Halves([f // 2, f - f // 2], left, right), g + h
    if kind == "residual":
        body, g = _body(rng, f, groups, size, depth - 1)
        return Residual(nn.Sequential(body, MaskedConv2d(g, f, 1, mask="B", groups=groups))), f
    if kind == "coarse":
        return _coarse(rng, f, groups, size, shift=True)
    if kind == "attention":
        ways = (MaskedConv2d(f, f, 1, mask="B", groups=groups) for _ in range(2))
        return Fork(Attention(f, Earlier(itself)), *ways), f
    if kind == "attend":
        return Fork(Attend(Earlier(itself)), *(MaskedConv2d(f, f, 1, mask="B") for _ in range(3))), f
    if kind == "recurrent":
        return Recurrent(f, rng.choice(CARRIED)), f
    if kind == "fork":  # a vertical stack, which sees all features of the rows above, and a horizontal one
        r = rng.randint(1, 2)
        return Fork(Product(f), _conv(rng, f, f, groups), Window(f, f, (-r, -1, -r, r))), f
    if kind == "shift":
        return Shift(f, *rng.choice(((0, 1), (1, 0), (1, -1), (2, 1)))), f
    if kind == "mean":
        return Mean(f, earlier(itself)), f
    if kind == "positions":
        return Positions(f, *size), f
    if kind == "norm":  # of a single feature nothing would be left
        return (ChannelNorm(f, groups) if f >= 2 * groups and itself else nn.BatchNorm2d(f)), f
    return rng.choice(ACTIVATIONS)(), f


def _body(rng: Random, f: int, groups: int, size: Size, depth: int, most: int = 2) -> Built:
    blocks: list[nn.Module] = []
    for _ in range(rng.randint(0, most)):
        block, f = _block(rng, f, groups, size, depth)
        blocks.append(block)
    return nn.Sequential(*blocks), f


def _coarse(rng: Random, f: int, groups: int, size: Size, shift: bool, ahead: Position = (0, 0)) -> Built:
    """Down and up. What looks at the first pixel of each block and before needs no shift; what looks at a whole block
    must move by one, down or (if a block is one row) right, before it is spread over that block.
    """
    factor = rng.choice(FACTORS[:3] if ahead != (0, 0) else FACTORS)
    grid = (-(-size[0] // factor[0]), -(-size[1] // factor[1]))
    whole = not shift or rng.random() < 0.5
    down = (
        Window(f, f, (0, factor[0] - 1, 0, factor[1] - 1), factor)
        if whole
        else Window(f, f, (-1, 0, -1, 0), factor, center_mask("B", f, f, groups))
    )
    body, g = _body(rng, f, groups, grid, 0)
    move = (1, 0) if factor[0] > 1 else (0, 1)
    first = rng.random() < 0.5
    before = Shift(f, *move) if whole and shift and first else nn.Identity()
    after = Shift(g, *move) if whole and shift and not first else nn.Identity()
    return Coarse(down, before, body, after, Up(g, factor, size, ahead)), g


def _fault(rng: Random, kind: str, f: int, groups: int, size: Size) -> tuple[nn.Module, int, str]:
    """A block that reads ahead, and the name of its layer that does."""
    if kind == "conv":
        return nn.Conv2d(f, f, 3, padding=1), f, ""
    if kind == "order":
        return nn.Conv2d(f, f, 1), f, ""
    if kind == "right":
        return Window(f, f, (0, 0, -1, 1)), f, ""
    if kind == "below":
        return Window(f, f, (-1, 1, 0, 0)), f, ""
    if kind == "unshifted":
        return *_coarse(rng, f, groups, size, shift=False), ".down"
    ahead = rng.choice(((0, 1), (1, 0)))
    return *_coarse(rng, f, groups, size, shift=True, ahead=ahead), ".up"


@st.composite
def _cases(draw: st.DrawFn, faults: Sequence[str], largest: int) -> Case:
    size = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    rng = Random(draw(st.integers(0, 2**32 - 1)))  # what hypothesis would choose itself repeats a few kinds of layers
    groups = rng.choice((1, 3))
    channels = groups if groups > 1 else rng.randint(1, 3)
    fault = rng.choice([f for f in faults if groups > 1 or f != "order"]) if faults else None
    f = _width(rng, groups)
    first = _conv(rng, channels, f, groups, mask="B" if fault == "mask" else "A")
    pixels = Mean(channels, Earlier(fault == "pixels")) if fault == "pixels" or rng.random() < 0.5 else None
    lift = MaskedConv2d(channels, f, 1, mask="B", groups=groups)
    wrong = {"mask": "first", "pixels": "pixels"}.get(fault or "")
    blocks: list[nn.Module] = []
    count = rng.randint(0, 4)
    place = rng.randint(0, count) if fault and wrong is None else None
    for i in range(count + 1):
        if i == place:
            block, f, inner = _fault(rng, fault or "", f, groups, size)
            blocks.append(block)
            wrong = f"body.{len(blocks) - 1}{inner}"
        if i < count:
            block, f = _block(rng, f, groups, size, 1)
            blocks.append(block)
    output = MaskedConv2d(f, channels * rng.randint(1, 2), 1, mask="B", groups=groups)
    network = Network(first, pixels, lift, nn.Sequential(*blocks), output)
    live(network, rng.randint(0, 3))
    return Case(network.double().eval(), (channels, *size), groups, wrong)


def causal(largest: int = 5) -> st.SearchStrategy[Case]:
    """Networks that are autoregressive, for images of 1x1 up to a largest side."""
    return _cases((), largest)


def too_far(largest: int = 5) -> st.SearchStrategy[Case]:
    """The same with one layer that may read ahead. Whether it does depends on the size of the image, on what the
    features know that it reads, and on the layers after it: ask :func:`knowledge`.
    """
    return _cases(FAULTS, largest)


# What networks read, by enumeration


def reads_of(nodes: Sequence[Node], number: int, position: Position) -> list[tuple[int, Tensor | None, Position]]:
    """(node, features, position) of all that a node reads for one position."""
    found = []
    for edge in nodes[number].edges:
        height, width = nodes[edge.source].size
        for y, x in edge.where.of(position, (height, width)):
            if 0 <= y < height and 0 <= x < width:
                found.append((edge.source, edge.features, (y, x)))
    return found


def knowledge(nodes: Sequence[Node]) -> list[Bools]:
    """Which pixel values each feature at each position depends on: bool [features, H, W, values] for each node."""
    (height, width), channels = nodes[0].size, nodes[0].features
    dims = channels * height * width
    known = [np.eye(dims, dtype=bool).reshape(channels, height, width, dims)]
    for number, node in enumerate(nodes[1:], start=1):
        for edge in node.edges:
            assert edge.features is None or edge.features.shape == (node.features, nodes[edge.source].features)
        out = np.zeros((node.features, *node.size, dims), bool)
        for y, x in np.ndindex(*node.size):
            for source, features, (v, u) in reads_of(nodes, number, (y, x)):
                read = known[source][:, v, u]
                out[:, y, x] |= read.any(0) if features is None else features.numpy() @ read
        known.append(out)
    return known


def order(shape: tuple[int, int, int], groups: int) -> npt.NDArray[np.int64]:
    """When each pixel value comes, [C, H, W]: equal for the channels of a pixel, unless they are ordered."""
    when = np.zeros(shape, np.int64)
    for c, y, x in np.ndindex(*shape):
        when[c, y, x] = (y * shape[2] + x) * groups + (c if groups > 1 else 0)
    return when


def outputs_of(nodes: Sequence[Node], groups: int, channel: int) -> range:
    """The output features that the distribution of a channel is read from."""
    share = nodes[-1].features // groups
    return range(channel * share, (channel + 1) * share) if groups > 1 else range(share)


def leaks(nodes: Sequence[Node], groups: int) -> bool:
    """Whether some pixel value's distribution depends on the value itself or a later one."""
    shape = (nodes[0].features, *nodes[0].size)
    when, known = order(shape, groups), knowledge(nodes)[-1]
    return any(
        (known[outputs_of(nodes, groups, c), y, x].any(0) & (when.reshape(-1) >= when[c, y, x])).any()
        for c, y, x in np.ndindex(*shape)
    )


def sensitivity(network: nn.Module, shape: tuple[int, int, int], seeds: int = 1) -> Bools:
    """Where the gradient is not zero, bool [outputs, H, W, values], at random images, for some of a few draws of the
    parameters.
    """
    found: Bools | None = None
    for seed in range(seeds):
        live(network, seed)
        image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            size = network(image).shape[1:]
        x = image.repeat(size.numel(), 1, 1, 1).requires_grad_()
        total = network(x).flatten(1).diagonal().sum() + 0 * x.sum()  # nothing may depend on the image at all
        (gradient,) = torch.autograd.grad(total, x)
        seen = (gradient != 0).numpy().reshape(*size, -1)
        found = seen if found is None else found | seen
    assert found is not None
    return found
