"""Plans a run before anything starts: recipe, file, overrides, budgets, folder."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelloom.core.errors import UsageError, did_you_mean
from pixelloom.core.types import palette_size
from pixelloom.hub.reference import is_reference
from pixelloom.runs.compose import compose, elsewhere, fields_of, read_yaml
from pixelloom.runs.config import Overrides, PixelRun, RunConfig
from pixelloom.runs.folder import CONFIG, RUNS
from pixelloom.runs.recipes import RECIPES
from pixelloom.runs.recipes import recipe as named_run
from pixelloom.runs.renamed import renamed

BUDGETS = ("train.minutes", "train.images", "train.epochs")
_MACHINE = ("device", "devices", "nodes", "threads", "workers", "timeout")
_INTERVALS = ("validate_every", "checkpoint_every", "sample_every")
# Fields that may change when a run is resumed, since they do not change what is computed.
_FREE = (
    *BUDGETS,
    *(f"train.{name}" for name in (*_MACHINE, *_INTERVALS)),
    "train.logger",
    "data.root",
    "data.cache",
    "samples",
)
_log = logging.getLogger("pixelloom")


def planned(
    recipe: str | None,
    *,
    config: Path | str | None = None,
    out: Path | str | None = None,
    overrides: Overrides | None = None,
    resume: bool = False,
    force: bool = False,
    arrays: Any = None,
) -> tuple[RunConfig, Path]:
    """Plan a run; returns its configuration and folder.

    Without a recipe or a file, one is picked for the data in ``overrides``, or for ``arrays`` in memory, see
    :mod:`pixelloom.runs.pick`.

    The default folder is ``runs/RECIPE``, ``runs/RECIPE-DATA`` for other data than the recipe's, with a number if it is
    taken and neither resumed nor replaced (``force``). A budget in ``overrides`` or in the file replaces all earlier
    budgets. With ``resume`` the configuration of the run in the folder is used; its budget and fields that do not
    change the result may change.

    Raises:
        UsageError: for unknown names, values that are not allowed, or another run than the one to resume.
    """
    file = read_yaml(Path(config)) if config is not None else {}
    changes = _one_budget(overrides or {})
    if recipe is None and config is None and not (resume and out is not None):
        recipe, picked = _picked(changes, arrays, resume=resume)
        changes = {**_one_budget(picked), **changes}
    if out is not None:
        folder = Path(out)
    else:
        folder = _default_folder(recipe, config, file, changes)
        if resume and not (folder / CONFIG).is_file():  # a run of the recipe's own data
            folder = _default_folder(recipe, config, file, {})
        folder = _newest(folder) if resume else folder
    if resume and (folder / CONFIG).is_file():
        return _resumed(folder, recipe, file, changes), folder
    if recipe is None and config is None:
        raise UsageError(f"{folder}: no run to resume: there is no {CONFIG}")
    base = compose(named_run(recipe) if recipe is not None else PixelRun(), file=_with_one_budget(file))
    plan = _changed(base, changes)
    if recipe is not None and recipe not in RECIPES and not _names_data(file, changes):
        _log.warning("data: none is named, so the run trains on %s; --data takes a name or a path", plan.data.source)
    return plan, folder if out is not None or resume or force else _numbered(folder, plan)


def _picked(changes: Overrides, arrays: Any, *, resume: bool) -> tuple[str, Overrides]:
    """The recipe that is picked for the data of a run, and the settings that it changes.

    Raises:
        UsageError: if no data are named, or if the run is to be resumed.
    """
    if resume:
        raise UsageError("resume: name the run, by its folder in --out or by its recipe")
    if not _names_data({}, changes):
        raise UsageError(
            "recipe: name your images, and a recipe is picked for them (`pixelloom train --data FOLDER`), or name a "
            "recipe (`pixelloom train digits --minutes 1` is a first run; `pixelloom list` shows all)"
        )
    from pixelloom.engine.fabric import choose_device
    from pixelloom.runs.image_facts import image_facts
    from pixelloom.runs.pick import Means, pick

    known = {field: value for field, value in changes.items() if field.partition(".")[0] in ("data", "train")}
    plan = _changed(PixelRun(), known)
    means = Means(choose_device(plan.train) == "cuda", plan.train.minutes)
    choice = pick(image_facts(plan.data, arrays), means, budget=any(changes.get(name) for name in BUDGETS))
    _log.info("recipe: %s", choice.why)
    return choice.recipe, choice.overrides


def as_text(value: str) -> str:
    """Quote a string, so that YAML does not read it as a number: a folder may be called 2024."""
    return "'" + value.replace("'", "''") + "'"


def joined(first: Overrides, second: Overrides) -> dict[str, object]:
    """Merge overrides.

    Raises:
        UsageError: if a field is in both.
    """
    twice = sorted(first.keys() & second.keys())
    if twice:
        raise UsageError(f"{twice[0]}: given twice, as a dotted field and as an option; remove one")
    return {**first, **second}


def _changed(base: RunConfig, overrides: Overrides) -> RunConfig:
    """Compose a run; unknown names are reported before values."""
    network = str(overrides.get("network", base.network))
    for path, value in overrides.items():
        if problem := renamed(path, value):
            raise UsageError(f"--{problem}")
        *parents, leaf = path.split(".")
        known = fields_of(network, parents)
        if not known:
            sections = fields_of(network, [])
            hint = elsewhere(network, path) or did_you_mean(parents[0], sections)
            raise UsageError(f"--{path}: there is no section {'.'.join(parents)!r}.{hint}")
        if leaf not in known:
            section = f" of {'.'.join(parents)}" if parents else ""
            hint = ("" if parents else elsewhere(network, leaf)) or did_you_mean(leaf, known)
            raise UsageError(f"--{path}: no such field{section}.{hint} Known: {', '.join(known)}")
    return compose(base, overrides=overrides)


def _default_folder(recipe: str | None, config: Path | str | None, file: Mapping[str, Any], changes: Overrides) -> Path:
    """``runs/RECIPE``, or ``runs/RECIPE-DATA`` for data that are named in the command."""
    name = recipe or str(file.get("recipe") or Path(str(config)).stem)
    source = changes.get("data.source")
    if not isinstance(source, str) or (recipe is not None and _plain_text(source) == named_run(recipe).data.source):
        return RUNS / name
    data = re.sub(r"[^\w.-]+", "-", Path(_plain_text(source)).expanduser().resolve().stem).strip("-.")
    return RUNS / (f"{name}-{data}" if data else name)


def _plain_text(value: str) -> str:
    """The inverse of :func:`as_text`."""
    return value[1:-1].replace("''", "'") if value.startswith("'") and value.endswith("'") and len(value) > 1 else value


def _names_data(file: Mapping[str, Any], changes: Overrides) -> bool:
    section = file.get("data")
    return "data.source" in changes or (isinstance(section, Mapping) and "source" in section)


def _numbered(folder: Path, plan: RunConfig) -> Path:
    """The folder, or ``folder-2`` and so on if it is taken; not for several processes, which could disagree."""
    several = os.environ.get("WORLD_SIZE", "1") != "1" or plan.train.devices * plan.train.nodes > 1
    found = folder if several else free_folder(folder)
    if found != folder:
        _log.info("%s is taken; the run folder is %s", folder, found)
    return found


def free_folder(folder: Path) -> Path:
    """The folder, or ``folder-2`` and so on if it is taken."""
    number, found = 1, folder
    while found.is_dir() and any(found.iterdir()):
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def _newest(folder: Path) -> Path:
    """The run of the highest number, of those that :func:`_numbered` has made."""
    number, found = 1, folder
    while (following := folder.with_name(f"{folder.name}-{number + 1}")).is_dir():
        number += 1
        found = following if (following / CONFIG).is_file() else found
    return found


def _one_budget(overrides: Overrides) -> dict[str, object]:
    if not any(overrides.get(budget) is not None for budget in BUDGETS):
        return dict(overrides)
    return {**dict.fromkeys(BUDGETS), **overrides}


def _with_one_budget(file: Mapping[str, Any]) -> dict[str, Any]:
    section = file.get("train")
    names = [budget.removeprefix("train.") for budget in BUDGETS]
    if not isinstance(section, Mapping) or all(section.get(name) is None for name in names):
        return dict(file)
    return {**file, "train": {**dict.fromkeys(names), **section}}


def _resumed(folder: Path, recipe: str | None, file: Mapping[str, Any], changes: Overrides) -> RunConfig:
    begun = compose(PixelRun(), file=read_yaml(folder / CONFIG))
    if recipe is not None and recipe != begun.recipe:
        raise UsageError(f"{folder}: is a run of {begun.recipe!r}, not of {recipe!r}; choose another --out")
    plan = _changed(compose(begun, file=_with_one_budget(file)), changes)
    fitted = begun.data.palette
    if fitted is not None and plan.data.palette == palette_size(fitted):  # the number of the fitted colors
        plan = plan.model_copy(update={"data": plan.data.model_copy(update={"palette": fitted})})
    before, after = flat(begun.model_dump(mode="json")), flat(plan.model_dump(mode="json"))
    changed = [key for key in after if after[key] != before.get(key) and not is_free(key)]
    if "data.source" in changed and _are_files(str(before["data.source"]), str(after["data.source"])):
        changed.remove("data.source")  # the data may have moved; their content is compared
    if changed:
        key = changed[0]
        raise UsageError(
            f"{key}: the run in {folder} was started with {before.get(key)!r}, not {after[key]!r}; "
            "only budgets, devices and intervals may change"
        )
    return plan


def is_free(field: str) -> bool:
    """Whether a dotted field may change when a run is resumed."""
    return field in _FREE


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{"model": {"channels": 64}} -> {"model.channels": 64}"""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return found


def _are_files(*sources: str) -> bool:
    """Whether all sources are paths, not names of data sets."""
    from pixelloom.data.catalog import DATASETS

    return not any(source in DATASETS or is_reference(source) for source in sources)
