"""A plot of a run in a notebook, which is updated in place while the run trains: curves, and the newest samples."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelloom.engine.state import Hook, Run
from pixelloom.runs.folder import METRICS_FILE
from pixelloom.viz import curves

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST = 2.0  # seconds between two updates
_SHARE = 0.05  # of the time, at most, for drawing
_log = logging.getLogger("pixelloom")


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if importlib.util.find_spec("IPython") is None:
        return False
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def live_plots(out: Path, *, wanted: bool) -> Sequence[Hook]:
    """The plot of a run as hooks; none, with a warning, outside a notebook."""
    if wanted and not in_notebook():
        _log.warning("plot: this is no notebook; the curves are in %s", out / "curves.png")
    return [LivePlot(out)] if wanted and in_notebook() else []


class LivePlot(Hook):
    """Shows curves and samples of a run folder, at most every two seconds and within a twentieth of the time.

    It reads the files that other hooks write, so it comes after them.

    Args:
        out: run folder.
        clock: returns seconds.
    """

    def __init__(self, out: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.out, self.clock = out, clock
        self._next = 0.0
        self._handles: dict[str, Any] = {}  # of IPython, untyped
        self._size, self._shown = 0, Path()  # of the metrics; the samples

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Update the plot if it is time, and at the end."""
        now = self.clock()
        if now < self._next and run.progress < 1:
            return
        self.update()
        self._next = self.clock() + max(_LEAST, (self.clock() - now) / _SHARE)

    def update(self) -> None:
        """Draw the curves, and show the newest samples."""
        metrics = self.out / METRICS_FILE
        if (size := metrics.stat().st_size) != self._size:
            self._size = size
            if (figure := curves.figure_of(curves.read_history(metrics))) is not None:
                self._show("curves", curves.png(figure))
        newest = max((self.out / "samples").glob("[0-9]*.png"), default=None)
        if newest is not None and newest != self._shown:
            self._shown = newest
            self._show("samples", newest.read_bytes())

    def _show(self, what: str, png: bytes) -> None:
        """Show an image where it was shown before."""
        from IPython.display import Image, display

        image = Image(data=png, format="png")  # type: ignore[no-untyped-call]
        if what in self._handles:
            self._handles[what].update(image)
        else:
            self._handles[what] = display(image, display_id=True)  # type: ignore[no-untyped-call]
