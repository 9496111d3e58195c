"""Models of both families are measured by their samples: memorization, classes, conditioning images."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import pixelloom
from gan_toys import PAIRS
from image_toys import Drawer, dataset, drawing, toy_images
from pixelloom import api
from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import DataConfig, load
from pixelloom.data.conditions import Condition
from pixelloom.data.pixels import to_bytes
from pixelloom.data.splits import Dataset, Split, from_splits
from pixelloom.data.stream import ordered
from pixelloom.metrics import results
from pixelloom.metrics.class_accuracy import accuracy, digits_of, read, wilson
from pixelloom.metrics.extractors import Pixels
from pixelloom.metrics.memorization import NearestNeighbors
from pixelloom.metrics.results import METRICS, Reference, TrainingNeighbors, training_neighbors
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelModel
from pixelloom.runs import evaluate
from pixelloom.runs.evaluate import Measured, MeasureOptions, applicable_metrics, draw, measure
from pixelloom.viz import nearest as neighbors
from scripts import script
from small_models import flat

SPEC = ImageSpec(1, 8, 8, 16)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset(toy_images(500, 1), toy_images(60, 2), toy_images(700, 3))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Sevens and eights of the embedded digits, in a frame as MNIST has it, of those that the reader reads right."""
    whole = load(DataConfig(source="digits")).train.all()
    images, labels = torch.from_numpy(whole[0]), torch.from_numpy(np.asarray(whole[1]))
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    framed = torch.nn.functional.pad(large, (6, 6, 6, 6))
    kept = (read(framed, 17) == labels) & (labels >= 7) & (labels <= 8)
    return framed[kept], labels[kept]


def values(found: Measured) -> dict[str, float]:
    return {figure.name: figure.value for figure in found.results}


# What is drawn


def test_memorization_is_caught_and_an_honest_model_is_not(data: Dataset) -> None:
    train, wishes = torch.from_numpy(data.train.all()[0]), MeasureOptions(METRICS, "pixels", n=200)
    copier, honest = (measure(drawing(images), data, wishes) for images in (train, toy_images(20_000, 4)))
    caught, fine = values(copier), {figure.name: figure for figure in honest.results}
    assert (caught["copied-pixels"], caught["nearest-pixels"], caught["gap-pixels"]) == (1, 0, -1)
    assert caught["precision-pixels"] > 0.5  # which notices nothing
    assert abs(fine["gap-pixels"].value) < 0.05
    assert fine["copied-pixels"].value < 0.1
    for name in ("precision", "recall", "density", "coverage"):
        assert fine[f"{name}-pixels"].value == pytest.approx(fine[f"{name}-pixels"].baseline, rel=0.2), name
    sizes = (1 / 200 + 1 / 700) / (1 / 200 + 1 / 500)  # which the distance's bias goes with
    assert fine["fd-pixels"].value == pytest.approx(sizes * (fine["fd-pixels"].baseline or 0), rel=0.2)
    assert abs(fine["kid-pixels"].value) < 3 * (fine["kid-pixels"].standard_error or 0)
    noise = measure(drawing(torch.randint(0, 16, (300, *SPEC.shape)).byte()), data, wishes)
    assert values(noise)["fd-pixels"] > 20 * fine["fd-pixels"].value
    assert values(noise)["precision-pixels"] < 0.05


def test_metrics_are_of_the_models_own_samples_and_the_whole_split(data: Dataset) -> None:
    model = drawing(toy_images(300, 5))
    found = measure(model, data, MeasureOptions(("kid", "nearest"), "random", n=90, seed=4))
    assert torch.equal(found.samples, model.sample(90, seed=4))
    reference = Reference(data.test.all()[0], data.train.all()[0])
    expected = results.measure(found.samples, reference, 16, metrics=("kid", "nearest"), extractor="random", seed=4)
    assert found.results == expected
    other = measure(model, data, MeasureOptions(("kid",), "random", n=90, seed=4, split="val")).results
    assert other[0].reference == 60


@pytest.mark.parametrize("family", ["pixel", "latent"])
def test_drawing_tells_how_far_it_is_and_changes_nothing(family: str) -> None:
    model: PixelModel | GANModel = flat(SPEC) if family == "pixel" else drawing(toy_images(99, 0))
    seen: list[float] = []
    drawn = draw(model, 150, seed=3, on_draw=seen.append)
    assert torch.equal(drawn, model.sample(150, seed=3))
    assert seen == sorted(seen)
    assert seen[-1] == 150
    assert len(seen) > 2


def test_classes_that_the_images_lack_are_drawn_evenly(data: Dataset) -> None:
    sets = [torch.full((1, *SPEC.shape), level, dtype=torch.uint8) for level in (3, 9, 14)]
    model, wishes = drawing(*sets, classes="abc"), MeasureOptions(("kid",), "pixels", n=100)
    others = dataset(
        toy_images(50, 1), toy_images(50, 2), toy_images(70, 3), labels=torch.arange(70) % 2, classes="bca"
    )
    found = measure(model, data, wishes)
    assert found.samples[:, 0, 0, 0].tolist() == [(3, 9, 14)[i % 3] for i in range(100)]
    named = measure(model, others, wishes)  # which have b and c, matched by name
    assert sorted(named.samples[:, 0, 0, 0].unique().tolist()) == [9, 14]


def test_classes_are_drawn_as_often_as_the_images_have_them() -> None:
    """So a model that is as good as uneven data is at their baseline; evenly drawn it would be far above."""
    labels = (torch.arange(600) % 10 == 0).long()
    test, more = (toy_images(600, seed) // 2 + 8 * labels.byte().view(-1, 1, 1, 1) for seed in (3, 4))
    data = dataset(toy_images(50, 1), toy_images(50, 2), test, labels=labels, classes="ab")
    model = drawing(more[labels == 0], more[labels == 1], classes="ab")
    for n in (300, 900):
        found = measure(model, data, MeasureOptions(("kid",), "pixels", n=n))
        assert int((found.samples.double().mean((1, 2, 3)) > 7.5).sum()) == pytest.approx(n / 10, abs=n / 30)
        (kid,) = found.results
        assert abs(kid.value) < 3 * (kid.standard_error or 0)


def test_conditioning_images_are_not_those_compared_with() -> None:
    """Each image is one color: its level identifies it."""
    levels = torch.arange(200, dtype=torch.uint8)
    test = levels.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    data = dataset(toy_images(50, 0, levels=256), toy_images(50, 1, levels=256), test, 256)
    model = flat(ImageSpec(1, 8, 8, 256))
    model.condition = Condition("downsample@2", model.spec)
    seen: list[Tensor] = []

    def sample(n: int, *, condition: Tensor, **_: object) -> Tensor:
        seen.append(condition)
        return torch.zeros(n, *model.spec.shape, dtype=torch.uint8)

    model.sample = sample  # type: ignore[method-assign, assignment]
    found = measure(model, data, MeasureOptions(("kid",), "pixels", n=150))
    shown, compared = seen[0][:, 0, 0, 0].tolist(), torch.as_tensor(found.reference.held_out)[:, 0, 0, 0].tolist()
    assert sorted(set(shown) | set(compared)) == levels.tolist()
    assert set(shown).isdisjoint(compared)
    assert (len(shown), len(compared)) == (150, 100)
    assert np.bincount(shown).max() == 2  # in turn


# What is compared with


def test_a_limit_takes_random_images_and_never_the_first() -> None:
    test = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()  # sorted by class
    data = dataset(toy_images(50, 0, levels=256), toy_images(50, 1, levels=256), test, 256)
    model, chosen = drawing(toy_images(99, 2, levels=256), levels=256), []
    for seed in (0, 0, 1):
        found = measure(model, data, MeasureOptions(("kid",), "pixels", n=50, seed=seed, limit=60))
        chosen.append(torch.as_tensor(found.reference.held_out)[:, 0, 0, 0].tolist())
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(set(chosen[0])) == 60
    assert max(np.histogram(chosen[0], 5, (0, 250))[0]) < 25


def test_bits_that_are_drawn_anew_are_those_of_the_ordered_pass() -> None:
    data = load(DataConfig(source="digits", binarize="dynamic"))
    model = flat(data.spec)
    found = measure(model, data, MeasureOptions(("nearest",), "pixels", n=30))
    for images, split in ((found.reference.held_out, data.test), (found.reference.training, data.train)):
        expected = torch.cat([batch.images for batch in ordered(split, data.spec, 64, dynamic=True)])
        assert images is not None
        assert torch.equal(torch.as_tensor(images), expected)


def test_training_images_beyond_the_memory_are_a_sample_that_is_logged(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(evaluate, "_MOST", 64 * 400)
    found = measure(drawing(toy_images(99, 0)), data, MeasureOptions(("nearest",), "pixels", n=50))
    assert "searches 400 of 500 training images" in caplog.text
    assert (found.results[0].reference, len(found.reference.held_out)) == (400, 400)


# What is asked for


def test_which_metrics_are_meant(data: Dataset) -> None:
    pixel, latent = flat(SPEC), drawing(toy_images(9, 0))
    told = drawing(toy_images(9, 0), toy_images(9, 1), classes="78")
    assert applicable_metrics(pixel, None, "test") == ("likelihood",)
    assert applicable_metrics(latent, None, "test") == METRICS
    assert applicable_metrics(told, None, "test") == (*METRICS, "accuracy")
    assert applicable_metrics(pixel, ["all"], "val") == ("likelihood", *METRICS)
    assert applicable_metrics(pixel, ["nearest", "kid", "likelihood"], "test") == ("likelihood", "kid", "nearest")
    assert applicable_metrics(latent, ["all"], "train") == METRICS[:-1]
    for model, metrics, split, said in (
        (latent, ["likelihood"], "test", "a GAN has no likelihood"),
        (latent, ["all", "likelihood"], "test", "a GAN has no likelihood"),
        (pixel, ["kdi"], "test", r"none is called 'kdi'\. Did you mean 'kid'"),
        (pixel, [""], "test", "none is called ''"),
        (pixel, ["nearest"], "train", "split val or test"),
        (pixel, ["accuracy"], "test", "there are no classes"),
        (drawing(toy_images(9, 0), toy_images(9, 1), classes="ab"), ["accuracy"], "test", "here classes are a, b"),
    ):
        with pytest.raises(UsageError, match=said):
            applicable_metrics(model, metrics, split)
    for name, value in (("n", 0), ("seed", -1), ("limit", -2)):
        with pytest.raises(UsageError, match=f"{name}: must be"):
            measure(pixel, data, MeasureOptions(("kid",), **{name: value}))  # type: ignore[arg-type]


class Wide(Pixels):
    """As many features as the network of published FIDs has."""

    def __init__(self) -> None:
        super().__init__(1)
        self.num_features = 2048


def test_too_few_images_are_left_out_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    data, model = dataset(toy_images(90, 0), toy_images(9, 1), toy_images(40, 2)), drawing(toy_images(90, 3))
    drawn: list[float] = []
    for extractor, n, said in (
        ("random", 100, "fd: 40 real images are too few with 64 features; at least 65 are needed"),
        (Wide(), 100, "fd: 40 real images are too few with 2048 features; at least 2049 are needed"),
        ("random", 9, "kid: 9 generated images are too few"),
    ):
        with pytest.raises(DataError, match=said):
            measure(model, data, MeasureOptions(METRICS, extractor, n=n), drawn.append)
    assert not drawn  # which can take hours
    found = measure(model, data, MeasureOptions(METRICS, "random", n=100, forgiving=True))
    assert "fd: skipped: it needs 65 images, and there are 40 held-out images and 100 samples" in caplog.text
    assert "fd-random" not in values(found)
    assert "nearest-random" in values(found)
    with pytest.raises(DataError, match=r"kid: 9 real .* The val split has 9; other splits: train 90, test 40"):
        measure(model, data, MeasureOptions(METRICS, "random", n=100, split="val", forgiving=True))


# Classes


def test_the_share_that_is_read_as_its_class(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    sevens, eights = images[labels == 7], images[labels == 8]
    assert min(len(sevens), len(eights)) > 50
    data = dataset(images[:20], images[20:40], images[40:], 17, labels=labels[40:] - 7, classes="78")
    model = drawing(sevens, eights, levels=17, classes="78", right=0.8)
    told: list[Tensor] = []

    def sample(n: int, *, labels: Tensor, **rest: object) -> Tensor:
        told.append(labels)
        return GANModel.sample(model, n, labels=labels, **rest)  # type: ignore[arg-type]

    model.sample = sample  # type: ignore[method-assign, assignment]
    (found,) = measure(model, data, MeasureOptions(("accuracy",), n=201)).results
    assert isinstance(model.network, Drawer)
    (asked,) = told
    hits = [s == label for (s, _), label in zip(model.network.chosen(model.latents(201), asked), asked, strict=True)]
    assert (found.name, found.n, found.value) == ("accuracy-lenet-mnist", 201, sum(hits) / 201)
    assert 0.7 < found.value < 0.9
    assert (found.baseline, found.baseline_n) == (1, (len(labels) - 40, 0))
    assert found.interval == wilson(sum(hits), 201)
    assert found.baseline_interval == wilson(len(labels) - 40, len(labels) - 40)
    worst = min((np.mean([hit for hit, label in zip(hits, asked, strict=True) if label == i]), 7 + i) for i in range(2))
    assert found.note == f"lowest: {worst[0]:.3f} of the {worst[1]}s"


def test_accuracy_says_what_it_stands_on(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    alone = accuracy(images[:1], labels[:1], 17)
    assert (alone.value, alone.baseline, alone.note) == (1, None, "no labeled images for a baseline")
    unfit = accuracy(images, labels, 17, (images, 15 - labels))
    assert (unfit.value, unfit.baseline) == (1, 0)
    assert "lenet-mnist does not fit these images" in unfit.note
    data = dataset(images[:9], images[9:18], images[18:], 17)  # without labels
    (found,) = measure(
        drawing(images, images, levels=17, classes="78"), data, MeasureOptions(("accuracy",), n=9)
    ).results
    assert found.baseline is None


def test_wilson_is_the_interval_of_shares_that_the_count_does_not_refute() -> None:
    for hits, n in ((0, 10), (3, 10), (10, 10), (937, 1000)):
        low, high = wilson(hits, n)
        for p in (low, high):
            if 0 < p < 1:
                assert abs(hits / n - p) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / n), rel=1e-9)
        assert low <= hits / n <= high
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_which_classes_are_digits() -> None:
    assert digits_of(list("0123456789")) == tuple(range(10))
    for names in ([], ["7", "eight"], ["10"], [""], ["²"]):
        with pytest.raises(UsageError, match="knows the digits 0 to 9"):
            digits_of(names)


# The sheet


def test_the_sheet_shows_pairs_the_nearest_first() -> None:
    """Every image is one level, so a tile of the sheet says which image it is."""
    samples, held_out, training = (
        torch.arange(start, start + n, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
        for start, n in ((0, 7), (100, 30), (200, 50))
    )
    near = TrainingNeighbors(
        NearestNeighbors(torch.tensor([0.5, 0.1, 0.9, 0.2, 0.7, 0.3, 0.8]), torch.arange(7) + 10),
        NearestNeighbors(torch.linspace(1, 0.1, 20), torch.arange(20) + 20),
        torch.arange(20) + 5,
    )
    sheet = neighbors.draw(samples, Reference(held_out, training), near, 256, columns=2, rows=2)
    pixels = np.asarray(sheet.convert("L"))
    rows = [row for row in tile_rows(pixels) if row]
    drawn = [[1, 3], [211, 213], [5, 0], [215, 210]]
    # of 7 held-out images, as many as there are samples: those at 5 .. 11, the last nearest
    real = [[111, 110], [226, 225], [109, 108], [224, 223]]
    shown = [to_bytes(np.array(row, np.uint8), 256).tolist() for row in drawn + real]
    assert rows == shown
    with pytest.raises(UsageError, match="no training images"):
        neighbors.draw(samples, Reference(held_out), near, 256)


def tile_rows(pixels: np.ndarray) -> list[list[int]]:
    """Levels of the tiles in each row of tiles: wide runs of one value that are no paper and no ground."""
    rows: list[list[int]] = []
    for line in pixels[::8]:
        runs = np.split(line, np.flatnonzero(np.diff(line.astype(int))) + 1)
        tiles = [int(run[0]) for run in runs if len(run) >= 64 and run[0] not in (128, 255)]
        if not rows or rows[-1] != tiles:
            rows.append(tiles)
    return rows


def test_neighbors_are_those_that_the_metrics_stand_on(data: Dataset) -> None:
    found = measure(drawing(toy_images(99, 0)), data, MeasureOptions(("nearest",), "pixels", n=80, seed=2))
    assert found.neighbors is not None
    again = training_neighbors(found.samples, found.reference, 16, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(found.neighbors.samples, again.samples, strict=True))
    assert found.results[0].value == pytest.approx(float(found.neighbors.samples.distances.mean()))
    assert found.results[0].baseline == pytest.approx(float(found.neighbors.held_out.distances.mean()))
    training = torch.as_tensor(found.reference.training)
    nearest = training[found.neighbors.samples.indices].double() - found.samples.double()
    rms = nearest.flatten(1).square().mean(1).sqrt() / 15
    torch.testing.assert_close(rms, found.neighbors.samples.distances, rtol=1e-9, atol=1e-12)


# From Python


def test_measure_from_python() -> None:
    model = flat(ImageSpec(1, 8, 8, 17), DataConfig().model_dump(mode="json"))
    found = pixelloom.measure(model, metrics=["kid", "nearest"], features="pixels", n=40, seed=3, split="val")
    digits = load(DataConfig(source="digits"))
    expected = measure(model, digits, MeasureOptions(("kid", "nearest"), "pixels", 40, 3, "val"))
    assert found == expected.results
    assert {f.name for f in api.measure(model, n=40, features="pixels")} == {
        *(f"{name}-pixels" for name in METRICS if name != "fd"),  # of 40 samples in 64 dimensions there is none
        *("gap-pixels", "copied-pixels"),
    }
    with pytest.raises(UsageError, match=r"is not a sample metric; use pixelloom\.evaluate"):
        pixelloom.measure(model, metrics=["likelihood"])
    name, config = PAIRS["dcgan"]
    latent = GANModel.build(GANDescription(network=name, model=config, image=ImageSpec(1, 16, 16, 256)))
    with pytest.raises(UsageError, match="a GAN has no likelihood"):
        pixelloom.evaluate(latent)
    with pytest.raises(DataError, match=r"images are 1x16x16 with 17 levels.* 1x16x16 with 256"):
        pixelloom.measure(latent, "digits")


def test_a_split_that_is_too_small_to_go_by(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    parts = [Split(toy_images(n, n).numpy(), None, 16) for n in (9, 9, 1)]
    model = flat(SPEC)
    model.condition = Condition("downsample@2", SPEC)
    with pytest.raises(DataError, match="too few images for conditioning and for measuring"):
        measure(model, from_splits("mine", *parts), MeasureOptions(("kid",)))


# benchmarks/metrics.py


def test_metrics_notice_what_was_done_to_images(capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded digits: each fault is seen by the figure that is there for it."""
    script("metrics").main(["--data", "digits", "--features", "pixels", "-n", "140", "--json"])
    found = json.loads(capsys.readouterr().out)
    rows = {
        name: {figure["name"].split("-")[0]: figure for figure in results}
        for name, results in found.items()
        if isinstance(results, list)
    }
    real, moved, few, noise, copies = rows.values()
    assert real["copied"]["value"] < 0.15
    assert abs(real["gap"]["value"]) < 0.1
    assert (copies["copied"]["value"], copies["gap"]["value"]) == (1, -1)
    assert few["coverage"]["value"] < 0.6 * real["coverage"]["value"]
    assert few["precision"]["value"] > 0.8 * real["precision"]["value"]
    for damaged in (moved, noise):
        assert damaged["fd"]["value"] > 3 * real["fd"]["value"]
        assert damaged["gap"]["value"] > 0.1
    assert found["test"] == 269
    assert 0 < found["classifier_accuracy"] < 0.5  # digits that fill their frame
