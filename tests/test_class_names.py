"""Classes by name: options, Python, folders that read back, and evaluation on data with other classes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pixelloom as pl
from commands import Command, caller
from pixelloom.cli.conditioning import folder_names
from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import Dataset, load
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.inputs import class_index
from pixelloom.models.pixel import PixelModel
from pixelloom.models.pixel_description import PixelDescription
from pixelloom.models.training_record import TrainingRecord
from pixelloom.networks.pixel.gated import GatedPixelCNNConfig
from pixelloom.runs.evaluate import likelihood_of
from pixelloom.runs.matching import default_split, matched, split_of
from small_models import save_run

SPEC = ImageSpec(1, 8, 8, 16)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "cache"))
    return caller(capsys)


def named(*names: str, null: bool = True) -> PixelModel:
    """A class-conditional model with random weights."""
    description = PixelDescription(
        network="gated-pixelcnn",
        model=GatedPixelCNNConfig(channels=4, layers=1, first_kernel=3, kernel=3),
        head=HeadConfig(kind="categorical"),
        image=SPEC,
        scaling=Scaling.symmetric(),
        classes=len(names),
        null_class=null,
        training=TrainingRecord(classes=names, data=DataConfig(source="ab", size=8, gray=True, levels=16)),
    )
    torch.manual_seed(0)
    model = PixelModel.build(description)
    for parameter in model.network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def folder(path: Path, gray: int, n: int, seed: int = 0) -> None:
    """n different images around a gray level."""
    path.mkdir(parents=True)
    noise = np.random.default_rng((seed, gray)).integers(-9, 10, (n, 8, 8))
    for i, image in enumerate((gray + noise).clip(0, 255).astype(np.uint8)):
        Image.fromarray(image).save(path / f"{i:03d}.png")


def test_a_class_is_chosen_by_its_name_and_by_number_only_if_none_has_that_name(
    caplog: pytest.LogCaptureFixture, run: Command
) -> None:
    about = named("1", "2", "10", "dogs").description
    assert [class_index(name, about) for name in ("1", "2", "10", "dogs", "0", "3")] == [0, 1, 2, 3, 0, 3]
    with pytest.raises(UsageError, match=r"class dog: no class has this name. Did you mean 'dogs'\? Classes: 1, 2, 10"):
        class_index("dog", about)
    for other in ("-1", "5", "0x1", "1.0", "²", "9" * 5000):
        with pytest.raises(UsageError, match="no class has this name") as raised:
            class_index(other, about)
        assert len(str(raised.value)) < 300
    numbered = named("0", "1").description
    with pytest.raises(UsageError, match="class 2: this model has classes 0 to 1"):
        class_index("2", numbered)


def test_labels_of_sample_and_log_prob_are_names_or_numbers() -> None:
    model = named("cats", "dogs")
    images = model.sample(3, labels="dogs")
    assert torch.equal(images, model.sample(3, labels=1))
    assert not torch.equal(images, model.sample(3, labels="cats"))
    assert torch.equal(model.log_prob(images, ["dogs", "cats", "dogs"]), model.log_prob(images, [1, 0, 1]))
    assert torch.equal(model.log_prob(images, np.array(["dogs"] * 3)), model.log_prob(images, 1))
    for wrong, said in (("cow", "no class has this name"), ([None], "names or numbers of classes"), ([0.5], "float")):
        with pytest.raises(UsageError, match=said):
            model.sample(1, labels=wrong)


def test_the_option_class_takes_names_and_says_what_a_number_is(run: Command) -> None:
    model = named("5", "1000", "cats")
    save_run(model, Path("runs/m"))
    for option, index, said in (
        ("5", 0, "--class 5: the class of this name, number 0"),
        ("1000", 1, ""),
        ("cats", 2, ""),
        ("2", 2, "--class 2: no class has this name; it is number 2, cats"),
    ):
        done = run("sample", "m", "--class", option, "-n", 2, "--npy", f"{option}.npy")
        assert done.code == 0
        assert said in done.err
        assert np.array_equal(np.load(f"{option}.npy"), model.sample(2, labels=index).numpy())
    assert run("sample", "m", "--class", "cat").err.endswith(
        "--class cat: no class has this name. Did you mean 'cats'? Classes: 5, 1000, cats\n"
    )
    assert "classes     3 (0 5, 1 1000, 2 cats)" in run("info", "m").out
    assert run("explain", "m", "--seed", 0, "--class", "1000").code == 0


def test_folders_of_each_class_read_back_as_the_same_classes(run: Command) -> None:
    names = ("1", "2", "10", "cats & dogs", "T-shirt")
    model = named(*names)
    save_run(model, Path("runs/m"))
    assert run("sample", "m", "--each-class", "-n", 4, "--each", "drawn").code == 0
    assert {path.name for path in Path("drawn").iterdir()} == set(names)
    read = pl.DataConfig(source="drawn", levels=16)
    data = matched(model, _loaded(read))
    assert data.classes == names
    whole = split_of(data, "all")
    images, labels = whole.all()
    assert labels is not None
    drawn = model.sample(20, labels=torch.arange(20) % 5).numpy()
    kept = {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
    assert kept == {(image.tobytes(), i % 5) for i, image in enumerate(drawn)}


def test_names_that_are_no_folder_names_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pixelloom"):
        assert folder_names(("a/b", "a-b", "", "é", "..", "A-B")) == ("a-b", "a-b 1", "2", "é", "4", "A-B 5")
    assert "'a/b' is 'a-b'" in caplog.text


def _loaded(config: DataConfig) -> Dataset:
    return load(config)


def test_classes_of_other_data_are_matched_by_name(run: Command, caplog: pytest.LogCaptureFixture) -> None:
    model = named("cats", "dogs")
    folder(Path("bc/dogs"), 200, 12), folder(Path("bc/zebras"), 40, 12)
    folder(Path("only/dogs"), 200, 12)
    config = DataConfig(source="bc", levels=16)
    with caplog.at_level(logging.INFO, "pixelloom"):
        found, _ = likelihood_of(model, config, "all")
    assert "left out 12 images of classes that the model lacks: zebras" in caplog.text
    images, _ = split_of(_loaded(DataConfig(source="only", levels=16)), "all").all()
    assert found.n == len(images) == 12
    assert found.nats_per_image == pytest.approx(-float(model.log_prob(images, "dogs").mean()), rel=1e-6)
    assert found.nats_per_image != pytest.approx(-float(model.log_prob(images, "cats").mean()), rel=1e-3)


def test_data_without_a_class_of_the_model_is_refused(run: Command) -> None:
    folder(Path("yz/yaks"), 200, 6), folder(Path("yz/zebras"), 40, 6)
    with pytest.raises(DataError, match=r"yz: its classes \(yaks, zebras\) are none of the model's \(cats, dogs\)"):
        likelihood_of(named("cats", "dogs"), DataConfig(source="yz", levels=16), "all")


def test_a_foreign_folder_is_evaluated_as_a_whole(run: Command) -> None:
    model = named("cats", "dogs")
    folder(Path("bc/dogs"), 200, 12), folder(Path("bc/cats"), 40, 12)
    save_run(model, Path("runs/m"))
    said = run("evaluate", "m", "--data", "bc")
    assert said.code == 0
    assert "bc, all splits: 24 images of 64 values, 16 levels" in said.out
    assert "images are converted as in training: size 8 (crop), gray, 16 levels" in said.err
    test = run("evaluate", "m", "--data", "bc", "--split", "test")
    assert "bc, test split" in test.out
    assert default_split(model, DataConfig(source="ab")) == default_split(model, DataConfig()) == "test"


def test_without_a_null_class_a_class_is_needed() -> None:
    model = named("cats", "dogs", null=False)
    images = model.sample(2, labels="cats")
    assert "guidance" not in model.can
    for call in (
        lambda: model.sample(1),
        lambda: model.sample(1, labels=2),
        lambda: model.log_prob(images),
        lambda: model.sample(1, labels=0, guidance=1.0),
    ):
        with pytest.raises(UsageError, match=r"trained with label_dropout=0.*--label-dropout 0\.1"):
            call()


def test_a_run_without_label_dropout_has_no_null_class(run: Command) -> None:
    small = ["--images=64", "--samples=10", "--model.channels=4", "--model.blocks=1", "--train.threads=1"]
    assert run("train", "digits", "--classes", "--label-dropout", 0, "--out", "r", *small).code == 0
    assert not pl.load("r").description.null_class
    done = run("sample", "r", "--guidance", 3, "--class", 1)
    assert done.code == 2
    assert "--label-dropout" in done.err
    assert "--label-dropout 0.1" in run("sample", "r").err
