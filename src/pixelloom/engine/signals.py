"""Handlers that record SIGTERM and SIGINT, so that the loop stops between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from pixelloom.core.errors import PixelloomError


class Interrupted(PixelloomError):  # noqa: N818  # requested by the user, not an error
    """Training was stopped by a signal and its state was saved; ``exit_code`` is 128 + signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Signals:
    """A context that records SIGTERM and the first SIGINT in ``received``; a second SIGINT raises KeyboardInterrupt.

    It does nothing outside the main thread, where Python allows no handlers.
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
        if os.getpid() != self._pid:  # a data worker that inherited this handler by a fork
            if number == signal.SIGTERM:  # sent by its parent; Ctrl-C is left to the parent
                os._exit(128 + number)
            return
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
