"""How often a run validates, and on how many images: a rule of numbers, applied once before the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pixelloom.engine.config import TrainConfig

SHARE = 0.05
"""Fraction of a run's time that its validations may take by default; samples during training may take as much."""
UNNOTICED = 10.0
"""Seconds that all validations may take in any case, with a budget of images or epochs."""
PLANS = (
    *((20, 1000), (20, 500), (10, 500), (10, 200), (5, 200)),
    *((5, 100), (2, 100), (2, 50), (1, 50), (1, 20)),
)
"""(validations per run, images), in order of preference; few steps, so that repeated measurements agree."""


@dataclass(frozen=True)
class Costs:
    """Seconds, as measured before the first step.

    Attributes:
        step: training, per image.
        fixed: validation, whatever the number of images.
        image: validation, per image.
    """

    step: float
    fixed: float = 0.0
    image: float = 0.0

    def validation(self, n: int) -> float:
        """Seconds of a validation on n images."""
        return self.fixed + n * self.image


def budget_images(config: TrainConfig, epoch: int, step: float) -> float:
    """Number of images of the whole run, at ``step`` seconds per image."""
    epochs = 1.0 if config.epochs is config.images is config.minutes is None else config.epochs
    return min(
        epochs * epoch if epochs else math.inf,
        config.images or math.inf,
        60 * config.minutes / step if config.minutes else math.inf,
    )


def validation_plan(costs: Costs, config: TrainConfig, epoch: int, held_out: int) -> tuple[int | None, int]:
    """Choose (images between validations, images per validation), the first of PLANS within SHARE of the run's time.

    Args:
        costs: measured seconds.
        config: budget and batch size.
        epoch: number of images in an epoch.
        held_out: number of images to measure on.

    Returns:
        The interval is None for 20 validations per run. The last of PLANS is used if none is cheap enough.
    """
    images = budget_images(config, epoch, costs.step)
    allowed = max(SHARE * images * costs.step, 0.0 if config.minutes else UNNOTICED)
    times, n = next(
        (plan for plan in PLANS if plan[0] * costs.validation(min(plan[1], held_out)) <= allowed), PLANS[-1]
    )
    interval = None if times == PLANS[0][0] else max(config.batch, math.ceil(images / times))
    return interval, n
