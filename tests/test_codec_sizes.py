"""Images of other sizes than those of the training: the integers, the order of values, and windows of rows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from codec_models import images_of, model_of
from pixelloom.codec import sizes
from pixelloom.codec.export import entropy, lower
from pixelloom.codec.kinds import executable
from pixelloom.codec.model import CodecModel
from pixelloom.codec.operations import IntegerNode
from pixelloom.codec.parallel import ParallelPass
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.sampling.fast.ir import Image, Node

SPEC = {"logistics": ImageSpec(3, 6, 5, 256), "categorical": ImageSpec(3, 6, 5, 4), "bernoulli": ImageSpec(1, 6, 5, 2)}
LOCAL = {"block": "gated", "channels": 16, "hidden": 8, "blocks": 2, "first_kernel": 7, "kernel": 1}
DEEP = LOCAL | {"first_kernel": 3, "kernel": 3, "norm": "channel"}  # several layers look around
SIZES = [(6, 5), (1, 9), (9, 1), (2, 2), (3, 17), (13, 11)]


@cache
def local(kind: str = "logistics", **config: object) -> CodecModel:
    model = model_of("pixelcnn", SPEC[kind], kind, **(LOCAL | config))
    return lower(model, images_of(SPEC[kind], 8))


def direct(codec: CodecModel, levels: Tensor) -> Tensor:
    """Parameters by sums over taps in int64 where layers mix positions: none of the carriers' code."""
    values: list[Tensor] = []
    for node in codec.nodes:
        inputs = [values[i] for i in node.inputs]  # int64 [B, H, W, F]
        if node.kind == "image":
            values.append(node.tensors["table"][levels.permute(0, 2, 3, 1).long()].long())
        elif node.kind == "linear":
            x = inputs[0]
            out = node.tensors["bias"].long() + torch.zeros(*x.shape[:3], 1, dtype=torch.int64)
            for (dy, dx), weight in zip(node.numbers["taps"], node.tensors["weight"].long(), strict=True):
                for y in range(x.shape[1]):
                    for column in range(x.shape[2]):
                        v, u = y + dy, column + dx
                        if 0 <= v < x.shape[1] and 0 <= u < x.shape[2]:
                            out[:, y, column] += x[:, v, u] @ weight
            values.append(out)
        else:
            operation = replace(node, size=(1, 1))  # of one position, each position an image
            rows = [x.reshape(-1, 1, 1, x.shape[3]).double() for x in inputs]
            found = one_position(operation, rows)
            values.append(found.view(*levels.shape[:1], *levels.shape[2:], -1).long())
    return values[-1]


def one_position(node: IntegerNode, rows: list[Tensor]) -> Tensor:
    """The values of a node that reads its own position only, for inputs [positions, 1, 1, features]."""
    image = Node("", Image(), (), (), rows[0].shape[3], (1, 1))
    run = ParallelPass([image, replace(executable(node), inputs=(0,) * len(node.inputs))], torch.float64)
    return run._runs[0](rows)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "config"), [("logistics", {}), ("categorical", {}), ("bernoulli", DEEP)])
def test_a_model_of_another_size_computes_the_same_function(
    kind: str, config: dict[str, object], size: tuple[int, int]
) -> None:
    codec = local(kind, **config).resized(*size)
    levels = images_of(codec.spec, 2)
    assert torch.equal(codec.logits(levels).long(), direct(codec, levels))
    for carrier in ("float32", "float64"):
        assert torch.equal(codec.execution(carrier).logits(levels).long(), direct(codec, levels))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "config"), [("logistics", {}), ("categorical", {}), ("bernoulli", DEEP)])
def test_images_of_another_size_decode(kind: str, config: dict[str, object], size: tuple[int, int]) -> None:
    codec = local(kind, **config).resized(*size)
    for n in (1, 3):
        levels = images_of(codec.spec, n, seed=n)
        assert torch.equal(codec.decode(codec.encode(levels), n), levels)


def test_a_resized_model_has_the_identity_and_the_bytes_of_the_export() -> None:
    codec = local()
    wide = codec.resized(4, 9)
    assert wide.spec == ImageSpec(3, 4, 9, 256)
    assert wide.identity == codec.identity
    assert codec.resized(6, 5) is codec
    assert codec.resized(4, 9) is wide
    assert wide.resized(6, 5) is codec
    # The same nodes exported for that size from the start give the same bytes.
    nodes, steps = sizes.of_size(codec.nodes, (4, 9)), wide.steps
    whole = CodecModel(nodes, codec.head, wide.spec, codec.groups, steps, "", carrier="float64")
    whole.__dict__["_execution"] = whole.execution("float64")
    levels = images_of(wide.spec, 3)
    assert whole.encode(levels) == wide.encode(levels)


@pytest.mark.parametrize("size", [*SIZES, (40, 33)])
def test_the_order_of_values_is_the_earliest_schedule(size: tuple[int, int]) -> None:
    """The definition in docs/codec-format.md, by a loop over pixels and what each of them reads."""
    for kind in ("logistics", "categorical"):
        codec = local(kind).resized(*size)
        steps = np.zeros((codec.groups, *size), np.int64)
        for y in range(size[0]):
            for x in range(size[1]):
                for group in range(codec.groups):
                    read = [
                        steps[:, v, u].max()
                        for v in range(max(0, y - 3), y + 1)
                        for u in range(max(0, x - 3), min(size[1], x + 4))
                        if (v, u) < (y, x)
                    ]
                    read += [steps[c, y, x] for c in range(group)]
                    steps[group, y, x] = 1 + max(read, default=-1)
        expected = steps.repeat(3 // codec.groups, 0)
        assert np.array_equal(codec.steps.numpy(), expected), kind


def test_wide_images_take_one_step_a_column_and_four_a_row() -> None:
    steps = local().resized(12, 30).steps[0]
    assert torch.equal(steps, torch.arange(30) + 4 * torch.arange(12)[:, None])


@pytest.mark.parametrize(("kind", "config"), [("logistics", {}), ("bernoulli", DEEP)])
@pytest.mark.parametrize("height", [8, 15, 16, 31, 40])
def test_windows_of_rows_give_the_values_of_the_whole_image(
    kind: str, config: dict[str, object], height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = local(kind, **config).resized(height, 10)
    levels = images_of(codec.spec, 2)
    whole, payload = codec.logits(levels), codec.encode(levels)
    monkeypatch.setattr(sizes, "WINDOW", 10)
    windows = sizes.Windows(codec.nodes, codec.spec, codec.groups, torch.float32)
    parts = list(windows(levels))
    assert [rows.start for rows, _ in parts[1:]] == [rows.stop for rows, _ in parts[:-1]]
    assert (parts[0][0].start, parts[-1][0].stop) == (0, height)
    assert len(parts) > 1 or height < 2 * windows.above + 1
    assert torch.equal(torch.cat([logits for _, logits in parts], 1), whole)
    assert torch.equal(codec.logits(levels), whole)
    assert codec.encode(levels) == payload


def test_the_reach_of_a_network_is_the_sum_of_its_layers() -> None:
    assert sizes.reach(local().nodes) == (3, 0)
    assert sizes.reach(local("bernoulli", **DEEP).nodes) == (3, 0)
    assert sizes.reach(local(first_kernel=5, kernel=5, blocks=3).nodes) == (8, 0)


@pytest.mark.parametrize(
    ("network", "config", "message"),
    [
        (
            "pixelcnn",
            {"positions": True},
            "positions.add: has learned positions, so that the model takes images of 6x5",
        ),
        ("pixelcnn-pp", {}, "is computed on a grid of 3x3 positions"),
        ("pixelsnail", {}, "takes images of 6x5 pixels only"),
        ("row-lstm", {}, "takes images of 6x5 pixels only"),
    ],
)
def test_other_networks_are_refused_by_name(network: str, config: dict[str, object], message: str) -> None:
    spec = ImageSpec(1, 6, 5, 2)
    codec = lower(model_of(network, spec, "bernoulli", **config), images_of(spec, 8))
    assert not codec.is_local
    with pytest.raises(ModelError, match=message):
        codec.resized(7, 5)
    assert codec.resized(6, 5) is codec


@pytest.mark.parametrize("size", [(0, 3), (3, -1), (1 << 12, 1 << 11)])
def test_sizes_are_limited_before_anything_is_planned(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="pixels"):
        local().resized(*size)


def test_few_plans_are_kept() -> None:
    codec = replace(local())
    for height in range(1, 12):
        codec.resized(height, 3)
    assert len(codec._sizes) <= 4


def test_wide_integers_cost_less_and_are_never_held_in_float32() -> None:
    """Profile 2 has 16 bits where profile 1 has 12, and sums beyond 2^24."""
    model = model_of("pixelcnn", SPEC["logistics"], "logistics", **LOCAL)
    images = images_of(SPEC["logistics"], 8)
    bits = -model.log_prob(images).double() / np.log(2)
    codecs = [lower(model, images, profile=profile) for profile in (1, 2)]
    losses = [float((entropy(codec, images) / bits - 1).abs().max()) for codec in codecs]
    assert losses[1] < losses[0] / 4
    wide = codecs[1]
    assert max(wide.bounds) >= 1 << 24 > max(codecs[0].bounds[:2])
    assert wide._execution.dtype == torch.float64
    assert torch.equal(wide.decode(wide.encode(images), 8), images)
    large = wide.resized(9, 8)
    levels = images_of(large.spec, 2)
    assert torch.equal(large.decode(large.encode(levels), 2), levels)
