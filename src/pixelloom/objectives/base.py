"""An objective as data: the phases of a training step, their modules, losses and optimizers.

A phase owns the module that it updates, the module's optimizer, and a loss. A likelihood objective has one phase; an
adversarial one has two, D then G. The training loop runs phases and does not know the family: a new family needs a
function that returns an :class:`Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from pixelloom.core.types import Batch
from pixelloom.objectives.config import OptimConfig

Stats: TypeAlias = dict[str, Tensor]
"""Name -> detached scalar of one step, written to metrics.jsonl and shown as progress."""


@dataclass(frozen=True)
class Phase:
    """One optimizer step on one module.

    The loop seeds torch's generators from (seed, step, rank, phase, micro-batch) before it calls ``loss``, so a loss
    may draw noise, and a resumed run repeats it.

    Args:
        name: prefix of the statistics of this phase.
        module: its parameters are updated, all others are constant.
        optimizer: optimizer and schedule.
        loss: batch -> (scalar, a mean over the batch; statistics).
        interval: the phase runs in steps that are multiples of this.
    """

    name: str
    module: nn.Module
    optimizer: OptimConfig
    loss: Callable[[Batch], tuple[Tensor, Stats]]
    interval: int = 1


@dataclass(frozen=True)
class Monitor:
    """The validation metric that selects the best model; lower is better.

    ``measure`` takes the module with EMA weights, in eval mode, and returns metrics by name, ``name`` among them.
    Without ``selects`` the last model is kept, whatever its metric is; with an empty name nothing is measured.
    """

    name: str
    measure: Callable[[nn.Module], Mapping[str, float]]
    selects: bool = True


def identity(module: nn.Module) -> nn.Module:
    """Return the module."""
    return module


@dataclass(frozen=True)
class Objective:
    """Phases, and all modules that they use.

    Args:
        phases: in the order in which a step runs them.
        parts: name -> module; a checkpoint holds all of them.
        ema_part: the part of which users get the EMA weights.
        monitor: selects the best model.
        prepare: EMA weights -> the module that is validated, sampled and saved. It returns a copy if it changes
            anything, such as the standing statistics of batch norm.
    """

    phases: tuple[Phase, ...]
    parts: Mapping[str, nn.Module]
    ema_part: str
    monitor: Monitor
    prepare: Callable[[nn.Module], nn.Module] = identity

    def __post_init__(self) -> None:
        if self.ema_part not in self.parts:
            raise ValueError(f"ema_part={self.ema_part!r} is not among the parts {sorted(self.parts)}")
