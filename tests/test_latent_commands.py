"""The commands on latent models: what they draw is what the model makes, and what they cannot is refused in words."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from latent_toys import PAIRS, awake
from pixelloom import plots
from pixelloom.cli import drawers, drawing, facts, main
from pixelloom.families import LOADERS
from pixelloom.latent import DISCRIMINATOR, LatentDescription, LatentModel
from pixelloom.types import ImageSpec
from small_models import flat, save_run

SPEC = ImageSpec(1, 16, 16, 256)


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``run("info", "sagan")``: the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.delenv("PIXELLOOM_DATA", raising=False)

    def command(*argv: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Said(code, *capsys.readouterr())

    return command


def saved(kind: str, name: str, classes: int = 0, trained: dict[str, Any] | None = None) -> LatentModel:
    """``runs/<name>``, as if trained."""
    torch.manual_seed(0)
    network, config = PAIRS[kind]
    about = LatentDescription(network=network, model=config, image=SPEC, classes=classes, trained=trained or {})
    model = LatentModel.build(about)
    assert model.discriminator is not None
    awake(model.network)
    awake(model.discriminator)
    model.save(Path("runs") / name / "model")
    return model


@pytest.fixture
def sagan(run: Command) -> LatentModel:
    """``runs/sagan``"""
    return saved("sagan", "sagan", trained={"data": {"source": "digits", "size": 16}})


@pytest.fixture
def told(run: Command) -> LatentModel:
    """``runs/told``: three classes."""
    return saved("sagan", "told", 3, trained={"classes": ["cat", "dog", "x/y"]})


def read(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def refused(said: Said, *parts: str) -> None:
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err.splitlines()[-1]


# ----------------------------------------------------------------------------------------------------------- sample


def test_samples_are_those_of_the_model(run: Command, sagan: LatentModel) -> None:
    draw = ("sample", "sagan", "-n", 7, "--seed", 5)
    said = run(*draw, "--npy", "a.npy", "--out", "a.png", "--each", "singles", "--columns", 4, "--scale", 2)
    assert (said.code, said.out) == (0, "a.png\nsingles\na.npy\n")
    assert "one pass of the generator, 7 images at a time" in said.err
    images = sagan.sample(7, seed=5).numpy()
    assert len(np.unique(images.reshape(7, -1), axis=0)) == 7
    assert np.array_equal(np.load("a.npy"), images)
    assert np.array_equal(read("a.png"), np.asarray(plots.grid(images, 256, columns=4, scale=2)))
    for i, image in enumerate(images):
        assert np.array_equal(read(f"singles/{i:05d}.png"), image[0])
    run("sample", "sagan", "-n", 2, "--seed", 5, "--first", 3, "--npy", "tail.npy")
    assert np.abs(np.load("tail.npy").astype(int) - images[3:5]).max() <= 1


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_batch_is_drawn_as_the_model_draws_it(batch: int, run: Command, sagan: LatentModel) -> None:
    assert run("sample", "sagan", "-n", 7, "--batch", batch, "--npy", "a.npy").code == 0
    assert np.array_equal(np.load("a.npy"), sagan.sample(7, batch=batch).numpy())


def test_truncated_samples(run: Command, sagan: LatentModel) -> None:
    run("sample", "sagan", "-n", 4, "--truncation", 0.5, "--npy", "a.npy")
    images = sagan.sample(4, truncation=0.5)
    assert np.array_equal(np.load("a.npy"), images.numpy())
    assert not torch.equal(images, sagan.sample(4))


def test_samples_of_classes(run: Command, told: LatentModel) -> None:
    run("sample", "told", "-n", 4, "--class", 2, "--npy", "two.npy")
    assert np.array_equal(np.load("two.npy"), told.sample(4, labels=2).numpy())
    run("sample", "told", "-n", 4, "--npy", "any.npy")
    assert np.array_equal(np.load("any.npy"), told.sample(4).numpy())  # each of a class of its own
    said = run("sample", "told", "-n", 2, "--each-class", "--npy", "all.npy", "--out", "rows.png", "--each", "each")
    assert said.code == 0
    images = told.sample(6, labels=torch.tensor([0, 1, 2, 0, 1, 2])).numpy()
    assert np.array_equal(np.load("all.npy"), images)
    assert np.load("all-labels.npy").tolist() == [0, 1, 2, 0, 1, 2]
    rows = plots.table(images, 256, 3, names=("0 cat", "1 dog", "2 x/y"))
    assert np.array_equal(read("rows.png"), np.asarray(rows))
    assert np.array_equal(read("each/2 x-y/00005.png"), images[5, 0])


def test_an_interrupted_drawing_goes_on(run: Command, sagan: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sagan.sample(8, seed=2, truncation=1.5, batch=3).numpy()
    with monkeypatch.context() as patch:
        show, steps = drawing.Meter.show, iter(range(1, 100))

        def watched(self: Any, done: float, note: str = "") -> None:
            show(self, done, note)
            if next(steps) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(drawing.Meter, "show", watched)
        said = run("sample", "sagan", "-n", 8, "--seed", 2, "--truncation", 1.5, "--batch", 3, "--npy", "all.npy")
    assert said.code == 130
    assert "kept 6 of 8 images in all.npy; go on with:" in said.err
    (command,) = re.findall(r"go on with: pixelloom (.*)", said.err)
    assert run(*shlex.split(command)).code == 0
    assert np.array_equal(np.concatenate([np.load("all.npy"), np.load("all-from-6.npy")]), whole)


def test_memory_that_does_not_suffice_halves_the_batch(
    run: Command, sagan: LatentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, asked = LatentModel._pass, list[int]()

    def small(self: LatentModel, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        asked.append(len(z))
        if len(z) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, z, labels)

    with monkeypatch.context() as patch:
        patch.setattr(LatentModel, "_pass", small)
        said = run("sample", "sagan", "-n", 5, "--npy", "x.npy")
    assert said.code == 0
    assert "out of memory with 5 images at a time; going on with --batch 2" in said.err
    assert asked == [5, 2, 2, 1]
    assert np.array_equal(np.load("x.npy"), sagan.sample(5, batch=2).numpy())


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("--temperature 0.9", ["--temperature", "--truncation"]),
        ("--class 1 --guidance 2", ["--guidance", "no logits"]),
        ("--condition x.png", ["--condition", "no picture"]),
        ("--condition-from test", ["--condition-from", "no picture"]),
        ("--given x.png", ["--given", "draws an image whole"]),
        ("--given x.png --keep-rows 3", ["--given"]),
        ("--method plain", ["--method", "in one pass"]),
        ("--precision bf16", ["--precision", "of its weights"]),
        ("--truncation 0", ["--truncation", "positive number", "0.0"]),
        ("--truncation nan", ["--truncation", "positive number"]),
        ("--class 3", ["--class 3", "trained without classes"]),
        ("--each-class", ["--each-class", "trained without classes"]),
    ],
)
def test_what_a_latent_model_cannot_draw_is_refused(
    options: str, parts: list[str], run: Command, sagan: LatentModel
) -> None:
    refused(run("sample", "sagan", *options.split()), *parts)
    assert not list(Path().glob("*.png"))


def test_pixel_models_have_no_noise_vector_to_truncate(run: Command) -> None:
    save_run(flat(ImageSpec(1, 4, 4, 2)), Path("runs/flat"))
    refused(run("sample", "flat", "--truncation", 1), "--truncation", "--temperature")


def test_every_family_draws_and_describes_itself() -> None:
    assert drawers.DRAWERS.keys() == facts.FAMILIES.keys() == LOADERS.keys()


# ------------------------------------------------------------------------------------------------------------- info


def test_info_tells_what_a_latent_model_is(run: Command, sagan: LatentModel) -> None:
    assert sagan.discriminator is not None
    text, found = run("info", "sagan").out, json.loads(run("info", "sagan", "--json").out)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (sagan.network, sagan.discriminator)]
    gammas = [
        {name: parameters[f"{name}.gamma"].item() for name in names}
        for names, parameters in (
            (("after.0", "after.1"), dict(sagan.network.named_parameters())),
            (("after.0", "after.1"), dict(sagan.discriminator.named_parameters())),
        )
    ]
    assert f"parameters  generator {sizes[0]:,}, discriminator {sizes[1]:,}\n" in text
    assert "latent      5 numbers\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("attention")]
    assert line.count("gamma") == 4
    assert f"generator after.0 (gamma {gammas[0]['after.0']:.3g})" in line
    assert "head" not in text
    assert "First layer" not in text
    assert (found["parameters"], found["discriminator_parameters"], found["latent"]) == (*sizes, 5)
    assert found["attention"] == {"generator": gammas[0], "discriminator": gammas[1]}
    assert (found["family"], found["network"]) == ("latent", "sagan")
    Path("runs/sagan/model", DISCRIMINATOR).unlink()
    assert "discriminator not kept" in run("info", "sagan").out
    assert json.loads(run("info", "sagan", "--json").out)["discriminator_parameters"] is None


def test_info_without_attention(run: Command) -> None:
    saved("dcgan", "dcgan", trained={"images": 640, "epochs": 2.0, "minutes": 1.5, "seed": 3, "date": "2026-11-21"})
    text = run("info", "dcgan").out
    assert "attention" not in text
    assert "training    640 images, 2.0 epochs, 1.5 minutes, seed 3, 2026-11-21\n" in text
    refused(run("info", "dcgan", "--receptive-field", "x.png"), "--receptive-field needs a pixel model", "dcgan")
    assert not Path("x.png").exists()


def test_info_shows_the_validation_by_its_name(run: Command) -> None:
    saved("dcgan", "dcgan", trained={"validation": {"kid-lenet-mnist": 0.0123456, "n": 800}})
    assert "validation  0.0123 kid-lenet-mnist (N=800)\n" in run("info", "dcgan").out
