"""The Python side: a light package, runs that are planned, claimed, resumed and replaced as asked, exact figures."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import pixelloom as pl
from pixelloom import api
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import load as load_data
from pixelloom.data.config import DataConfig
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.models.pixel import PixelModel
from pixelloom.runs import train as runs
from pixelloom.runs.evaluate import data_for
from pixelloom.runs.plan import as_text, planned
from small_models import TINY, flat, save_run

DIGITS = ImageSpec(1, 8, 8, 17)
QUICK: dict[str, object] = {**TINY, "samples": 0, "train.validate_every": 1000, "train.sample_every": 10**6}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIXELLOOM_DATA", raising=False)


def test_importing_the_package_is_light() -> None:
    program = "import sys, pixelloom; print(pixelloom.__version__, {'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{pl.__version__} set()\n"


def test_every_public_name_is_there() -> None:
    assert set(pl.__all__) <= set(dir(pl))
    for name in pl.__all__:
        assert getattr(pl, name) is not None
    assert pl.PixelModel is PixelModel
    assert pl.ImageSpec is ImageSpec
    assert pl.load is api.load
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        pl.lod  # noqa: B018


class Plain(nn.Module):
    """Two 3x3 convolutions as anybody may write them; the second reads too far if its mask has the center's row."""

    def __init__(self, rows: int = 1) -> None:
        super().__init__()
        self.first = MaskedConv2d(1, 3, 3, mask="A")
        self.second = nn.Conv2d(3, 2, (rows, 3), padding=(rows // 2, 1)) if rows > 1 else nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).relu())
        return out


def test_a_network_of_ones_own_is_proved_autoregressive() -> None:
    spec = pl.ImageSpec(1, 5, 6, 2)
    pl.assert_autoregressive(Plain(), spec)
    with pytest.raises(pl.NotAutoregressiveError, match="second"):
        pl.assert_autoregressive(Plain(rows=3), spec)
    assert issubclass(pl.NotAutoregressiveError, pl.ModelError)


def test_the_receptive_field_of_ones_own_network() -> None:
    field = pl.receptive_field(Plain(), pl.ImageSpec(1, 5, 6, 2), (2, 3))
    assert [(y, x) for _, y, x in np.argwhere(field)] == [(1, 2), (1, 3), (1, 4), (2, 2)]  # mask A, and a 1x1 layer
    assert field.shape == (1, 5, 6)


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert pl.__version__ == project["version"]


# ---------------------------------------------------------------------------------------------------------- train


def train(**given: Any) -> PixelModel:
    overrides = QUICK | given.pop("overrides", {})
    return pl.train(given.pop("recipe", "digits"), **{"images": 200, **given}, overrides=overrides)


def settings(run: str = "runs/digits") -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(Path(run, "config.yaml").read_text())
    return values


def same(a: PixelModel, b: PixelModel) -> bool:
    x, y = a.network.state_dict(), b.network.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


def test_a_run_from_name_to_model() -> None:
    model = train(seed=3)
    assert same(model, pl.load("digits"))  # by name, by run folder and by model folder
    assert same(model, pl.load("runs/digits"))
    assert same(model, pl.load(Path("runs/digits/model")))
    assert model.spec == DIGITS
    assert settings()["train"]["images"] == 200
    assert settings()["train"]["epochs"] is None  # the recipe's budget made way
    assert settings()["train"]["seed"] == 3
    assert settings()["model"]["channels"] == 4
    record = model.description.training
    assert record.images == 224  # seven batches of 32
    bits = record.validation.metrics["bits/dim"]
    assert bits == pytest.approx(pl.evaluate(model, split="val").bits_per_dim, rel=1e-9)
    assert bits < math.log2(17)  # it has learned something
    assert sorted(path.name for path in Path("runs/digits").iterdir() if path.name != "tensorboard") == [
        *("checkpoints", "config.yaml", "curves.png", "metrics.jsonl", "model", "samples")
    ]


def test_its_own_configuration_repeats_a_run() -> None:
    first = train(seed=1)
    again = pl.train(config="runs/digits/config.yaml", out="again")
    assert same(first, again)
    assert Path("again/config.yaml").read_bytes() == Path("runs/digits/config.yaml").read_bytes()
    assert not same(first, pl.train(config="runs/digits/config.yaml", seed=2, out="other"))


def test_a_resumed_run_is_the_run_that_was_not_stopped() -> None:
    steady = {"optim.decay": "none"}  # a rate that does not look at the budget
    whole = train(images=320, out="whole", overrides=steady)
    train(images=160, out="parts", overrides=steady)
    resumed = pl.train(resume=True, out="parts", images=320)  # nothing but the folder and the new budget
    assert same(whole, resumed)
    assert settings("parts")["train"]["images"] == 320
    assert same(
        resumed, train(images=320, out="parts", resume=True, overrides=steady)
    )  # the command repeated: nothing left to do


def test_resuming_what_is_not_there_begins_it(caplog: pytest.LogCaptureFixture) -> None:
    train(resume=True)
    assert "no run to resume; starting one" in caplog.text
    with pytest.raises(UsageError, match=r"nowhere: no run to resume"):
        pl.train(resume=True, out="nowhere")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"overrides": {"model.channels": 8}}, "model.channels: the run in runs/digits was started with 4, not 8"),
        ({"seed": 9}, "train.seed: .* with 0, not 9"),
        ({"data": "shapes"}, "data.source: .* with 'digits'"),
        ({"recipe": "rgb", "out": "runs/digits"}, "is a run of 'digits', not of 'rgb'"),
        ({"force": True}, "choose one"),
    ],
)
def test_a_resumed_run_keeps_its_settings(given: dict[str, Any], word: str) -> None:
    train()
    before = Path("runs/digits/config.yaml").read_bytes()
    with pytest.raises(UsageError, match=word):
        train(resume=True, **given)
    assert Path("runs/digits/config.yaml").read_bytes() == before


def everything(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_a_run_is_replaced_on_demand_only() -> None:
    old = train(seed=1)
    Path("runs/digits/notes.txt").write_text("mine")
    Path("runs/digits/samples/000.png").write_text("an old sample")
    before = everything("runs/digits")
    with pytest.raises(UsageError, match=r"runs/digits: holds a run already; .*--resume.*--force"):
        train(seed=2, out="runs/digits")
    assert everything("runs/digits") == before
    new = train(seed=2, force=True)
    assert not same(old, new)
    assert Path("runs/digits/notes.txt").read_text() == "mine"
    assert not Path("runs/digits/samples/000.png").exists()
    assert settings()["train"]["seed"] == 2


@pytest.mark.parametrize(
    "given",
    [
        {"data": "absent"},
        {"data": "mnist"},
        {"overrides": {"head.kind": "bernoulli"}},
        {"overrides": {"model.chanels": 3}},
        {"device": "cuda"},
    ],
)
def test_a_new_run_that_cannot_begin_does_not_cost_the_old_one(given: dict[str, Any]) -> None:
    if given.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("CUDA is here")
    train()
    before = everything("runs/digits")
    with pytest.raises(pl.PixelloomError):
        train(force=True, **given)
    assert everything("runs/digits") == before


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(force: bool) -> None:
    folder = Path("photos")
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "cat.png").write_text("a cat")
    (folder / "config.yaml").write_text("color: red\n")
    before = everything("photos")
    with pytest.raises(UsageError, match=r"photos: holds config.yaml, samples, but not a run of Pixelloom"):
        train(out=folder, force=force)
    assert everything("photos") == before


def test_links_are_unlinked_and_not_followed() -> None:
    train()
    Path("elsewhere").mkdir()
    Path("elsewhere/keep.png").write_text("keep")
    for path in Path("runs/digits/samples").iterdir():
        path.unlink()
    Path("runs/digits/samples").rmdir()
    Path("runs/digits/samples").symlink_to(Path("elsewhere").resolve())
    train(force=True)
    assert Path("elsewhere/keep.png").read_text() == "keep"
    assert not Path("runs/digits/samples").is_symlink()


@pytest.mark.parametrize(
    ("overrides", "budgets"),
    [
        ({}, (None, None, 100.0)),
        ({"train.minutes": 5}, (5.0, None, None)),
        ({"train.minutes": "5"}, (5.0, None, None)),
        ({"train.images": 10, "train.minutes": 1}, (1.0, 10, None)),
        ({"train.seed": 3}, (None, None, 100.0)),
        ({"train.epochs": None}, (None, None, None)),
    ],
)
def test_a_budget_takes_the_place_of_the_recipes(
    overrides: dict[str, object], budgets: tuple[float | None, ...]
) -> None:
    plan, _ = planned("digits", overrides=overrides)
    assert (plan.train.minutes, plan.train.images, plan.train.epochs) == budgets
    Path("budget.yaml").write_text(yaml.safe_dump({"train": {"images": 77}}))
    from_file, _ = planned("digits", config="budget.yaml")
    assert (from_file.train.minutes, from_file.train.images, from_file.train.epochs) == (None, 77, None)


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({"recipe": "rgb"}, "runs/rgb"),
        ({"recipe": "rgb", "config": "mine.yaml"}, "runs/rgb"),
        ({"recipe": None, "config": "mine.yaml"}, "runs/mine"),
        ({"recipe": None, "config": "named.yaml"}, "runs/digits"),
        ({"recipe": "rgb", "out": "here"}, "here"),
    ],
)
def test_where_a_run_goes(given: dict[str, Any], folder: str) -> None:
    Path("mine.yaml").write_text("samples: 3\n")
    Path("named.yaml").write_text("recipe: digits\nsamples: 3\n")
    plan, out = planned(**given)
    assert out == Path(folder)
    assert plan.samples == (3 if "config" in given else 25)


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"model.chanels": 3}, "--model.chanels: no such field of model. Did you mean 'channels'"),
        ({"trian.batch": 3}, "--trian.batch: there is no section 'trian'. Did you mean 'train'"),
        ({"sampels": 3}, "--sampels: no such field. Did you mean 'samples'"),
        ({"model.channels.x": 3}, "--model.channels.x: there is no section 'model.channels'"),
        ({"train.batch": "x"}, r"train.batch: .*\(given: 'x'\)"),
    ],
)
def test_a_slip_in_a_field_is_told_with_the_nearest(overrides: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        planned("digits", overrides=overrides)


@pytest.mark.parametrize(
    ("recipe", "field", "word"),
    [
        (
            "dcgan",
            "optim.lr",
            "--optim.lr: there is no section 'optim'. dcgan has --discriminator.lr and --generator.lr.",
        ),
        ("digits", "generator.lr", "--generator.lr: there is no section 'generator'. pixelcnn has --optim.lr."),
        ("sagan", "head.kind", "no section 'head'. It is for other networks: pixelcnn, "),
        ("sagan", "label_dropout", "--label_dropout: no such field. It is for other networks: pixelcnn, "),
        ("digits", "loss", "--loss: no such field. It is for other networks: dcgan, sagan, sngan, r3gan. Known: "),
        ("digits", "penalties.r1", "no section 'penalties'. It is for other networks: dcgan, "),
        ("dcgan", "generators.lr", "no section 'generators'. Did you mean 'generator'?"),
    ],
)
def test_a_field_of_another_family_is_told_with_what_serves_here(recipe: str, field: str, word: str) -> None:
    with pytest.raises(UsageError, match=re.escape(word)):
        planned(recipe, overrides={field: 1})


def test_a_run_without_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match="name your images"):
        planned(None)
    with pytest.raises(UsageError, match="given twice"):
        pl.train("digits", images=10, overrides={"train.images": 20})


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 8 TB")]
)
def test_running_out_of_memory_names_batch_and_remedy(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Path:
        raise error

    monkeypatch.setattr(runs, "train", full)
    with pytest.raises(UsageError, match=r"out of memory with train.batch=32; halve it, or set train.accumulate=2"):
        train()


def test_another_runtime_error_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Path:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(runs, "train", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train()


# ----------------------------------------------------------------------------------------------------------- load


def test_a_slip_in_a_models_name_gets_the_nearest() -> None:
    save_run(flat(DIGITS), Path("runs/digits"))
    with pytest.raises(ModelError, match=r"no model is called 'digit'. Did you mean 'digits'\? Runs: digits"):
        pl.load("digit")


# ------------------------------------------------------------------------------------------------------- evaluate


@pytest.mark.parametrize(("split", "n"), [("train", None), ("val", None), ("test", None), ("test", 50)])
def test_the_figures_of_a_flat_model(split: str, n: int | None) -> None:
    found = pl.evaluate(flat(DIGITS, DataConfig().model_dump(mode="json")), split=split, limit=n)
    assert found.nats_per_image == pytest.approx(64 * math.log(17), rel=1e-6)
    assert found.nats_per_dim == pytest.approx(math.log(17), rel=1e-6)
    assert found.bits_per_dim == pytest.approx(math.log2(17), rel=1e-6)
    assert found.n == n or (n is None and found.n > 100)
    if split == "test" and n is None:
        assert found.n >= 250


def gray_pictures(path: Path, n: int = 60) -> np.ndarray:
    images = np.random.default_rng(1).integers(0, 256, (n, 6, 5)).astype(np.uint8)
    np.save(path, images)
    return images


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_other_data_are_read_in_the_form_of_the_training(threshold: float, tmp_path: Path) -> None:
    gray_pictures(tmp_path / "a.npy")
    trained = DataConfig(source="elsewhere", binarize=f"threshold@{threshold}").model_dump(mode="json")
    model = flat(ImageSpec(1, 6, 5, 2), trained, ink=0.2)
    found = pl.evaluate(model, tmp_path / "a.npy", "train")
    images, _ = load_data(DataConfig(source=str(tmp_path / "a.npy"))).train.all()
    ink = (images / 255 > threshold).reshape(len(images), -1).sum(1)
    nats = -(ink * math.log(0.2) + (30 - ink) * math.log(0.8))
    assert found.n == len(images)
    assert found.nats_per_image == pytest.approx(nats.mean(), rel=1e-6)
    error = 1.96 * nats.std(ddof=1) / math.sqrt(len(nats))
    assert found.nats_per_image_95 == pytest.approx((nats.mean() - error, nats.mean() + error), rel=1e-6)


def test_folders_of_another_machine_are_forgotten(tmp_path: Path) -> None:
    trained = DataConfig(root=Path("/gone/data"), cache=Path("/gone/cache"), levels=4).model_dump(mode="json")
    found = data_for(flat(DIGITS, trained))
    assert (found.root, found.cache, found.levels) == (None, None, 4)
    here = data_for(flat(DIGITS, trained | {"root": str(tmp_path)}))
    assert here.root == tmp_path


def test_a_model_that_does_not_say_its_data() -> None:
    with pytest.raises(UsageError, match="has no record of its training data"):
        pl.evaluate(flat(DIGITS))
    assert pl.evaluate(flat(DIGITS), "digits").bits_per_dim == pytest.approx(math.log2(17), rel=1e-6)


def test_a_form_that_is_not_allowed() -> None:
    with pytest.raises(UsageError, match=r"data: levels: .*\(given: 999\)"):
        data_for(flat(DIGITS), "digits", {"levels": 999})


@pytest.mark.parametrize("text", ["2024", "true", "it's", "null", "a: b", "[x]", "1e3", "~", "# x", " x", "ü"])
def test_text_stays_text(text: str) -> None:
    assert yaml.safe_load(as_text(text)) == text
