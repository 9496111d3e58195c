"""Schedules, optimizers, the EMA, budgets, devices and hooks: numbers against closed forms."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from torch import Tensor, nn

from engine_toys import (
    At,
    N,
    config,
    one_phase,
    one_thread,  # noqa: F401  # a fixture for every test here
    same,
    stream,
    train,
    weights,
)
from pixelloom.core.errors import UsageError
from pixelloom.engine import fabric as fabric_module
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.fabric import choose_precision, describe, make_fabric
from pixelloom.engine.hooks import EverySamples, MetricsWriter, Progress, Validate
from pixelloom.engine.loggers import TensorBoard
from pixelloom.engine.loop import fit
from pixelloom.engine.muon import Muon, orthogonal
from pixelloom.engine.optim import EMA, build_optimizer, ema_gamma, rate
from pixelloom.engine.state import Hook, Run, State
from pixelloom.objectives.base import OptimConfig

# Optimizer, schedule, EMA


@pytest.mark.parametrize(
    ("given", "progress", "images", "expected"),
    [
        ({}, 0.5, 0, 1.0),
        ({"warmup": 1000}, 0.0, 64, 0.064),
        ({"warmup": 1000}, 0.0, 5000, 1.0),
        ({"decay": "linear"}, 0.25, 1, 0.75),
        ({"decay": "cosine"}, 0.0, 1, 1.0),
        ({"decay": "cosine"}, 0.5, 1, 0.5),
        ({"decay": "cosine"}, 1 / 3, 1, 0.75),
        ({"decay": "cosine"}, 1.7, 1, 0.0),
        ({"decay": "linear", "warmup": 100}, 0.5, 50, 0.25),
    ],
)
def test_rate(given: dict[str, object], progress: float, images: int, expected: float) -> None:
    conf = OptimConfig.model_validate({"lr": 2.0} | given)
    assert rate(progress, images, conf) == pytest.approx(2 * expected, abs=1e-12)


def test_rates_of_a_run_follow_the_schedule() -> None:
    seen: list[float] = []

    class Note(Hook):
        def on_step(self, run: Run, stats: dict[str, float]) -> None:
            seen.append(stats["net/rate"])

    train(one_phase(optim=OptimConfig(lr=1.0, warmup=12, decay="linear")), config(images=40), None, Note())
    assert seen == pytest.approx([min(1, (i + 1) / 3) * (1 - i / 10) for i in range(10)])


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_optimizer_steps_as_in_its_paper(kind: str) -> None:
    """Two steps on one weight against the formulas; the fused kernels read memory in storage order, so odd layouts."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    conf = OptimConfig.model_validate({"kind": kind, "lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.01})
    optimizer = build_optimizer([weight], conf)
    w = weight.detach().double().clone()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t in (1, 2):
        x = torch.randn(5, 3, 2, 2)
        (torch.nn.functional.conv2d(x, weight).square().sum()).backward()
        g = weight.grad.double().clone()
        optimizer.step()
        optimizer.zero_grad()
        if kind == "adamw":
            w = w * (1 - 0.1 * 0.01)
        else:
            g = g + 0.01 * w
        if kind == "sgd":
            m = g.clone() if t == 1 else 0.9 * m + g
            w = w - 0.1 * (g + 0.9 * m)
        else:
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            w = w - 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach().double(), w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (3, 8), (8, 3), (5, 5)])
def test_orthogonal_keeps_the_singular_vectors_and_levels_the_singular_values(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.stack([torch.randn(shape).flatten(1), 1e3 * torch.randn(shape).flatten(1)])
    for matrix, found in zip(matrices, orthogonal(matrices), strict=True):
        u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        inner = u.T @ found.double() @ v.T
        assert torch.allclose(inner, inner.diagonal().diag(), atol=1e-4)
        assert 0.65 < inner.diagonal().min() <= inner.diagonal().max() < 1.25


@pytest.mark.parametrize(("shape", "low"), [((16, 256), 0.65), ((64, 128), 0.65), ((128, 64), 0.65), ((128, 128), 0)])
def test_wide_matrices_become_nearly_orthogonal_and_square_ones_less_so(shape: tuple[int, int], low: float) -> None:
    torch.manual_seed(0)
    found = orthogonal(torch.randn(10, *shape))
    values = torch.linalg.svdvals(found)
    assert low <= values.min() < values.max() < 1.25
    assert (values.min() < 0.4) == (shape[0] == shape[1])
    rms = 0.2 * max(shape) ** 0.5 * found.square().mean((1, 2)).sqrt()
    assert 0.15 < rms.min() < rms.max() < 0.19


@pytest.mark.parametrize("shape", [(4, 12), (64, 480), (480, 64)])
@pytest.mark.parametrize("smallest", [1.0, 1e-5])
def test_wide_matrices_take_the_same_step_by_fewer_products(shape: tuple[int, int], smallest: float) -> None:
    """As the polynomial of the matrix itself in float64, for equal singular values and for those down to 1e-5."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    matrices = u * torch.logspace(0, math.log10(smallest), min(shape)) @ v
    x = matrices.double() if shape[0] < shape[1] else matrices.double().mT
    x = x / x.norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    expected = x if shape[0] < shape[1] else x.mT
    assert (orthogonal(matrices) - expected).norm() < (1e-5 if smallest == 1 else 2e-3) * expected.norm()
    assert (orthogonal(matrices.double()) - expected).norm() < 1e-6 * expected.norm()  # 1e-7 is added to the norm


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_muon_is_torchs_at_adams_scale_up_to_rounding(weight_decay: float) -> None:
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(32, 64))
    theirs, begun = nn.Parameter(ours.detach().clone()), ours.detach().clone()
    steps = [
        Muon([ours], lr=0.01, weight_decay=weight_decay),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(5):
        ours.grad = torch.randn(32, 64)
        theirs.grad = ours.grad.clone()
        for optimizer in steps:
            optimizer.step()
    assert (ours - theirs).norm() < 0.05 * (ours - begun).norm()


def test_muon_steps_as_in_its_paper() -> None:
    """Matrices, convolutions among them, by the polynomial of the momentum; all others as AdamW moves them."""
    torch.manual_seed(0)
    shapes = [(4, 3, 2, 2), (6, 5), (4, 3, 2, 2), (4, 1, 1), (6,), (1, 5)]
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    weights[0].data = weights[0].data.contiguous(memory_format=torch.channels_last)
    twins = [nn.Parameter(w.detach().clone()) for w in weights[3:]]
    conf = OptimConfig(kind="muon", lr=0.1, betas=(0.95, 0.99), weight_decay=0.01)
    optimizer = build_optimizer(weights, conf)
    reference = build_optimizer(twins, conf.model_copy(update={"kind": "adamw"}))
    expected = [w.detach().double().clone() for w in weights[:3]]
    momenta = [torch.zeros_like(w) for w in expected]
    for _ in range(3):
        for i, weight in enumerate(weights):
            weight.grad = torch.randn(shapes[i])
            if i >= 3:
                twins[i - 3].grad = weight.grad.clone()
                continue
            gradient = weight.grad.double()
            momenta[i] = 0.95 * momenta[i] + 0.05 * gradient
            x = (0.05 * gradient + 0.95 * momenta[i]).flatten(1)
            x = x / x.norm()
            for _ in range(5):
                gram = x @ x.T
                x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
            size = 0.2 * math.sqrt(max(x.shape))
            expected[i] = (1 - 0.1 * 0.01) * expected[i] - 0.1 * size * x.view(shapes[i])
        optimizer.step()
        reference.step()
        optimizer.zero_grad()
    for weight, value in zip(weights[:3], expected, strict=True):
        torch.testing.assert_close(weight.detach().double(), value, rtol=1e-4, atol=1e-4)
    for weight, twin in zip(weights[3:], twins, strict=True):
        assert torch.equal(weight, twin)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])  # the two pairs printed in the paper
def test_gamma_of_the_paper(sigma_rel: float, gamma: float) -> None:
    assert ema_gamma(sigma_rel) == pytest.approx(gamma, abs=0.005)


SIGMAS = [1e-4, 0.003, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.28, 0.2886, 12**-0.5]


@pytest.mark.parametrize("sigma_rel", SIGMAS)
def test_gamma_inverts_the_closed_form(sigma_rel: float) -> None:
    """Eq. 3 of Karras et al. 2024; of its two solutions the one with gamma >= 0, which favors late weights."""
    gamma = ema_gamma(sigma_rel)
    assert gamma >= 0
    assert (gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5 == pytest.approx(sigma_rel, rel=1e-13)


@pytest.mark.parametrize("sigma_rel", SIGMAS)
def test_gamma_inverts_the_width_of_the_profile_by_integration(sigma_rel: float) -> None:
    """The standard deviation of the density u^gamma on [0, 1], by Gauss-Legendre quadrature of its moments."""
    gamma = ema_gamma(sigma_rel)
    # In s = 1 - u the density (1 - s)^gamma is concentrated at s of about 1 / gamma; no panel is wider than a tenth.
    edges = np.linspace(0, min(1.0, 60 / (gamma + 1)), 401)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    half = np.diff(edges)[:, None] / 2
    s = edges[:-1, None] + half * (nodes + 1)
    density = half * weights * (1 - s) ** gamma
    mean = (density * s).sum() / density.sum()
    variance = (density * (s - mean) ** 2).sum() / density.sum()
    assert math.sqrt(variance) == pytest.approx(sigma_rel, rel=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.29, float("nan")])
def test_widths_that_no_profile_has_are_refused(sigma_rel: float) -> None:
    with pytest.raises(ValueError, match="sigma_rel"):
        ema_gamma(sigma_rel)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.2])
def test_ema_has_the_requested_width(sigma_rel: float) -> None:
    """The weight of step t in the EMA of T steps is (t^e - (t - 1)^e) / T^e with e = gamma + 1."""
    e, total = ema_gamma(sigma_rel) + 1, 20_000
    t = np.arange(1, total + 1) / total
    share = t**e - (t - 1 / total) ** e
    mean = (share * t).sum()
    assert share.sum() == pytest.approx(1)
    assert math.sqrt((share * (t - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-3)


def test_ema_equals_its_closed_form_and_copies_buffers() -> None:
    module = nn.BatchNorm1d(2)
    ema = EMA(module, 0.1)
    steps = 30
    values = torch.randn(steps, 2, generator=torch.Generator().manual_seed(0))
    for t in range(1, steps + 1):
        with torch.no_grad():
            module.weight.copy_(values[t - 1])
            module.running_mean.copy_(10 * values[t - 1])
            module.num_batches_tracked.fill_(t)
        ema.update(t)
    e = ema_gamma(0.1) + 1
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    share = (t**e - (t - 1) ** e) / steps**e
    expected = (share[:, None] * values.double()).sum(0).float()
    torch.testing.assert_close(ema.module.weight.detach(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(ema.module.running_mean, 10 * values[-1])
    assert ema.module.num_batches_tracked.item() == steps
    assert not ema.module.training
    assert module.training


def test_users_get_the_ema_and_training_goes_on_in_train_mode() -> None:
    drawn: list[tuple[bool, Tensor]] = []

    def draw(module: nn.Module, state: State) -> None:
        drawn.append((module.training, module[0].weight.detach().clone()))

    raw, with_ema = one_phase(), one_phase()
    train(raw, config(sample_every=40), None, EverySamples(draw))
    assert len(drawn) == 2
    assert torch.equal(drawn[1][1], raw.parts["net"][0].weight)
    assert not drawn[0][0]
    assert raw.parts["net"].training
    train(with_ema, config(ema=0.1), None, EverySamples(draw))
    assert same(weights(raw), weights(with_ema))  # the EMA does not change the training
    assert len(drawn) == 12
    assert not torch.equal(drawn[-1][1], drawn[1][1])


# Budgets and moments


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"images": 40}, 10),
        ({"images": 41}, 11),
        ({"images": None, "epochs": 0.5}, 4),
        ({"images": None}, 8),  # one epoch
        ({"images": 40, "epochs": 0.5}, 4),
        ({"images": 12, "epochs": 100, "minutes": 100}, 3),
    ],
)
def test_first_budget_reached_ends_the_run(given: dict[str, object], expected: int) -> None:
    assert train(one_phase(), config(**given)).step == expected


def test_minutes_end_a_run_and_drive_the_schedule() -> None:
    conf = config(images=None, minutes=0.5 / 60)
    objective = one_phase(optim=OptimConfig(lr=1.0, decay="linear"))
    seen: list[tuple[float, float]] = []

    class Note(Hook):
        def on_step(self, run: Run, stats: dict[str, float]) -> None:
            seen.append((run.progress, stats["net/rate"]))

    state = train(objective, conf, None, Note())
    assert 0.5 <= state.seconds < 2
    for (progress, _), (_, next_rate) in itertools.pairwise(seen):
        assert next_rate == pytest.approx(1 - progress)


@pytest.mark.parametrize(
    ("every", "expected"), [(None, list(range(1, 21))), (24, [6, 12, 18, 20]), (10, [3, 5, 8, 10, 13, 15, 18, 20])]
)
def test_validation_at_its_moments_and_at_the_end(every: int | None, expected: list[int]) -> None:
    steps: list[int] = []

    class Note(Hook):
        def on_validation(self, run: Run, metrics: dict[str, float]) -> None:
            steps.append(run.state.step)

    train(one_phase(), config(validate_every=every), None, Validate(), Note())
    assert steps == expected


def test_best_is_the_lowest_monitored_value() -> None:
    objective = one_phase()
    values = iter([3.0, float("nan"), 2.0, float("-inf"), 2.5, 1.0, 4.0, 4.0, 4.0, 4.0])
    object.__setattr__(objective.monitor, "measure", lambda _: {"bits": next(values)})
    best: list[tuple[int, float]] = []
    validate = Validate(lambda module, metrics, state: best.append((state.step, metrics["bits"])))
    state = train(objective, config(validate_every=8), None, validate)
    assert best == [(2, 3.0), (6, 2.0), (12, 1.0)]
    assert (state.best, state.best_step) == (1.0, 12)


# Devices


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"devices": 4096}, r"devices: 4096 were requested, available here: \d+ CPU cores"),
        ({"batch": 5, "accumulate": 1, "devices": 2}, "batch: 5 images cannot be shared evenly by 2 processes"),
        pytest.param(
            {"device": "cuda"},
            "no CUDA device here; available: 'cpu'",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA"),
        ),
    ],
)
def test_absent_devices_are_refused(given: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabric_module.os, "cpu_count", lambda: 2)
    with pytest.raises(UsageError, match=message):
        make_fabric(config(**given))


@pytest.mark.parametrize(
    ("asked", "has", "expected"),
    [
        ("auto", {}, "32-true"),
        ("auto", {"avx512_bf16": True}, "bf16-mixed"),
        ("auto", {"avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
        ("fp32", {"avx512_bf16": True}, "32-true"),
        ("bf16", {"amx_bf16": True}, "bf16-mixed"),
        ("bf16", {"avx512_bf16": False}, None),
    ],
)
def test_precision(asked: str, has: dict[str, bool], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    if expected is None:
        with pytest.raises(UsageError, match=r"no bf16 arithmetic; available: 'fp32'"):
            choose_precision(config(precision=asked), "cpu")
    else:
        assert choose_precision(config(precision=asked), "cpu") == expected


def test_mixed_precision_keeps_weights_and_losses_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    conf = config(precision="bf16", images=16)
    fabric = make_fabric(conf)
    assert describe(fabric) == "cpu, 1 process, 1 thread, bf16-mixed"
    objective, full = one_phase(0.0), one_phase(0.0)
    kinds: list[torch.dtype] = []
    objective.parts["net"][0].register_forward_hook(lambda _m, _i, output: kinds.append(output.dtype))
    fit(objective, stream(conf, fabric), conf, fabric, epoch=N)
    train(full, config(images=16))
    assert set(kinds) == {torch.bfloat16}
    assert {v.dtype for v in weights(objective).values()} == {torch.float32}
    assert not same(weights(objective), weights(full))
    for name, value in weights(full).items():
        torch.testing.assert_close(weights(objective)[name], value, rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    ("given", "field"),
    [({"batch": 0}, "batch"), ({"epoch": 3}, "epoch"), ({"ema": 0.5}, "ema"), ({"precision": "fp16"}, "precision"),
     ({"batch": 10, "accumulate": 4}, "accumulate=4")],
)  # fmt: skip
def test_configuration_is_checked(given: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        TrainConfig.model_validate(given)


# Hooks


def _lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_means_of_their_steps(tmp_path: Path) -> None:
    every: list[float] = []

    class Note(Hook):
        def on_step(self, run: Run, stats: dict[str, float]) -> None:
            every.append(stats["bits"])

    train(one_phase(), config(validate_every=40), None, Note(), MetricsWriter(tmp_path / "m.jsonl", 8), Validate())
    lines = _lines(tmp_path / "m.jsonl")
    assert [(line["split"], line["step"]) for line in lines] == [
        ("train", 8), ("val", 10), ("train", 16), ("train", 20), ("val", 20),
    ]  # fmt: skip
    train_lines = [line for line in lines if line["split"] == "train"]
    for line, (a, b) in zip(train_lines, [(0, 8), (8, 16), (16, 20)], strict=True):
        assert line["bits"] == pytest.approx(np.mean(every[a:b]))
        assert line["images"] == 4 * line["step"]
        assert line["epochs"] == line["images"] / N
    assert lines[1].keys() == {"split", "step", "images", "epochs", "seconds", "bits"}


def test_metrics_of_repeated_steps_are_dropped_on_resumption(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"

    def crash() -> None:
        raise RuntimeError("power cut")

    conf = config(checkpoint_every=12)
    with pytest.raises(RuntimeError, match="power cut"):
        train(one_phase(), conf, tmp_path, MetricsWriter(path, 1), At(8, crash))
    with path.open("a") as file:
        file.write('{"split": "train", "st')  # the line that the crash cut
    train(one_phase(), conf, tmp_path, MetricsWriter(path, 1), resume=True)
    assert [line["step"] for line in _lines(path)] == list(range(1, 21))
    train(one_phase(), config(images=8), None, MetricsWriter(path, 1))  # a new run, not a resumption
    assert [line["step"] for line in _lines(path)] == [1, 2]


def test_progress_in_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=200, force_terminal=False)
    train(one_phase(), config(validate_every=40), None, Progress(console), Validate())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("validation after 1.25 epochs: bits 0.")
    assert lines[1].startswith("100%  80 images  2.5 epochs  ")
    assert "images/s  bits 0." in lines[1]
    assert lines[1].endswith("0:00 left")


def test_progress_on_a_terminal_gives_it_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")  # rich moves no cursor where it is "dumb"
    console = Console(width=200, force_terminal=True, force_interactive=True)

    def crash() -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(one_phase(), config(), None, Progress(console), At(3, crash))
    assert capsys.readouterr().out.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is shown again


def test_tensorboard_events(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(one_phase(), config(validate_every=40), None, TensorBoard(tmp_path, 5), Validate())
    events = loader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("train/bits")] == [5, 10, 15, 20]
    assert [e.step for e in events.Scalars("val/bits")] == [10, 20]
