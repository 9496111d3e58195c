"""Output of commands: results on standard output, logs and progress on standard error."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from pixelloom.engine.launch import is_further

if TYPE_CHECKING:
    from rich.progress import Progress

_log = logging.getLogger("pixelloom")
_LINES = 10.0  # seconds between two lines of progress where there is no terminal


def say(text: str) -> None:
    """Write a result to standard output."""
    sys.stdout.write(text + "\n")


def say_json(value: object) -> None:
    """Write a JSON value on one line to standard output; numbers that are not finite become null."""
    say(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write aligned columns, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stderr``, which rich replaces during a progress bar to write above the bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno < logging.WARNING:
            return record.getMessage()
        level = record.levelname.lower()
        if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
            level = f"\033[33m{level}\033[0m"
        return f"{level}: {record.getMessage()}"


@contextmanager
def logs(*, verbose: bool = False) -> Iterator[None]:
    """Show the library's log on standard error while a command runs; ``verbose`` adds details and long lists."""
    handler, level = _StderrHandler(), _log.level
    _log.addHandler(handler)
    # Further processes of one run log warnings only.
    _log.setLevel(logging.WARNING if is_further() else logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)


def is_verbose() -> bool:
    """Whether the command shows long lists in full."""
    return _log.isEnabledFor(logging.DEBUG)


class Meter:
    """Progress of a slow task: a bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._shown = time.monotonic()
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (
                *(TextColumn("{task.description}"), BarColumn(24)),
                *(TextColumn("{task.fields[note]}"), TimeRemainingColumn()),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(self.what, total=self.total, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, done: float, note: str = "") -> None:
        """Show progress of ``done`` out of the total; ``note`` is shown with it."""
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._shown > _LINES:
            self._shown = time.monotonic()
            _log.info("%s: %.0f %%%s", self.what, 100 * done / self.total, note and f", {note}")


def memory(size: float) -> str:
    """A number of bytes with a unit, as in ``1.2 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
