"""Training runs of any family.

A run folder holds ``config.yaml`` (complete: ``train --config`` repeats the run), ``metrics.jsonl``, ``curves.png``,
``samples/``, ``checkpoints/``, ``model/`` (the best model by validation) and ``last/`` (the model at the end of
training, if it is another one).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pixelloom.core.atomic import whole_folder, write_bytes
from pixelloom.core.errors import DataError, ModelError, UsageError
from pixelloom.core.threads import fixed
from pixelloom.core.types import Batch
from pixelloom.data.catalog import load
from pixelloom.data.io.download import progress_bar
from pixelloom.data.memory import dataset_of
from pixelloom.data.splits import Mapped, Split
from pixelloom.data.stream import Stream, batches
from pixelloom.engine.checkpoint import about_of
from pixelloom.engine.fabric import choose_device, make_fabric, memory_explained
from pixelloom.engine.fabric import describe as place
from pixelloom.engine.hooks import BudgetUsedError, EverySamples, MetricsWriter, Progress, Validate
from pixelloom.engine.loggers import check_logger, make_logger
from pixelloom.engine.loop import fit
from pixelloom.engine.memory import out_of_memory
from pixelloom.engine.micro_batches import bytes_per_image, micro_batches
from pixelloom.engine.state import Hook, Run, State
from pixelloom.engine.threads import choose_threads
from pixelloom.models.description import FILES
from pixelloom.models.model_card import model_card
from pixelloom.models.pixel import PixelModel
from pixelloom.objectives.base import Monitor, Objective
from pixelloom.runs import identity
from pixelloom.runs.config import RunConfig
from pixelloom.runs.drawing import TrainingSamples, draw_final
from pixelloom.runs.families import set_up
from pixelloom.runs.family import Setup
from pixelloom.runs.folder import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    LAST,
    METRICS_FILE,
    check_apart,
    claimed,
    clear,
    is_first_process,
    open_folder,
    warn_of_cut,
)
from pixelloom.runs.pace import adapt
from pixelloom.runs.start import start_from
from pixelloom.viz import curves

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_OVERTIME = 1.1  # times a budget in minutes
_log = logging.getLogger("pixelloom")


def carry_out(
    plan: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    force: bool = False,
    changed_data: bool = False,
    arrays: Any = None,
    own: PixelModel | None = None,
    hooks: Sequence[Hook] = (),
) -> Path:
    """Claim the folder and train; returns the model folder. Torch's random generators are unchanged.

    Raises:
        UsageError: if ``out`` holds a run and neither ``resume`` nor ``force`` is set, if another process trains there,
            or if memory runs out; further errors are those of :func:`train`.
    """
    check_apart(plan.data.source, out)
    first = is_first_process(plan.train)
    try:
        with claimed(out, resume=resume, force=force) if first else nullcontext(), torch.random.fork_rng(_cuda()):
            return train(
                plan, out, resume=resume, force=force, changed_data=changed_data, arrays=arrays, own=own, hooks=hooks
            )
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UsageError(
            f"out of memory with train.batch={plan.train.batch}; halve it, or set train.accumulate="
            f"{plan.train.accumulate * 2}, which keeps the batch and halves the memory"
        ) from error


def _cuda() -> list[int]:
    """The CUDA devices whose random generators a run may change."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]


def train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    force: bool = False,
    changed_data: bool = False,
    arrays: Any = None,
    own: PixelModel | None = None,
    hooks: Sequence[Hook] = (),
) -> Path:
    """Train in the folder ``out``; returns the folder of the best model by validation.

    With ``resume`` the run continues from its newest valid checkpoint, and ends with the same bits as one that was not
    interrupted (except with a budget in minutes). With ``force`` a run in the folder is removed, after data and model
    are known to be valid. ``arrays`` are images in memory, in place of those that the configuration names, see
    :func:`pixelloom.data.memory.dataset_of`. ``own`` is the model that a run of a network of one's own trains in place;
    it ends as the best model. With ``changed_data`` a run is resumed on data that are not those it was
    begun with. ``hooks`` are called after those of every run.

    Raises:
        UsageError: for a configuration that does not fit the data, the machine or the checkpoints, or a folder that
            cannot be written.
        DataError: if the data cannot be read, or are not those that a resumed run was begun with.
        ModelError: if training diverges, or no valid checkpoint fits.
    """
    check_logger(config.train.logger)
    before = about_of(out / CHECKPOINTS) if resume else {}
    if resume:
        warn_of_cut(out)
        config = identity.with_choices(config, before)
        identity.check_config(config, before, out / CONFIG)
        config = identity.original_data(config, before)
    fabric = make_fabric(config.train)
    with fabric.rank_zero_first(), progress_bar() as shown:  # downloads and decodes once
        data = load(config.data, shown) if arrays is None else dataset_of(arrays, config=config.data)
    config = identity.with_palette(config, data.spec)
    identity.check_data(config, data, before, allow=changed_data)
    setup = set_up(config, data, own)
    if before:
        setup.start = str(before.get("start", config.start))
    elif config.start:  # the checkpoint of a resumed run has the weights
        start_from(setup, config.start)
    objective = setup.objective()
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
        first = next(batches(stream, 0))
        if fabric.device.type == "cpu" and not before:
            _bound_memory(setup, objective, first, fabric)
            objective = setup.objective()
        threads, why = choose_threads(objective, first, setup.config.train, fabric)
    if fabric.device.type == "cpu":
        # Recorded, since the bits of a run that is resumed or repeated depend on the number of threads.
        timing = setup.config.train.model_copy(update={"threads": threads})
        setup.config = setup.config.model_copy(update={"train": timing})
        _log_of(fabric, "threads: %d (%s)", threads, why)
    with fixed(threads):
        setup.config, reserve = adapt(setup, objective, first, fabric, resume=bool(before))
        return _fit(setup, objective, stream, fabric, out, resume=resume, force=force, reserve=reserve, hooks=hooks)


def _bound_memory(setup: Setup[Any, Any], objective: Objective, batch: Batch, fabric: Fabric) -> None:
    """Split batches that would need too much memory into micro-batches."""
    timing, images = setup.config.train, len(batch.images)
    each = bytes_per_image(objective, batch, fabric)
    parts = micro_batches(each, images, timing.accumulate)
    if parts == timing.accumulate:
        return
    text = "accumulate: %d micro-batches of %d images, since %d at once need %.0f GB"
    _log_of(fabric, text, parts, images // parts, images, images * each / 1e9)
    setup.config = setup.config.model_copy(update={"train": timing.model_copy(update={"accumulate": parts})})


def _fit(
    setup: Setup[Any, Any],
    objective: Objective,
    stream: Stream,
    fabric: Fabric,
    out: Path,
    *,
    resume: bool,
    force: bool,
    reserve: float,
    hooks: Sequence[Hook] = (),
) -> Path:
    """Train, write the run folder, and return the folder of the best model."""
    config, data = setup.config, setup.data
    if fabric.is_global_zero:
        if force:
            clear(out)
        open_folder(out, config, identity.comment(config, setup.fingerprint))
        size = f"{setup.model.parameters:,}"
        _log.info("%s: %s", data.name, data.summary)
        _log.info("%s: %s parameters; training on %s", config.network, size, place(fabric))
    state = fit(
        objective,
        lambda step: batches(stream, step, workers=config.train.workers),
        config.train,
        fabric,
        epoch=len(data.train),
        hooks=[*_hooks(setup, out), *hooks],
        out=out,
        resume=resume,
        about=identity.about(config, setup.fingerprint, setup.start),
        reserve=reserve,
    )
    if fabric.is_global_zero:
        _finish(setup, out, state, objective.monitor)
    fabric.barrier()
    return out / BEST


def _log_of(fabric: Fabric, message: str, *values: object) -> None:
    """Log in the first process only."""
    if fabric.is_global_zero:
        _log.info(message, *values)


def _hooks(setup: Setup[Any, Any], out: Path) -> list[Hook]:
    def save(folder: Path, network: nn.Module, metrics: Mapping[str, float], state: State) -> None:
        outcome = {
            "images": state.images,
            "epochs": round(state.images / len(setup.data.train), 2),
            "minutes": round(state.seconds / 60, 2),
            "date": date.today(),
            "validation": setup.validation(metrics),
        }
        model = setup.snapshot(network, setup.record().model_copy(update=outcome))
        with whole_folder(folder, FILES) as target:
            sha256 = model.save(target)
            write_bytes(target / "README.md", model_card(model, sha256).encode())

    watch = _Watch(setup)
    hooks: list[Hook] = [
        watch.progress,
        watch,
        MetricsWriter(out / METRICS_FILE),
        Validate(partial(save, out / BEST)),
        _Last(out / LAST, save),
        EverySamples(TrainingSamples(setup, out / "samples")),
        _Curves(out),
        *_UnchangedFile.of(setup.data.train),
        *setup.hooks(),
    ]
    logger = make_logger(setup.config.train.logger, out)
    return hooks if logger is None else [*hooks, logger]


class _Watch(Hook):
    """Shows the progress of validations, and gives one up where a budget in minutes is exceeded by a tenth.

    The first one is finished in any case, since no model would be saved otherwise.
    """

    def __init__(self, setup: Setup[Any, Any]) -> None:
        self.progress, self.setup = Progress(), setup

    def on_start(self, run: Run) -> None:
        minutes, n = run.config.minutes, self.setup.config.validated

        def on_images(images: int) -> None:
            self.progress.during(run, f"validation: {images:,} of {n:,} images")
            if minutes and run.state.best is not None and run.elapsed > _OVERTIME * 60 * minutes:
                raise BudgetUsedError

        self.setup.on_images = on_images


class _UnchangedFile(Hook):
    """Checks size and time of the file that training images are mapped from, after each step.

    Reading a part that was cut off would end the process by a signal, without a message.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._before = path, _size_and_time(path)

    @classmethod
    def of(cls, split: Split) -> list[Hook]:
        """The check of a split; none if its images are in memory."""
        mapped = Mapped.of(split.store)
        return [] if mapped is None else [cls(Path(mapped.path))]

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        now = _size_and_time(self.path)
        if now != self._before:
            change = "was removed" if now is None else "changed"
            raise DataError(f"{self.path}: {change} while a run trains on it; put it back.")


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class _Last(Hook):
    """Saves the model at the end of training if another one is the best; removes one saved before a resume."""

    def __init__(self, folder: Path, save: Callable[[Path, nn.Module, Mapping[str, float], State], None]) -> None:
        self.folder, self.save = folder, save
        self._step, self._metrics = 0, dict[str, float]()

    def on_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._step, self._metrics = run.state.step, dict(metrics)

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        if run.progress < 1:
            return
        if run.state.best_step == run.state.step:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        with run.ema_weights() as network:
            self.save(self.folder, network, self._metrics if self._step == run.state.step else {}, run.state)


class _Curves(Hook):
    """Plots the curves after each validation."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        curves.draw(self.out / METRICS_FILE, self.out / "curves.png")


def _finish(setup: Setup[Any, Any], out: Path, state: State, monitor: Monitor) -> None:
    """Save the samples of the best model."""
    if state.best is None:
        raise ModelError(f"{out}: no validation metric was finite, so no model was saved; lower the learning rate")
    which = "best" if monitor.selects else "last"
    value = f"validation: {state.best:.4f} {monitor.name}" if monitor.name else "model, not validated,"
    _log.info("%s %s at step %d; model in %s", which, value, state.best_step, out)
    config = setup.config
    if config.samples:
        model = setup.loaded(out / BEST).to(choose_device(config.train))
        draw_final(setup, model, out)
