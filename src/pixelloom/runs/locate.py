"""Finding the folder of a model by name, without torch, so that an unknown name is a fast error."""

from __future__ import annotations

from pathlib import Path

from pixelloom.core.errors import ModelError, did_you_mean
from pixelloom.hub.reference import Reference, is_reference
from pixelloom.hub.snapshots import model_folder
from pixelloom.models import pretrained
from pixelloom.models.files import WEIGHTS

RUNS = Path("runs")
BEST = "model"


def find(name: str | Path) -> Path:
    """Find the model folder of MODEL: a model folder, a run folder, a run under ``runs/``, or a pretrained model.

    ``hf:USER/NAME@REVISION`` is a model on the Hugging Face hub, which is downloaded into its cache.

    Raises:
        ModelError: if there is none; the message suggests the nearest name.
    """
    if is_reference(name):
        return model_folder(Reference.parse(str(name)))
    if Path(name).name == WEIGHTS and Path(name).is_file():  # the weights themselves
        return Path(name).parent
    for folder in (Path(name), Path(name) / BEST, RUNS / name / BEST):
        if (folder / WEIGHTS).is_file():
            return folder
    if str(name) in pretrained.MODELS:
        return pretrained.folder(str(name))
    if Path(name).exists():
        raise ModelError(
            f"{name}: holds no model; expected {WEIGHTS} in it or in its folder {BEST!r} (saved by a validation)"
        )
    known = sorted(path.parent.parent.name for path in RUNS.glob(f"*/{BEST}/{WEIGHTS}"))
    have = f" Runs: {', '.join(known)}." if known else " Train one with: pixelloom train digits --minutes 1"
    come = f" Pretrained: {', '.join(pretrained.MODELS)}" if pretrained.MODELS else ""
    near = did_you_mean(str(name), [*known, *pretrained.MODELS])
    raise ModelError(f"no model is called {str(name)!r}.{near}{have}{come}")
