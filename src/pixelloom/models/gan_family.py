"""The family of GANs, for the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pixelloom.layers.self_attention import attention_layers
from pixelloom.models.family import Family, ModelInfo, SamplingCost
from pixelloom.models.gan import BATCH, GANModel, load_gan

_USAGE = """Metrics of samples depend on their number and on the feature extractor: `pixelloom evaluate` gives them with
their real-vs-real baselines.

    import pixelloom as pl
    model = pl.load("PATH OF THIS FOLDER")
    images = model.sample(16, seed=0)      # uint8 levels [16, C, H, W]
    path = model.interpolate(5, 8)         # images between 5 latent vectors
"""
_CONDITION = "a GAN takes no conditioning image; gated-pixelcnn is a network that does"


def _sampling_cost(model: GANModel, n: int, batch: int | None, options: Mapping[str, Any]) -> SamplingCost:
    return SamplingCost(batch or min(n, BATCH), "one pass of the generator")


def _info(model: GANModel) -> ModelInfo:
    discriminator = model.discriminator
    attention = {
        "generator": _gammas(model.network),
        "discriminator": None if discriminator is None else _gammas(discriminator),
    }
    kept = "discriminator not kept" if discriminator is None else f"discriminator {_count(discriminator):,}"
    shown = [
        f"{part} " + ", ".join(f"{name} (gamma {gamma:.3g})" for name, gamma in gammas.items())
        for part, gammas in attention.items()
        if gammas
    ]
    return ModelInfo(
        lines={
            "parameters": f"generator {model.parameters:,}, {kept}",
            "latent": f"{model.latent} dimensions",
            "attention": "; ".join(shown),
        },
        values={
            "discriminator_parameters": None if discriminator is None else _count(discriminator),
            "latent": model.latent,
            "attention": attention,
        },
    )


def _card_rows(model: GANModel) -> list[str]:
    kept = "" if model.discriminator is None else f"; discriminator of {_count(model.discriminator):,} parameters"
    return [f"| latent vector | {model.latent} dimensions{kept} |"]


def _count(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in network.parameters())


def _gammas(network: nn.Module) -> dict[str, float]:
    return {name: layer.gamma.item() for name, layer in attention_layers(network)}


GAN = Family(
    name="gan",
    title="a GAN",
    load=load_gan,
    lacks={
        "likelihood": "a GAN has no likelihood",
        "condition": _CONDITION,
        "guidance": "a GAN has no logits to guide; --class alone sets the class",
        "temperature": "a GAN has no probabilities to sharpen; --truncation 1 gives less varied images",
        "given": "a GAN generates whole images and cannot complete a part; a pixel model can",
        "completion": "a GAN generates whole images and cannot complete a part; a pixel model can",
        "method": "a GAN samples in one pass; there is no other method",
        "precision": "a GAN samples in the precision of its weights",
        "receptive_field": "a generator has no causal receptive field; a pixel model has",
    },
    sampling_cost=_sampling_cost,
    info=_info,
    card_rows=_card_rows,
    card_usage=_USAGE,
)
