"""Which processes train together: variables that a launcher left behind never make a process one of several."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pixelloom as pl
from engine_toys import N, config, one_phase, stream
from pixelloom.core.errors import UsageError
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.launch import PARENT, Launch, check_port, hidden, is_further, launch
from pixelloom.engine.loop import fit
from small_models import TINY

TORCHRUN = {
    **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none"},
}
SRUN = {
    **{"SLURM_JOB_ID": "12", "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"},
    **{"SLURM_NODEID": "1", "SLURM_STEP_ID": "0"},
}
STRAYS = [
    {"RANK": "1"},
    {"SLURM_PROCID": "1"},
    {"LOCAL_RANK": "1"},
    {"LOCAL_RANK": "x"},
    {"NODE_RANK": "1"},
    {"RANK": "1", "WORLD_SIZE": "2"},
    {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "train"},
    SRUN,
    {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"},
    {"LT_PRECISION": "64-true", "LT_DEVICES": "2"},
    {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "x", "JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_SIZE": "2"},
    TORCHRUN | {"WORLD_SIZE": "1"},
    {PARENT: "1", "LOCAL_RANK": "1"},
]


@pytest.mark.parametrize("strays", STRAYS, ids=lambda given: " ".join(f"{k}={v}" for k, v in given.items()))
def test_variables_left_behind_start_no_second_process(
    strays: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in strays.items():
        monkeypatch.setenv(name, value)
    found = launch(1, 1)
    assert (found.by, found.rank) == ("alone", 0)
    conf = config(images=8)
    with caplog.at_level(logging.WARNING, "pixelloom"):
        fabric = make_fabric(conf)
    assert (fabric.world_size, fabric.global_rank, fabric.is_global_zero) == (1, 0, True)
    assert fit(one_phase(), stream(conf, fabric), conf, fabric, epoch=N).step == 2
    assert bool(found.strays) == bool(caplog.text)
    assert all(name in caplog.text for name in found.strays)
    assert set(found.strays) <= set(strays)
    assert {name: os.environ[name] for name in strays} == strays  # the environment is not changed


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "LOCAL_RANK"])
def test_a_finished_run_is_never_replaced_without_force(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = TINY | {"samples": 0, "train.sample_every": 10**6}
    pl.train("digits", images=64, seed=3, out="kept", overrides=small)
    before = {path: path.read_bytes() for path in Path("kept").rglob("*") if path.is_file()}
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UsageError, match=r"kept: holds a run already"):
        pl.train("digits", images=64, seed=4, out="kept", overrides=small)
    assert {path: path.read_bytes() for path in Path("kept").rglob("*") if path.is_file()} == before


def test_torchrun_needs_all_its_variables() -> None:
    assert launch(1, 1, TORCHRUN) == Launch("torchrun", 3)
    for name in TORCHRUN:
        assert launch(1, 1, {key: value for key, value in TORCHRUN.items() if key != name}).by == "alone"
    for wrong in ({"RANK": "4"}, {"LOCAL_RANK": "2"}, {"WORLD_SIZE": "3"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}):
        assert launch(1, 1, TORCHRUN | wrong).by == "alone"


def test_srun_is_used_where_as_many_processes_are_asked_for() -> None:
    assert launch(2, 2, SRUN) == Launch("srun", 2)
    assert launch(1, 1, SRUN) == Launch("alone", 0, ("SLURM_PROCID", "SLURM_NTASKS"))
    with pytest.raises(UsageError, match=r"srun started 4 processes, the run asks for 2 on each of 1 machines"):
        launch(2, 1, SRUN)


def test_a_child_of_the_run_is_known_by_its_parent() -> None:
    child = {PARENT: str(os.getppid()), "LOCAL_RANK": "1", "NODE_RANK": "0"}
    assert launch(2, 1, child) == Launch("parent", 1)
    assert launch(2, 1, child | {PARENT: "1"}).by == "alone"
    assert launch(2, 1, child | {PARENT: str(os.getpid()), "LOCAL_RANK": "0"}) == Launch("parent", 0)


def test_several_machines_need_a_launcher_or_their_number() -> None:
    hand = {"NODE_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
    assert launch(2, 2, hand) == Launch("alone", 2)
    for environment in ({}, {"NODE_RANK": "1"}, hand | {"NODE_RANK": "2"}):
        with pytest.raises(UsageError, match=r"nodes: 2 machines need a launcher: torchrun, srun, or NODE_RANK"):
            launch(2, 2, environment)


def test_hidden_variables_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with hidden(("RANK", "ABSENT")):
        assert "RANK" not in os.environ
    assert os.environ["RANK"] == "1"
    assert "ABSENT" not in os.environ


def test_only_a_further_process_logs_less() -> None:
    assert is_further({PARENT: str(os.getppid()), "LOCAL_RANK": "1"})
    assert is_further(TORCHRUN)
    assert not is_further(TORCHRUN | {"RANK": "0"})
    for strays in STRAYS:
        assert not is_further(strays)


# The port that processes meet at


@pytest.fixture(params=[0, 1])
def taken(request: pytest.FixtureRequest) -> Iterator[str]:
    """A port that another server listens on, one that reuses addresses and one that does not."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, request.param)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield str(server.getsockname()[1])


def test_a_port_in_use_is_named(taken: str) -> None:
    """FAULTS 20."""
    for address in ({}, {"MASTER_ADDR": "127.0.0.1"}):
        for nodes in (1, 2):
            with pytest.raises(UsageError, match=rf"port {taken} \(MASTER_PORT\) is in use; unset the variables"):
                check_port(nodes, {"MASTER_PORT": taken} | address)


def test_a_free_port_is_used_at_once_after_another_run() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's does
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()  # closed by the server first: its port stays in TIME_WAIT
            assert client.recv(1) == b""
    check_port(1, {"MASTER_PORT": str(port), "MASTER_ADDR": "127.0.0.1"})
    check_port(1, {"MASTER_ADDR": "nowhere"})  # without a port both are chosen


@pytest.mark.parametrize("port", ["", "0", "65536", "x", "-1", "29500 "])
def test_a_port_that_is_none(port: str) -> None:
    with pytest.raises(UsageError, match="MASTER_PORT: a port is a number of 1 to 65535, not '"):
        check_port(1, {"MASTER_PORT": port})


def test_an_address_of_another_machine_cannot_be_that_of_a_run_of_one() -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    elsewhere = {"MASTER_PORT": port, "MASTER_ADDR": "203.0.113.7"}  # an address for documentation (RFC 5737)
    with pytest.raises(UsageError, match=rf"203.0.113.7:{port} \(MASTER_ADDR, MASTER_PORT\) cannot be used: "):
        check_port(1, elsewhere)
    check_port(2, elsewhere)  # of several machines, it may be translated


def test_a_process_whose_parent_has_ended_starts_no_run_of_its_own() -> None:
    """FAULTS 20: after a failed start, such a process began the run anew, with further processes."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    child = {PARENT: str(ended.pid), "LOCAL_RANK": "1", "NODE_RANK": "0"}
    with pytest.raises(UsageError, match="the process that started this one for the same run has ended"):
        launch(2, 1, child)
    assert launch(1, 1, child).by == "alone"  # a program of its own, started where variables were left behind
    assert launch(2, 1, child | {"LOCAL_RANK": "0"}).by == "alone"
