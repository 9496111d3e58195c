"""Processes that carry out calls on shared objects, one per device: sampling and scoring of many images.

Training runs the same program in every process and exchanges gradients (:mod:`pixelloom.engine.fabric`). Here calls are
independent, so one process hands them out and receives the results in order. A process that is lost ends the work with
an error, and all processes end with the first one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from queue import Empty, SimpleQueue
from signal import Signals
from typing import Any, Self

import torch

from pixelloom.core.errors import PixelloomError, UsageError
from pixelloom.core.threads import usable
from pixelloom.engine.messages import dump, load, read, write

_START = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
path, device, threads, fix = json.loads(sys.argv[1])
sys.path[:] = path
from pixelloom.engine.worker import main
main(device, threads, fix)
"""
_QUEUED = 2  # calls that a process has at most, one of them waiting
_AHEAD = 2  # results per process that may wait for an earlier one
_WAIT = 0.2  # seconds between two calls of ``on_wait``
_PATIENCE = 10.0  # seconds that a process may take to end
_log = logging.getLogger("pixelloom")

OnReport = Callable[[int, Any], None]
"""Callback with the index of a call and what it reported, see :func:`pixelloom.engine.worker.report`."""


class _Process:
    """One process, and the calls that it has."""

    def __init__(self, device: str, threads: int, fix: bool) -> None:
        self.device = device
        self.calls: set[int] = set()
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        words = json.dumps([sys.path, device, threads, fix])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )

    def start(self, inbox: SimpleQueue[tuple[_Process, bytes | None]]) -> None:
        """Start the threads that read and write, so that nobody waits for a process that is starting."""
        threading.Thread(target=self._listen, args=(inbox,), daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    def _listen(self, inbox: SimpleQueue[tuple[_Process, bytes | None]]) -> None:
        """Put answers into the inbox, and None at the end."""
        assert self.process.stdout is not None
        while (message := read(self.process.stdout)) is not None:  # type: ignore[arg-type]
            inbox.put((self, message))
        inbox.put((self, None))

    def _write(self) -> None:
        """Write messages to the pipe."""
        with contextlib.suppress(OSError, ValueError):  # the end of the process is found by `_listen`
            while (content := self._outbox.get()) is not None:
                write(self.process.stdin, content)  # type: ignore[arg-type]

    def send(self, content: bytes) -> None:
        """Send a message; to a process that has ended, nothing."""
        self._outbox.put(content)

    def end(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()
        self._outbox.put(None)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # a message that was not sent
                pipe.close()  # type: ignore[union-attr]


class Workers:
    """Processes that carry out calls; a context, which ends them.

    Args:
        devices: device of each process.
        threads: CPU threads of each; None for its share of the cores, or one if that is faster.
    """

    def __init__(self, devices: Sequence[torch.device], threads: int | None = None) -> None:
        most = threads or usable(len(devices))
        self._numbers: dict[int, int] = {}  # identity of an object -> its number
        self._held: list[object] = []  # so that no identity is used twice
        self._next, self._shown = 0, set[str]()
        self._inbox: SimpleQueue[tuple[_Process, bytes | None]] = SimpleQueue()
        self._all = [_Process(str(device), most, threads is not None) for device in devices]
        for each in self._all:
            each.start(self._inbox)

    def __len__(self) -> int:
        return len(self._all)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for each in self._all:
            each.end()

    def share(self, value: Any, name: object = None) -> None:
        """Send an object to all processes, which move it to their devices.

        Args:
            value: the object, with a method ``to``.
            name: the object that stands for it in arguments of calls; default: ``value``.
        """
        name = value if name is None else name
        number = len(self._held)
        try:
            content = dump((number, value), self._numbers)
        except Exception as error:  # pickle raises errors of many classes
            raise UsageError(f"devices: this model cannot be sent to another process: {error}") from error
        self._held.append(name)
        self._numbers[id(name)] = number
        for each in self._all:
            each.send(b"o" + content)

    def map(
        self,
        function: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        on_report: OnReport | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> Generator[Any, None, None]:
        """Yield ``function(*call)`` of each call, in order; a few calls are taken in advance.

        Args:
            function: a function of a module, or a method of an object that can be pickled.
            calls: arguments; shared objects are sent as their numbers.
            on_report: called with the index of a call and its reports.
            on_wait: called while nothing arrives, every 0.2 seconds.

        Raises:
            PixelloomError: if a process is lost. An error of a call is raised as it is.
        """
        first, taken, given = self._next, 0, iter(calls)
        found: dict[int, Any] = {}
        more = True
        try:
            while True:
                while more and self._next - first - taken < _AHEAD * len(self._all):
                    process = min(self._all, key=lambda each: len(each.calls))
                    if len(process.calls) >= _QUEUED:
                        break
                    call = next(given, None)
                    if call is None:
                        more = False
                        break
                    process.calls.add(self._next)
                    process.send(b"c%d " % self._next + dump((function, call), self._numbers))
                    self._next += 1
                if first + taken in found:
                    value = found.pop(first + taken)
                    taken += 1
                    yield value
                elif first + taken < self._next:
                    self._receive(first, found, on_report, on_wait)
                else:
                    return
        finally:
            if first + taken < self._next:  # the results are not needed any more
                for each in self._all:
                    each.calls.clear()
                    each.send(b"d%d" % (self._next - 1))

    def _receive(
        self, first: int, found: dict[int, Any], on_report: OnReport | None, on_wait: Callable[[], None] | None
    ) -> None:
        """Take one message."""
        try:
            process, content = self._inbox.get(timeout=_WAIT)
        except Empty:
            process, content = None, None
        if on_wait is not None:
            on_wait()
        if process is None:
            return
        if content is None:
            raise self._lost(process)
        kind, number, value = load(content, {})
        process.calls.discard(number if kind in ("done", "error") else -1)
        if kind == "log" and value[1] not in self._shown:
            self._shown.add(value[1])
            _log.log(*value)
        if kind == "failed" or (kind == "error" and number >= first):
            raise value
        if number < first:  # of a call that was dropped
            return
        if kind == "done":
            found[number] = value
        elif kind == "report" and on_report is not None:
            on_report(number - first, value)

    def _lost(self, process: _Process) -> PixelloomError:
        """The error of a process that has ended."""
        try:
            code = process.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            code = 0
        how = f"was ended by {Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = "; memory may have run out: use fewer --devices or a smaller --batch" if code == -9 else ""
        place = f"{self._all.index(process) + 1} of {len(self._all)}"
        return PixelloomError(f"devices: process {place} ({process.device}) {how}{hint}")


def each(model: Any, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Generator[Any, None, None]:
    """``function(*call)`` of each call, in order: in this process, or in those of a model in several processes."""
    workers: Workers | None = getattr(model, "workers", None)
    if workers is not None:
        yield from workers.map(function, calls)
        return
    for call in calls:
        yield function(*call)
