"""Runs that are killed, signalled, doubled or lose a process: each in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
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
from forks import Program, Server, server
from pixelloom.engine.hooks import MetricsWriter, Validate
from pixelloom.engine.safetensors_io import load_tensors

# Where other programs want the cores too, all of this may take minutes. So nothing here depends on the clock, and what
# limits there are only end a test that hangs.
LIMIT = 600
pytestmark = pytest.mark.timeout(2 * LIMIT)

two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs commands of engine_toys.py."""
    with server("engine_toys", tmp_path_factory.mktemp("forks")) as forks:
        yield forks


def test_twenty_kills_leave_only_whole_checkpoints(engine: Server, tmp_path: Path) -> None:
    done = engine.run("killed", str(tmp_path), json.dumps({"images": 10**9, "checkpoint_every": 4}), "20")
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


def test_signals_save_and_exit_with_their_codes(engine: Server, tmp_path: Path) -> None:
    done = engine.run("signalled", str(tmp_path / "cut"), json.dumps({"images": 400}), "")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    # "twice" and "five" at once: their step lasts an hour
    assert results == {"term": 143, "int": 130, "hup": 129, "usr1": 138, "twice": 130, "five": 130, "rest": 0}
    for name in ("TERM", "INT", "HUP", "USR1"):
        assert f"stopped by SIG{name} after step" in done.stderr
    assert len(re.findall(r"stopped at once in the step after \d+\. The checkpoint .* is intact\.", done.stderr)) == 2
    assert "Traceback" not in done.stderr
    train(one_phase(), config(images=400), tmp_path / "whole")
    assert same(load_tensors(newest(tmp_path / "whole"))[0], load_tensors(newest(tmp_path / "cut"))[0])


def test_signals_give_up_a_validation_which_is_repeated(engine: Server, tmp_path: Path) -> None:
    given = {"images": 80, "validate_every": 8, "sample_every": 12, "ema": 0.1}
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    cut.mkdir()
    done = engine.run("given_up", str(cut), json.dumps(given), "")
    assert done.returncode == 0, done.stderr
    codes = {f"{place} {name}": code for place in ("validation", "drawing") for name, code in ENDS}
    assert json.loads(done.stdout) == codes | {"rest": 0}
    assert done.stderr.count("continue with --resume") == 4
    assert "Traceback" not in done.stderr
    whole.mkdir()
    state = train(one_phase(), config(**given), whole, MetricsWriter(whole / "metrics.jsonl", interval=1), Validate())
    tensors, meta = load_tensors(newest(cut))
    assert same(load_tensors(newest(whole))[0], tensors)
    kept = meta["state"]
    assert (kept["step"], kept["best"], kept["best_step"]) == (state.step, state.best, state.best_step)
    assert "unfinished" not in meta["notes"]

    def lines(out: Path) -> list[dict[str, object]]:
        read = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        return [{name: value for name, value in line.items() if name != "seconds"} for line in read]

    assert lines(cut) == lines(whole)  # each validation of each step, once


ENDS = [("SIGINT", 130), ("SIGTERM", 143)]
TWO = {"batch": 8, "images": 64, "ema": 0.1, "timeout": LIMIT}


def _torchrun(engine: Server, out: Path, misfortune: str, **given: object) -> list[Program]:
    """Two processes as torchrun starts them, without its slow agent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        engine.start(
            *("seen", str(out), json.dumps(given), misfortune),
            **shared | {"RANK": str(r), "LOCAL_RANK": str(r), "TORCHELASTIC_RUN_ID": "t"},
        )
        for r in range(2)
    ]


@two_cores
@pytest.mark.parametrize(("start", "accumulate"), [("by itself", 1), ("torchrun", 2)])
def test_two_processes_equal_one(engine: Server, tmp_path: Path, start: str, accumulate: int) -> None:
    given = TWO | {"accumulate": accumulate}
    if start == "torchrun":
        for process in _torchrun(engine, tmp_path, "none", **given):
            done = process.wait()
            assert done.returncode == 0, done.stderr
    else:
        done = engine.run("seen", str(tmp_path), json.dumps(given | {"devices": 2}), "none")
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
def test_when_one_process_is_lost_the_other_ends(engine: Server, tmp_path: Path, misfortune: str, timeout: int) -> None:
    """The other process notices a death at once, and waits for one that hangs as long as `timeout`."""
    first, second = _torchrun(engine, tmp_path, misfortune, **TWO | {"timeout": timeout})
    done = first.wait()
    assert done.returncode != 0, done.stderr
    if misfortune == "hangs":
        second.send(signal.SIGKILL)
    assert second.wait().returncode == (9 if misfortune == "dies" else -9)


@two_cores
def test_a_signal_to_the_first_of_two_processes_ends_both_after_a_save(engine: Server, tmp_path: Path) -> None:
    given = TWO | {"images": 10**9, "devices": 2}
    process = engine.start("seen", str(tmp_path), json.dumps(given), "none")
    while not ((tmp_path / "metrics.jsonl").exists() and (tmp_path / "metrics.jsonl").stat().st_size):
        time.sleep(0.1)
        assert process.poll() is None
    process.send(signal.SIGTERM)
    done = process.wait()
    assert done.returncode == 143, done.stderr
    assert "stopped by SIGTERM" in done.stderr
    _, meta = load_tensors(newest(tmp_path))
    assert meta["state"]["step"] > 0


@two_cores
def test_a_lost_process_ends_a_run_that_started_it(engine: Server, tmp_path: Path) -> None:
    done = engine.run("seen", str(tmp_path), json.dumps(TWO | {"devices": 2}), "dies")
    assert done.returncode != 0
    assert "the process of rank 1 ended with exit code 9 after step" in done.stderr
    assert "is intact. Continue with --resume." in done.stderr
    assert "Traceback" not in done.stderr


@two_cores
def test_a_port_in_use_ends_the_run_before_a_process_is_started(engine: Server, tmp_path: Path) -> None:
    """FAULTS 20: exit code 2, at once, and no process that goes on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = str(server.getsockname()[1])
        given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        done = engine.run("seen", str(tmp_path), json.dumps(TWO | {"devices": 2}), "none", **given)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has tried to connect
            server.accept()
    assert done.returncode == 2, done.stderr
    said = f"port {port} (MASTER_PORT) is in use; unset the variables, and a free port of this machine is chosen"
    assert done.stderr == f"devices: {said}\n"
    assert not list(tmp_path.iterdir())
