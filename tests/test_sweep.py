"""Sweeps: runs over a few values of one field, their table, and what a failed run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Command, caller
from pixelloom.core.errors import DataError, ModelError, PixelloomError, UsageError
from pixelloom.engine.signals import Interrupted
from pixelloom.runs.compose import read_yaml
from pixelloom.runs.folder import CONFIG, METRICS_FILE
from pixelloom.runs.sweep import SweepRow, best_of, carry_out_sweep, plan_sweep, row_of, table_of
from small_models import TINY

QUICK = [f"--{field}={value}" for field, value in TINY.items()]
QUICK += ["--samples=0", "--train.validate-every=100", "--train.sample-every=1000000", "--threads=1"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``run("train", "digits")``: the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """A run folder with these metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps({"images": 10 * (i + 1), **line}) + "\n" for i, line in enumerate(lines))
    (folder / METRICS_FILE).write_text(text, encoding="utf-8")
    return folder


def test_a_sweep_of_digits_names_the_value_of_the_lowest_likelihood(run: Command) -> None:
    said = run("train", "digits", "--sweep", "optim.lr", "1e-5,0.04", "--images", 400, *QUICK)
    assert said.code == 0, said.err
    header, *rows, best, folder = said.out.splitlines()
    assert header.split() == ["optim.lr", "bits/dim", "at", "the", "end", "loss", "images", "folder"]
    assert [row.split()[0] for row in rows] == ["1e-05", "0.04"]
    found = [float(row.split()[1]) for row in rows]
    assert found[1] < found[0] - 0.02  # a learning rate of 1e-5 leaves the weights where they were
    assert "best" in rows[1].split()
    assert best == f"best: --optim.lr 0.04 ({found[1]:.4g} bits/dim)"
    for row, value in zip(rows, (1e-5, 0.04), strict=True):
        settings = read_yaml(Path(row.split()[-1]) / CONFIG)
        assert settings["optim"]["lr"] == value
        assert settings["train"]["images"] == 400
    stored = json.loads((Path(folder) / "sweep.json").read_text(encoding="utf-8"))
    assert stored["field"] == "optim.lr"
    assert [entry["value"] for entry in stored["runs"]] == [1e-5, 0.04]
    assert [f"{entry['best']:.4g}" for entry in stored["runs"]] == [row.split()[1] for row in rows]

    again = run("train", "digits", "--sweep", "optim.lr", "1e-5,0.04,1e-3", "--resume", "--images", 400, *QUICK)
    assert again.code == 0, again.err
    assert again.out.splitlines()[1].split()[:2] == rows[0].split()[:2]  # the finished runs are not trained again
    assert again.out.splitlines()[-1] == folder
    assert again.err.count("best validation") <= 3
    taken = run("train", "digits", "--sweep", "optim.lr", "1e-3", "--images", 100, *QUICK)
    assert taken.out.splitlines()[-1] == f"{folder}-2"


def test_a_sweep_of_a_gan_shows_kid_and_the_loss_of_the_discriminator(run: Command) -> None:
    small = ["--model.generator_width=4", "--model.discriminator_width=4", "--samples=0", "--validation-images=40"]
    words = ["--data", "digits", "--size=16", "--images=64", "--threads=1", "--train.validate-every=32", *small]
    said = run("train", "dcgan", "--sweep", "penalties.r1", "0,1", "--out", "gamma", *words)
    assert said.code == 0, said.err
    header, *rows, best, folder = said.out.splitlines()
    assert header.split()[0] == "penalties.r1"
    assert header.split()[1].startswith("kid-")
    assert "d_loss" in header.split()
    assert folder == "gamma"
    for row, value in zip(rows, ("0", "1"), strict=True):
        lines = (Path("gamma") / f"penalties.r1={value}" / METRICS_FILE).read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        losses = [line["D/loss"] for line in found if line["split"] == "train"]
        kids = [line[header.split()[1]] for line in found if line["split"] == "val"]
        assert row.split()[0] == value
        assert row.split()[1:4] == [f"{min(kids):.4g}", f"{kids[-1]:.4g}", f"{losses[-1]:.4g}"]
        assert any("D/r1" in line for line in found) == (value == "1")
    assert best.startswith("best: --penalties.r1 ")


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    base, runs = plan_sweep("digits", "optim.lr", "1e-3,2e-3,4e-3", out=tmp_path / "sweep")
    trained = []

    def train(_: object, folder: Path, **__: object) -> None:
        trained.append(folder.name)
        if folder.name == "optim.lr=0.002":
            written(folder, [{"split": "val", "bits/dim": 1.0}])
            raise ModelError("training diverged at step 7")
        bits = 3.0 if folder.name == "optim.lr=0.001" else 2.5
        written(folder, [{"split": "train", "network/loss": bits}, {"split": "val", "bits/dim": bits}])

    rows = carry_out_sweep(base, "optim.lr", runs, train=train)
    assert trained == ["optim.lr=0.001", "optim.lr=0.002", "optim.lr=0.004"]
    assert [row.diverged for row in rows] == [False, True, False]
    best = best_of(rows)
    assert best is not None
    assert best.value == 0.004  # not the run that diverged, whose early model has 1.0 bits/dim
    header, body = table_of("optim.lr", rows)
    assert [row[header.index("")] for row in body] == ["", "diverged", "best"]


def test_if_all_runs_fail_the_first_error_is_raised(tmp_path: Path) -> None:
    base, runs = plan_sweep("digits", "optim.lr", [1e-3, 2e-3], out=tmp_path / "sweep")
    errors: list[PixelloomError] = [DataError("first"), UsageError("second")]

    def train(*_: object, **__: object) -> None:
        raise errors.pop(0)

    with pytest.raises(DataError, match="first"):
        carry_out_sweep(base, "optim.lr", runs, train=train)
    assert errors == []


def test_a_signal_stops_the_sweep(tmp_path: Path) -> None:
    base, runs = plan_sweep("digits", "optim.lr", [1e-3, 2e-3], out=tmp_path / "sweep")
    begun = []

    def train(_: object, folder: Path, **__: object) -> None:
        begun.append(folder)
        raise Interrupted("stopped by SIGTERM", 143)

    with pytest.raises(Interrupted):
        carry_out_sweep(base, "optim.lr", runs, train=train)
    assert len(begun) == 1


def test_a_run_that_ends_worse_than_it_began_diverged(tmp_path: Path) -> None:
    def row(*bits: float) -> SweepRow:
        return row_of(1.0, written(tmp_path, [{"split": "val", "bits/dim": value} for value in bits]))

    assert row(4.9, 3.0, 7e6).diverged
    assert not row(4.9, 3.0, 4.0).diverged  # rose again, but is better than at first
    assert not row(4.9, 4.8, 5.0).diverged  # within noise
    assert row(float("nan"), float("nan")).diverged
    assert best_of([row(4.9, 3.0, 7e6)]) is None
    assert (row(4.9, 3.0, 4.0).first, row(4.9, 3.0, 4.0).best, row(4.9, 3.0, 4.0).last) == (4.9, 3.0, 4.0)


def test_the_loss_is_that_of_the_last_tenth_and_kid_that_which_selects(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [{"split": "train", "D/loss": float(i)} for i in range(20)]
    kid = {"kid-lenet-mnist": 0.1, "kid-lenet-mnist-by-class": 0.4}
    found = row_of(1.0, written(tmp_path, [*steps, {"split": "val", **kid}]))
    assert found.loss == 18.5
    assert (found.metric, found.best, found.images) == ("kid-lenet-mnist-by-class", 0.4, 210)
    assert row_of(1.0, tmp_path / "absent", "no data") == SweepRow(1.0, str(tmp_path / "absent"), error="no data")


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("optim.lr", "1e-3,x", "'x' is not a number"),
        ("optim.lr", "", "'' is not a number"),
        ("optim.lr", "1e-3,0.001", "given twice"),
        ("optim.lr", "1e-3,-1", "optim.lr"),
        ("optim.rl", "1", "Known: kind, lr"),
        ("penalties.r1", "1", "discriminator|penalties"),
        ("classes", "0,1", "classes"),
        ("head.kind", "1", "head.kind"),
        ("train.devices", "1,2", "one device"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_before_anything_is_written(
    field: str, values: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        plan_sweep("digits", field, values)
    assert list(tmp_path.iterdir()) == []


def test_a_field_is_swept_or_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="also given"):
        plan_sweep("digits", "optim.lr", "1,2", overrides={"optim.lr": "1e-3"}, out=tmp_path)
