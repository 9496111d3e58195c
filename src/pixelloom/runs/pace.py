"""What a run costs, measured before its first step: how often it validates, and an estimate of what it reaches.

Decisions and texts are functions of numbers, :func:`pixelloom.engine.validation_plan.validation_plan` and
:func:`estimate`; the measurement is bounded by a few seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pixelloom.core.types import Batch
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.threads import passes, some_rows
from pixelloom.engine.validation_plan import Costs, budget_images, validation_plan
from pixelloom.objectives.base import Objective
from pixelloom.runs.config import RunConfig
from pixelloom.runs.drawing import PROBE, Clock, EnoughError, Limit
from pixelloom.runs.family import Setup

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_log = logging.getLogger("pixelloom")

_LONG = 120.0
"""Seconds of a run from which on the estimate is logged, and sampling is timed."""
_MANY = 24 * 3600.0  # seconds of training: too long
_SLOW_SAMPLE = 60.0  # seconds of one sample: too long
_HELD = 8  # images of a timed validation
_TENTH = 0.1  # of a budget in minutes, at most, for what follows the last step


@dataclass(frozen=True)
class Pace:
    """Measured costs of a run, and the seconds of one sample; None if it was not timed."""

    costs: Costs
    sample: float | None = None


def adapt(
    setup: Setup[Any, Any], objective: Objective, batch: Batch, fabric: Fabric, *, resume: bool
) -> tuple[RunConfig, float]:
    """Measure a run; returns its configuration with the validations that it affords, and the reserve of its budget.

    The reserve is the time of the last validation and the final samples, and of this measurement.

    Validations are chosen unless ``validation_images`` or ``train.validate_every`` is set; the choice is part of the
    configuration, so a run that is resumed or repeated from its ``config.yaml`` does the same. The first process
    decides for all.
    """
    config, epoch, begun = setup.config, len(setup.data.train), time.monotonic()
    held = len(setup.data.val) or epoch
    pace = fabric.broadcast(_measured(setup, objective, batch, config.train, fabric))
    if config.validation_images is None:
        every, n = None, config.validated
        if config.train.validate_every is None and not resume:
            every, n = validation_plan(pace.costs, config.train, epoch, held)
        if (every, n) != (None, config.validated) and fabric.is_global_zero:
            often = "" if every is None else f", every {every:,} training images"
            _log.info("validation: on %d images%s, so that it takes about 5 %% of the time at most", n, often)
        timing = config.train if every is None else config.train.model_copy(update={"validate_every": every})
        config = config.model_copy(update={"validation_images": n, "train": timing})
    if fabric.is_global_zero:
        for level, line in estimate(pace, config.train, epoch, _helps(setup)):
            _log.log(level, "%s", line)
    last = pace.costs.validation(min(config.validated, held))
    final = 0.0 if pace.sample is None or not config.samples else pace.sample
    minutes = config.train.minutes
    return config, min(last + final, _TENTH * 60 * minutes) + time.monotonic() - begun if minutes else 0.0


def _helps(setup: Setup[Any, Any]) -> list[str]:
    """What makes a run faster, and is not yet done."""
    spec, pixelwise = setup.data.spec, "likelihood" in setup.model.can
    return [
        *(["smaller images (--size 32)"] if max(spec.height, spec.width) > 32 else []),
        *(["fewer levels (--levels 8)"] if pixelwise and spec.levels > 16 else []),
        *(["another recipe (dcgan)"] if setup.config.network != "dcgan" else []),
        *([] if setup.config.train.device == "cuda" or torch.cuda.is_available() else ["a GPU (--device cuda)"]),
        "a larger budget",
    ]


def estimate(pace: Pace, config: TrainConfig, epoch: int, helps: Sequence[str]) -> list[tuple[int, str]]:
    """Lines of the log, with their levels, about what a long run reaches; none for a short run that is not hopeless.

    Args:
        pace: measured costs.
        config: the budget.
        epoch: number of images in an epoch.
        helps: what to do about a hopeless run.
    """
    images = budget_images(config, epoch, pace.costs.step)
    seconds = images * pace.costs.step
    epochs = images / epoch
    little = bool(config.minutes) and epochs < 1
    slow = pace.sample is not None and pace.sample > _SLOW_SAMPLE
    if not (little or slow or seconds >= _LONG):
        return []
    speed = 1 / pace.costs.step
    reached = f"{_number(speed)} images/s, so {_length(seconds)} {'is' if config.minutes else 'are needed for'} about"
    lines = [f"estimate: {reached} {_number(images)} images, {_number(epochs)} epochs"]
    if pace.sample is not None and pace.sample >= 1:
        lines[0] += f"; one sample takes about {_length(pace.sample)}"
    found = [(logging.INFO, lines[0])]
    problems = [
        *(["less than one epoch is little to learn from"] if little else []),
        *([f"training takes {_length(seconds)}"] if seconds > _MANY else []),
        *([f"a sample takes {_length(pace.sample)}"] if slow and pace.sample is not None else []),
    ]
    if problems:
        found.append((logging.WARNING, f"{' and '.join(problems)}; what helps: {', '.join(helps)}"))
    return found


def _measured(setup: Setup[Any, Any], objective: Objective, batch: Batch, config: TrainConfig, fabric: Fabric) -> Pace:
    """Time passes of training, and, where the run is long enough for them to matter, a validation and a sample."""
    part = some_rows(objective, batch, config, fabric, 0.3)
    step = _seconds(lambda: passes(objective, part, fabric)) / len(part.images) / fabric.world_size
    costs = Costs(step)
    total = budget_images(config, len(setup.data.train), step) * step
    if not fabric.is_global_zero or total < _LONG / 4:  # then all of it is short
        return Pace(costs)
    fixed = _seconds(lambda: setup.measure_some(0))
    one = _seconds(lambda: setup.measure_some(1))
    held = one if one > 1 else min(one, _seconds(lambda: setup.measure_some(_HELD)) / _HELD)
    return Pace(Costs(step, fixed, held), sample_seconds(setup))


def _seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return max(time.monotonic() - begun, 1e-9)


def sample_seconds(setup: Setup[Any, Any], clock: Clock = time.monotonic) -> float:
    """Seconds of one sample of the untrained model; of a slow one, extrapolated from the first steps."""
    begun = clock()
    try:
        setup.sample_grid(setup.model_of(setup.model.network), 1, Limit(PROBE, 0.0, clock))
    except EnoughError as error:
        return error.seconds
    return clock() - begun


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _length(seconds: float) -> str:
    """A length of time in words, such as ``"3 minutes"``."""
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 0.95 * size:
            text = _number(seconds / size)
            return f"{text} {unit}{'s' * (text != '1')}"
    text = _number(seconds)
    return f"{text} second{'s' * (text != '1')}"
