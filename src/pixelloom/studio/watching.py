"""A computation that calls back at each step, as an iterator of its steps. Closing the iterator cancels it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pixelloom.core.types import Levels

BETWEEN = 0.15
"""Seconds between frames that are shown, at least."""
_IDLE = 0.5  # seconds without a step after which the last frame is repeated, which notices a closed page


@dataclass(frozen=True)
class Frame:
    """Images so far, levels uint8 [n, C, H, W], after ``step`` of ``steps``; ``done`` for the result."""

    images: Levels
    step: int
    steps: int
    done: bool = False


class CancelledError(Exception):
    """The iterator was closed."""


def frames(run: Callable[[Callable[[int, int, Tensor], None]], Tensor], between: float = BETWEEN) -> Iterator[Frame]:
    """Run a sampler in a thread; yield some of its steps, and last the result.

    Args:
        run: takes a callback ``on_step`` (:data:`pixelloom.sampling.ancestral.OnStep`), and returns the images.
        between: seconds between frames, at least.

    Raises:
        Exception: that of ``run``.
    """
    changed, cancel = threading.Condition(), threading.Event()
    finished: list[Levels] = []  # whole batches
    latest: list[Frame] = []
    outcome: list[Tensor | BaseException] = []
    taken = [0.0]  # when the last frame was copied

    def on_step(step: int, steps: int, images: Tensor) -> None:
        if cancel.is_set():
            raise CancelledError
        now = time.monotonic()
        if step < steps and now - taken[0] < between:
            return
        taken[0] = now
        part = np.array(images.cpu().numpy(), copy=True)  # later steps change the buffer
        frame = Frame(np.concatenate([*finished, part]), step, steps)
        if step == steps:
            finished.append(part)
        with changed:
            latest[:] = [frame]
            changed.notify()

    def work() -> None:
        try:
            found: Tensor | BaseException = run(on_step)
        except BaseException as error:  # it belongs to the thread that iterates
            found = error
        with changed:
            outcome.append(found)
            changed.notify()

    thread = threading.Thread(target=work, daemon=True, name="pixelloom-studio")
    thread.start()
    last = None
    try:
        while True:
            with changed:
                changed.wait_for(lambda: bool(latest or outcome), _IDLE)
                frame, ended = (latest.pop() if latest else None), bool(outcome)
            if ended:
                break
            last = frame or last
            if last is not None:
                yield last
    finally:
        cancel.set()
    thread.join()
    result = outcome[0]
    if isinstance(result, BaseException):
        raise result
    yield Frame(result.cpu().numpy(), 1, 1, done=True)
