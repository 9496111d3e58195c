"""A batch shared among threads of Python, each drawing some of its images with one thread of torch.

torch lets go of the interpreter while it computes, so threads run side by side where operations are large; and unlike
the threads within an operation, these wait for each other once a batch and not once an operation.
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

_ENOUGH = 4e6  # multiply-adds of an operation, see workers()

Draw = Callable[[slice, OnStep], Tensor]
"""Draws some images of the batch, uint8 [n, C, H, W], and calls back after each step."""


class _Stopped(Exception):  # noqa: N818  # no error: another thread has ended, and this one is to end too
    """Ends the drawing of a share."""


def workers(images: int, grain: float, most: int) -> int:
    """How many threads to share a batch among; 1 where that does not pay.

    Between operations all w threads take turns at the interpreter, and an operation is shorter the more they are. So
    the share of the time in which one waits for its turn grows with w^2, and images * grain / w^2 has to be large.
    Measured on two cores with w = 2: with 16 million (256 images of mnist-gray) drawing takes 0.53 of the time of one
    thread, with 3 million (256 of mnist-binary) 0.55, with 1.6 million (25 of mnist-gray) 0.78, with 0.06 million (64
    of gated-pixelcnn) 1.5.

    Args:
        images: in the batch.
        grain: multiply-adds of an operation for one image.
        most: threads that may be used.
    """
    return max(1, min(most, images, math.isqrt(int(images * grain / _ENOUGH))))


def shared(draw: Draw, images: int, number: int, on_step: OnStep | None) -> Tensor:
    """Draw a batch in ``number`` shares of neighbouring images.

    The first share is drawn, and ``on_step`` called, by the thread that calls: after each step of the first share with
    all images as far as they are, and after the last step once all shares are done.
    """
    edges = [images * i // number for i in range(number + 1)]
    slices = [slice(a, b) for a, b in itertools.pairwise(edges)]
    stop, seen, steps_of_a_batch = Event(), [torch.empty(0)] * number, [1]

    def share(index: int, report: OnStep | None) -> Tensor:
        torch.set_num_threads(1)

        def step_done(step: int, steps: int, found: Tensor) -> None:
            if stop.is_set():
                raise _Stopped
            seen[index] = found
            if report is not None:
                report(step, steps, found)

        return draw(slices[index], step_done)

    def report(step: int, steps: int, found: Tensor) -> None:
        steps_of_a_batch[0] = steps
        if on_step is not None and step < steps:
            blank = [torch.zeros_like(found[:1]).expand(part.stop - part.start, -1, -1, -1) for part in slices]
            parts = [part if len(part) else none for part, none in zip(seen, blank, strict=True)]
            on_step(step, steps, torch.cat(parts))

    with ThreadPoolExecutor(number - 1, thread_name_prefix="pixelloom-share") as pool:
        others = [pool.submit(share, index, None) for index in range(1, number)]
        try:
            parts = [share(0, report), *(other.result() for other in others)]
        except BaseException:
            stop.set()  # leaving the block waits for the others
            raise
    drawn = torch.cat(parts)
    if on_step is not None:
        on_step(steps_of_a_batch[0], steps_of_a_batch[0], drawn)
    return drawn
