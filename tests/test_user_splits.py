"""Splits of a user's images: frames of a file stay together, each class is in each split, and all of it is stated."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_files import encoded, put
from pixelloom.core.errors import DataError
from pixelloom.data.catalog import DataConfig, Dataset, load
from pixelloom.data.splits import NAMES, Split, content_hashes, split_by_hash
from pixelloom.data.user_splits import from_user


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 4, 4)).astype(np.uint8)


def made(store: np.ndarray, labels: list[int], classes: str, files: np.ndarray | None = None, seed: int = 0) -> Dataset:
    whole = Split(store, np.array(labels, np.int64))
    return from_user("mine", whole, None, tuple(classes), "", seed, files)


@pytest.mark.parametrize("seed", range(5))
def test_each_class_of_three_images_is_in_each_split(seed: int) -> None:
    labels = [0] * 200 + [1] * 3 + [2] * 2 + [3]
    data = made(images(206), labels, "abcd", seed=seed)
    of = {name: np.bincount(data.split(name).labels, minlength=4).tolist() for name in NAMES}
    assert [of[name][1] for name in NAMES] == [1, 1, 1]
    assert [of["train"][2], of["train"][3]] == [2, 1]
    assert data.note == "fewer than 3 distinct images, so not in every split: c, d"


def test_large_classes_are_split_as_without_classes() -> None:
    store = images(4000)
    data = made(store, [0, 1] * 2000, "ab")
    test, val, train = split_by_hash(content_hashes(store), 0.1, 0.1)
    assert [len(test), len(val), len(train)] == [data.counts()[name] for name in ("test", "val", "train")]
    assert np.array_equal(data.test.all()[0], store[test])
    assert data.note == ""


def test_classes_that_are_all_too_small_are_split_together() -> None:
    data = made(images(9), list(range(9)), "abcdefghi")
    assert sum(data.counts().values()) == 9
    assert min(data.counts().values()) >= 1
    assert "fewer than 3 distinct images, so not in every split: a, b, c, d, e and 4 more" in data.note
    assert "no training image of " in data.note


def test_an_image_of_two_classes_is_in_one_split() -> None:
    store = images(3, seed=3)
    data = made(np.concatenate([store, images(60), store[:1]]), [0] * 3 + [1] * 61, "ab")
    seen = [set(content_hashes(data.split(name).all()[0]).tolist()) for name in NAMES]
    assert all(not a & b for a, b in combinations(seen, 2))


def test_frames_of_a_file_stay_in_one_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contents = {}
    for i in range(30):
        first, *rest = [Image.fromarray(rng.integers(0, 256, (6, 6)).astype(np.uint8)) for _ in range(1 + i % 4)]
        contents[f"{i:02}.tif"] = encoded(first, "TIFF", save_all=True, append_images=rest)
    data = load(DataConfig(source=str(put(tmp_path, contents)), frames="all"))
    where = {frame.tobytes(): name for name in NAMES for frame in data.split(name).all()[0]}
    assert sum(data.counts().values()) == sum(1 + i % 4 for i in range(30))
    assert min(data.counts().values()) >= 1
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            parts = set()
            for k in range(image.n_frames):
                image.seek(k)
                parts.add(where[np.asarray(image).tobytes()])
        assert len(parts) == 1, path


def test_a_frame_in_two_files_is_in_one_split() -> None:
    store = images(40)
    store[::2] = store[0]  # every file begins with the same frame
    data = made(store, [0] * 40, "a", np.arange(40) // 2)
    seen = [set(content_hashes(data.split(name).all()[0]).tolist()) for name in NAMES]
    assert all(not a & b for a, b in combinations(seen, 2))
    assert "images removed because a later split contains the same" in data.note
    with pytest.raises(DataError, match="mine: 2 distinct images cannot fill 3 splits"):
        made(images(4), [0] * 4, "a", np.arange(4) // 2)


def test_the_line_that_training_logs(tmp_path: Path) -> None:
    data = made(images(30), [0, 1, 2] * 10, "abc")
    counts = data.counts()
    line = f"{counts['train']} train, {counts['val']} val, {counts['test']} test images of 1x4x4 with 256 levels"
    assert data.summary == f"{line}; 3 classes: a, b, c"
    many = made(images(66), list(range(22)) * 3, "abcdefghijklmnopqrstuv")
    assert many.summary.endswith("; 22 classes: a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t and 2 more")
    whole = load(DataConfig(source="digits", levels=4))
    assert whole.summary == (
        "1,377 train, 151 val, 269 test images of 1x8x8 with 4 levels; 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    )
    np.save(tmp_path / "a.npy", images(9))
    assert "classes" not in load(DataConfig(source=str(tmp_path / "a.npy"))).summary
