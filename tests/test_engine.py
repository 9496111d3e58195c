"""The loop: resumption to the same bits, the files of a run, phases, divergence."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine_toys import (
    OBJECTIVES,
    At,
    N,
    Steps,
    config,
    newest,
    one_phase,
    one_thread,  # noqa: F401  # a fixture for every test here
    same,
    stream,
    train,
    two_phases,
    weights,
)
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.rng import seed_of
from pixelloom.core.types import Batch
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.hooks import Validate
from pixelloom.engine.loop import _phase_step
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.engine.signals import Interrupted
from pixelloom.engine.state import Hook, Run
from pixelloom.objectives.base import Objective, OptimConfig

Loss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]

# Resumption


@pytest.mark.parametrize("family", OBJECTIVES)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cut", [5, 8])  # inside the first epoch, and at its very end (32 images, batch 4)
def test_resumed_run_ends_with_the_same_bits(tmp_path: Path, family: str, workers: int, cut: int) -> None:
    conf = config(ema=0.1, accumulate=2, workers=workers)
    train(OBJECTIVES[family](), conf.model_copy(update={"workers": 0}), tmp_path / "whole", Validate())
    stop = At(cut - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as stopped:
        train(OBJECTIVES[family](), conf, tmp_path / "cut", Validate(), stop)
    assert stopped.value.exit_code == 143
    assert newest(tmp_path / "cut").stem == f"step-{cut:09d}"
    resumed = OBJECTIVES[family]()
    with torch.no_grad():
        for parameter in resumed.parts[resumed.ema_part].parameters():
            parameter.zero_()  # all must come from the file
    state = train(resumed, conf, tmp_path / "cut", Validate(), resume=True)
    whole, whole_meta = load_tensors(newest(tmp_path / "whole"))
    cut_up, cut_meta = load_tensors(newest(tmp_path / "cut"))
    assert (state.step, state.images) == (20, 80)
    assert same(whole, cut_up)  # parts, EMA and both moments of every optimizer
    assert cut_meta["state"] | {"seconds": 0} == whole_meta["state"] | {"seconds": 0}
    assert same(weights(resumed), {k.removeprefix("part/"): v for k, v in whole.items() if k.startswith("part/")})


@pytest.mark.parametrize("family", ["one", "two"])
def test_crash_between_checkpoints_is_made_up(tmp_path: Path, family: str) -> None:
    def crash() -> None:
        raise RuntimeError("power cut")

    conf = config(checkpoint_every=12)
    train(OBJECTIVES[family](), conf, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        train(OBJECTIVES[family](), conf, tmp_path / "cut", At(8, crash))
    assert newest(tmp_path / "cut").stem == "step-000000006"
    train(OBJECTIVES[family](), conf, tmp_path / "cut", resume=True)
    assert same(load_tensors(newest(tmp_path / "whole"))[0], load_tensors(newest(tmp_path / "cut"))[0])


def test_resume_does_not_depend_on_dropout_being_off(tmp_path: Path) -> None:
    """The guard can fail: with another seed the dropout differs, and so do the weights."""
    a, b = one_phase(), one_phase()
    train(a, config(images=16))
    train(b, config(images=16, seed=1))
    assert not same(weights(a), weights(b))


def test_longer_budget_goes_on_and_finished_run_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(one_phase(), config(images=40), tmp_path)
    before = newest(tmp_path).read_bytes()
    with caplog.at_level(logging.WARNING, "pixelloom"):
        assert train(one_phase(), config(images=40), tmp_path, resume=True).step == 10
    assert f"{tmp_path}: the budget is used up after 40 images" in caplog.text
    caplog.clear()
    assert newest(tmp_path).read_bytes() == before
    with caplog.at_level(logging.WARNING, "pixelloom"):
        assert train(one_phase(), config(images=60, seed=9), tmp_path, resume=True).step == 15
    assert "seed=0, now it is 9" in caplog.text
    assert "used up" not in caplog.text


def test_resume_in_an_empty_folder_begins(tmp_path: Path) -> None:
    assert train(one_phase(), config(images=8), tmp_path, resume=True).step == 2


def test_resume_falls_back_to_the_checkpoint_that_verifies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(one_phase(), config(checkpoint_every=8), tmp_path)
    good, bad = sorted((tmp_path / "checkpoints").glob("step-*"))
    content = bytearray(bad.read_bytes())
    content[-5] ^= 1
    bad.write_bytes(content)
    with caplog.at_level(logging.WARNING, "pixelloom"):
        steps: list[int] = []
        train(one_phase(), config(), tmp_path, Steps(steps), resume=True)
    assert steps[0] == int(good.stem[5:]) + 1 == 19
    assert str(bad) in caplog.text
    assert f"Resuming from {good}" in caplog.text
    for path in (tmp_path / "checkpoints").glob("*"):
        path.write_bytes(b"")
    with pytest.raises(ModelError, match="no checkpoint can be resumed"):
        train(one_phase(), config(), tmp_path, resume=True)


def test_resume_refuses_another_model_and_names_the_keys(tmp_path: Path) -> None:
    train(one_phase(), config(images=8), tmp_path)
    other = one_phase()
    other.parts["net"][0] = nn.Conv2d(1, 9, 3, padding=1)
    other.parts["net"].add_module("extra", nn.Linear(2, 2))
    with pytest.raises(ModelError) as caught:
        train(other, config(images=8, ema=0.1), tmp_path, resume=True)
    text = str(caught.value)
    assert text.count("missing") == 5  # of the EMA
    with pytest.raises(ModelError) as caught:
        train(other, config(images=8), tmp_path, resume=True)
    text = str(caught.value)
    assert "part/net/0.bias is float32 [8], needed float32 [9]" in text
    assert "part/net/0.weight is float32 [8, 1, 3, 3], needed float32 [9, 1, 3, 3]" in text
    assert "part/net/extra.weight is missing" in text


# Files of a run


def test_keeps_two_steps_and_the_best(tmp_path: Path) -> None:
    train(one_phase(), config(checkpoint_every=4), tmp_path, Validate())
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.safetensors", "step-000000019.safetensors", "step-000000020.safetensors"]
    _, meta = load_tensors(tmp_path / "checkpoints/best.safetensors")
    assert meta["state"]["best_step"] == meta["state"]["step"]
    assert meta["config"]["images"] == 80


def test_unwritable_folder_is_found_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    steps: list[int] = []
    with pytest.raises(UsageError, match="file/checkpoints cannot be written"):
        train(one_phase(), config(), tmp_path / "file", Steps(steps))
    full = os.statvfs_result((4096, 4096, 10, 10, 1, 9, 9, 9, 0, 255))  # 4096 bytes free
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    big = one_phase()
    big.parts["net"].add_module("big", nn.Linear(100, 100))
    with pytest.raises(UsageError, match=r"needs \d+ bytes, 4096 are free"):
        train(big, config(), tmp_path / "full", Steps(steps))
    assert steps == []


def test_stale_temporaries_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/.step-000000001.safetensors.99.part").write_bytes(b"half")
    train(one_phase(), config(images=4), tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000001.safetensors"]


# Phases


def _ready(objective: Objective, **given: object) -> tuple[Run, Iterator[Batch]]:
    conf = config(**given)
    fabric = make_fabric(conf)
    run = Run(objective, conf, fabric, N)
    return run, stream(conf, fabric)(0)


@pytest.mark.parametrize(("index", "moves", "stays"), [(0, "D", "G"), (1, "G", "D")])
def test_a_phase_moves_its_own_module_only(index: int, moves: str, stays: str) -> None:
    objective = two_phases()
    run, data = _ready(objective)
    before = {name: [p.clone() for p in part.parameters()] for name, part in objective.parts.items()}
    _phase_step(run, run.phases[index], index, next(data))
    for old, new in zip(before[stays], objective.parts[stays].parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None
    for old, new in zip(before[moves], objective.parts[moves].parameters(), strict=True):
        assert not torch.equal(old, new)
        assert new.grad is None  # taken back after the step


def test_frozen_parameters_stay_frozen() -> None:
    objective = one_phase()
    objective.parts["net"][0].weight.requires_grad_(False)
    before = weights(objective)
    train(objective, config(images=16))
    after = weights(objective)
    assert torch.equal(before["net/0.weight"], after["net/0.weight"])
    assert not torch.equal(before["net/3.weight"], after["net/3.weight"])


def test_a_phase_can_run_every_third_step() -> None:
    seen: list[set[str]] = []

    class Note(Hook):
        def on_step(self, run: Run, stats: dict[str, float]) -> None:
            seen.append(set(stats))

    train(two_phases(interval=3), config(images=28), None, Note())
    assert ["g_loss" in names for names in seen] == [True, False, False, True, False, False, True]
    assert all({"d_loss", "D/loss", "D/norm", "D/rate"} <= names for names in seen)


def test_noise_is_new_each_time_and_a_function_of_where_it_is_drawn() -> None:
    def drawn(seed: int, *hooks: Hook) -> list[float]:
        objective, noise = two_phases(), []
        for phase in objective.phases:

            def loss(batch: Batch, original: Loss = phase.loss) -> tuple[Tensor, dict[str, Tensor]]:
                noise.append(torch.rand(()).item())
                return original(batch)

            object.__setattr__(phase, "loss", loss)
        train(objective, config(images=12, accumulate=2, seed=seed), None, *hooks)
        return noise

    first = drawn(0)
    assert len(set(first)) == len(first) == 3 * 2 * 2  # steps, phases, micro-batches
    assert drawn(0, At(1, lambda: torch.rand(7))) == first  # whatever others draw in between
    assert set(first).isdisjoint(drawn(1))
    assert len({seed_of(0, 0, rank, 0, 0) for rank in range(1000)}) == 1000


def test_accumulated_gradients_equal_those_of_one_big_batch() -> None:
    plain = OptimConfig(kind="sgd", lr=0.1, betas=(0.9, 0.0))
    whole, parts = one_phase(0.0, plain), one_phase(0.0, plain)
    train(whole, config(batch=16, images=160))
    train(parts, config(batch=16, images=160, accumulate=8))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-5, atol=1e-6)


def test_gradient_is_clipped_to_its_total_norm() -> None:
    objective = one_phase(0.0, OptimConfig(kind="sgd", lr=1.0, betas=(0.0, 0.0), clip=1e-3))
    before = weights(objective)
    train(objective, config(images=4))
    moved = torch.stack([(v - before[k]).norm() for k, v in weights(objective).items()]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)


# Divergence


def _diverging(at: int, how: str) -> Objective:
    """Two phases whose second goes wrong in step ``at``."""
    objective = two_phases()
    count = iter(range(1000))
    original = objective.phases[1].loss

    def loss(batch: object) -> tuple[Tensor, dict[str, Tensor]]:
        value, stats = original(batch)
        if next(count) == at:
            weight = objective.parts["G"][0].weight
            bad = {
                "nan": weight.sum() * float("nan"),
                "inf": weight.sum().abs() / 0,
                "grad": (weight * 0).sqrt().sum(),
                "loss": float("inf"),
            }
            value = value + bad[how]
        return value, stats

    object.__setattr__(objective.phases[1], "loss", loss)
    return objective


@pytest.mark.parametrize("how", ["nan", "inf", "grad", "loss"])
def test_divergence_stops_before_the_weights_are_touched(tmp_path: Path, how: str) -> None:
    sound, broken = two_phases(), _diverging(7, how)
    seen: dict[str, Tensor] = {}
    train(sound, config(), None, At(7, lambda: seen.update(weights(sound))))
    with pytest.raises(ModelError, match=r"diverged at step 7, phase 'G'") as caught:
        train(broken, config(checkpoint_every=12), tmp_path)
    path = tmp_path / "checkpoints/step-000000006.safetensors"
    assert f"The checkpoint {path} is intact" in str(caught.value)
    assert str(caught.value).endswith("or clip the gradient.")
    load_tensors(path)
    for name, parameter in broken.parts["G"].named_parameters():
        assert torch.equal(parameter, seen[f"G/{name}"])


def test_divergence_in_bf16_names_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    with pytest.raises(ModelError, match=r"or set --precision fp32 \(now bf16\)\.$"):
        train(_diverging(0, "nan"), config(precision="bf16"), None)


def _too_much() -> None:
    torch.empty(1 << 55)


def _gpu_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("act", [_too_much, _gpu_full])
def test_lack_of_memory_names_the_remedy(act: Callable[[], None]) -> None:
    with pytest.raises(UsageError, match=r"batch: 4 images .* raise accumulate"):
        train(one_phase(), config(), None, At(2, act))


def test_weights_that_overflow_are_never_saved(tmp_path: Path) -> None:
    objective = one_phase()
    overflow = At(2, lambda: objective.parts["net"][0].weight.data.mul_(float("inf")))
    with pytest.raises(ModelError, match=r"diverged at step 2: weights .*step-000000001\.safetensors is intact"):
        train(objective, config(checkpoint_every=4), tmp_path, overflow)
    assert [p.stem for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]
