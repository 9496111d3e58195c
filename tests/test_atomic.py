"""Atomic writes and locks: what another process or a failure can leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pixelloom.core import atomic
from pixelloom.core.errors import ModelError

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that has the module as ``atomic``."""
    header = "import os, sys, time\nfrom pathlib import Path\nfrom pixelloom.core import atomic\n"
    return subprocess.Popen(
        [sys.executable, "-c", header + textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    for content in (b"old", b"", b"a longer new content"):
        atomic.write_bytes(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize("function", ["flush", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    atomic.write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(*((atomic, "flush") if function == "flush" else (Path, "replace")), full)
    with pytest.raises(ModelError, match=r"file: cannot write 3 bytes: No space left on device\."):
        atomic.write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert files(tmp_path) == ["file"]


def test_a_write_into_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file or directory"):
        atomic.write_bytes(tmp_path / "none" / "file", b"new")


def test_a_file_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), fsync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (calls.append("replace"), replace(path, to))[1])
    atomic.write_bytes(tmp_path / "file", b"new")
    assert calls == (["fsync", "replace"] if sys.platform == "win32" else ["fsync", "replace", "fsync"])


@posix
def test_a_killed_write_leaves_the_old_file_and_a_part_that_is_removed(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "file", b"old")
    (tmp_path / "other.part").write_bytes(b"of a download")
    process = start(
        """
        import signal
        atomic.flush = lambda file: os.kill(os.getpid(), signal.SIGKILL)
        atomic.write_bytes(Path(sys.argv[1]), b"new")
        """,
        tmp_path / "file",
    )
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == b"old"
    assert files(tmp_path) == [f".file.{process.pid}.part", "file", "other.part"]
    atomic.remove_parts(tmp_path)
    assert files(tmp_path) == ["file", "other.part"]


def test_a_folder_takes_its_name(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary" / "file").write_bytes(b"whole")
    atomic.rename_folder(tmp_path / "temporary", tmp_path / "entry")
    assert files(tmp_path) == ["entry"]
    assert (tmp_path / "entry" / "file").read_bytes() == b"whole"


def test_a_folder_of_another_process_stays(tmp_path: Path) -> None:
    for name in ("temporary", "entry"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    atomic.rename_folder(tmp_path / "temporary", tmp_path / "entry")
    assert (tmp_path / "entry" / "file").read_text() == "entry"
    assert (tmp_path / "temporary" / "file").read_text() == "temporary"


def test_a_folder_that_cannot_be_renamed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "entry").write_text("a file")
    with pytest.raises(OSError, match="entry"):
        atomic.rename_folder(tmp_path / "temporary", tmp_path / "entry")
    assert files(tmp_path) == ["entry", "temporary"]


HOLD = """
with Path(sys.argv[1]).open("wb") as file, atomic.locked(file) as acquired:
    print(acquired, flush=True)
    sys.stdin.readline()
    Path(sys.argv[2]).write_text("done")
"""


@posix
def test_a_lock_excludes_a_second_process(tmp_path: Path) -> None:
    lock, done = tmp_path / "lock", tmp_path / "done"
    process = start(HOLD, lock, done)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    waits: list[bool] = []

    def waiting() -> None:
        waits.append(done.exists())
        assert process.stdin is not None
        process.stdin.write("\n")  # only now may the other process end
        process.stdin.flush()

    with lock.open("wb") as file, atomic.locked(file, waiting) as acquired:
        assert acquired
        assert done.exists()
    assert waits == [False]
    assert process.wait() == 0


@posix
def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    lock, done = tmp_path / "lock", tmp_path / "done"
    process = start(HOLD, lock, done)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with lock.open("wb") as file, atomic.locked(file, process.kill) as acquired:
        assert acquired
    assert process.wait() == -signal.SIGKILL
    assert not done.exists()


@posix
def test_a_free_lock_is_acquired_without_waiting(tmp_path: Path) -> None:
    for _ in range(2):  # the first one is released at its end
        with (tmp_path / "lock").open("wb") as file, atomic.locked(file, lambda: pytest.fail("waited")) as acquired:
            assert acquired


@posix
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with (tmp_path / "lock").open("wb") as file, atomic.locked(file) as acquired:
        assert not acquired


def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (tmp_path / "lock").open("wb") as file, atomic.locked(file) as acquired:
        assert not acquired


@posix
def test_an_error_while_a_lock_is_held_is_not_hidden(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="of the body"),
        (tmp_path / "lock").open("wb") as file,
        atomic.locked(file),
    ):
        raise OSError("of the body")


OWN = """
with atomic.lock_file(Path(sys.argv[1]), "process of the test") as other:
    if len(sys.argv) > 2:
        read, write = os.pipe()
        if os.fork() == 0:  # a data worker, which outlives its parent
            os.close(1)
            os.write(write, b"x")  # what runs after a fork has run
            time.sleep(5)
            os._exit(0)
        os.read(read, 1)
    print(other, flush=True)
    sys.stdin.readline()
"""


@posix
def test_a_lock_file_names_its_owner_and_is_removed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    process = start(OWN, lock)
    assert process.stdout is not None
    assert process.stdout.readline() == "None\n"
    with atomic.lock_file(lock, "second") as other:
        assert other == "process of the test"
    assert lock.read_text() == "process of the test"
    process.communicate("\n")
    assert files(tmp_path) == []
    with atomic.lock_file(lock, "first") as other, atomic.lock_file(lock, "second") as second:
        assert (other, second) == (None, "first")
    assert files(tmp_path) == []


@posix
def test_a_lock_file_dies_with_its_owner_but_not_with_its_workers(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    process = start(OWN, lock, "with a worker")
    assert process.stdout is not None
    assert process.stdout.readline() == "None\n"
    process.kill()
    process.wait()
    assert files(tmp_path) == [".lock"]
    with atomic.lock_file(lock, "next") as other:
        assert other is None
        assert lock.read_text() == "next"
    assert files(tmp_path) == []


@posix
def test_a_lock_file_without_locks_or_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with atomic.lock_file(tmp_path / "lock", "x") as other:
        assert other is None
    with pytest.raises(OSError, match="No such file"), atomic.lock_file(tmp_path / "none" / "lock", "x"):
        pass


def fill(folder: Path, text: str) -> None:
    for name in ("a", "b"):
        (folder / name).write_text(text)


def texts(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in files(folder)]


def test_a_folder_is_replaced_as_one_unit(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    for text in ("old", "new"):
        with atomic.whole_folder(folder, ("a", "b")) as target:
            assert target != folder
            fill(target, text)
            assert not folder.exists() or texts(folder) == ["old", "old"]
        assert texts(folder) == [text, text]
    assert files(folder.parent) == ["model"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_failed_folder_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:  # a system without the exchange of two names
        monkeypatch.setattr(sys, "platform", "other")
    folder = tmp_path / "model"
    for text in ("old", "older"):
        with atomic.whole_folder(folder, ("a", "b")) as target:
            fill(target, text)
    with contextlib.suppress(KeyError), atomic.whole_folder(folder, ("a", "b")) as target:
        (target / "a").write_text("new")
        raise KeyError
    assert texts(folder) == ["older", "older"]
    assert files(tmp_path) == ["model"]
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"file/model: cannot be made: "):
        atomic.whole_folder(tmp_path / "file" / "model", ("a",)).__enter__()


def test_a_folder_with_other_files_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with atomic.whole_folder(tmp_path, ("a", "b")) as target:
        assert target == tmp_path
        fill(target, "new")
    assert texts(tmp_path) == ["new", "new", "mine"]


def test_parts_are_folders_too_and_have_a_process(tmp_path: Path) -> None:
    (tmp_path / ".model.12.part").mkdir()
    (tmp_path / ".model.12.part" / "a").touch()
    (tmp_path / ".mine.part").touch()
    atomic.remove_parts(tmp_path)
    assert files(tmp_path) == [".mine.part"]
