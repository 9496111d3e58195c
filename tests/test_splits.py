"""Splits are views of one array; they are made by content, and equal images are in one split."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.splits import Dataset, Split, content_hashes, exclude, split_by_hash
from pixelloom.data.tables import quantize_table


def random_images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 3, 4)).astype(np.uint8)


def test_take_gives_the_named_rows_in_order() -> None:
    store, labels = random_images(10), np.arange(10) * 11
    split = Split(store, labels, rows=np.array([7, 2, 5]))
    images, taken = split.take([2, 0, 0])
    assert len(split) == 3
    assert np.array_equal(images, store[[5, 7, 7]])
    assert taken is not None
    assert taken.tolist() == [55, 77, 77]
    assert split.labels is not None
    assert split.labels.tolist() == [77, 22, 55]
    assert np.array_equal(split.all()[0], store[[7, 2, 5]])
    assert np.array_equal(split.first(2).all()[0], store[[7, 2]])
    assert np.array_equal(Split(store).first(2).all()[0], store[:2])
    assert Split(store).labels is None
    assert Split(store).all()[1] is None


def test_taken_images_are_the_callers_own() -> None:
    store = random_images(3)
    before = store.copy()
    Split(store).take([0, 1])[0][:] = 0
    assert np.array_equal(store, before)


def test_a_table_is_applied_on_the_way_out() -> None:
    store = random_images(5)
    images, _ = Split(store, table=quantize_table(256, 4)).take([1, 3])
    assert np.array_equal(images, store[[1, 3]] // 64)


def test_fixed_bits_depend_on_the_position_and_not_on_the_company() -> None:
    split = Split(np.full((6, 1, 4, 4), 128, np.uint8), rows=np.array([5, 3, 1]), bits=(0, 2))
    whole, _ = split.all()
    assert set(whole.reshape(-1).tolist()) == {0, 1}
    assert np.array_equal(split.take([2, 1])[0], whole[[2, 1]])
    assert np.array_equal(split.first(2).all()[0], whole[:2])
    assert len({image.tobytes() for image in whole}) == 3
    elsewhere = Split(split.store, rows=np.array([0, 2, 4]), bits=(0, 2))
    assert np.array_equal(elsewhere.all()[0], whole)
    with pytest.raises(ValueError, match="take the subset before binarization"):
        split.subset(np.array([1]))


@pytest.mark.parametrize("view", ["whole", "tail", "channels last", "every other"])
def test_a_memory_map_travels_by_name(tmp_path: Path, view: str) -> None:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (500, 8, 20, 30)).astype(np.uint8))
    mapped = np.load(path, mmap_mode="r")
    store = {
        "whole": mapped,
        "tail": mapped[100:],
        "channels last": mapped.transpose(0, 3, 1, 2),
        "every other": mapped[::2, :, ::3],
    }[view]
    split = Split(store, rows=np.array([199, 3]))
    sent = pickle.dumps(split)
    assert len(sent) < 2000
    there = pickle.loads(sent)
    assert np.array_equal(there.all()[0], store[[199, 3]])
    again = pickle.dumps(there)
    assert len(again) < 2000
    assert np.array_equal(pickle.loads(again).all()[0], store[[199, 3]])
    path.unlink()
    with pytest.raises(DataError, match=r"images\.npy: the images cannot be opened again"):
        pickle.loads(sent)


def test_an_array_in_memory_travels_by_value() -> None:
    store = random_images(9)
    assert np.array_equal(pickle.loads(pickle.dumps(Split(store[::-1]))).all()[0], store[::-1])


@pytest.mark.parametrize("shares", [(0.1,), (0.1, 0.1), (0.25, 0.5)])
def test_cut_keeps_the_shares_and_loses_nothing(shares: tuple[float, ...]) -> None:
    n = 4000
    parts = split_by_hash(content_hashes(random_images(n)), *shares)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    for part, share in zip(parts, (*shares, 1 - sum(shares)), strict=True):
        assert abs(len(part) - n * share) < 4.5 * np.sqrt(n * share * (1 - share))
        assert (np.diff(part) > 0).all()


def test_equal_images_stay_together() -> None:
    store = random_images(60)[np.random.default_rng(1).integers(0, 60, 600)]
    hashes = content_hashes(store)
    parts = [set(hashes[part].tolist()) for part in split_by_hash(hashes, 0.3, 0.3)]
    assert parts[0].isdisjoint(parts[1] | parts[2])
    assert parts[1].isdisjoint(parts[2])


def test_more_images_move_none_of_the_others() -> None:
    few = content_hashes(random_images(300))
    many = content_hashes(np.concatenate([random_images(300), random_images(900, seed=1)]))
    for before, after in zip(split_by_hash(few, 0.1, 0.1), split_by_hash(many, 0.1, 0.1), strict=True):
        assert np.array_equal(before, after[after < 300])


@pytest.mark.parametrize("n", range(3, 30))
def test_no_part_is_empty_however_few_the_images(n: int) -> None:
    for seed in range(20):
        parts = split_by_hash(content_hashes(random_images(n, seed)), 0.1, 0.1)
        assert all(len(part) for part in parts)
        assert sum(len(part) for part in parts) == n


def test_extreme_prints_are_cut_too() -> None:
    top = np.array([2**64 - 1, 2**64 - 2, 2**64 - 3], np.uint64)
    assert [part.tolist() for part in split_by_hash(top, 0.1, 0.1)] == [[2], [1], [0]]
    assert [part.tolist() for part in split_by_hash(np.array([0, 1, 2], np.uint64), 0.1, 0.1)] == [[0], [1], [2]]


def test_too_few_distinct_images() -> None:
    with pytest.raises(DataError, match="2 distinct images cannot fill 3 splits"):
        split_by_hash(content_hashes(random_images(2)[[0, 1, 0, 1, 1]]), 0.1, 0.1)


def test_prints_tell_content_and_seed() -> None:
    store = random_images(50)
    hashes = content_hashes(store)
    assert hashes.dtype == np.uint64
    assert len(np.unique(hashes)) == 50
    assert np.array_equal(hashes, content_hashes(store.copy()))
    assert not np.isin(hashes, content_hashes(store, seed=1)).any()
    changed = store.copy()
    changed[7, 0, 1, 2] ^= 1
    assert np.flatnonzero(hashes != content_hashes(changed)).tolist() == [7]


def test_without_drops_what_others_hold() -> None:
    hashes = np.array([1, 2, 3, 2, 4], np.uint64)
    rows = exclude(np.array([0, 1, 3, 4]), hashes, np.array([2], np.uint64), np.array([4, 9], np.uint64))
    assert rows.tolist() == [0]


def test_dataset_names_its_splits() -> None:
    store = random_images(6)
    data = Dataset("tiny", ImageSpec(1, 3, 4, 256), Split(store), Split(store[:2]), Split(store[:1]))
    assert data.counts() == {"train": 6, "val": 2, "test": 1}
    assert data.split("val") is data.val
    with pytest.raises(UsageError, match="Did you mean 'train'"):
        data.split("trian")


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        (lambda path: os.truncate(path, 200), True),
        (lambda path: path.open("ab").write(b"x"), True),
        (lambda path: os.utime(path, ns=(1, 1)), True),
        (lambda path: path.unlink(), False),
        (lambda path: (path.rename(f"{path}.old"), np.save(path, random_images(3))), False),
    ],
    ids=["cut", "longer", "touched", "deleted", "replaced"],
)
def test_a_mapped_file_that_changes_in_use_is_an_error_not_a_signal(tmp_path: Path, change: Any, changes: bool) -> None:
    path = tmp_path / "images.npy"
    np.save(path, random_images(2000))
    split = Split(np.load(path, mmap_mode="r"), rows=np.arange(1000, 2000))
    before = split.take([5])[0].copy()
    sent = pickle.loads(pickle.dumps(split))
    change(path)
    if not changes:
        assert np.array_equal(split.take([5])[0], before)
        return
    for one in (split, sent):
        with pytest.raises(DataError, match=r"changed while it is in use \(.* bytes, now .*\); restore it"):
            one.take([5])
