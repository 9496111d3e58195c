"""``pixelloom train``"""

from __future__ import annotations

from pathlib import Path

from pixelloom.cli.console import say
from pixelloom.cli.options import NO_DATA, NO_FIELDS, NO_TRAINING, DataOptions, Fields, Flag, TrainOptions, set_fields


def train(
    recipe: str | None = None,
    /,
    *,
    config: Path | None = None,
    out: Path | None = None,
    resume: Flag = False,
    force: Flag = False,
    pictures: DataOptions = NO_DATA,
    training: TrainOptions = NO_TRAINING,
    fields: Fields = NO_FIELDS,
) -> None:
    """Train a model; writes a run folder with the model, its curves, samples, figures and checkpoints.

    Args:
        recipe: Name of a recipe or a network; `pixelloom list` shows them.
        config: A YAML file of settings on top of the recipe; a run's own config.yaml repeats that run.
        out: The run folder; by default runs/RECIPE.
        resume: Go on with the run in that folder, with its own settings; budgets may be changed.
        force: Replace the run in that folder; what it wrote is removed, files of your own stay.
        pictures: The data.
        training: Budget, seed and device.
        fields: Everything else.
    """
    from pixelloom.runs.folder import is_first_process
    from pixelloom.runs.plan import as_text, joined, planned
    from pixelloom.runs.train import carry_out

    options = {f"data.{name}": value for name, value in pictures.settings().items()}
    options |= {f"train.{name}": value for name, value in set_fields(training).items()}
    plain = {name: as_text(value) if isinstance(value, str) else value for name, value in options.items()}
    overrides = joined(fields.dotted(), plain)
    plan, folder = planned(recipe, config=config, out=out, overrides=overrides, resume=resume)
    carry_out(plan, folder, resume=resume, force=force)
    if is_first_process():
        say(str(folder))
