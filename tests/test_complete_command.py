"""``pixelloom complete``: known pixels stay, hidden ones are drawn as by the model, and errors name the option."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import Command, caller
from gan_toys import PAIRS
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.masks import box, region
from pixelloom.data.pixels import to_bytes
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelModel
from pixelloom.sampling.particles import Particles
from pixelloom.viz.grid import grid_layout, save_png, to_image
from small_models import flat, save_run

SPEC = ImageSpec(1, 8, 8, 17)
HIDDEN = (59, 110, 165)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


@pytest.fixture
def model(run: Command) -> PixelModel:
    found = flat(SPEC, DataConfig().model_dump(mode="json"))
    save_run(found, Path("runs/flat"))
    return found


def image_file(name: str, seed: int = 0) -> torch.Tensor:
    """A random image as a file; its levels, uint8 [1, 8, 8]."""
    levels = torch.randint(17, (1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    save_png(to_image(levels.numpy(), 17), name)
    return levels


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        (["--hide", "bottom"], region("bottom", 8, 8)),
        (["--hide", "center"], region("center", 8, 8)),
        (["--hide", "40%", "--seed", 3], region("40%", 8, 8, 3)),
        (["--box", "1,2,3,4"], box((1, 2, 3, 4), 8, 8)),
        (["--hide", "0%"], torch.zeros(8, 8, dtype=torch.bool)),
        (["--hide", "100%"], torch.ones(8, 8, dtype=torch.bool)),
    ],
)
def test_the_array_holds_what_the_model_draws(
    options: list[object], hidden: torch.Tensor, run: Command, model: PixelModel
) -> None:
    levels = torch.stack([image_file(f"{i}.png", i) for i in range(2)])
    said = run("complete", "flat", "0.png", "1.png", *options, "-n", 3, "--particles", 8, "--npy", "a.npy", "--json")
    assert said.code == 0, said.err
    found, drawn = json.loads(said.out), np.load("a.npy")
    seed = 3 if "--seed" in options else 0
    expected = model.complete(levels, hidden, 3, particles=8, seed=seed)
    assert np.array_equal(drawn, expected.images.numpy())
    kept = np.broadcast_to(~hidden.numpy(), drawn.shape)
    assert np.array_equal(drawn[kept], np.broadcast_to(levels.numpy()[:, None], drawn.shape)[kept])
    assert found["method"] == expected.method
    assert found["hidden_values"] == int(hidden.sum())
    assert np.allclose(found["log_prob"], expected.log_prob.numpy(), atol=1e-4)
    # Every level is equally likely, whatever is known.
    assert np.allclose(expected.log_prob.numpy(), -int(hidden.sum()) * np.log(17), atol=1e-3)
    assert found["outputs"] == ["completed.png", "a.npy"]


def test_the_grid_shows_given_completions_and_truth(run: Command, model: PixelModel) -> None:
    levels = image_file("0.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 1:4] = 255
    Image.fromarray(mask).save("mask.png")
    said = run("complete", "flat", "0.png", "--mask", "mask.png", "-n", 2, "--particles", 8, "--out", "c.png")
    assert (said.code, said.out) == (0, "c.png\n")
    assert "method: particles" in said.err
    picture = np.asarray(Image.open("c.png").convert("RGB"))
    layout = grid_layout(4, (3, 8, 8), 4)
    top = picture.shape[0] - layout.size[0]  # below the labels
    drawn = model.complete(levels[None], torch.from_numpy(mask > 0), 2, particles=8).images[0]
    tiles = [levels, *drawn, levels]
    for column, tile in enumerate(tiles):
        y, x = layout.corner(column)
        shown = to_bytes(tile.numpy(), 17)[0]
        step = layout.tile[0] // 8
        for row in range(8):
            for place in range(8):
                seen = picture[top + y + row * step + step // 2, x + place * step + step // 2]
                expected = HIDDEN if column == 0 and mask[row, place] else (int(shown[row, place]),) * 3
                assert tuple(int(v) for v in seen) == expected


def test_a_collapse_is_reported_once(run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Particles, "lineages", lambda self: torch.full((len(self.log_weights),), 1.5))
    said = run("complete", "flat", "--hide", "top", "--rows", 3, "-n", 2, "--particles", 64)
    assert said.err.count("particles: in 3 of 3 images fewer than 6.4 of 64 particles") == 1


def test_without_files_it_completes_test_images_of_the_training_data(run: Command, model: PixelModel) -> None:
    said = run("complete", "flat", "--hide", "top", "--rows", 3, "-n", 1, "--particles", 4, "--npy", "a.npy")
    assert (said.code, said.out) == (0, "completed.png\na.npy\n")
    assert np.load("a.npy").shape == (3, 1, 1, 8, 8)
    assert run("complete", "flat", "--hide", "top", "--rows", 1, "-n", 1, "--particles", 4).out == "completed-2.png\n"


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ([], 2, "--mask, --box, --hide: give one of them"),
        (["--hide", "top", "--box", "0,0,1,1"], 2, "--mask, --box, --hide: choose one of them"),
        (["--hide", "botom"], 2, "or a share of random pixels such as 75%, not 'botom'. Did you mean 'bottom'?"),
        (["--box", "1,2,3"], 2, "--box: four numbers ROW,COLUMN,HEIGHT,WIDTH, from 0, not '1,2,3'"),
        (["--box", "-1,2,3,4"], 2, "--box: four numbers ROW,COLUMN,HEIGHT,WIDTH"),
        (["--box", "7,7,2,2"], 2, "box: row 7, column 7, 2x2 pixels do not lie within an image of 8x8"),
        (["--mask", "none.png"], 3, "none.png: cannot be read: No such file or directory"),
        (["--mask", "small.png"], 2, "--mask small.png: is 4x5 pixels, the model's images have 8x8"),
        (["--mask", "text.png"], 3, "text.png"),
        (["--hide", "top", "-n", "0"], 2, "-n. Must be >= 1"),
        (["--hide", "top", "--temperature", "0"], 2, "temperature: must be a positive number, not 0"),
        (["--hide", "top", "--method", "mask"], 2, "this model is not conditioned on partly known images"),
        (["--hide", "top", "--method", "order"], 2, "has known pixels after hidden ones in every pixel order"),
        (["--hide", "top", "--class", "1"], 2, "--class 1: this model is unconditional"),
        (["--hide", "top", "--npy", "a.txt"], 2, "--npy a.txt: writes a NumPy array"),
        (["--hide", "top", "--out", "a.jpg"], 2, "a.jpg"),
        (["--hide", "top", "--rows", "2"], 2, "--rows: is for images of the test split"),
    ],
)
def test_what_is_wrong_is_named(options: list[str], code: int, text: str, run: Command, model: PixelModel) -> None:
    image_file("0.png")
    Image.new("L", (5, 4)).save("small.png")
    Path("text.png").write_text("no image")
    said = run("complete", "flat", "0.png", *options)
    assert said.code == code
    assert text in said.err
    assert said.out == ""
    assert not Path("completed.png").exists()


def test_outputs_are_not_replaced_and_gans_are_refused(run: Command, model: PixelModel) -> None:
    image_file("0.png")
    Path("c.png").write_text("mine")
    said = run("complete", "flat", "0.png", "--hide", "bottom", "--out", "c.png")
    assert said.code == 2
    assert "c.png: exists already" in said.err
    assert Path("c.png").read_text() == "mine"
    network, config = PAIRS["dcgan"]
    gan = GANModel.build(GANDescription(network=network, model=config, image=ImageSpec(1, 16, 16, 256)))
    gan.save("gan/model")
    said = run("complete", "gan", "--hide", "bottom")
    assert "a GAN generates whole images and cannot complete a part" in said.err
