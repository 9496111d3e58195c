"""``pixelloom list`` and ``config``: recipes, networks, data sets, pretrained models, compressed files, settings."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from pixelloom.cli.blocks import list_blocks
from pixelloom.cli.compress import SUFFIX, Named
from pixelloom.cli.console import say, say_json, say_table
from pixelloom.cli.options import Flag
from pixelloom.core.errors import UsageError, did_you_mean
from pixelloom.runs.names import check_name

if TYPE_CHECKING:
    from pixelloom.runs.config import RunConfig


def list_(kind: Named | None = None, /, *, json: Flag = False) -> None:
    """List recipes, networks, data sets or pretrained models, by default all four; or the blocks of a .pxl file.

    Args:
        kind: recipes, networks, datasets, models, or a .pxl file.
        json: Print JSON: a list of objects, or an object of four lists; of a file, one object.
    """
    tables_of = {"recipes": _recipes, "networks": _networks, "datasets": _datasets, "models": _models}
    if kind is not None and kind not in tables_of:
        if not (kind.endswith(SUFFIX) or Path(kind).is_file()):
            hint = did_you_mean(kind, tables_of)
            raise UsageError(f"list: recipes, networks, datasets, models, or a {SUFFIX} file; not {kind!r}.{hint}")
        list_blocks(kind, as_json=json)
        return
    tables = {name: make() for name, make in tables_of.items() if kind in (None, name)}
    if json:
        say_json(tables[kind] if kind else tables)
        return
    for i, rows in enumerate(filter(None, tables.values())):
        if i:
            say("")
        say_table(list(rows[0]), [list(row.values()) for row in rows])


def _recipes() -> list[dict[str, str]]:
    from pixelloom.runs.recipes import RECIPES

    return [{"recipe": name} | _summary(run) for name, run in RECIPES.items()]


def _summary(run: RunConfig) -> dict[str, str]:
    data, train, settings = run.data, run.train, run.model.model_dump(exclude_defaults=True)
    more = run.model_dump(exclude_defaults=True, include={"condition", "loss"})
    form = f"levels {data.levels}" if data.levels else "" if data.binarize == "none" else data.binarize
    budgets = (("epochs", train.epochs), ("images", train.images), ("minutes", train.minutes))
    return {
        "network": " ".join([run.network, *(f"{k}={v}" for k, v in (*settings.items(), *more.items()))]),
        "data": f"{data.source} {form}".rstrip(),
        "batch": str(train.batch),
        "budget": ", ".join(f"{value:g} {name}" for name, value in budgets if value) or "1 epochs",
    }


def _networks() -> list[dict[str, str]]:
    from pixelloom.runs.families import RUN_FAMILIES

    return [
        {"network": name, "settings": " ".join(config.model_fields), "about": _first_line(inspect.getmodule(module))}
        for family in RUN_FAMILIES.values()
        for name, (config, module, *_) in family.config.networks().items()
    ]


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


def _datasets() -> list[dict[str, str]]:
    from pixelloom.data.catalog import DATASETS

    return [{"dataset": name, "about": entry.description} for name, entry in DATASETS.items()]


def _models() -> list[dict[str, str]]:
    import json

    from pixelloom.models import pretrained
    from pixelloom.models.description import CONFIG, WEIGHTS

    rows = []
    for name, promised in pretrained.MODELS.items():
        folder = pretrained.folder(name)
        network = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["network"]
        rows.append(
            {
                "model": name,
                "about": promised.about,
                "network": network,
                "test": f"{promised.result}, N={promised.n:,}",
                "size": f"{(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB",
                "folder": str(folder),
            }
        )
    return rows


def config(recipe: str, /, *, json: Flag = False) -> None:
    """Print all settings of a recipe or network as YAML, for `train --config`.

    Args:
        recipe: Name of a recipe or a network.
        json: Print one JSON object instead.
    """
    check_name(recipe)
    from pixelloom.runs.compose import dump_yaml
    from pixelloom.runs.recipes import recipe as named_run

    run = named_run(recipe)
    if json:
        say_json(run.model_dump(mode="json"))
    else:
        say(dump_yaml(run).rstrip())
