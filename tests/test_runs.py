"""Runs of latent models, from data to model folder: what is kept, how it was made ready, that it goes on exactly."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pixelloom import api
from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.rng import Stream
from pixelloom.data.catalog import load
from pixelloom.data.config import DataConfig
from pixelloom.data.splits import Split, from_splits
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.engine.state import Run
from pixelloom.layers.spectral_norm import spectral_layers
from pixelloom.layers.standing_stats import measure_statistics
from pixelloom.metrics.distances import kid
from pixelloom.metrics.extractors import EXTRACTORS, features
from pixelloom.models.description import WEIGHTS
from pixelloom.models.gan import GANModel
from pixelloom.models.registry import load_model
from pixelloom.models.training_record import ValidationRecord
from pixelloom.networks import GAN_NETWORKS
from pixelloom.objectives.config import Penalties, Policy
from pixelloom.objectives.diffaugment import policy_for
from pixelloom.objectives.gan_losses import LOSSES
from pixelloom.runs import gan
from pixelloom.runs.compose import compose
from pixelloom.runs.config import GANRun
from pixelloom.runs.families import set_up
from pixelloom.runs.family import spaced_images
from pixelloom.runs.gan import _BATCH, _BATCHES, GANSetup
from pixelloom.runs.recipes import GAN_RECIPES, recipe
from pixelloom.runs.train import carry_out, train
from pixelloom.sampling.latent_noise import latents


def small(network: str, **train: object) -> GANRun:
    """A run of a few rounds on digits of 16x16."""
    settings = {"batch": 16, "images": 160, "ema": 0.1, "threads": 1, "precision": "fp32"} | train
    widths = {f"{side}_width": 4 for side in ("generator", "discriminator")}
    known = GAN_NETWORKS[network][0].model_fields
    return GANRun(
        network=network,
        data=DataConfig(source="digits", size=16),
        model={name: value for name, value in ({"latent": 5} | widths).items() if name in known},
        train=TrainConfig.model_validate(settings),
        validation_images=60,
        samples=4,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of SAGAN, which has batch and spectral norm."""
    folder = tmp_path_factory.mktemp("latent")
    train(small("sagan"), folder)
    return folder


def wired(network: str = "sagan", **settings: object) -> GANSetup:
    found = set_up(small(network, **settings), load(small(network).data))
    assert isinstance(found, GANSetup)
    return found


def lines(folder: Path, split: str) -> list[dict[str, float]]:
    read = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in read if line["split"] == split]


def test_the_best_model_by_kernel_distance_is_kept_and_the_last_one_besides(run: Path) -> None:
    measured = {line["images"]: line["kid-natural"] for line in lines(run, "val")}
    best = min(measured, key=measured.__getitem__)
    model = api.load(run)
    assert isinstance(model, GANModel)
    assert model.description.training.images == best
    assert model.description.training.validation == ValidationRecord(metrics={"kid-natural": measured[best]}, n=60)
    last = run / "last"
    assert last.is_dir() == (best != 160)
    if last.is_dir():
        assert load_model(last).description.training.images == 160


def test_the_figure_of_a_kept_model_can_be_measured_again(run: Path) -> None:
    model, config = api.load(run), small("sagan")
    data = load(config.data)
    space = EXTRACTORS["natural"](1)
    real = features(spaced_images(data, "val", 60), data.spec.levels, space)
    again, _ = kid(real, features(model.sample(60, seed=Stream.VALIDATION), data.spec.levels, space))
    assert again == pytest.approx(model.description.training.validation.metrics["kid-natural"], rel=1e-4)


@pytest.mark.parametrize("part", [WEIGHTS, "discriminator.safetensors"])
def test_spectral_norms_of_a_kept_model_are_1(run: Path, part: str) -> None:
    model = api.load(run)
    assert isinstance(model, GANModel)
    network = model.network if part == WEIGHTS else model.discriminator
    assert network is not None
    found = list(spectral_layers(network))
    assert len(found) == 2
    for _, layer, norm, _ in found:
        assert isinstance(layer.weight, torch.Tensor)
        matrix = layer.weight.detach().movedim(norm.axis, 0).flatten(1)
        assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=0.01)


def test_standing_statistics_are_the_means_over_batches_of_each_batch() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3).eval()
    batches = [torch.randn(7, 3) * 4 + 2 for _ in range(5)]
    measure_statistics(norm, ((batch,) for batch in batches))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert not norm.training
    assert norm.momentum == 0.1


def test_a_module_without_batch_norm_asks_for_no_batches() -> None:
    measure_statistics(nn.Linear(2, 2), iter(lambda: pytest.fail("a batch was asked for"), None))


def test_a_generator_is_made_ready_in_a_copy() -> None:
    """Its batch norms hold the statistics of the noise that they are measured by, the original holds what it held."""
    setup = wired()
    generator = setup.model.network.eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # as an average leaves them: u and v fit no longer
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    ready = setup.prepare(generator)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    seen: list[torch.Tensor] = []
    first = ready.get_submodule("stages.0.norm")
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for i in range(_BATCHES):
            ready(latents(5, Stream.STANDING, i * _BATCH, _BATCH))
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(first.running_mean, means)
    assert not torch.allclose(first.running_mean, before["stages.0.norm.running_mean"])


def test_a_generator_is_made_ready_by_classes_as_frequent_as_in_training() -> None:
    """Its batch norms saw no others."""
    images = np.random.default_rng(0).integers(0, 18, (3, 400, 1, 16, 16), dtype=np.uint8)
    splits = (Split(part, (np.arange(400) % 10 == 0).astype(np.int64), 18) for part in images)
    setup = GANSetup(small("dcgan").model_copy(update={"classes": True}), from_splits("x", *splits, ("a", "b")))
    told: list[torch.Tensor] = []

    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(5)

        def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            told.append(labels)
            return self.norm(z)

    setup.prepare(Told().eval())
    assert torch.cat(told).double().mean().item() == pytest.approx(0.1, abs=0.03)


def test_a_run_hands_out_what_was_made_ready_and_trains_on_as_it_was() -> None:
    setup = wired(ema=None)
    objective = setup.objective()
    run = Run(objective, setup.config.train, make_fabric(setup.config.train), epoch=100)
    with run.ema_weights() as network:
        assert network is not objective.parts["G"]
        once = network
    with run.ema_weights() as network:
        assert network is once  # made ready once a step
    run.state.step += 1
    with run.ema_weights() as network:
        assert network is not once


@pytest.mark.parametrize("network", GAN_NETWORKS)
def test_a_resumed_run_ends_with_the_same_bits(network: str, tmp_path: Path) -> None:
    """With validations in between for one network, and at the end for the others: these take most of the time."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    rhythm = {"validate_every": 64 if network == "dcgan" else 10**6}
    train(small(network, **rhythm), whole)
    train(small(network, **rhythm, images=80), parts)
    train(small(network, **rhythm), parts, resume=True)
    newest = [sorted((folder / "checkpoints").glob("step-*.safetensors"))[-1] for folder in (whole, parts)]
    (a, _), (b, _) = map(load_tensors, newest)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("best", "told"), [(0, True), (9, False)])
def test_an_early_best_model_of_a_gan_is_named(
    best: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = iter(0.1 if i == best else 1.0 for i in range(99))
    monkeypatch.setattr(GANSetup, "measure", lambda self, network: {"kid-natural": next(values)})
    train(small("dcgan", images=160, validate_every=16), tmp_path)
    assert ("the best model is from step 1 of 10, and no later kid-natural was lower" in caplog.text) == told


def test_a_resumed_run_that_ends_with_its_best_model_leaves_no_other_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter((1.0, 2.0, 1.5, 0.5))
    monkeypatch.setattr(GANSetup, "measure", lambda self, network: {"kid-natural": next(figures)})
    train(small("dcgan", images=32), tmp_path)
    assert load_model(tmp_path / "last").description.training.images == 32
    train(small("dcgan", images=64), tmp_path, resume=True)
    assert load_model(tmp_path / "model").description.training.images == 64
    assert not (tmp_path / "last").exists()


def test_classes_that_the_data_lacks_are_refused_with_a_way_on(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.random.default_rng(0).integers(0, 256, (60, 1, 16, 16), dtype=np.uint8))
    data = load(DataConfig(source=str(tmp_path / "few.npy")))
    with pytest.raises(UsageError, match=r"few.npy has no labels; use --no-classes"):
        set_up(small("sngan").model_copy(update={"classes": True}), data)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_dial_warns_where_it_speaks_of_training_pictures(loss: str) -> None:
    config = small("dcgan").model_copy(update={"loss": loss})
    hooks = [type(hook).__name__ for hook in set_up(config, load(config.data)).hooks()]
    assert ("_Overfitting" in hooks) == (loss not in ("wasserstein", "relativistic"))


def test_below_each_real_picture_stands_one_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("dcgan").model_copy(update={"classes": True, "samples": 6})
    setup = set_up(config, load(config.data))
    told: list[object] = []
    sample = GANModel.sample

    def seen(self: GANModel, n: int, **given: object) -> torch.Tensor:
        told.append(given["labels"])
        return sample(self, n, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(GANModel, "sample", seen)
    setup.final_images(setup.model, 6)
    val = setup.data.val
    (row,) = (labels for labels in told if len(labels) == 6)
    assert val.labels is not None
    assert row.tolist() == [val.labels[i * len(val) // 6] for i in range(6)]


def test_the_rhythm_of_no_penalty_is_refused() -> None:
    config = small("dcgan").model_copy(update={"penalties": Penalties(lazy_interval=4)})
    with pytest.raises(UsageError, match=r"penalties.lazy_interval: needs a penalty"):
        set_up(config, load(config.data))


def test_mismatched_pictures_without_classes_are_refused() -> None:
    config = small("dcgan").model_copy(update={"matching_aware": True})
    with pytest.raises(UsageError, match="matching_aware: needs --classes"):
        set_up(config, load(config.data))
    assert set_up(config.model_copy(update={"classes": True}), load(config.data)).classes == 10


def test_with_few_validation_images_the_last_model_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "few.npy", images)
    config = small("dcgan").model_copy(update={"data": DataConfig(source=str(tmp_path / "few.npy"))})
    rising = iter(range(100))  # the first would be the best
    monkeypatch.setattr(gan, "kid", lambda *_: (float(next(rising)), 0.0))
    with caplog.at_level(logging.INFO, "pixelloom"):
        train(config, tmp_path / "run")
    assert "and KID needs 20: it is measured against training images and prefers copies of them" in caplog.text
    assert "last validation: " in caplog.text
    assert "best validation: " not in caplog.text
    assert not (tmp_path / "run" / "last").exists()
    found = api.load(tmp_path / "run").description.training
    assert found.validation.split == "training"
    assert found.images == config.train.images
    (value,) = found.validation.metrics.values()
    assert value == next(rising) - 1 > 0
    assert found.validation.n == found.counts["train"]
    assert (
        "| chosen on | nothing, the last model is kept; validation: training, "
        in (tmp_path / "run" / "model" / "README.md").read_text()
    )


def test_too_few_images_to_choose_a_model_by_do_not_cost_the_run_that_is_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, n in (("some", 60), ("few", 2)):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (n, 1, 16, 16), dtype=np.uint8))
    out, config = tmp_path / "run", small("dcgan", images=16)
    good = config.model_copy(update={"data": DataConfig(source=str(tmp_path / "some.npy"))})
    carry_out(good, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    data = DataConfig(source=str(tmp_path / "few.npy"))
    with pytest.raises(DataError, match=r"few.npy: 2 distinct images cannot fill 3 splits"):
        carry_out(config.model_copy(update={"data": data}), out, force=True)
    with pytest.raises(UsageError, match="validation_images: 19 are too few"):
        carry_out(good.model_copy(update={"validation_images": 19}), out, force=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_classes_reach_both_networks_and_stand_in_rows(tmp_path: Path) -> None:
    config = small("sngan").model_copy(update={"classes": True})
    train(config, tmp_path)
    model = api.load(tmp_path)
    assert isinstance(model, GANModel)
    assert model.discriminator is not None
    assert model.description.classes == 10
    z = model.latents(1)
    assert not torch.equal(model.render(z, 3), model.render(z, 4))
    x = torch.zeros(1, 1, 16, 16)
    with torch.no_grad():
        assert model.discriminator(x, torch.tensor([3])) != model.discriminator(x, torch.tensor([4]))


def test_augmentation_follows_the_data_unless_it_is_given() -> None:
    setup = wired()
    assert setup.policy == policy_for(setup.data.spec, len(setup.data.train))
    assert setup.policy.on
    off = compose(setup.config, overrides={"augment.translation": "0"})
    assert isinstance(off, GANRun)
    assert GANSetup(off, setup.data).policy == Policy()


@pytest.mark.parametrize(
    ("network", "settings", "warned"),
    [
        ("dcgan", {"loss": "wasserstein"}, True),
        ("dcgan", {"loss": "wasserstein", "penalties": Penalties(gradient=10)}, False),
        ("sngan", {"loss": "wasserstein"}, False),
        ("dcgan", {"loss": "hinge"}, False),
    ],
)
def test_a_wasserstein_loss_with_a_free_slope_is_told(
    caplog: pytest.LogCaptureFixture, network: str, settings: dict[str, object], warned: bool
) -> None:
    config = small(network).model_copy(update=settings)
    with caplog.at_level(logging.WARNING, "pixelloom"):
        set_up(config, load(config.data)).objective()
    assert ("add --penalties.gradient 10" in caplog.text) is warned


def test_a_deviation_over_the_batch_needs_batches_of_one_kind() -> None:
    config = small("sngan")
    model = config.model.model_copy(update={"deviation": True})
    set_up(config.model_copy(update={"model": model}), load(config.data))
    with pytest.raises(UsageError, match=r"joint_batch: model.deviation"):
        set_up(config.model_copy(update={"model": model, "joint_batch": True}), load(config.data))


def test_the_dial_warns_in_a_run(caplog: pytest.LogCaptureFixture) -> None:
    (hook,) = (hook for hook in wired().hooks() if type(hook).__name__ == "_Overfitting")
    with caplog.at_level(logging.WARNING, "pixelloom"):
        for _ in range(1000):
            hook.on_step(None, {"D/r_t": 1.0})  # type: ignore[arg-type]
    assert caplog.text.count("it probably overfits") == 1


@pytest.mark.parametrize("name", GAN_RECIPES)
def test_recipes_of_latent_models_build(name: str) -> None:
    """For images as small as they come, with the recipe's settings."""
    config = compose(recipe(name), overrides={"data.source": "digits", "data.size": 16, "classes": False})
    objective = set_up(config, load(config.data)).objective()
    assert [phase.name for phase in objective.phases] == ["D", "G"]
    assert objective.ema_part == "G"


def test_with_classes_the_mean_distance_within_them_chooses() -> None:
    """A generator that draws other classes than it is asked for is as near as ever to all images at once."""

    def split(seed: int) -> Split:
        images = np.random.default_rng(seed).integers(0, 2, (400, 1, 16, 16), dtype=np.uint8)
        images[::2] += 16  # of class 0 bright, of class 1 dark
        return Split(images, np.arange(400) % 2, 18)

    config = small("dcgan").model_copy(update={"classes": True, "validation_images": 400})
    setup = GANSetup(config, from_splits("x", *map(split, range(3)), ("a", "b")))
    assert setup.figure == "kid-natural-by-class"

    class Painter(nn.Module):
        latent = 5

        def __init__(self, bright: int) -> None:
            super().__init__()
            self.bright, self.weight = bright, nn.Parameter(torch.zeros(()))

        def forward(self, z: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
            level = 16.0 * (told == self.bright)[:, None, None, None]
            noise = torch.rand(len(z), 1, 16, 16, generator=torch.Generator().manual_seed(1)).round()
            return (level + noise) / 8.5 - 1

    right, wrong = (setup.measure(Painter(bright)) for bright in (0, 1))
    assert abs(right["kid-natural-by-class"]) < 0.05
    assert wrong["kid-natural-by-class"] > 1
    assert wrong["kid-natural"] == pytest.approx(right["kid-natural"], abs=0.05)
    assert wired("dcgan").figure == "kid-natural"


@pytest.mark.parametrize(
    ("counts", "sizes", "figure"),
    [
        ((50, 50), [50, 50], "kid-natural-by-class"),
        ((60, 10, 15, 15), [40, 60], "kid-natural-by-class"),  # what is rare counts too: it cannot be drawn at will
        ((85, 15), [85], "kid-natural-by-class"),
        ((10,) * 10, [], "kid-natural"),
    ],
)
def test_classes_with_few_images_count_as_one(counts: tuple[int, ...], sizes: list[int], figure: str) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(0).integers(0, 18, (3, len(labels), 1, 16, 16), dtype=np.uint8)
    config = small("dcgan").model_copy(update={"classes": True, "validation_images": len(labels)})
    splits = (Split(part, labels, 18) for part in images)
    setup = GANSetup(config, from_splits("x", *splits, tuple(map(str, range(len(counts))))))
    groups = [set(labels[rows.numpy()]) for rows in setup._members]
    assert sorted(len(rows) for rows in setup._members) == sizes
    assert all(not a & b for a, b in itertools.combinations(groups, 2))
    assert setup.figure == figure
