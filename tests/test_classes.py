"""Models that are told the class of an image: labels, their absence, guidance, and training with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pixelloom.cli import main
from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.rng import image_noise
from pixelloom.core.types import Batch, ImageSpec
from pixelloom.heads.discrete import Categorical, HeadConfig
from pixelloom.models.pixel import PixelModel, load_pixel
from pixelloom.objectives.base import Monitor, Objective, OptimConfig
from pixelloom.objectives.likelihood import likelihood
from settings import CONFIGS, live

CLASSES = 3
NONE = CLASSES  # the label that stands for no class


def told_model(name: str = "gated", classes: int = CLASSES) -> PixelModel:
    """A narrow network that knows classes, with random weights, in float64."""
    description = CONFIGS[name].fresh().description.model_copy(update={"classes": classes})
    torch.manual_seed(0)
    model = PixelModel.build(description)
    live(model.network)
    for parameter in model.network.parameters():
        if parameter.ndim == 2:  # embeddings
            nn.init.normal_(parameter, std=0.5)
    model.network.double()
    return model


@pytest.fixture(scope="module")
def model() -> PixelModel:
    return told_model()


def test_each_class_has_a_distribution_of_its_own_and_none_is_one_more(model: PixelModel) -> None:
    images = model.sample(4, labels=1)
    each = torch.stack([model.log_prob(images, label) for label in range(CLASSES + 1)])
    assert len(each.unique(dim=0)) == CLASSES + 1
    assert torch.equal(model.log_prob(images), each[NONE])
    mixed = torch.tensor([0, 2, NONE, 1])
    assert torch.allclose(model.log_prob(images, mixed), each[mixed, torch.arange(4)], rtol=1e-12)
    assert torch.equal(model.log_prob(images, mixed, batch=3), model.log_prob(images, mixed))


@pytest.mark.parametrize("name", ["gated", "mnist-gray", "gated-rgb-20", "mnist-binary"])
def test_samplers_agree_on_labels_in_any_batch(name: str) -> None:
    told = told_model(name)
    labels = torch.tensor([0, 1, 2, NONE, 1])
    plain = told.sample(5, labels=labels, method="plain")
    for batch in (1, 2, 5):
        assert torch.equal(told.sample(5, labels=labels, batch=batch), plain)
    assert not torch.equal(told.sample(5, labels=0), plain)
    one = told.sample(1, first=2, labels=2)
    assert torch.equal(one, plain[2:3])


def test_guidance_is_the_formula_and_zero_is_the_model(model: PixelModel) -> None:
    labels, weight = torch.tensor([0, 1, 2, 1]), 1.5
    fast = model.sample(4, labels=labels, guidance=weight)
    assert torch.equal(fast, model.sample(4, labels=labels, guidance=weight, method="plain"))
    assert torch.equal(fast, model.sample(4, labels=labels, guidance=weight, batch=3))
    assert torch.equal(model.sample(4, labels=labels, guidance=0.0), model.sample(4, labels=labels))
    # Where told and untold agree there is nothing to push: label "none" is itself.
    assert torch.equal(model.sample(4, labels=NONE, guidance=weight), model.sample(4))

    shown: list[Tensor] = []
    model.sample(4, labels=labels, guidance=weight, on_step=lambda step, steps, images: shown.append(images.clone()))
    assert torch.equal(shown[-1], fast)

    # Drawn by hand, value after value, from (1 + w) told - w untold.
    spec, noise = model.spec, image_noise(model.spec, 0, 0, 4)
    x = torch.zeros(4, *spec.shape, dtype=torch.uint8)
    with torch.no_grad():
        for i in range(spec.height):
            for j in range(spec.width):
                told, none = model.predict(x, labels), model.predict(x, torch.full((4,), NONE))
                params = (1 + weight) * told - weight * none
                x[:, :, i, j] = model.head.draw(params, noise)[:, :, i, j]
    assert torch.equal(fast, x)


@pytest.mark.parametrize("labels", [3.0, [0, 1], torch.zeros(4, 1, dtype=torch.long), -1, CLASSES + 1])
def test_labels_that_make_no_sense_are_refused(model: PixelModel, labels: object) -> None:
    images = torch.zeros(4, *model.spec.shape, dtype=torch.uint8)
    with pytest.raises(UsageError, match=r"^labels: "):
        model.log_prob(images, labels)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^labels: "):
        model.sample(4, labels=labels)  # type: ignore[arg-type]


def test_a_model_without_classes_takes_no_labels_and_no_guidance() -> None:
    untold = CONFIGS["gated"].model()
    with pytest.raises(UsageError, match="unconditional"):
        untold.sample(1, labels=0)
    with pytest.raises(UsageError, match=r"^guidance: "):
        untold.sample(1, guidance=1.0)
    with pytest.raises(UsageError, match=r"^guidance: "):
        told_model().sample(1, labels=0, guidance=-1.0)


class Recorder(nn.Module):
    """A network that remembers the labels it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4, 1, 1))
        self.told: list[Tensor] = []

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        self.told.append(labels.clone())
        return self.bias.expand(len(x), 4, 2, 2)


def objective_of(network: Recorder, dropout: float) -> Objective:
    spec, scaling = ImageSpec(1, 2, 2, 4), CONFIGS["gated"].fresh().description.scaling
    head, monitor = Categorical(spec), Monitor("none", lambda _: {})
    return likelihood(network, head, 4, scaling, OptimConfig(), monitor, classes=CLASSES, label_dropout=dropout)


def test_training_tells_labels_but_for_the_share_that_is_dropped() -> None:
    labels = torch.arange(3000) % CLASSES
    batch = Batch(torch.zeros(3000, 1, 2, 2, dtype=torch.uint8), labels)
    network = Recorder()
    torch.manual_seed(0)
    objective_of(network, 0.25).phases[0].loss(batch)
    dropped = network.told[0] == NONE
    assert 0.22 < float(dropped.float().mean()) < 0.28
    assert torch.equal(network.told[0][~dropped], labels[~dropped])
    objective_of(network, 0.0).phases[0].loss(batch)
    assert torch.equal(network.told[1], labels)
    with pytest.raises(DataError, match="no labels"):
        objective_of(network, 0.0).phases[0].loss(batch._replace(labels=None))


def test_what_the_model_knows_of_classes_is_kept(tmp_path: Path) -> None:
    single = told_model()
    single.network.float()
    single.save(tmp_path / "model")
    again = load_pixel(tmp_path / "model")
    assert again.description.classes == CLASSES
    assert torch.equal(again.sample(3, labels=[0, 1, 2]), single.sample(3, labels=[0, 1, 2]))


def test_the_head_of_one_channel_keeps_its_kind() -> None:
    for head in (Categorical(ImageSpec(3, 2, 2, 4)), Categorical(ImageSpec(3, 2, 2, 256))):
        alone = head.of_channel()
        assert alone.outputs * 3 == head.outputs
        assert dataclasses.replace(alone.spec, channels=3) == head.spec
    assert HeadConfig().channels == "ordered"


def test_the_command_line_trains_and_draws_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, picture = tmp_path / "run", tmp_path / "sevens.npy"
    small = ["--images", "64", "--samples", "0", "--model.channels", "8", "--train.threads", "1"]
    assert main(["train", "digits", "--classes", "--label-dropout", "0.2", "--out", str(run), *small]) == 0
    assert main(["sample", str(run), "--class", "7", "--guidance", "1.5", "-n", "3", "--npy", str(picture)]) == 0
    trained = load_pixel(run / "model")
    assert trained.description.classes == 10
    assert np.array_equal(np.load(picture), trained.sample(3, labels=7, guidance=1.5).numpy())
    for options, said in (
        (["--class", "10"], "--class 10: this model has classes 0 to 9"),
        (["--class", "-1"], "--class -1: this model has classes 0 to 9"),
        (["--guidance", "1"], "--guidance: needs --class or --each-class"),
    ):
        assert main(["sample", str(run), *options]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "told"), [([], True), (["--classes"], True), (["--no-classes"], False)])
def test_the_classes_of_a_recipe_can_be_left_out(
    flags: list[str], told: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans = []
    monkeypatch.setattr("pixelloom.runs.train.carry_out", lambda plan, out, **_: plans.append(plan) or out)
    assert main(["train", "sngan", *flags, "--out", str(tmp_path / "run")]) == 0
    assert plans[0].classes is told
