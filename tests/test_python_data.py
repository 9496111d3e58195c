"""Images in memory as data of train, evaluate and measure, and two sets of images without a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelloom as pl
from commands import Command, caller
from pixelloom.core.errors import DataError, UsageError
from pixelloom.metrics.distances import kid
from pixelloom.metrics.extractors import EXTRACTORS, features

RNG = np.random.default_rng(0)
DARK, BRIGHT = (RNG.integers(low, low + 100, (80, 8, 8)).astype(np.uint8) for low in (0, 150))
IMAGES, LABELS = np.concatenate([DARK, BRIGHT]), np.repeat([0, 1], 80)
SMALL: dict[str, object] = {"model.channels": 4, "model.layers": 1, "model.first_kernel": 3, "model.kernel": 3}
SMALL |= {"samples": 0, "train.threads": 1, "data.levels": 8}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "cache"))
    return caller(capsys)


def test_arrays_are_data(run: Command) -> None:
    model = pl.train(
        "gated-pixelcnn", data=(IMAGES, LABELS), images=256, overrides={**SMALL, "classes": True, "samples": 4}
    )
    assert Path("runs/gated-pixelcnn-arrays/model").is_dir()
    assert model.description.class_names == ("0", "1")
    assert (model.spec.shape, model.spec.levels) == ((1, 8, 8), 8)
    found = pl.evaluate(model, (torch.from_numpy(BRIGHT[:, None]), ["1"] * 80), "all")
    levels = (BRIGHT[:, None].astype(int) * 8 // 256).astype(np.uint8)
    assert found.n == 80
    assert found.nats_per_image == pytest.approx(-float(model.log_prob(levels, "1").mean()), rel=1e-6)
    other = pl.evaluate(model, {"test": (BRIGHT, LABELS[80:]), "train": (DARK, LABELS[:80])})
    assert other.n == 80
    assert other.nats_per_image == pytest.approx(found.nats_per_image, rel=1e-6)
    (result, *_) = pl.measure(model, (IMAGES, LABELS), "all", metrics=["kid"], features="pixels", n=60)
    assert np.isfinite(result.value)
    with pytest.raises(UsageError, match="trained on images in memory; give them, or name other data"):
        pl.evaluate(model)
    with pytest.raises(DataError, match=r"its classes \(a, b\) are none of the model's \(0, 1\)"):
        pl.evaluate(model, (IMAGES, np.array(["a", "b"])[LABELS]))


def test_the_same_arrays_give_the_same_run_as_their_file(run: Command) -> None:
    np.save("set.npy", IMAGES)
    models = [pl.train("gated-pixelcnn", data=data, images=128, overrides=SMALL) for data in (IMAGES, "set.npy")]
    first, second = (dict(model.network.named_parameters()) for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_sets_of_images_are_measured_without_a_model(run: Command) -> None:
    for name, images in (("drawn", BRIGHT), ("photos", IMAGES)):
        Path(name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(f"{name}/{i:03d}.png")
    done = run(
        "evaluate", "--samples", "drawn", "--data", "photos", "--metrics", "kid", "--features", "pixels", "--json"
    )
    assert done.code == 0
    said = json.loads(done.out)
    assert (said["samples"], said["of"], said["split"], said["data"]) == (80, 160, "all", "photos")
    space = EXTRACTORS["pixels"](1)
    real, drawn = (features(torch.from_numpy(np.unique(x, axis=0)[:, None]), 256, space) for x in (IMAGES, BRIGHT))
    value = next(found["value"] for found in said["results"] if found["name"] == "kid-pixels")
    assert value == pytest.approx(kid(real, drawn)[0], rel=0.05)
    text = run("evaluate", "--samples", "drawn", "--data", "photos", "--features", "pixels")
    assert "80 samples (drawn) and 160 of 160 images of photos, all splits" in text.out
    assert "recall-pixels" in text.out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("evaluate", "name a model, or samples with --samples FOLDER and --data FOLDER, and not both"),
        ("evaluate m --samples x --data digits", "and not both"),
        ("evaluate --samples x", "--samples: needs --data"),
        ("evaluate --samples x --data digits --metrics nearest", "two sets of images have no 'nearest'"),
        ("evaluate --samples x --data digits --metrics likelihood", "two sets of images have no 'likelihood'"),
        ("evaluate --samples x --data digits --neighbors n.png", "--neighbors: needs a model"),
    ],
)
def test_what_two_sets_do_not_have(command: str, said: str, run: Command) -> None:
    done = run(*command.split())
    assert done.code == 2
    assert said in done.err


def test_neighbors_come_besides_other_metrics(run: Command) -> None:
    model = pl.train("pixelcnn", data="digits", images=64, overrides={"samples": 0, "train.threads": 1})
    assert model.spec.levels == 17
    words = ["runs/pixelcnn", "--metrics", "kid", "--features", "pixels", "-n", 40]
    done = run("evaluate", *words, "--neighbors", "near.png", "--json")
    names = [found["name"] for found in json.loads(done.out)["results"]]
    assert "kid-pixels" in names
    assert "nearest-pixels" in names


def test_info_draws_what_the_first_layers_read(run: Command) -> None:
    small = {**SMALL, "model.first_kernel": 5, "data.levels": None}
    pl.train("gated-pixelcnn", data="digits", images=64, out="g", overrides=small)
    # The vertical stack reads three rows of five above, the horizontal one two pixels before.
    rows = ["# # # # #"] * 3 + ["# # . . ."] + [". . . . ."] * 3
    assert run("info", "g").out.endswith("\n\n" + "\n".join(rows) + "\n")
