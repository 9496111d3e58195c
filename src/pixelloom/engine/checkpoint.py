"""Checkpoints: the complete state of a training run in one file with a checksum."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixelloom.core.atomic import remove_parts
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.engine.safetensors_io import check_keys, load_meta, load_tensors, save_tensors
from pixelloom.engine.state import Hook, Run, State

_log = logging.getLogger("pixelloom")
_KEEP = 2  # if the newest is damaged, the other one is used
_SECONDS = 300.0  # between checkpoints if ``checkpoint_every`` is not set


class Checkpoint(Hook):
    """Saves ``step-*.safetensors`` (the last two are kept) and ``best.safetensors`` in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last = time.monotonic()

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Save every ``checkpoint_every`` images, by default 20 per run and every five minutes, and at the end."""
        interval = run.config.checkpoint_every
        if run.due(interval, 20) or (interval is None and time.monotonic() - self._last > _SECONDS):
            self.save(run)

    def on_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Save the complete state at the best step; training can be resumed from it, unlike from the exported model."""
        if run.state.best_step == run.state.step:
            self._write(run, self.folder / "best.safetensors")

    def save(self, run: Run, *, make_room: bool = False) -> None:
        """Write a checkpoint of the current step and delete the oldest. Raises ModelError if it cannot be written.

        With ``make_room``, if there is no space, the older of two checkpoints is deleted before another attempt.
        """
        path = self.folder / f"step-{run.state.step:09d}.safetensors"
        try:
            self._write(run, path)
        except ModelError as error:
            older = self.steps()[1:]
            if not (make_room and older and isinstance(error.__cause__, OSError)):
                raise
            for old in older:
                old.unlink(missing_ok=True)
            self._write(run, path)
        run.saved = path
        self._last = time.monotonic()
        for old in self.steps()[_KEEP:]:
            old.unlink(missing_ok=True)

    def steps(self) -> list[Path]:
        """Return the checkpoints of steps, newest first."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)

    def restore(self, run: Run) -> bool:
        """Load the newest checkpoint whose checksum is right. Returns False if there is no checkpoint.

        Raises:
            ModelError: if all files are damaged, or one belongs to another architecture (the message names the keys).
        """
        damaged: list[str] = []
        files = [*self.steps(), *self.folder.glob("best.safetensors")]
        for path in files:
            try:
                tensors, meta = load_tensors(path)
                state = _state_of(path, meta)
            except ModelError as error:
                damaged.append(str(error))
                continue
            for problem in damaged:
                _log.warning("%s Resuming from %s instead.", problem, path)
            _apply(run, path, tensors)
            run.state, run.notes = state, dict(meta.get("notes", {}))
            _warn_of_changes(run, path, meta.get("config", {}))
            run.saved = path
            if run.progress >= 1 and not run.notes.get("unfinished") and run.fabric.is_global_zero:
                _log.warning(
                    "%s: the budget is used up after %s images; set a larger --images, --epochs or --minutes",
                    *(self.folder.parent, f"{run.state.images:,}"),
                )
            return True
        if damaged:
            raise ModelError("no checkpoint can be resumed:\n" + "\n".join(damaged))
        return False

    def _write(self, run: Run, path: Path) -> None:
        tensors = dict(_tensors(run))
        # A learning rate that is far too high overflows the weights in the step itself; the next loss would be NaN.
        if not all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point()):
            raise ModelError(f"training diverged at step {run.state.step}: weights are no longer finite. {last(run)}")
        save_tensors(path, tensors, run.describe())


def last(run: Run) -> str:
    """Return a sentence that names the last checkpoint."""
    return f"The checkpoint {run.saved} is intact." if run.saved else "There is no checkpoint."


def prepare(out: Path, run: Run) -> None:
    """Create ``out/checkpoints``, delete partial files of killed runs, and check that a checkpoint can be written.

    Raises:
        UsageError: if the folder is not writable or its disk has no space for three checkpoints (two kept, one new).
    """
    folder = out / "checkpoints"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_parts(folder)
        probe = folder / f".probe.{os.getpid()}.part"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    except OSError as error:
        raise UsageError(f"out: {folder} cannot be written: {error.strerror}; choose another folder.") from error
    weights = sum(p.numel() * p.element_size() for part in run.objective.parts.values() for p in part.parameters())
    needed = 3 * 4 * weights  # weights, two moments, EMA
    if free < needed:
        reason = os.strerror(errno.ENOSPC)
        raise UsageError(f"out: {folder} needs {needed} bytes, {free} are free: {reason}; choose another folder.")


def _tensors(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors: ``part/<part>/<key>``, ``ema/<key>``, ``optimizer/<phase>/<slot>/<parameter>``."""
    yield from _weights(run)
    for active in run.phases:
        for name, parameter in active.phase.module.named_parameters():
            for slot, value in active.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield f"optimizer/{active.phase.name}/{slot}/{name}", value


def _weights(run: Run) -> Iterator[tuple[str, Tensor]]:
    modules = {f"part/{name}": part for name, part in run.objective.parts.items()}
    if run.ema:
        modules["ema"] = run.ema.module
    for prefix, module in modules.items():
        for key, value in module.state_dict().items():
            yield f"{prefix}/{key}", value


def about_of(folder: Path) -> dict[str, Any]:
    """Return ``about`` of the newest readable checkpoint in a folder; empty if there is none."""
    for path in [*Checkpoint(folder).steps(), folder / "best.safetensors"]:
        with contextlib.suppress(ModelError):
            meta = load_meta(path)
            _state_of(path, meta)
            return dict(meta.get("about", {}))
    return {}


def _state_of(path: Path, meta: Mapping[str, Any]) -> State:
    """Return the state of a checkpoint. Raises ModelError if its metadata are not those of a checkpoint."""
    unknown = meta.keys() - {"state", "config", "about", "notes"}
    try:
        if unknown or not all(isinstance(meta.get(name, {}), dict) for name in ("config", "about", "notes")):
            raise ValueError("it has other entries than a checkpoint")
        return State.of(meta.get("state"))
    except ValueError as error:
        raise ModelError(f"{path}: not a checkpoint of Pixelloom: {error}; use another copy.") from None


def _apply(run: Run, path: Path, tensors: dict[str, Tensor]) -> None:
    """Copy a checkpoint into the existing tensors of ``run``.

    Their memory format is kept, since it determines the order of summation in some kernels, and so the last bits.
    """
    weights = dict(_weights(run))
    moments = {key: tensors.pop(key) for key in list(tensors) if key.startswith("optimizer/")}
    slots = {
        f"optimizer/{active.phase.name}/{slot}/{name}": (active, slot, parameter)
        for active in run.phases
        for name, parameter in active.phase.module.named_parameters()
        for slot in _SLOTS
    }
    check_keys(path, weights, tensors)
    check_keys(path, {k: _like(*slots[k][1:]) for k in moments if k in slots}, moments)
    with torch.no_grad():
        for key, value in weights.items():
            value.copy_(tensors[key])
        for key, value in moments.items():
            active, slot, parameter = slots[key]
            active.optimizer.state[parameter][slot] = _like(slot, parameter).copy_(value)


_SLOTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # per-parameter state of Adam, AdamW, SGD and Muon


def _like(slot: str, parameter: nn.Parameter) -> Tensor:
    """Return an empty tensor with the shape and memory format of a slot of ``parameter``."""
    return torch.empty((), device=parameter.device) if slot == "step" else torch.empty_like(parameter).detach()


def _warn_of_changes(run: Run, path: Path, before: Mapping[str, Any]) -> None:
    """Warn about settings whose change makes the resumed run differ from an uninterrupted one; a budget may grow."""
    now = run.config.model_dump(mode="json")
    for field in ("batch", "accumulate", "seed", "precision", "device", "devices", "nodes"):
        if before.get(field) != now[field]:
            _log.warning("%s was written with %s=%s, now it is %s.", path, field, before.get(field), now[field])
