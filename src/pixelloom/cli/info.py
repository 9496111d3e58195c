"""``pixelloom info``: what a model is, and what its network reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pixelloom.cli import outputs
from pixelloom.cli.console import say, say_json
from pixelloom.cli.options import Flag
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from pixelloom.core.types import ImageSpec
    from pixelloom.models.gan import GANModel
    from pixelloom.models.pixel import PixelModel
    from pixelloom.models.registry import Model


def info(
    model: str,
    /,
    *,
    json: Flag = False,
    receptive_field: Path | None = None,
    position: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    force: Flag = False,
) -> None:
    """Describe a model: network, images, training, figures, checksum; the mask of a first layer, gammas of attention.

    Args:
        model: A run folder, a model folder, or the name of a run under runs/.
        json: One JSON object.
        receptive_field: A PNG of the pixels that the prediction at a position can see.
        position: ROW,COLUMN of it, counted from 0; by default the center.
        force: Replace the PNG if it is there.
    """
    from safetensors import safe_open

    from pixelloom.models.description import WEIGHTS
    from pixelloom.models.pixel import PixelModel
    from pixelloom.models.registry import load_model, need
    from pixelloom.runs.folder import find

    if receptive_field is None and position is not None:
        raise UsageError("--position: of what? name a picture with --receptive-field")
    if receptive_field is not None:
        outputs.check_file(receptive_field, force)
    folder = find(model)
    found = load_model(folder)
    with safe_open(str(folder / WEIGHTS), "pt") as file:
        sha256 = file.metadata()["sha256"]  # of the contents; loading has verified it
    about = found.description.model_dump(mode="json")
    seen = {}
    if receptive_field:
        pixel = need(found, PixelModel, "--receptive-field")
        seen = _draw_field(pixel, _position(position, pixel.spec), receptive_field)
    if json:
        more = {"receptive_field": seen} if seen else {}
        say_json({"folder": str(folder), "sha256": sha256, **_values(found), **about, **more})
        return
    for name, value in _lines(found).items():
        if value:
            say(f"{name:11} {value}")
    say(f"{'sha256':11} {sha256}")
    say(f"{'folder':11} {folder}")
    if seen:
        _say_field(seen)
    picture = _mask(found)
    if picture:
        say(f"\n{picture}")


def _position(text: str | None, spec: ImageSpec) -> tuple[int, int]:
    if text is None:
        return spec.height // 2, spec.width // 2
    words = [word.strip() for word in text.split(",")]
    if len(words) == 2 and all(word.isdecimal() for word in words):
        y, x = map(int, words)
        if y < spec.height and x < spec.width:
            return y, x
    rows, columns = f"0 to {spec.height - 1}", f"0 to {spec.width - 1}"
    raise UsageError(f"--position: ROW,COLUMN with rows {rows} and columns {columns}, not {text!r}")


def _draw_field(model: PixelModel, position: tuple[int, int], path: Path) -> dict[str, Any]:
    """Draw what the prediction at a position sees; returns it in figures."""
    import numpy as np

    from pixelloom.viz.receptive_field import FIELD_KINDS, field_kinds
    from pixelloom.viz.receptive_field import receptive_field as draw_field

    spec, schedule = model.spec, model.fast_sampler().plan.schedule
    flow = schedule.flow  # pixelloom.receptive_field has a network without labels only
    asked = np.zeros((len(flow.sources[-1]), spec.height, spec.width), bool)
    asked[(flow.output_classes()[-1], *position)] = True
    field = flow.backward(asked)[0]
    outputs.probe(path.parent)
    with outputs.writing(path):
        draw_field(field, position, path)
    kinds = field_kinds(field, position)
    _, seen, blind, far, *_ = (int((kinds == number).sum()) for number in range(len(FIELD_KINDS)))
    return {
        "picture": str(path),
        "position": list(position),
        "before": seen + blind + far,
        "seen": seen,
        "blind_spot": blind,
        "out_of_reach": far,
        "pixels": spec.height * spec.width,
        "steps": schedule.steps,
    }


def _say_field(seen: dict[str, Any]) -> None:
    share = f" ({100 * seen['seen'] / seen['before']:.0f} %)" if seen["before"] else ""
    missed = f"{seen['blind_spot']:,} in the blind spot, {seen['out_of_reach']:,} out of reach"
    y, x = seen["position"]
    say(f"{'sees':11} {seen['seen']:,} of the {seen['before']:,} pixels before row {y}, column {x}{share}; {missed}")
    say(f"{'sampling':11} {seen['steps']:,} steps for {seen['pixels']:,} pixels")
    say(f"{'picture':11} {seen['picture']}")


@dataclass(frozen=True)
class _Family:
    """What a family adds to the functions of these names."""

    lines: Callable[[Any], dict[str, str]]
    values: Callable[[Any], dict[str, Any]]
    drawing: Callable[[Any], str]


def _lines(model: Model) -> dict[str, str]:
    """Name -> what to say; an empty text where there is nothing."""
    about = model.description
    record = about.training
    settings = ", ".join(f"{k}={v}" for k, v in about.model.model_dump(exclude_none=True).items())
    data = {} if record.data is None else record.data.model_dump()
    form = ", ".join(f"{k} {data[k]}" for k in ("size", "levels", "binarize") if data.get(k) not in (None, "none"))
    measured = record.validation
    validation = ", ".join(f"{value:.4f} {name}" for name, value in measured.metrics.items())
    if validation and measured.n is not None:
        split = "" if measured.split == "validation" else f", {measured.split} images"
        validation += f" (N={measured.n}{split})"
    return {
        "network": f"{about.network} ({settings})",
        "images": str(model.spec),
        **FAMILIES[about.family].lines(model),
        "classes": str(about.classes or ""),
        "recipe": record.recipe,
        "data": f"{data.get('source', 'unknown')}{f' ({form})' if form else ''}",
        "splits": ", ".join(f"{name} {n:,}" for name, n in record.counts.items()),
        "note": record.note,
        "training": f"{record.images:,} images, {record.epochs} epochs, {record.minutes} minutes, "
        f"seed {record.seed}, {record.date}"
        if record.images is not None
        else "",
        "validation": validation,
        "command": record.command,
    }


def _values(model: Model) -> dict[str, Any]:
    """What JSON has beside the description."""
    return {"parameters": model.parameters, **FAMILIES[model.description.family].values(model)}


def _mask(model: Model) -> str:
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
    from pixelloom.layers.masked_conv import MaskedConv2d, draw_mask

    layers = (layer for layer in model.network.modules() if isinstance(layer, MaskedConv2d))
    first = next(layers, None)
    mask = "" if first is None else draw_mask(first.mask.bool())
    return mask and f"First layer, what one pixel (the center) reads of the pixels around it:\n\n{mask}"


def _latent(model: GANModel) -> dict[str, str]:
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


def _gan_values(model: GANModel) -> dict[str, Any]:
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
    "gan": _Family(_latent, _gan_values, lambda model: ""),
}
