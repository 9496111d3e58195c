"""Runs of both families that are killed at random moments: nothing is damaged, nothing stays behind, all bits agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine_toys import newest
from forks import Server, server
from pixelloom.core.metrics_file import read_metrics
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.models.registry import load_model

pytestmark = pytest.mark.timeout(7200)


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server("kill_toys", tmp_path_factory.mktemp("forks")) as forks:
        yield forks


def check(killer: Server, out: Path, family: str, kills: int, seed: int) -> None:
    done = killer.run(family, str(out), str(kills), str(seed), limit=7000)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["killed"] >= 0.6 * kills, done.stderr  # some runs end before
    assert result["cut"] > 0
    assert (result["wrong"], result["ends"], result["leftovers"]) == ([], [0, 0], []), done.stderr
    killed, whole = (out / name for name in ("killed", "whole"))
    for path in ("model/model.safetensors", newest(whole).relative_to(whole), "checkpoints/best.safetensors"):
        a, b = (load_tensors(folder / path)[0] for folder in (killed, whole))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), path
    lines = [
        [line | {"seconds": 0} for line in read_metrics(folder / "metrics.jsonl")[0]] for folder in (killed, whole)
    ]
    assert lines[0] == lines[1]
    assert (killed / "last").exists() == (whole / "last").exists()
    assert load_model(killed / "model").description.training.images == (
        load_model(whole / "model").description.training.images
    )


@pytest.mark.parametrize("family", ["pixel", "gan"])
def test_ten_kills(killer: Server, tmp_path: Path, family: str) -> None:
    check(killer, tmp_path, family, 5, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", ["pixel", "gan"])
def test_two_hundred_kills(killer: Server, tmp_path: Path, family: str, seed: int) -> None:
    check(killer, tmp_path, family, 25, seed=1 + seed)
