"""Several processes draw and score: the same images and figures as one, and no process is ever left behind."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import pixelloom as pl
from commands import Command, caller
from pixelloom.core.errors import DataError, PixelloomError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.engine.workers import Workers
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.parallel import ParallelModel, beside, places
from pixelloom.networks.gan.sngan import SNGANConfig
from worker_toys import Kept, dies, fails, reports, slow_first, until_dropped, warns

CPU = torch.device("cpu")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PIXELLOOM_OFFLINE": "1"}
two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPU cores")
pytestmark = two_cores


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers([CPU, CPU], 1) as found:
        yield found


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def ended(pids: list[int], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Calls


def test_results_come_in_order_from_all_processes(workers: Workers) -> None:
    kept = Kept(7)
    workers.share(kept)
    found = list(workers.map(Kept.times, ((kept, i) for i in range(12))))
    assert [value for value, *_ in found] == [7 * i for i in range(12)]
    assert {(device, threads) for _, device, _, threads in found} == {("cpu", 1)}
    pids = {pid for _, _, pid, _ in found}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert kept.device == "nowhere"  # that of this process is not moved
    assert next(iter(workers.map(kept.times, [(2,)])))[0] == 14  # a method of a shared object
    assert list(workers.map(slow_first, ((i,) for i in range(9)))) == list(range(9))
    assert list(workers.map(slow_first, [])) == []


def test_few_calls_are_taken_in_advance(workers: Workers) -> None:
    taken = 0

    def calls() -> Iterator[tuple[int]]:
        nonlocal taken
        for i in range(100):
            taken += 1
            yield (i,)

    for i in workers.map(slow_first, calls()):
        assert taken <= i + 2 * len(workers) + 1


def test_an_error_of_a_call_is_raised_as_it_is(workers: Workers) -> None:
    with pytest.raises(DataError) as error:
        list(workers.map(fails, ((i,) for i in range(9))))
    assert str(error.value) == "image 2 is damaged"
    assert "in fails" in error.value.__notes__[0]  # the traceback of the other process, for --debug
    assert list(workers.map(fails, [(7,)])) == [7]  # the processes go on, and old results are left out


def test_warnings_are_shown_once_and_prints_are_no_answers(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pixelloom"):
        assert list(workers.map(warns, ((i,) for i in range(6)))) == list(range(6))
    assert [record.getMessage() for record in caplog.records] == ["careful"]


def test_progress_is_reported(workers: Workers) -> None:
    seen: list[tuple[int, int]] = []
    assert list(workers.map(reports, [(3,), (4,)], lambda index, step: seen.append((index, step)))) == [3, 4]
    assert {index for index, _ in seen} == {0, 1}
    assert [step for index, step in seen if index == 1] == [0, 1, 2, 3]


def test_calls_whose_results_are_not_needed_end(workers: Workers, tmp_path: Path) -> None:
    def stop() -> None:
        if len(list(tmp_path.glob("begun-*"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(workers.map(until_dropped, [(str(tmp_path),)] * 4, on_wait=stop))
    assert list(workers.map(fails, [(7,), (8,), (9,)])) == [7, 8, 9]
    assert len(list(tmp_path.glob("ended-*"))) == 2


def test_a_lost_process_is_an_error_and_ends_the_others() -> None:
    said = r"process [12] of 2 \(cpu\) was ended by SIGKILL; memory may have run out"
    with Workers([CPU, CPU], 1) as workers:
        pids = [each.process.pid for each in workers._all]
        with pytest.raises(PixelloomError, match=said):
            list(workers.map(dies, ((i,) for i in range(9))))
    assert ended(pids, 0)


def test_what_cannot_be_sent_is_a_usage_error(workers: Workers) -> None:
    kept = Kept(1)
    kept.to = lambda device: kept
    with pytest.raises(UsageError, match="devices: this model cannot be sent to another process: "):
        workers.share(kept)


# Models


def test_images_and_probabilities_are_those_of_one_process(workers: Workers) -> None:
    model = pl.load("digits")
    several = ParallelModel(model, workers)
    images = model.sample(41, seed=5, first=3, temperature=0.9, threads=1)
    assert torch.equal(several.sample(41, seed=5, first=3, temperature=0.9), images)
    assert torch.equal(several.sample(41, seed=5, first=3, temperature=0.9, batch=7), images)
    known = {"given": images, "mask": torch.arange(8)[:, None] < 4}
    assert torch.equal(several.sample(41, seed=9, **known), model.sample(41, seed=9, **known))
    assert torch.equal(several.log_prob(images, batch=16), model.log_prob(images, batch=16, threads=1))
    assert several.spec == model.spec
    assert several.can == model.can
    with pytest.raises(UsageError, match="temperature"):
        several.sample(3, temperature=-1)
    with pytest.raises(UsageError, match=r"^n: must be 1 or more"):
        several.sample(0)


def test_classes_belong_to_their_images(workers: Workers) -> None:
    description = GANDescription(
        network="sngan",
        model=SNGANConfig(latent=6, generator_width=8, discriminator_width=6),
        image=ImageSpec(1, 16, 16, 256),
        classes=4,
    )
    torch.manual_seed(0)
    model = GANModel.build(description)
    several = ParallelModel(model, workers)
    labels = torch.arange(90) % 4
    for given in ({}, {"labels": labels}, {"labels": labels.tolist()}, {"labels": labels.numpy()}, {"labels": 2}):
        assert torch.equal(several.sample(90, seed=1, **given), model.sample(90, seed=1, threads=1, **given))
    assert not torch.equal(model.sample(90, seed=1, labels=labels), model.sample(90, seed=1, labels=2))


def test_steps_are_those_of_all_processes_together(workers: Workers) -> None:
    model = pl.load("digits")
    seen: list[tuple[int, int, torch.Tensor]] = []
    found = ParallelModel(model, workers).sample(50, batch=10, on_step=lambda *step: seen.append(step))
    complete = [images for step, steps, images in seen if step == steps]
    assert [len(images) for images in complete] == [20, 20, 10]
    assert torch.equal(torch.cat(complete), found)
    assert all(0 <= step < steps for step, steps, images in seen if not images.any())


def test_the_api_takes_a_model_in_several_processes(workers: Workers) -> None:
    model = pl.load("digits")
    several = ParallelModel(model, workers)
    assert pl.evaluate(several, limit=150) == pl.evaluate(model, limit=150)
    one, two = (
        pl.score(each, limit=120, background=other)
        for each, other in ((model, model), (several, beside(several, model)))
    )
    assert np.array_equal(one.scores, two.scores)
    assert [row.image for row in one.rows] == [row.image for row in two.rows]
    with pl.parallel(model, devices=1) as same:
        assert same is model


def test_more_devices_than_there_are() -> None:
    with pytest.raises(UsageError, match=r"devices: 9999 were requested, available here: \d+ CPU cores"):
        places(CPU, 9999)
    assert places(CPU, 2) == [CPU, CPU]
    with pytest.raises(UsageError, match="devices: must be 1 or more"):
        places(CPU, 0)


def test_a_class_of_the_script_cannot_be_sent(workers: Workers) -> None:
    """FAULTS 20: an error, where a process would wait for ever."""
    kept = Kept(3)
    kept.__class__ = type("Elsewhere", (Kept,), {"__module__": "no_such_module"})
    with pytest.raises(UsageError, match="cannot be sent"):
        workers.share(kept)


# Commands


def test_files_are_those_of_one_process_byte_for_byte(command: Command) -> None:
    for name, more in (("one", ()), ("two", ("--devices", 2))):
        one = command("sample", "digits", "-n", 70, "--batch", 16, "--threads", 1, "--npy", f"{name}.npy", *more)
        assert one.code == 0, one.err
        assert command("score", "digits", "--limit", 150, "--csv", f"{name}.csv", *more).code == 0
        said = command("evaluate", "digits", "--metrics", "likelihood,kid", "-n", 100, "--threads", 1, "--json", *more)
        Path(f"{name}.json").write_text(said.out)
    for suffix in ("npy", "csv", "json"):
        assert Path(f"one.{suffix}").read_bytes() == Path(f"two.{suffix}").read_bytes(), suffix
    assert json.loads(said.out)["samples"] == 100


def test_options_that_do_not_fit(command: Command) -> None:
    for words in (("sample", "digits"), ("evaluate", "digits"), ("score", "digits")):
        said = command(*words, "--devices", 9999)
        assert said.code == 2
        assert "devices: 9999 were requested, available here" in said.err
        assert command(*words, "--devices", 0).code == 2


@pytest.fixture
def begun() -> Iterator[list[subprocess.Popen[str]]]:
    """Commands that are ended, even if the test fails."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def start(begun: list[subprocess.Popen[str]], folder: Path, *words: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A slow command in a process group of its own, and its processes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pixelloom", "sample", "digits", "-n", "20000", "--npy", "a.npy", *words],
        cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    begun.append(process)
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        found = children(process.pid)
        if len(found) == 2 and any(path.stat().st_size > 600 for path in folder.glob(".a.npy.*")):
            return process, found
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate()[1])


SLOW = ("--devices", "2", "--batch", "1", "--method", "plain")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_an_interrupt_keeps_finished_images_and_leaves_no_process(
    tmp_path: Path, begun: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, pids = start(begun, tmp_path, *SLOW)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "continue with: pixelloom sample digits" in said
    assert "--devices 2" in said
    assert "Traceback" not in said
    assert ended(pids)
    kept = np.load(tmp_path / "a.npy")
    monkeypatch.chdir(tmp_path)  # a run of this name comes first
    model = pl.load("digits")
    assert 0 < len(kept) < 20000
    same = (kept == model.sample(len(kept)).numpy()).all((1, 2, 3))
    assert same.mean() > 0.99  # batches of other sizes round otherwise


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_a_killed_command_leaves_no_process_and_a_lost_process_ends_it(
    tmp_path: Path, begun: list[subprocess.Popen[str]]
) -> None:
    process, pids = start(begun, tmp_path, *SLOW)
    process.kill()
    process.communicate()
    assert ended(pids)
    for path in tmp_path.glob(".a.npy.*"):
        path.unlink()
    process, pids = start(begun, tmp_path, *SLOW)
    os.kill(pids[1], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "pixelloom: devices: process 2 of 2 (cpu) was ended by SIGKILL" in said
    assert "continue with: pixelloom sample" in said
    assert ended(pids)
