"""Run folders: what lies in one, which of them a name means, and how one is made ready for a new run."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from pixelloom.core.atomic import write_bytes
from pixelloom.core.errors import ModelError, UsageError, did_you_mean
from pixelloom.models import pretrained
from pixelloom.models.description import WEIGHTS
from pixelloom.runs.compose import compose, dump_yaml, read_yaml
from pixelloom.runs.config import PixelRun, RunConfig

RUNS = Path("runs")
CONFIG, METRICS_FILE, BEST, LAST = "config.yaml", "metrics.jsonl", "model", "last"
_OWN = (METRICS_FILE, "curves.png", "samples", "checkpoints", BEST, LAST, "tensorboard")
"""What a run writes beside its config.yaml, which the next run replaces whole."""
_log = logging.getLogger("pixelloom")


def find(name: str | Path) -> Path:
    """The model folder that MODEL means: a run folder, a model folder, the name of a run under ``runs/``, or that of a
    model that comes with the package, in this order.

    Raises:
        ModelError: if there is none, with the nearest name.
    """
    for folder in (Path(name), Path(name) / BEST, RUNS / name / BEST):
        if (folder / WEIGHTS).is_file():
            return folder
    if str(name) in pretrained.PRETRAINED:
        return pretrained.folder(str(name))
    if Path(name).exists():
        raise ModelError(
            f"{name}: holds no model; expected {WEIGHTS} in it or in its folder {BEST!r} (has its training validated?)"
        )
    known = sorted(path.parent.parent.name for path in RUNS.glob(f"*/{BEST}/{WEIGHTS}"))
    have = f" Runs here: {', '.join(known)}." if known else " Train one with: pixelloom train digits --minutes 1"
    come = f" With the package: {', '.join(pretrained.PRETRAINED)}" if pretrained.PRETRAINED else ""
    near = did_you_mean(str(name), [*known, *pretrained.PRETRAINED])
    raise ModelError(f"no model is called {str(name)!r}.{near}{have}{come}")


def open_folder(out: Path, config: RunConfig) -> None:
    """Make the folder of a run, and write its configuration.

    Raises:
        UsageError: if it cannot be made.
    """
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made: {error.strerror}") from error
    write_bytes(out / CONFIG, dump_yaml(config).encode())


def is_first_process() -> bool:
    """Whether this process is the one that prepares the folder, when several are started for one run."""
    ranks = (os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ)
    return int(next(ranks, "0")) == 0


def check_free(out: Path, *, resume: bool, force: bool) -> None:
    """Refuse a folder that holds a run, unless it is to be resumed or replaced; nothing is changed.

    Raises:
        UsageError: for such a folder, or one that holds something else.
    """
    if resume and force:
        raise UsageError("resume, force: one goes on with the run that is there, the other replaces it; choose one")
    if resume and not (out / CONFIG).is_file():
        _log.warning("%s: no run to resume here; beginning one", out)
    held = _held(out)
    if resume or not held:
        return
    if not _is_run(out):
        raise UsageError(f"{out}: holds {', '.join(held)}, but is no run of Pixelloom; choose another --out")
    if not force:
        raise UsageError(f"{out}: holds a run already; go on with it by --resume, or replace it by --force")


def clear(out: Path) -> None:
    """Remove the run in a folder, once the new one is known to have its data and its device: a typo must not cost it."""
    held = _held(out)
    for name in _OWN:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if held:
        _log.warning("%s: removed the run that was there (%s)", out, ", ".join(held))


def _held(out: Path) -> list[str]:
    """What a run has written there."""
    return [name for name in (CONFIG, *_OWN) if _holds(out / name)]


def _holds(path: Path) -> bool:
    """Whether there is a file, or a folder with something in it."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _is_run(folder: Path) -> bool:
    try:
        compose(PixelRun(), file=read_yaml(folder / CONFIG))
    except UsageError:
        return False
    return True
