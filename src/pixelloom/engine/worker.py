"""A process that carries out the calls of :mod:`pixelloom.engine.workers`, which arrive on its standard input.

A thread reads the messages. It ends the process when the pipe closes, also in the middle of a call, so no process
outlives the one that started it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from queue import SimpleQueue
from typing import Any

import torch

from pixelloom.core.threads import fixed
from pixelloom.engine.messages import dump, load, read, write

_INTERVAL = 0.1  # seconds between two reports of a call
_log = logging.getLogger("pixelloom")


class _Dropped(BaseException):  # not an Exception: no code of a call may catch it
    """Ends a call whose result is not needed any more."""


class _Worker:
    """The state of the process: objects, and the call in progress."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.objects: dict[int, Any] = {}
        self.calls: SimpleQueue[bytes] = SimpleQueue()
        self.call, self.dropped, self._reported = -1, -1, 0.0
        self._answers = os.fdopen(os.dup(1), "wb")
        self._lock = threading.Lock()

    def answer(self, kind: str, value: object) -> None:
        """Send a message to the first process."""
        content = dump((kind, self.call, value))
        with self._lock:
            write(self._answers, content)

    def report(self, value: object) -> None:
        """Report progress, at most every 0.1 seconds; ends a call that was dropped."""
        if self.call <= self.dropped:
            raise _Dropped
        if (now := time.monotonic()) - self._reported >= _INTERVAL:
            self._reported = now
            self.answer("report", value)

    def read(self) -> None:
        """Read messages until the pipe closes, in a thread."""
        source = os.fdopen(os.dup(0), "rb")
        with contextlib.suppress(OSError):
            while (message := read(source)) is not None:
                kind, content = message[:1], message[1:]
                if kind == b"d":
                    self.dropped = int(content)
                else:
                    self.calls.put(message)
        os._exit(1)

    def work(self) -> None:
        """Carry out calls, one after another."""
        while True:
            message = self.calls.get()
            kind, content = message[:1], message[1:]
            if kind == b"o":
                self._keep(content)
                continue
            number, _, content = content.partition(b" ")
            self.call, self._reported = int(number), 0.0
            if self.call <= self.dropped:
                continue
            try:
                function, values = load(content, self.objects)
                self.answer("done", function(*values))
            except _Dropped:
                continue
            # Every error is sent to the first process, which raises it there.
            except Exception as error:
                self.answer("error", _sendable(error))

    def _keep(self, content: bytes) -> None:
        """Keep an object; it is on the device of this process afterwards."""
        try:
            key, value = load(content, self.objects)
            self.objects[key] = value.to(self.device)
        except Exception as error:
            self.answer("failed", _sendable(error))


_worker: _Worker | None = None


def report(value: object) -> None:
    """Report progress of the call in progress; nothing in a process that is no worker."""
    if _worker is not None:
        _worker.report(value)


def _sendable(error: Exception) -> Exception:
    """The error itself if it can be sent, else one of the same text; the traceback is added as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        load(dump(error), {})
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.add_note(error.__notes__[-1])
        return plain
    return error


class _Warnings(logging.Handler):
    """Sends warnings to the first process, which shows each once."""

    def emit(self, record: logging.LogRecord) -> None:
        if _worker is not None:
            _worker.answer("log", (record.levelno, record.getMessage()))


def main(device: str, threads: int, fix: bool) -> None:
    """Serve calls until standard input closes.

    Args:
        device: device of the objects.
        threads: CPU threads at most.
        fix: use this number of threads always, rather than the faster of it and one.
    """
    global _worker  # noqa: PLW0603  # one a process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    torch.set_num_threads(threads)
    _worker = _Worker(torch.device(device))
    os.dup2(2, 1)  # what a library prints is no answer
    threading.Thread(target=_worker.read, daemon=True).start()
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    _log.addHandler(_Warnings(logging.WARNING))
    with fixed(threads if fix else None):
        _worker.work()
