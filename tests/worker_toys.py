"""Functions and objects for processes of tests of :mod:`pixelloom.engine.workers`."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import torch

from pixelloom.core.errors import DataError
from pixelloom.engine.worker import report


class Kept:
    """An object that processes keep."""

    def __init__(self, value: int) -> None:
        self.value, self.device = value, "nowhere"

    def to(self, device: torch.device) -> Kept:
        self.device = str(device)
        return self

    def times(self, factor: int) -> tuple[int, str, int, int]:
        return self.value * factor, self.device, os.getpid(), torch.get_num_threads()


def slow_first(index: int) -> int:
    time.sleep(0.3 if index == 0 else 0)
    return index


def fails(index: int) -> int:
    if index == 2:
        raise DataError("image 2 is damaged")
    return index


def dies(index: int) -> int:
    if index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return index


def warns(index: int) -> int:
    logging.getLogger("pixelloom").warning("careful")
    print("a line that is no answer", flush=True)  # noqa: T201
    return index


def reports(steps: int) -> int:
    for step in range(steps):
        report(step)
        time.sleep(0.12)
    return steps


def until_dropped(folder: str) -> None:
    """Works until its result is not needed any more."""
    Path(folder, f"begun-{os.getpid()}").touch()
    try:
        while True:
            time.sleep(0.02)
            report(0)
    finally:
        Path(folder, f"ended-{os.getpid()}").touch()
