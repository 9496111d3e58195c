"""Maximum likelihood: one phase that lowers -log p(x)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pixelloom.core.errors import DataError
from pixelloom.core.types import Batch
from pixelloom.data.conditions import Condition
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.heads.discrete import Head
from pixelloom.objectives.base import Monitor, Objective, OptimConfig, Phase, Stats


def likelihood(
    network: nn.Module,
    head: Head,
    levels: int,
    scaling: Scaling,
    optimizer: OptimConfig,
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

    return Objective((Phase("network", network, optimizer, loss),), {"network": network}, "network", monitor)
