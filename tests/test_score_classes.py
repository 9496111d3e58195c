"""``pixelloom score --classify``: classes by Bayes' rule, against the log-probabilities of each class."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import pixelloom as pl
from commands import Command, caller
from pixelloom.data.catalog import load
from pixelloom.models.pixel import PixelModel
from score_toys import DATA, SPEC, folder, rows_of
from small_models import flat, save_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def of_classes(names: tuple[str, ...] = ("2", "0", "7")) -> PixelModel:
    """A class-conditional model of binary 8x8 images with random weights, and no null class."""
    description = flat(SPEC, DATA.model_dump(mode="json")).description
    training = description.training.model_copy(update={"classes": names})
    found = PixelModel.build(
        description.model_copy(update={"classes": len(names), "null_class": False, "training": training})
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in found.network.parameters():
            values.copy_(torch.randn(values.shape, generator=generator) / 2)
    return found


def test_classes_by_bayes_and_their_accuracy(run: Command) -> None:
    model = of_classes()
    save_run(model, Path("runs/classes"))
    said = run("score", "classes", "--classify", "--csv", "c.csv", "--json", "--limit", 50)
    assert said.code == 0, said.err
    images, labels = load(DATA).test.all()
    chosen = [i * len(images) // 50 for i in range(50)]
    images, labels = images[chosen], labels[chosen]
    log_p = np.stack([model.log_prob(images, labels=k).numpy() for k in range(3)], axis=1)
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    rows = rows_of("c.csv")
    assert np.allclose([[float(row[f"p({name})"]) for name in ("2", "0", "7")] for row in rows], p, atol=1e-5)
    names = np.array(["2", "0", "7"])[p.argmax(1)]
    assert [row["class"] for row in rows] == list(names)
    known = np.isin(labels, (2, 0, 7))
    assert [row["label"] for row in rows] == [
        str(label) if kept else "" for label, kept in zip(labels, known, strict=True)
    ]
    found = json.loads(said.out)["accuracy"]
    assert found["n"] == known.sum()
    assert found["value"] == np.mean(names[known] == labels[known].astype(str))
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert f"digits, test: {50 - known.sum()} images of no class of the model" in said.err
    assert sum(json.loads(said.out)["classes"].values()) == 50
    # without a null class, the score is of the mean over classes
    mean = pl.score(model, images, kind="likelihood", false_alarms=0.1)
    expected = -(np.log(np.exp(log_p - log_p.max(1, keepdims=True)).mean(1)) + log_p.max(1)) / 64 / math.log(2)
    assert np.allclose(mean.bits_per_dim, expected, atol=1e-5)
    said = run("score", "classes", "--classify", "--maps", "other")
    assert "--classify: gives classes instead of scores" in said.err


@pytest.mark.parametrize("mixture", ["classes", "orders"])
def test_maps_of_mixtures_sum_to_the_score(mixture: str, run: Command) -> None:
    """Of a model without a null class, and of a model of several pixel orders."""
    model = of_classes()
    if mixture == "orders":
        model = PixelModel.build(model.description.model_copy(update={"classes": 0, "orders": 4, "null_class": True}))
        drawn = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for values in model.network.parameters():
                values.copy_(torch.randn(values.shape, generator=drawn) / 2)
    save_run(model, Path("runs/mixed"))
    folder("images", 6)
    words = ("--kind", "likelihood", "--maps", "maps", "--csv", "s.csv", "--false-alarms", "0.1")
    said = run("score", "mixed", "--data", "images", *words)
    assert said.code == 0, said.err
    held, _ = load(DATA).val.all()
    reference = [i * 151 // 76 for i in range(76)]
    expected = pl.score(model, held[reference], calibrate="test", false_alarms=0.1).bits_per_dim.mean()
    for row in rows_of("s.csv"):
        excess = np.load(f"maps/{row['image']}.map.npy").sum()
        assert math.isclose(excess, 64 * (float(row["bits_per_dim"]) - expected), abs_tol=2e-3)


def test_classes_of_a_folder_are_matched_by_name(run: Command) -> None:
    model = of_classes(("b", "a"))
    save_run(model, Path("runs/classes"))
    images = folder("images", 10)
    said = run("score", "classes", "--data", "images", "--classify")
    assert said.code == 0, said.err
    hits = 0
    for i, image in enumerate(images):
        costs = [float(model.log_prob(image[None], labels=k)[0]) for k in range(2)]
        hits += "ba"[int(np.argmax(costs))] == "ab"[i % 2]
    assert f"accuracy {10 * hits:.2f} % of 10 labeled images" in said.out
    save_run(flat(SPEC, DATA.model_dump(mode="json")), Path("runs/flat"))
    said = run("score", "flat", "--classify")
    assert said.code == 2
    assert "classify: this model is unconditional" in said.err
