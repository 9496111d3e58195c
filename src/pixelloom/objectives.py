"""What is trained, as data: an objective is a tuple of phases, and the loop runs phases without knowing the family.

A phase owns the module that moves, its optimiser and a loss. A likelihood objective has one phase; an adversarial one
has two, D then G. Adding a family means writing a function that returns an :class:`Objective`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.data.conditions import Condition
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.errors import DataError
from pixelloom.likelihoods import Head
from pixelloom.types import Batch

Stats: TypeAlias = dict[str, Tensor]
"""Named scalars of one step (detached), written to metrics.jsonl and shown as progress."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(BaseModel):
    """One optimiser and its schedule; warm-up is counted in images seen, decay in the share of the budget used."""

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
    """One optimiser's turn in a round.

    ``loss`` maps a batch to a scalar (a mean over the batch) and statistics. The loop seeds torch's generators from
    (seed, step, rank, phase) before it calls ``loss``, so a loss may draw noise freely and still be resumed exactly.
    """

    name: str
    module: nn.Module
    optimiser: OptimConfig
    loss: Callable[[Batch], tuple[Tensor, Stats]]
    every: int = 1


@dataclass(frozen=True)
class Monitor:
    """The figure by which the best model is chosen, on validation data; smaller is better.

    ``measure`` takes the deployed module (averaged weights, in eval mode) and returns named figures, ``name`` included.
    """

    name: str
    measure: Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Objective:
    """Everything that training moves and keeps.

    ``parts`` are all modules that a checkpoint holds; ``deploy`` names the one whose averaged weights users get.
    """

    phases: tuple[Phase, ...]
    parts: Mapping[str, nn.Module]
    deploy: str
    monitor: Monitor

    def __post_init__(self) -> None:
        if self.deploy not in self.parts:
            raise ValueError(f"deploy={self.deploy!r} is not among the parts {sorted(self.parts)}")


def likelihood(
    network: nn.Module,
    head: Head,
    levels: int,
    scaling: Scaling,
    optimiser: OptimConfig,
    monitor: Monitor,
    *,
    classes: int = 0,
    label_dropout: float = 0.0,
    condition: Condition | None = None,
) -> Objective:
    """Maximum likelihood: one phase that lowers -log p(x) of the batch, in nats a dimension.

    With classes the network is told each image's label, and for a share ``label_dropout`` of the images the number
    ``classes``, which stands for none: so one network learns both (Ho and Salimans 2022). With a condition it goes by
    that of each image, and the nats are those of p(x | condition of x).
    """

    def loss(batch: Batch) -> tuple[Tensor, Stats]:
        x = to_model(batch.images, levels, scaling)
        told: dict[str, Tensor] = {}
        if classes:
            if batch.labels is None:
                raise DataError("train.classes: the training data has no labels")
            dropped = torch.rand(len(x), device=x.device) < label_dropout
            told["labels"] = batch.labels.masked_fill(dropped, classes)
        if condition is not None:
            told["condition"] = condition.planes(condition.of(batch.images))
        params = network(x, **told)
        nats = head.nats(params, batch.images).mean()
        return nats, {"bits/dim": nats.detach() / math.log(2)}

    return Objective((Phase("network", network, optimiser, loss),), {"network": network}, "network", monitor)
