"""``pixelloom pull``: download a model of the Hugging Face hub into a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from pixelloom.cli.console import say, say_json
from pixelloom.cli.options import Flag
from pixelloom.core.errors import UsageError


def pull(
    repository: str,
    /,
    *,
    out: Path | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Download a model of the Hugging Face hub into a folder, after a check of its hash and its weights.

    Any command takes hf:USER/NAME as MODEL, too, and then uses the cache of the hub.

    Args:
        repository: USER/NAME or USER/NAME@REVISION.
        out: Model folder to write; default: runs/NAME/model, so that NAME is the name of the model.
        force: Replace the model in the folder.
        json: Print one JSON object.
    """
    from pixelloom.core.atomic import whole_folder
    from pixelloom.hub.reference import Reference
    from pixelloom.hub.snapshots import MODEL_FILES, model_folder
    from pixelloom.models.description import FILES, WEIGHTS
    from pixelloom.models.registry import load_model
    from pixelloom.runs.folder import BEST, RUNS

    reference = Reference.parse(repository)
    folder = out or RUNS / reference.name / BEST
    if (folder / WEIGHTS).exists() and not force:
        raise UsageError(f"{folder}: holds a model already; choose another --out, or add --force")
    cached = model_folder(reference)
    load_model(cached)
    with whole_folder(folder, FILES) as target:
        for name in MODEL_FILES:
            if (cached / name).is_file():
                shutil.copyfile(cached / name, target / name)
    if json:
        say_json({"folder": str(folder), "model": str(reference), "commit": cached.name})
        return
    say(f"commit      {cached.name}")
    say(f"folder      {folder}")
