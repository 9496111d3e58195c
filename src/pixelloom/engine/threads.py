"""Choice of the number of CPU threads by a measurement on the first batch, before the first step.

The number is constant during a run and recorded in ``config.yaml``: it determines the order of summation, so a resumed
or repeated run needs the same number to end with the same bits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import torch

from pixelloom.core.threads import usable
from pixelloom.core.types import Batch
from pixelloom.engine.config import TrainConfig
from pixelloom.objectives.base import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_log = logging.getLogger("pixelloom")

_SECONDS = 2.0  # time limit of the measurement
_PASS = 1.0  # seconds of one pass, at most
_PAIRS = 5
_FEW = 2  # images of a first pass, which bounds the size of the next; batch statistics need two
_GAIN = 0.92  # several threads are used if they need less than this share of the time of one thread


def choose_threads(objective: Objective, batch: Batch, config: TrainConfig, fabric: Fabric) -> tuple[int, str]:
    """Return the number of threads of a run, the same in all processes, and the reason as text.

    Args:
        objective: the objective of the run; it is not changed.
        batch: this process's share of a batch.
        config: if ``threads`` is set it is returned, with a warning if there are fewer cores.
        fabric: that of the run.
    """
    if config.threads:
        if fabric.device.type == "cpu" and config.threads > usable(_neighbors(fabric)):
            _log.warning(
                "train.threads: the run uses %d threads, and this process may use %d cores; --threads changes it, "
                "and the last bits of the result with it",
                *(config.threads, usable(_neighbors(fabric))),
            )
        return config.threads, "as set"
    mine = min(usable(_neighbors(fabric)), torch.get_num_threads())
    least = cast(torch.Tensor, fabric.all_reduce(torch.tensor(-float(mine), device=fabric.device), reduce_op="max"))
    most = -int(least)
    if fabric.device.type != "cpu" or most == 1:
        return most, "all that may be used"
    part = some_rows(objective, batch, config, fabric, _PASS)
    several, one = timed(lambda: passes(objective, part, fabric), (most, 1))
    chosen = int(fabric.broadcast(most if several < _GAIN * one else 1))
    return chosen, f"{several:.3g} s a step with {most}, {one:.3g} s with 1"


def some_rows(objective: Objective, batch: Batch, config: TrainConfig, fabric: Fabric, seconds: float) -> Batch:
    """As many images of a micro-batch as fit into a pass of some seconds, at least two."""
    rows = max(1, len(batch.images) // config.accumulate)
    if rows <= _FEW:
        return first_rows(batch, rows)
    begun = time.perf_counter()
    passes(objective, first_rows(batch, _FEW), fabric)
    each = (time.perf_counter() - begun) / _FEW
    return first_rows(batch, max(_FEW, min(rows, int(seconds / each))))


def first_rows(batch: Batch, rows: int) -> Batch:
    """The first images of a batch."""
    return Batch(batch.images[:rows], None if batch.labels is None else batch.labels[:rows])


def timed(step: Callable[[], None], numbers: tuple[int, int]) -> tuple[float, float]:
    """Return mean seconds of a step for both numbers of threads, measured alternately after a warm-up step."""
    before, totals, pairs = torch.get_num_threads(), [0.0, 0.0], 0
    try:
        torch.set_num_threads(numbers[0])
        step()
        while pairs < _PAIRS and sum(totals) < _SECONDS:
            for place, threads in enumerate(numbers):
                torch.set_num_threads(threads)
                begun = time.perf_counter()
                step()
                totals[place] += time.perf_counter() - begun
            pairs += 1
    finally:
        torch.set_num_threads(before)
    return totals[0] / pairs, totals[1] / pairs


def _neighbors(fabric: Fabric) -> int:
    """Return the number of processes on this machine, which share its cores."""
    return max(1, fabric.world_size // max(1, getattr(fabric.strategy, "num_nodes", 1)))


def passes(
    objective: Objective,
    batch: Batch,
    fabric: Fabric,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Run forward and backward of each phase, then restore buffers, gradients and random generators.

    The forward pass of each phase is within the context ``around()``.
    """
    parts = tuple(objective.parts.values())
    buffers = [(buffer, buffer.clone()) for part in parts for buffer in part.buffers()]
    modes = [(module, module.training) for part in parts for module in part.modules()]
    with torch.random.fork_rng(devices=[]):
        for part in parts:
            part.train()
        for phase in objective.phases:
            with fabric.autocast(), around():
                loss, _ = phase.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
    for part in parts:
        part.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
    for module, training in modes:
        module.training = training
