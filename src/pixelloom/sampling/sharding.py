"""Data parallelism over threads: a batch is split into shards, each drawn by a Python thread with one torch thread.

torch releases the interpreter lock while an operation computes, so shards run in parallel where operations are large.
Threads within an operation synchronize at the end of each operation; shards synchronize once per batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import torch
from torch import Tensor

from pixelloom.sampling.ancestral import OnStep

_MIN_WORK = 4e6  # multiply-adds, see shard_count()
_MIN_IMAGES = 16  # per shard

Draw = Callable[[slice, OnStep], Tensor]
"""Draws a range of the batch, uint8 [n, C, H, W], and calls the callback after each step."""


class _Stopped(Exception):  # noqa: N818  # not an error: another shard has ended, and this one ends too
    """Ends a shard."""


def shard_count(images: int, grain: float, most: int) -> int:
    """The number w of shards for a batch; 1 where more would not be faster.

    Between operations the w threads wait for the interpreter lock, and each operation is w times shorter. So the
    fraction of the time that is spent waiting grows with w^2, and w is the largest number with

        images * grain / w^2 >= 4e6,    images / w >= 16,    w <= most

    Measured on two cores with w = 2, as a fraction of the time of one thread, with images * grain / w^2 in millions:
    16 (256 images of mnist-gray) 0.53, 3 (256 of mnist-binary) 0.55, 1.6 (25 of mnist-gray) 0.78, 0.06 (64 of
    gated-pixelcnn) 1.5.

    Args:
        images: in the batch.
        grain: mean multiply-adds of an operation per image.
        most: threads that may be used.
    """
    return max(1, min(most, images // _MIN_IMAGES, math.isqrt(int(images * grain / _MIN_WORK))))


class _Shards:
    """The state of a batch that is drawn in shards: the progress of each, and whether all shall stop."""

    def __init__(self, draw: Draw, begun: Tensor, number: int, on_step: OnStep | None) -> None:
        n = len(begun)
        edges = [n * i // number for i in range(number + 1)]
        self.draw, self.on_step = draw, on_step
        self.slices = [slice(a, b) for a, b in itertools.pairwise(edges)]
        self.seen = [begun[rows] for rows in self.slices]
        self.stop, self.errors, self.steps = Event(), list[BaseException](), 0
        self.inference = torch.is_inference_mode_enabled()  # local to the calling thread

    def run(self, index: int) -> Tensor:
        """Draw one shard in the current thread."""
        torch.set_num_threads(1)
        try:
            with torch.inference_mode(self.inference):
                return self.draw(self.slices[index], lambda *step: self._step(index, *step))
        except _Stopped:
            raise
        except BaseException as error:
            self.errors.append(error)
            self.stop.set()
            raise

    def _step(self, index: int, step: int, steps: int, found: Tensor) -> None:
        if self.stop.is_set():
            raise _Stopped
        self.seen[index], self.steps = found, steps
        if index == 0 and self.on_step is not None and step < steps:
            self.on_step(step, steps, torch.cat(self.seen))


def draw_sharded(draw: Draw, begun: Tensor, number: int, on_step: OnStep | None) -> Tensor:
    """Draw a batch in shards of consecutive images.

    The calling thread draws the first shard and calls ``on_step``: after each of its steps with the current state of
    all images, and after the last step once all shards are complete. If a shard or the callback raises, the others stop
    after their current step.

    Args:
        draw: draws a shard.
        begun: the images before the first step, uint8 [n, C, H, W].
        number: of shards.
        on_step: callback after each step.
    """
    shards = _Shards(draw, begun, number, on_step)
    with ThreadPoolExecutor(number - 1, thread_name_prefix="pixelloom-shard") as pool:
        try:
            others = [pool.submit(shards.run, index) for index in range(1, number)]
            drawn = torch.cat([shards.run(0), *(other.result() for other in others)])
        except BaseException as error:
            shards.stop.set()  # leaving the block waits for the others
            raise (shards.errors or [error])[0] from None
    if on_step is not None and shards.steps:
        on_step(shards.steps, shards.steps, drawn)
    return drawn
