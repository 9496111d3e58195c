"""Maximum likelihood: one phase that minimizes -log p(x)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pixelloom.core.errors import DataError
from pixelloom.core.types import Batch
from pixelloom.data.conditions import Condition
from pixelloom.data.masks import NUMBERS, random_masks
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.heads.discrete import Head
from pixelloom.objectives.base import Monitor, Objective, Phase, Stats
from pixelloom.objectives.config import OptimConfig


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
    noise_inputs: float = 0.0,
) -> Objective:
    """Return an objective with one phase: the mean of -log p(x) over the batch, in nats per dimension.

    Args:
        network: (x in model space [B, C, H, W], labels=, condition=) -> parameters of the head.
        head: distribution of the levels given the parameters.
        levels: number of levels of the images.
        scaling: levels -> model space.
        optimizer: of the network.
        monitor: selects the best model.
        classes: number of classes; above 0 the network is class-conditional.
        label_dropout: share of the images whose label is replaced by the null class, number ``classes``, so that one
            network is both conditional and unconditional (Ho and Salimans 2022, 2207.12598, algorithm 1).
        condition: derives the conditioning image from an image; the loss is then -log p(x | condition). With the rule
            ``mask`` random pixels are hidden, and the loss is the mean over these.
        noise_inputs: probability that a pixel of a training image is replaced by random levels, see :func:`mutated`.
    """

    def loss(batch: Batch) -> tuple[Tensor, Stats]:
        images = mutated(batch.images, levels, noise_inputs) if noise_inputs else batch.images
        x = to_model(images, levels, scaling)
        conditioning: dict[str, Tensor] = {}
        if classes:
            if batch.labels is None:
                raise DataError("train.classes: the training data has no labels")
            dropped = torch.rand(len(x), device=x.device) < label_dropout
            conditioning["labels"] = batch.labels.masked_fill(dropped, classes)
        hidden = None
        if condition is not None and condition.masks:
            numbers = torch.rand(len(x), NUMBERS, device=x.device)
            hidden = random_masks(numbers, torch.rand(len(x), *x.shape[2:], device=x.device))
            conditioning["condition"] = condition.planes(condition.partly(images, hidden))
        elif condition is not None:
            conditioning["condition"] = condition.planes(condition.of(images))
        each = head.nats(network(x, **conditioning), images)  # [B, C, H, W]
        if hidden is not None:  # the mean over the hidden values of the batch
            each = (each * hidden).sum() / (hidden.sum() * each.shape[1]).clamp(min=1)
        nats = each.mean()
        return nats, {"bits/dim": nats.detach() / math.log(2)}

    return Objective((Phase("network", network, optimizer, loss),), {"network": network}, "network", monitor)


def mutated(images: Tensor, levels: int, share: float) -> Tensor:
    """Images, uint8 [B, C, H, W], in which each pixel is replaced by random levels with probability ``share``.

    A background model is trained on such images: it learns what is common to normal images and others (Ren et al. 2019,
    1906.02845, section 4.2).
    """
    n, _, height, width = images.shape
    replaced = torch.rand(n, 1, height, width, device=images.device) < share
    noise = torch.randint(levels, images.shape, dtype=images.dtype, device=images.device)
    return torch.where(replaced, noise, images)
