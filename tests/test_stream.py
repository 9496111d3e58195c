"""Batches are a function of (seed, step, rank); each epoch has each image once."""

from __future__ import annotations

import itertools
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import Batch, ImageSpec
from pixelloom.data.splits import Split
from pixelloom.data.stream import Stream, batches, ordered

SPEC = ImageSpec(1, 2, 2, 256)


def numbered(n: int, levels: int = 256) -> Split:
    """Image i and its label have the value i."""
    store = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)
    return Split(store, np.arange(n), levels)


def ids(batch: Batch) -> list[int]:
    assert batch.labels is not None
    assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.labels)
    return batch.labels.tolist()


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(torch.as_tensor(a.labels), torch.as_tensor(b.labels))


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (10, 10), (7, 16), (5, 1), (3, 23)])
def test_each_epoch_sees_each_image_once_across_batch_borders(n: int, batch: int) -> None:
    stream = Stream(numbered(n), SPEC, batch, seed=1)
    steps = -(-6 * n // batch)
    seen = [i for s in range(steps) for i in ids(stream.batch_at(s))]
    epochs = [tuple(seen[e * n : (e + 1) * n]) for e in range(6)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len(set(epochs)) > 1


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    stream = Stream(numbered(50), SPEC, 8, seed=3)
    late = stream.batch_at(31)
    for s in (0, 5, 32):
        stream.batch_at(s)
    assert same(late, stream.batch_at(31))
    assert same(late, Stream(numbered(50), SPEC, 8, seed=3).batch_at(31))
    assert not same(late, Stream(numbered(50), SPEC, 8, seed=4).batch_at(31))
    assert late.images.dtype == torch.uint8
    assert late.images.is_contiguous()


def test_the_order_is_a_fixed_one() -> None:
    """The order must not depend on the version of NumPy."""
    assert ids(Stream(numbered(10), SPEC, 12, seed=0).batch_at(0)) == [1, 8, 5, 0, 9, 4, 7, 2, 3, 6, 0, 1]


@pytest.mark.parametrize("world", [1, 2, 3, 6])
@pytest.mark.parametrize("dynamic", [False, True])
def test_ranks_together_are_one_process(world: int, dynamic: bool) -> None:
    spec = ImageSpec(1, 2, 2, 2) if dynamic else SPEC
    whole = Stream(numbered(20), spec, 6, seed=2, dynamic=dynamic)
    ranks = [Stream(numbered(20), spec, 6, 2, r, world, dynamic) for r in range(world)]
    for s in range(9):
        shares = [r.batch_at(s) for r in ranks]
        assert torch.equal(torch.cat([b.images for b in shares]), whole.batch_at(s).images)
        labels = torch.cat([torch.as_tensor(b.labels) for b in shares])
        assert torch.equal(labels, torch.as_tensor(whole.batch_at(s).labels))


def test_dynamic_bits_are_new_at_each_visit_and_right_on_average() -> None:
    store = np.zeros((2, 1, 20, 20), np.uint8)
    store[1] = 51  # one fifth of 255
    stream = Stream(Split(store, np.arange(2)), ImageSpec(1, 20, 20, 2), 2, dynamic=True)
    drawn = [stream.batch_at(s) for s in range(200)]
    images = torch.cat([b.images[b.labels == 1] for b in drawn])
    assert all(not b.images[b.labels == 0].any() for b in drawn)
    assert len({i.numpy().tobytes() for i in images}) == 200
    assert images.max() == 1
    assert float(images.float().mean()) == pytest.approx(0.2, abs=4.5 * (0.16 / 80_000) ** 0.5)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_batches_in_order(workers: int) -> None:
    stream = Stream(numbered(20), ImageSpec(1, 2, 2, 2), 6, seed=5, dynamic=True)
    before = torch.get_rng_state()
    got = list(batches(stream, 3, 12, workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(got) == 9
    assert all(same(b, stream.batch_at(3 + i)) for i, b in enumerate(got))


def test_closing_the_generator_ends_its_workers() -> None:
    stream = Stream(numbered(20), SPEC, 4)
    endless = batches(stream, 7, None, workers=2)
    assert same(next(endless), stream.batch_at(7))
    assert len(multiprocessing.active_children()) == 2
    endless.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_without_workers_it_is_lazy_and_endless() -> None:
    stream = Stream(numbered(5), SPEC, 2)
    read = list(itertools.islice(batches(stream, 100), 4))
    assert [ids(b) for b in read] == [ids(stream.batch_at(100 + i)) for i in range(4)]


def test_spawned_workers_map_the_same_file(tmp_path: Path) -> None:
    np.save(tmp_path / "store.npy", numbered(9).store)
    split = Split(np.load(tmp_path / "store.npy", mmap_mode="r"), np.arange(9))
    stream = Stream(split, SPEC, 4)
    assert all(same(b, stream.batch_at(i)) for i, b in enumerate(batches(stream, 0, 3, 1, context="spawn")))


@pytest.mark.parametrize("world", [1, 2, 3, 12])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_evaluation_sees_every_image_once_and_in_order(world: int, batch: int) -> None:
    split = numbered(11)
    got = [ids(b) for r in range(world) for b in ordered(split, SPEC, batch, r, world)]
    assert [i for b in got for i in b] == list(range(11))
    assert max(map(len, got)) <= batch


def test_evaluation_bits_do_not_depend_on_batch_or_rank() -> None:
    split = Split(np.full((11, 1, 8, 8), 128, np.uint8))
    spec = ImageSpec(1, 8, 8, 2)

    def bits(batch: int, world: int = 1, seed: int = 0) -> torch.Tensor:
        parts = [b.images for r in range(world) for b in ordered(split, spec, batch, r, world, True, seed)]
        return torch.cat(parts)

    assert torch.equal(bits(4), bits(11))
    assert torch.equal(bits(4), bits(3, world=3))
    assert not torch.equal(bits(4), bits(4, seed=1))
    assert set(bits(4).flatten().tolist()) == {0, 1}
    train = Stream(split, spec, 11, seed=0, dynamic=True).batch_at(0)
    assert not torch.equal(train.images, bits(11))


def test_images_without_classes_have_no_labels() -> None:
    split = Split(numbered(4).store)
    assert Stream(split, SPEC, 2).batch_at(0).labels is None
    assert next(ordered(split, SPEC, 2)).labels is None
    assert all(b.labels is None for b in batches(Stream(split, SPEC, 2), 0, 2, workers=1))


def test_what_cannot_be_streamed_says_why() -> None:
    split = numbered(4)
    with pytest.raises(UsageError, match="6 images cannot be divided evenly among 4"):
        Stream(split, SPEC, 6, world=4)
    with pytest.raises(UsageError, match="must be at least 1, not 0"):
        Stream(split, SPEC, 0)
    with pytest.raises(UsageError, match=r"rank 2 is not in 0\.\.1"):
        Stream(split, SPEC, 4, rank=2, world=2)
    with pytest.raises(DataError, match="has no images"):
        Stream(split.first(0), SPEC, 4)
    with pytest.raises(DataError, match=r"not \(3, 2, 2\)"):
        Stream(split, ImageSpec(3, 2, 2, 256), 4)
