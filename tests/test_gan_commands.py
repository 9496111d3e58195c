"""The commands on latent models: what they draw is what the model makes, and what they cannot is refused in words."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from commands import Command, Said, caller
from gan_toys import PAIRS, awake
from pixelloom.cli import sample
from pixelloom.cli.common import position_of
from pixelloom.core.errors import UsageError
from pixelloom.core.types import Batch, ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.layers.self_attention import SelfAttention, attention_stats
from pixelloom.models.gan import DISCRIMINATOR, GANDescription, GANModel
from pixelloom.models.training_record import TrainingRecord
from pixelloom.runs import evaluate as evaluating
from pixelloom.runs.evaluate import some_images
from pixelloom.sampling.latent_noise import labels_of
from pixelloom.viz import attention_maps
from pixelloom.viz import grid as plots
from pixelloom.viz.attention_maps import Strip
from small_models import flat, save_run

SPEC = ImageSpec(1, 16, 16, 256)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``run("info", "sagan")``: the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.delenv("PIXELLOOM_DATA", raising=False)

    return caller(capsys)


def saved(kind: str, name: str, classes: int = 0, record: dict[str, Any] | None = None) -> GANModel:
    """``runs/<name>``, as if trained."""
    torch.manual_seed(0)
    network, config = PAIRS[kind]
    training = TrainingRecord.model_validate(record or {})
    about = GANDescription(network=network, model=config, image=SPEC, classes=classes, training=training)
    model = GANModel.build(about)
    assert model.discriminator is not None
    awake(model.network)
    awake(model.discriminator)
    model.save(Path("runs") / name / "model")
    return model


@pytest.fixture
def sagan(run: Command) -> GANModel:
    """``runs/sagan``"""
    return saved("sagan", "sagan", record={"data": {"source": "digits", "size": 16}})


@pytest.fixture
def told(run: Command) -> GANModel:
    """``runs/told``: three classes."""
    return saved("sagan", "told", 3, record={"classes": ["cat", "dog", "x/y"]})


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


def test_samples_are_those_of_the_model(run: Command, sagan: GANModel) -> None:
    draw = ("sample", "sagan", "-n", 7, "--seed", 5)
    said = run(*draw, "--npy", "a.npy", "--out", "a.png", "--each", "singles", "--columns", 4, "--scale", 2)
    assert (said.code, said.out) == (0, "a.png\nsingles\na.npy\n")
    assert "one pass of the generator, batches of 7 images" in said.err
    images = sagan.sample(7, seed=5).numpy()
    assert len(np.unique(images.reshape(7, -1), axis=0)) == 7
    assert np.array_equal(np.load("a.npy"), images)
    assert np.array_equal(read("a.png"), np.asarray(plots.grid(images, 256, columns=4, scale=2)))
    for i, image in enumerate(images):
        assert np.array_equal(read(f"singles/{i:05d}.png"), image[0])
    run("sample", "sagan", "-n", 2, "--seed", 5, "--first", 3, "--npy", "tail.npy")
    assert np.abs(np.load("tail.npy").astype(int) - images[3:5]).max() <= 1


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_batch_is_drawn_as_the_model_draws_it(batch: int, run: Command, sagan: GANModel) -> None:
    assert run("sample", "sagan", "-n", 7, "--batch", batch, "--npy", "a.npy").code == 0
    assert np.array_equal(np.load("a.npy"), sagan.sample(7, batch=batch).numpy())


def test_truncated_samples(run: Command, sagan: GANModel) -> None:
    run("sample", "sagan", "-n", 4, "--truncation", 0.5, "--npy", "a.npy")
    images = sagan.sample(4, truncation=0.5)
    assert np.array_equal(np.load("a.npy"), images.numpy())
    assert not torch.equal(images, sagan.sample(4))


def test_samples_of_classes(run: Command, told: GANModel) -> None:
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
    assert np.array_equal(read("each/x-y/00005.png"), images[5, 0])


def test_an_interrupted_drawing_goes_on(run: Command, sagan: GANModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sagan.sample(8, seed=2, truncation=1.5, batch=3).numpy()
    with monkeypatch.context() as patch:
        show, steps = sample.Meter.show, iter(range(1, 100))

        def watched(self: Any, done: float, note: str = "") -> None:
            show(self, done, note)
            if next(steps) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(sample.Meter, "show", watched)
        said = run("sample", "sagan", "-n", 8, "--seed", 2, "--truncation", 1.5, "--batch", 3, "--npy", "all.npy")
    assert said.code == 130
    assert "kept 6 of 8 images in all.npy; continue with:" in said.err
    (command,) = re.findall(r"continue with: pixelloom (.*)", said.err)
    assert run(*shlex.split(command)).code == 0
    assert np.array_equal(np.concatenate([np.load("all.npy"), np.load("all-from-6.npy")]), whole)


def test_memory_that_does_not_suffice_halves_the_batch(
    run: Command, sagan: GANModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, asked = GANModel._pass, list[int]()

    def small(self: GANModel, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        asked.append(len(z))
        if len(z) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, z, labels)

    with monkeypatch.context() as patch:
        patch.setattr(GANModel, "_pass", small)
        said = run("sample", "sagan", "-n", 5, "--npy", "x.npy")
    assert said.code == 0
    assert "out of memory with batches of 5 images; continuing with --batch 2" in said.err
    assert asked == [5, 2, 2, 1]
    assert np.array_equal(np.load("x.npy"), sagan.sample(5, batch=2).numpy())


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("--temperature 0.9", ["--temperature", "--truncation"]),
        ("--class 1 --guidance 2", ["--guidance", "no logits"]),
        ("--condition x.png", ["--condition", "no conditioning image"]),
        ("--condition-from test", ["--condition-from", "no conditioning image"]),
        ("--given x.png", ["--given", "whole images"]),
        ("--given x.png --keep-rows 3", ["--given"]),
        ("--method plain", ["--method", "in one pass"]),
        ("--precision bf16", ["--precision", "of its weights"]),
        ("--truncation 0", ["--truncation", "positive number", "0.0"]),
        ("--truncation nan", ["--truncation", "'nan' is not a number"]),
        ("--class 3", ["--class 3", "unconditional"]),
        ("--each-class", ["--each-class", "unconditional"]),
    ],
)
def test_what_a_latent_model_cannot_draw_is_refused(
    options: str, parts: list[str], run: Command, sagan: GANModel
) -> None:
    refused(run("sample", "sagan", *options.split()), *parts)
    assert not list(Path().glob("*.png"))


def test_pixel_models_have_no_noise_vector_to_truncate(run: Command) -> None:
    save_run(flat(ImageSpec(1, 4, 4, 2)), Path("runs/flat"))
    refused(run("sample", "flat", "--truncation", 1), "--truncation", "--temperature")


# ------------------------------------------------------------------------------------------------------------- info


def test_info_tells_what_a_latent_model_is(run: Command, sagan: GANModel) -> None:
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
    assert "latent      5 dimensions\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("attention")]
    assert line.count("gamma") == 4
    assert f"generator after.0 (gamma {gammas[0]['after.0']:.3g})" in line
    assert "head" not in text
    assert "First layer" not in text
    assert (found["parameters"], found["discriminator_parameters"], found["latent"]) == (*sizes, 5)
    assert found["attention"] == {"generator": gammas[0], "discriminator": gammas[1]}
    assert (found["family"], found["network"]) == ("gan", "sagan")
    Path("runs/sagan/model", DISCRIMINATOR).unlink()
    assert "discriminator not kept" in run("info", "sagan").out
    assert json.loads(run("info", "sagan", "--json").out)["discriminator_parameters"] is None


def test_info_without_attention(run: Command) -> None:
    saved("dcgan", "dcgan", record={"images": 640, "epochs": 2.0, "minutes": 1.5, "seed": 3, "date": "2026-11-21"})
    text = run("info", "dcgan").out
    assert "attention" not in text
    assert "training    640 images, 2.0 epochs, 1.5 minutes, seed 3, 2026-11-21\n" in text
    refused(
        run("info", "dcgan", "--receptive-field", "x.png"),
        "--receptive-field: a generator has no causal receptive field",
        "dcgan",
    )
    assert not Path("x.png").exists()


def test_info_shows_the_validation_by_its_name(run: Command) -> None:
    saved("dcgan", "dcgan", record={"validation": {"metrics": {"kid-lenet-mnist": 0.0123456}, "n": 800}})
    assert "validation  0.0123 kid-lenet-mnist (N=800)\n" in run("info", "dcgan").out
    validation = {"metrics": {"kid-random": 0.5}, "n": 40, "split": "training"}
    saved("dcgan", "few", record={"validation": validation})
    assert "validation  0.5000 kid-random (N=40, training images)\n" in run("info", "few").out


# -------------------------------------------------------------------------------------------------------- attention


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Strip]:
    """The rows of the sheets that are drawn."""
    sheet, seen = attention_maps.sheet, list[Strip]()

    def watched(strips: list[Strip], *rest: Any) -> Image.Image:
        seen.extend(strips)
        return sheet(strips, *rest)

    monkeypatch.setattr(attention_maps, "sheet", watched)
    return seen


def same(strip: Strip, images: torch.Tensor, weights: torch.Tensor | None = None) -> None:
    assert np.array_equal(strip.images, images.numpy())
    assert (strip.weights is None) == (weights is None)
    if weights is not None:
        np.testing.assert_allclose(strip.weights, weights.numpy(), rtol=1e-4, atol=1e-6)


def test_the_maps_are_those_of_the_position_of_the_query(run: Command, sagan: GANModel, drawn: list[Strip]) -> None:
    said = run("attention", "sagan", "-n", 3, "--query", "9,3", "--seed", 4, "--first", 2)
    assert said.code == 0, said.err
    images, made = sagan.attend(sagan.latents(3, seed=4, first=2))
    _, seen = sagan.attend_to(images)
    picture, *rows = drawn
    same(picture, images)
    assert [row.grid for row in rows] == [(4, 4), (8, 8), (8, 8), (4, 4)]
    for row, (name, weights), owner in zip(
        rows, [*made, *seen], ["generator"] * 2 + ["discriminator"] * 2, strict=True
    ):
        i, j = {(4, 4): (2, 0), (8, 8): (4, 1)}[row.grid or (0, 0)]  # of row 9, column 3 of 16 x 16 pixels
        same(row, images, weights[:, i, j])
        assert row.caption[0] == f"{owner} {name}"
        assert list(row.queries) == [(9, 3)] * 3
    with Image.open("maps.png") as picture_file:
        assert picture_file.format == "PNG"


def test_a_layer_that_looks_at_one_place_lights_it(
    run: Command, sagan: GANModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks(self: SelfAttention, x: torch.Tensor) -> torch.Tensor:
        weights = torch.zeros(len(x), x[0, 0].numel(), x[0, 0].numel())
        weights[:, :, x.shape[3] + 2] = 1  # row 1, column 2, wherever it looks from
        return weights

    monkeypatch.setattr(SelfAttention, "weights", looks)
    options = ("--of", "generator", "--layer", "after.0", "--query", "15,0", "-n", 1, "--scale", 8)
    assert run("attention", "sagan", *options).code == 0
    paper = read("maps.png").astype(int)
    lit = (np.abs(paper - (252, 255, 164)) <= (3, 0, 40)).all(2)  # the last color of the scale, over gray or black
    frame = (paper == (0x2D, 0xE2, 0xE6)).all(2)
    lit[:, np.nonzero(frame.any(0))[0].max() + 130 :] = False  # the scale itself
    ys, xs = np.nonzero(lit)
    assert (ys.max() - ys.min() + 1, xs.max() - xs.min() + 1) == (32, 32)  # of 128 x 128: one of 4 x 4
    top, left = np.nonzero(frame.any(1))[0].max() - 2 + 3 - 128, np.nonzero(frame.any(0))[0].min()
    assert abs(ys.min() - (top + 32)) <= 3  # the frame, at the lower left corner, ends with the map
    assert abs(xs.min() - (left + 64)) <= 3


def test_the_figures_of_the_layers(run: Command, sagan: GANModel) -> None:
    assert sagan.discriminator is not None
    images, made = sagan.attend(sagan.latents(2))
    _, seen = sagan.attend_to(images)
    truth = [
        *(("generator", *item) for item in attention_stats(sagan.network, made).items()),
        *(("discriminator", *item) for item in attention_stats(sagan.discriminator, seen).items()),
    ]
    found = json.loads(run("attention", "sagan", "-n", 2, "--json").out)
    assert found["queries"] == [{"row": 8, "column": 8}]
    assert [(row["of"], row["layer"]) for row in found["layers"]] == [(of, name) for of, name, _ in truth]
    for row, (_, _, figures) in zip(found["layers"], truth, strict=True):
        assert (row["gamma"], row["entropy"]) == pytest.approx((figures.gamma, figures.entropy), rel=1e-4)
        assert (row["on"], row["images"]) == ("generated", 2)
    assert [row["places"] for row in found["layers"]] == [[4, 4], [8, 8], [8, 8], [4, 4]]
    lines = run("attention", "sagan", "-n", 2, "--force").out.splitlines()
    assert lines[1].split()[:5] == ["generator", "after.0", "generated", "4x4", "4x4"]
    assert lines[1].split()[-3:-1] == [f"{truth[0][2].gamma:.3f}", f"{truth[0][2].entropy:.3f}"]
    assert lines[-1] == "maps.png"


def test_half_the_keys_of_the_paper_s_attention(run: Command, drawn: list[Strip]) -> None:
    saved("sagan-paper", "paper")
    rows = json.loads(run("attention", "paper", "--of", "generator", "--json").out)["layers"]
    assert [(row["places"], row["keys"]) for row in rows] == [([4, 4], [2, 2]), ([8, 8], [4, 4])]
    assert drawn[1].caption[1] == "4x4 on 2x2"


def test_a_query_is_row_and_column() -> None:
    """On images of 16 rows and 32 columns, 3,20 is a pixel and 20,3 is not."""
    spec = ImageSpec(1, 16, 32, 9)
    assert position_of("3,20", spec, "--query") == (3, 20)
    assert position_of("15,31", spec) == (15, 31)
    assert position_of(None, spec) == (8, 16)
    for text in ("20,3", "16,0", "0,32"):
        allowed = "rows 0 to 15 and columns 0 to 31"
        with pytest.raises(UsageError, match=f"^--query: ROW,COLUMN with {allowed}, not '{text}'$"):
            position_of(text, spec, "--query")


def test_a_grid_of_queries_on_one_picture(run: Command, sagan: GANModel, drawn: list[Strip]) -> None:
    assert run("attention", "sagan", "--query", "grid", "--of", "discriminator", "-n", 2).code == 0
    images, _ = sagan.attend(sagan.latents(2))
    (_, weights), _ = sagan.attend_to(images)[1]
    assert len(drawn) == 2 * 3  # a block for each picture
    points = [(y, x) for y in (2, 8, 13) for x in (2, 8, 13)]
    for i in range(2):
        picture, row = drawn[3 * i : 3 * i + 2]
        assert list(picture.queries) == list(row.queries) == points
        same(picture, images[[i] * 9])
        same(row, images[[i] * 9], torch.stack([weights[i, y // 2, x // 2] for y, x in points]))


def test_the_discriminator_looks_at_real_pictures(run: Command, drawn: list[Strip]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16)).astype(np.uint8)
    np.save("pictures.npy", pixels)
    model = saved("sagan", "real", record={"data": {"source": "./pictures.npy"}})
    assert run("attention", "real", "--on", "test", "-n", 2).code == 0
    real = some_images(SPEC, DataConfig(source="./pictures.npy"), "test", 2)
    made, first, second, pictures, *rows = drawn
    same(made, model.sample(2))
    assert (first.caption[0], second.caption[0]) == ("generator after.0", "generator after.1")
    same(pictures, real)
    assert pictures.caption[0] == "test"
    for row, (_, weights) in zip(rows, model.attend_to(real)[1], strict=True):
        same(row, real, weights[:, weights.shape[1] // 2, weights.shape[2] // 2])
    drawn.clear()
    Image.fromarray(pixels[7]).save("one.png")
    assert run("attention", "real", "--on", "one.png", "--of", "discriminator", "--force").code == 0
    same(drawn[0], torch.from_numpy(pixels[7:8, None]))


def test_real_pictures_come_with_their_classes(run: Command, told: GANModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.Tensor, Any]] = []
    attend_to = GANModel.attend_to

    def watched(self: GANModel, images: Any, labels: Any = None) -> Any:
        asked.append((images, labels))
        return attend_to(self, images, labels)

    monkeypatch.setattr(GANModel, "attend_to", watched)
    images, labels = told.sample(3, seed=9, labels=1), torch.tensor([2, 0, 1])
    monkeypatch.setattr(evaluating, "examples", lambda *_: Batch(images, labels))
    monkeypatch.setattr(evaluating, "data_for", lambda *_: DataConfig())
    assert run("attention", "told", "--on", "val", "-n", 3).code == 0
    assert asked[0][0] is images
    assert torch.equal(asked[0][1], labels)
    run("attention", "told", "-n", 3, "--class", 1, "--seed", 9, "--force")
    assert torch.equal(asked[1][0], images)
    assert asked[1][1] == 1
    run("attention", "told", "-n", 3, "--force")
    assert torch.equal(asked[2][0], told.sample(3))
    assert torch.equal(asked[2][1], labels_of(3, 0, 0, 3))
    Image.new("L", (16, 16)).save("one.png")
    refused(run("attention", "told", "--on", "one.png", "--out", "x.png"), "--class", "one.png")
    run("attention", "told", "--on", "one.png", "--class", 2, "--force")
    assert asked[3][1] == 2


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ("flat", ["this is a pixel model", "pixelcnn"]),
        ("dcgan", ["dcgan has no attention", "sagan"]),
        ("alone", ["without its discriminator", "--of generator"]),
        ("sagan --query middle", ["--query: center, grid, or ROW,COLUMN", "columns 0 to 15", "'middle'"]),
        ("sagan --query 16,0", ["rows 0 to 15 and columns 0 to 15", "'16,0'"]),
        ("sagan --query -1,0", ["--query", "'-1,0'"]),
        ("sagan -n 0", ["for -n. Must be >= 1."]),
        ("sagan -n 17", ["-n: at most 16 images"]),
        ("sagan --seed -1", ["for --seed. Must be >= 0."]),
        ("sagan --layer afterr.1", ["'afterr.1'", "Did you mean 'after.1'", "after.0, after.1"]),
        ("sagan --of generator --on test", ["--on: needs --of discriminator or both"]),
        ("sagan --class 1", ["--class 1", "unconditional"]),
        ("sagan --out runs/sagan/model/maps.png --force", ["is a model folder, or lies in one"]),
        (
            "sagan --on tets",
            ["--on tets: no such file. Did you mean 'test'? Name an image file, or one of generated, train"],
        ),
        ("sagan --on x.png --out x.png", ["x.png: is the image of --on"]),
    ],
)
def test_maps_that_cannot_be_drawn(argv: str, parts: list[str], run: Command, sagan: GANModel) -> None:
    save_run(flat(ImageSpec(1, 4, 4, 2)), Path("runs/flat"))
    saved("dcgan", "dcgan")
    saved("sagan", "alone")
    Path("runs/alone/model", DISCRIMINATOR).unlink()
    refused(run("attention", *argv.split()), *parts)
    assert not list(Path().glob("*.png"))
    if argv == "alone":
        assert run("attention", "alone", "--of", "generator").code == 0


# ------------------------------------------------------------------------------------------------------ interpolate


def test_a_row_leads_from_image_to_image(run: Command, sagan: GANModel) -> None:
    said = run("interpolate", "sagan", "--stops", 3, "--steps", 4, "--seed", 6, "--first", 1, "--gif", "path.gif")
    assert (said.code, said.out) == (0, "path.png\npath.gif\n")
    frames = sagan.interpolate(3, 4, seed=6, first=1).numpy()
    paper = np.asarray(plots.grid(np.concatenate([frames[:5], frames[4:]]), 256, 5))
    assert np.array_equal(read("path.png"), paper)
    stops = sagan.sample(3, seed=6, first=1).numpy().astype(int)
    assert np.abs(frames[::4] - stops).max() <= 1
    layout = plots.grid_layout(10, SPEC.shape, 5)
    for tile, stop in ((0, 0), (4, 1), (5, 1), (9, 2)):  # first and last of each row
        y, x = layout.corner(tile)
        shown = paper[y : y + layout.tile[0] : layout.scale, x : x + layout.tile[1] : layout.scale]
        assert np.abs(shown - stops[stop, 0]).max() <= 1
    with Image.open("path.gif") as film:
        assert film.n_frames == 9
        assert "loop" not in film.info
        for i, frame in enumerate(ImageSequence.Iterator(film)):
            assert np.array_equal(np.asarray(frame.convert("L"))[::16, ::16], frames[i, 0])


def test_a_loop_goes_there_and_back(run: Command, sagan: GANModel) -> None:
    run("interpolate", "sagan", "--stops", 2, "--steps", 3, "--gif", "path.gif", "--loop", "--scale", 2)
    frames = sagan.interpolate(2, 3).numpy()
    with Image.open("path.gif") as film:
        assert film.info["loop"] == 0  # for ever
        shown = [np.asarray(frame.convert("L"))[::2, ::2] for frame in ImageSequence.Iterator(film)]
    assert len(shown) == 6
    for frame, i in zip(shown, (0, 1, 2, 3, 2, 1), strict=True):
        assert np.array_equal(frame, frames[i, 0])


def test_the_stops_of_a_path_may_be_truncated(run: Command, sagan: GANModel) -> None:
    run("interpolate", "sagan", "--stops", 3, "--steps", 4, "--truncation", 0.5)
    frames = sagan.interpolate(3, 4, truncation=0.5).numpy()
    assert np.array_equal(read("path.png"), np.asarray(plots.grid(np.concatenate([frames[:5], frames[4:]]), 256, 5)))
    stops = sagan.sample(3, truncation=0.5).numpy().astype(int)
    assert np.abs(frames[::4] - stops).max() <= 1
    assert np.abs(stops - sagan.sample(3).numpy()).max() > 1


def test_a_path_of_one_class(run: Command, told: GANModel) -> None:
    run("interpolate", "told", "--stops", 2, "--steps", 2, "--class", 2)
    frames = told.interpolate(2, 2, labels=2).numpy()
    assert np.array_equal(read("path.png"), np.asarray(plots.grid(frames, 256, 3)))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("sagan --stops 1", ["for --stops. Must be >= 2."]),
        ("sagan --steps 0", ["for --steps. Must be >= 1."]),
        ("sagan --truncation 0", ["--truncation: must be a positive number, not 0"]),
        ("sagan --scale 0", ["for --scale. Must be >= 1."]),
        ("sagan --loop", ["--loop", "--gif"]),
        ("sagan --gif x.gif --out x.gif", ["name two files"]),
        ("sagan --class 0", ["--class 0", "unconditional"]),
        ("sagan --stops 100000", ["too many to be opened"]),
        ("sagan --out runs/sagan/model/path.png --force", ["is a model folder, or lies in one"]),
        ("flat", ["this is a pixel model"]),
    ],
)
def test_paths_that_cannot_be_drawn(options: str, parts: list[str], run: Command, sagan: GANModel) -> None:
    save_run(flat(ImageSpec(1, 4, 4, 2)), Path("runs/flat"))
    refused(run("interpolate", *options.split()), *parts)
    assert not list(Path().glob("*.png"))
