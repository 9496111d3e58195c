"""``pixelloom train``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pixelloom.cli.console import say
from pixelloom.cli.options import Flag
from pixelloom.cli.sweep import sweep_runs
from pixelloom.cli.training_options import (
    NO_DATA,
    NO_FIELDS,
    NO_TRAINING,
    SECTIONS,
    DataOptions,
    FieldOptions,
    TrainOptions,
    data_settings,
    dotted,
)
from pixelloom.core.errors import UsageError, did_you_mean
from pixelloom.runs import renamed
from pixelloom.runs.names import check_name


def train(
    recipe: str | None = None,
    /,
    *,
    config: Path | None = None,
    start: Annotated[str | None, Parameter(name="--from")] = None,
    out: Path | None = None,
    resume: Flag = False,
    force: Flag = False,
    allow_changed_data: Flag = False,
    sweep: Annotated[tuple[str, str] | None, Parameter(negative_iterable="")] = None,
    data: DataOptions = NO_DATA,
    training: TrainOptions = NO_TRAINING,
    fields: FieldOptions = NO_FIELDS,
) -> None:
    """Train a model and write a run folder with the model, training curves, samples, metrics and checkpoints.

    Args:
        recipe: Name of a recipe or a network, see `pixelloom list`; default: one that is picked for the images of
            --data, the device and the budget.
        config: YAML file with settings that override the recipe; the config.yaml of a run repeats the run.
        start: Model whose weights the run starts from (fine-tuning): run folder, model folder, or name. Layers of the
            same name and shape are loaded, the others are named.
        out: Run folder; default: runs/RECIPE, or runs/RECIPE-DATA for other data, with a number if it is taken.
        resume: Resume the run in that folder with its own settings; its budget may be changed.
        force: Replace the run in that folder; other files in the folder are kept.
        allow_changed_data: Resume on data whose content is not that of the run.
        sweep: FIELD VALUES: one run for each value of a numeric field, as in `--sweep penalties.r1 0.01,0.1,1`, each
            with the budget given and in its own folder, and a table of their results.
        data: Data and its transforms.
        training: Budget, seed and device.
        fields: All other fields of the configuration.
    """
    if recipe is not None:
        check_name(recipe)
    _check_names(data, dotted(fields))
    from pixelloom.runs.folder import is_first_process
    from pixelloom.runs.plan import as_text, joined, planned
    from pixelloom.runs.train import carry_out

    options = {f"data.{name}": value for name, value in data_settings(data).items()}
    options |= {f"train.{name}": value for name, value in training.given().items()}
    plain = {name: as_text(value) if isinstance(value, str) else value for name, value in options.items()}
    overrides = joined(dotted(fields), plain | ({} if start is None else {"start": as_text(start)}))
    if sweep is not None:
        if allow_changed_data:
            raise UsageError("--sweep: leave out --allow-changed-data")
        sweep_runs(recipe, sweep, overrides, config=config, out=out, resume=resume, force=force)
        return
    plan, folder = planned(recipe, config=config, out=out, overrides=overrides, resume=resume, force=force)
    carry_out(plan, folder, resume=resume, force=force, changed_data=allow_changed_data)
    if is_first_process(plan.train):
        say(str(folder))


def _check_names(data: DataOptions, given: Mapping[str, object]) -> None:
    """Check the names of data and fields before torch is imported; the plan of a run checks fields of its model too."""
    for path, value in given.items():
        section, _, leaf = path.partition(".")
        known = SECTIONS.get(section, ())
        if known and leaf and "." not in leaf and leaf not in known and not renamed.renamed(path, value):
            raise UsageError(
                f"--{path}: no such field of {section}.{did_you_mean(leaf, known)} Known: {', '.join(known)}"
            )
    if source := data_settings(data).get("source"):
        from pixelloom.data.catalog import check_source

        check_source(source)
