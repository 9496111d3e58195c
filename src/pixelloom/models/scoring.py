"""One parallel pass over images, for their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from pixelloom.core.types import Levels
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
