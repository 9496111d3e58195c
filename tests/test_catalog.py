"""All named data sets and all kinds of user images: disjoint splits, counts, transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from layouts import cifar_batches, noise, write_cifar, write_idx, write_mnist, write_root
from pixelloom.core.errors import DataError, UsageError
from pixelloom.data import synthetic
from pixelloom.data.catalog import DATASETS, DataConfig, load
from pixelloom.data.pixels import quantize, threshold, to_bytes
from pixelloom.data.splits import NAMES, Dataset
from pixelloom.data.stream import Stream, ordered


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    write_root(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIXELLOOM_DATA", raising=False)


def get(source: str | Path, root: Path | None = None, **wishes: Any) -> Dataset:
    return load(DataConfig(source=str(source), root=root, **wishes))


def contents(data: Dataset) -> dict[str, set[bytes]]:
    return {name: {image.tobytes() for image in data.split(name).all()[0]} for name in NAMES}


def assert_disjoint(data: Dataset) -> None:
    members = contents(data)
    assert all(members.values())
    assert members["train"].isdisjoint(members["val"] | members["test"])
    assert members["val"].isdisjoint(members["test"])


EXPECTED: dict[str, tuple[tuple[int, int, int], int, int]] = {
    "digits": ((1, 8, 8), 17, 10),
    "shapes": ((3, 32, 32), 256, 3),
    "mnist": ((1, 28, 28), 256, 10),
    "fashion-mnist": ((1, 28, 28), 256, 10),
    "cifar10": ((3, 32, 32), 256, 10),
    "binarized-mnist": ((1, 28, 28), 2, 0),
    "colored-mnist": ((3, 28, 28), 4, 10),
    "sevens-and-eights": ((1, 64, 64), 256, 2),
}


def test_the_table_is_the_one_that_is_tested() -> None:
    assert list(EXPECTED) == list(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_every_set_is_what_it_says_and_its_splits_are_disjoint(name: str, root: Path) -> None:
    data = get(name, root)
    shape, levels, classes = EXPECTED[name]
    assert (data.name, data.spec.shape, data.spec.levels, len(data.classes)) == (name, shape, levels, classes)
    assert data.source_levels == levels
    assert not data.dynamic
    assert_disjoint(data)
    for split in NAMES:
        images, labels = data.split(split).all()
        assert images.shape == (data.counts()[split], *shape)
        assert images.max() == levels - 1
        if classes:
            assert labels is not None
            assert labels.min() >= 0
            assert labels.max() < classes
        else:
            assert labels is None


@pytest.mark.parametrize("name", DATASETS)
def test_every_set_is_the_same_each_time(name: str, root: Path) -> None:
    once, again = get(name, root), get(name, root)
    for split in NAMES:
        a, b = once.split(split).all(), again.split(split).all()
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])


def test_the_embedded_digits() -> None:
    data = get("digits")
    assert data.counts() == {"train": 1377, "val": 151, "test": 269}
    images = np.concatenate([data.split(name).all()[0] for name in NAMES])
    labels = np.concatenate([np.asarray(data.split(name).labels) for name in NAMES])
    # Of the published file optdigits.tes: images of each digit, and the sum of all values.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert int(images.sum()) == 561718
    assert all(np.bincount(np.asarray(data.split(name).labels)).min() >= 10 for name in NAMES)


def test_splits_of_named_sets_do_not_depend_on_the_seed(root: Path) -> None:
    for name in ("digits", "mnist", "binarized-mnist"):
        assert contents(get(name, root)) == contents(get(name, root, seed=1))


# -- published files


def test_published_parts_stay_whole_and_repeated_images_leave_training(tmp_path: Path) -> None:
    train, test = noise(200, 28, 28), noise(50, 28, 28, seed=1)
    test[7] = test[8] = train[3]  # twice in test: both stay
    train[10:14] = train[3]  # and four more copies in training
    for part, images in (("train", train), ("t10k", test)):
        write_idx(tmp_path / "mnist" / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "mnist" / f"{part}-labels-idx1-ubyte.gz", np.zeros(len(images), np.uint8))
    data = get("mnist", tmp_path)
    assert np.array_equal(data.test.all()[0][:, 0], test)
    assert len(data.train) + len(data.val) == 195
    assert "5 images removed because a later split contains the same" in data.note
    assert "the training split has 200 images, 60000 were published" in data.note
    assert "the test split has 50 images, 10000 were published" in data.note
    assert_disjoint(data)


def test_binarized_mnist_keeps_its_given_splits(root: Path) -> None:
    data = get("binarized-mnist", root)
    assert data.counts() == {"train": 40, "val": 10, "test": 12}
    for i, (name, n) in enumerate(data.counts().items()):
        assert np.array_equal(data.split(name).all()[0][:, 0], noise(n, 28, 28, seed=i, high=2))


def test_unpacked_idx_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    write_mnist(tmp_path / "mnist", packed=False)
    monkeypatch.setenv("PIXELLOOM_DATA", str(tmp_path))
    assert contents(get("mnist")) == contents(get("mnist", root))


@pytest.mark.parametrize("layout", ["py", "bin-tar", "py-tar"])
def test_every_layout_of_cifar_is_the_same_set(tmp_path: Path, root: Path, layout: str) -> None:
    write_cifar(tmp_path / "cifar10", cifar_batches(), layout)
    assert contents(get("cifar10", tmp_path)) == contents(get("cifar10", root))


def test_a_short_cifar_test_batch_is_counted_honestly(tmp_path: Path) -> None:
    batches = cifar_batches()
    batches["test_batch"] = tuple(part[:3] for part in batches["test_batch"])  # type: ignore[assignment]
    write_cifar(tmp_path / "cifar10", batches, "bin")
    data = get("cifar10", tmp_path)
    assert len(data.test) == 3
    assert "the test split has 3 images, 10000 were published" in data.note


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ("digits", "shapes")])
def test_missing_files_say_what_to_put_where(name: str, tmp_path: Path) -> None:
    published = {"colored-mnist": "mnist", "sevens-and-eights": "mnist"}.get(name, name)
    with pytest.raises(DataError) as caught:
        get(name, tmp_path / "root")
    assert str(tmp_path / "root" / published) in str(caught.value)
    assert {"mnist": "t10k-labels-idx1-ubyte.gz", "fashion-mnist": "t10k-labels-idx1-ubyte.gz"}.get(
        published, {"cifar10": "cifar-10-binary.tar.gz", "binarized-mnist": "binarized_mnist_valid.amat"}.get(published)
    ) in str(caught.value)


def test_wrong_shapes_and_counts_name_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    write_mnist(folder, 180, 300)
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.zeros(299, np.uint8))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: \(300, 28, 28\) images with \(299,\) labels"):
        get("mnist", tmp_path)
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.full(300, 10, np.uint8))
    with pytest.raises(DataError, match=r"labels in 0\.\.9"):
        get("mnist", tmp_path)
    write_idx(folder / "train-images-idx3-ubyte.gz", noise(1800, 28, 27))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        get("mnist", tmp_path)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: not an IDX file"):
        get("mnist", tmp_path)


# -- drawn sets


def test_shapes_come_in_any_size_levels_and_seed() -> None:
    data = get("shapes", size="20x24", levels=5)
    assert data.spec.shape == (3, 20, 24)
    assert set(np.unique(data.test.all()[0])) == {0, 1, 2, 3, 4}
    assert data.counts() == {"train": 6000, "val": 1000, "test": 1000}
    assert np.array_equal(data.val.all()[0], quantize(synthetic.shapes(1000, 20, 24, 0, 1)[0], 256, 5))
    assert contents(get("shapes", seed=1))["test"].isdisjoint(contents(get("shapes"))["test"])


def test_colored_digits_are_those_of_mnist_inverted_into_patches(root: Path) -> None:
    gray, data = get("mnist", root), get("colored-mnist", root)
    assert data.counts() == gray.counts()
    for stream, name in enumerate(NAMES):
        (digits, labels), (images, colored_labels) = gray.split(name).all(), data.split(name).all()
        assert np.array_equal(colored_labels, labels)
        assert np.array_equal(images, synthetic.color_digits(digits, 0, stream))
        ground = synthetic.color_digits(np.zeros_like(digits), 0, stream)
        assert np.array_equal(images, ground) == (not digits.any())
    other = get("colored-mnist", root, seed=1)
    assert np.array_equal(other.train.labels, data.train.labels)
    assert not np.array_equal(other.train.all()[0], data.train.all()[0])


def test_sevens_and_eights_come_from_the_same_splits_of_mnist(root: Path) -> None:
    gray, data = get("mnist", root), get("sevens-and-eights", root)
    assert {name: np.bincount(np.asarray(data.split(name).labels)).tolist() for name in NAMES} == {
        "train": [200, 200],
        "val": [400, 400],
        "test": [900, 900],
    }
    for name in NAMES:
        images, labels = gray.split(name).all()
        assert labels is not None
        for digit, label in ((7, 0), (8, 1)):
            possible = {i.tobytes() for i in synthetic.resample(images[labels == digit], 64, 64)}
            chosen, which = data.split(name).all()
            kept = {i.tobytes() for i in chosen[which == label]}
            assert len(kept) == np.count_nonzero(which == label)
            assert kept <= possible
    other = get("sevens-and-eights", root, seed=1)
    assert contents(other)["train"] != contents(data)["train"]


# -- levels and bits


def test_levels_are_quantized_by_floor(root: Path) -> None:
    whole, data = get("mnist", root), get("mnist", root, levels=4)
    assert (data.spec.levels, data.source_levels) == (4, 256)
    assert np.array_equal(data.test.all()[0], whole.test.all()[0] // 64)
    with pytest.raises(UsageError, match="17 levels; choose 2 to 17, not 256"):
        get("digits", levels=256)


def test_threshold(root: Path) -> None:
    whole, data = get("mnist", root), get("mnist", root, binarize="threshold@0.33")
    assert (data.spec.levels, data.dynamic) == (2, False)
    assert np.array_equal(data.test.all()[0], threshold(whole.test.all()[0], 256, 0.33))
    assert "v > 0.33" in data.note


def test_static_bits_are_one_draw_for_good(root: Path) -> None:
    whole, data = get("mnist", root), get("mnist", root, binarize="static")
    assert (data.spec.levels, data.dynamic) == (2, False)
    bits, gray = data.test.all()[0], whole.test.all()[0]
    assert np.array_equal(bits, get("mnist", root, binarize="static").test.all()[0])
    assert not np.array_equal(bits, get("mnist", root, binarize="static", seed=1).test.all()[0])
    assert bits[gray == 0].max() == 0
    assert bits[gray == 255].min() == 1
    middle = (gray > 100) & (gray < 155)
    p = gray[middle] / 255
    assert bits[middle].mean() == pytest.approx(p.mean(), abs=4.5 * (p * (1 - p)).sum() ** 0.5 / p.size)
    assert len({data.split(name).bits for name in NAMES}) == 3, "each split has random bits of its own"
    assert np.array_equal(get("mnist", root, binarize="static", limit=9).train.all()[0], data.train.all()[0][:9])


def test_dynamic_bits_are_drawn_in_the_stream(root: Path) -> None:
    data = get("mnist", root, binarize="dynamic")
    assert data.dynamic
    assert (data.spec.levels, data.source_levels) == (2, 256)
    gray, _ = data.train.all()
    assert gray.max() == 255
    stream = Stream(data.train, data.spec, len(gray), dynamic=True)
    first, second = (np.sort(stream.batch_at(s).images.numpy().reshape(len(gray), -1).sum(1)) for s in (0, 1))
    assert not np.array_equal(first, second)
    once, again = (
        np.concatenate([b.images.numpy() for b in ordered(data.test, data.spec, n, dynamic=True)]) for n in (7, 100)
    )
    assert np.array_equal(once, again)
    assert set(np.unique(once)) == {0, 1}


def test_bits_of_what_is_colored_or_binary_already(root: Path) -> None:
    for rule in ("static", "dynamic", "threshold@0.5"):
        with pytest.raises(UsageError, match="in color; set gray"):
            get("cifar10", root, binarize=rule)
        data = get("cifar10", root, binarize=rule, gray=True)
        assert data.spec.shape == (1, 32, 32)
        assert data.spec.levels == 2
        given = get("binarized-mnist", root, binarize=rule)
        assert contents(given) == contents(get("binarized-mnist", root))
        assert not given.dynamic
        assert "has no effect" in given.note


# -- gray and size


def test_gray_is_the_601_luma(root: Path) -> None:
    color, data = get("cifar10", root), get("cifar10", root, gray=True)
    r, g, b = color.test.all()[0].astype(int).transpose(1, 0, 2, 3)
    assert np.array_equal(data.test.all()[0][:, 0], (19595 * r + 38470 * g + 7471 * b + 32768) >> 16)
    assert get("mnist", root, gray=True).spec == get("mnist", root).spec


def test_size_and_fit(root: Path) -> None:
    whole = get("mnist", root).test.all()[0]
    half = get("mnist", root, size=14).test.all()[0]
    means = whole.reshape(-1, 1, 14, 2, 14, 2).astype(float).mean((3, 5))
    assert np.abs(half - means).max() <= 1
    padded = get("mnist", root, size="32x36", fit="pad", background="black").test.all()[0]
    assert np.array_equal(padded[:, :, 2:30, 4:32], whole)
    assert padded.sum() == whole.sum()
    with pytest.raises(DataError, match="28x28 pixels, not 32x32"):
        get("mnist", root, size=32, fit="error")
    assert get("cifar10", root, size=16).spec.shape == (3, 16, 16)
    assert np.array_equal(get("mnist", root, size=28, fit="error").test.all()[0], whole)


def test_few_levels_stay_few_when_resized() -> None:
    data = get("digits", size=16)
    assert (data.spec.shape, data.spec.levels, data.source_levels) == ((1, 16, 16), 17, 256)
    images = data.test.all()[0]
    assert set(np.unique(images)) == set(range(17))
    assert get("digits", size=16, levels=4).spec.levels == 4
    flat = to_bytes(np.full((1, 1, 8, 8), 5, np.uint8), 17)
    assert quantize(flat, 256, 17).max() == 5


def test_limit_keeps_the_first_training_images() -> None:
    whole, data = get("digits"), get("digits", limit=100)
    assert data.counts() == {"train": 100, "val": 151, "test": 269}
    assert np.array_equal(data.train.all()[0], whole.train.all()[0][:100])
    assert len(get("digits", limit=10**6).train) == 1377


# -- a user's images


def save(folder: Path, names: list[str], seed: int = 0) -> None:
    for name, image in zip(names, noise(len(names), 6, 5, 3, seed=seed), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)


def test_a_folder_is_cut_80_10_10_by_content(tmp_path: Path) -> None:
    save(tmp_path, [f"{i:03d}.png" for i in range(300)])
    (tmp_path / "copy.png").write_bytes((tmp_path / "007.png").read_bytes())
    data = get(tmp_path)
    assert sum(data.counts().values()) == 301
    assert 200 < len(data.train) < 275
    assert data.spec.shape == (3, 6, 5)
    assert_disjoint(data)
    assert contents(get(tmp_path, seed=1)) != contents(data)
    save(tmp_path, [f"new/{i}.png" for i in range(50)], seed=1)
    more = contents(get(tmp_path))
    assert all(members <= more[name] for name, members in contents(data).items()), "adding images moved others"


@pytest.mark.parametrize("n", [3, 4, 10])
def test_few_images_still_fill_three_splits(tmp_path: Path, n: int) -> None:
    save(tmp_path, [f"class {i}/only.png" for i in range(n)])
    data = get(tmp_path)
    assert sum(data.counts().values()) == n
    assert len(data.classes) == n
    assert_disjoint(data)


def test_two_images_are_too_few(tmp_path: Path) -> None:
    save(tmp_path, ["a.png", "b.png"])
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.raises(DataError, match=f"{tmp_path.name}: 2 distinct images cannot fill 3 splits"):
        get(tmp_path)


def test_named_parts_stay_and_missing_ones_are_cut_from_training(tmp_path: Path) -> None:
    save(tmp_path, [f"train/{i:02d}.png" for i in range(40)] + [f"test/{i}.png" for i in range(5)])
    (tmp_path / "train" / "leak.png").write_bytes((tmp_path / "test" / "3.png").read_bytes())
    data = get(tmp_path)
    assert len(data.test) == 5
    assert len(data.train) + len(data.val) == 40
    assert "1 image removed because a later split contains the same" in data.note
    assert_disjoint(data)
    save(tmp_path, [f"val/{i}.png" for i in range(3)], seed=1)
    assert get(tmp_path).counts() == {"train": 40, "val": 3, "test": 5}


def test_only_a_test_part_can_still_be_measured(tmp_path: Path) -> None:
    save(tmp_path, ["test/a.png", "test/b.png"])
    data = get(tmp_path)
    assert data.counts() == {"train": 0, "val": 0, "test": 2}
    with pytest.raises(DataError, match="has no images"):
        Stream(data.train, data.spec, 1)


def test_training_that_is_all_in_test_is_refused(tmp_path: Path) -> None:
    save(tmp_path, ["test/a.png"])
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "b.png").write_bytes((tmp_path / "test" / "a.png").read_bytes())
    with pytest.raises(DataError, match="every training image is also in"):
        get(tmp_path)


def test_own_images_take_every_wish(tmp_path: Path) -> None:
    save(tmp_path, [f"{i}.png" for i in range(20)])
    data = get(tmp_path, gray=True, size=4, levels=3)
    assert data.spec.shape == (1, 4, 4)
    assert set(np.unique(data.train.all()[0])) == {0, 1, 2}
    assert get(tmp_path, gray=True, binarize="dynamic").dynamic
    with pytest.raises(UsageError, match="background"):
        get(tmp_path, background="whitish")


@pytest.mark.parametrize("bits", [False, True])
def test_an_array_is_a_source_too(tmp_path: Path, bits: bool) -> None:
    images = noise(50, 7, 7, high=2).astype(bool) if bits else noise(50, 7, 7, 3)
    np.save(tmp_path / "mine.npy", images)
    data = get(tmp_path / "mine.npy")
    assert data.spec.shape == ((1, 7, 7) if bits else (3, 7, 7))
    assert data.spec.levels == (2 if bits else 256)
    assert sum(data.counts().values()) == 50


# -- names and configurations


def test_a_mistyped_name_gets_the_nearest_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"'mnst'\. Did you mean 'mnist'\? Choose digits, shapes.*or give the path"):
        get("mnst")
    with pytest.raises(DataError, match="no such file or folder"):
        get("./mnist")
    save(tmp_path / "pics", ["1.png", "2.png", "3.png"])
    assert get("pics").counts() == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"binarize": "statik"}, "none, static, dynamic or threshold@T"),
        ({"binarize": "threshold"}, "threshold@T"),
        ({"binarize": "threshold@1.0"}, "0 <= T < 1"),
        ({"binarize": "threshold@-0.5"}, "0 <= T < 1"),
        ({"binarize": "static", "levels": 4}, "binarize=static gives 2 levels, but levels is 4"),
        ({"levels": 1}, "greater than or equal to 2"),
        ({"levels": 257}, "less than or equal to 256"),
        ({"size": 0}, "HEIGHTxWIDTH"),
        ({"size": "32 x 32"}, "HEIGHTxWIDTH"),
        ({"size": "9999x3"}, "HEIGHTxWIDTH"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"fit": "stretch"}, "'crop', 'resize', 'pad', 'tiles' or 'error'"),
        ({"level": 4}, "Extra inputs"),
    ],
)
def test_a_wrong_wish_is_named(wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DataConfig(**wishes)
    assert message in str(caught.value)


def test_configurations_round_trip() -> None:
    config = DataConfig(source="mnist", size="32", binarize="threshold@.25", root=Path("data"))
    assert config.size == 32
    assert config.sides == (32, 32)
    assert config.threshold == 0.25
    assert DataConfig(size="20x24").sides == (20, 24)
    assert DataConfig().sides is None
    assert DataConfig(binarize="static", levels=2).threshold is None
    assert DataConfig(**config.model_dump(mode="json")) == config
