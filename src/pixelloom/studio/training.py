"""Training on the page: ``pixelloom train`` as a process of its own, whose run folder is watched.

Only the page on this computer trains. A run goes on when the page is closed; it stops at the end of the studio, with a
checkpoint.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pixelloom.core.errors import UsageError
from pixelloom.runs.folder import BEST, METRICS_FILE, RUNS
from pixelloom.runs.recipes import RECIPES

PICKED = "picked for the data"
LONGEST = 7 * 24 * 60.0
"""Minutes of a run, at most."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GRACE = 60.0  # seconds that a stopped run may take for its checkpoint
_TAIL = 4_000  # bytes of the log that are shown


@dataclass(frozen=True)
class Watched:
    """What a run shows.

    Attributes:
        running: whether its process runs.
        code: exit code of the process; None if it runs, or was not started here.
        log: the end of its messages.
        curves: the file of the curves; None before the first validation.
        samples: the newest file of samples.
        model: whether there is a model already.
    """

    running: bool
    code: int | None
    log: str
    curves: Path | None
    samples: Path | None
    model: bool


def run_folder(name: object) -> Path:
    """The folder of a run under ``runs/``.

    Raises:
        UsageError: for a name that is no plain one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError("run: a name of letters, digits, '.', '_' and '-', such as my-images")
    return RUNS / name


def command(name: object, recipe: object, data: object, minutes: object, *, resume: bool = False) -> list[str]:
    """The words of ``pixelloom train``.

    Args:
        name: of the run.
        recipe: a recipe, or PICKED.
        data: folder of images, or name of a data set; empty for that of the recipe or of the resumed run.
        minutes: budget.
        resume: continue the run.

    Raises:
        UsageError: for values that are not allowed.
    """
    words = [sys.executable, "-m", "pixelloom", "train"]
    out = run_folder(name)
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes <= LONGEST:
        raise UsageError(f"minutes: a number above 0, at most {LONGEST:g}")
    if resume:
        return [*words, f"--out={out}", "--resume", f"--minutes={minutes:g}"]
    if recipe not in (PICKED, *RECIPES):
        raise UsageError(f"recipe: {PICKED}, or one of {', '.join(RECIPES)}")
    if not isinstance(data, str) or "\0" in data:
        raise UsageError("data: a folder of images, or the name of a data set")
    if recipe == PICKED and not data.strip():
        raise UsageError("data: name a folder of images, or choose a recipe")
    words += [] if recipe == PICKED else [str(recipe)]
    words += [f"--data={data.strip()}"] if data.strip() else []
    return [*words, f"--out={out}", f"--minutes={minutes:g}"]


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    log: Path


class Trainings:
    """The training processes of a studio.

    Args:
        logs: folder for their messages.
        environment: environment of the processes.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str] | None = None) -> None:
        self._logs, self._environment = logs, dict(os.environ if environment is None else environment)
        self._running: dict[str, _Process] = {}
        self._lock = threading.Lock()

    def start(self, name: str, recipe: object, data: object, minutes: object, *, resume: bool = False) -> str:
        """Start or resume a run in a process group of its own; returns its command.

        Raises:
            UsageError: for values that are not allowed, or a run that is in progress.
        """
        words = command(name, recipe, data, minutes, resume=resume)
        if resume and not run_folder(name).is_dir():
            raise UsageError(f"{run_folder(name)}: no run to resume")
        with self._lock:
            if self._runs(name):
                raise UsageError(f"{name}: is in progress; stop it first, or choose another name")
            log = self._logs / f"{name}.log"
            with log.open("wb") as file:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                    env=self._environment,
                )  # fmt: skip
            self._running[name] = _Process(process, log)
        return " ".join(["pixelloom", *words[3:]])

    def _runs(self, name: str) -> bool:
        return name in self._running and self._running[name].process.poll() is None

    def stop(self, name: str) -> None:
        """Ask a run to stop, which saves a checkpoint first.

        Raises:
            UsageError: if it does not run.
        """
        with self._lock:
            if not self._runs(name):
                raise UsageError(f"{name}: is not in progress here")
            self._running[name].process.send_signal(signal.SIGTERM)

    def watch(self, name: object) -> Watched:
        """The state of a run, also of one that was trained before.

        Raises:
            UsageError: for a name that is no plain one.
        """
        out = run_folder(name)
        with self._lock:
            known = self._running.get(str(name))
        code = None if known is None else known.process.poll()
        log = b"" if known is None else known.log.read_bytes()[-_TAIL:]
        samples = sorted((out / "samples").glob("*.png"), key=lambda path: path.stat().st_mtime_ns)
        curves = out / "curves.png"
        return Watched(
            running=known is not None and code is None,
            code=code,
            log=log.decode("utf-8", "replace").replace("\r", "\n"),
            curves=curves if curves.is_file() else None,
            samples=samples[-1] if samples else None,
            model=(out / BEST).is_dir() or (out / METRICS_FILE).is_file(),
        )

    def close(self) -> None:
        """Stop all runs with a checkpoint, and wait for them."""
        with self._lock:
            processes = [each.process for each in self._running.values() if each.process.poll() is None]
            for process in processes:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
