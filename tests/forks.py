"""Programs of tests in processes of their own, forked from one server that has imported torch once.

Importing torch takes a process two seconds of a core. The server does nothing else and has one thread, so a fork of it
is like a fresh process. Each program has a parent of its own, which waits for it and writes down how it ended.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parent


class Ended(NamedTuple):
    """As subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


class Program:
    """A program that runs; its output and its end are files of a folder."""

    def __init__(self, folder: Path, limit: float) -> None:
        self._folder, self._limit = folder, limit
        self.pid = int(self._awaited("pid"))

    def _awaited(self, name: str) -> str:
        end = time.monotonic() + self._limit
        while not (self._folder / name).exists():
            assert time.monotonic() < end, f"no {name} after {self._limit} s"
            time.sleep(0.01)
        return (self._folder / name).read_text()

    def poll(self) -> int | None:
        end = self._folder / "end"
        return int(end.read_text()) if end.exists() else None

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> Ended:
        code = int(self._awaited("end"))
        return Ended(code, *((self._folder / name).read_text() for name in ("stdout", "stderr")))


class Server:
    """Forks programs: ``main(argv)`` of a module of the tests, which returns an exit code."""

    def __init__(self, module: str, folder: Path) -> None:
        self._folder, self._programs = folder, list[Program]()
        self._process = subprocess.Popen(
            [sys.executable, __file__, module],
            stdin=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def start(
        self, *argv: str, limit: float = 600, cwd: Path = TESTS, file_size: int = -1, **environment: str
    ) -> Program:
        """In a folder, with files of so many bytes at most, in an environment that has more variables."""
        folder = self._folder / str(len(self._programs))
        folder.mkdir()
        assert self._process.stdin is not None
        job = {"argv": argv, "environment": environment, "folder": str(folder), "cwd": str(cwd), "file_size": file_size}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        self._programs.append(Program(folder, limit))
        return self._programs[-1]

    def run(self, *argv: str, **options: Any) -> Ended:
        return self.start(*argv, **options).wait()

    def close(self) -> None:
        for program in self._programs:
            if program.poll() is None:
                program.send(signal.SIGKILL)
        self._process.communicate()


@contextlib.contextmanager
def server(module: str, folder: Path) -> Iterator[Server]:
    forks = Server(module, folder)
    try:
        yield forks
    finally:
        forks.close()


# The server's side


def _write(folder: Path, name: str, text: str) -> None:
    (folder / f".{name}").write_text(text)
    (folder / f".{name}").rename(folder / name)


def _program(module: Any, job: dict[str, Any]) -> None:
    """In place of the interpreter: output into files, an exit code, what was registered to be done at exit."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(job["folder"]) / name, os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["cwd"])
    os.environ.update(job["environment"])
    if job["file_size"] >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"],) * 2)
    sys.argv = [module.__file__, *job["argv"]]
    code = 1
    try:
        code = module.main(job["argv"])
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(module: Any) -> None:
    for line in sys.stdin:
        job = json.loads(line)
        folder = Path(job["folder"])
        if os.fork():
            continue
        pid = os.fork()
        if pid == 0:
            _program(module, job)
        _write(folder, "pid", str(pid))
        _write(folder, "end", str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
        os._exit(0)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def default_signals() -> None:
    """Handle signals as a program started in a terminal does: nohup and background jobs of a shell ignore some."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


if __name__ == "__main__":
    default_signals()
    sys.path.insert(0, str(TESTS))
    _serve(__import__(sys.argv[1]))
