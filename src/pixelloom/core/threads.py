"""The number of CPU threads: how many a process may use, and how many are fastest at the moment.

torch starts one thread per core that it sees. It sees neither the CPU quota of a container nor other programs. Where
one of its threads is not running, the others wait for it at the end of each operation, and several threads can be five
times slower than one. So :func:`usable` counts the cores that a process may use, and :class:`ThreadTuner` measures,
during the work, whether several threads are faster than one.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from pixelloom.core.errors import UsageError

_T = TypeVar("_T")


def usable(processes: int = 1) -> int:
    """Cores that this process may use.

    Args:
        processes: number of equal processes that share them. Affinity and the quota of control groups limit all of them
            together, OMP_NUM_THREADS limits each.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    share = int(min(cores, quota() or cores)) // processes
    return max(1, min(share, omp_num_threads(os.environ.get("OMP_NUM_THREADS", "")) or share))


def omp_num_threads(text: str) -> int | None:
    """The number in OMP_NUM_THREADS, in a list that of the outermost level; None if there is no valid one."""
    first = text.split(",", maxsplit=1)[0].strip()
    return int(first) if first.isascii() and first.isdigit() and int(first) > 0 else None


def quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """The CPU quota of this process's control groups in cores, None for no limit.

    It is the smallest quota from the process's group up to the root. Version 2 of control groups has ``cpu.max``,
    "QUOTA PERIOD", with "max" for no limit; version 1 has ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``, with -1 for
    no limit. In a container the paths of the host do not exist, and the group's files are in the root.

    Args:
        root: where the control groups are mounted.
        membership: file that lists the groups of this process.
    """
    found = []
    for line in _lines(membership):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (root,) if not controllers else (root / controllers, root / "cpu"):
            here = mount / path.strip("/")
            while here == mount or mount in here.parents:
                found.append(_quota_of(here))
                here = here.parent
    return min((one for one in found if one), default=None)


def _quota_of(group: Path) -> float | None:
    words = " ".join(_lines(group / "cpu.max")).split()
    if not words:
        words = [*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us")]
    try:
        allowed, period = (float(word) for word in words)
    except ValueError:  # no file, "max", or an unknown format
        return None
    return allowed / period if allowed > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


_LOCK = threading.Lock()
_calls, _before = 0, 1  # number of active leases, and torch's number of threads before the first of them


@contextlib.contextmanager
def thread_lease(threads: int | None = None) -> Iterator[int]:
    """Context in which torch's number of threads may be changed; it is restored afterwards.

    torch keeps one number per Python thread, one for future Python threads, and one in its matrix library. So the last
    of overlapping leases to end restores the number from before the first.

    Args:
        threads: a number to use, even above the usable cores; None for the usable cores, within torch's setting.

    Yields:
        How many threads the caller may use: 1 while another lease is active.
    """
    global _calls, _before  # noqa: PLW0603  # torch's number is global, and so is this count
    with _LOCK:
        mine = torch.get_num_threads()
        if not _calls:
            _before = mine
        alone = _calls == 0
        _calls += 1
    try:
        yield threads or (min(usable(), mine) if alone else 1)
    finally:
        with _LOCK:
            _calls -= 1
            torch.set_num_threads(_before if _calls == 0 or alone else mine)


_FIXED: ContextVar[int | None] = ContextVar("fixed", default=None)


@contextlib.contextmanager
def fixed(threads: int | None) -> Iterator[None]:
    """Context in which all work uses this number of threads, as a training run does. None has no effect."""
    if threads is None:
        yield
        return
    before, token = torch.get_num_threads(), _FIXED.set(threads)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        _FIXED.reset(token)
        torch.set_num_threads(before)


_TRIAL_TIME = 0.04  # largest fraction of the time that trials of the slower number of threads may add
_TRIAL_INTERVAL = 6  # smallest number of steps between two trials
_NEWEST_WEIGHT = 0.3  # of the newest step in the moving average of the time per unit of work


class ThreadTuner:
    """Chooses one thread or all threads for each step, whichever took less time per unit of work in recent steps.

    Once in a while a step runs with the other number, so that the choice follows the load of the machine. The number of
    threads changes results by the rounding of sums only.

    Args:
        most: the number of all threads.
        fixed: always use ``most``.
        clock: returns seconds.
    """

    def __init__(self, most: int, *, fixed: bool = False, clock: Callable[[], float] = time.perf_counter) -> None:
        self.most, self.fixed, self._clock = most, fixed or most == 1, clock
        self.rates: dict[int, float] = {}
        """Number of threads -> moving average of the seconds per unit of work."""
        self._since, self._steps = 0.0, 0  # seconds and steps since the last trial

    @property
    def best(self) -> int:
        """The faster number of threads."""
        return self.most if self.fixed else min(self.rates, key=lambda n: self.rates[n], default=1)

    def warm_up(self, work: float, step: Callable[[], object]) -> None:
        """Measure both numbers by a small step whose result is discarded: the first real step may be the only one."""
        if not self.fixed and not self.rates:
            step()  # libraries initialize for its shapes
            for _ in range(2):
                self.run(work, step)

    def choose(self, work: float) -> int:
        """The number of threads for a step with this amount of work."""
        if self.fixed or len(self.rates) < 2:
            return self.most if self.fixed or self.rates else 1
        best, other = sorted(self.rates, key=lambda n: self.rates[n])
        cost = (self.rates[other] - self.rates[best]) * work
        return other if self._steps >= _TRIAL_INTERVAL and cost <= _TRIAL_TIME * self._since else best

    def run(self, work: float, step: Callable[[], _T]) -> _T:
        """Run a step with this amount of work, in any unit, with the chosen number of threads."""
        threads, trial = self.choose(work), False
        if not self.fixed:
            trial = threads != self.best
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        begun = self._clock()
        done = step()
        self._learn(threads, work, self._clock() - begun, trial)
        return done

    def batches(self, n: int, batch: int, step: Callable[[slice], _T]) -> Iterator[_T]:
        """Run a step per batch of n images; ``step`` takes the range of its images."""
        if few := min(batch, n) // 16:
            self.warm_up(few, lambda: step(slice(0, few)))
        for start in range(0, n, batch):
            rows = slice(start, min(start + batch, n))
            yield self.run(rows.stop - start, partial(step, rows))

    def _learn(self, threads: int, work: float, seconds: float, trial: bool) -> None:
        rate = seconds / max(work, 1e-12)
        before = self.rates.get(threads, rate)
        self.rates[threads] = before + _NEWEST_WEIGHT * (rate - before)
        self._since, self._steps = (0.0, 0) if trial else (self._since + seconds, self._steps + 1)


class ThreadChoice:
    """The tuner of one kind of work, such as the passes of one model; later calls start with its measurements."""

    def __init__(self) -> None:
        self._learned = ThreadTuner(1)

    @contextlib.contextmanager
    def tuner(self, threads: int | None, device: torch.device) -> Iterator[ThreadTuner]:
        """Context for steps that the tuner's ``run`` executes; torch's number of threads is restored afterwards.

        Args:
            threads: a fixed number, None to tune it.
            device: of the work; only a CPU is tuned.

        Raises:
            UsageError: for fewer than one thread.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads: must be 1 or more, or None to choose by measured time, not {threads}")
        threads = threads or _FIXED.get()
        with thread_lease(threads) as most:
            if threads is not None or most == 1 or device.type != "cpu":
                yield ThreadTuner(most, fixed=True)
                return
            if self._learned.most != most:
                self._learned = ThreadTuner(most)
            yield self._learned
