"""A third family is two entries, one in each registry: every command then works with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pixelloom as pl
from commands import Command, caller
from pixelloom.cli import training_options
from pixelloom.models.registry import FAMILIES
from pixelloom.runs.families import RUN_FAMILIES
from toy_family import TOY, TOY_RUNS, ToyModel


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    monkeypatch.setitem(RUN_FAMILIES, "toy", TOY_RUNS)
    return caller(capsys)


def test_two_entries_are_enough_for_every_command(run: Command) -> None:
    assert any(row["network"] == "gray" for row in json.loads(run("list", "networks", "--json").out))
    assert json.loads(run("config", "gray", "--json").out)["rate"] == 0.1
    Path("toy.yaml").write_text("rate: 0.05\n")
    said = run("train", "gray", "--config", "toy.yaml", "--images", 6400, "--model.start", 0.5, "--train.threads", 1)
    assert (said.code, said.out) == (0, "runs/gray\n"), said.err
    model = pl.load("gray")
    assert isinstance(model, ToyModel)
    assert model.description.training.validation.metrics.keys() == {"distance"}
    mean = model.network.get_parameter("level").item()
    assert mean == pytest.approx(-0.39, abs=0.05)  # digits: mean level 4.9 of 16
    assert "| toy | yes |" in Path("runs/gray/model/README.md").read_text()

    assert f"level       {mean:.2f}\n" in run("info", "gray").out
    assert json.loads(run("info", "gray", "--json").out)["toy_values"] == [1]
    said = run("sample", "gray", "-n", 3, "--seed", 2, "--truncation", 1, "--npy", "a.npy")
    assert said.code == 0, said.err
    assert (np.load("a.npy") == model.sample(1).numpy() + 2).all()
    measured = run("evaluate", "gray", "--metrics", "precision", "-n", 60, "--json")
    assert json.loads(measured.out)["results"][0]["value"] == 0, measured.err
    assert run("compare", "gray", "binarized-mnist", "-n", 2).code == 0
    assert Path("compare.html").is_file()


def test_abilities_that_it_lacks_are_refused_by_its_own_words(run: Command) -> None:
    run("train", "gray", "--images", 64)
    for command, words in (
        (("sample", "gray", "--temperature", 0.5), "--temperature: a toy has no temperature"),
        (("interpolate", "gray"), "pixelloom interpolate: this model has no interpolate; this is a toy (gray)"),
        (("evaluate", "gray", "--metrics", "likelihood"), "a toy has no likelihood"),
        (("train", "gray", "--optim.lr", 1), "It is for other networks: pixelcnn"),
    ):
        said = run(*command)
        assert said.code == 2
        assert words in said.err


def test_its_fields_become_options_of_train(run: Command) -> None:
    options = dict(training_options._run_fields())
    assert options["rate"].default == 0.1
    assert {"optim", "loss", "classes", "model"} <= options.keys()
