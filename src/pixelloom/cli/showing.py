"""``pixelloom info``, ``list`` and ``config``: what is there, and what it is."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from pixelloom.cli.console import say, say_json, say_table
from pixelloom.cli.options import Flag

if TYPE_CHECKING:
    from pixelloom.config import RunConfig
    from pixelloom.models import PixelModel


def info(model: str, /, *, json: Flag = False) -> None:
    """Describe a model: network, images, head, training, figures, checksum, and the mask of its first layer.

    Args:
        model: A run folder, a model folder, or the name of a run under runs/.
        json: One JSON object.
    """
    from safetensors import safe_open

    from pixelloom import runs
    from pixelloom.models import WEIGHTS, load_model

    folder = runs.find(model)
    found = load_model(folder)
    with safe_open(str(folder / WEIGHTS), "pt") as file:
        sha256 = file.metadata()["sha256"]  # of the contents; loading has verified it
    about = found.description.model_dump(mode="json")
    if json:
        say_json({"folder": str(folder), "parameters": found.parameters, "sha256": sha256, **about})
        return
    for name, value in _facts(found, about["trained"]).items():
        if value:
            say(f"{name:11} {value}")
    say(f"{'sha256':11} {sha256}")
    say(f"{'folder':11} {folder}")
    mask = _first_mask(found)
    if mask:
        say(f"\nFirst layer, what one pixel (the centre) reads of the pixels around it:\n\n{mask}")


def _facts(model: PixelModel, trained: dict[str, Any]) -> dict[str, str]:
    about = model.description
    settings = ", ".join(f"{k}={v}" for k, v in about.model.model_dump(exclude_none=True).items())
    data, figures, counts = trained.get("data", {}), trained.get("validation", {}), trained.get("counts", {})
    form = ", ".join(f"{k} {data[k]}" for k in ("size", "levels", "binarize") if data.get(k) not in (None, "none"))
    shown = ", ".join(f"{figures[name]:.4f} {name}" for name in ("bits/dim", "nats/image") if name in figures)
    return {
        "network": f"{about.network} ({settings})",
        "parameters": f"{model.parameters:,}",
        "images": str(model.spec),
        "head": f"{about.head.kind}, channels {about.head.channels}",
        "inputs": f"(level / {model.spec.levels - 1} - {about.scaling.shift:.4g}) / {about.scaling.scale:.4g}",
        "recipe": str(trained.get("recipe", "")),
        "data": f"{data.get('source', 'unknown')}{f' ({form})' if form else ''}",
        "splits": ", ".join(f"{name} {n:,}" for name, n in counts.items()),
        "note": str(trained.get("note", "")),
        "training": f"{trained['images']:,} images, {trained['epochs']} epochs, {trained['minutes']} minutes, "
        f"seed {trained['seed']}, {trained['date']}"
        if "images" in trained
        else "",
        "validation": f"{shown} (N={figures['n']})" if shown and "n" in figures else shown,
        "command": str(trained.get("command", "")),
    }


def _first_mask(model: PixelModel) -> str:
    from pixelloom.layers.causal import MaskedConv2d, draw_mask

    layers = (layer for layer in model.network.modules() if isinstance(layer, MaskedConv2d))
    first = next(layers, None)
    return draw_mask(first.mask.bool()) if first is not None else ""


def list_(kind: Literal["recipes", "networks", "datasets"] | None = None, /, *, json: Flag = False) -> None:
    """List recipes, networks or data sets; all three if none is named.

    Args:
        kind: What to list.
        json: A list of objects, or an object of three lists.
    """
    makers = {"recipes": _recipes, "networks": _networks, "datasets": _datasets}
    tables = {name: make() for name, make in makers.items() if kind in (None, name)}
    if json:
        say_json(tables[kind] if kind else tables)
        return
    for i, rows in enumerate(tables.values()):
        if i:
            say("")
        say_table(list(rows[0]), [list(row.values()) for row in rows])


def _recipes() -> list[dict[str, str]]:
    from pixelloom.recipes import RECIPES

    return [{"recipe": name} | _summary(run) for name, run in RECIPES.items()]


def _summary(run: RunConfig) -> dict[str, str]:
    data, train = run.data, run.train
    form = f"levels {data.levels}" if data.levels else "" if data.binarize == "none" else data.binarize
    budgets = (("epochs", train.epochs), ("images", train.images), ("minutes", train.minutes))
    return {
        "network": " ".join(
            [run.network, *(f"{k}={v}" for k, v in run.model.model_dump(exclude_defaults=True).items())]
        ),
        "data": f"{data.source} {form}".rstrip(),
        "batch": str(train.batch),
        "budget": ", ".join(f"{value:g} {name}" for name, value in budgets if value) or "1 epochs",
    }


def _networks() -> list[dict[str, str]]:
    from pixelloom.networks import NETWORKS

    return [
        {"network": name, "settings": " ".join(config.model_fields), "about": _first_line(inspect.getmodule(module))}
        for name, (config, module) in NETWORKS.items()
    ]


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


def _datasets() -> list[dict[str, str]]:
    from pixelloom.data.catalog import DATASETS

    return [{"dataset": name, "about": entry.about} for name, entry in DATASETS.items()]


def config(recipe: str, /, *, json: Flag = False) -> None:
    """Print every setting of a recipe or network as YAML; an edited copy is what `train --config` reads.

    Args:
        recipe: Name of a recipe or a network.
        json: One JSON object instead.
    """
    from pixelloom.config import dump_yaml
    from pixelloom.recipes import recipe as named_run

    run = named_run(recipe)
    if json:
        say_json(run.model_dump(mode="json"))
    else:
        say(dump_yaml(run).rstrip())
