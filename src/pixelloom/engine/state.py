"""Where a run stands (:class:`State`), all that is alive in it (:class:`Run`), and who looks on (:class:`Hook`)."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.optim import Optimizer

from pixelloom.core.types import Batch
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.optim import WeightAverage, build_optimizer
from pixelloom.objectives.base import Objective, Phase, Stats


@dataclass
class State:
    """How far a run has come: rounds taken, images seen, seconds used, and the best validation figure so far."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0


class Hook:
    """What watches a run. Hooks are called on rank zero only, in the order in which they were given."""

    def on_start(self, run: Run) -> None:
        """Before the first round; after a resumption ``run.state`` says where it goes on."""

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """After each round, with the means of its statistics over micro-batches and processes."""

    def on_validation(self, run: Run, figures: Mapping[str, float]) -> None:
        """After a validation, with its figures."""

    def close(self) -> None:
        """When the run ends, however it ends; ``on_start`` may not have been reached."""


class _LossModule(nn.Module):
    """A phase's module and loss as one module, so that DDP's hooks and autocast see the whole loss as its forward."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.module = phase.module
        self._loss = phase.loss

    def forward(self, batch: Batch) -> tuple[Tensor, Stats]:
        return self._loss(batch)


@dataclass(frozen=True)
class Turn:
    """A phase made ready: its loss as Fabric runs it, its optimizer, and the parameters that move in it."""

    phase: Phase
    loss: _FabricModule
    optimizer: Optimizer
    parameters: list[nn.Parameter]


class Run:
    """A training run in progress, as hooks see it. The modules of ``objective`` are moved to the device in place."""

    def __init__(
        self, objective: Objective, config: TrainConfig, fabric: Fabric, epoch: int, hooks: Sequence[Hook] = ()
    ) -> None:
        self.objective, self.config, self.fabric, self.epoch = objective, config, fabric, epoch
        self.hooks = hooks
        self.state = State()
        self.saved: Path | None = None  # the last checkpoint, written or resumed from
        self._ready: tuple[int, nn.Module] | None = None  # the ema_weights part as it was made ready, and at which step
        for part in objective.parts.values():
            part.to(fabric.device)
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 4-D weights: fastest on CPUs
        self._parameters = [p for part in objective.parts.values() for p in part.parameters()]
        self.turns = tuple(map(self._make_ready, objective.phases))
        self.average = WeightAverage(objective.parts[objective.ema_part], config.ema) if config.ema else None
        self.start_clock()

    def _make_ready(self, phase: Phase) -> Turn:
        parameters = [p for p in phase.module.parameters() if p.requires_grad]
        loss = self.fabric.setup_module(_LossModule(phase), move_to_device=False)
        return Turn(phase, loss, build_optimizer(parameters, phase.optimizer), parameters)

    def start_clock(self) -> None:
        """Count time from now, on top of what ``state`` has used already."""
        self._zero = time.monotonic() - self.state.seconds
        self._before = (self.state.images, self.progress)

    @property
    def progress(self) -> float:
        """The share of the budget used, 1 or more at the end; the same on every process."""
        return self.config.progress(self.state.images, self.state.seconds, self.epoch)

    @property
    def epochs(self) -> float:
        """Epochs seen."""
        return self.state.images / self.epoch

    def only(self, turn: Turn) -> None:
        """Let only the turn's parameters collect gradients, so that its loss moves nothing else."""
        for parameter in self._parameters:
            parameter.requires_grad_(False)
        for parameter in turn.parameters:
            parameter.requires_grad_(True)

    def reduce(self, values: Tensor, how: Literal["mean", "max"]) -> list[float]:
        """A vector reduced over all processes, the same on each. The one wait for the device in a phase."""
        reduced = self.fabric.all_reduce(values, reduce_op=how)
        return cast(Tensor, reduced).tolist()

    def advance(self, signal: float) -> int:
        """Count a finished round. Returns the signal that any process received (0 is none).

        Every process must end at the same round: rank zero's clock and the largest signal hold for all.
        """
        self._before = (self.state.images, self.progress)
        seconds = time.monotonic() - self._zero
        if self.fabric.world_size > 1:
            mine = [seconds if self.fabric.is_global_zero else 0.0, signal]
            seconds, signal = self.reduce(torch.tensor(mine, dtype=torch.float64, device=self.fabric.device), "max")
        self.state.step += 1
        self.state.images += self.config.batch
        self.state.seconds = seconds
        return int(signal)

    def due(self, every: int | None, times: int) -> bool:
        """Whether the last round crossed a multiple of ``every`` images (or 1/``times`` of the budget), or ended it."""
        images, progress = self._before
        if self.progress >= 1:
            return True
        if every:
            return self.state.images // every > images // every
        return int(self.progress * times) > int(progress * times)

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[nn.Module]:
        """What users would get now: the ema_weights part with averaged weights, made ready, in eval mode, no gradients."""
        module = self.average.module if self.average else self.objective.parts[self.objective.ema_part]
        modes = {m: m.training for m in module.modules()}
        with torch.no_grad():
            if self._ready is None or self._ready[0] != self.state.step:
                self._ready = self.state.step, self.objective.prepare(module.eval())
            yield self._ready[1].eval()
        for child, training in modes.items():
            child.training = training

    def report(self, figures: Mapping[str, float]) -> None:
        """Hand validation figures to every hook."""
        for hook in self.hooks:
            hook.on_validation(self, figures)

    def describe(self) -> dict[str, object]:
        """State and configuration as JSON-able values, for a checkpoint."""
        return {"state": dataclasses.asdict(self.state), "config": self.config.model_dump(mode="json")}
