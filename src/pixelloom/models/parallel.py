"""A model in several processes: images and log-probabilities are those of the model in one process.

Noise is keyed by the index of an image, so processes draw ranges of indices. Log-probabilities are computed in the
batches of one process, so that rounding is the same too.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.engine.worker import report
from pixelloom.engine.workers import Workers
from pixelloom.models.inputs import at_least
from pixelloom.models.registry import family_of

if TYPE_CHECKING:
    from pixelloom.models.family import GenerativeModel

_PER_IMAGE = {"labels": 1, "condition": 4, "given": 4, "mask": 4}
"""Option of ``sample`` -> number of axes if it has a value for each image."""


class ParallelModel:
    """A model whose ``sample`` and ``log_prob`` run in several processes; everything else is that of the model.

    Attributes:
        model: the model in this process.
        workers: the processes, which have a copy each.
    """

    def __init__(self, model: GenerativeModel, workers: Workers) -> None:
        self.model, self.workers = model, workers
        device = model.device
        try:
            workers.share(model.to("cpu"), self)
        finally:
            model.to(device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def sample(self, n: int, *, on_step: Any = None, **options: Any) -> Tensor:
        """n images, uint8 [n, C, H, W], as ``sample`` of the model gives; ``batch`` is that of one process.

        ``on_step`` is called for the images that all processes draw at the same time; only after their last step it
        gets these images, before that zeros.
        """
        at_least("n", n, 1)
        first, batch = options.pop("first", 0), options.pop("batch", None)
        for name, value, least in (("first", first, 0), ("batch", n if batch is None else batch, 1)):
            at_least(name, value, least)
        options.pop("threads", None)  # those of `parallel` hold
        family = family_of(self.model)
        costly: dict[str, Any] = {
            name: options[name] for name in ("method", "precision", "guidance") if name in options
        }
        size = batch or family.sampling_cost(self.model, n, None, costly).batch
        if family.any_batch:
            size = min(size, math.ceil(n / len(self.workers)))
        slices = [slice(start, min(start + size, n)) for start in range(0, n, size)]
        calls = [
            (self, rows.stop - rows.start, {"first": first + rows.start, "batch": size} | _rows_of(options, rows, n))
            for rows in slices
        ]
        return self._drawn(slices, calls, on_step)

    def _drawn(self, slices: list[slice], calls: list[tuple[Any, ...]], on_step: Any) -> Tensor:
        """Results of the calls; ``on_step`` is called for groups of as many calls as there are processes."""
        number, parts, progress = len(self.workers), list[Tensor](), dict[int, tuple[int, int]]()

        def show() -> None:
            begin = len(parts) // number * number
            group = range(begin, min(begin + number, len(calls)))
            known = [progress[index] for index in group if index in progress]
            steps = max((steps for _, steps in known), default=2)
            done = sum(step / steps for step, steps in known) + (len(parts) - begin)
            images = slices[group[-1]].stop - slices[begin].start
            # Never the last step, after which the images are complete.
            step = min(int(steps * done / len(group)), steps - 1)
            on_step(step, steps, torch.zeros(images, *self.model.spec.shape, dtype=torch.uint8))

        def on_report(index: int, value: tuple[int, int]) -> None:
            progress[index] = value

        shown = None if on_step is None else show
        with contextlib.closing(self.workers.map(_draw, calls, on_report, shown)) as drawn:
            for images in drawn:
                parts.append(images)
                progress.pop(len(parts) - 1, None)
                if on_step is not None and (len(parts) % number == 0 or len(parts) == len(calls)):
                    on_step(1, 1, torch.cat(parts[(len(parts) - 1) // number * number :]))
        return torch.cat(parts)

    def log_prob(self, images: Any, labels: Any = None, condition: Any = None, *, batch: int = 64, **_: Any) -> Tensor:
        """Natural log-probability of each image, float64 [N], as ``log_prob`` of the model gives."""
        at_least("batch", batch, 1)
        n = len(images)
        options = {"labels": labels, "condition": condition}
        calls = (
            (self, images[rows], _rows_of(options, rows, n))
            for rows in (slice(start, min(start + batch, n)) for start in range(0, n, batch))
        )
        parts = list(self.workers.map(_log_prob, calls))
        return torch.cat(parts) if parts else cast(Any, self.model).log_prob(images)


def _rows_of(options: dict[str, Any], rows: slice, n: int) -> dict[str, Any]:
    """Options of some of n images."""
    return {name: _part(value, _PER_IMAGE.get(name, 0), rows, n) for name, value in options.items()}


def _part(value: Any, axes: int, rows: slice, n: int) -> Any:
    if isinstance(value, Tensor):
        value = value.cpu()
    if isinstance(value, Tensor | np.ndarray):
        return value[rows] if value.ndim == axes and len(value) == n else value
    return value[rows] if axes == 1 and isinstance(value, list | tuple) and len(value) == n else value


def _draw(model: GenerativeModel, n: int, options: dict[str, Any]) -> Tensor:
    """Sample, in a process of a parallel model."""
    return model.sample(n, on_step=lambda step, steps, _: report((step, steps)), **options)


def _log_prob(model: Any, images: Any, options: dict[str, Any]) -> Tensor:
    """Log-probabilities, in a process of a parallel model."""
    found: Tensor = model.log_prob(images, **{name: value for name, value in options.items() if value is not None})
    return found.cpu()


def places(device: torch.device, devices: int) -> list[torch.device]:
    """The devices of several processes.

    Raises:
        UsageError: if there are fewer devices.
    """
    at_least("devices", devices, 1)
    available = {"cuda": torch.cuda.device_count(), "cpu": os.cpu_count() or 1}.get(device.type, 1)
    if devices > available:
        unit = "CPU cores" if device.type == "cpu" else f"{device.type.upper()} devices"
        raise UsageError(f"devices: {devices} were requested, available here: {available} {unit}.")
    return [torch.device("cuda", i) if device.type == "cuda" else torch.device(device.type) for i in range(devices)]


@contextlib.contextmanager
def parallel(model: GenerativeModel, devices: int = 1, *, threads: int | None = None) -> Iterator[GenerativeModel]:
    """A context with the model in several processes on this machine, each on a device of its own.

    The processes share the cores of a CPU, or have one GPU each. Images and log-probabilities are those of the model
    itself; with another number of threads, up to rounding.

    Args:
        model: the model; several processes get copies of it.
        devices: number of processes; 1 yields the model itself.
        threads: CPU threads of each process; None for its share of the cores, or one if that is faster.

    Raises:
        UsageError: if there are fewer devices, or the model cannot be sent: a network of a class that is defined in
            a notebook or in the script itself, rather than in a module.
    """
    found = places(model.device, devices)
    if devices == 1:
        yield model
        return
    with Workers(found, threads) as workers:
        yield cast(Any, ParallelModel(model, workers))


def beside(model: GenerativeModel, other: GenerativeModel) -> GenerativeModel:
    """A second model in the processes of the first one, if that is in several."""
    return cast(Any, ParallelModel(other, model.workers)) if isinstance(model, ParallelModel) else other
