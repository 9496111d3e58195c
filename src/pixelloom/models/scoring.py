"""Parallel passes over images: nats of each value, and -log p of a mixture distributed over the pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pixelloom.core.types import Levels
from pixelloom.layers.compiled import uncompiled
from pixelloom.models import order_ensemble
from pixelloom.models.inputs import LabelsLike, at_least, check_condition, check_levels, of_batch

if TYPE_CHECKING:
    from pixelloom.models.pixel import PixelModel

Reduce = Callable[[list[Tensor]], Tensor]
"""-log p of each value [B, C, H, W], in each pixel order of the model -> what is kept of a batch."""


def of_values(
    model: PixelModel,
    images: Tensor | Levels,
    labels: LabelsLike,
    condition: Tensor | Levels | None,
    batch: int,
    threads: int | None,
    reduce: Reduce,
) -> list[Tensor]:
    """A function of the nats of each value, batch after batch; known values of partly known images have 0 nats.

    Arguments are those of :meth:`pixelloom.models.pixel.PixelModel.log_prob`.

    Raises:
        UsageError: if images, labels or conditioning images do not fit the model, or for batch < 1.
    """
    at_least("batch", batch, 1)
    x = check_levels(images, model.spec)
    classes, rule = model.labels_of(labels, len(x)), model.condition
    if condition is None and rule is not None:
        condition = rule.of(x)
    cond = check_condition(condition, rule, len(x))
    networks = order_ensemble.members(model.network)

    def scored(rows: slice) -> Tensor:
        levels, shown = x[rows].to(model.device), of_batch(cond, rows)
        given = model.conditioning(None if classes is None else classes[rows], shown)
        nats = [model.head.nats(model.forward(network, levels, given), levels) for network in networks]
        if rule is not None and rule.masks and shown is not None:
            hidden = rule.hidden(shown.to(model.device))
            nats = [each * hidden for each in nats]
        return reduce(nats).cpu()

    with model.passes.tuner(threads, model.device) as tuner:
        return list(tuner.batches(len(x), batch, scored))


@torch.no_grad()
def of_pixels(model: PixelModel, images: Tensor | Levels, labels: Sequence[int | None] = (None,)) -> Tensor:
    """-log p(x) distributed over the pixels, float64 [N, H, W]; p is the mean over ``labels`` and the model's orders.

    In one order with the sequence x_1 .. x_P, the mixture over K labels has conditional probabilities of its own, and
    pixel i takes

        -log p_o(x_i | x_<i) = log sum_k p_o(x_<i | k) - log sum_k p_o(x_<=i | k)

    Orders have no sequence in common. With the posterior w_o = p_o(x) / sum of p(x) over orders, identically

        -log p(x) = sum_o w_o (-log p_o(x)) + KL(w || uniform)

    so pixel i takes sum_o w_o (-log p_o(x_i | its predecessors)), and each pixel 1/P of the divergence, which is at
    most the log of the number of orders.

    Args:
        model: the model.
        images: levels, uint8 [N, C, H, W].
        labels: numbers of classes; None is the null class.

    Raises:
        UsageError: if images or labels do not fit the model.
    """
    height, width = model.spec.height, model.spec.width
    network, pixels = uncompiled(model.network), height * width
    count = order_ensemble.orders(network)
    places = torch.stack([order_ensemble.sequence(network, order, pixels).cpu() for order in range(count)])  # [O, P]

    def in_sequence(nats: list[Tensor]) -> Tensor:
        found = torch.stack([each.double().sum(1).flatten(1).cpu() for each in nats], 1)  # [B, O, P]
        return found.gather(2, places.expand(len(found), -1, -1))

    joint: Tensor | None = None  # log sum_k p_o(x_<=i | k), [N, O, P]
    for label in labels:
        parts = of_values(model, images, label, None, 64, None, in_sequence)
        log_p = -(torch.cat(parts) if parts else torch.empty(0, count, pixels, dtype=torch.float64)).cumsum(2)
        joint = log_p if joint is None else torch.logaddexp(joint, log_p)
    assert joint is not None
    start = joint.new_full((len(joint), count, 1), math.log(len(labels)))
    nats = -torch.cat([start, joint], 2).diff(dim=2)
    nats = torch.empty_like(nats).scatter(2, places.expand(len(nats), -1, -1), nats)  # in raster order
    log_p = -nats.sum(2)  # of each order, [N, O]
    weights = log_p.softmax(1)
    divergence = (weights * log_p).sum(1) - log_p.logsumexp(1) + math.log(count)  # [N]
    found = (weights[:, :, None] * nats).sum(1) + divergence[:, None] / pixels
    return found.view(-1, height, width)  # [N, P] -> [N, H, W]
