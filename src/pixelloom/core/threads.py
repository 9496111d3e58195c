"""How many CPU threads to use: what may be used at all, and what pays at the moment.

torch starts as many threads as it sees cores. It sees neither the quota of a container nor other programs, and then
the threads of each small operation wait for one that is not running: a second thread can cost five times what it
saves. So :func:`usable` counts what a process may use, and :class:`Pace` tries, while the work goes on, whether several
threads or one take less time.
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

_T = TypeVar("_T")


def usable(processes: int = 1) -> int:
    """Cores that this process may use, where so many like it share what there is.

    Affinity and the quota of control groups hold for all of them together, OMP_NUM_THREADS for each.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    share = int(min(cores, quota() or cores)) // processes
    return max(1, min(share, omp_num_threads(os.environ.get("OMP_NUM_THREADS", "")) or share))


def omp_num_threads(text: str) -> int | None:
    """The number in OMP_NUM_THREADS, of a list the one for the outermost level; None where there is none."""
    first = text.split(",", maxsplit=1)[0].strip()
    return int(first) if first.isascii() and first.isdigit() and int(first) > 0 else None


def quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores' worth of time that the control groups of this process allow; None for no limit.

    The smallest quota on the way from the process's group to the root counts. Version 2 has ``cpu.max``, "QUOTA PERIOD"
    with "max" for none; version 1 has ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``, with -1 for none. In a container
    the paths of the host do not exist, and the group's own files lie in the root.
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
    except ValueError:  # none, "max", or what we do not know
        return None
    return allowed / period if allowed > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


_LOCK = threading.Lock()
_calls, _before = 0, 1  # calls that have the threads, and torch's number before the first of them


@contextlib.contextmanager
def lent(threads: int | None = None) -> Iterator[int]:
    """Within, the number of torch's threads may be changed; it is put back afterwards.

    torch keeps a number for each thread of Python, one for those to come, and one in the library of its products, so
    the last call to end puts back what was there before the first.

    Args:
        threads: how many to use, whatever is usable; None for as many as are, and as torch is set to.

    Yields:
        How many the caller may use: 1 while another call has the others.
    """
    global _calls, _before  # noqa: PLW0603  # torch's number belongs to the process, and so does this count
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
    """Within, everything takes so many threads: a training, or a command with --threads. None changes nothing."""
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


_PATIENCE = 0.04  # share of the time that may go into trying the other number of threads
_EVERY = 6  # steps between two trials, however cheap they are
_RECENT = 0.3  # weight of the newest step in what a step is expected to take


class Pace:
    """Chooses one thread or all for each step of some work, by the time that steps before it took.

    Steps are tried with the other number now and then, so that a machine that becomes busy or idle is noticed. Results
    are those of any number of threads: equal up to the rounding of sums.

    Args:
        most: threads to choose when several pay; with 1 there is no choice.
        fixed: always take ``most``.
        clock: tells seconds.
    """

    def __init__(self, most: int, *, fixed: bool = False, clock: Callable[[], float] = time.perf_counter) -> None:
        self.most, self.fixed, self._clock = most, fixed or most == 1, clock
        self.rates: dict[int, float] = {}
        """Seconds for a unit of work, by the number of threads."""
        self._since, self._steps = 0.0, 0  # seconds and steps since the last trial

    @property
    def best(self) -> int:
        """The number of threads that steps have taken least time with."""
        return self.most if self.fixed else min(self.rates, key=lambda n: self.rates[n], default=1)

    def prime(self, work: float, step: Callable[[], object]) -> None:
        """Measure both numbers by a small step whose result is dropped: the first real step may be the only one."""
        if not self.fixed and not self.rates:
            step()  # libraries prepare themselves for its shapes
            for _ in range(2):
                self.run(work, step)

    def choose(self, work: float) -> int:
        """The number of threads for a step of so much work."""
        if self.fixed or len(self.rates) < 2:
            return self.most if self.fixed or self.rates else 1
        best, other = sorted(self.rates, key=lambda n: self.rates[n])
        cost = (self.rates[other] - self.rates[best]) * work
        return other if self._steps >= _EVERY and cost <= _PATIENCE * self._since else best

    def run(self, work: float, step: Callable[[], _T]) -> _T:
        """Take a step of so much work (in any unit) with the number of threads that pays."""
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
        """Steps over the rows of n images, ``batch`` at a time."""
        if few := min(batch, n) // 16:
            self.prime(few, lambda: step(slice(0, few)))
        for start in range(0, n, batch):
            rows = slice(start, min(start + batch, n))
            yield self.run(rows.stop - start, partial(step, rows))

    def _learn(self, threads: int, work: float, seconds: float, trial: bool) -> None:
        rate = seconds / max(work, 1e-12)
        before = self.rates.get(threads, rate)
        self.rates[threads] = before + _RECENT * (rate - before)
        self._since, self._steps = (0.0, 0) if trial else (self._since + seconds, self._steps + 1)


class ThreadChoice:
    """The choice of threads for one kind of work, such as the passes of a model; what it learns serves later calls."""

    def __init__(self) -> None:
        self._learned = Pace(1)

    @contextlib.contextmanager
    def pace(self, threads: int | None, device: torch.device) -> Iterator[Pace]:
        """Within, steps are taken by the pace's ``run``; torch's number of threads is put back afterwards.

        Args:
            threads: how many to use, always; None for a choice.
            device: where the work is done; only on a CPU is there a choice.
        """
        threads = threads or _FIXED.get()
        with lent(threads) as most:
            if threads is not None or most == 1 or device.type != "cpu":
                yield Pace(most, fixed=True)
                return
            if self._learned.most != most:
                self._learned = Pace(most)
            yield self._learned
