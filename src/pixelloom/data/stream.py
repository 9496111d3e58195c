"""Training batches as a pure function of (seed, step, rank), and the ordered pass for evaluation.

Training reads an endless sequence of positions: for each epoch one permutation of the split, a function of
(seed, epoch). Step s takes positions [s B, (s + 1) B). Batches may span two epochs, no image is dropped, and the step
is the only state of a resumed run. Each rank takes a contiguous share of the global batch. All random numbers are drawn
per image, so the images do not depend on the number of ranks.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import data as torch_data

from pixelloom.core import rng
from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import Batch, ImageSpec, Levels
from pixelloom.data.pixels import draw_bits_each
from pixelloom.data.splits import Rows, Split


@dataclass(frozen=True, eq=False)
class Stream:
    """The endless shuffled sequence of a split, in global batches.

    Attributes:
        split: the training split.
        spec: expected shape of the images.
        batch: images of a step, over all ranks.
        seed: seed of the permutations and of dynamic binarization.
        rank: index of this process.
        world: number of processes.
        dynamic: binarize gray images at each visit, by bits that depend on (seed, position in the sequence).

    Raises:
        UsageError: if ``world`` does not divide ``batch``.
        DataError: if the split is empty or its images have another shape.
    """

    split: Split
    spec: ImageSpec
    batch: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    dynamic: bool = False

    def __post_init__(self) -> None:
        _check(self.split, self.spec, self.batch, self.rank, self.world)
        if self.batch % self.world:
            raise UsageError(f"batch: {self.batch} images cannot be divided evenly among {self.world} processes")
        if not len(self.split):
            raise DataError("the training split has no images")

    def batch_at(self, step: int) -> Batch:
        """The rank's share of step 0, 1, ...: images uint8 [batch / world, C, H, W], labels int64 [batch / world]."""
        share = self.batch // self.world
        first = step * self.batch + self.rank * share
        positions = np.arange(first, first + share)
        images, labels = self.split.take(self._shuffled(positions))
        if self.dynamic:
            images = draw_bits_each(images, self.split.levels, self.seed, rng.Stream.TRAIN_BITS, positions.tolist())
        return _batch(images, labels)

    def _shuffled(self, positions: Rows) -> Rows:
        """Indices in the split of positions in the sequence, int64 [n]."""
        n = len(self.split)
        epochs, offsets = np.divmod(positions, n)
        members = np.empty_like(positions)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            members[in_epoch] = _permutation(n, self.seed, int(epoch))[offsets[in_epoch]]
        return members


def batches(
    stream: Stream, start: int = 0, stop: int | None = None, workers: int = 0, context: str | None = None
) -> Iterator[Batch]:
    """Iterate over the batches of successive steps.

    The batches do not depend on ``workers``, and torch's global random state is unchanged.

    Args:
        stream: the training sequence.
        start: first step.
        stop: step after the last one; None for no end.
        workers: processes that load batches ahead; closing the generator ends them.
        context: start method of the processes (fork, spawn, ...).
    """
    steps = range(start, stop) if stop is not None else itertools.count(start)
    if workers == 0:
        yield from map(stream.batch_at, steps)
        return
    loader = torch_data.DataLoader(
        _StepDataset(stream),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_identity,
        multiprocessing_context=context,
        generator=torch.Generator(),  # otherwise the loader draws from the global random state
    )
    ahead = iter(loader)
    try:
        yield from ahead
    finally:
        del ahead  # deleting the last reference stops the workers


def ordered(
    split: Split,
    spec: ImageSpec,
    batch: int,
    rank: int = 0,
    world: int = 1,
    dynamic: bool = False,
    seed: int = 0,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Iterate over each image of a split once, in order, including a smaller last batch.

    Args:
        split: the images.
        spec: expected shape of the images.
        batch: images of a batch.
        rank: index of this process, which takes a contiguous part of the split.
        world: number of processes.
        dynamic: binarize gray images, by bits that depend on (seed, position in the split).
        seed: seed of the bits.
        limit: number of images, evenly spaced because a split may be sorted by class; None for all.
    """
    _check(split, spec, batch, rank, world)
    n = len(split) if limit is None else min(limit, len(split))
    chosen = np.arange(n) * len(split) // max(n, 1)
    first, end = n * rank // world, n * (rank + 1) // world
    for start in range(first, end, batch):
        yield take_batch(split, chosen[start : min(start + batch, end)], dynamic, seed)


def take_batch(split: Split, positions: Rows, dynamic: bool = False, seed: int = 0) -> Batch:
    """The images at some positions of a split, as in ``ordered``."""
    images, labels = split.take(positions)
    if dynamic:
        images = draw_bits_each(images, split.levels, seed, rng.Stream.EVAL_BITS, positions.tolist())
    return _batch(images, labels)


class _StepDataset(torch_data.Dataset[Batch]):
    """Adapter to torch's DataLoader: item s is the batch of step s."""

    def __init__(self, stream: Stream):
        self.stream = stream

    def __getitem__(self, step: int) -> Batch:
        return self.stream.batch_at(step)


def _identity(item: Any) -> Any:
    return item


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> Rows:
    order = rng.permutation(n, seed, rng.Stream.SHUFFLE, epoch)
    order.setflags(write=False)
    return order


def _check(split: Split, spec: ImageSpec, batch: int, rank: int, world: int) -> None:
    if batch < 1:
        raise UsageError(f"batch: must be at least 1, not {batch}")
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank} is not in 0..{world - 1}")
    if split.store.shape[1:] != spec.shape:
        raise DataError(f"the images are {split.store.shape[1:]} (channels, height, width), not {spec.shape}")


def _batch(images: Levels, labels: Iterable[int] | None) -> Batch:
    target = None if labels is None else torch.from_numpy(np.asarray(labels, dtype=np.int64))
    return Batch(torch.from_numpy(np.ascontiguousarray(images)), target)
