"""The state of a run: counters (:class:`State`), all objects in use (:class:`Run`), and callbacks (:class:`Hook`)."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pixelloom.core.types import Batch
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.optim import EMA, build_optimizer
from pixelloom.engine.signals import Signals
from pixelloom.objectives.base import Objective, Phase, Stats

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule


@dataclass
class State:
    """Steps, images and seconds of a run so far, and the best value of the monitored metric with its step."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0

    @classmethod
    def of(cls, values: object) -> Self:
        """Return the state with the values of :func:`dataclasses.asdict`. Raises ValueError for any others."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            raise ValueError(f"its state does not have the entries {', '.join(names)}")
        for name, value in values.items():
            number = type(value) is int or (type(value) is float and name in ("seconds", "best"))
            limited = number and (name == "best" or 0 <= value < 1 << 53) and math.isfinite(value)
            if not limited and not (name == "best" and value is None):
                raise ValueError(f"{name} of its state is {str(value)[:40]}")
        return cls(**values)


class Hook:
    """Callbacks of a run. They are called on rank zero only, in the order of the list."""

    def on_start(self, run: Run) -> None:
        """Called before the first step; if the run was resumed, ``run.state`` is that of the checkpoint."""

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Called after each step, with means of its statistics over micro-batches and processes."""

    def on_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Called after each validation, with its metrics."""

    def close(self) -> None:
        """Called at the end of the run, also after an error, and even if ``on_start`` was not called."""


class _LossModule(nn.Module):
    """A phase's module with the loss as its forward method, so that DDP's hooks and autocast cover the whole loss."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.module = phase.module
        self._loss = phase.loss

    def forward(self, batch: Batch) -> tuple[Tensor, Stats]:
        return self._loss(batch)


@dataclass(frozen=True)
class PhaseState:
    """A phase with its loss set up by Fabric, its optimizer, and the parameters that it updates."""

    phase: Phase
    loss: _FabricModule
    optimizer: Optimizer
    parameters: list[nn.Parameter]


class Run:
    """A training run, as hooks see it.

    Args:
        objective: its modules are moved to the device in place.
        config: budget, batch size and intervals.
        fabric: a launched Fabric.
        epoch: number of images in an epoch.
        hooks: called on rank zero.
        about: what the run is, as JSON-serializable values; kept with each checkpoint.
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        fabric: Fabric,
        epoch: int,
        hooks: Sequence[Hook] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.objective, self.config, self.fabric, self.epoch = objective, config, fabric, epoch
        self.hooks = hooks
        self.about = dict(about or {})
        self.state = State()
        self.notes: dict[str, Any] = {}
        """JSON-serializable state of hooks, kept with each checkpoint."""
        self.saved: Path | None = None  # the last checkpoint that was written or loaded
        self.signals = Signals()
        self.reserve = 0.0
        """Seconds of a budget in minutes that are kept for the last validation and the final samples."""
        self._prepared: tuple[int, nn.Module] | None = None  # (step, result of objective.prepare)
        for part in objective.parts.values():
            part.to(fabric.device)
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest on CPUs
        self._parameters = [p for part in objective.parts.values() for p in part.parameters()]
        self.phases = tuple(map(self._set_up, objective.phases))
        self.ema = EMA(objective.parts[objective.ema_part], config.ema) if config.ema else None
        self.start_clock()

    def _set_up(self, phase: Phase) -> PhaseState:
        parameters = [p for p in phase.module.parameters() if p.requires_grad]
        loss = self.fabric.setup_module(_LossModule(phase), move_to_device=False)
        return PhaseState(phase, loss, build_optimizer(parameters, phase.optimizer), parameters)

    def start_clock(self) -> None:
        """Start the clock, at ``state.seconds``."""
        self._zero = time.monotonic() - self.state.seconds
        self.before = (self.state.images, self.progress)

    @property
    def elapsed(self) -> float:
        """Seconds of the run until now; ``state.seconds`` are those until the end of the last step."""
        return time.monotonic() - self._zero

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 1 or more at the end; the same in all processes."""
        return self.config.progress(self.state.images, self.state.seconds, self.epoch, self.reserve)

    @property
    def epochs(self) -> float:
        """Number of epochs so far."""
        return self.state.images / self.epoch

    def require_grad_only(self, active: PhaseState) -> None:
        """Set ``requires_grad`` for the parameters of the phase and clear it for all others."""
        for parameter in self._parameters:
            parameter.requires_grad_(False)
        for parameter in active.parameters:
            parameter.requires_grad_(True)

    def reduce(self, values: Tensor, how: Literal["mean", "max"]) -> list[float]:
        """Reduce a vector over all processes. It is the only synchronization with the device in a phase."""
        reduced = self.fabric.all_reduce(values, reduce_op=how)
        return cast(Tensor, reduced).tolist()

    def advance(self, signal: float) -> int:
        """Count a finished step. Returns the largest signal that any process received; 0 is none.

        All processes must end at the same step, so they share this signal and the clock of rank zero.
        """
        self.before = (self.state.images, self.progress)
        seconds = time.monotonic() - self._zero
        if self.fabric.world_size > 1:
            mine = [seconds if self.fabric.is_global_zero else 0.0, signal]
            seconds, signal = self.reduce(torch.tensor(mine, dtype=torch.float64, device=self.fabric.device), "max")
        self.state.step += 1
        self.state.images += self.config.batch
        self.state.seconds = seconds
        return int(signal)

    def due(self, interval: int | None, times: int) -> bool:
        """Whether the last step passed a multiple of ``interval`` images (None: budget / ``times``) or the end."""
        images, progress = self.before
        if self.progress >= 1:
            return True
        if interval:
            return self.state.images // interval > images // interval
        return int(self.progress * times) > int(progress * times)

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[nn.Module]:
        """Yield ``objective.prepare`` of the EMA weights, in eval mode and without gradients."""
        module = self.ema.module if self.ema else self.objective.parts[self.objective.ema_part]
        modes = {m: m.training for m in module.modules()}
        try:
            with torch.no_grad():
                if self._prepared is None or self._prepared[0] != self.state.step:
                    self._prepared = self.state.step, self.objective.prepare(module.eval())
                yield self._prepared[1].eval()
        finally:
            for child, training in modes.items():
                child.training = training

    def report(self, metrics: Mapping[str, float]) -> None:
        """Call ``on_validation`` of all hooks."""
        for hook in self.hooks:
            hook.on_validation(self, metrics)

    def describe(self) -> dict[str, object]:
        """Return state and configuration as JSON-serializable values, for a checkpoint."""
        return {
            "state": dataclasses.asdict(self.state),
            "config": self.config.model_dump(mode="json"),
            "about": self.about,
            "notes": self.notes,
        }
