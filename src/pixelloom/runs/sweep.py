"""Short runs over a few values of one numeric field, each in a folder of its own, and their results side by side."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelloom.core.atomic import write_bytes
from pixelloom.core.errors import PixelloomError, UsageError, shortened
from pixelloom.core.metrics_file import read_metrics
from pixelloom.core.numbers import as_number
from pixelloom.engine.memory import out_of_memory
from pixelloom.engine.signals import Interrupted
from pixelloom.metrics.table import selecting
from pixelloom.runs.config import Overrides, RunConfig
from pixelloom.runs.folder import METRICS_FILE, RUNS
from pixelloom.runs.plan import flat, free_folder, planned
from pixelloom.runs.train import carry_out

RESULTS = "sweep.json"
_LAST = 0.1  # of the lines of training: the end of a run, whose mean loss is shown
_LOSSES = ("D/loss", "network/loss")
_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class SweepRow:
    """The outcome of one value.

    Attributes:
        value: of the field.
        folder: the run folder.
        metric: name of the validation metric that selects the best model, lower is better; empty if there is none.
        first: its first value, None if there is none.
        best: its lowest value.
        last: its last value.
        loss: mean training loss over the last tenth of the run: ``d_loss`` of a GAN, the loss of a pixel model.
        images: number of training images.
        error: why the run failed; empty if it finished.
    """

    value: float
    folder: str
    metric: str = ""
    first: float | None = None
    best: float | None = None
    last: float | None = None
    loss: float | None = None
    images: int = 0
    error: str = ""

    @property
    def diverged(self) -> bool:
        """Whether a loss, a gradient or all metrics were not finite, or the run ended worse than it began.

        Worse is a validation metric above its first value and above twice its best one: a learning rate that is far too
        large leaves a finite loss, and an early model that may be the best of a short sweep.
        """
        if "diverged" in self.error or "no validation metric was finite" in self.error:
            return True
        if self.first is None or self.best is None or self.last is None:
            return False
        return self.last > max(self.first, 2 * self.best)


Planned = tuple[float, RunConfig, Path]
"""A value with the configuration and the folder of its run."""


def plan_sweep(
    recipe: str | None,
    field: str,
    values: str | Sequence[float],
    *,
    config: Path | str | None = None,
    out: Path | str | None = None,
    overrides: Overrides | None = None,
    resume: bool = False,
    force: bool = False,
) -> tuple[Path, list[Planned]]:
    """Plan a run for each value of a field; nothing is written.

    Args:
        recipe: as of :func:`pixelloom.runs.plan.planned`.
        field: dotted name of a numeric field, such as ``penalties.r1``.
        values: numbers, or a text with commas between them.
        config: YAML file of settings.
        out: folder of the run folders; default: ``runs/RECIPE-FIELD``, with a number if it is taken.
        overrides: further fields, the same in all runs.
        resume: resume the runs in that folder; values without a run start one.
        force: replace the runs in that folder.

    Raises:
        UsageError: for an unknown field, one that is not numeric, a value that is not allowed, or two values that are
            equal.
    """
    given = overrides or {}
    if field in given:
        raise UsageError(f"--sweep {field}: the field is also given as an option; remove one")
    numbers = _numbers(field, values)

    def plan(number: float, folder: Path) -> RunConfig:
        return planned(
            recipe, config=config, out=folder, overrides={**given, field: number}, resume=resume, force=force
        )[0]

    base = Path(out) if out is not None else RUNS / "sweep"  # the name is that of the first plan
    first = plan(numbers[0], base / _name(field, numbers[0]))
    if out is None:
        base = RUNS / f"{first.recipe or first.network}-{field}"
        base = base if resume or force else free_folder(base)
    runs: list[Planned] = []
    for number in numbers:
        folder = base / _name(field, number)
        run = plan(number, folder)
        found = flat(run.model_dump(mode="json")).get(field)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise UsageError(f"--sweep {field}: is not a numeric field")
        if run.train.devices * run.train.nodes > 1:
            raise UsageError("--sweep: runs on one device; leave --devices out")
        runs.append((number, run, folder))
    return base, runs


def carry_out_sweep(
    base: Path,
    field: str,
    runs: Sequence[Planned],
    *,
    resume: bool = False,
    force: bool = False,
    train: Callable[..., Any] = carry_out,
) -> list[SweepRow]:
    """Train the runs one after another, and write ``sweep.json``; a run that fails does not stop the others.

    Raises:
        PixelloomError: the error of the first run, if all of them fail; Interrupted, if a signal stops one.
    """
    rows: list[SweepRow] = []
    errors: list[PixelloomError] = []
    for number, (value, run, folder) in enumerate(runs, 1):
        _log.info("sweep: run %d of %d, %s = %s, in %s", number, len(runs), field, _text(value), folder)
        error: PixelloomError | None = None
        try:
            train(run, folder, resume=resume, force=force)
        except Interrupted:
            _log.warning("sweep: stopped in run %d of %d; continue with --resume", number, len(runs))
            raise
        except PixelloomError as failure:
            error = failure
        except (MemoryError, RuntimeError) as failure:
            if not out_of_memory(failure):
                raise
            error = UsageError("out of memory")
        if error is not None:
            errors.append(error)
            _log.warning("sweep: %s = %s failed: %s", field, _text(value), error)
        rows.append(row_of(value, folder, "" if error is None else str(error)))
    if len(errors) == len(rows):
        raise errors[0]
    found = {"field": field, "runs": [asdict(row) for row in rows]}
    write_bytes(base / RESULTS, (json.dumps(found, indent=1) + "\n").encode())
    return rows


def row_of(value: float, folder: Path, error: str = "") -> SweepRow:
    """The outcome of a run, read from its metrics; a run without metrics has a row too."""
    try:
        lines, _ = read_metrics(folder / METRICS_FILE)
    except OSError:
        lines = []
    trained = [line for line in lines if line["split"] == "train"]
    measured = [line for line in lines if line["split"] == "val"]
    names = selecting(measured[-1]) if measured else []
    metric = next((name for name in names if name.endswith("-by-class")), names[0] if names else "")
    values = _finite(measured, metric)
    losses = [loss for name in _LOSSES for loss in _finite(trained, name)]
    losses = losses[-max(1, round(_LAST * len(losses))) :]
    if not error and measured and not values:
        error = "no validation metric was finite"
    return SweepRow(
        value=value,
        folder=str(folder),
        metric=metric,
        first=values[0] if values else None,
        best=min(values, default=None),
        last=values[-1] if values else None,
        loss=sum(losses) / len(losses) if losses else None,
        images=int(lines[-1]["images"]) if lines else 0,
        error=error,
    )


def best_of(rows: Sequence[SweepRow]) -> SweepRow | None:
    """The run with the lowest validation metric, of those that finished and did not diverge; None if no run did."""
    finished = [row for row in rows if not row.error and not row.diverged and row.best is not None]
    return min(finished, key=lambda row: row.best or 0.0, default=None)


def table_of(field: str, rows: Sequence[SweepRow]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: value, best and last validation metric, loss, images, outcome, folder."""
    metric = next((row.metric for row in rows if row.metric), "validation metric")
    loss = "d_loss" if metric.startswith("kid") else "loss"
    best = best_of(rows)
    body = [
        [
            _text(row.value),
            _number(row.best),
            _number(row.last),
            _number(row.loss),
            f"{row.images:,}",
            "diverged" if row.diverged else "failed" if row.error else "best" if row is best else "",
            row.folder,
        ]
        for row in rows
    ]
    return [field, metric, "at the end", loss, "images", "", "folder"], body


def _numbers(field: str, values: str | Sequence[float]) -> list[float]:
    """The numbers of a list or of a text with commas. Raises UsageError."""
    words = [word.strip() for word in values.split(",")] if isinstance(values, str) else [str(word) for word in values]
    numbers: list[float] = []
    for word in words:
        if (number := as_number(word)) is None:
            raise UsageError(f"--sweep {field}: {shortened(word)!r} is not a number; give values as in 0.01,0.1,1")
        if number in numbers:
            raise UsageError(f"--sweep {field}: {_text(number)} is given twice")
        numbers.append(number)
    return numbers


def _finite(lines: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(value) for line in lines if isinstance(value := line.get(name), int | float) and math.isfinite(value)]


def _name(field: str, value: float) -> str:
    return f"{field}={_text(value)}"


def _text(value: float) -> str:
    return str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
