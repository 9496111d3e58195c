"""What is trained, as data: an objective is a tuple of phases, and the loop runs phases without knowing the family.

A phase owns the module that moves, its optimizer and a loss. A likelihood objective has one phase; an adversarial one
has two, D then G. Adding a family means writing a function that returns an :class:`Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core.types import Batch

Stats: TypeAlias = dict[str, Tensor]
"""Named scalars of one step (detached), written to metrics.jsonl and shown as progress."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(BaseModel):
    """One optimizer and its schedule; warm-up is counted in images seen, decay in the share of the budget used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["adam", "adamw", "muon", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0, le=10)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0, le=10)
    warmup: int = Field(0, ge=0, description="images over which the rate rises linearly from 0")
    decay: Literal["none", "cosine", "linear"] = "none"
    clip: float | None = Field(None, gt=0, description="largest total norm of the gradient")


@dataclass(frozen=True)
class Phase:
    """One optimizer's turn in a round.

    ``loss`` maps a batch to a scalar (a mean over the batch) and statistics. The loop seeds torch's generators from
    (seed, step, rank, phase) before it calls ``loss``, so a loss may draw noise freely and still be resumed exactly.
    """

    name: str
    module: nn.Module
    optimizer: OptimConfig
    loss: Callable[[Batch], tuple[Tensor, Stats]]
    interval: int = 1


@dataclass(frozen=True)
class Monitor:
    """The figure by which the best model is chosen, on validation data; smaller is better.

    ``measure`` takes the ema_weights module (averaged weights, in eval mode) and returns named figures, ``name`` included.
    """

    name: str
    measure: Callable[[nn.Module], Mapping[str, float]]


def as_it_is(module: nn.Module) -> nn.Module:
    """Nothing to prepare."""
    return module


@dataclass(frozen=True)
class Objective:
    """Everything that training moves and keeps.

    ``parts`` are all modules that a checkpoint holds; ``deploy`` names the one whose averaged weights users get, made
    ready by ``prepare``, which must leave the module that it is given as it is.
    """

    phases: tuple[Phase, ...]
    parts: Mapping[str, nn.Module]
    ema_part: str
    monitor: Monitor
    prepare: Callable[[nn.Module], nn.Module] = as_it_is

    def __post_init__(self) -> None:
        if self.ema_part not in self.parts:
            raise ValueError(f"ema_part={self.ema_part!r} is not among the parts {sorted(self.parts)}")
