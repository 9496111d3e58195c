"""Models that go by a picture: what it is, that it reaches the network and steers, samplers, training, commands."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from checks import all_images
from pixelloom import api
from pixelloom.cli import main
from pixelloom.core.errors import UsageError
from pixelloom.core.types import Batch, ImageSpec
from pixelloom.data import catalog
from pixelloom.data.conditions import Condition
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.pixel import PixelDescription, PixelModel, load_pixel
from pixelloom.models.training_record import TrainingRecord
from pixelloom.networks import PIXEL_NETWORKS, build_network, takes_condition
from pixelloom.networks.pixel.gated import GatedPixelCNNConfig
from pixelloom.objectives.base import Monitor, OptimConfig
from pixelloom.objectives.likelihood import likelihood
from pixelloom.runs.plan import planned
from pixelloom.sampling.fast import sampler
from pixelloom.viz import grid as plots
from settings import BERNOULLI, ORDERED, live

SMALL = GatedPixelCNNConfig(channels=6, layers=2, first_kernel=3, kernel=3, condition_kernels=(3,))
GRAY, COLOR, BITS = ImageSpec(1, 4, 6, 7), ImageSpec(3, 4, 4, 4), ImageSpec(1, 4, 4, 2)
WORLDS = {
    "gray, downsample@2": (GRAY, ORDERED, "downsample@2"),
    "gray, edges": (GRAY, ORDERED, "edges"),
    "color, downsample@4": (COLOR, ORDERED, "downsample@4"),
    "color, edges": (COLOR, HeadConfig(kind="categorical", channels="independent"), "edges"),
    "bits, downsample@2": (BITS, BERNOULLI, "downsample@2"),
}
each_world = pytest.mark.parametrize("name", WORLDS)
Levels = npt.NDArray[np.uint8]


def model_of(name: str, classes: int = 0) -> PixelModel:
    """A narrow network with random weights, in float64."""
    image, head, rule = WORLDS[name]
    return built(image, head, rule, classes)


def built(image: ImageSpec, head: HeadConfig, rule: str, classes: int = 0) -> PixelModel:
    description = PixelDescription(
        network="gated-pixelcnn",
        model=SMALL,
        head=head,
        image=image,
        scaling=Scaling.symmetric(),
        classes=classes,
        condition=rule,
    )
    torch.manual_seed(0)
    model = PixelModel.build(description)
    live(model.network).double()
    return model


def some(spec: ImageSpec, n: int, seed: int = 0) -> Tensor:
    """Random images on a black ground, uint8 [n, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(spec.levels, (n, *spec.shape), generator=generator, dtype=torch.uint8)
    return images * (torch.rand(n, 1, spec.height, spec.width, generator=generator) < 0.4)


def by_hand(rule: str, image: Levels, levels: int) -> Levels:
    """The condition of one image [C, H, W], value by value."""
    c, h, w = image.shape
    v = image.astype(int)
    if rule == "edges":
        edges = np.zeros((1, h, w), np.uint8)
        for y, x in itertools.product(range(h), range(w)):
            for dy, dx in ((0, 1), (1, 0)):
                if y + dy < h and x + dx < w:
                    edges[0, y, x] |= any(abs(v[i, y, x] - v[i, y + dy, x + dx]) >= (levels - 1) / 4 for i in range(c))
        return edges
    k = int(rule.removeprefix("downsample@"))
    small = np.zeros((c, h // k, w // k), np.uint8)
    for i, y, x in itertools.product(range(c), range(h // k), range(w // k)):
        small[i, y, x] = math.floor(v[i, k * y : k * y + k, k * x : k * x + k].mean() + 0.5)
    return small


# What it is


@pytest.mark.parametrize("levels", [2, 3, 16, 17, 256])
@pytest.mark.parametrize("rule", ["downsample@2", "downsample@3", "downsample@4", "edges"])
def test_a_condition_is_what_it_says(rule: str, levels: int) -> None:
    for channels in (1, 3):
        spec = ImageSpec(channels, 12, 24, levels)
        images = some(spec, 5)
        images[0] = levels - 1
        condition = Condition(rule, spec)
        found = condition.of(images)
        assert tuple(found.shape[1:]) == condition.spec.shape
        for image, one in zip(images.numpy(), found.numpy(), strict=True):
            assert np.array_equal(one, by_hand(rule, image, levels))
        assert torch.equal(condition.of(images.to(memory_format=torch.channels_last)), found)


@pytest.mark.parametrize("rule", ["downsample@3", "edges"])
def test_a_network_and_a_person_see_it_at_full_size(rule: str) -> None:
    condition = Condition(rule, ImageSpec(3, 6, 9, 5))
    levels = condition.of(some(condition.image, 2))
    k = 1 if rule == "edges" else 3
    large = levels.numpy().repeat(k, 2).repeat(k, 3)
    planes, shown = condition.planes(levels), condition.to_images(levels)
    np.testing.assert_array_equal(planes.numpy(), (large / (condition.spec.levels - 1)).astype(np.float32))
    expected = np.broadcast_to(large * (4 if rule == "edges" else 1), (2, 3, 6, 9))
    np.testing.assert_array_equal(shown.numpy(), expected)


@pytest.mark.parametrize(
    "rule", ["none", "smaller", "downsample@1", "downsample@0", "downsample@-2", "edge", "downsample@5"]
)
def test_other_conditions_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=r"none|downsample@5 needs sides divisible by 5, but the images are 4x6"):
        Condition(rule, GRAY)


# In a model


@each_world
def test_it_reaches_the_network_and_steers(name: str) -> None:
    model = model_of(name)
    spec, condition = model.spec, model.condition
    assert condition is not None
    images = some(spec, 6)
    small = np.stack([by_hand(condition.rule, image, spec.levels) for image in images.numpy()])
    k = condition.factor
    planes = torch.from_numpy(small.repeat(k, 2).repeat(k, 3) / (condition.spec.levels - 1))
    x = images.double() / (spec.levels - 1) * 2 - 1
    with torch.no_grad():
        params = model.network(x, condition=planes)
    expected = -model.head.nats(params, images).double().flatten(1).sum(1)
    torch.testing.assert_close(model.log_prob(images), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.log_prob(images, condition=condition.of(images)), model.log_prob(images))
    assert torch.equal(model.log_prob(images, batch=4), model.log_prob(images))
    other = model.log_prob(images, condition=1 - condition.of(images).clamp(max=1))
    assert (other - model.log_prob(images)).abs().min() > 1e-3


@pytest.mark.parametrize("rule", ["downsample@2", "edges"])
@pytest.mark.parametrize("spec", [ImageSpec(1, 2, 2, 2), ImageSpec(1, 2, 2, 4)], ids=["bits", "four levels"])
def test_probabilities_sum_to_one_given_a_condition(spec: ImageSpec, rule: str) -> None:
    model = built(spec, ORDERED, rule)
    assert model.condition is not None
    worlds = all_images(spec)
    totals, given = [], model.condition.of(worlds).unique(dim=0)
    for one in given:
        nats = model.log_prob(worlds, condition=one[None], batch=256)
        totals.append(float(nats.exp().sum()))
    assert len(given) > 1
    np.testing.assert_allclose(totals, 1, atol=1e-6)


@each_world
@pytest.mark.parametrize("classes", [0, 3])
def test_samplers_agree_in_any_batch(name: str, classes: int) -> None:
    model = model_of(name, classes)
    assert model.condition is not None
    given = model.condition.of(some(model.spec, 5))
    ways: list[dict[str, Any]] = [{}]
    if classes:
        ways += [{"labels": [0, 3, 1, 2, 2]}, {"labels": 1, "guidance": 1.5}]
    for told in ways:
        plain = model.sample(5, condition=given, method="plain", **told)
        for batch in (1, 2, 5):
            assert torch.equal(model.sample(5, condition=given, batch=batch, **told), plain)
        for_all = model.sample(5, condition=given[:1], method="plain", **told)
        for one in (given[:1].numpy(), given[:1].expand(5, -1, -1, -1)):
            assert torch.equal(model.sample(5, condition=one, batch=3, **told), for_all)
    first = model.sample(1, first=3, condition=given[3:4])
    assert torch.equal(first, model.sample(5, condition=given)[3:4])
    assert not torch.equal(model.sample(5, condition=given.flip(0)), model.sample(5, condition=given))


def test_partly_known_images_go_by_pictures_too() -> None:
    model = model_of("gray, downsample@2")
    images = some(model.spec, 3)
    mask = torch.zeros(1, *model.spec.shape, dtype=torch.bool)
    mask[:, :, :2] = True
    assert model.condition is not None
    told: dict[str, Any] = {"given": images, "mask": mask, "condition": model.condition.of(images)}
    found = model.sample(3, **told)
    assert torch.equal(found, model.sample(3, method="plain", **told))
    assert torch.equal(found[:, :, :2], images[:, :, :2])


def test_a_picture_is_read_once_a_batch_and_its_memory_is_counted() -> None:
    model, without = model_of("gray, downsample@2"), built(GRAY, ORDERED, "none")
    assert model.condition is not None
    planes = SMALL.layers * 2 * 2 * SMALL.channels * GRAY.height * GRAY.width  # v and h of each layer, a and b
    held, plain = (m.fast_sampler().plan.values_per_image() for m in (model, without))
    assert held == plain + planes
    assert model.fast_sampler().bytes_per_image > 8 * held
    calls: list[int] = []
    assert isinstance(model.network.spatial, nn.Module)
    model.network.spatial[0].register_forward_hook(lambda *told: calls.append(len(told[1][0])))  # type: ignore[operator,index]
    model.sample(5, condition=model.condition.of(some(GRAY, 5)), batch=3)
    assert calls[-2:] == [3, 2]
    assert len(calls) <= 3  # one for the shapes, if the plan is new


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (None, "needs a conditioning image, downsample@2, the means of its 2x2 blocks: 1x2x3 with 7 levels"),
        (torch.zeros(5, 1, 4, 6, dtype=torch.uint8), r"the model takes \[N, 1, 2, 3\], not \[5, 1, 4, 6\]"),
        (torch.zeros(4, 1, 2, 3, dtype=torch.uint8), "5 conditioning images or one for all, not 4"),
        (torch.full((1, 1, 2, 3), 7, dtype=torch.uint8), "levels go from 0 to 6"),
        (torch.zeros(1, 1, 2, 3), "levels are integers"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(condition: Tensor | None, said: str) -> None:
    model = model_of("gray, downsample@2")
    with pytest.raises(UsageError, match=f"^condition: .*{said}"):
        model.sample(5, condition=condition)
    if condition is not None:
        with pytest.raises(UsageError, match=f"^condition: .*{said}"):
            model.log_prob(some(GRAY, 5), condition=condition)
        with pytest.raises(UsageError, match=r"^condition: this model takes no conditioning image"):
            built(GRAY, ORDERED, "none").sample(5, condition=condition)


def test_a_model_keeps_its_condition_and_old_ones_have_none(tmp_path: Path) -> None:
    model = model_of("color, edges")
    model.network.float()
    model.save(tmp_path)
    again = load_pixel(tmp_path)
    assert again.condition == model.condition
    assert again.condition is not None
    given = again.condition.of(some(COLOR, 2))
    assert torch.equal(again.sample(2, condition=given), model.sample(2, condition=given))
    old = built(GRAY, ORDERED, "none").description.model_dump(mode="json")
    del old["condition"]
    assert PixelDescription.model_validate(old).conditioning_image() is None
    with pytest.raises(ValidationError, match="downsample@3 needs sides divisible by 3"):
        PixelDescription.model_validate(old | {"condition": "downsample@3"})


# Training


class Recorder(nn.Module):
    """A network that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(7, 1, 1))
        self.told: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor, **told: Tensor) -> Tensor:
        self.told.append(told)
        return self.bias.expand(len(x), -1, *x.shape[2:])


def test_training_goes_by_the_picture_of_each_image() -> None:
    condition, network = Condition("downsample@2", GRAY), Recorder()
    head = built(GRAY, ORDERED, "none").head
    objective = likelihood(
        network, head, 7, Scaling.symmetric(), OptimConfig(), Monitor("none", lambda _: {}), condition=condition
    )
    images = some(GRAY, 4)
    objective.phases[0].loss(Batch(images, torch.arange(4)))
    assert set(network.told[0]) == {"condition"}
    assert torch.equal(network.told[0]["condition"], condition.planes(condition.of(images)))


@pytest.mark.parametrize("name", [name for name in PIXEL_NETWORKS if not takes_condition(name)])
def test_networks_that_take_no_picture_refuse_it(name: str) -> None:
    with pytest.raises(
        UsageError, match=f"^configuration: condition: the network '{name}' takes no conditioning image.*gated-"
    ):
        planned(name, overrides={"condition": "edges"})
    config, _ = PIXEL_NETWORKS[name]
    with pytest.raises(UsageError, match=f"^condition: the network '{name}' takes no conditioning image"):
        build_network(name, config(), ImageSpec(1, 8, 8, 2), outputs=1, groups=1, condition=1)


def test_a_condition_is_checked_before_training(tmp_path: Path) -> None:
    for overrides, said in (
        (
            {"condition": "downsample@x"},
            "condition: choose none, mask, edges, or downsample@K with K of 2 or more, not 'downsample@x'",
        ),
        ({"condition": "edges", "model.condition": 1}, "condition: leave model.condition at 0"),
    ):
        with pytest.raises(UsageError, match=said):
            planned("gated-pixelcnn", overrides=overrides)
    with pytest.raises(
        UsageError, match=r"^condition: downsample@3 needs sides divisible by 3, but the images are 8x8"
    ):
        api.train(
            "gated-pixelcnn", data="digits", out=tmp_path / "run", images=1, overrides={"condition": "downsample@3"}
        )


TINY = {
    "condition": "downsample@2",
    "model.channels": 12,
    "model.layers": 3,
    "model.first_kernel": 5,
    "model.kernel": 3,
    "model.condition_kernels": [3],
    "train.threads": 1,
    "train.precision": "fp32",
    "optim.kind": "adam",  # on a run as short as this one it is ahead
    "optim.lr": 8e-3,
    "optim.clip": 1.0,
    "optim.weight_decay": 0.0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few seconds on the embedded digits, told classes as well."""
    out = tmp_path_factory.mktemp("conditions") / "run"
    often = {"train.validate_every": 1500, "train.sample_every": 1000, "samples": 5, "classes": True}
    api.train("gated-pixelcnn", data="digits", out=out, images=3000, seed=0, overrides=TINY | often)
    return out


@pytest.mark.slow
def test_images_are_likelier_given_their_own_small_picture(run: Path) -> None:
    model = api.load(run)
    assert model.condition is not None
    images = torch.from_numpy(catalog.load(DataConfig(source="digits")).test.all()[0])
    own = model.log_prob(images)
    others = model.log_prob(images, condition=model.condition.of(images).roll(1, 0))
    share = float((own > others).double().mean())
    assert share >= 0.95, f"only {share:.0%} of {len(images)} images"
    told = api.evaluate(model, split="val").nats_per_image
    val, labels = catalog.load(DataConfig(source="digits")).val.all()
    assert told == pytest.approx(float(-model.log_prob(val, labels).mean()), rel=1e-6)


@pytest.mark.slow
def test_drawn_images_come_near_to_what_they_go_by(run: Path) -> None:
    model = api.load(run)
    assert model.condition is not None
    images = torch.from_numpy(catalog.load(DataConfig(source="digits")).test.all()[0][:64])
    given = model.condition.of(images)
    drawn = model.condition.of(model.sample(64, condition=given))
    apart = (drawn.double() - given.double()).abs().mean()
    assert apart < 0.6 * (drawn.roll(1, 0).double() - given.double()).abs().mean()


def test_a_run_shows_what_it_went_by(run: Path) -> None:
    """Rows of: what was given, draws, the truth; of evenly spaced images of the validation split."""
    model, val = api.load(run), catalog.load(DataConfig(source="digits")).val.all()[0]
    assert model.condition is not None
    truth = torch.from_numpy(val[np.arange(3) * len(val) // 3])
    seen = model.condition.of(truth)
    drawn = model.sample(3, seed=0, condition=seen)
    expected = plots.table(
        drawn.numpy(), 17, 3, left=model.condition.to_images(seen).numpy(), right=truth.numpy()
    )  # 5 samples: a row for each of three pictures, of one draw
    assert np.array_equal(np.asarray(Image.open(run / "samples/final.png")), np.asarray(expected))
    assert list((run / "samples").glob("0*.png"))


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path: Path) -> None:
    steady = TINY | {"optim.decay": "none", "train.batch": 16, "samples": 0, "model.layers": 1}
    steady |= {"train.validate_every": 160, "train.checkpoint_every": 80, "train.sample_every": 160}
    whole = api.train("gated-pixelcnn", data="digits", out=tmp_path / "whole", images=160, overrides=steady)
    api.train("gated-pixelcnn", data="digits", out=tmp_path / "parts", images=80, overrides=steady)
    parts = api.train(out=tmp_path / "parts", images=160, resume=True)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, parts.network.state_dict()[name]), name


# The command line


@pytest.fixture
def at(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the model as runs/by."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run / "model", "runs/by/model")
    return tmp_path


def test_a_file_is_gone_by(at: Path, run: Path) -> None:
    model = load_pixel(run / "model")
    assert model.condition is not None
    given = model.condition.of(torch.from_numpy(catalog.load(DataConfig(source="digits")).test.all()[0][:1]))
    plots.to_image(given[0].numpy(), 17).save("small.png")
    assert main(["sample", "by", "--condition", "small.png", "-n", "3", "--class", "4", "--npy", "a.npy"]) == 0
    assert np.array_equal(np.load("a.npy"), model.sample(3, condition=given, labels=4).numpy())
    assert not Path("a-labels.npy").exists()


def test_pictures_of_a_split_are_gone_by(at: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, test = load_pixel(run / "model"), catalog.load(DataConfig(source="digits")).test.all()[0]
    assert model.condition is not None
    truth = torch.from_numpy(test[np.arange(4) * len(test) // 4])
    seen = model.condition.of(truth)
    files = ["--out", "grid.png", "--npy", "a.npy", "--scale", "3"]
    assert main(["sample", "by", "--condition-from", "test", "--rows", "4", "-n", "2", "--first", "1", *files]) == 0
    numbers = np.arange(1, 9)
    found = np.load("a.npy")
    assert np.array_equal(found, model.sample(8, first=1, condition=seen[numbers % 4]).numpy())
    by_row = np.stack([found[i] for i in np.argsort(numbers % 4, kind="stable")]).reshape(4, 2, 1, 8, 8)
    tiles = np.concatenate([model.condition.to_images(seen)[:, None], by_row, truth[:, None]], axis=1)
    grid = np.asarray(plots.grid(tiles.reshape(-1, 1, 8, 8), 17, 4, 3))
    assert np.array_equal(np.asarray(Image.open("grid.png"))[-len(grid) :], grid)
    assert main(["evaluate", "by"]) == 0
    assert main(["info", "by"]) == 0
    said = capsys.readouterr().out
    assert "conditional on downsample@2 of each image" in said
    assert "condition   downsample@2, the means of its 2x2 blocks: 1x4x4 with 17 levels" in said


ALL = ["--condition-from", "test"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            [],
            "--condition: this model needs a conditioning image, downsample@2, the means of its 2x2 blocks: 1x4x4",
        ),
        (["--condition", "large.png"], "--condition large.png: is 8x8 pixels, the model takes 4x4"),
        (["--condition", "none.png"], "none.png: cannot be read: No such file"),
        (["--condition", "small.png", *ALL], "--condition, --condition-from: choose one"),
        (["--each-class", "--class", "1"], "--class, --each-class: choose one"),
        (["--each-class", *ALL], "--condition-from, --each-class: choose one"),
        (["--condition", "small.png", "--rows", "2"], "--rows: needs --condition-from"),
        ([*ALL, "--rows", "0"], "for --rows. Must be >= 1."),
        ([*ALL, "--columns", "3"], "--columns: with --each-class or --condition-from"),
        (["--condition", "small.png", "--out", "small.png", "--force"], "small.png: is an input image"),
    ],
)
def test_wrong_usage_is_told(at: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    Image.new("L", (4, 4)).save("small.png")
    Image.new("L", (8, 8)).save("large.png")
    assert main(["sample", "by", *options]) in (2, 3)
    assert said in capsys.readouterr().err
    assert not Path("samples.png").exists()


def test_a_model_that_goes_by_nothing_says_so(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (2, 2)).save("small.png")
    plain = built(GRAY, ORDERED, "none")
    plain.network.float()
    plain.save(Path("runs/plain/model"))
    for options, said in (
        (["--condition", "small.png"], "--condition: this model takes no conditioning image"),
        (ALL, "--condition-from: this model takes no conditioning image"),
        (["--each-class"], "--each-class: this model is unconditional"),
        (["--class", "0"], "--class 0: this model is unconditional"),
    ):
        assert main(["sample", "plain", *options]) == 2
        assert said in capsys.readouterr().err
    assert main(["train", "nade", "--condition", "edges", "--out", "x"]) == 2
    assert "the network 'nade' takes no conditioning image" in capsys.readouterr().err
    assert not Path("x").exists()


# A row for each class


@pytest.fixture
def classes(at: Path) -> PixelModel:
    """A model of three classes in runs/three, that goes by nothing."""
    description = built(GRAY, ORDERED, "none", 3).description
    names = {"training": TrainingRecord(classes=("0", "T-shirt/top", "bag"))}
    model = PixelModel.build(description.model_copy(update=names))
    live(model.network)
    for parameter in model.network.parameters():
        if parameter.ndim == 2:  # embeddings
            nn.init.normal_(parameter, std=2)
    model.save(Path("runs/three/model"))
    return model


def test_each_class_has_a_row(classes: PixelModel, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--out", "grid.png", "--npy", "a.npy", "--each", "singles", "--scale", "4"]
    assert main(["sample", "three", "--each-class", "-n", "2", "--guidance", "0.5", *files]) == 0
    assert capsys.readouterr().out.split() == ["grid.png", "singles", "a.npy", "a-labels.npy"]
    labels, images = np.load("a-labels.npy"), np.load("a.npy")
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(images, classes.sample(6, labels=torch.from_numpy(labels), guidance=0.5).numpy())
    again = catalog.load(DataConfig(source="singles", levels=7))
    assert again.classes == ("0", "T-shirt-top", "bag")
    for i, folder in enumerate([*again.classes] * 2):
        picture = np.asarray(Image.open(f"singles/{folder}/{i:05d}.png"))
        assert np.array_equal(picture, np.asarray(plots.to_image(images[i], 7)))
    tiles = images.reshape(2, 3, 1, 4, 6).transpose(1, 0, 2, 3, 4).reshape(6, 1, 4, 6)
    grid, found = np.asarray(plots.grid(tiles, 7, 2, 4)), np.asarray(Image.open("grid.png"))
    assert np.array_equal(found[:, -grid.shape[1] :], grid)
    strip = found[:, : -grid.shape[1]]
    for row in range(3):  # each row is named
        assert strip[len(strip) * row // 3 : len(strip) * (row + 1) // 3].min() < 60
    assert main(["sample", "three", "--each-class", "-n", "2", "--npy", "b.npy", "--each", "singles"]) == 2
    Path("a.npy").unlink()
    assert main(["sample", "three", "--each-class", "-n", "2", "--npy", "a.npy"]) == 2
    assert "a-labels.npy: exists already" in capsys.readouterr().err


@pytest.mark.parametrize("memory", [2, 4])
def test_rows_that_were_interrupted_go_on(
    classes: PixelModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    """Whole rounds are kept, whatever the batch: the rest begins where they end."""
    whole = classes.sample(15, labels=torch.arange(15) % 3).numpy()
    with monkeypatch.context() as patch:
        sample, calls = sampler.FastSampler.sample, [0]

        def stop(self: sampler.FastSampler, *args: Any, **told: Any) -> Tensor:
            calls[0] += 1
            if calls[0] * memory > 8:
                raise ZeroDivisionError("division by zero")
            return sample(self, *args, **told)

        patch.setattr(sampler.FastSampler, "sample", stop)
        command = ["sample", "three", "--each-class", "-n", "5", "--batch", str(memory)]
        assert main([*command, "--npy", "a.npy", "--each", "singles", "--device", "cpu"]) == 1
    err = capsys.readouterr().err
    assert (
        "kept 6 of 15 images in a.npy, a-labels.npy, singles; continue with: pixelloom sample three -n 3 --first 6"
        in err
    )
    rest = err.split("continue with: pixelloom ")[1].splitlines()[0].split()
    assert main(rest) == 0
    assert np.array_equal(np.concatenate([np.load("a.npy"), np.load("a-from-6.npy")]), whole)
    labels = np.concatenate([np.load("a-labels.npy"), np.load("a-from-6-labels.npy")])
    assert labels.tolist() == [0, 1, 2] * 5
    assert len(list(Path("singles").glob("*/*.png"))) == 15
