"""Models that come with the package: whole, as their card says, and good at what they were trained for."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import pixelloom as pl
from pixelloom.codec.export import entropy
from pixelloom.codec.lookup import EXPORT
from pixelloom.codec.model import CodecModel
from pixelloom.core.errors import ModelError
from pixelloom.data.masks import region
from pixelloom.models import pretrained
from pixelloom.models.description import WEIGHTS
from pixelloom.runs.locate import find

each_model = pytest.mark.parametrize("name", pretrained.MODELS)


@each_model
def test_weights_are_those_of_the_table_and_of_the_card(name: str) -> None:
    folder = pretrained.folder(name)
    with safe_open(str(folder / WEIGHTS), "pt") as file:
        assert file.metadata()["sha256"] == pretrained.MODELS[name].sha256
    assert pretrained.MODELS[name].sha256 in (folder / "README.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000
    pl.load(name)  # which compares the contents with their digest


@each_model
def test_the_card_has_the_result_of_the_table(name: str) -> None:
    promised, card = pretrained.MODELS[name], (pretrained.folder(name) / "README.md").read_text(encoding="utf-8")
    value, unit = promised.result.split()[:2]
    assert f"{value} {unit}" in card
    assert f"{promised.n:,}" in card
    low, high = map(float, re.findall(r"[\d.]+", promised.result)[2:])
    assert low < float(value) < high


@each_model
def test_the_page_has_the_table(name: str) -> None:
    promised, page = pretrained.MODELS[name], Path(__file__).parents[1] / "docs/models.md"
    row = f"| `{name}` | {promised.about} | {promised.result} | {promised.n:,} |"
    assert row in page.read_text(encoding="utf-8")


def test_all_of_them_take_at_most_16_megabytes() -> None:
    files = [path for name in pretrained.MODELS for path in pretrained.folder(name).iterdir()]
    assert sum(path.stat().st_size for path in files) < 16_000_000


@each_model
def test_the_card_says_how_the_model_was_made(name: str) -> None:
    record = pl.load(name).description.training
    assert record.command.startswith("pixelloom train ")
    assert record.data is not None
    assert record.data.root is None
    assert record.validation.n is not None
    assert record.validation.n >= 100


def test_folders_are_the_table() -> None:
    here = Path(pretrained.__file__).parent
    assert {path.name for path in here.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(
        pretrained.MODELS
    )


def test_binarized_mnist_draws_what_it_finds_likely() -> None:
    """The mean of -log p over a model's own draws is its entropy, which for a good one is near its test figure."""
    model = pl.load("binarized-mnist")
    images = model.sample(48, seed=0)
    nats = -model.log_prob(images)
    assert 72 < nats.mean() < 92
    assert 0.11 < images.float().mean() < 0.155  # ink in the test images: 0.1325
    assert (-model.log_prob(images.flip(-1)) > nats).float().mean() > 0.8  # mirrored digits are no digits
    assert (-model.log_prob(1 - images) > 3 * nats).all()


def test_binarized_mnist_compresses_its_samples_to_their_likelihood() -> None:
    model, folder = pl.load("binarized-mnist"), pretrained.folder("binarized-mnist")
    codec = CodecModel.load(folder / EXPORT)
    assert codec.identity.hex() in (folder / "README.md").read_text(encoding="utf-8")
    images = model.sample(32, seed=1)
    bits = -model.log_prob(images) / math.log(2)
    assert float(entropy(codec, images).sum() / bits.sum()) == pytest.approx(1, abs=0.002)
    assert torch.equal(codec.decode(codec.encode(images[:8]), 8), images[:8])


def test_binarized_mnist_complete_fits_what_is_below_the_hole() -> None:
    """Another model finds its completions likelier than pixels that were drawn without the known ones below them."""
    judge, model = pl.load("binarized-mnist"), pl.load("binarized-mnist-complete")
    images, hidden = judge.sample(32, seed=1), region("top", 28, 28)
    found = model.complete(images, hidden, 1)
    assert found.method == "mask"
    assert torch.equal(found.images[:, 0][..., ~hidden], images[..., ~hidden])
    without = judge.sample(32, seed=2, given=images, mask=~hidden)
    fitting, torn = judge.log_prob(found.images[:, 0]), judge.log_prob(without)
    assert float((fitting - torn).mean()) > 5  # nats
    assert 0.07 < -float(found.log_prob.mean()) / 392 < 0.14


def test_a_run_of_the_same_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("binarized-mnist") == pretrained.folder("binarized-mnist")
    mine = tmp_path / "runs/binarized-mnist/model"
    mine.parent.mkdir(parents=True)
    shutil.copytree(pretrained.folder("binarized-mnist"), mine)
    assert (tmp_path / find("binarized-mnist")).samefile(mine)


def test_an_unknown_name_is_answered_with_those_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"Did you mean 'binarized-mnist'\?.*Pretrained: binarized-mnist"):
        pl.load("binarizd-mnist")
