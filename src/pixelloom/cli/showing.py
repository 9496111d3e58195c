"""``pixelloom info``, ``list`` and ``config``: what is there, and what it is."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pixelloom.cli import facts, targets
from pixelloom.cli.console import say, say_json, say_table
from pixelloom.cli.options import Flag
from pixelloom.errors import UsageError

if TYPE_CHECKING:
    from pixelloom.config import RunConfig
    from pixelloom.models import PixelModel
    from pixelloom.types import ImageSpec


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
        position: ROW,COLUMN of it, counted from 0; by default the centre.
        force: Replace the PNG if it is there.
    """
    from safetensors import safe_open

    from pixelloom import runs
    from pixelloom.description import WEIGHTS
    from pixelloom.families import load_model, need
    from pixelloom.models import PixelModel

    if receptive_field is None and position is not None:
        raise UsageError("--position: of what? name a picture with --receptive-field")
    if receptive_field is not None:
        targets.check_file(receptive_field, force)
    folder = runs.find(model)
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
        say_json({"folder": str(folder), "sha256": sha256, **facts.values(found), **about, **more})
        return
    for name, value in facts.lines(found).items():
        if value:
            say(f"{name:11} {value}")
    say(f"{'sha256':11} {sha256}")
    say(f"{'folder':11} {folder}")
    if seen:
        _say_field(seen)
    picture = facts.drawing(found)
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

    from pixelloom import plots

    spec, schedule = model.spec, model.fast_sampler().plan.schedule
    flow = schedule.flow  # pixelloom.receptive_field has a network without labels only
    asked = np.zeros((len(flow.sources[-1]), spec.height, spec.width), bool)
    asked[(flow.predicting()[-1], *position)] = True
    field = flow.backward(asked)[0]
    targets.probe(path.parent)
    with targets.writing(path):
        plots.receptive_field(field, position, path)
    kinds = plots.sight(field, position)
    _, seen, blind, far, *_ = (int((kinds == number).sum()) for number in range(len(plots.SIGHT)))
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


def list_(kind: Literal["recipes", "networks", "datasets", "models"] | None = None, /, *, json: Flag = False) -> None:
    """List recipes, networks, data sets, or the models that come with the package; all four if none is named.

    Args:
        kind: What to list.
        json: A list of objects, or an object of four lists.
    """
    makers = {"recipes": _recipes, "networks": _networks, "datasets": _datasets, "models": _models}
    tables = {name: make() for name, make in makers.items() if kind in (None, name)}
    if json:
        say_json(tables[kind] if kind else tables)
        return
    for i, rows in enumerate(filter(None, tables.values())):
        if i:
            say("")
        say_table(list(rows[0]), [list(row.values()) for row in rows])


def _recipes() -> list[dict[str, str]]:
    from pixelloom.recipes import RECIPES

    return [{"recipe": name} | _summary(run) for name, run in RECIPES.items()]


def _summary(run: RunConfig) -> dict[str, str]:
    data, train, settings = run.data, run.train, run.model.model_dump(exclude_defaults=True)
    told = run.model_dump(exclude_defaults=True, include={"condition", "loss"})
    form = f"levels {data.levels}" if data.levels else "" if data.binarize == "none" else data.binarize
    budgets = (("epochs", train.epochs), ("images", train.images), ("minutes", train.minutes))
    return {
        "network": " ".join([run.network, *(f"{k}={v}" for k, v in (*settings.items(), *told.items()))]),
        "data": f"{data.source} {form}".rstrip(),
        "batch": str(train.batch),
        "budget": ", ".join(f"{value:g} {name}" for name, value in budgets if value) or "1 epochs",
    }


def _networks() -> list[dict[str, str]]:
    from pixelloom.config import KINDS

    return [
        {"network": name, "settings": " ".join(config.model_fields), "about": _first_line(inspect.getmodule(module))}
        for kind in KINDS
        for name, (config, module, *_) in kind.table.items()
    ]


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


def _datasets() -> list[dict[str, str]]:
    from pixelloom.data.catalog import DATASETS

    return [{"dataset": name, "about": entry.about} for name, entry in DATASETS.items()]


def _models() -> list[dict[str, str]]:
    import json

    from pixelloom import pretrained
    from pixelloom.description import CONFIG

    rows = []
    for name in pretrained.PRETRAINED:
        folder = pretrained.folder(name)
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = about["trained"]["validation"]
        shown = ", ".join(f"{value:.4f} {name}" for name, value in found.items() if isinstance(value, float))
        figure = f"{shown} (N={found['n']})"
        rows.append({"model": name, "network": about["network"], "validation": figure, "folder": str(folder)})
    return rows


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
