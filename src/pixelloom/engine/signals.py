"""Handlers that record signals, so that the loop stops between two steps."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from pixelloom.core.errors import PixelloomError


class Interrupted(PixelloomError):  # noqa: N818  # requested by the user, not an error
    """Training was stopped by a signal and its state was saved; ``exit_code`` is 128 + signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stopped(BaseException):  # not an Exception: no library that is interrupted may catch it
    """A signal during work that may be given up at once, see :meth:`Signals.interruptible`."""


_SAVING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")  # the last two: a closed terminal, a queue that ends a job


class Signals:
    """A context that records signals in ``received``: SIGTERM, the first SIGINT, SIGHUP and SIGUSR1.

    A second SIGINT raises KeyboardInterrupt, and further ones are ignored. SIGHUP stays ignored under nohup. It does
    nothing outside the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self.received = 0
        self._raised = False
        self._interruptible = False
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in _SAVING:
                number = getattr(signal, name, None)  # Windows has two of them
                if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a data worker that inherited this handler by a fork
            if number == signal.SIGTERM:  # sent by its parent; the others are left to the parent
                os._exit(128 + number)
            return
        if number == signal.SIGINT and self.received == signal.SIGINT:
            if not self._raised:
                self._raised = True
                raise KeyboardInterrupt
            return
        self.received = number
        if self._interruptible:
            self._interruptible = False
            raise Stopped
        if number == signal.SIGINT:
            with contextlib.suppress(OSError):  # not by logging, whose locks may be held here
                os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Context of work that a signal gives up at once.

        Raises:
            Stopped: at a signal, and for one that was received before.
        """
        if self.received:
            raise Stopped
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False
        if self.received:  # where Python ignores exceptions, such as in a destructor
            raise Stopped


_AGAIN = 1.0  # seconds after which another SIGINT counts


@contextlib.contextmanager
def one_interrupt(*, program: bool) -> Iterator[None]:
    """Raise KeyboardInterrupt at a SIGINT, but not again within a second, so that no cleanup is interrupted.

    Args:
        program: the process ends after the context: SIGINT is ignored from then on. Otherwise the handler before is
            set again.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # in the background of a shell
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    pid, last = os.getpid(), [-math.inf]

    def handle(number: int, frame: FrameType | None) -> None:
        before, last[0] = last[0], time.monotonic()
        if os.getpid() == pid and last[0] - before > _AGAIN:
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if program else handler)
