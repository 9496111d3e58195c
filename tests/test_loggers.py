"""``--logger``: TensorBoard, Trackio and Weights & Biases get the statistics and metrics of a run."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

import pixelloom as pl
from commands import Command, caller
from engine_toys import config, one_phase, train
from pixelloom.core.errors import UsageError
from pixelloom.engine import loggers
from pixelloom.engine.hooks import Validate
from pixelloom.engine.loggers import TensorBoard, Trackio, WeightsAndBiases, check_logger, make_logger
from small_models import TINY

SMALL = TINY | {"samples": 0, "train.sample_every": 10**6, "train.threads": 1, "train.batch": 16}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


class Service:
    """A stand-in for the module ``wandb``, with what its documentation says of init, define_metric, log and finish.

    https://docs.wandb.ai/ref/python/init and /ref/python/run; the service itself is not tested.
    """

    __spec__ = ModuleSpec("wandb", None)

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.axes: list[tuple[str, str | None]] = []
        self.logged: list[dict[str, float]] = []
        self.finished = 0
        self.fails = False

    def init(
        self, *, project: str, name: str, id: str, dir: str, config: dict[str, Any], resume: str
    ) -> types.SimpleNamespace:
        self.begun.append({"project": project, "name": name, "id": id, "dir": dir, "config": config, "resume": resume})
        return types.SimpleNamespace(define_metric=self.define_metric, log=self.log, finish=self.finish)

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes.append((name, step_metric))

    def log(self, data: dict[str, float], step: int | None = None) -> None:
        print("a line of the client")  # noqa: T201
        if self.fails:
            raise ConnectionError("no network")
        assert step is None  # its own steps may not go back, as those of a resumed run do
        self.logged.append(data)

    def finish(self, exit_code: int | None = None) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)  # type: ignore[arg-type]
    return service


def absent(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found: Callable[..., Any] = loggers.importlib.util.find_spec
    monkeypatch.setattr(
        loggers.importlib.util, "find_spec", lambda name, *more: None if name in names else found(name, *more)
    )


def test_wandb_gets_statistics_metrics_and_the_configuration(
    wandb: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "digits"
    train(one_phase(), config(validate_every=40), None, WeightsAndBiases(run, 5), Validate())
    (begun,) = wandb.begun
    assert (begun["project"], begun["name"], begun["dir"], begun["resume"]) == (
        "pixelloom",
        "digits",
        str(run),
        "allow",
    )
    assert begun["id"].startswith("digits-")
    assert wandb.axes == [("step", None), ("*", "step")]
    steps = [
        (line["step"], *sorted(name for name in line if "/" in name and "loss" not in name)) for line in wandb.logged
    ]
    assert [step for step, *names in steps if "train/bits" in names] == [5, 10, 15, 20]
    assert [step for step, *names in steps if "val/bits" in names] == [10, 20]
    assert wandb.finished == 1
    assert capsys.readouterr().out == ""  # results alone go there


def test_a_resumed_run_continues_that_of_the_service(wandb: Service, tmp_path: Path) -> None:
    overrides = SMALL | {"train.logger": "wandb", "train.checkpoint_every": 32}
    pl.train("digits", images=64, out=tmp_path / "run", overrides=overrides)
    pl.train("digits", images=96, out=tmp_path / "run", resume=True, overrides=overrides)
    first, second = wandb.begun
    assert first["id"] == second["id"]
    assert first["config"]["recipe"] == "digits"
    pl.train("digits", images=32, out=tmp_path / "other" / "run", overrides=overrides)
    assert wandb.begun[2]["id"] != first["id"]


def test_a_service_that_fails_ends_no_run(wandb: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wandb.fails = True
    with caplog.at_level(logging.WARNING, "pixelloom"):
        state = train(one_phase(), config(validate_every=40), None, WeightsAndBiases(tmp_path, 5), Validate())
    assert state.step == 20
    assert [record.getMessage() for record in caplog.records] == ["wandb: no network; the run goes on without it"]


@pytest.mark.browser  # needs the extra trackio
def test_trackio_keeps_statistics_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trackio import context_vars, sqlite_storage, utils

    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    train(one_phase(), config(validate_every=40), None, Trackio(tmp_path / "digits", 5), Validate())
    assert context_vars.current_run.get() is None  # else it would print to standard output when the process ends
    storage = sqlite_storage.SQLiteStorage
    (name,) = storage.get_runs("pixelloom")
    assert name.startswith("digits-")
    found = storage.get_logs("pixelloom", name)
    assert [line["step"] for line in found if "train/bits" in line] == [5, 10, 15, 20]
    assert [line["step"] for line in found if "val/bits" in line] == [10, 20]


def test_a_missing_package_is_an_error_before_training(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "wandb", "trackio")
    for name in ("wandb", "trackio"):
        said = command("train", "digits", "--images", 64, "--logger", name)
        assert said.code == 2
        missing = (
            f"pixelloom: logger: {name} is not installed; pip install 'pixelloom[{name}]', or choose --logger none\n"
        )
        assert said.err == missing
        assert not Path("runs").exists()
    assert command("train", "digits", "--logger", "mlflow").code == 2


def test_auto_is_tensorboard_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert make_logger("none", tmp_path) is None
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: object())
    assert isinstance(make_logger("auto", tmp_path), TensorBoard)
    assert isinstance(make_logger("tensorboard", tmp_path), TensorBoard)
    absent(monkeypatch, "tensorboard")
    assert make_logger("auto", tmp_path) is None
    with pytest.raises(UsageError, match=r"pip install 'pixelloom\[tensorboard\]'"):
        check_logger("tensorboard")


def test_none_writes_no_events(tmp_path: Path) -> None:
    pl.train("digits", images=32, out=tmp_path / "run", overrides=SMALL | {"train.logger": "none"})
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert (tmp_path / "run" / "metrics.jsonl").exists()
