"""``pixelloom evaluate``: which figures a model gets, how they are told, and that nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelloom
from commands import Command, caller
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.metrics.results import METRICS
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.training_record import TrainingRecord
from pixelloom.networks.gan.sngan import SNGANConfig
from small_models import flat, save_run

DIGITS = ImageSpec(1, 8, 8, 17)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``run("evaluate", "flat")`` in an empty folder with two models: runs/flat, of pixels, and runs/latent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    save_run(flat(DIGITS, DataConfig().model_dump(mode="json")), Path("runs/flat"))
    torch.manual_seed(0)
    record = TrainingRecord(classes=tuple("0123456789"), data=DataConfig(size=16))
    description = GANDescription(
        network="sngan",
        model=SNGANConfig(latent=6, generator_width=8, discriminator_width=6),
        image=ImageSpec(1, 16, 16, 17),
        classes=10,
        training=record,
    )
    GANModel.build(description).save(Path("runs/latent/model"))

    return caller(capsys)


def test_figures_of_samples_are_those_of_python(run: Command) -> None:
    asked = ("evaluate", "flat", "--metrics", "kid, nearest", "-n", 40, "--seed", 3, "--features", "pixels")
    facts = json.loads(run(*asked, "--split", "val", "--limit", 100, "--json").out)
    found = pixelloom.measure(
        pixelloom.load("flat"), split="val", metrics=["kid", "nearest"], features="pixels", n=40, seed=3, limit=100
    )
    assert facts["results"] == json.loads(json.dumps([figure.as_dict() for figure in found]))
    assert {key: facts[key] for key in ("samples", "seed", "split", "of", "data", "levels", "model")} == {
        **{"samples": 40, "seed": 3, "split": "val", "of": 151, "data": "digits", "levels": 17},
        "model": "runs/flat/model",
    }
    assert "nats_per_image" not in facts
    lines = run(*asked).out.splitlines()
    assert lines[0] == "40 samples (seed 3) and 269 of 269 images of digits, test split, 17 levels"
    assert lines[1].split() == ["metric", "samples", "baseline", "N", "N", "baseline"]
    whole = pixelloom.measure(pixelloom.load("flat"), metrics=["kid", "nearest"], features="pixels", n=40, seed=3)
    for line, figure in zip(lines[2:], whole, strict=True):
        spread = f"+- {figure.standard_error:.2g} " if figure.standard_error else ""
        assert " ".join(line.split()).startswith(
            f"{figure.name} {figure.value:.4f} {spread}{figure.baseline:.4f} 40 / "
        )


def test_a_pixel_model_gets_its_likelihood_and_with_it_what_is_asked_for(run: Command) -> None:
    alone = json.loads(run("evaluate", "flat", "--json").out)
    both = json.loads(run("evaluate", "flat", "--json", "--metrics", "likelihood,precision", "-n", 40).out)
    assert "results" not in alone
    assert both | {"samples": 0, "seed": 0, "results": 0} == alone | {"samples": 0, "seed": 0, "results": 0}
    assert [figure["name"] for figure in both["results"]] == ["precision-natural"]
    text = run("evaluate", "flat", "--metrics", "likelihood,precision", "-n", 40).out
    assert text.index("bits/dim") < text.index("precision-natural")
    for extra in (("-n", 40), ("--features", "pixels")):
        said = run("evaluate", "flat", *extra)
        assert said.code == 2
        assert "-n, --features: need sample metrics" in said.err


def test_a_latent_model_gets_every_figure_of_samples(run: Command) -> None:
    facts = json.loads(run("evaluate", "latent", "-n", 70, "--json").out)
    names = [figure["name"] for figure in facts["results"]]
    assert names[:6] == [f"{name}-natural" for name in METRICS[:6]]
    assert "accuracy-lenet-mnist" not in names  # 8x8 digits fill their frame: real ones are not recognized either
    assert "accuracy-lenet-mnist: skipped: only" in run("evaluate", "latent", "-n", 70).err
    (accuracy,) = json.loads(run("evaluate", "latent", "-n", 70, "--metrics", "accuracy", "--json").out)["results"]
    assert (accuracy["n"], accuracy["baseline_n"]) == (70, [269, 0])
    assert 0 <= accuracy["interval"][0] <= accuracy["value"] <= accuracy["interval"][1] < 0.4
    assert "not fit" in accuracy["note"]
    said = run("evaluate", "latent", "--metrics", "likelihood")
    assert said.code == 2
    assert "metrics: likelihood: a GAN has no likelihood; measure its samples instead: kid" in said.err


def test_the_sheet_of_neighbors(run: Command) -> None:
    said = run("evaluate", "flat", "--neighbors", "near/sheet.png", "-n", 30, "--json")
    facts = json.loads(said.out)
    assert facts["neighbors"] == "near/sheet.png"
    assert [figure["name"] for figure in facts["results"]][:2] == ["nearest-natural", "gap-natural"]
    assert facts["nats_per_image"] > 0  # what is measured by default is measured too
    before = Path("near/sheet.png").read_bytes()
    with Image.open("near/sheet.png") as sheet:
        assert len(np.unique(np.asarray(sheet))) > 17
    said = run("evaluate", "flat", "--neighbors", "near/sheet.png", "-n", 30, "--seed", 1)
    assert said.code == 2
    assert "exists already" in said.err
    assert Path("near/sheet.png").read_bytes() == before
    said = run("evaluate", "flat", "--neighbors", "near/sheet.png", "-n", 30, "--seed", 1, "--force")
    assert said.out.splitlines()[-1] == "near/sheet.png"
    assert Path("near/sheet.png").read_bytes() != before


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ("flat --metrics kdi", 2, "none is called 'kdi'. Did you mean 'kid'?"),
        ("flat --metrics accuracy", 2, "there are no classes"),
        ("flat --metrics nearest --split train", 2, "split val or test"),
        ("flat --metrics kid --features pixel", 2, "no 'pixel'. Did you mean 'pixels'?"),
        ("flat --metrics kid -n 0", 2, "for -n. Must be >= 1."),
        ("flat --metrics kid --seed -1", 2, "for --seed. Must be >= 0."),
        ("flat --metrics kid -n 5", 3, "kid: 5 generated images are too few"),
        ("flat --neighbors .", 2, "is a folder"),
        ("latent --metrics kid --levels 4", 3, "digits: images are 1x16x16 with 4 levels"),
    ],
)
def test_what_cannot_be_measured(run: Command, argv: str, code: int, said: str) -> None:
    found = run("evaluate", *argv.split())
    assert found.code == code
    assert said in found.err
    assert found.out == ""
