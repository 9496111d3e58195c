"""Lowered networks: equal integers however they are computed, for every network, and few bits lost by the rounding."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codec_models import BINARY, GRAY, cases, images_of, model_of
from pixelloom.codec import execution as execution_module
from pixelloom.codec.carriers import exact_arithmetic
from pixelloom.codec.execution import Execution
from pixelloom.codec.export import entropy, lower
from pixelloom.codec.model import CodecModel
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.models.pixel import PixelModel

CASES = cases()
# Of each network one or two in the default run, so that every kind of node, head and scaling occurs in it.
DEFAULT = (
    "pixelcnn/gated-norm", "pixelcnn/rgb-independent", "pixelcnn/preactivation", "gated-pixelcnn/logistics",
    "gated-pixelcnn/embedded", "pixelcnn-pp/binary", "row-lstm/gray", "diagonal-bilstm/color", "pixelsnail/color",
    "pixelsnail/window", "pixel-transformer/window", "nade/color", "made/direct",
)  # fmt: skip
ALL = [pytest.param(name, marks=[] if name in DEFAULT else [pytest.mark.slow]) for name in CASES]
LARGE = ("gated-pixelcnn/binary", "row-lstm/binary", "pixelsnail/binary", "made/binary")  # also with 64 images

LOSS = {"pixelcnn-pp": 0.005}
"""Network -> largest difference of the bits of integer tables from those of the float model, relative to these; 0.002
for the others. Weights are random: trained ones are smoother, and lose a tenth of this."""


@functools.cache
def _model(name: str) -> PixelModel:
    return CASES[name]()


@functools.cache
def _codec(name: str) -> CodecModel:
    return lower(_model(name), images_of(_model(name).spec, 24))


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _onednn_disabled() -> Iterator[None]:
    flags = torch.backends.mkldnn.set_flags
    (before, *_) = flags(False, None, None, None)  # type: ignore[no-untyped-call]  # its other flags stay
    try:
        yield
    finally:
        flags(before, None, None, None)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    """The products of torch itself, as on a machine without oneDNN."""
    with _onednn_disabled(), torch.backends.nnpack.flags(enabled=False):
        yield


def _teacher_forced(draw: Callable[..., Tensor], execution: Execution, levels: Tensor) -> Tensor:
    """The logits [B, H, W, outputs] that the drawing of given levels meets."""
    n, groups = len(levels), execution.groups
    height, width = execution.spec.shape[1:]
    order, done = execution.order.values, 0
    flat = levels.flatten(2)
    met: dict[int, Tensor] = {}

    def drawn(params: Tensor, group: int, channels: slice) -> Tensor:
        nonlocal done
        here = order[done : done + len(params) // n]
        done += len(here)
        assert (here[:, 0] == group).all()
        for (_, place), rows in zip(here, params.view(len(here), n, -1), strict=True):
            met[group * height * width + int(place)] = rows.clone()
        # [B, channels, positions] -> [positions * B, channels]
        return flat[:, channels, here[:, 1]].permute(2, 0, 1).flatten(0, 1)

    found = draw(n, drawn)
    assert torch.equal(found, levels)
    rows = torch.stack([met[i] for i in range(len(order))])  # [groups * H * W, B, n]
    return rows.view(groups, height, width, n, -1).permute(3, 1, 2, 0, 4).flatten(3)


@pytest.mark.parametrize("name", ALL)
def test_integers_do_not_depend_on_how_they_are_computed(name: str, tmp_path: Path) -> None:
    codec, levels = _codec(name), images_of(_codec(name).spec, 7, seed=3)
    narrow, wide = codec._execution, codec.execution("float64")
    assert narrow.dtype == torch.float32
    expected = wide.logits(levels)
    assert torch.equal(expected, expected.round())
    assert len(expected.unique()) > 30
    found = {
        "float32": narrow.logits(levels),
        "images alone": torch.cat([narrow.logits(image) for image in levels.split(1)]),
        "channels_last": narrow.logits(levels.to(memory_format=torch.channels_last)),
        "every other of more": narrow.logits(levels.repeat_interleave(2, 0)[::2]),
        "19 images": narrow.logits(torch.cat((levels, images_of(codec.spec, 12, seed=4))))[:7],
        "sampler": _teacher_forced(narrow.draw, narrow, levels),
    }
    assert codec.groups > 1 or len(narrow.plan.nodes) == len(narrow._executed)  # fused nodes wait no longer than others
    one_by_one = Execution(codec.nodes, codec.spec, codec.groups, torch.float32, fuse=False)
    found["not fused"] = one_by_one.logits(levels)
    with _threads(2):
        found["2 threads"] = narrow.logits(levels)
    codec.save(tmp_path / "codec.safetensors")
    again = CodecModel.load(tmp_path / "codec.safetensors")
    assert again.identity == codec.identity
    found["read from a file"] = again.execution("float32").logits(levels)
    for how, logits in found.items():
        assert torch.equal(logits.double(), expected), how
    assert torch.equal(codec.decode(codec.encode(levels), 7), levels)


@pytest.mark.parametrize("name", ALL)
def test_little_is_lost_by_integers(name: str) -> None:
    model, codec = _model(name), _codec(name)
    levels = images_of(model.spec, 16, seed=9)
    real = -float(model.log_prob(levels).sum()) / math.log(2)
    ideal = float(entropy(codec, levels).sum())
    assert ideal / real - 1 == pytest.approx(0, abs=LOSS.get(name.partition("/")[0], 0.002))


@pytest.mark.parametrize("name", [*LARGE, *(pytest.param(n, marks=pytest.mark.slow) for n in CASES if n not in LARGE)])
def test_batches_threads_and_libraries_give_equal_integers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, levels = _codec(name), images_of(_codec(name).spec, 64, seed=6)
    narrow, wide = codec.execution("float32"), codec.execution("float64")
    expected = wide.logits(levels[:1])
    whole = narrow.logits(levels)
    assert torch.equal(whole[:1].double(), expected)
    assert torch.equal(wide.logits(levels), whole.double())
    assert torch.equal(narrow.logits(levels[:7]), whole[:7])
    monkeypatch.setattr(execution_module, "exact_arithmetic", _without_onednn)
    with _threads(2):
        assert torch.equal(narrow.logits(levels), whole)
    assert torch.equal(narrow.logits(levels[:17]), whole[:17])


@pytest.mark.parametrize(
    "name", ["gated-pixelcnn/gray", "row-lstm/gray", "pixel-transformer/gray", "made/gray", "nade/gray"]
)
def test_an_order_of_its_own_is_drawn_by_parallel_passes(name: str) -> None:
    codec, levels = _codec(name), images_of(_codec(name).spec, 2, seed=8)
    execution = codec.execution("float32")
    plain = _teacher_forced(execution.draw_plainly, execution, levels)
    assert torch.equal(plain, execution.logits(levels))
    assert torch.equal(_teacher_forced(codec.execution("float64").draw, execution, levels), plain.double())


@pytest.mark.parametrize("name", ["gated-pixelcnn/color", "row-lstm/gray"])
def test_blocks_are_decoded_at_once_and_independently(name: str) -> None:
    codec = _codec(name)
    blocks = [images_of(codec.spec, 5, seed) for seed in (11, 12, 13)]
    payloads = [codec.encode(block) for block in blocks]
    assert torch.equal(codec.decode_blocks(payloads, 5), torch.stack(blocks))
    found = codec.decode_blocks([payloads[0], b"\xff" + payloads[1][1:], payloads[2]], 5)
    assert torch.equal(found[0], blocks[0])
    assert not torch.equal(found[1], blocks[1])
    assert torch.equal(found[2], blocks[2])


# Settings of the program around it


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _onednn(products: str) -> Iterator[None]:
    settings = getattr(torch.backends.mkldnn, products)
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


HOSTILE: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "medium": lambda: _precision("medium"),
    "bfloat16 convolutions": lambda: _onednn("conv"),
    "bfloat16 products": lambda: _onednn("matmul"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "oneDNN disabled": _onednn_disabled,
}


def _settings() -> tuple[object, ...]:
    mkldnn, precision = torch.backends.mkldnn, "mixed"
    with contextlib.suppress(RuntimeError):  # torch raises where several settings of different age are in force
        precision = torch.get_float32_matmul_precision()
    return (
        precision, mkldnn.matmul.fp32_precision, mkldnn.conv.fp32_precision,  # type: ignore[attr-defined]
        torch._C._get_mkldnn_enabled(), torch.is_autocast_enabled("cpu"), torch._C._get_nnpack_enabled(),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["gated-pixelcnn/wide", "row-lstm/binary", "pixelsnail/binary"])
@pytest.mark.parametrize("setting", HOSTILE)
def test_settings_around_the_codec_change_nothing(name: str, setting: str) -> None:
    codec, levels = _codec(name), images_of(_codec(name).spec, 17, seed=2)
    expected, payload = codec.execution("float32").logits(levels), codec.encode(levels)
    with HOSTILE[setting]():
        before = _settings()
        assert torch.equal(codec.execution("float32").logits(levels), expected)
        assert codec.encode(levels) == payload
        if name == "gated-pixelcnn/wide":
            assert torch.equal(codec.decode(payload, 17), levels)
        assert _settings() == before


def test_another_default_device_changes_nothing() -> None:
    codec, levels = lower(model_of("gated-pixelcnn", GRAY), images_of(GRAY, 8)), images_of(GRAY, 3, seed=2)
    with torch.device("meta"):
        payload = codec.encode(levels)
        found = codec.decode(payload, 3)
    assert torch.equal(found, levels)
    assert payload == codec.encode(levels)


def test_these_settings_are_in_force_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, levels = _codec("gated-pixelcnn/wide"), images_of(BINARY, 17, seed=2)
    expected = codec.execution("float32").logits(levels)
    monkeypatch.setattr(execution_module, "exact_arithmetic", contextlib.nullcontext)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(codec.execution("float32").logits(levels), expected)


def test_settings_return_after_an_error() -> None:
    with _precision("medium"), _onednn("conv"):
        before = _settings()
        with contextlib.suppress(ValueError), exact_arithmetic():
            assert _settings()[1:3] == ("ieee", "ieee")
            raise ValueError
        assert _settings() == before


# What is refused


class _Mean(torch.nn.Module):
    """A layer with a rule of its own: the mean of all earlier pixels."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        count = torch.arange(flat.shape[2]).clamp(min=1)
        return ((flat.cumsum(2) - flat) / count).view(x.shape)

    def reads(self) -> tuple[object, ...]:
        from pixelloom.layers.reads import Earlier, Read

        return (Read(Earlier()),)

    def at(self, x: Tensor, present: Tensor) -> Tensor:
        return (x * present[..., None]).sum(1) / present.sum(1, keepdim=True).clamp(min=1)


def test_a_layer_without_a_rule_is_named() -> None:
    model = model_of("gated-pixelcnn", GRAY)
    model.network = torch.nn.Sequential(_Mean(), torch.nn.Conv2d(1, 17, 1))
    with pytest.raises(ModelError, match=r"^0 .*cannot be lowered|^0: .*no parallel pass"):
        lower(model, images_of(GRAY, 2))


def test_a_function_without_a_rule_is_named() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model_of("gated-pixelcnn", GRAY).network

        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = self.inner(x)
            return torch.maximum(h, -h)

    model = model_of("gated-pixelcnn", GRAY)
    model.network = Odd()
    with pytest.raises(ModelError, match="'maximum' cannot be lowered"):
        lower(model, images_of(GRAY, 2))


def test_several_pixel_orders_are_refused() -> None:
    model = model_of("made", GRAY, orders=2)
    with pytest.raises(ModelError, match=r"a model with .*pixel orders"):
        lower(model, images_of(model.spec, 2))


def classed(name: str) -> PixelModel:
    """A class-conditional model with random weights."""
    return model_of(name, GRAY, classes=3, **({"channels": 8, "blocks": 1} if name == "pixelcnn" else {}))


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn", "pixelcnn-pp", "row-lstm", "pixel-transformer"])
def test_an_export_is_of_one_class_or_the_null_class(name: str) -> None:
    model, images = classed(name), images_of(GRAY, 12)
    found = {}
    for label in (1, 2, None):
        codec = lower(model, images, label=label)
        ideal, exact = entropy(codec, images), -model.log_prob(images, label) / math.log(2)
        torch.testing.assert_close(ideal, exact, rtol=5e-3, atol=0.5)
        for other in (0, 1, 2, None):  # the bits of the other classes are further away
            if other != label:
                far = (ideal + model.log_prob(images, other) / math.log(2)).abs().sum()
                assert far > 2 * (ideal - exact).abs().sum()
        assert torch.equal(codec.decode(codec.encode(images), len(images)), images)
        assert codec.card["class"] == (None if label is None else str(label))
        found[label] = codec.identity
    assert len(set(found.values())) == 3
    assert lower(model, images, label="1").identity == found[1]


def test_a_class_that_the_model_lacks_is_refused() -> None:
    model, images = classed("gated-pixelcnn"), images_of(GRAY, 4)
    with pytest.raises(UsageError, match="class"):
        lower(model, images, label=4)
    with pytest.raises(UsageError, match="class"):
        lower(model, images, label="cat")
    model.description = model.description.model_copy(update={"null_class": False})
    with pytest.raises(UsageError, match=r"^labels: a class is needed"):
        lower(model, images)
    assert lower(model, images, label=0).identity
    with pytest.raises(UsageError, match=r"^labels: this model is unconditional"):
        lower(model_of("gated-pixelcnn", GRAY), images, label=0)
