"""Hooks: progress, metrics files, validation, samples.

A hook that uses the best value of the monitored metric must come after :class:`Validate`; otherwise any order works.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from torch import nn

from pixelloom.core.atomic import cannot_write, write_bytes
from pixelloom.core.metrics_file import read_metrics
from pixelloom.engine.state import Hook, Run, State

_log = logging.getLogger("pixelloom")
_SHOW_BAR, _SHOW_LINES = 0.2, 10.0  # seconds between updates, on a terminal and elsewhere
_SMOOTH = 0.95  # weight of the past in the displayed statistics
_SHARE = 0.1  # of a budget in minutes that validation may use


class Progress(Hook):
    """Show speed, smoothed statistics and time left: a bar on a terminal, otherwise a line every ten seconds."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, force_jupyter=False)  # plain lines in a notebook too
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def on_start(self, run: Run) -> None:
        """Start counting; images before a resumption do not count for the speed."""
        self._from = (run.state.images, run.state.seconds, run.progress)
        self._shown = time.monotonic()
        self._means: dict[str, float] = {}
        if self.console.is_terminal:
            self._bar = Bar(BarColumn(24), TextColumn("{task.description}"), console=self.console, transient=True)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Add the statistics of a step, and update the display if it is time."""
        for name, value in stats.items():
            self._means[name] = _SMOOTH * self._means.get(name, value) + (1 - _SMOOTH) * value
        wait = _SHOW_BAR if self._bar else _SHOW_LINES
        if time.monotonic() - self._shown < wait and run.progress < 1:
            return
        self._shown = time.monotonic()
        if self._bar:
            with contextlib.suppress(OSError):  # the terminal was closed
                self._bar.update(self._task, completed=run.progress, description=self.line(run))
        else:
            self._print(f"{min(run.progress, 1):4.0%}  {self.line(run)}")

    def on_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Print the metrics as a permanent line, if there are any."""
        if not metrics:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._print(f"validation after {run.epochs:.3g} epochs: {text}")

    def during(self, run: Run, what: str) -> None:
        """Show what is done between two steps, such as a validation, if it is time."""
        wait = _SHOW_BAR if self._bar else _SHOW_LINES
        if time.monotonic() - self._shown < wait:
            return
        self._shown = time.monotonic()
        if self._bar:
            with contextlib.suppress(OSError):
                self._bar.update(self._task, description=f"{self.line(run)}  {what}")
        else:
            self._print(f"{min(run.progress, 1):4.0%}  {what}")

    def line(self, run: Run) -> str:
        """Return a line such as ``"12,800 images  0.21 epochs  950 images/s  loss 1.91  0:41 left"``."""
        images, seconds, progress = self._from
        used, done = run.state.seconds - seconds, run.progress - progress
        speed = (run.state.images - images) / max(used, 1e-9)
        left = max(used * (1 - run.progress) / done, 0.0) if done > 0 else math.inf
        parts = [f"{run.state.images:,} images", f"{run.epochs:.3g} epochs", f"{speed:,.0f} images/s"]
        own = {k: v for k, v in self._means.items() if not k.endswith(("/loss", "/norm", "/rate"))}
        shown = own or {k: v for k, v in self._means.items() if k.endswith("/loss")}
        parts += [f"{name} {value:.4g}" for name, value in shown.items()]
        if math.isfinite(left):
            parts.append(f"{int(left) // 60}:{int(left) % 60:02d} left")
        return "  ".join(parts)

    def close(self) -> None:
        """Remove the bar and restore the cursor."""
        if self._bar:
            with contextlib.suppress(OSError):
                self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class MetricsWriter(Hook):
    """Writes JSON lines ``{"split": "train" | "val", "step", "images", "epochs", "seconds", ...metrics}``.

    Training statistics are means over the ``interval`` steps since the line before. A resumed run first removes the
    lines of steps that it repeats, and damaged lines. The statistics since the last line are kept with each
    checkpoint, so its lines are those of an uninterrupted run.

    Raises:
        ModelError: if the file cannot be written; it then ends with its last complete line.
    """

    def __init__(self, path: Path, interval: int = 10) -> None:
        self.path, self.interval = path, interval
        self._file: BinaryIO | None = None
        self._window: list[Mapping[str, float]] = []

    def on_start(self, run: Run) -> None:
        """Open the file and remove lines after the current step."""
        lines, damaged = read_metrics(self.path) if self.path.exists() else ([], 0)
        if damaged:
            _log.warning("%s: removed %d damaged line%s", self.path, damaged, "s" * (damaged > 1))
        kept = [line for line in lines if line.get("step", math.inf) <= run.state.step]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._window = run.notes["window"] = _window(run.notes.get("window"), self.interval)
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(self.path, 0, error) from error

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Add the statistics of a step, and write a line every ``interval`` steps and at the end."""
        self._window.append(dict(stats))
        if run.state.step % self.interval and run.progress < 1:
            return
        names = dict.fromkeys(name for stats in self._window for name in stats)
        columns = {name: [s[name] for s in self._window if name in s] for name in names}
        self._write(run, "train", {name: math.fsum(values) / len(values) for name, values in columns.items()})
        self._window.clear()

    def on_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Write a line."""
        self._write(run, "val", metrics)

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _write(self, run: Run, split: str, values: Mapping[str, float]) -> None:
        assert self._file is not None
        at = {"split": split, "step": run.state.step, "images": run.state.images}
        times = {"epochs": round(run.epochs, 6), "seconds": round(run.state.seconds, 3)}
        line = (json.dumps({**at, **times, **values}) + "\n").encode()
        size = self._file.tell()
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise cannot_write(self.path, len(line), error) from error


def _window(values: object, interval: int) -> list[Mapping[str, float]]:
    """Statistics of steps from a checkpoint; empty for anything else."""
    found = values if isinstance(values, list) and len(values) < interval else []
    numbers = all(isinstance(s, dict) and all(type(v) in (int, float) for v in s.values()) for s in found)
    return list(found) if numbers else []


class BudgetUsedError(Exception):
    """A validation or drawing was given up, since the budget in minutes is used up."""


class Validate(Hook):
    """Evaluates the objective's monitor with EMA weights, and records the best value.

    It runs every ``validate_every`` images, by default 20 times per run, and at the end. With a budget in minutes a
    validation is skipped while those since the start of this process have used more than a tenth of the run's time,
    and one that raises BudgetUsedError is left out. A signal gives up a validation, which a resumed run then repeats.

    ``on_best(module, metrics, state)`` is called with the validated module, in eval mode, whenever the monitored metric
    is the lowest so far, or always if the monitor does not select.
    """

    def __init__(self, on_best: Callable[[nn.Module, Mapping[str, float], State], None] | None = None) -> None:
        self.on_best = on_best
        self._seconds = 0.0

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Validate if it is due."""
        if not run.due(run.config.validate_every, 20):
            return
        if run.config.minutes and run.progress < 1 and self._seconds > _SHARE * run.state.seconds:
            return
        begun = time.monotonic()
        monitor, state = run.objective.monitor, run.state
        try:
            with run.signals.interruptible(), run.ema_weights() as module:
                metrics = monitor.measure(module)
        except BudgetUsedError:
            _log.info("the validation after step %d was given up: the budget is used up", state.step)
            return
        with run.ema_weights() as module:
            value = metrics[monitor.name] if monitor.name else 0.0
            if math.isfinite(value) and (state.best is None or value < state.best or not monitor.selects):
                state.best, state.best_step = value, state.step
                if self.on_best:
                    self.on_best(module, metrics, state)
        self._seconds += time.monotonic() - begun
        run.report(metrics)


class EverySamples(Hook):
    """Calls ``draw(module, state)`` every ``sample_every`` images, by default 10 times per run, and at the end.

    A signal gives up drawing, which a resumed run then repeats.
    """

    def __init__(self, draw: Callable[[nn.Module, State], None]) -> None:
        self.draw = draw

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Draw if it is due."""
        if run.due(run.config.sample_every, 10):
            with run.signals.interruptible(), run.ema_weights() as module:
                self.draw(module, run.state)
