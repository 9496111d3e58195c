"""Run folders: their files, and preparing one for a new run."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from pixelloom.core.atomic import lock_file, remove_parts, write_bytes
from pixelloom.core.errors import UsageError
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.launch import launch
from pixelloom.runs import locate
from pixelloom.runs.compose import compose, dump_yaml, read_yaml
from pixelloom.runs.config import PixelRun, RunConfig
from pixelloom.runs.renamed import RenamedError

RUNS, BEST = locate.RUNS, locate.BEST
CONFIG, METRICS_FILE, LAST = "config.yaml", "metrics.jsonl", "last"
CHECKPOINTS, LOCK = "checkpoints", ".lock"
_END = "# end of the configuration"
_OWN = (METRICS_FILE, "curves.png", "samples", CHECKPOINTS, BEST, LAST, "tensorboard")
"""What a run writes besides config.yaml; the next run replaces all of it."""
_log = logging.getLogger("pixelloom")


def open_folder(out: Path, config: RunConfig, note: str = "") -> None:
    """Create the folder of a run, remove partial files of killed processes, and write its configuration.

    ``note`` is added as a comment; the last line marks a file that was not cut.

    Raises:
        UsageError: if it cannot be created.
    """
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
        for folder in (out, *(path for path in map(out.joinpath, _OWN) if path.is_dir())):
            remove_parts(folder)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be created: {error.strerror}") from error
    comments = "".join(f"# {line}\n" for line in note.splitlines())
    write_bytes(out / CONFIG, (dump_yaml(config) + comments + f"{_END}\n").encode())


def warn_of_cut(out: Path) -> None:
    """Warn if the end of a run's configuration is missing."""
    try:
        lines = (out / CONFIG).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return  # the reader of the configuration says so
    if _END not in lines:
        _log.warning("%s: its last line, %r, is missing; was the file cut?", out / CONFIG, _END)


def is_first_process(config: TrainConfig) -> bool:
    """Whether this process is the one, of those that train together, that prepares the folder."""
    return launch(config.devices, config.nodes).rank == 0


def check_apart(source: str, out: Path) -> None:
    """Check that a run and its data are in different folders; otherwise the run's own images would become data.

    Raises:
        UsageError: if ``out`` is in or around the folder of the data, or a data file is part of the run.
    """
    data, folder = Path(source).expanduser().resolve(), out.expanduser().resolve()
    inside = data.is_relative_to(folder)
    if data.is_dir():
        apart = not inside and not folder.is_relative_to(data)
    else:
        apart = not (inside and data.is_file() and data.relative_to(folder).parts[:1] in [(name,) for name in _OWN])
    if not apart:
        raise UsageError(
            f"--out {out}: is in or around the data {source}, which would then contain the run's own images; "
            "choose a folder beside the data"
        )


@contextlib.contextmanager
def claimed(out: Path, *, resume: bool, force: bool) -> Iterator[None]:
    """Hold the lock of a run folder, after the checks of :func:`check_free`.

    Raises:
        UsageError: if another process trains in the folder, with its process id and host, or if the folder cannot be
            written; and as :func:`check_free`.
    """
    host, now = socket.gethostname(), datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    with contextlib.ExitStack() as stack:
        try:
            for folder in reversed([out, *out.parents]):
                if not folder.exists():
                    folder.mkdir(exist_ok=True)
                    stack.callback(_remove_if_empty, folder)
            other = stack.enter_context(lock_file(out / LOCK, f"process {os.getpid()} on {host}, since {now}"))
        except OSError as error:
            check_free(out, resume=resume, force=force)
            raise UsageError(f"--out {out}: cannot be created: {error.strerror}") from error
        if other is not None:
            raise UsageError(f"{out}: in use by {other}; let it end or stop it, or choose another --out")
        check_free(out, resume=resume, force=force)
        yield


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def check_free(out: Path, *, resume: bool, force: bool) -> None:
    """Check that a run may use a folder; nothing is changed.

    Raises:
        UsageError: if the folder holds a run that is neither resumed nor replaced, or other files of the same names.
    """
    if resume and force:
        raise UsageError("resume, force: choose one; resume continues the run in the folder, force replaces it")
    if resume and not (out / CONFIG).is_file():
        _log.warning("%s: no run to resume; starting one", out)
    held = _held(out)
    if resume or not held:
        return
    if not _is_run(out):
        raise UsageError(f"{out}: holds {', '.join(held)}, but not a run of Pixelloom; choose another --out")
    if not force:
        raise UsageError(f"{out}: holds a run already; resume it with --resume, or replace it with --force")


def clear(out: Path) -> None:
    """Remove the run in a folder. Called after data and device of the new run are known to work."""
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
    """What a run has written to the folder."""
    return [name for name in (CONFIG, *_OWN) if _holds(out / name)]


def _holds(path: Path) -> bool:
    """Whether a path is a file or a folder that is not empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _is_run(folder: Path) -> bool:
    try:
        compose(PixelRun(), file=read_yaml(folder / CONFIG))
    except RenamedError:  # a run of an earlier version
        return True
    except UsageError:
        return False
    return True
