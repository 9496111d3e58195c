"""What a model is fed: the batch of a step as a pure function of (seed, step, rank), and the ordered evaluation pass.

Training reads positions 0, 1, 2, ... of an endless sequence: a permutation of the split for epoch 0, another for
epoch 1, and so on, each a function of (seed, epoch). Step s takes positions [s B, (s + 1) B), so batches run across the
ends of epochs, nothing is dropped, and a run can be resumed anywhere with no state but the step. Ranks take contiguous
shares of the global batch; all randomness is drawn per image, so any number of ranks sees the same pictures.
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
    """The endless shuffled sequence of one split, in steps of ``batch`` images over all ranks together.

    ``dynamic`` binarizes the split's gray images anew at each visit; the bits depend on (seed, position in the
    sequence). Raises UsageError when ranks cannot share a batch evenly, DataError when the split is empty.
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
            raise UsageError(f"batch: {self.batch} images cannot be shared evenly by {self.world} processes")
        if not len(self.split):
            raise DataError("the training split holds no pictures")

    def batch_at(self, step: int) -> Batch:
        """The rank's share of step ``step`` (0, 1, ...): images uint8 [batch / world, C, H, W], labels int64."""
        share = self.batch // self.world
        first = step * self.batch + self.rank * share
        positions = np.arange(first, first + share)
        images, labels = self.split.take(self._shuffled(positions))
        if self.dynamic:
            images = draw_bits_each(images, self.split.levels, self.seed, rng.Stream.TRAIN_BITS, positions.tolist())
        return _batch(images, labels)

    def _shuffled(self, positions: Rows) -> Rows:
        n = len(self.split)
        epochs, offsets = np.divmod(positions, n)
        members = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            members[here] = _permutation(n, self.seed, int(epoch))[offsets[here]]
        return members


def batches(
    stream: Stream, start: int = 0, stop: int | None = None, workers: int = 0, context: str | None = None
) -> Iterator[Batch]:
    """The stream's batches from step ``start`` up to ``stop`` (endless when None), in order.

    With ``workers`` > 0 as many processes read ahead; the batches are the same, and torch's random state in this
    process is left alone. Closing the generator ends the processes. ``context`` is how they start (fork, spawn, ...).
    """
    steps = range(start, stop) if stop is not None else itertools.count(start)
    if workers == 0:
        yield from map(stream.batch_at, steps)
        return
    loader = torch_data.DataLoader(
        _Steps(stream),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_as_is,
        multiprocessing_context=context,
        generator=torch.Generator(),  # or the loader draws from the global random state, and training changes
    )
    ahead = iter(loader)
    try:
        yield from ahead
    finally:
        del ahead  # the last reference: this is what stops the workers


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
    """Every image of a split exactly once, in order, the short last batch included; each rank has a contiguous part.

    With ``limit`` only so many images, evenly spaced over the split, whose order may be by class. ``dynamic`` binarizes
    gray images by bits that depend on (seed, position in the split) alone.
    """
    _check(split, spec, batch, rank, world)
    n = len(split) if limit is None else min(limit, len(split))
    chosen = np.arange(n) * len(split) // max(n, 1)
    first, end = n * rank // world, n * (rank + 1) // world
    for start in range(first, end, batch):
        yield at(split, chosen[start : min(start + batch, end)], dynamic, seed)


def at(split: Split, positions: Rows, dynamic: bool = False, seed: int = 0) -> Batch:
    """Images at some positions of a split, as the ordered pass gives them."""
    images, labels = split.take(positions)
    if dynamic:
        images = draw_bits_each(images, split.levels, seed, rng.Stream.EVAL_BITS, positions.tolist())
    return _batch(images, labels)


class _Steps(torch_data.Dataset[Batch]):
    """A stream as torch's loader wants it: item s is the batch of step s."""

    def __init__(self, stream: Stream):
        self.stream = stream

    def __getitem__(self, step: int) -> Batch:
        return self.stream.batch_at(step)


def _as_is(item: Any) -> Any:
    return item


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> Rows:
    order = rng.permutation(n, seed, rng.Stream.SHUFFLE, epoch)
    order.setflags(write=False)
    return order


def _check(split: Split, spec: ImageSpec, batch: int, rank: int, world: int) -> None:
    if batch < 1:
        raise UsageError(f"batch: at least one image, not {batch}")
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank} is not among {world} processes")
    if split.store.shape[1:] != spec.shape:
        raise DataError(f"the pictures are {split.store.shape[1:]} (channels, height, width), not {spec.shape}")


def _batch(images: Levels, labels: Iterable[int] | None) -> Batch:
    target = None if labels is None else torch.from_numpy(np.asarray(labels, dtype=np.int64))
    return Batch(torch.from_numpy(np.ascontiguousarray(images)), target)
