"""The family of pixel models, for the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pixelloom.core.errors import ModelError
from pixelloom.models import order_ensemble
from pixelloom.models.drawing import PLAIN_BATCH
from pixelloom.models.family import Family, ModelInfo, SamplingCost
from pixelloom.models.first_layer import draw_taps, first_taps
from pixelloom.models.pixel import PixelModel, load_pixel

_USAGE = """The model was selected without the test split; `pixelloom evaluate` gives its test likelihood.

    import pixelloom as pl
    model = pl.load("PATH OF THIS FOLDER")
    images = model.sample(16, seed=0)      # uint8 levels [16, C, H, W]
    nats = -model.log_prob(images)         # one value per image
"""
_TITLE = "Mask of the first layer (the center is the pixel that is predicted):"


def _sampling_cost(model: PixelModel, n: int, batch: int | None, options: Mapping[str, Any]) -> SamplingCost:
    pixels = model.spec.height * model.spec.width
    if options.get("method") == "plain":
        return SamplingCost(batch or min(n, PLAIN_BATCH), f"{pixels * model.head.groups} passes of the network")
    mask = options.get("mask")
    sampler = model.fast_sampler(options.get("precision"), mask, options.get("guidance", 0.0), options.get("threads"))
    if mask is not None:
        pixels = int((~mask[0]).any(0).sum())
    return SamplingCost(
        batch or sampler.batch(n), f"{sampler.steps} steps for {pixels} pixels", sampler.bytes_per_image
    )


def _info(model: PixelModel) -> ModelInfo:
    about = model.description
    scaled = f"(level / {model.spec.levels - 1} - {about.scaling.shift:.4g}) / {about.scaling.scale:.4g}"
    lines = {
        "parameters": f"{model.parameters:,}",
        "head": f"{about.head.kind}, channels {about.head.channels}",
        "inputs": f"a learned vector of {about.embedding} features for each level" if about.embedding else scaled,
        "condition": str(model.condition or ""),
        "orders": f"{about.orders} symmetries of the grid" if about.orders > 1 else "",
    }
    return ModelInfo(lines, drawing=_first_reads(model))


def _first_reads(model: PixelModel) -> str:
    """The inputs of the first layer as text, joined over parallel layers such as the stacks of a gated network."""
    if order_ensemble.orders(model.network) > 1:
        return ""
    try:
        taps = first_taps(model.fast_sampler().plan.schedule.flow)
    except ModelError:  # a network that cannot be analyzed is described all the same
        return ""
    return "" if taps is None else f"{_TITLE}\n\n{draw_taps(taps)}"


def _card_rows(model: PixelModel) -> list[str]:
    head, condition = model.description.head, model.condition
    given = []
    if condition is not None and condition.masks:
        text = "bits/dim of validation are per hidden value under random masks, other metrics with nothing known"
        given = [f"| condition | {condition}; {text} |"]
    elif condition is not None:
        given = [f"| condition | {condition}; all metrics are conditional on it |"]
    return [f"| head | {head.kind}, channels {head.channels} |", *given]


PIXEL = Family(
    name="pixel",
    title="a pixel model",
    load=load_pixel,
    lacks={
        "condition": "this model takes no conditioning image; to train one that does: "
        "pixelloom train gated-pixelcnn --condition downsample@2",
        "guidance": "guidance needs a class-conditional model (train --classes) whose head has logits, and a "
        "null class (--label-dropout above 0)",
        "given": "this model averages over several orders of the pixels; pixelloom complete chooses among them",
        "truncation": "a pixel model has no latent vector to truncate; --temperature 0.9 gives likelier images",
        "interpolate": "a pixel model has no latent vector to interpolate; a GAN has",
        "attention": "attention maps are available for GANs only",
    },
    sampling_cost=_sampling_cost,
    info=_info,
    card_rows=_card_rows,
    card_usage=_USAGE,
    any_batch=True,
)
