"""Apple's MPS: what can be known without one. Training uses no float64, which MPS lacks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pixelloom as pl
from commands import caller
from pixelloom.core.errors import UsageError
from pixelloom.core.types import Batch
from pixelloom.data.catalog import load
from pixelloom.data.stream import Stream
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.fabric import choose_device, choose_precision
from pixelloom.models.parallel import places
from pixelloom.runs.families import set_up
from pixelloom.runs.plan import planned
from small_models import TINY

MPS = TrainConfig(device="mps")


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_a_machine_without_one_says_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = r"device: 'mps' was requested, but there is no MPS device here; available: 'cpu'\."
    with pytest.raises(UsageError, match=said):
        choose_device(MPS)
    run = caller(capsys)
    for words in (("sample", "digits"), ("train", "digits"), ("evaluate", "digits"), ("score", "digits")):
        found = run(*words, "--device", "mps")
        assert found.code == 2
        assert "no MPS device here; available: 'cpu'." in found.err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError, match="available: 'cpu', 'cuda'"):
        choose_device(MPS)


@pytest.mark.usefixtures("mps")
def test_it_is_used_when_asked_for_and_in_fp32() -> None:
    assert choose_device(MPS) == "mps"
    assert choose_device(TrainConfig(device="cpu")) == "cpu"
    assert choose_device(TrainConfig()) == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_precision(MPS, "mps") == "32-true"
    with pytest.raises(UsageError, match="this mps has no bf16 arithmetic; available: 'fp32'"):
        choose_precision(TrainConfig(device="mps", precision="bf16"), "mps")
    with pytest.raises(UsageError, match="devices: 2 were requested, available here: 1 MPS devices"):
        places(torch.device("mps"), 2)


def test_pixel_models_sample_and_score_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    model = pl.load("digits")
    with caplog.at_level(logging.WARNING, "pixelloom"):
        assert model.to("mps").device.type == "cpu"
    assert "MPS has no float64" in caplog.text


class NoFloat64(TorchDispatchMode):
    """Refuses float64 tensors, as MPS does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{func}: float64")
        return found


RUNS = {
    "digits": TINY,
    "mnist-gray": {"data.source": "digits", "data.limit": 64, "model.channels": 8, "model.blocks": 1},
    "dcgan": {"data.source": "digits", "data.size": 16, "data.limit": 64, "model.generator_width": 4,
              "model.discriminator_width": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_no_pass_of_training_needs_float64(name: str, tmp_path: Path) -> None:
    config, _ = planned(name, out=tmp_path / "run", overrides=RUNS[name])
    setup = set_up(config, load(config.data))
    objective = setup.objective()
    batch = Stream(setup.data.train, setup.data.spec, 8, dynamic=setup.data.dynamic).batch_at(0)
    for phase in objective.phases:
        optimizer = torch.optim.Adam([p for p in phase.module.parameters() if p.requires_grad])
        with NoFloat64():
            loss, _ = phase.loss(Batch(batch.images, batch.labels))
            loss.backward()
            optimizer.step()
    with pytest.raises(TypeError, match="float64"), NoFloat64():
        torch.zeros(1).double()
