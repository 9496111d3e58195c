"""A resumed run is the run that was begun: its data by their content, wherever they are, and its configuration."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pixelloom as pl
from commands import Command, caller
from engine_toys import At
from pixelloom.core.errors import DataError, UsageError
from pixelloom.data.catalog import load
from pixelloom.data.config import DataConfig
from pixelloom.engine.checkpoint import about_of
from pixelloom.engine.hooks import Progress
from pixelloom.runs.identity import fingerprint
from small_models import TINY

SMALL: dict[str, object] = {**TINY, "samples": 0, "train.sample_every": 10**6, "train.validate_every": 10**6}
SMALL["train.batch"] = 16
OPTIONS = [f"--{name}={value}" for name, value in SMALL.items()]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    return caller(capsys)


def write(folder: Path, classes: tuple[str, ...] = ("cats", "dogs"), n: int = 30, first: int = 0) -> None:
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            values = np.random.default_rng((c, first + i)).integers(0, 256, (4, 4), np.uint8)
            Image.fromarray(values).save(folder / name / f"{i}.png")


def train(images: int = 64, **given: Any) -> pl.PixelModel:
    return pl.train(**{"out": "run", "images": images, "overrides": SMALL} | given)


def begin(data: str = "photos") -> None:
    train(32, recipe="pixelcnn", data=data)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------------------------- the fingerprint


def test_a_fingerprint_is_that_of_the_content() -> None:
    write(Path("photos"))
    shutil.copytree("photos", "elsewhere")
    found = fingerprint(load(DataConfig(source="photos")))
    assert found == fingerprint(load(DataConfig(source="elsewhere")))
    assert found["classes"] == ["cats", "dogs"]
    assert sum(split["n"] for split in found["splits"].values()) == 60
    assert found["splits"]["train"]["shape"] == [1, 4, 4]
    binary = fingerprint(load(DataConfig(source="photos", binarize="static")))  # bits follow from the configuration
    assert binary["splits"]["train"]["images"] == found["splits"]["train"]["images"]


def test_one_changed_pixel_changes_it() -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
    np.save("a.npy", images)
    images[7, 2, 2] ^= 1
    np.save("b.npy", images)
    a, b = (fingerprint(load(DataConfig(source=f"{name}.npy"))) for name in "ab")
    assert a != b


def test_checkpoints_models_and_the_configuration_name_the_data() -> None:
    write(Path("photos"))
    begin()
    about = about_of(Path("run/checkpoints"))
    assert about["data"]["path"] == str(Path("photos").absolute())
    digest = about["data"]["splits"]["train"]["images"]
    text = Path("run/config.yaml").read_text()
    assert f"# data: {Path('photos').absolute()}; SHA-256 of train {digest[:16]}" in text
    assert text.endswith("# end of the configuration\n")
    record = pl.load("run").description.training
    assert (record.path, record.content["train"]) == (about["data"]["path"], digest)


# ------------------------------------------------------------------------------------------------------ changed data


def other_images() -> None:
    write(Path("photos"), first=100)


def fewer_images() -> None:
    for i in range(5, 30):
        Path(f"photos/cats/{i}.png").unlink()


def larger_images() -> None:
    for path in Path("photos").rglob("*.png"):
        Image.open(path).resize((6, 6)).save(path)


def renamed_class() -> None:
    Path("photos/cats").rename("photos/zebras")


def added_class() -> None:
    write(Path("photos"), ("cats", "dogs", "emus"))


def moved_labels() -> None:
    for i in range(30):
        a, b, c = Path(f"photos/cats/{i}.png"), Path(f"photos/dogs/{i}.png"), Path("spare")
        a.rename(c), b.rename(a), c.rename(b)


CHANGES: list[tuple[Callable[[], None], str]] = [
    (other_images, r"has (other images|\d+ images, not \d+)"),
    (fewer_images, r"train has \d+ images, not \d+"),
    (larger_images, "images of train are 1x6x6 of 256 levels, they were 1x4x4 of 256 levels"),
    (renamed_class, "the classes are dogs, zebras, they were cats, dogs"),
    (added_class, r"the data now have 3 classes \(cats, dogs, emus\), the run was begun with 2 classes \(cats, dogs\)"),
    (moved_labels, "train has other images"),
]


@pytest.mark.parametrize(("change", "text"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_changed_data_are_told(
    change: Callable[[], None], text: str, run: Command, caplog: pytest.LogCaptureFixture
) -> None:
    write(Path("photos"))
    begin()
    change()
    before = everything(Path("run"))
    said = run("train", "--resume", "--out", "run", "--images", 64)
    assert said.code == 3
    assert "pixelloom: photos: the data changed since the run was begun: " in said.err
    assert re.search(text, said.err)
    assert "--allow-changed-data" in said.err
    assert everything(Path("run")) == before
    if change is larger_images:
        return  # the network fits any size, but its conditioning and head need not
    with caplog.at_level(logging.WARNING, "pixelloom"):
        assert run("train", "--resume", "--out", "run", "--images", 64, "--allow-changed-data").code == 0
    assert "continuing on the data as they are" in caplog.text
    assert run("train", "--resume", "--out", "run", "--images", 96).code == 0  # now these are the data of the run


def test_a_class_added_to_a_class_conditional_run(run: Command) -> None:
    write(Path("photos"))
    train(32, recipe="pixelcnn", data="photos", overrides=SMALL | {"classes": True})
    added_class()
    said = run("train", "--resume", "--out", "run", "--images", 64)
    assert (said.code, "the data now have 3 classes" in said.err) == (3, True)


def test_moved_data_are_found_by_their_content(run: Command) -> None:
    write(Path("photos"))
    begin()
    Path("photos").rename("pictures")
    assert run("train", "--resume", "--out", "run", "--images", 64).code == 3  # where are they?
    assert run("train", "--resume", "--out", "run", "--images", 64, "--data", "pictures").code == 0
    assert about_of(Path("run/checkpoints"))["data"]["path"] == str(Path("pictures").absolute())
    write(Path("others"), first=100)
    assert run("train", "--resume", "--out", "run", "--images", 96, "--data", "others").code == 3
    said = run("train", "--resume", "--out", "run", "--images", 96, "--data", "digits")
    assert (said.code, "data.source: the run in run was started with" in said.err) == (2, True)


def test_a_relative_path_means_the_folder_of_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(Path("photos"))
    begin()
    here = Path.cwd()
    write(Path("sub/photos"), first=100)
    monkeypatch.chdir("sub")
    with caplog.at_level(logging.WARNING, "pixelloom"):
        train(resume=True, out="../run")
    assert f"photos is {here / 'photos'}, where the run was begun, not {here / 'sub/photos'}" in caplog.text


def test_a_model_is_evaluated_on_the_data_it_was_trained_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(Path("photos"))
    begin()
    model, here = pl.load("run"), Path.cwd()
    expected = pl.evaluate(model)
    write(Path("sub/photos"), first=100)
    monkeypatch.chdir("sub")
    with caplog.at_level(logging.WARNING, "pixelloom"):
        assert pl.evaluate(model) == expected
    assert f"photos is {here / 'photos'}, which the model was trained on" in caplog.text
    assert pl.evaluate(model, "photos") != expected  # asked for by name


# ------------------------------------------------------------------------------------------------- the configuration


def copied(split: str, to: str) -> None:
    """The images of a split of photos, as files of their names."""
    data = load(DataConfig(source="photos"))
    for i, image in enumerate(data.split(split).all()[0]):
        Path(to).mkdir(exist_ok=True)
        Image.fromarray(image[0]).save(f"{to}/{i:03}.png")


TRAINED_ON = "the model was trained on these images"


@pytest.mark.parametrize(
    ("data", "split", "expected"),
    [
        (None, "test", ""),
        (None, "val", ""),
        (None, "train", TRAINED_ON),
        ("moved", "all", "the model was trained on the images of the train split among these; choose --split test"),
        ("moved", "test", ""),
        ("copy of train", "all", TRAINED_ON),
        ("copy of test", "all", ""),
        ("others", "all", ""),
    ],
)
def test_evaluation_says_where_images_are_those_of_training(
    data: str | None, split: str, expected: str, run: Command
) -> None:
    write(Path("photos"))
    begin()
    shutil.copytree("photos", "moved")
    copied("train", "copy of train")
    copied("test", "copy of test")
    write(Path("others"), first=100)
    words = ["--data", data] if data else []
    done = run("evaluate", "run", *words, *(["--split", split] if split != "all" else []), "--json")
    assert done.code == 0
    note = json.loads(done.out)["note"]
    assert expected in note
    assert ("trained on" in done.err) == ("trained on" in note) == bool(expected)
    assert not expected or f"warning: {data or 'photos'}: {expected}" in done.err


def test_evaluation_says_if_the_data_of_training_changed(run: Command) -> None:
    write(Path("photos"))
    begin()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("photos/cats/new.png")
    now, before = load(DataConfig(source="photos")), pl.load("run").description.training
    changed = [name for name in ("train", "val", "test") if len(now.split(name)) != before.counts[name]]
    assert len(changed) == 1
    said = f"the data changed since training (other images of {changed[0]}), so training images may be among these"
    done = run("evaluate", "run", "--json")
    assert json.loads(done.out)["note"].endswith(said)
    assert f"warning: photos: {said}" in done.err
    assert said in run("evaluate", "run", "--split", "val", "--json").out
    assert "changed since" not in run("evaluate", "run", "--json", "--fit", "pad").out  # read in another way
    Path("photos/cats/new.png").unlink()
    assert "changed since" not in run("evaluate", "run", "--json").out


def test_a_cut_configuration_is_told(run: Command, caplog: pytest.LogCaptureFixture) -> None:
    train(64, recipe="digits")
    path = Path("run/config.yaml")
    text = path.read_text()
    for line in ("optim:", "  lr:", "head:"):
        cut = text.index(f"\n{line}") + 1
        path.write_text(text[:cut])
        with caplog.at_level(logging.WARNING, "pixelloom"):
            said = run("train", "--resume", "--out", "run", "--images", 128)
        assert said.code == 2
        if "optim" in line or "config.yaml: not the" in said.err:
            assert "run/config.yaml: not the configuration that the checkpoints were written with" in said.err
    assert "its last line, '# end of the configuration', is missing" in caplog.text
    path.write_text(text)
    assert run("train", "--resume", "--out", "run", "--images", 128).code == 0


def test_a_changed_rate_is_told_and_a_changed_budget_is_not() -> None:
    train(64, recipe="digits")
    path = Path("run/config.yaml")
    text = path.read_text()
    path.write_text(re.sub(r"\n  lr: .*", "\n  lr: 0.123", text, count=1))
    with pytest.raises(UsageError, match=r"optim.lr is 0.123, was 0\.\d+; put the old values back"):
        train(128, resume=True)
    path.write_text(text.replace("images: 64", "images: 96"))
    train(resume=True)


# ----------------------------------------------------------------------------------------------- around a run


@pytest.mark.parametrize("how", ["cut", "removed", "written again"])
def test_a_mapped_file_that_changes_ends_the_run(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4000, 8, 8), np.uint8)
    np.save("big.npy", images)
    monkeypatch.setattr("pixelloom.data.io.stacks.IN_MEMORY", 1000)  # smaller files are read as a whole

    def change() -> None:
        if how == "cut":
            os.truncate("big.npy", 4096)
        elif how == "removed":
            Path("big.npy").unlink()
        else:
            os.utime("big.npy", (1, 1))

    monkeypatch.setattr(Progress, "on_step", At(2, change).on_step)
    with pytest.raises(
        DataError, match=r"big.npy: (changed|was removed) while a run trains on it; put it back. The sta"
    ):
        train(6400, recipe="pixelcnn", data="big.npy")
    assert list(Path("run/checkpoints").glob("step-*2.safetensors"))


@pytest.mark.parametrize("cached", [True, False])
def test_a_folder_that_is_deleted_is_no_matter_for_a_run(cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are decoded before the first step, into memory or the cache."""
    write(Path("photos"))
    if cached:
        monkeypatch.setattr("pixelloom.data.io.cache.IN_MEMORY", 500)
    kept = train(320, recipe="pixelcnn", data="photos", out="kept")
    monkeypatch.setattr(Progress, "on_step", At(2, lambda: shutil.rmtree("photos")).on_step)
    deleted = train(320, recipe="pixelcnn", data="photos")
    assert not Path("photos").exists()
    for (name, one), (_, other) in zip(
        kept.network.state_dict().items(), deleted.network.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


def test_training_leaves_the_generators_as_they_were() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(32, recipe="digits")
    assert torch.equal(torch.rand(3), expected)
