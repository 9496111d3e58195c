"""The proof of exactness refuses forged nodes; a network of fixed integers gives fixed logits on every machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codec_models import images_of
from pixelloom.codec import stored_graph
from pixelloom.codec.execution import Execution
from pixelloom.codec.operations import IntegerNode, here
from pixelloom.codec.proof import prove
from pixelloom.core.errors import ModelError
from pixelloom.core.types import ImageSpec
from pixelloom.layers.reads import HERE, Closure, Earlier, Offsets, Positions
from pixelloom.sampling.fast.causality import NotAutoregressiveError
from pixelloom.sampling.fast.ir import Edge

SPEC = ImageSpec(1, 6, 5, 4)
BOUND = 1 << 24
CARRIED = ((0, -1), (-1, 0))
ABOVE = ((-1, -1), (-1, 0), (-1, 1), (0, -1))


def numbers(shape: Sequence[int], most: int, seed: int) -> Tensor:
    """Integers -most .. most of a formula."""
    count = int(torch.tensor(shape).prod())
    mixed = [((i + 1000 * seed) * 2654435761 >> 13) % (2 * most + 1) - most for i in range(count)]
    return torch.tensor(mixed).view(*shape)


class Golden:
    """A network of fixed integers, with every kind of node that computes."""

    def __init__(self) -> None:
        table = torch.tensor([-3, -1, 1, 3])
        self.nodes = [IntegerNode("image", "x", (), (), 1, (6, 5), -3, 3, {}, {"table": table})]
        first = self.linear(0, 8, ABOVE, 500)
        gates = self.linear(first, 16, ((0, 0),), 150, most=8191)
        state = self.add(
            "lstm", [gates], 8, [Edge(gates, Closure(CARRIED), None)], 2**23 - 1,
            carried=[list(step) for step in CARRIED], center=0, input=10, weight=9, hidden=11, cell=18, most=2047,
            weight_=numbers((8, 16), 2000, 5),
        )  # fmt: skip
        shift = torch.tensor([0] * 4 + [-7] * 4).view(8, 1, 1)
        hidden = self.add("rescale", [state], 8, None, 2047, multiplier_=torch.ones(8, 1, 1), shift_=shift)
        q, k, v = (self.linear(hidden, 8, ((0, 0),), 200) for _ in range(3))
        where = Earlier(own=True, above=2)
        edges = [Edge(q, HERE, None), Edge(k, where, None, 1), Edge(v, where, None, 2)]
        found = self.add("attention", [q, k, v], 8, edges, 4095, heads=2, multiplier=181, score=-14, shift=1)
        sums = self.add("running-sum", [self.linear(0, 3, ABOVE, 90)], 3, [], 30 * 2047)
        weight = numbers((30, 4, 30, 1), 3000, 7) * (torch.arange(30)[:, None] > torch.arange(30))[:, None, :, None]
        edges = [Edge(0, HERE, torch.zeros(4, 1, dtype=torch.bool)), Edge(0, Earlier(), None, 2)]
        edges.insert(1, Edge(0, Earlier(), torch.zeros(4, 1, dtype=torch.bool), 1))
        own = self.add(
            "position-linear", [0, 0, 0], 4, edges, 2047, weight_=weight, bias_=numbers((30, 4), 9999, 8),
            shift_=numbers((30, 4), 2, 9) - 4,
        )  # fmt: skip
        sums = self.add(
            "rescale", [sums], 3, None, 4095, multiplier_=torch.tensor([[[1]]]), shift_=torch.tensor([[[-2]]])
        )
        origin = [[i, f] for i, n in ((0, 8), (1, 3), (2, 4)) for f in range(n)]
        whole = self.add("concat", [found, sums, own], 15, None, 4095, origin=origin)
        normal = self.add("normalize", [whole], 15, self.mixed(whole), 8191, shift=10, epsilon=37)
        table = numbers((2 * 8191 + 1,), 500, 10) + (torch.arange(2 * 8191 + 1) - 8191) // 8
        bent = self.add("table", [normal], 15, None, 2000, first=-8191, table_=table)
        minus = self.add("negative", [bent], 15, None, 2000)
        total = self.add("sum", [bent, minus], 15, None, 8191, shifts=[1, 0], sign=-1)
        product = self.add("product", [total, bent], 15, None, 8191, shift=-9)
        scaled = self.add(
            "affine", [product], 15, None, 2047, shift=-8, multiplier_=numbers((15, 1, 1), 300, 11),
            constant_=numbers((1, 6, 5), 9000, 12),
        )  # fmt: skip
        self.output = self.linear(self.add("relu", [scaled], 15, None, 2047), 4, ((0, 0),), 100, most=8191)

    def add(
        self, kind: str, sources: list[int], features: int, edges: Sequence[Edge] | None, limit: int, **more: Any
    ) -> int:
        """Append a node; names of tensors end with "_"."""
        if edges is None:
            same = torch.eye(features, dtype=torch.bool)
            edges = [Edge(source, HERE, same, i) for i, source in enumerate(sources)]
            if kind == "concat":
                edges = [Edge(one, HERE, self.picked(more["origin"], i, one), i) for i, one in enumerate(sources)]
        elif kind == "running-sum":
            edges = [Edge(sources[0], Closure(((0, -1), (-1, 4))), torch.eye(features, dtype=torch.bool))]
        tensors = {name[:-1]: value.long() for name, value in more.items() if name.endswith("_")}
        json = {name: value for name, value in more.items() if not name.endswith("_")}
        name = f"{kind}.{len(self.nodes)}"
        node = IntegerNode(kind, name, tuple(sources), tuple(edges), features, (6, 5), -limit, limit, json, tensors)
        self.nodes.append(node)
        return len(self.nodes) - 1

    def picked(self, origin: list[list[int]], number: int, source: int) -> Tensor:
        """Which feature of a concatenation is which one of a source, bool [out, in]."""
        mask = torch.zeros(len(origin), self.nodes[source].features, dtype=torch.bool)
        for out, (one, feature) in enumerate(origin):
            if one == number:
                mask[out, feature] = True
        return mask

    def mixed(self, source: int) -> tuple[Edge, ...]:
        """A read of all features."""
        return here((source,), self.nodes[source].features, same=False)

    def linear(self, source: int, out: int, taps: Sequence[tuple[int, int]], weight: int, most: int = 2047) -> int:
        """A linear layer and a rescaling node."""
        seed, inputs = len(self.nodes), self.nodes[source].features
        bound = len(taps) * inputs * weight * self.nodes[source].largest + 999
        sums = self.add(
            "linear", [source], out, [Edge(source, Offsets(tuple(taps)), None)], bound, stride=[1, 1],
            taps=[list(tap) for tap in taps], weight_=numbers((len(taps), inputs, out), weight, seed),
            bias_=numbers((out,), 999, seed + 1),
        )  # fmt: skip
        shift = bound.bit_length() - most.bit_length() - 3
        return self.add(
            "rescale", [sums], out, None, most, multiplier_=numbers((out, 1, 1), 2, seed) + 3,
            shift_=torch.tensor([[[-shift - 1]]]),
        )  # fmt: skip


@pytest.fixture(scope="module")
def nodes() -> list[IntegerNode]:
    return Golden().nodes


def digest(logits: Tensor) -> str:
    """SHA-256 of logits as little-endian 32-bit integers."""
    return hashlib.sha256(logits.to(torch.int32).numpy().astype("<i4").tobytes()).hexdigest()


GOLDEN = "139f2d866c847fee30aeeedca19f317c0cd2a50a6f29d609686761b9de7d0ade"
"""Of the logits of 20 images. Whatever the machine, another value is an error of the codec."""


def _logits(dtype: torch.dtype, images: int = 20) -> Tensor:
    levels = numbers((images, *SPEC.shape), 2**20, 3).remainder(4).to(torch.uint8)
    return Execution(Golden().nodes, SPEC, 1, dtype).logits(levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fixed_integers_give_fixed_logits(dtype: torch.dtype) -> None:
    nodes = Golden().nodes
    assert max(prove(nodes, BOUND)) > BOUND  # float64 is needed within a node
    logits = _logits(dtype)
    assert len(logits.unique()) > 500
    assert digest(logits) == GOLDEN


def test_the_sampler_meets_the_logits_of_the_parallel_pass(nodes: list[IntegerNode]) -> None:
    execution = Execution(nodes, SPEC, 1, torch.float32)
    levels, met = images_of(SPEC, 3), []
    order = execution.order.values[:, 1]

    def draw(params: Tensor, group: int, channels: slice) -> Tensor:
        places = order[sum(map(len, met)) // 3 :][: len(params) // 3]
        met.append(params.clone())
        return levels.flatten(2)[:, 0, places].T.reshape(-1, 1)

    assert torch.equal(execution.draw(3, draw), levels)
    expected = execution.logits(levels).flatten(1, 2)[:, order].transpose(0, 1).flatten(0, 1)
    assert torch.equal(torch.cat(met), expected)


def test_stored_and_read_again_nothing_changes(nodes: list[IntegerNode]) -> None:
    again = stored_graph.load(*stored_graph.store(nodes))
    assert digest(Execution(again, SPEC, 1, torch.float32).logits(images_of(SPEC, 2))) == digest(
        Execution(nodes, SPEC, 1, torch.float64).logits(images_of(SPEC, 2))
    )


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_processors_without_wide_vectors_give_the_same(capability: str) -> None:
    code = "import torch, test_codec_proof as t; print(t.digest(t._logits(torch.float32)))"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == GOLDEN


# Forged nodes


def _number(kind: str, nodes: list[IntegerNode]) -> int:
    return next(i for i, node in enumerate(nodes) if node.kind == kind)


def _with(node: IntegerNode, **more: Any) -> IntegerNode:
    """A node with some other numbers, or, with names that end in "_", other tensors."""
    tensors = node.tensors | {name[:-1]: value for name, value in more.items() if name.endswith("_")}
    return replace(node, numbers=node.numbers | {n: v for n, v in more.items() if not n.endswith("_")}, tensors=tensors)


def _read(where: Positions, index: int = 0) -> Callable[[IntegerNode], IntegerNode]:
    def change(node: IntegerNode) -> IntegerNode:
        edges = [replace(edge, where=where) if i == index else edge for i, edge in enumerate(node.edges)]
        return replace(node, edges=tuple(edges))

    return change


FORGED: list[tuple[str, str, Callable[[IntegerNode], IntegerNode]]] = [
    ("image", "exceeds its bounds", lambda n: replace(n, high=2)),
    ("linear", "sums exceed its bounds", lambda n: _with(n, weight_=n.tensors["weight"] * 1000)),
    ("linear", "weights of", lambda n: _with(n, weight_=n.tensors["weight"][1:])),
    ("linear", "what it does not read", _read(Offsets(ABOVE[:3]))),
    ("linear", "not those of its taps", _read(Earlier())),
    ("linear", "not those of its taps", lambda n: _with(n, stride=[2, 2])),
    ("linear", "parameters are inconsistent", lambda n: replace(n, tensors={})),
    ("linear", "does not come before it", lambda n: replace(n, inputs=(7,), edges=(replace(n.edges[0], source=7),))),
    ("linear", "reads do not fit its inputs", lambda n: replace(n, edges=(replace(n.edges[0], source=1),))),
    ("linear", "newer Pixelloom", lambda n: replace(n, kind="eval")),
    ("linear", "impossible bounds", lambda n: replace(n, high=1 << 24)),
    ("rescale", "exact in float32", lambda n: _with(n, multiplier_=n.tensors["multiplier"] * 100_000)),
    ("rescale", "out of range", lambda n: _with(n, shift_=n.tensors["shift"] - 100)),
    ("rescale", "other positions than its own", _read(Offsets(((0, 1),)))),
    ("table", "too short", lambda n: _with(n, table_=n.tensors["table"][:-1])),
    ("table", "too short", lambda n: _with(n, first=-8190)),
    ("table", "exceeds its bounds", lambda n: replace(n, high=1000)),
    ("sum", "exact in float32", lambda n: _with(n, shifts=[20, 0])),
    ("sum", "too large", lambda n: _with(n, shifts=[1.5, 0])),
    ("sum", "neither 1 nor -1", lambda n: _with(n, sign=2)),
    ("product", "too large", lambda n: _with(n, shift=None)),
    ("affine", "exact in float32", lambda n: _with(n, constant_=n.tensors["constant"] + (1 << 24))),
    ("affine", "constants do not fit", lambda n: _with(n, constant_=torch.zeros(2, 1, 1))),
    ("relu", "bounds do not fit", lambda n: replace(n, high=2000)),
    ("negative", "bounds do not fit", lambda n: replace(n, high=1999)),
    ("concat", "features do not fit", lambda n: _with(n, origin=[[3, 0]] * 15)),
    ("normalize", "not positive", lambda n: _with(n, epsilon=0)),
    ("normalize", "exact in float64", lambda n: _with(n, epsilon=1 << 53)),
    ("lstm", "exact in float64", lambda n: _with(n, weight=-30)),
    ("lstm", "exact in float64", lambda n: _with(n, cell=60)),
    ("lstm", "weights of", lambda n: _with(n, weight_=n.tensors["weight"][:4])),
    ("lstm", "not those of its states", _read(Closure(((-1, 0),)))),
    ("lstm", "no state before", lambda n: _with(n, center=2)),
    ("lstm", "bounds do not fit", lambda n: _with(n, most=1 << 23)),
    ("running-sum", "sums exceed its bounds", lambda n: replace(n, high=n.high - 1)),
    ("running-sum", "not those of its states", _read(HERE)),
    ("attention", "exact in float64", lambda n: _with(n, multiplier=1 << 30)),
    ("attention", "features do not fit", lambda n: _with(n, heads=3)),
    ("attention", "bad numbers", lambda n: _with(n, heads=0)),
    ("attention", "reads do not fit", _read(Earlier(own=True), 2)),
    ("attention", "reads do not fit", _read(Earlier(), 0)),
    ("position-linear", "what it does not read", lambda n: _with(n, weight_=n.tensors["weight"] + 1)),
    ("position-linear", "exact in float64", lambda n: _with(n, bias_=n.tensors["bias"] + (1 << 53))),
    ("position-linear", "weights do not fit", lambda n: _with(n, weight_=n.tensors["weight"][:, :, 1:])),
    ("position-linear", "too large", lambda n: _with(n, shift_=n.tensors["shift"] - 99)),
]


@pytest.mark.parametrize(("kind", "said", "change"), FORGED, ids=[f"{kind}: {said}" for kind, said, _ in FORGED])
def test_a_forged_node_is_refused_by_name(
    nodes: list[IntegerNode], kind: str, said: str, change: Callable[[IntegerNode], IntegerNode]
) -> None:
    number = _number(kind, nodes)
    forged = [change(node) if i == number else node for i, node in enumerate(nodes)]
    with pytest.raises(ModelError, match=rf"^{kind if kind != 'image' else 'x'}.*\(node {number}, \w.*{said}"):
        prove(forged, BOUND)


@pytest.mark.parametrize("where", [Offsets((*ABOVE[:3], (0, 0))), Earlier(own=True)])
def test_what_reads_its_own_pixel_is_refused(where: Positions) -> None:
    golden = Golden()
    golden.nodes = golden.nodes[:1]
    if isinstance(where, Offsets):
        golden.linear(0, 4, where.taps, 500)
    else:
        q, k, v = (golden.linear(0, 4, taps, 500) for taps in (ABOVE, ((0, 0),), ((0, 0),)))
        edges = [Edge(q, HERE, None), Edge(k, where, None, 1), Edge(v, where, None, 2)]
        golden.add("attention", [q, k, v], 4, edges, 4095, heads=2, multiplier=181, score=-14, shift=1)
    prove(golden.nodes, BOUND)
    execution = Execution(golden.nodes, SPEC, 1, torch.float32)
    with pytest.raises(ModelError, match=r"^(linear|attention|rescale)\.\d: reads .* is not autoregressive") as caught:
        execution.draw(1, lambda params, group, channels: torch.zeros(len(params), 1, dtype=torch.uint8))
    assert isinstance(caught.value, NotAutoregressiveError)
