"""Load, train and evaluate in one call each; the command line calls the same functions.

A run is planned (which recipe, which file, which overrides, which folder), its folder is claimed, then it is carried
out by :mod:`pixelloom.runs`.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pixelloom import measuring, runs
from pixelloom.config import PixelRun, RunConfig, compose, elsewhere, fields_of, read_yaml
from pixelloom.data import catalog
from pixelloom.data.config import DataConfig
from pixelloom.engine.fabric import choose_device
from pixelloom.engine.memory import out_of_memory
from pixelloom.errors import UsageError, did_you_mean, explain
from pixelloom.families import Model, load_model, need
from pixelloom.metrics.figures import Figure
from pixelloom.metrics.likelihood import Likelihood
from pixelloom.models import PixelModel
from pixelloom.recipes import recipe as named_run
from pixelloom.wiring import wire

_log = logging.getLogger("pixelloom")

Overrides = Mapping[str, object]
"""Dotted field -> value, such as ``{"model.channels": 64}``; strings are read as YAML."""

BUDGETS = ("train.minutes", "train.images", "train.epochs")
_MACHINE = ("device", "devices", "nodes", "threads", "workers", "timeout")
_INTERVALS = ("validate_every", "checkpoint_every", "sample_every")
# What may change when a run is resumed: how long, where and how watched, but not what is computed.
_FREE = (*BUDGETS, *(f"train.{name}" for name in (*_MACHINE, *_INTERVALS)), "data.root", "data.cache", "samples")
_OWN = (runs.METRICS, "curves.png", "samples", "checkpoints", runs.BEST, runs.LAST, "tensorboard")
"""What a run writes beside its config.yaml, which the next run replaces whole."""


def load(model: str | Path) -> Model:
    """The model of a run folder, a model folder, the name of a run under ``runs/``, or of a model that comes with the
    package (``pixelloom list models``); on the CPU.

    Raises:
        ModelError: if there is none, or its file is damaged or of another kind.
    """
    return load_model(runs.find(model))


def train(
    recipe: str | None = None,
    *,
    config: Path | str | None = None,
    data: Path | str | None = None,
    out: Path | str | None = None,
    minutes: float | None = None,
    images: int | None = None,
    epochs: float | None = None,
    seed: int | None = None,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    resume: bool = False,
    force: bool = False,
    overrides: Overrides | None = None,
) -> Model:
    """Train, and return the best model by validation.

    Args:
        recipe: name of a recipe or of a network.
        config: a YAML file of settings on top of the recipe, or a run's complete ``config.yaml``.
        data: name of a data set, or path of a folder, zip, array or list of pictures.
        out: the run folder; by default ``runs/<recipe>``.
        minutes: budget in wall-clock time. A budget given here takes the place of the recipe's.
        images: budget in images seen.
        epochs: budget in passes over the training set.
        seed: of the initial weights, the order of the data, dropout and samples.
        precision: "auto" is bf16 where the hardware has it.
        device: "auto" is CUDA where there is one.
        resume: go on with the run in ``out``.
        force: replace the run in ``out``.
        overrides: any other field, as ``{"model.channels": 32, "optim.lr": 1e-3}``.

    Raises:
        UsageError: for unknown names or values that are not allowed, or if ``out`` holds a run already.
        DataError: if the data cannot be read.
        ModelError: if the training diverges.
    """
    given: dict[str, object] = {
        "data.source": None if data is None else as_text(str(data)),
        "train.minutes": minutes,
        "train.images": images,
        "train.epochs": epochs,
        "train.seed": seed,
        "train.precision": precision,
        "train.device": device,
    }
    wishes = joined(overrides or {}, {field: value for field, value in given.items() if value is not None})
    plan, folder = planned(recipe, config=config, out=out, overrides=wishes, resume=resume)
    return load_model(carry_out(plan, folder, resume=resume, force=force))


def evaluate(
    model: Model, data: str | Path | DataConfig | None = None, split: str = "test", *, limit: int | None = None
) -> Likelihood:
    """Exact likelihood of a split: nats an image and a dimension, bits/dim, N and a 95 % interval.

    Args:
        model: a pixel model, see :func:`load`.
        data: by default what the model was trained on; a name or path is read with the settings of its training
            (levels, binarisation, size).
        split: "train", "val" or "test".
        limit: score so many images only, evenly spaced over the split.

    Raises:
        DataError: if the pictures are not of the model's shape and levels, or cannot be read.
        UsageError: for an unknown data set or split, or a latent model, which has no likelihood.
    """
    measuring.settled(model, (measuring.LIKELIHOOD,), split)  # which says why a model has none
    found = need(model, PixelModel, "a likelihood")
    config = data if isinstance(data, DataConfig) else data_for(model, None if data is None else str(data))
    return runs.evaluate(found, config, split, limit=limit)[0]


def measure(
    model: Model,
    data: str | Path | DataConfig | None = None,
    split: str = "test",
    *,
    metrics: Sequence[str] | None = None,
    features: str = "auto",
    n: int = measuring.N,
    seed: int = 0,
    limit: int | None = None,
) -> list[Figure]:
    """Figures of samples, beside those that real pictures get in their place (``floor``).

    Args:
        model: of any family, see :func:`load`.
        data: as in :func:`evaluate`.
        split: "val" or "test"; "train" without the metric nearest.
        metrics: of kid, fd, precision, recall, density, coverage, nearest, accuracy; by default all that apply and for
            which there are pictures enough.
        features: in what pictures are compared: "lenet-mnist", "random", "pixels", "inception=FILE" with the weights of
            published FIDs (docs/metrics.md), or "auto".
        n: samples to draw.
        seed: of the samples, and of every choice among real pictures.
        limit: so many held-out pictures at most, drawn at random.

    Raises:
        UsageError: for an unknown metric, extractor, data set or split, or a metric that does not apply.
        DataError: if there are too few pictures for a metric, or they do not fit the model, or cannot be read.
        ModelError: if the file of "inception=FILE" cannot be used.
    """
    names = measuring.settled(model, metrics or (measuring.ALL,), split)
    if metrics and measuring.LIKELIHOOD in names:
        raise UsageError("metrics: 'likelihood' is no figure of samples; pixelloom.evaluate gives it")
    config = data if isinstance(data, DataConfig) else data_for(model, None if data is None else str(data))
    asked = tuple(name for name in names if name != measuring.LIKELIHOOD)
    wishes = measuring.Wishes(asked, features, n, seed, split, limit, forgiving=not metrics)
    return measuring.measure(model, catalog.load_for(model.spec, config), wishes).figures


def data_for(model: Model, source: str | None = None, changes: Overrides | None = None) -> DataConfig:
    """Data in the form that a model was trained with; ``changes`` are fields of :class:`DataConfig`.

    Raises:
        UsageError: for fields that are not allowed, or without a source if the model names none.
    """
    trained = dict(model.description.trained.get("data", {}))
    if source is None and "source" not in trained:
        raise UsageError("data: this model does not say what it was trained on; name the data")
    for folder in ("root", "cache"):  # of the machine that trained it
        if trained.get(folder) and not Path(trained[folder]).expanduser().is_dir():
            del trained[folder]
    named: dict[str, object] = {}
    if source is not None and source != trained.get("source"):
        # What training left as published other data may not have: ask for the form that the model takes.
        spec = model.spec
        needed = {"size": f"{spec.height}x{spec.width}", "grey": spec.channels == 1}
        if trained.get("binarize", "none") == "none":
            needed["levels"] = spec.levels
        named = {"source": source} | {key: value for key, value in needed.items() if not trained.get(key)}
    try:
        return DataConfig.model_validate(trained | named | dict(changes or {}))
    except ValidationError as error:
        raise UsageError(f"data: {explain(error)}") from error


def as_text(value: str) -> str:
    """A string that stays one when it is read as YAML: a folder may be called 2024."""
    return "'" + value.replace("'", "''") + "'"


def joined(first: Overrides, second: Overrides) -> dict[str, object]:
    """Both, for fields that may be written in two ways.

    Raises:
        UsageError: if one field is given twice.
    """
    twice = sorted(first.keys() & second.keys())
    if twice:
        raise UsageError(f"{twice[0]}: given twice, as a field and as an option of its own; drop one")
    return {**first, **second}


def planned(
    recipe: str | None,
    *,
    config: Path | str | None = None,
    out: Path | str | None = None,
    overrides: Overrides | None = None,
    resume: bool = False,
) -> tuple[RunConfig, Path]:
    """What a run will do, and in which folder.

    A budget in ``overrides`` or in the file takes the place of all budgets before it. With ``resume`` the run's own
    configuration is kept, but for its budget and what does not change its result.

    Raises:
        UsageError: for unknown names, values that are not allowed, or another run than the one to resume.
    """
    file = read_yaml(Path(config)) if config is not None else {}
    if recipe is None and config is None and not (resume and out is not None):
        raise UsageError("recipe: name a recipe or a network (see `pixelloom list`), or give --config FILE")
    changes = _one_budget(overrides or {})
    folder = Path(out) if out is not None else _default_folder(recipe, config, file)
    if resume and (folder / runs.CONFIG).is_file():
        return _resumed(folder, recipe, file, changes), folder
    if recipe is None and config is None:
        raise UsageError(f"{folder}: no run to resume here: it has no {runs.CONFIG}")
    base = compose(named_run(recipe) if recipe is not None else PixelRun(), file=_with_one_budget(file))
    return _changed(base, changes), folder


def _changed(base: RunConfig, overrides: Overrides) -> RunConfig:
    """``compose``, after a look at the names: a slip in one is told before what its value might do."""
    network = str(overrides.get("network", base.network))
    for path in overrides:
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


def carry_out(plan: RunConfig, out: Path, *, resume: bool = False, force: bool = False) -> Path:
    """Claim the folder and train; returns the model folder.

    Raises:
        UsageError: if ``out`` holds a run and neither ``resume`` nor ``force`` is set, or the memory does not suffice;
            else as :func:`train`.
    """
    if is_first_process():
        _claim(plan, out, resume=resume, force=force)
    try:
        return runs.train(plan, out, resume=resume)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UsageError(
            f"out of memory with train.batch={plan.train.batch}; halve it, or set train.accumulate="
            f"{plan.train.accumulate * 2} to keep the batch and use half the memory"
        ) from error


def _default_folder(recipe: str | None, config: Path | str | None, file: Mapping[str, Any]) -> Path:
    return runs.RUNS / (recipe or str(file.get("recipe") or Path(str(config)).stem))


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
    begun = compose(PixelRun(), file=read_yaml(folder / runs.CONFIG))
    if recipe is not None and recipe != begun.recipe:
        raise UsageError(f"{folder}: is a run of {begun.recipe!r}, not of {recipe!r}; choose another --out")
    plan = _changed(compose(begun, file=_with_one_budget(file)), changes)
    before, after = _flat(begun.model_dump(mode="json")), _flat(plan.model_dump(mode="json"))
    changed = [key for key in after if after[key] != before.get(key) and key not in _FREE]
    if changed:
        key = changed[0]
        raise UsageError(
            f"{key}: the run in {folder} was begun with {before.get(key)!r} and cannot be resumed with {after[key]!r}; "
            "budgets, devices and intervals may change"
        )
    return plan


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return flat


def is_first_process() -> bool:
    """Whether this process is the one that prepares the folder, when several are started for one run."""
    ranks = (os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ)
    return int(next(ranks, "0")) == 0


def _claim(plan: RunConfig, out: Path, *, resume: bool, force: bool) -> None:
    """Refuse a folder that holds something, or make room in it.

    An old run is removed only when the new one is known to have its data and its device: a slip in a name must not
    cost the old run.
    """
    if resume and force:
        raise UsageError("resume, force: one goes on with the run that is there, the other replaces it; choose one")
    if resume and not (out / runs.CONFIG).is_file():
        _log.warning("%s: no run to resume here; beginning one", out)
    held = [name for name in (runs.CONFIG, *_OWN) if _holds(out / name)]
    if resume or not held:
        return
    if not _is_run(out):
        raise UsageError(f"{out}: holds {', '.join(held)}, but is no run of Pixelloom; choose another --out")
    if not force:
        raise UsageError(f"{out}: holds a run already; go on with it by --resume, or replace it by --force")
    choose_device(plan.train)
    wire(plan, catalog.load(plan.data))
    for name in _OWN:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    _log.warning("%s: removed the run that was there (%s)", out, ", ".join(held))


def _holds(path: Path) -> bool:
    """Whether there is a file, or a folder with something in it."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _is_run(folder: Path) -> bool:
    try:
        compose(PixelRun(), file=read_yaml(folder / runs.CONFIG))
    except UsageError:
        return False
    return True
