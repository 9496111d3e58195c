"""A run folder is a safe place: one process at a time, apart from its data, nothing replaced without ``--force``."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import Command, caller
from forks import Program, Server, default_signals, server
from gan_toys import PAIRS, spec
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.hooks import Progress
from pixelloom.engine.state import Run
from pixelloom.models.description import CONFIG, DISCRIMINATOR, WEIGHTS
from pixelloom.models.gan import GANDescription, GANModel, load_gan
from pixelloom.runs.folder import LOCK, check_apart, claimed, is_first_process

SMALL = (
    *("--model.channels", "4", "--model.hidden", "2", "--model.blocks", "1", "--model.kernel", "3"),
    *("--model.first-kernel", "3", "--samples", "0", "--train.threads", "1"),
)
ENVIRONMENT = {"PIXELLOOM_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no flock")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server("cli_program", tmp_path_factory.mktemp("forks")) as forks:
        yield forks


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(path: Path, program: Program) -> None:
    while not (path.is_file() and path.stat().st_size):
        assert program.poll() is None
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------------- one process


@posix
def test_a_live_run_is_neither_joined_nor_replaced(run: Command, programs: Server, tmp_path: Path) -> None:
    train = ("train", "digits", "--out", "race", *SMALL)
    first = programs.start(*train, "--epochs", "100000", cwd=tmp_path, **ENVIRONMENT)
    wait_for(tmp_path / "race" / "metrics.jsonl", first)
    pid = int((tmp_path / "race" / LOCK).read_text().split()[1])
    for options in (("--seed", "5"), ("--seed", "5", "--force"), ("--resume",)):
        said = run(*train, "--images", "64", *options)
        assert said.code == 2
        assert f"race: in use by process {pid} on {socket.gethostname()}, since " in said.err
    first.send(signal.SIGKILL)
    first.wait()
    assert (tmp_path / "race" / LOCK).exists()
    assert run(*train, "--images", "64", "--force").code == 0  # a lock of a dead process is no lock
    assert not (tmp_path / "race" / LOCK).exists()


@posix
def test_the_second_of_two_that_start_at_once_is_refused(run: Command) -> None:
    with claimed(Path("out"), resume=False, force=False):
        for options in ((), ("--force",), ("--resume",)):
            said = run("train", "digits", "--out", "out", "--images", "64", *SMALL, *options)
            assert (said.code, f"out: in use by process {os.getpid()} on" in said.err) == (2, True)


def test_a_refused_run_leaves_no_folder(run: Command) -> None:
    assert run("train", "pixelcnn", "--data", "./none", "--out", "a/b", *SMALL).code == 3
    assert list(Path().iterdir()) == []


# ------------------------------------------------------------------------------------------------ apart from the data


@pytest.mark.parametrize("out", ["pics", "pics/run", "pics/a/run", "link/run", "."])
def test_a_run_in_or_around_its_data_is_refused(run: Command, out: str) -> None:
    for folder in ("a", "b"):
        Path("pics", folder).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (4, 4), np.uint8)).save(f"pics/{folder}/{i}.png")
    Path("link").symlink_to("pics")
    before = files(Path())
    said = run("train", "pixelcnn", "--data", "pics", "--out", out, "--images", "64", *SMALL)
    assert said.code == 2
    assert f"--out {out}: is in or around the data pics" in said.err
    assert files(Path()) == before


def test_a_data_file_may_lie_beside_the_run_but_not_in_it(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for name in ("x.npy", "samples/x.npy"):
        (tmp_path / name).touch()
    check_apart(str(tmp_path / "x.npy"), tmp_path)
    check_apart("digits", tmp_path)
    with pytest.raises(UsageError, match="is in or around the data"):
        check_apart(str(tmp_path / "samples" / "x.npy"), tmp_path)


def test_only_a_process_that_was_started_as_another_is_not_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
        assert is_first_process(TrainConfig())


# ------------------------------------------------------------------------------------------------- one model, one unit


def gan(seed: int) -> GANModel:
    torch.manual_seed(seed)
    network, config = PAIRS["dcgan"]
    return GANModel.build(GANDescription(network=network, model=config, image=spec()))


def test_both_networks_of_a_model_are_of_one_state(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        gan(seed).save(str(tmp_path / name))  # a text is a path
        assert sorted(files(tmp_path / name)) == sorted([CONFIG, DISCRIMINATOR, WEIGHTS])
        load_gan(tmp_path / name)
    (tmp_path / "a" / DISCRIMINATOR).write_bytes((tmp_path / "b" / DISCRIMINATOR).read_bytes())
    with pytest.raises(ModelError, match=r"discriminator.safetensors: belongs to another state of the generator"):
        load_gan(tmp_path / "a")


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside other files"])
def test_a_model_whose_writing_is_cut_is_the_old_one_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    folder = tmp_path / "model"
    gan(0).save(folder)
    before = files(folder)
    if others:
        (folder / "notes.txt").touch()
    real = os.fsync
    for cut in range(1, 12):
        calls = iter(range(1, 100))

        def fsync(number: int, cut: int = cut, calls: Iterator[int] = calls) -> None:
            if next(calls) == cut:
                raise KeyboardInterrupt  # as a kill: nothing handles it
            real(number)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            try:
                gan(1).save(folder)
            except KeyboardInterrupt:
                done = False
            else:
                done = True
        if done:
            break
        try:
            load_gan(folder)
        except ModelError as error:
            assert others
            assert "belongs to another state" in str(error)  # noqa: PT017
        if not others:
            kept = files(folder)
            assert kept == before or all(kept[name] != before[name] for name in (WEIGHTS, DISCRIMINATOR))
    assert cut > 5
    load_gan(folder)
    assert files(folder)[WEIGHTS] != before[WEIGHTS]


# ---------------------------------------------------------------------------------------- a full disk, a lost terminal


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("step", [2, 9, 30])
def test_a_disk_that_fills_up_during_a_run(
    disk: Path, step: int, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(self: Progress, run: Run, stats: object) -> None:
        if run.state.step == step:
            with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"x" * 1024):
                    pass

    train = ("train", "digits", "--out", disk / "run", "--images", "4000", *SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step", fill)
        said = run(*train, "--train.batch", "16", "--train.sample-every", "160", "--train.validate-every", "160")
    assert said.code == 4
    assert re.search(r"disk/run/\S+: cannot write \d+ bytes: No space left on device. Free space on the disk", said.err)
    assert "Traceback" not in said.err
    assert not list(disk.rglob(".*"))
    steps = list((disk / "run" / "checkpoints").glob("step-*"))
    assert (str(max(steps)) if steps else "There is no checkpoint") in said.err
    (disk / "ballast").unlink()
    assert run("train", "--resume", "--out", disk / "run").code == 0
    assert run("info", disk / "run").code == 0


def test_a_full_disk_at_the_start(disk: Path, run: Command) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 1024):
            pass
    said = run("train", "digits", "--out", disk / "run", "--images", "64", *SMALL)
    assert said.code in (2, 4)
    assert "No space left on device" in said.err
    assert str(disk) in said.err
    assert sorted(path.name for path in disk.rglob("*") if path.is_file()) == ["ballast"]


@posix
def test_a_closed_terminal_saves(tmp_path: Path) -> None:
    arguments = ["train", "digits", "--out", "run", "--epochs", "100000", *SMALL]
    pid, terminal = pty.fork()
    if pid == 0:
        default_signals()
        os.chdir(tmp_path)
        os.execvpe(sys.executable, [sys.executable, "-m", "pixelloom", *arguments], os.environ | ENVIRONMENT)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 10_000)  # the progress bar
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert not list(tmp_path.rglob(".*"))
