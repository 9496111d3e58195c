"""Collects what :mod:`pixelloom.viz.explain` draws: one prediction of a pixel model as arrays."""

from __future__ import annotations

import math

import numpy as np
import torch

from pixelloom.core.errors import UsageError
from pixelloom.core.types import Levels
from pixelloom.layers.reads import Marks, Position
from pixelloom.models.family import GenerativeModel
from pixelloom.models.first_layer import first_taps
from pixelloom.models.inputs import check_labels, check_levels
from pixelloom.models.order_ensemble import refuse
from pixelloom.models.registry import require
from pixelloom.sampling.fast.analysis import Dataflow
from pixelloom.viz.explain import Explanation


@torch.no_grad()
def explanation(
    model: GenerativeModel,
    image: torch.Tensor | Levels,
    position: tuple[int, int] | None = None,
    label: int | str | None = None,
) -> Explanation:
    """The prediction of a pixel, given the true values of the pixels before it.

    Args:
        model: a pixel model of one order.
        image: levels, uint8 [C, H, W] or [1, C, H, W].
        position: (row, column) of the pixel; by default the center.
        label: class of the image, for a class-conditional model; None for the null class.

    Raises:
        UsageError: for a model without a receptive field, another shape, or a position outside the image.
    """
    pixel = require(model, "receptive_field", "explain")
    refuse(pixel.network, "explain")
    spec = pixel.spec
    y, x = position = position or (spec.height // 2, spec.width // 2)
    if not (0 <= y < spec.height and 0 <= x < spec.width):
        raise UsageError(f"position: rows 0 to {spec.height - 1} and columns 0 to {spec.width - 1}, not {y},{x}")
    levels = check_levels(image[None] if image.ndim == 3 else image, spec, "image").to(pixel.device)
    if len(levels) != 1:
        raise UsageError(f"image: one image is explained, not {len(levels)}")
    labels = check_labels(label, pixel.description, 1, pixel.device, null=pixel.description.null_class)
    params = pixel.predict(levels, labels, None if pixel.condition is None else pixel.condition.of(levels.cpu()))
    table = pixel.head.table(params, x=levels)[0, :, :, y, x]  # [1, C, L, H, W] -> [C, L]
    bits = pixel.head.nats(params, levels)[0].double() / math.log(2)  # [C, H, W]
    flow = pixel.fast_sampler().plan.schedule.flow
    about = pixel.description
    source = about.training.data.source if about.training.data is not None else "unknown data"
    return Explanation(
        title=f"{about.network} on {source}: the prediction of one pixel"
        + (f", class {(*about.class_names, 'none')[int(labels)]}" if label is not None and labels is not None else ""),
        image=levels[0].cpu().numpy(),
        levels=spec.display,
        position=position,
        taps=first_taps(flow),
        field=field_of(flow, position),
        probabilities=table.cpu().numpy(),
        bits=bits.cpu().numpy(),
        ordered=pixel.head.groups > 1 or pixel.head.kind == "logistics",
    )


def field_of(flow: Dataflow, position: Position) -> Marks:
    """Receptive field of the prediction at a position, of the last channel, bool [C, H, W]."""
    outputs = np.zeros((len(flow.sources[-1]), *flow.shape[1:]), bool)
    outputs[(flow.output_classes()[-1], *position)] = True
    return flow.backward(outputs)[0]
