"""The one place where parts are wired together: data, network, head, objective and engine become a run and a model.

A run folder holds ``config.yaml`` (complete: ``train --config`` repeats the run), ``metrics.jsonl``, ``curves.png``,
``samples/``, ``checkpoints/``, ``model/``, the best model by validation, and, where that is another, ``last/``, the one
that training ended with.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn

from pixelloom import curves, plots, pretrained
from pixelloom.card import model_card
from pixelloom.config import RunConfig, dump_yaml
from pixelloom.data.catalog import DataConfig, Dataset, load, load_for
from pixelloom.data.download import progress_bar
from pixelloom.data.stream import Stream, batches, ordered
from pixelloom.description import WEIGHTS
from pixelloom.engine.fabric import choose_device, make_fabric, memory_explained
from pixelloom.engine.fabric import describe as place
from pixelloom.engine.hooks import EverySamples, MetricsWriter, Progress, TensorBoard, Validate
from pixelloom.engine.loop import fit
from pixelloom.engine.memory import keep_freed_memory
from pixelloom.engine.state import Hook, Run, State
from pixelloom.engine.tensors import write_bytes
from pixelloom.engine.threads import choose_threads
from pixelloom.errors import ModelError, UsageError, did_you_mean
from pixelloom.families import load_model
from pixelloom.metrics.likelihood import Likelihood
from pixelloom.models import PixelModel
from pixelloom.objectives import Objective
from pixelloom.threads import fixed
from pixelloom.types import Batch, ImageSpec
from pixelloom.wiring import wire
from pixelloom.wiring.base import Wiring, some
from pixelloom.wiring.pixel import scored

RUNS = Path("runs")
CONFIG, METRICS, BEST, LAST = "config.yaml", "metrics.jsonl", "model", "last"
_SAMPLING_SHARE = 0.05  # of a run's time that pictures along the way may take
_log = logging.getLogger("pixelloom")


def train(config: RunConfig, out: Path, *, resume: bool = False) -> Path:
    """Carry out a run in folder ``out``; returns the folder of the best model by validation.

    With ``resume`` the run goes on from its newest sound checkpoint and ends with the same bits as one that was never
    stopped (budgets in minutes excepted: they follow the clock).

    Raises:
        UsageError: for a configuration that does not fit the data or the machine, or a folder that cannot be written.
        DataError: if the data cannot be read.
        ModelError: if training diverges, or no sound checkpoint fits.
    """
    fabric = make_fabric(config.train)
    with fabric.rank_zero_first(), progress_bar() as shown:  # what has to be downloaded or decoded is done once
        data = load(config.data, shown)
    wiring = wire(config, data)
    objective = wiring.objective()
    stream = Stream(
        data.train,
        data.spec,
        config.train.batch,
        seed=config.train.seed,
        rank=fabric.global_rank,
        world=fabric.world_size,
        dynamic=data.dynamic,
    )
    with memory_explained(config.train):
        threads, why = choose_threads(objective, next(batches(stream, 0)), config.train, fabric)
    if fabric.device.type == "cpu":
        # Kept with the run: a run that is resumed, or repeated from its config.yaml, takes as many, for the same bits.
        wiring.config = config.model_copy(update={"train": config.train.model_copy(update={"threads": threads})})
        _log_of(fabric, "threads: %d (%s)", threads, why)
    with fixed(threads):
        return _fit(wiring, objective, stream, fabric, out, resume=resume)


def _fit(
    wiring: Wiring[Any, Any], objective: Objective, stream: Stream, fabric: Fabric, out: Path, *, resume: bool
) -> Path:
    """Train, write the run folder, and return the folder of the best model."""
    config, data = wiring.config, wiring.data
    if fabric.is_global_zero:
        _open_folder(out, config)
        size = f"{wiring.model.parameters:,}"
        _log.info("%s: %s; %s parameters; training on %s", data.name, data.spec, size, place(fabric))
    state = fit(
        objective,
        lambda step: batches(stream, step, workers=config.train.workers),
        config.train,
        fabric,
        epoch=len(data.train),
        hooks=_hooks(wiring, out),
        out=out,
        resume=resume,
    )
    if fabric.is_global_zero:
        _finish(wiring, out, state, objective.monitor.name)
    fabric.barrier()
    return out / BEST


def _log_of(fabric: Fabric, message: str, *values: object) -> None:
    """Say it once, whatever the number of processes."""
    if fabric.is_global_zero:
        _log.info(message, *values)


def _open_folder(out: Path, config: RunConfig) -> None:
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made: {error.strerror}") from error
    write_bytes(out / CONFIG, dump_yaml(config).encode())


def _hooks(wiring: Wiring[Any, Any], out: Path) -> list[Hook]:
    def keep(folder: Path, network: nn.Module, figures: Mapping[str, float], state: State) -> None:
        model = wiring.kept(network)
        facts = {
            "images": state.images,
            "epochs": round(state.images / len(wiring.data.train), 2),
            "minutes": round(state.seconds / 60, 2),
            "date": date.today().isoformat(),
            "validation": dict(figures) | wiring.validated(),
        }
        model.description = model.description.model_copy(update={"trained": wiring.facts() | facts})
        sha256 = model.save(folder)
        write_bytes(folder / "README.md", model_card(model, sha256).encode())

    hooks: list[Hook] = [
        Progress(),
        MetricsWriter(out / METRICS),
        Validate(partial(keep, out / BEST)),
        _Last(out / LAST, keep),
        EverySamples(_Sketches(wiring, out / "samples")),
        _Curves(out),
        *wiring.hooks(),
    ]
    if TensorBoard.installed():
        hooks.append(TensorBoard(out / "tensorboard"))
    return hooks


class _Last(Hook):
    """Keeps the model that training ends with too, where another was the best; one of before a resumption goes."""

    def __init__(self, folder: Path, keep: Callable[[Path, nn.Module, Mapping[str, float], State], None]) -> None:
        self.folder, self.keep = folder, keep
        self._figures: Mapping[str, float] = {}

    def on_validation(self, run: Run, figures: Mapping[str, float]) -> None:
        self._figures = figures

    def on_round(self, run: Run, stats: Mapping[str, float]) -> None:
        if run.progress < 1:
            return
        if run.state.best_step == run.state.step:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        with run.deployed() as network:
            self.keep(self.folder, network, self._figures, run.state)


class _Sketches:
    """Draws a few pictures along the way, as long as that takes a twentieth of the time at most."""

    def __init__(self, wiring: Wiring[Any, Any], folder: Path, n: int = 9) -> None:
        self.wiring, self.folder, self.n = wiring, folder, n
        self.spent, self.cost = 0.0, 0.0  # seconds: in all, and of the last drawing

    def __call__(self, network: nn.Module, state: State) -> None:
        if self.spent + self.cost > _SAMPLING_SHARE * state.seconds:
            return
        begun = time.monotonic()
        drawn = self.wiring.draw(self.wiring.deployed(network), self.n)
        plots.save_png(drawn, self.folder / f"{state.images:09d}.png")
        self.cost = time.monotonic() - begun
        self.spent += self.cost


class _Curves(Hook):
    """Redraws the curves after each validation."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_validation(self, run: Run, figures: Mapping[str, float]) -> None:
        curves.draw(self.out / METRICS, self.out / "curves.png")


def _finish(wiring: Wiring[Any, Any], out: Path, state: State, figure: str) -> None:
    """Last pictures, drawn by the model that was kept."""
    if state.best is None:
        raise ModelError(f"{out}: no validation gave a finite figure, so no model was kept; lower the rate")
    _log.info("best validation figure: %.4f %s at step %d; model in %s", state.best, figure, state.best_step, out)
    config = wiring.config
    if config.samples:
        model = load_model(out / BEST).to(choose_device(config.train))
        _log.info("drawing %d samples", config.samples)
        for name, drawn in wiring.pictures(model).items():
            plots.save_png(drawn, out / "samples" / f"{name}.png")


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


def pictures(spec: ImageSpec, data: DataConfig, split: str, n: int) -> Tensor:
    """So many images of a split, evenly spaced, levels uint8 [n, C, H, W]; all of them if there are fewer.

    Raises:
        DataError: if the pictures are not of that shape and levels.
        UsageError: for an unknown split.
    """
    return some(_load(spec, data), split, n)


def examples(spec: ImageSpec, data: DataConfig, split: str, n: int) -> Batch:
    """As :func:`pictures`, with their labels where the data has some."""
    found = _load(spec, data)
    return next(ordered(found.split(split), found.spec, n, dynamic=found.dynamic, limit=n))


def _load(spec: ImageSpec, data: DataConfig) -> Dataset:
    """Data for a model of images of a shape."""
    with progress_bar() as shown:
        return load_for(spec, data, shown)


def evaluate(
    model: PixelModel, data: DataConfig, split: str = "test", *, limit: int | None = None
) -> tuple[Likelihood, Dataset]:
    """Exact likelihood of a split under a model, and the data that it was measured on.

    Raises:
        DataError: if the pictures are not of the model's shape and levels.
        UsageError: for an unknown split.
    """
    keep_freed_memory()
    dataset = _load(model.spec, data)
    return scored(model, dataset, split, limit), dataset
