"""The training loop, for all families: each step runs the phases of the objective on one batch.
Data come from ``stream(step)``, noise from (seed, step, rank, phase, micro-batch): a run with a budget in images or
epochs that is resumed ends with the same bits, on the same device with equally many threads and processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pixelloom.core.errors import ModelError
from pixelloom.core.rng import seed_of
from pixelloom.core.types import Batch
from pixelloom.engine.checkpoint import Checkpoint, last, prepare
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.fabric import memory_explained
from pixelloom.engine.optim import rate
from pixelloom.engine.signals import Signals
from pixelloom.engine.state import Hook, PhaseState, Run, State
from pixelloom.engine.stopping import after_step, ends_explained, finish_step, stop
from pixelloom.objectives.base import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fit(
    objective: Objective,
    stream: Callable[[int], Iterator[Batch]],
    config: TrainConfig,
    fabric: Fabric,
    *,
    epoch: int,
    hooks: Sequence[Hook] = (),
    out: Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    reserve: float = 0.0,
) -> State:
    """Train the modules of ``objective`` in place until the budget of ``config`` is used up.

    Args:
        objective: phases, modules and optimizers.
        stream: step -> this process's shares of the global batches, from that step on.
        config: budget, batch size and intervals.
        fabric: a launched Fabric.
        epoch: number of images in an epoch.
        hooks: callbacks, called on rank zero.
        out: the run folder; checkpoints are written to ``out/checkpoints``.
        resume: start from the newest undamaged checkpoint, if there is one.
        about: what the run is, as JSON-serializable values; kept with each checkpoint.
        reserve: seconds of a budget in minutes that are kept for what follows the last step.

    Raises:
        ModelError: if training diverges or a checkpoint cannot be loaded.
        UsageError: if ``out`` cannot be written or a batch does not fit into memory.
        Interrupted: after SIGTERM, SIGINT, SIGHUP or SIGUSR1.
        LostProcessError: if another process of the run ends.
    """
    run = Run(objective, config, fabric, epoch, about=about or {})
    run.reserve = reserve
    checkpoint = Checkpoint(out / "checkpoints") if out else None
    if fabric.is_global_zero:
        run.hooks = [*hooks, checkpoint] if checkpoint else list(hooks)
        if out:
            prepare(out, run)
    if checkpoint and resume:
        checkpoint.restore(run)
    batches = stream(run.state.step)
    try:
        with run.signals as signals, memory_explained(config), ends_explained(run):
            _steps(run, batches, signals, checkpoint)
    finally:
        for hook in run.hooks:
            hook.close()
        if isinstance(batches, Generator):  # this ends its worker processes
            batches.close()
    return run.state


def _steps(run: Run, batches: Iterator[Batch], signals: Signals, checkpoint: Checkpoint | None) -> None:
    for part in run.objective.parts.values():
        part.train()
    run.start_clock()
    for hook in run.hooks:
        hook.on_start(run)
    whole = finish_step(run, checkpoint)
    while run.progress < 1 and (whole or run.fabric.world_size > 1):
        batch = run.fabric.to_device(next(batches))
        stats: dict[str, float] = {}
        for index, active in enumerate(run.phases):
            if run.state.step % active.phase.interval == 0:
                stats |= _phase_step(run, active, index, batch)
        signal = run.advance(signals.received)
        if run.ema:
            run.ema.update(run.state.step)
        whole = whole and after_step(run, stats, checkpoint)
        if signal:
            stop(run, signal, checkpoint)
    if not whole:  # of several processes, the others take part in one more step, which is not saved
        stop(run, signals.received, checkpoint)


def _phase_step(run: Run, active: PhaseState, index: int, batch: Batch) -> dict[str, float]:
    """Accumulate, check and clip the gradients of a phase, and update its weights. Returns means of the statistics."""
    phase, fabric, n = active.phase, run.fabric, run.config.accumulate
    run.require_grad_only(active)
    lr = rate(run.progress, run.state.images + run.config.batch, phase.optimizer)
    sums: dict[str, torch.Tensor] = {}
    for m, micro in enumerate(_split(batch, n)):
        _seed(fabric, seed_of(run.config.seed, run.state.step, fabric.global_rank, index, m))
        with fabric.no_backward_sync(active.loss, enabled=m + 1 < n):  # all-reduce with the last micro-batch only
            loss, stats = active.loss(micro)
            fabric.backward(loss / n)
        for name, value in {f"{phase.name}/loss": loss, **stats}.items():
            sums[name] = sums.get(name, 0.0) + value.detach().float() / n
    norm = torch.nn.utils.get_total_norm([p.grad for p in active.parameters if p.grad is not None])
    means = run.reduce(torch.stack([norm.float(), *sums.values()]), "mean")
    if not (math.isfinite(means[0]) and math.isfinite(means[1])):  # before the update: weights never become NaN
        mixed = fabric.strategy.precision.precision == "bf16-mixed"
        raise ModelError(
            f"training diverged at step {run.state.step}, phase {phase.name!r}: loss {means[1]}, gradient norm "
            f"{means[0]}. {last(run)} Lower the rate (now {lr:.3g}), lengthen the warm-up or clip the gradient"
            f"{', or set --precision fp32 (now bf16)' if mixed else ''}."
        )
    if phase.optimizer.clip is not None:
        torch.nn.utils.clip_grads_with_norm_(active.parameters, phase.optimizer.clip, norm)
    for group in active.optimizer.param_groups:
        group["lr"] = lr
    active.optimizer.step()
    active.optimizer.zero_grad(set_to_none=True)
    return {f"{phase.name}/norm": means[0], f"{phase.name}/rate": lr, **dict(zip(sums, means[1:], strict=True))}


def _split(batch: Batch, n: int) -> Iterator[Batch]:
    """Yield n micro-batches of equal size."""
    for i in range(n):
        part = slice(i * len(batch.images) // n, (i + 1) * len(batch.images) // n)
        yield Batch(batch.images[part], None if batch.labels is None else batch.labels[part])


def _seed(fabric: Fabric, seed: int) -> None:
    """Seed the generators that losses use; torch.manual_seed is slow, as it also looks for absent devices."""
    torch.default_generator.manual_seed(seed)
    if fabric.device.type == "cuda":
        torch.cuda.manual_seed(seed)
