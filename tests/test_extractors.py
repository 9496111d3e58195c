"""Feature extractors: what they compute, that nothing but the image matters, weights that are what they claim."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import warnings
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance

from pixelloom.core.errors import DataError, ModelError, UsageError
from pixelloom.core.rng import bits
from pixelloom.data.catalog import DataConfig, load
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.data.splits import Split
from pixelloom.metrics import extractors as module
from pixelloom.metrics import natural
from pixelloom.metrics.distances import frechet
from pixelloom.metrics.extractors import EXTRACTORS, LeNetMnist, Natural, Pixels, RandomNetwork, choose, features
from scripts import script


def pictures(n: int, channels: int, side: int, levels: int = 256, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(levels, (n, channels, side, side), generator=generator).byte()


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EXTRACTORS)
def test_features_do_not_depend_on_batch_size_or_mode(name: str, channels: int, levels: int) -> None:
    extractor = EXTRACTORS[name](channels)
    images = pictures(9, channels, 20, levels)
    whole = features(images, levels, extractor)
    assert whole.dtype == torch.float64
    assert whole.shape == (9, extractor.num_features)
    assert extractor.num_features <= 64
    assert whole.std(0).median() > 1e-3  # images differ, so do their features
    nn.Sequential(extractor).train()
    assert not any(part.training for part in extractor.modules())
    for batch in (1, 4):
        torch.testing.assert_close(features(images, levels, extractor, batch=batch), whole, rtol=1e-5, atol=1e-5)
    assert not whole.requires_grad


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 5, 7), (1, 1, 1, 1), (1, 3, 64, 40)])
@pytest.mark.parametrize("name", EXTRACTORS)
def test_any_size_is_measured(name: str, shape: tuple[int, ...]) -> None:
    images = torch.full(shape, 3, dtype=torch.uint8)
    found = features(images, 5, EXTRACTORS[name](shape[1]))
    assert found.shape[0] == 1
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", EXTRACTORS)
def test_levels_are_only_a_scale(name: str) -> None:
    bits = pictures(5, 1, 12, 2)
    extractor = EXTRACTORS[name](1)
    assert torch.equal(features(bits, 2, extractor), features(bits * 255, 256, extractor))
    assert torch.equal(features(bits, 2, extractor), features(bits * 16, 17, extractor))


@pytest.mark.parametrize("network", [LeNetMnist, Natural, RandomNetwork])
def test_gray_and_the_same_in_three_channels_are_one_image(network: type[LeNetMnist | Natural | RandomNetwork]) -> None:
    gray, extractor = pictures(5, 1, 28), network(3)
    torch.testing.assert_close(
        features(gray.expand(-1, 3, -1, -1), 256, extractor), features(gray, 256, extractor), rtol=1e-4, atol=1e-4
    )


def test_an_extractor_is_what_torchmetrics_takes() -> None:
    extractor = LeNetMnist(1)
    real, fake = pictures(80, 1, 28, seed=1), pictures(80, 1, 28, 2, seed=2) * 200
    metric = FrechetInceptionDistance(feature=extractor)
    metric.train()
    for start in range(0, 80, 32):  # an uneven last batch
        metric.update(to_model(real[start : start + 32], 256, Scaling.unit()), real=True)
        metric.update(to_model(fake[start : start + 32], 256, Scaling.unit()), real=False)
    expected = frechet(features(real, 256, extractor), features(fake, 256, extractor))
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-4)


# pixels


def test_pixels_are_means_of_areas() -> None:
    images = pictures(4, 1, 16)
    blocks = images.double().numpy().reshape(4, 8, 2, 8, 2).mean((2, 4)) / 255
    np.testing.assert_allclose(features(images, 256, Pixels(1)).numpy(), blocks.reshape(4, 64), rtol=1e-6)
    images = pictures(4, 3, 16)
    blocks = images.double().numpy().reshape(4, 3, 4, 4, 4, 4).mean((3, 5)) / 255
    np.testing.assert_allclose(features(images, 256, Pixels(3)).numpy(), blocks.reshape(4, 48), rtol=1e-6)


def test_areas_overlap_where_eight_does_not_divide_the_side() -> None:
    """Rows 0 to 1, 1 to 3, 3 to 4, ... of 12: area i is rows floor(12 i / 8) to ceil(12 (i + 1) / 8) - 1."""
    images = pictures(1, 1, 12)
    x = images[0, 0].double().numpy() / 255
    spans = [slice(12 * i // 8, -(-12 * (i + 1) // 8)) for i in range(8)]
    assert spans[0].stop > spans[1].start
    blocks = [[x[rows, columns].mean() for columns in spans] for rows in spans]
    np.testing.assert_allclose(features(images, 256, Pixels(1)).numpy(), np.reshape(blocks, (1, 64)), rtol=1e-5)


# random


def test_random_weights_are_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    first = features(pictures(3, 3, 32), 256, RandomNetwork(3))
    torch.manual_seed(2)
    assert torch.equal(first, features(pictures(3, 3, 32), 256, RandomNetwork(3)))
    network = RandomNetwork(3)
    for i in range(4):
        weight = network.get_buffer(f"weight{i}")
        bound = (6 / weight[0].numel()) ** 0.5
        assert float(weight.abs().max()) <= bound
        assert float(weight.var()) == pytest.approx(bound**2 / 3, rel=0.1)
    monkeypatch.setattr(module.rng, "bits", lambda *words: bits(0, *words))
    with pytest.raises(ModelError, match="not the specified ones"):
        RandomNetwork(3)


def test_random_features_by_plain_convolutions() -> None:
    network, images = RandomNetwork(3), pictures(2, 3, 32)
    weights = [network.get_buffer(f"weight{i}").double() for i in range(4)]
    y = images.double() / 127.5 - 1
    for weight in weights[:3]:
        k = weight.shape[-1]
        side = y.shape[-1] // 2
        columns = F.unfold(y, k, padding=k // 2, stride=2)  # [2, in k k, side side]
        y = (weight.flatten(1) @ columns).clamp(min=0).reshape(2, -1, side, side)
    torch.testing.assert_close(features(images, 256, network), y.flatten(1) @ weights[3].T, rtol=1e-4, atol=1e-5)


# lenet-mnist


def test_lenet_is_the_file_of_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resources.files("pixelloom.metrics").joinpath("weights")
    content, card = folder.joinpath("lenet-mnist.safetensors").read_bytes(), folder.joinpath("lenet-mnist.md")
    text = card.read_text(encoding="utf-8")
    assert len(content) <= 300_000
    assert hashlib.sha256(content).hexdigest() == module.LENET_SHA256
    assert module.LENET_SHA256 in text
    accuracy = re.search(r"test accuracy \| ([\d.]+)%", text)
    assert accuracy is not None
    assert float(accuracy[1]) >= 99
    monkeypatch.setattr(module, "LENET_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="damaged"):
        LeNetMnist(1)


def test_weights_are_packed() -> None:
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    packed = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["pixelloom"]
    assert "metrics/weights/*" in packed


def test_lenet_reads_digits_of_other_hands() -> None:
    """The UCI digits, with a margin as MNIST has it: nothing that it was trained on."""
    images, labels = load(DataConfig(source="digits")).test.all()
    x = F.interpolate(to_model(torch.from_numpy(images), 17, Scaling.unit()), (20, 20), mode="bilinear")
    right = LeNetMnist(1).classify(F.pad(x, [4] * 4)).numpy() == labels
    assert right.mean() > 0.8


def test_lenet_makes_gray_by_luma() -> None:
    red = torch.zeros(1, 3, 28, 28, dtype=torch.uint8)
    red[:, 0, 4:24, 12:16] = 200
    gray = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    gray[:, :, 4:24, 12:16] = round(200 * 0.299)
    other = features(gray * 3, 256, LeNetMnist(1))
    found, expected = features(red, 256, LeNetMnist(3)), features(gray, 256, LeNetMnist(1))
    assert (found - expected).norm() < 0.05 * (other - expected).norm()


def test_lenet_shrinks_with_antialiasing() -> None:
    """A triangle of 8x8 pixels leaves a sixth of the deviation of noise; four pixels would leave half of it."""
    network, noise = LeNetMnist(1), pictures(4, 1, 112)
    formed = network._formed(to_model(noise, 256, Scaling.unit()))
    assert formed.shape == (4, 1, 28, 28)
    assert float(formed.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(formed.std()) == pytest.approx(12**-0.5 / 6, rel=0.1)
    flat = torch.full((1, 1, 61, 45), 7, dtype=torch.uint8)
    torch.testing.assert_close(network._formed(to_model(flat, 8, Scaling.unit())), torch.ones(1, 1, 28, 28))


def test_the_recipe_learns_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, rng = script("lenet"), np.random.default_rng(0)
    monkeypatch.setattr(recipe, "BATCH", 16)
    labels = rng.integers(0, 2, 256)
    images = rng.integers(0, 40, (256, 1, 28, 28)).astype(np.uint8)
    images[labels == 1, :, 8:20, 12:16] += 150  # a bar, moved by two pixels at most
    split = Split(images, labels)
    network = recipe.train(split, 2, seed=0)
    assert recipe.accuracy(network, split) > 0.99
    again = recipe.train(split, 2, seed=0)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_shifts_move_whole_images() -> None:
    recipe = script("lenet")
    x = torch.zeros(200, 1, 28, 28)
    x[:, :, 10, 14] = 1
    moved = recipe.shifted(x, torch.Generator().manual_seed(0))
    at = moved.flatten(1).argmax(1)
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(200))
    assert set((at // 28 - 10).tolist()) == set((at % 28 - 14).tolist()) == {-2, -1, 0, 1, 2}
    assert len(set(at.tolist())) == 25


# natural


def test_natural_is_the_file_of_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resources.files("pixelloom.metrics").joinpath("weights")
    content, card = folder.joinpath("natural.safetensors").read_bytes(), folder.joinpath("natural.md")
    text = card.read_text(encoding="utf-8")
    assert len(content) <= 500_000
    assert hashlib.sha256(content).hexdigest() == natural.NATURAL_SHA256
    assert natural.NATURAL_SHA256 in text
    accuracy = re.search(r"CIFAR-10 \|.*test accuracy ([\d.]+)%", text)
    assert accuracy is not None
    assert float(accuracy[1]) >= 80
    assert f"({sum(p.numel() for p in natural.trained().parameters()):,} parameters)" in text
    monkeypatch.setattr(natural, "NATURAL_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="features natural: the weights in the package are damaged"):
        Natural(3)


def test_natural_features_stage_by_stage() -> None:
    """The network's definition once more, with plain operations in float64."""
    network, images = natural.trained().double().eval(), pictures(3, 3, 32)
    y, pooled = images.double() / 127.5 - 1, []
    for i in range(4):
        weight, mean, variance, scale, shift = (
            network.get_submodule(f"stages.{i}").state_dict()[name]
            for name in ("0.weight", "1.running_mean", "1.running_var", "1.weight", "1.bias")
        )
        if i:
            y = y.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5))
        columns = F.unfold(y, 3, padding=1)  # [3, in 9, H W]
        y = (weight.flatten(1) @ columns).unflatten(2, y.shape[2:])
        y = (y - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        y = (y * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
        pooled.append(y.mean((2, 3)) if i < 3 else y.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)).flatten(1))
    z = torch.cat(pooled, 1) @ network.linear.weight.T
    mean, variance = (network.norm.state_dict()[name] for name in ("running_mean", "running_var"))
    expected = (z - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(features(images, 256, Natural(3)), expected, rtol=1e-3, atol=1e-3)


def halves(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Two disjoint sets of 200 images of some classes of a data set of the package, and 200 of others, RGB 32x32."""
    data = load(DataConfig(source=name, size=32))
    images, labels = data.train.all()
    assert labels is not None
    x = torch.from_numpy((images.astype(np.float32) * 255 / (data.spec.levels - 1)).round().astype(np.uint8))
    x, first = x.expand(-1, 3, -1, -1), torch.from_numpy(labels < len(data.classes) // 2)
    return x[first][:200], x[first][200:400], x[~first][:200]


@pytest.mark.parametrize("name", ["shapes", "digits"])
def test_natural_orders_real_and_damaged_images(name: str) -> None:
    """Drawn shapes and digits, of which it was trained on none; random has noise within 30 times other classes."""
    recipe = script("extractors")
    found = {kind: row["kid-natural"] for kind, row in recipe.table(*halves(name), ["natural"]).items()}
    others = found["other classes"]
    assert abs(found["real"]) < others / 3
    assert found["two images averaged"] > others
    for kind in ("salt and pepper, 10 %", "blurred, 5x5", "blocks of 8x8 shuffled", "flat mean color"):
        assert found[kind] > 10 * others, kind
    assert found["uniform noise"] > 100 * others
    assert found["uniform noise"] > 2 * found["flat mean color"]


def test_the_tables_of_the_docs_are_the_measured_ones() -> None:
    """And noise is far beyond other real classes under natural, not so under random."""
    root, recipe = Path(__file__).parents[1], script("extractors")
    tables = json.loads((root / "benchmarks/results/extractors.json").read_text(encoding="utf-8"))["tables"]
    text = (root / "docs/metrics.md").read_text(encoding="utf-8")
    assert len(tables) == 2
    for name, rows in tables.items():
        assert recipe.markdown(name, rows) in text
        for metric, factor in (("kid-natural", 50), ("fd-natural", 5)):
            assert rows["uniform noise"][metric] > factor * rows["other classes"][metric]
            assert rows["uniform noise"][metric] == max(row[metric] for row in rows.values())
        assert rows["uniform noise"]["kid-random"] < 3 * rows["other classes"]["kid-random"]


def test_the_recipe_of_natural_learns_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, rng = script("natural"), np.random.default_rng(0)
    monkeypatch.setattr(recipe, "BATCH", 64)
    monkeypatch.setattr(recipe, "DISTORTED", 12)
    labels = torch.from_numpy(rng.integers(0, 2, 512))
    images = torch.from_numpy(rng.integers(0, 60, (512, 3, 32, 32)).astype(np.uint8))
    images[labels == 1, :, 8:24, 12:20] += 190
    network, epoch = recipe.train(images, labels, (images, labels), 2, seed=0)
    assert epoch in (1, 2)
    assert recipe.accuracy(network, images, labels) > 0.95
    z = network.features(images / 255).detach()
    assert float(z.mean().abs()) < 1e-3
    assert float(z.var(0).median()) == pytest.approx(1, abs=0.01)
    again, _ = recipe.train(images, labels, (images, labels), 2, seed=0)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_each_distortion_of_the_recipe_is_what_it_is_called() -> None:
    recipe, g = script("natural"), torch.Generator().manual_seed(0)
    x = torch.rand(60, 3, 32, 32, generator=g)
    images, kinds = recipe.distorted(x, g)
    assert kinds.tolist() == [kind for kind in range(1, 7) for _ in range(7)] + [0] * 18
    assert torch.equal(images[42:], x[42:])
    assert images.min() >= 0
    assert images.max() <= 1 + 1e-6
    shuffled, flat, coarse = recipe.shuffled(x, g), recipe.flat(x, g), recipe.coarse(x, g)
    assert torch.equal(shuffled.flatten(2).sort(-1).values, x.flatten(2).sort(-1).values)
    assert not torch.equal(shuffled, x)
    torch.testing.assert_close(flat.mean((2, 3)), x.mean((2, 3)))
    assert float(flat.std()) < 0.5 * float(x.std())
    torch.testing.assert_close(coarse.mean((2, 3)), x.mean((2, 3)))
    assert torch.equal(coarse[:, :, ::2, ::2], coarse[:, :, 1::2, 1::2])  # blocks of 2 at least
    assert float(recipe.blurred(x, g).std()) < 0.6 * float(x.std())
    noisy = recipe.noisy(torch.full((200, 3, 32, 32), 0.5), g)
    assert 0.03 < float(noisy.flatten(1).std(1).min()) < float(noisy.flatten(1).std(1).max()) < 0.45


# names and refusals


def test_auto_goes_by_the_data() -> None:
    assert choose("auto", 1, "mnist") == choose("auto", 1, "sevens-and-eights") == "lenet-mnist"
    assert choose("auto", 3, "mnist") == choose("auto", 1, "fashion-mnist") == choose("auto", 1) == "natural"
    assert choose("auto", 1, "digits") == "natural"  # 8x8, without a margin
    assert choose("pixels", 1, "mnist") == "pixels"
    with pytest.raises(
        UsageError, match=r"no 'lenet'.*There are auto, lenet-mnist, natural, random, pixels, and inception=FILE"
    ):
        choose("lenet", 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 4, 4), r"images: metrics take uint8 levels .* not torch.float32 \[2, 1, 4, 4\]"),
        (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), r"\[2, 2, 4, 4\]"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), r"\[2, 4, 4\]"),
        (np.full((2, 1, 4, 4), 4, np.uint8), r"level 4 in images of 4 levels \(0 to 3\)"),
    ],
)
def test_other_images_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        features(images, 4, Pixels(1))


def test_arrays_that_cannot_be_written_to_are_read(tmp_path: Path) -> None:
    images = pictures(3, 1, 8).numpy()
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = features(mapped, 256, Pixels(1))
    assert torch.equal(found, features(torch.from_numpy(images), 256, Pixels(1)))
    assert features(images[:0], 256, Pixels(1)).shape == (0, 64)
