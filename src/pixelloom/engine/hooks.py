"""What looks on while a model is trained: progress, curves, validation, samples. Each is a :class:`Hook`.

Order matters in one respect: a hook that shows validation figures may stand anywhere, but what depends on the best
figure must come after :class:`Validate`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from torch import nn

from pixelloom.core.atomic import write_bytes
from pixelloom.engine.state import Hook, Run, State

_SHOW_BAR, _SHOW_LINES = 0.2, 10.0  # seconds between two updates on a terminal, and elsewhere
_SMOOTH = 0.95  # weight of the past in the figures shown
_SHARE = 0.1  # of a budget in minutes that validation may take


class Progress(Hook):
    """Images/s, smoothed statistics and time left: a bar on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def on_start(self, run: Run) -> None:
        """Begin to count; images of before a resumption do not count as speed."""
        self._from = (run.state.images, run.state.seconds, run.progress)
        self._shown = time.monotonic()
        self._means: dict[str, float] = {}
        if self.console.is_terminal:
            self._bar = Bar(BarColumn(24), TextColumn("{task.description}"), console=self.console, transient=True)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Take in the round; show where the run stands now and then."""
        for name, value in stats.items():
            self._means[name] = _SMOOTH * self._means.get(name, value) + (1 - _SMOOTH) * value
        wait = _SHOW_BAR if self._bar else _SHOW_LINES
        if time.monotonic() - self._shown < wait and run.progress < 1:
            return
        self._shown = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=run.progress, description=self.line(run))
        else:
            self._print(f"{min(run.progress, 1):4.0%}  {self.line(run)}")

    def on_validation(self, run: Run, figures: Mapping[str, float]) -> None:
        """Print the figures as a line that stays."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._print(f"validation after {run.epochs:.3g} epochs: {text}")

    def line(self, run: Run) -> str:
        """``"12,800 images  0.21 epochs  950 images/s  bits_per_dim 1.91  0:41 left"``"""
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
        """Give the terminal back."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class MetricsWriter(Hook):
    """JSON lines: ``{"split": "train" | "val", "step", "images", "epochs", "seconds", ...figures}``.

    Training figures are means over the rounds since the line before. After a resumption the lines of steps that are
    taken again are dropped first.
    """

    def __init__(self, path: Path, every: int = 10) -> None:
        self.path, self.every = path, every
        self._file: TextIO | None = None
        self._window: list[Mapping[str, float]] = []

    def on_start(self, run: Run) -> None:
        """Open the file, cut back to the step at which the run goes on."""
        kept = [line for line in self._lines() if line["step"] <= run.state.step]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = self.path.open("a", encoding="utf-8")

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Take in the round; write a line every ``every`` rounds and at the end."""
        self._window.append(stats)
        if run.state.step % self.every and run.progress < 1:
            return
        names = dict.fromkeys(name for stats in self._window for name in stats)
        columns = {name: [s[name] for s in self._window if name in s] for name in names}
        self._write(run, "train", {name: math.fsum(values) / len(values) for name, values in columns.items()})
        self._window.clear()

    def on_validation(self, run: Run, figures: Mapping[str, float]) -> None:
        """Write the figures."""
        self._write(run, "val", figures)

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _write(self, run: Run, split: str, figures: Mapping[str, float]) -> None:
        assert self._file is not None
        at = {"split": split, "step": run.state.step, "images": run.state.images}
        times = {"epochs": round(run.epochs, 6), "seconds": round(run.state.seconds, 3)}
        self._file.write(json.dumps({**at, **times, **figures}) + "\n")
        self._file.flush()

    def _lines(self) -> list[dict[str, Any]]:
        """The lines of the file that are whole: a killed run may leave half of one."""
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines


class TensorBoard(Hook):
    """The same figures as TensorBoard events; make one only if :meth:`installed`."""

    def __init__(self, folder: Path, every: int = 10) -> None:
        self.folder, self.every = folder, every
        self._writer: Any = None  # torch's SummaryWriter, untyped

    @staticmethod
    def installed() -> bool:
        """Whether the optional tensorboard package is there."""
        return importlib.util.find_spec("tensorboard") is not None

    def on_start(self, run: Run) -> None:
        """Open an event file that hides those events of earlier ones which are made again."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=run.state.step + 1)

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Write every ``every``-th round's figures."""
        if run.state.step % self.every == 0 or run.progress >= 1:
            self._scalars("train", run, stats)

    def on_validation(self, run: Run, figures: Mapping[str, float]) -> None:
        """Write the figures."""
        self._scalars("val", run, figures)

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, split: str, run: Run, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{split}/{name}", value, run.state.step)


class Validate(Hook):
    """Measures the objective's monitor on what users would get, and notes the best.

    Runs every ``validate_every`` images, by default 20 times a run, and at the end. Under a budget in minutes a
    validation is left out while the ones before have taken more than a tenth of the time.

    ``on_best(module, figures, state)`` is called with the ema_weights module (averaged weights, eval mode) whenever the
    monitored figure is the lowest so far.
    """

    def __init__(self, on_best: Callable[[nn.Module, Mapping[str, float], State], None] | None = None) -> None:
        self.on_best = on_best
        self._seconds = 0.0

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Validate if it is time."""
        if not run.due(run.config.validate_every, 20):
            return
        if run.config.minutes and run.progress < 1 and self._seconds > _SHARE * run.state.seconds:
            return
        begun = time.monotonic()
        monitor, state = run.objective.monitor, run.state
        with run.ema_weights() as module:
            figures = monitor.measure(module)
            value = figures[monitor.name]
            if math.isfinite(value) and (state.best is None or value < state.best):
                state.best, state.best_step = value, state.step
                if self.on_best:
                    self.on_best(module, figures, state)
        self._seconds += time.monotonic() - begun
        run.report(figures)


class EverySamples(Hook):
    """Calls ``draw(module, state)`` every ``sample_every`` images, by default 10 times a run, and at the end."""

    def __init__(self, draw: Callable[[nn.Module, State], None]) -> None:
        self.draw = draw

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Draw if it is time."""
        if run.due(run.config.sample_every, 10):
            with run.ema_weights() as module:
                self.draw(module, run.state)
