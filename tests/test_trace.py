"""Nodes of traced networks against the network itself and its gradients; what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor, nn

from pixelloom.core.errors import ModelError
from pixelloom.core.types import Conditioning
from pixelloom.layers.blocks import GatedBlock, ResidualBlock
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.reads import Earlier, Position, Read
from pixelloom.sampling.fast.ir import (
    Attention,
    Concat,
    Constants,
    Custom,
    Elementwise,
    Image,
    Linear,
    Node,
    Operand,
    Pointwise,
    Recurrence,
    Shift,
    Shuffle,
)
from pixelloom.sampling.fast.trace import trace
from profiles import examples
from random_networks import Attend, Case, Product, causal, knowledge, sensitivity
from settings import CONFIGS, Setting, live

SHAPE = (2, 4, 5)


# The oracle: the nodes computed one after the other over the whole grid, layers by plain loops


def evaluate(nodes: Sequence[Node], x: Tensor, conditioning: Conditioning | None = None) -> Tensor:
    """Interpret the nodes, [B, C, H, W] -> [B, outputs, H, W]."""
    values: list[Tensor] = []
    constants = Constants(conditioning)
    for node in nodes:
        inputs = [values[i] for i in node.inputs]
        before = [value.clone() for value in inputs]
        value = x if isinstance(node.operation, Image) else computed(node, inputs, constants)
        assert value.shape[1:] == (node.features, *node.size), node.name
        assert all(map(torch.equal, inputs, before)), f"{node.name} writes over what it reads"
        values.append(value)
    return values[-1]


def computed(node: Node, inputs: list[Tensor], constants: Constants) -> Tensor:
    match node.operation:
        case Elementwise(function, args, kwargs):

            def now(value: Any) -> Any:
                if isinstance(value, Operand):
                    return inputs[value.index]
                return constants.resolve(value)

            value: Tensor = function(*map(now, args), **{name: now(arg) for name, arg in kwargs.items()})
            return value
        case Concat(origin):
            return torch.stack([inputs[i][:, feature] for i, feature in origin], dim=1)
        case Pointwise(module):
            return module(*inputs)  # type: ignore[no-any-return]
        case Linear(kernel):
            return convolved(node, kernel(), inputs[0])
        case Custom(at):
            return gathered(node, inputs, at)
        case Shift(_):
            return gathered(node, inputs, lambda found, present: (found * present[..., None])[:, 0])
        case Shuffle(factor):
            return F.pixel_shuffle(inputs[0], factor)
        case Recurrence(step, carried):
            return recurrent(node, inputs[0], step, carried)
        case Attention(attend, itself):
            q, k, v = (x.flatten(2).mT for x in inputs)
            rows = [attend(q[:, i : i + 1], k[:, : i + itself], v[:, : i + itself], None) for i in range(q.shape[1])]
            return torch.cat(rows, dim=1).mT.view(len(q), -1, *node.size)
    raise AssertionError(node.operation)


def recurrent(node: Node, x: Tensor, step: Callable[..., Tensor], carried: Sequence[Position]) -> Tensor:
    states: dict[Position, Tensor] = {}
    nothing = x.new_zeros(len(x), node.features)
    for y, u in np.ndindex(*node.size):
        states[y, u] = step(x[:, :, y, u], *(states.get((y + dy, u + dx), nothing) for dy, dx in carried))
    return torch.stack([*states.values()], dim=2).view(len(x), -1, *node.size)


def convolved(node: Node, kernel: Any, x: Tensor) -> Tensor:
    out = x.new_zeros(len(x), node.features, *node.size)
    for y, u in np.ndindex(*node.size):
        for (dy, dx), weight in zip(kernel.taps, kernel.weight, strict=True):
            row, column = y * kernel.stride[0] + dy, u * kernel.stride[1] + dx
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                out[:, :, y, u] += x[:, :, row, column] @ weight
    return out if kernel.bias is None else out + kernel.bias[:, None, None]


def gathered(node: Node, inputs: list[Tensor], at: Callable[..., Tensor]) -> Tensor:
    """Position by position; ``present`` is that of the input that is read at the most positions, the last one."""
    out = inputs[0].new_zeros(len(inputs[0]), node.features, *node.size)
    for y, u in np.ndindex(*node.size):
        found, present = [], torch.empty(0)
        for number, source in enumerate(inputs):
            kinds = [edge.where for edge in node.edges if edge.input == number]
            read = [q for kind in kinds for q in kind.of((y, u), tuple(source.shape[2:]))]  # type: ignore[arg-type]
            inside = [0 <= v < source.shape[2] and 0 <= w < source.shape[3] for v, w in read]
            columns = [
                source[:, :, v, w] if here else torch.zeros_like(source[:, :, 0, 0])
                for (v, w), here in zip(read, inside, strict=True)
            ]
            found.append(torch.stack(columns, 1) if columns else source.new_zeros(len(source), 0, source.shape[1]))
            present = torch.tensor(inside, dtype=torch.bool).expand(len(source), -1)
        out[:, :, y, u] = at(*found, present)
    return out


def check(network: nn.Module, shape: tuple[int, int, int], seeds: int = 0) -> list[Node]:
    """The nodes compute what the network computes; with seeds, they read just what its gradients show."""
    live(network.double().eval(), 1)
    nodes = trace(network, shape)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(evaluate(nodes, x.clone()), network(x.clone()), rtol=1e-10, atol=1e-12)
    if seeds:
        np.testing.assert_array_equal(knowledge(nodes)[-1], sensitivity(network, shape, seeds))
    return nodes


@examples(60)
@given(causal())
def test_random_networks_are_traced_as_they_are(case: Case) -> None:
    check(case.network, case.shape)
    said, found = knowledge(trace(case.network, case.shape))[-1], sensitivity(case.network, case.shape, 3)
    assert not (found & ~said).any()
    kinds = {type(layer) for layer in case.network.modules()}
    if not kinds & {nn.ReLU, Attend}:  # what is switched off is not seen, nor a query that has nothing to attend to
        np.testing.assert_array_equal(found, said)


@pytest.mark.parametrize("setting", CONFIGS.values(), ids=CONFIGS)
def test_networks_of_the_table_are_traced_as_they_are(setting: Setting) -> None:
    check(setting.model().network, setting.image.shape)


# Forward passes that can be traced


class Forward(nn.Module):
    """Some function of the features of a first layer, with layers and constants of its own."""

    def __init__(self, function: Callable[[Any, Any], Any], **parts: Any) -> None:
        super().__init__()
        self.first = MaskedConv2d(2, 6, 3, mask="A")
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.first(x))


def product(parts: Any) -> Any:
    a, b = parts
    return a * b


def summed(parts: Any) -> Any:
    total = 0
    for part in parts:
        total = total + part
    return total


def turned(parts: Any) -> Any:
    a, b = parts
    return torch.cat((b, a, b), dim=1)


def in_place(_: Any, h: Any) -> Any:
    other = h * 2
    h += 1
    h *= other
    h -= other
    h /= 3
    return h + other


def in_place_is_seen_by_all(_: Any, h: Any) -> Any:
    same = h
    h += 1
    return same * h


def copied_before(_: Any, h: Any) -> Any:
    copy = h.clone()
    copy += 1
    return copy * h


def looped(n: Any, h: Any) -> Any:
    for layer in n.layers:
        h = h + layer(h)
    return h


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.linspace(0.5, 1.5, int(np.prod(shape))).view(shape))


def one(side: int = 1) -> nn.Module:
    return MaskedConv2d(6, 6, side, mask="B")


UNDERSTOOD: dict[str, tuple[Callable[[Any, Any], Any], dict[str, Any]]] = {
    "chunk": (lambda n, h: product(h.chunk(2, dim=1)), {}),
    "chunk by position": (lambda n, h: product(torch.chunk(h, 2, 1)), {}),
    "chunk by name": (lambda n, h: product(torch.chunk(input=h, chunks=2, dim=-3)), {}),
    "chunks in a loop": (lambda n, h: summed(h.chunk(3, 1)), {}),
    "chunks by number": (lambda n, h: torch.chunk(h, 4, 1)[1] - h.chunk(4, 1)[-1], {}),
    "chunks of uneven size": (lambda n, h: turned(h.chunk(2, 1)), {}),
    "split by size": (lambda n, h: product(h.split(3, 1)), {}),
    "split by size with a rest": (lambda n, h: turned(torch.split(h, 4, dim=1)), {}),
    "split by sizes": (lambda n, h: turned(h.split([1, 5], dim=1)), {}),
    "split by sizes in a loop": (lambda n, h: summed(torch.split(h, (2, 2, 2), 1)), {}),
    "split by name": (lambda n, h: turned(torch.split(h, split_size_or_sections=[4, 2], dim=1)), {}),
    "split by name of the method": (lambda n, h: product(h.split(split_size=3, dim=1)), {}),
    "a range": (lambda n, h: h[:, 1:4], {}),
    "ranges": (lambda n, h: h[:, :3] * h[:, -3:] + h[:, ::2], {}),
    "a range with all positions": (lambda n, h: h[:, 2:, :, :] + h[:, 1:][:, 1:], {}),
    "one feature for all": (lambda n, h: h[:, 5:6] * h, {}),
    "cat": (lambda n, h: torch.cat((h, -h), 1), {}),
    "cat by name": (lambda n, h: torch.cat(tensors=[h[:, 3:], h[:, :1]], dim=-3), {}),
    "cat by other names": (lambda n, h: torch.concat([torch.concatenate([h, h], 1), h[:, :1]], dim=1), {}),
    "cat of reversed chunks": (lambda n, h: torch.cat(h.chunk(3, 1)[::-1], dim=1), {}),
    "operators": (lambda n, h: -(1 - h) * 2 + h**2 / (3 + abs(h)) - 2 / (h.exp() + 1), {}),
    "operators in place": (in_place, {}),
    "what is written over": (in_place_is_seen_by_all, {}),
    "a copy is not": (copied_before, {}),
    "elu in place": (lambda n, h: F.elu(h, inplace=True) + h, {}),
    "silu in place": (lambda n, h: F.silu(h, True) + h, {}),
    "a module in place": (lambda n, h: n.relu(h) + h, {"relu": nn.ELU(inplace=True)}),
    "in place after a cat": (lambda n, h: n.relu(torch.cat((h, -h), 1)), {"relu": nn.ELU(inplace=True)}),
    "methods": (lambda n, h: h.tanh().mul(2).sub(h.sigmoid()).add(h, alpha=0.5).square().clamp(-9, 9), {}),
    "functions": (lambda n, h: torch.exp(F.gelu(h)) + torch.log1p(h * h) - torch.sqrt(1 + torch.square(h)), {}),
    "arguments": (lambda n, h: F.softplus(h, beta=2) + F.leaky_relu(h, 0.3) + F.elu(h, alpha=0.5), {}),
    "several inputs": (lambda n, h: torch.lerp(h, h.sin(), 0.3) + torch.addcmul(h, h, h.cos(), value=0.5), {}),
    "larger and smaller": (lambda n, h: torch.maximum(h, 1 - h) + torch.clamp(torch.minimum(h, h * h), min=-0.1), {}),
    "a choice": (lambda n, h: torch.where(n.mask, h, -2 * h), {"mask": torch.arange(20).view(4, 5) % 3 == 0}),
    "dropout": (lambda n, h: F.dropout(n.two(n.drop(h)), 0.5, training=n.training), {
        "drop": nn.Dropout(0.5), "two": nn.Dropout2d(0.5)}),
    "nothing": (lambda n, h: n.identity(h.contiguous()), {"identity": nn.Identity()}),
    "nested": (lambda n, h: n.body(h), {
        "body": nn.Sequential(nn.Sequential(one(3), nn.Tanh()), nn.Conv2d(6, 4, 1), nn.Mish())}),
    "a list of layers": (looped, {"layers": nn.ModuleList([one(3), nn.SiLU(), one(1)])}),
    "a layer used twice": (lambda n, h: n.conv(F.elu(n.conv(h))), {"conv": one(3)}),
    "a branch that is not used": (lambda n, h: (n.conv(h), h * 2)[1], {"conv": one(3)}),
    "a flag": (lambda n, h: n.conv(h) if n.flag else h, {"conv": one(3), "flag": True}),
    "batch norm": (lambda n, h: n.plain(n.norm(h)), {
        "norm": nn.BatchNorm2d(6), "plain": nn.BatchNorm2d(6, affine=False)}),
    "per feature": (lambda n, h: h * n.gain[:, None, None] + n.bias.view(1, -1, 1, 1), {
        "gain": weights(6), "bias": weights(6)}),
    "per position": (lambda n, h: n.rows + h * n.table - n.columns, {
        "rows": weights(6, 4, 1), "columns": weights(1, 5), "table": weights(6, 4, 5)}),
    "one number": (lambda n, h: torch.exp(n.scale) * h + n.scale / 2, {"scale": weights(1)}),
    "derived": (lambda n, h: h * F.softplus(n.gain).view(6, 1, 1) + (n.table * 2)[None], {
        "gain": weights(6), "table": torch.linspace(0, 1, 20).view(1, 4, 5)}),
    "part of a constant": (lambda n, h: h[:, :3] * n.gain.chunk(2)[1][:, None, None], {"gain": weights(6)}),
    "a layer of a constant": (lambda n, h: h + n.conv(n.table), {"conv": one(3), "table": weights(1, 6, 4, 5)}),
    "pixel shuffle": (lambda n, h: n.shuffle(torch.cat((n.conv(h)[:, :4], h[:, :4]), 1)), {
        "conv": one(3), "shuffle": nn.PixelShuffle(2)}),
    "more features than before": (lambda n, h: h[:, :1] * n.gain, {"gain": weights(4, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize(("function", "parts"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_traced(function: Callable[[Any, Any], Any], parts: dict[str, Any]) -> None:
    check(Forward(function, **parts), SHAPE, seeds=6)


def test_gradients_stop_at_a_detach_but_reads_do_not() -> None:
    nodes = check(Forward(lambda n, h: h.detach() * 2), SHAPE)
    assert knowledge(nodes)[-1].any()


def test_blocks_of_pixelloom_are_traced() -> None:
    gated = GatedBlock(6, 4, 3, norm="channel", bias=True, groups=2, dropout=0.5)
    residual = ResidualBlock(6, 4, 3, activation="before", norm="batch", bias=True, groups=2)
    check(Forward(lambda n, h: n.residual(n.gated(h)), gated=gated, residual=residual), SHAPE, seeds=6)


def test_nodes_are_named_after_layers_and_the_modules_that_call_functions() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = MaskedConv2d(6, 12, 3, mask="B")

        def forward(self, h: Tensor) -> Tensor:
            a, b = self.conv(h).chunk(2, dim=1)
            return a * b.sigmoid()

    nodes = trace(Forward(lambda n, h: h + n.blocks(h), blocks=nn.Sequential(Inner(), nn.Tanh())), SHAPE)
    inner = ["blocks.0.conv", "blocks.0.chunk", "blocks.0.chunk", "blocks.0.sigmoid", "blocks.0.mul"]
    assert [node.name for node in nodes] == ["x", "first", *inner, "blocks.1", "add"]
    assert [node.features for node in nodes] == [2, 6, 12, 6, 6, 6, 6, 6, 6]
    assert all(node.size == SHAPE[1:] for node in nodes)
    assert isinstance(nodes[0].operation, Image)
    assert all(source < number for number, node in enumerate(nodes) for source in node.inputs)
    assert all(edge.source in node.inputs for node in nodes for edge in node.edges)


def test_a_network_of_one_layer() -> None:
    network = live(MaskedConv2d(2, 3, 3, mask="A").double())
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(evaluate(trace(network, SHAPE), x), network(x))


CONVOLUTIONS = [
    *({"kernel_size": k, "padding": p} for k in (1, 2, 3, (2, 3), 4) for p in (0, "same", "valid")),
    *({"kernel_size": 3, "padding": 1, "stride": s} for s in (1, 2, 3, (2, 1), (1, 3))),
    *({"kernel_size": (3, 2), "padding": (2, 1), "stride": s, "dilation": d} for s in (1, 2) for d in (1, 2, (1, 3))),
    *({"kernel_size": k, "padding": "same", "dilation": d} for k in (2, 3, (4, 1)) for d in (2, (1, 2))),
    *({"kernel_size": 3, "padding": 1, "groups": 2, "stride": s, "bias": b} for s in (1, 2) for b in (True, False)),
    {"kernel_size": (1, 7), "padding": (0, 3)},
    {"kernel_size": 5, "padding": 2, "dilation": 2},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("size", [(6, 7), (5, 9)])
def test_ordinary_convolutions(options: dict[str, Any], size: tuple[int, int]) -> None:
    nodes = check(nn.Sequential(nn.Conv2d(4, 6, **options)), (4, *size), seeds=1)
    assert [node.name for node in nodes] == ["input", "0"]


def test_a_grouped_convolution_in_three_groups() -> None:
    check(nn.Sequential(nn.Conv2d(6, 9, 3, padding=1, groups=3), nn.Conv2d(9, 9, 1, groups=9)), (6, 3, 3), seeds=1)


# Constants are read again for each batch


def test_weights_and_constants_are_those_of_the_moment() -> None:
    def forward(n: Any, h: Any) -> Any:
        h = n.norm(n.conv(n.grouped(h)))
        return h * F.softplus(n.gain)[:, None, None] + n.bias * 2 + n.table + (n.table - 1).abs()

    def network() -> nn.Module:
        parts = {"conv": one(3), "grouped": nn.Conv2d(6, 6, 1, groups=2), "norm": nn.BatchNorm2d(6)}
        constants = {"gain": weights(6), "bias": weights(6, 1, 1), "table": torch.linspace(0, 1, 20).view(1, 4, 5)}
        return Forward(forward, **parts, **constants).double().eval()

    first, second = live(network(), 1), live(network(), 2)
    second.table += 1
    nodes = trace(first, SHAPE)
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        before = first(x)
        torch.testing.assert_close(evaluate(nodes, x), before)
        first.load_state_dict(second.state_dict())
        assert not torch.allclose(first(x), before)
        torch.testing.assert_close(evaluate(nodes, x), second(x))
        third = live(network(), 3)
        first.load_state_dict(third.state_dict(), assign=True)  # other tensors in the place of the old ones
        torch.testing.assert_close(evaluate(nodes, x), third(x))
        first.gain.fill_(-3.0)
        torch.testing.assert_close(evaluate(nodes, x), first(x))


def test_tracing_leaves_the_network_as_it_was() -> None:
    network = Forward(
        lambda n, h: n.frozen(n.norm(n.drop(h))) * (n.table * 2),
        norm=nn.BatchNorm2d(6), frozen=nn.BatchNorm2d(6), drop=nn.Dropout(), table=torch.ones(6, 1, 1),
    )  # fmt: skip
    network.train()
    network.frozen.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    state = {name: value.clone() for name, value in network.state_dict().items()}
    attributes = set(vars(network))
    trace(network, SHAPE)
    with pytest.raises(ModelError):
        trace(Forward(lambda n, h: n.inner(h).mean(), inner=network.norm), SHAPE)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert set(vars(network)) == attributes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


# What is refused


class Silent(nn.Module):
    """Says what it reads, and not how an output is computed."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(3)

    def reads(self) -> tuple[Read, ...]:
        return (Read(Earlier()),)


class Inside(nn.Module):
    """A function within a module."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


MODULES: dict[str, nn.Module] = {
    "MaxPool2d": nn.MaxPool2d(2),
    "PixelUnshuffle": nn.PixelUnshuffle(1),
    "Softmax2d": nn.Softmax2d(),
    "GroupNorm": nn.GroupNorm(2, 6),
    "InstanceNorm2d": nn.InstanceNorm2d(6),
    "LayerNorm": nn.LayerNorm([6, 4, 5]),
    "Conv2d": nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
    "ConvTranspose2d": nn.ConvTranspose2d(6, 6, 3),
    "Upsample": nn.Upsample(scale_factor=2),
    "Linear": nn.Linear(5, 5),
    "LSTM": nn.LSTM(5, 5),
}


@pytest.mark.parametrize(("kind", "layer"), MODULES.items(), ids=MODULES)
def test_layers_that_say_nothing_are_refused(kind: str, layer: nn.Module) -> None:
    message = rf"^body\.1 \({kind}\): does not say which positions it reads\. Give it a method reads\(\), see pixelloom"
    with pytest.raises(ModelError, match=message):
        trace(Forward(lambda n, h: n.body(h), body=nn.Sequential(nn.ReLU(), layer)), SHAPE)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "pad": lambda h: F.pad(h, (0, 0, 1, 0)),
    "mean": lambda h: h - h.mean((2, 3), keepdim=True),
    "softmax": lambda h: h.softmax(1),
    "cumsum": lambda h: h.cumsum(2),
    "roll": lambda h: torch.roll(h, 1, 3),
    "flip": lambda h: h.flip(2),
    "transpose": lambda h: h.transpose(2, 3),
    "max_pool2d": lambda h: F.max_pool2d(h, 3, 1, 1),
    "interpolate": lambda h: F.interpolate(h, scale_factor=2),
    "layer_norm": lambda h: F.layer_norm(h, (4, 5)),
    "sum": lambda h: h + h.sum(),
    "view": lambda h: h.view(-1, 6, 20),
    "gt": lambda h: h > 0,
    "add_": lambda h: h.add_(1),
    "getattr": lambda h: h * h.shape[1],
    "chunk": lambda h: h.chunk(2)[0],  # of the batch
    "split": lambda h: h.split(2, dim=2)[0],
    "cat": lambda h: torch.cat((h, h), 2),
    "getitem": lambda h: h[:, :, 1:],
}
CUTS = [lambda h: h[:, 0], lambda h: h[:, [0, 1]], lambda h: h[..., :1], lambda h: h[:2], lambda h: h[:, None, :, :]]


@pytest.mark.parametrize(
    ("name", "function"),
    [*FUNCTIONS.items(), *(("getitem", cut) for cut in CUTS), ("cat", lambda h: torch.cat((h, h)))],
)
def test_functions_that_may_mix_positions_are_refused(name: str, function: Callable[[Any], Any]) -> None:
    message = rf"^inner\.{name}: the function '{name}' is not known to act on each position alone; put it into a module"
    with pytest.raises(ModelError, match=message):
        trace(Forward(lambda n, h: n.inner(h), inner=Inside(function)), SHAPE)


def chunked(h: Any) -> Any:
    a, b = h.chunk(2, dim=1)
    a += 1
    return torch.cat((a, b), dim=1)


def chunked_before(h: Any) -> Any:
    a, b = h.chunk(2, dim=1)
    h += 1
    return a * b


OTHERS: dict[str, tuple[Callable[[Any, Any], Any], dict[str, Any], str]] = {
    "a branch": (lambda n, h: h if h.sum() > 0 else -h, {}, "forward cannot be followed: .*control flow.*declares its"),
    "a length": (lambda n, h: h * len(h), {}, "the network's forward cannot be followed: "),
    "a number": (lambda n, h: h * int(h.sum()), {}, "the network's forward cannot be followed: "),
    "unknown parts": (lambda n, h: summed(h.split(2, 1)), {}, "the network's forward cannot be followed: .*iterated"),
    "too many parts": (lambda n, h: summed(h.chunk(4, 1)), {}, "^getitem: cannot be followed: tuple index out of"),
    "two outputs": (lambda n, h: (h, h), {}, "must return one tensor that depends on the image"),
    "no output": (lambda n, h: None, {}, "must return one tensor that depends on the image"),
    "a constant": (lambda n, h: n.gain, {"gain": weights(6)}, "must return one tensor that depends on the image"),
    "five dimensions": (lambda n, h: h * n.gain, {"gain": weights(2, 1, 6, 4, 5)}, "^mul: joins grids of"),
    "another grid": (lambda n, h: h + n.down(h), {"down": nn.Conv2d(6, 6, (4, 5))},
                     "^add: joins grids of 6x1x1 and 6x4x5"),
    "joined grids": (lambda n, h: torch.cat((h, n.down(h)), 1), {"down": nn.Conv2d(6, 2, 2)},
                     "^cat: joins grids of 2x3x4 and 6x4x5"),
    "too small": (lambda n, h: n.down(h), {"down": nn.Conv2d(6, 6, 9)}, "^down: cannot be followed: .*[kK]ernel size"),
    "by name": (lambda n, h: n.conv(x=h), {"conv": one()}, "^conv: a layer's inputs must be given by position"),
    "constant input": (lambda n, h: n.product(h, n.gain), {"product": Product(6), "gain": weights(1, 6, 4, 5)},
                       "^product: a layer's inputs must be tensors that depend on the image"),
    "dropout": (lambda n, h: F.dropout(h), {}, r"^dropout: drops features .* give it training=self\.training"),
    "torch dropout": (lambda n, h: torch.dropout(h, 0.5, True), {}, "^dropout: drops features in evaluation mode"),
    "a part in place": (lambda n, h: chunked(h), {}, "^add: works in place on a tensor cut into parts; use a copy"),
    "a whole in place": (lambda n, h: chunked_before(h), {}, "^add: works in place on a tensor cut into parts"),
    "a range in place": (lambda n, h: n.relu(h[:, :3]) + h[:, :3], {"relu": nn.ReLU(inplace=True)},
                         "^relu: works in place on a tensor cut into parts"),
    "silent": (lambda n, h: n.silent(h), {"silent": Silent()}, r"^silent \(Silent\): "),
    "no statistics": (lambda n, h: n.norm(F.elu(h)), {"norm": nn.BatchNorm2d(6, track_running_stats=False)},
                      "^norm: a batch norm without running statistics mixes the images of a batch"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "parts", "message"), OTHERS.values(), ids=OTHERS)
def test_refused(function: Callable[[Any, Any], Any], parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace(Forward(function, **parts), SHAPE)


class Conditional(nn.Module):
    """Takes labels and more beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.table = MaskedConv2d(2, 6, 3, mask="A"), nn.Embedding(3, 6)

    def forward(self, x: Tensor, label: Tensor | None = None, scale: float = 2.0) -> Tensor:
        h = self.first(x) * scale
        if label is None:
            return h
        return h + self.table(label)[:, :, None, None]


def test_what_is_given_beside_the_image_enters_as_constants() -> None:
    network = live(Conditional().double().eval())
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(evaluate(trace(network, SHAPE), x), network(x))
    nodes = trace(network, SHAPE, {"label": torch.tensor([0])})  # of which only name and shape count
    for labels in (torch.tensor([0, 2]), torch.tensor([1, 1])):
        torch.testing.assert_close(evaluate(nodes, x, {"label": labels}), network(x, labels))
    np.testing.assert_array_equal(knowledge(nodes)[-1], knowledge(trace(network, SHAPE))[-1])


def test_a_network_takes_no_more_than_is_given() -> None:
    class Demanding(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return x + label

    with pytest.raises(ModelError, match="takes more than the image: label"):
        trace(Demanding(), SHAPE)
    with pytest.raises(ModelError, match="the network's forward cannot be followed"):
        trace(nn.Module(), SHAPE)
