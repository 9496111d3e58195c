"""Grids of samples within a time: during training a share of it, at its end what the budget leaves."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pixelloom.engine.signals import Interrupted, Signals, Stopped
from pixelloom.engine.state import State
from pixelloom.models.family import GenerativeModel
from pixelloom.runs.family import Setup
from pixelloom.viz.grid import save_png

PROBE = 2.0
"""Seconds of drawing after which its length is extrapolated."""
_SHARE = 0.05  # of a run's time, at most, for samples during training
_FINAL_SHARE = 0.1  # of a budget in minutes, at most, for the final samples
_LEAST = 1.0  # seconds that either may take in any case
_log = logging.getLogger("pixelloom")

Clock = Callable[[], float]


class EnoughError(Exception):
    """Drawing was given up: it would take ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Limit:
    """A callback of sampling that gives up a batch after ``wait`` seconds if it would take more than ``allowed``."""

    def __init__(self, wait: float, allowed: float, clock: Clock = time.monotonic) -> None:
        self.wait, self.allowed, self.clock = wait, allowed, clock
        self.begun = clock()
        self._first: tuple[int, float] | None = None  # number and end of the first step, which follows the planning

    def __call__(self, step: int, steps: int, images: Tensor) -> None:
        """Raise EnoughError with the extrapolated seconds."""
        now = self.clock()
        if self._first is None or step <= self._first[0]:  # the next batch
            self._first = step, now
            return
        since = self._first[1]
        needed = since - self.begun + (now - since) / (step - self._first[0]) * (steps - self._first[0])
        if step < steps and now - self.begun > self.wait and needed > self.allowed:
            raise EnoughError(needed)


def drawn_within(
    draw: Callable[[int, Limit], Any], n: int, seconds: float, clock: Clock = time.monotonic
) -> tuple[Any, int, float]:
    """Draw n images, or as many as fit into ``seconds``.

    Args:
        draw: draws a number of images, and calls the Limit after each step.
        n: number of images.
        seconds: allowed time, math.inf for no limit.
        clock: returns seconds.

    Returns:
        What was drawn or None, the number of images or 0, and the seconds that it takes or would take.
    """
    begun, needed = clock(), 0.0
    while n:
        left = seconds - (clock() - begun)
        try:
            drawn = draw(n, Limit(min(PROBE, left / 4), left, clock))
        except EnoughError as error:
            needed = needed or error.seconds  # of all
            n = max(0, min(n // 2, int(n * (seconds - (clock() - begun)) / error.seconds)))
            continue
        return drawn, n, clock() - begun
    return None, 0, needed


class TrainingSamples:
    """Saves samples during training, within a twentieth of the time; of a slow model fewer, or none.

    Where ``train.sample_every`` is set, all are drawn.
    """

    def __init__(self, setup: Setup[Any, Any], folder: Path, n: int = 9, clock: Clock = time.monotonic) -> None:
        self.setup, self.folder, self.n, self.clock = setup, folder, n, clock
        self.spent, self.cost = 0.0, 0.0  # seconds: in total, and of the last samples

    def __call__(self, network: nn.Module, state: State) -> None:
        """Draw, if there is time."""
        asked = self.setup.config.train.sample_every is not None
        allowed = math.inf if asked else max(_SHARE * state.seconds, _LEAST) - self.spent
        if self.cost > allowed:
            return
        begun = self.clock()
        model = self.setup.model_of(network)
        drawn, n, self.cost = drawn_within(partial(self.setup.sample_grid, model), self.n, allowed, self.clock)
        self.spent += self.clock() - begun
        if n:
            save_png(drawn, self.folder / f"{state.images:09d}.png")


def draw_final(setup: Setup[Any, Any], model: GenerativeModel, out: Path, clock: Clock = time.monotonic) -> None:
    """Save the samples at the end of a run; with a budget in minutes, as many as fit into a tenth of it.

    Raises:
        Interrupted: after a signal.
    """
    asked, minutes = setup.config.samples, setup.config.train.minutes
    _log.info("sampling %d images", asked)
    allowed = max(_FINAL_SHARE * 60 * minutes, _LEAST) if minutes else math.inf
    with Signals() as signals:
        try:
            with signals.interruptible():
                images, n, needed = drawn_within(partial(setup.final_images, model), asked, allowed, clock)
        except Stopped:
            name = signal.Signals(signals.received).name
            code = 128 + signals.received
            raise Interrupted(f"stopped by {name} while sampling; the model is in {out}.", code) from None
    if n < asked:
        rest = f"{n} are drawn" if n else f"none is drawn: they take about {needed:,.0f} s"
        _log.warning("samples: %d do not fit into the budget, %s; `pixelloom sample %s` draws more", asked, rest, out)
    for name, drawn in (images or {}).items():
        save_png(drawn, out / "samples" / f"{name}.png")
