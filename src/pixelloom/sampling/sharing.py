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
_FEWEST = 16  # images of a share

Draw = Callable[[slice, OnStep], Tensor]
"""Draws some images of the batch, uint8 [n, C, H, W], and calls back after each step."""


class _Stopped(Exception):  # noqa: N818  # no error: another share has ended, and this one is to end too
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
    return max(1, min(most, images // _FEWEST, math.isqrt(int(images * grain / _ENOUGH))))


class _Shares:
    """A batch that is being drawn in shares: where each stands, and whether all are to stop."""

    def __init__(self, draw: Draw, begun: Tensor, number: int, on_step: OnStep | None) -> None:
        n = len(begun)
        edges = [n * i // number for i in range(number + 1)]
        self.draw, self.on_step = draw, on_step
        self.slices = [slice(a, b) for a, b in itertools.pairwise(edges)]
        self.seen = [begun[rows] for rows in self.slices]
        self.stop, self.errors, self.steps = Event(), list[BaseException](), 0
        self.inference = torch.is_inference_mode_enabled()  # which belongs to the thread that calls

    def run(self, index: int) -> Tensor:
        """One share, by a thread of its own."""
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


def shared(draw: Draw, begun: Tensor, number: int, on_step: OnStep | None) -> Tensor:
    """Draw a batch in ``number`` shares of neighboring images.

    The first share is drawn, and ``on_step`` called, by the thread that calls: after each step of the first share with
    all images as far as they are, and after the last step once all shares are done. Where one share fails, or the
    callback does, the others stop after their step.

    Args:
        draw: draws a share.
        begun: the images before the first step, uint8 [n, C, H, W].
        number: of shares.
        on_step: called after each step.
    """
    shares = _Shares(draw, begun, number, on_step)
    with ThreadPoolExecutor(number - 1, thread_name_prefix="pixelloom-share") as pool:
        try:
            others = [pool.submit(shares.run, index) for index in range(1, number)]
            drawn = torch.cat([shares.run(0), *(other.result() for other in others)])
        except BaseException as error:
            shares.stop.set()  # leaving the block waits for the others
            raise (shares.errors or [error])[0] from None
    if on_step is not None and shares.steps:
        on_step(shares.steps, shares.steps, drawn)
    return drawn
