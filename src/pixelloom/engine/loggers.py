"""Loggers: statistics and metrics of a run for TensorBoard, Trackio or Weights & Biases.

``metrics.jsonl`` and ``curves.png`` are written in any case. Names have the split in front, as in ``train/loss``. The
packages are optional, and imported when a run starts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelloom.core.errors import UsageError
from pixelloom.engine.state import Hook, Run

PROJECT = "pixelloom"
"""Name of the project in Trackio and Weights & Biases; their environment variables do not change it."""
PACKAGES = ("tensorboard", "trackio", "wandb")
"""Packages of loggers; each is an extra of the same name."""
_log = logging.getLogger("pixelloom")


def check_logger(name: str) -> None:
    """Raises UsageError if the package of a logger is missing."""
    if name in PACKAGES and importlib.util.find_spec(name) is None:
        raise UsageError(f"logger: {name} is not installed; pip install 'pixelloom[{name}]', or choose --logger none")


def make_logger(name: str, out: Path, interval: int = 10) -> Hook | None:
    """The logger of a run, see :attr:`pixelloom.engine.config.TrainConfig.logger`.

    Args:
        name: "auto", "tensorboard", "trackio", "wandb" or "none"; "auto" is TensorBoard if it is installed.
        out: run folder.
        interval: steps between two lines of training statistics.

    Raises:
        UsageError: if the package is missing.
    """
    check_logger(name)
    if name == "trackio":
        return Trackio(out, interval)
    if name == "wandb":
        return WeightsAndBiases(out, interval)
    wanted = name == "tensorboard" or (name == "auto" and importlib.util.find_spec("tensorboard") is not None)
    return TensorBoard(out / "tensorboard", interval) if wanted else None


class _Logger(Hook):
    """Writes the statistics every ``interval`` steps and at the end, and the metrics of each validation."""

    def __init__(self, folder: Path, interval: int = 10) -> None:
        self.folder, self.interval = folder, interval

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Write the statistics every ``interval`` steps and at the end."""
        if run.state.step % self.interval == 0 or run.progress >= 1:
            self.write(run, {f"train/{name}": value for name, value in stats.items()})

    def on_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Write the metrics."""
        self.write(run, {f"val/{name}": value for name, value in metrics.items()})

    def write(self, run: Run, values: Mapping[str, float]) -> None:
        """Write values of the current step."""
        raise NotImplementedError


class TensorBoard(_Logger):
    """Events for TensorBoard in the run folder."""

    _writer: Any = None  # torch's SummaryWriter, untyped

    def on_start(self, run: Run) -> None:
        """Open an event file that replaces events after the current step."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=run.state.step + 1)

    def write(self, run: Run, values: Mapping[str, float]) -> None:
        """Write values of the current step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, run.state.step)

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()


class _Tracker(_Logger):
    """A run of a tracking service; a resumed run continues it, by an identifier that checkpoints keep.

    An error of the service is a warning, and training goes on without it.
    """

    name = ""
    _run: Any = None  # of an untyped package

    def on_start(self, run: Run) -> None:
        """Begin the run of the service, or continue it."""
        noted = run.notes.get(self.name)
        resumed = isinstance(noted, str)
        identifier = run.notes[self.name] = noted if resumed else secrets.token_hex(4)
        with self._guarded():
            self._run = self.begin(f"{self.folder.name}-{identifier}", dict(run.about), resumed=resumed)

    def begin(self, identifier: str, about: dict[str, Any], *, resumed: bool) -> Any:
        """The run object of the service."""
        raise NotImplementedError

    def write(self, run: Run, values: Mapping[str, float]) -> None:
        """Write values of the current step."""
        if self._run is not None and values:
            with self._guarded():
                self.send(dict(values), run.state.step)

    def send(self, values: dict[str, float], step: int) -> None:
        """Send values of a step."""
        raise NotImplementedError

    def close(self) -> None:
        """Send what is left, and end the run of the service."""
        if self._run is not None:
            with self._guarded():
                self.end()

    def end(self) -> None:
        """End the run of the service."""
        self._run.finish()

    @contextlib.contextmanager
    def _guarded(self) -> Any:
        """Turn an error into a warning, and keep standard output for results."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # of a service and its client, which may be any
            self._run = None
            _log.warning("%s: %s; the run goes on without it", self.name, error)


class Trackio(_Tracker):
    """A run of Trackio, in its local database, or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""

    name = "trackio"

    def begin(self, identifier: str, about: dict[str, Any], *, resumed: bool) -> Any:
        """The run object of the service."""
        import trackio

        return trackio.init(
            PROJECT,
            name=identifier,
            config=about.get("config", {}),
            resume="allow" if resumed else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def send(self, values: dict[str, float], step: int) -> None:
        """Send values of a step."""
        self._run.log(values, step=step)

    def end(self) -> None:
        """End the run of the service, by the function that also forgets it: else it ends again with the process."""
        import trackio

        trackio.finish()


class WeightsAndBiases(_Tracker):
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the run folder."""

    name = "wandb"

    def begin(self, identifier: str, about: dict[str, Any], *, resumed: bool) -> Any:
        """The run object of the service."""
        import wandb

        found = wandb.init(
            project=PROJECT,
            name=self.folder.name,
            id=identifier,
            dir=str(self.folder),
            config=about.get("config", {}),
            resume="allow",
        )
        # Its own steps only grow, and a resumed run repeats those after its checkpoint.
        found.define_metric("step")
        found.define_metric("*", step_metric="step")
        return found

    def send(self, values: dict[str, float], step: int) -> None:
        """Send values of a step."""
        self._run.log({**values, "step": step})
