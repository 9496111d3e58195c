"""Palettes: the colors that are fitted, nearest colors, data, and a run whose images are indices of a palette."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pixelloom as pl
from cli_program import main
from pixelloom.codec.export import refuse
from pixelloom.core.errors import DataError, ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import load, load_for
from pixelloom.data.config import DataConfig
from pixelloom.data.image_source import open_files
from pixelloom.data.memory import dataset_of
from pixelloom.data.palette import colors_of, fit_palette, indexed
from pixelloom.data.pixels import to_bytes
from pixelloom.runs.evaluate import MeasureOptions, measure
from pixelloom.runs.image_facts import image_facts
from pixelloom.runs.pick import Means, pick
from pixelloom.studio import canvas
from pixelloom.studio.library import Entry
from pixelloom.studio.tasks import score as studio_score
from small_models import TINY

FOUR = "#000000,#ff0000,#00c000,#ffffff"
"""Of growing luma: 0, 76, 113, 255."""
RGB = colors_of(FOUR)
THREE = "#000000,#ff0000,#ffffff"


def sprites(n: int, seed: int = 0, side: int = 4) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB images of the four colors, uint8 [n, 3, side, side]."""
    index = np.random.default_rng(seed).integers(0, 4, (n, 1, side, side)).astype(np.uint8)
    return to_bytes(index, FOUR)


def pixels_in(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_few_colors_are_the_palette_from_dark_to_bright() -> None:
    assert fit_palette(sprites(20), 4) == FOUR
    assert fit_palette(sprites(20), 200) == FOUR
    assert fit_palette(np.full((2, 3, 2, 2), 10, np.uint8), 4) == "#0a0a0a,#f5f5f5"  # two at least


def test_many_colors_are_reduced_to_the_centers_of_their_groups() -> None:
    rng = np.random.default_rng(1)
    pure = sprites(50, side=8).astype(int)
    noisy = np.clip(pure + rng.integers(-6, 7, pure.shape), 0, 255).astype(np.uint8)
    found = fit_palette(noisy, 4)
    assert np.abs(colors_of(found).astype(int) - RGB).max() <= 6
    assert (indexed(noisy, found) == indexed(pure.astype(np.uint8), FOUR)).all()
    assert fit_palette(noisy[::-1], 4) == found  # whatever the order of images


def test_each_pixel_has_the_nearest_color() -> None:
    rng = np.random.default_rng(2)
    palette = ",".join("#" + rng.bytes(3).hex() for _ in range(13))
    images = rng.integers(0, 256, (5, 3, 6, 7), np.uint8)
    far = ((images[:, None].astype(int) - colors_of(palette).astype(int)[None, :, :, None, None]) ** 2).sum(2)
    assert (indexed(images, palette)[:, 0] == far.argmin(1)).all()
    assert indexed(np.full((1, 3, 1, 1), 5, np.uint8), "#000000,#0a0a0a").item() == 0  # the first of equally near ones


def test_indices_and_colors_are_inverse() -> None:
    index = np.random.default_rng(3).integers(0, 4, (6, 1, 5, 3)).astype(np.uint8)
    colors = to_bytes(index, FOUR)
    assert (colors == RGB[index[:, 0]].transpose(0, 3, 1, 2)).all()
    assert (to_bytes(index[0], FOUR) == colors[0]).all()  # of a single image as well
    assert (indexed(colors, FOUR) == index).all()


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        (1, "2 to 256 colors"), ("257", "2 to 256 colors"), ("red,blue", "#rrggbb"), ("#00000,#ffffff", "#rrggbb"),
        ("#000000", "different colors"), ("#ABCDEF,#abcdef", "different"),
    ],
)  # fmt: skip
def test_what_is_no_palette_is_refused(palette: int | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(palette=palette)


@pytest.mark.parametrize("other", [{"levels": 4}, {"gray": True}, {"binarize": "threshold@0.5"}])
def test_a_palette_excludes_other_levels(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="palette gives color images levels of its own"):
        DataConfig(palette=4, **other)


def test_colors_are_read_in_either_case() -> None:
    assert DataConfig(palette="#FF0000, #00c000").palette == "#ff0000,#00c000"
    assert DataConfig(palette="16").palette == 16


def test_a_palette_needs_as_many_colors_as_levels() -> None:
    with pytest.raises(ValueError, match="a color for each level"):
        ImageSpec(1, 4, 4, 3, FOUR)
    with pytest.raises(ValueError, match="a color for each level"):
        ImageSpec(3, 4, 4, 4, FOUR)


def test_data_have_the_palette_of_the_training_images() -> None:
    images = {"train": sprites(12, 1), "val": sprites(5, 2), "test": np.full((3, 3, 4, 4), 240, np.uint8)}
    data = dataset_of(images, config=DataConfig(source="sprites", palette=9))
    assert data.spec == ImageSpec(1, 4, 4, 4, FOUR)
    for name in ("train", "val"):
        assert (to_bytes(data.split(name).all()[0], FOUR) == images[name]).all()
    assert (data.test.all()[0] == 3).all()  # white is the nearest one
    again = dataset_of(images, config=DataConfig(source="sprites", palette="#ffffff,#000000"))
    assert again.spec.display == "#ffffff,#000000"
    assert (again.test.all()[0] == 0).all()


def test_gray_images_have_no_palette() -> None:
    with pytest.raises(UsageError, match=r"data\.palette: the images of digits are not in color"):
        load(DataConfig(source="digits", palette=4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sprites")
    for number, image in enumerate(sprites(240, 5)):
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(root / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "sprites"
    tiny = {name: value for name, value in TINY.items() if name in ("model.channels", "model.kernel")}
    changes = {**tiny, "data.source": str(folder), "data.palette": 4, "train.images": 64, "model.layers": 2}
    pl.train("gated-pixelcnn", overrides={**changes, "model.first_kernel": 3, "samples": 4}, out=out)
    return out


def test_a_run_keeps_its_palette_and_repeats_by_its_configuration(run: Path, tmp_path: Path) -> None:
    model: Any = pl.load(run)
    assert model.spec == ImageSpec(1, 4, 4, 4, FOUR)
    assert (model.description.embedding, model.description.training.data.palette) == (8, FOUR)
    assert f"palette: '{FOUR}'" in (run / "config.yaml").read_text()
    again: Any = pl.train(config=run / "config.yaml", out=tmp_path / "again")
    assert again.spec == model.spec
    assert set(map(tuple, pixels_in(next((run / "samples").glob("*.png"))).reshape(-1, 3))) <= {
        *map(tuple, RGB.tolist()), (128, 128, 128)
    }  # fmt: skip


def test_a_run_is_resumed_with_the_number_of_colors(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(run), "--resume", "--palette", "4", "--images", "80"]) == 0
    assert main(["train", "--out", str(run), "--resume", "--palette", "3"]) == 2
    assert "data.palette" in capsys.readouterr().err


def test_probabilities_of_all_images_of_indices_sum_to_one(tmp_path: Path) -> None:
    config = {"model.channels": 4, "model.layers": 2, "model.first_kernel": 3, "model.kernel": 3}
    images = to_bytes(np.random.default_rng(0).integers(0, 3, (20, 1, 2, 2)).astype(np.uint8), THREE)
    changes = {**config, "data.palette": 3, "train.images": 64, "samples": 0}
    model: Any = pl.train("gated-pixelcnn", data=images, overrides=changes, out=tmp_path / "run")
    every = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
    assert model.log_prob(every).double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_files_are_scored_and_completed_as_indices(run: Path, folder: Path, tmp_path: Path) -> None:
    model: Any = pl.load(run)
    image = sprites(240, 5)[7]
    with open_files(DataConfig(source=str(folder)), model.spec) as source:
        assert (source.take([7]).images == indexed(image[None], FOUR)).all()
    assert main(["complete", str(run), str(folder / "007.png"), "--hide", "bottom", "-n", "2", "--npy",
                 str(tmp_path / "c.npy"), "--out", str(tmp_path / "c.png")]) == 0  # fmt: skip
    found = np.load(tmp_path / "c.npy")
    assert (found[0, :, :, :2] == indexed(image[None], FOUR)[0, :, :2]).all()
    assert set(map(tuple, RGB.tolist())) <= set(map(tuple, pixels_in(tmp_path / "c.png").reshape(-1, 3).tolist()))


def test_samples_are_written_in_the_colors_of_the_palette(run: Path, tmp_path: Path) -> None:
    assert main(["sample", str(run), "-n", "3", "--each", str(tmp_path / "some"), "--seed", "5"]) == 0
    model: Any = pl.load(run)
    files = sorted((tmp_path / "some").glob("*.png"))
    assert len(files) == 3
    for path, levels in zip(files, model.sample(3, seed=5).numpy(), strict=True):
        assert (pixels_in(path) == RGB[levels[0]]).all()


def test_the_likelihood_of_a_folder_is_that_of_its_indices(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--data", str(folder), "--split", "all", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    levels = indexed(np.stack([pixels_in(path).transpose(2, 0, 1) for path in sorted(folder.glob("*.png"))]), FOUR)
    model: Any = pl.load(run)
    assert told["nats_per_image"] == pytest.approx(-model.log_prob(torch.from_numpy(levels)).mean().item(), rel=1e-6)


def test_sample_metrics_compare_colors(run: Path) -> None:
    model: Any = pl.load(run)
    data = load_for(model.spec, model.description.training.data)
    options = MeasureOptions(metrics=("nearest",), split="test", n=24, forgiving=True)
    found = measure(model, data, options)
    assert found.levels == 256
    assert (found.samples.numpy() == to_bytes(model.sample(24, seed=options.seed).numpy(), FOUR)).all()
    assert (found.reference.held_out.numpy() == to_bytes(data.test.all()[0], FOUR)).all()


def test_what_needs_intensities_is_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    model: Any = pl.load(run)
    with pytest.raises(ModelError, match="a palette cannot be exported"):
        refuse(model)
    for recipe, more, message in (
        ("dcgan", {"data.size": 32}, "a GAN generates intensities"),
        ("gated-pixelcnn", {"head.kind": "logistics"}, "logistics needs intensities"),
        ("gated-pixelcnn", {"condition": "downsample@2"}, "needs intensities"),
    ):
        changes = {"data.source": str(folder), "data.palette": 4, "train.images": 64, **more}
        with pytest.raises(UsageError, match=message):
            pl.train(recipe, overrides=changes, out=tmp_path / "refused")
    with pytest.raises(DataError, match="the model was trained on"):
        load_for(ImageSpec(1, 8, 8, 4, FOUR), DataConfig(source=str(folder)))


def test_a_recipe_is_picked_for_a_palette(folder: Path) -> None:
    facts = image_facts(DataConfig(source=str(folder), palette=32))
    choice = pick(facts, Means(), budget=True)
    assert (choice.recipe, dict(choice.overrides)) == ("gated-pixelcnn", {})
    assert "240 color images of 4x4" in choice.why


def test_the_canvas_has_the_palette(run: Path, folder: Path) -> None:
    model: Any = pl.load(run)
    state = json.loads(canvas.empty(model.spec))
    assert (state["palette"], state["levels"], state["shape"]) == (FOUR, 4, [1, 4, 4])
    html, _ = studio_score(Entry("run", run, model), [("007.png", (folder / "007.png").read_bytes())])
    assert html.count("data:image/png") == 1
