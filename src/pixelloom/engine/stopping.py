"""Ends of a run other than its budget: signals, a failed write, a lost process. The state is saved where possible."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from signal import Signals

from torch import distributed

from pixelloom.core.errors import PixelloomError
from pixelloom.engine.checkpoint import Checkpoint, last
from pixelloom.engine.memory import out_of_memory
from pixelloom.engine.signals import Interrupted, Stopped
from pixelloom.engine.state import Run

_COLLECTIVE = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "timed out waiting")


class LostProcessError(PixelloomError):
    """Another process of the run ended, or did not answer within ``timeout``."""


_REST = "unfinished"


def after_step(run: Run, stats: Mapping[str, float], checkpoint: Checkpoint | None, begin: int = 0) -> bool:
    """Call ``on_step`` of the hooks from number ``begin`` on. Returns False if a signal gave up one of them.

    Then the step is saved with what is left to do, and a resumed run begins with that (:func:`finish_step`). So its
    validations, and its best model, are those of an uninterrupted run.
    """
    for number, hook in enumerate(run.hooks[begin:], begin):
        try:
            with saved_on_failure(run, checkpoint):
                hook.on_step(run, stats)
        except Stopped:
            run.notes[_REST] = {"hook": number, "stats": dict(stats), "before": list(run.before)}
            if checkpoint:
                checkpoint.save(run, make_room=True)
            return False
    return True


def finish_step(run: Run, checkpoint: Checkpoint | None) -> bool:
    """Call the hooks that a signal gave up before the run was resumed. Returns False if that happened again."""
    rest = run.notes.pop(_REST, None)
    if not run.fabric.is_global_zero or not isinstance(rest, dict):
        return True
    images, progress = rest["before"]
    run.before = (images, progress)
    return after_step(run, rest["stats"], checkpoint, rest["hook"])


def stop(run: Run, signal: int, checkpoint: Checkpoint | None) -> None:
    """Save a checkpoint, then raise Interrupted with exit code 128 + signal."""
    if checkpoint and run.fabric.is_global_zero and _REST not in run.notes:
        checkpoint.save(run, make_room=True)
    run.fabric.barrier()
    saved = f"saved as {run.saved}; continue with --resume" if checkpoint else "nothing was saved"
    # Other ranks exit with 0: a launcher kills all processes when one of its children ends with another code.
    code = 128 + signal if run.fabric.is_global_zero else 0
    raise Interrupted(f"stopped by {Signals(signal).name} after step {run.state.step}; {saved}.", code)


@contextlib.contextmanager
def saved_on_failure(run: Run, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Save the state of the finished step if a hook fails, for example on a full disk; the error says so."""
    try:
        yield
    except PixelloomError as error:
        text = str(error)
        with contextlib.suppress(PixelloomError):
            if checkpoint:
                checkpoint.save(run, make_room=True)
                text += f" The state after step {run.state.step} is saved as {run.saved}; continue with --resume."
        if text == str(error) and last(run) not in text:
            text += f" {last(run)}"
        error.args = (text,)
        raise


@contextlib.contextmanager
def ends_explained(run: Run) -> Iterator[None]:
    """Turn a second Ctrl-C and the loss of another process into errors that name the last checkpoint."""
    try:
        yield
    except KeyboardInterrupt:
        text = f"stopped at once in the step after {run.state.step}. {last(run)} Continue with --resume."
        raise Interrupted(text, 130) from None
    except RuntimeError as error:
        lost = isinstance(error, distributed.DistError) or any(word in str(error).lower() for word in _COLLECTIVE)
        if run.fabric.world_size < 2 or out_of_memory(error) or not lost:
            raise
        raise LostProcessError(
            f"{_lost(run)} after step {run.state.step}, so this one (rank {run.fabric.global_rank}) ends too. "
            f"{last(run)} Continue with --resume."
        ) from error


def _lost(run: Run) -> str:
    """Which process was lost, where this one started it."""
    processes = getattr(run.fabric.strategy.launcher, "procs", [])
    until = time.monotonic() + 1  # the connection may close before the process has ended
    while processes and time.monotonic() < until:
        for rank, process in enumerate(processes, run.fabric.global_rank + 1):
            code = process.poll()
            if code:
                how = f"was ended by {Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"the process of rank {rank} {how}"
        time.sleep(0.05)
    return f"another of the {run.fabric.world_size} processes ended, or did not answer within train.timeout,"
