"""Runs that are killed, signalled, doubled or lose a process: each in processes of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine_toys import (
    N,
    config,
    newest,
    one_phase,
    one_thread,  # noqa: F401  # a fixture for every test here
    same,
    train,
)
from pixelloom.engine.hooks import Validate
from pixelloom.engine.safetensors_io import load_tensors

PROGRAM = [sys.executable, str(Path(__file__).with_name("engine_toys.py"))]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}

# A process needs two seconds of a free core to import torch, and half a minute where other programs want the cores
# too. So nothing here depends on the clock, and what limits there are only end a test that hangs.
LIMIT = 600
pytestmark = pytest.mark.timeout(2 * LIMIT)

two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")


def program(command: str, out: Path, extra: str, **given: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, command, str(out), json.dumps(given), extra],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=LIMIT,
    )


def test_twenty_kills_leave_only_whole_checkpoints(tmp_path: Path) -> None:
    done = program("killed", tmp_path, "20", images=10**9, checkpoint_every=4)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["cut"] >= 10  # saves were cut in the middle, or this shows nothing
    assert results["steps"] == sorted(results["steps"])  # no run ever fell back behind the one before
    assert results["steps"][-1] >= 3
    files = list((tmp_path / "checkpoints").glob("step-*"))
    assert files
    for path in files:
        load_tensors(path)
    step = results["steps"][-1]
    assert train(one_phase(), config(images=4 * step + 8, checkpoint_every=4), tmp_path, resume=True).step == step + 2
    whole = [f"step-{s:09d}.safetensors" for s in (step + 1, step + 2)]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == whole  # no orphans


def test_signals_save_and_exit_with_their_codes(tmp_path: Path) -> None:
    done = program("signalled", tmp_path / "cut", "", images=400)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results == {"term": 143, "int": 130, "twice": 130, "rest": 0}  # "twice" at once: its step lasts an hour
    assert "stopped by SIGTERM after step" in done.stderr
    assert "stopped by SIGINT after step" in done.stderr
    train(one_phase(), config(images=400), tmp_path / "whole")
    assert same(load_tensors(newest(tmp_path / "whole"))[0], load_tensors(newest(tmp_path / "cut"))[0])


TWO = {"batch": 8, "images": 64, "ema": 0.1, "timeout": LIMIT}


def _torchrun(out: Path, misfortune: str, **given: object) -> list[subprocess.Popen[str]]:
    """Two processes as torchrun starts them, without its slow agent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [*PROGRAM, "seen", str(out), json.dumps(given), misfortune],
            env=ENVIRONMENT | shared | {"RANK": str(r), "LOCAL_RANK": str(r), "TORCHELASTIC_RUN_ID": "t"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]


@two_cores
@pytest.mark.parametrize(("start", "accumulate"), [("by itself", 1), ("torchrun", 2)])
def test_two_processes_equal_one(tmp_path: Path, start: str, accumulate: int) -> None:
    given = TWO | {"accumulate": accumulate}
    if start == "torchrun":
        for process in _torchrun(tmp_path, "none", **given):
            _, errors = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, errors
    else:
        done = program("seen", tmp_path, "none", **given, devices=2)
        assert done.returncode == 0, done.stderr
    train(one_phase(0.0), config(**given), tmp_path / "one", Validate())
    one, _ = load_tensors(newest(tmp_path / "one"))
    two, meta = load_tensors(newest(tmp_path))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    ranks = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2)]
    epochs = [[{i for step in rank[e : e + 4] for i in step} for rank in ranks] for e in (0, 4)]
    for first, second in epochs:  # 32 images in 4 steps of 8
        assert first.isdisjoint(second)
        assert first | second == set(range(N))
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [s for s in range(1, 9) for _ in ("train", "val")]  # one process writes
    assert meta["state"]["images"] == 64


@two_cores
@pytest.mark.parametrize(("misfortune", "timeout"), [("dies", 3600), ("hangs", 15)])
def test_when_one_process_is_lost_the_other_ends(tmp_path: Path, misfortune: str, timeout: int) -> None:
    """The other process notices a death at once, and waits for one that hangs as long as `timeout`."""
    first, second = _torchrun(tmp_path, misfortune, **TWO | {"timeout": timeout})
    _, errors = first.communicate(timeout=LIMIT)
    assert first.returncode not in (0, None), errors
    second.kill()
    second.communicate()
    assert second.returncode == (9 if misfortune == "dies" else -9)


@two_cores
def test_a_signal_to_the_first_of_two_processes_ends_both_after_a_save(tmp_path: Path) -> None:
    given = TWO | {"images": 10**9, "devices": 2}
    process = subprocess.Popen(
        [*PROGRAM, "seen", str(tmp_path), json.dumps(given), "none"], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    while not ((tmp_path / "metrics.jsonl").exists() and (tmp_path / "metrics.jsonl").stat().st_size):
        time.sleep(0.1)
        assert process.poll() is None
    process.terminate()
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 143, errors
    assert "stopped by SIGTERM" in errors
    _, meta = load_tensors(newest(tmp_path))
    assert meta["state"]["step"] > 0


@two_cores
def test_a_lost_process_ends_a_run_that_started_it(tmp_path: Path) -> None:
    done = program("seen", tmp_path, "dies", **TWO, devices=2)
    assert done.returncode != 0
