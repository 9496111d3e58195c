"""What ``pixelloom info`` says of a model: some of it of any, the rest as its family has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from pixelloom.families import Model
    from pixelloom.latent import LatentModel
    from pixelloom.models import PixelModel


@dataclass(frozen=True)
class _Family:
    """What a family adds to the functions of these names."""

    lines: Callable[[Any], dict[str, str]]
    values: Callable[[Any], dict[str, Any]]
    drawing: Callable[[Any], str]


def lines(model: Model) -> dict[str, str]:
    """Name -> what to say; an empty text where there is nothing."""
    about = model.description
    trained = about.trained
    settings = ", ".join(f"{k}={v}" for k, v in about.model.model_dump(exclude_none=True).items())
    data, figures, counts = trained.get("data", {}), trained.get("validation", {}), trained.get("counts", {})
    form = ", ".join(f"{k} {data[k]}" for k in ("size", "levels", "binarize") if data.get(k) not in (None, "none"))
    shown = ", ".join(f"{value:.4f} {name}" for name, value in figures.items() if isinstance(value, float))
    told = f", of the {figures['split']} images" if "split" in figures else ""
    return {
        "network": f"{about.network} ({settings})",
        "images": str(model.spec),
        **FAMILIES[about.family].lines(model),
        "classes": str(about.classes or ""),
        "recipe": str(trained.get("recipe", "")),
        "data": f"{data.get('source', 'unknown')}{f' ({form})' if form else ''}",
        "splits": ", ".join(f"{name} {n:,}" for name, n in counts.items()),
        "note": str(trained.get("note", "")),
        "training": f"{trained['images']:,} images, {trained['epochs']} epochs, {trained['minutes']} minutes, "
        f"seed {trained['seed']}, {trained['date']}"
        if "images" in trained
        else "",
        "validation": f"{shown} (N={figures['n']}{told})" if shown and "n" in figures else shown,
        "command": str(trained.get("command", "")),
    }


def values(model: Model) -> dict[str, Any]:
    """What JSON has beside the description."""
    return {"parameters": model.parameters, **FAMILIES[model.description.family].values(model)}


def drawing(model: Model) -> str:
    """A mask to look at, where the family has one."""
    return FAMILIES[model.description.family].drawing(model)


def _pixel(model: PixelModel) -> dict[str, str]:
    about = model.description
    return {
        "parameters": f"{model.parameters:,}",
        "head": f"{about.head.kind}, channels {about.head.channels}",
        "inputs": f"a learned vector of {about.embedding} features for each level"
        if about.embedding
        else f"(level / {model.spec.levels - 1} - {about.scaling.shift:.4g}) / {about.scaling.scale:.4g}",
        "condition": str(model.condition or ""),
    }


def _first_mask(model: PixelModel) -> str:
    from pixelloom.layers.causal import MaskedConv2d, draw_mask

    layers = (layer for layer in model.network.modules() if isinstance(layer, MaskedConv2d))
    first = next(layers, None)
    mask = "" if first is None else draw_mask(first.mask.bool())
    return mask and f"First layer, what one pixel (the centre) reads of the pixels around it:\n\n{mask}"


def _latent(model: LatentModel) -> dict[str, str]:
    judge = model.discriminator
    kept = f"discriminator {_count(judge):,}" if judge is not None else "discriminator not kept"
    layers = {"generator": _gammas(model.network), "discriminator": {} if judge is None else _gammas(judge)}
    return {
        "parameters": f"generator {model.parameters:,}, {kept}",
        "latent": f"{model.latent} numbers",
        "attention": "; ".join(
            f"{side} " + ", ".join(f"{name} (gamma {gamma:.3g})" for name, gamma in gammas.items())
            for side, gammas in layers.items()
            if gammas
        ),
    }


def _latent_values(model: LatentModel) -> dict[str, Any]:
    judge = model.discriminator
    return {
        "discriminator_parameters": None if judge is None else _count(judge),
        "latent": model.latent,
        "attention": {
            "generator": _gammas(model.network),
            "discriminator": None if judge is None else _gammas(judge),
        },
    }


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _gammas(network: nn.Module) -> dict[str, float]:
    from pixelloom.layers.self_attention import attention_layers

    return {name: layer.gamma.item() for name, layer in attention_layers(network)}


FAMILIES: Mapping[str, _Family] = {
    "pixel": _Family(_pixel, lambda model: {}, _first_mask),
    "latent": _Family(_latent, _latent_values, lambda model: ""),
}
