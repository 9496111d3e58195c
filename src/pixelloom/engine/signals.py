"""SIGTERM and SIGINT become a wish to stop, which the loop grants between two rounds."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from pixelloom.core.errors import PixelloomError


class Interrupted(PixelloomError):  # noqa: N818  # no error: it was asked for
    """Training was stopped by a signal after its state was saved; ``exit_code`` is the shell's 128 + signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Signals:
    """While entered, notes SIGTERM and a first SIGINT in ``received``; a second SIGINT raises KeyboardInterrupt.

    Python allows handlers on the main thread only; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a data worker, forked with our handler: SIGTERM is how its parent ends it,
            if number == signal.SIGTERM:  # and a Ctrl-C of the whole terminal is its parent's business
                os._exit(128 + number)
            return
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
