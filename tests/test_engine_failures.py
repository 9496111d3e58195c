"""Runs on a disk that fills up, from odd checkpoints, and with damaged metrics: what is kept and what is said."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from engine_toys import (
    At,
    config,
    newest,
    one_phase,
    one_thread,  # noqa: F401  # a fixture for every test here
    same,
    train,
    two_phases,
    weights,
)
from pixelloom.core.errors import ModelError
from pixelloom.core.metrics_file import read_metrics
from pixelloom.engine.checkpoint import about_of
from pixelloom.engine.hooks import MetricsWriter, Validate
from pixelloom.engine.safetensors_io import _digest, load_meta, load_tensors, save_tensors
from pixelloom.engine.signals import Signals
from pixelloom.engine.state import State

# ------------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    """Write a file until no byte is left."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 1024):
                pass
        except OSError:
            return


def test_a_disk_that_fills_up_between_two_checkpoints(disk: Path) -> None:
    conf = config(images=4000, checkpoint_every=10**6)
    with pytest.raises(ModelError) as caught:
        train(one_phase(), conf, disk, MetricsWriter(disk / "metrics.jsonl", 1), At(3, lambda: fill(disk)))
    text = str(caught.value)
    assert text.startswith(f"{disk / 'metrics.jsonl'}: cannot write ")
    assert "bytes: No space left on device. Free space on the disk, or raise the quota." in text
    assert text.endswith("There is no checkpoint.")
    lines, damaged = read_metrics(disk / "metrics.jsonl")
    assert damaged == 0
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))


def test_a_full_disk_keeps_the_state_in_the_place_of_an_older_one(disk: Path, tmp_path: Path) -> None:
    conf = config(images=400, checkpoint_every=8, validate_every=10**6)
    with pytest.raises(ModelError) as caught:
        train(two_phases(), conf, disk, MetricsWriter(disk / "metrics.jsonl", 1), At(5, lambda: fill(disk)))
    text = str(caught.value)
    assert "step-000000006.safetensors: cannot write " in text
    assert text.endswith(f"The state after step 6 is saved as {newest(disk)}; continue with --resume.")
    assert newest(disk).name == "step-000000006.safetensors"
    assert not list(disk.rglob("*.part"))
    (disk / "ballast").unlink()
    resumed, whole = two_phases(), two_phases()
    train(resumed, conf, disk, resume=True)
    train(whole, conf)
    assert same(weights(resumed), weights(whole))


def test_an_error_of_a_hook_keeps_its_kind_and_saves_the_state(tmp_path: Path) -> None:
    def fails() -> None:
        raise ModelError("of the hook.")

    with pytest.raises(ModelError, match=r"of the hook. The state after step 3 is saved as .*step-000000003"):
        train(one_phase(), config(checkpoint_every=10**6), tmp_path, At(3, fails))
    assert train(one_phase(), config(), tmp_path, resume=True).step == 20


# ---------------------------------------------------------------------------------------------------- odd checkpoints

GOOD = {"step": 3, "images": 12, "seconds": 0.5, "best": None, "best_step": 0}


@pytest.mark.parametrize("seconds", [0, 0.25])
@pytest.mark.parametrize("best", [None, -2, 1.5])
def test_a_state_is_that_of_its_values(seconds: float, best: float | None) -> None:
    given = GOOD | {"seconds": seconds, "best": best}
    assert State.of(given) == State(3, 12, seconds, best, 0)


ODD_STATES: list[Any] = [
    *(None, [], "x", {}, GOOD | {"extra": 1}, {key: value for key, value in GOOD.items() if key != "step"}),
    *(GOOD | {"step": value} for value in (None, -5, 10**30, 1.0, True, "3", [3])),
    *(GOOD | {"images": -1}, GOOD | {"seconds": float("nan")}, GOOD | {"seconds": -1.0}, GOOD | {"best": "low"}),
    *(GOOD | {"best": float("inf")}, GOOD | {"best_step": None}),
]


@pytest.mark.parametrize("state", ODD_STATES, ids=repr)
def test_an_odd_state_is_none(state: object) -> None:
    with pytest.raises(ValueError, match="its state"):
        State.of(state)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the metadata of a checkpoint; its digest is right again."""
    tensors, meta = load_tensors(path)
    with safetensors.safe_open(path, "pt") as file:
        envelope = json.loads(file.metadata()["pixelloom"])
    envelope["meta"] = change(meta)
    text = json.dumps(envelope)
    path.write_bytes(safetensors.torch.save(tensors, {"pixelloom": text, "sha256": _digest(text, tensors)}))


ODD_METADATA: dict[str, Callable[[dict[str, Any]], Any]] = {
    "null": lambda meta: None,
    "a list": lambda meta: [1],
    "no state": lambda meta: {key: value for key, value in meta.items() if key != "state"},
    "no step": lambda meta: meta | {"state": meta["state"] | {"step": None}},
    "a huge step": lambda meta: meta | {"state": meta["state"] | {"step": 10**30}},
    "another entry": lambda meta: meta | {"x": 1},
    "a text as configuration": lambda meta: meta | {"config": "x"},
    "a list as notes": lambda meta: meta | {"notes": []},
}


@pytest.mark.parametrize("change", ODD_METADATA.values(), ids=ODD_METADATA)
def test_odd_metadata_fall_back_to_the_checkpoint_before(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], caplog: pytest.LogCaptureFixture
) -> None:
    train(one_phase(), config(images=40, checkpoint_every=8), tmp_path)
    whole, resumed = one_phase(), one_phase()
    train(whole, config(images=40))
    rewrite(newest(tmp_path), change)
    with caplog.at_level(logging.WARNING, "pixelloom"):
        assert train(resumed, config(images=40), tmp_path, resume=True).step == 10
    assert "step-000000010.safetensors: " in caplog.text
    assert "Resuming from" in caplog.text
    assert same(weights(whole), weights(resumed))
    for path in (tmp_path / "checkpoints").iterdir():
        rewrite(path, lambda meta: meta | {"x": 1})
    with pytest.raises(
        ModelError, match=r"no checkpoint can be resumed:\n.*not a checkpoint of Pixelloom: it has other"
    ):
        train(one_phase(), config(images=40), tmp_path, resume=True)
    assert about_of(tmp_path / "checkpoints") == {}


def test_odd_notes_of_hooks_are_ignored(tmp_path: Path) -> None:
    for notes in (
        {"window": "x"},
        {"window": [1]},
        {"window": [{"loss": "x"}]},
        {"window": [{}] * 99},
        {"other": None},
    ):
        shutil.rmtree(tmp_path / "r", ignore_errors=True)
        train(one_phase(), config(images=20), tmp_path / "r", MetricsWriter(tmp_path / "r" / "metrics.jsonl"))
        rewrite(newest(tmp_path / "r"), lambda meta, notes=notes: meta | {"notes": notes})
        writer = MetricsWriter(tmp_path / "r" / "metrics.jsonl")
        assert train(one_phase(), config(), tmp_path / "r", writer, resume=True).step == 20


def test_metadata_are_read_without_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_tensors(path, one_phase().parts["net"].state_dict(), {"about": {"data": "x" * 1000}})
    assert load_meta(path) == {"about": {"data": "x" * 1000}}
    path.write_bytes(path.read_bytes()[:-1])  # the tensors are damaged, and not looked at
    assert load_meta(path) == {"about": {"data": "x" * 1000}}
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ModelError, match="truncated, damaged or not a model file"):
        load_meta(path)


# --------------------------------------------------------------------------------------------------- lines of metrics

ODD_LINES = [
    *(b'{"split": "train", "step": 3, "ima', b"\xff\xfe\x00", b"[1]", b'{"step": "x"}', b"null", b"[" * 100_000),
    *(
        b'{"split": "train", "images": 8, "step": ' + b"1" * 5000 + b"}",
        b'{"split": "train", "images": 8, "step": 1.5}',
    ),
    *(b'{"split": "train", "images": "8", "step": 2}', b'{"split": "train", "images": NaN, "step": 2}'),
    *(b'{"split": 3, "images": 8, "step": 2}', b'{"split": "train", "images": 8, "step": -1}'),
    *(b'{"split": "train", "images": true, "step": 2}', b'{"split": "train", "lo\xffss": 1, "images": 8, "step": 2}'),
]


@pytest.mark.parametrize("odd", ODD_LINES, ids=lambda odd: repr(odd[:40]))
def test_a_damaged_line_is_skipped_and_counted(tmp_path: Path, odd: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    train(one_phase(), config(images=40, checkpoint_every=20), tmp_path, MetricsWriter(path, 1), Validate())
    whole = path.read_bytes()
    first, *rest = whole.splitlines(keepends=True)
    path.write_bytes(first + odd + b"\n" + b"".join(rest) + odd)
    lines, damaged = read_metrics(path)
    assert damaged == 2
    assert [json.dumps(line).encode() + b"\n" for line in lines] == [first, *rest]
    with caplog.at_level(logging.WARNING, "pixelloom"):
        train(one_phase(), config(images=40), tmp_path, MetricsWriter(path, 1), Validate(), resume=True)
    assert path.read_bytes() == whole
    assert f"{path}: removed 2 damaged lines" in caplog.text


@pytest.mark.parametrize("cut", [1, 7, 10, 13, 19])
@pytest.mark.parametrize("objective", [one_phase, two_phases])
def test_metrics_of_a_resumed_run_are_those_of_an_uninterrupted_one(
    tmp_path: Path, cut: int, objective: Callable[[], Any]
) -> None:
    def stop() -> None:
        os.kill(os.getpid(), 15)

    def lines(out: Path) -> list[dict[str, Any]]:
        return [line | {"seconds": 0} for line in read_metrics(out / "metrics.jsonl")[0]]

    for name in ("whole", "cut"):
        out = tmp_path / name
        hooks = (MetricsWriter(out / "metrics.jsonl"), Validate())
        if name == "cut":
            with pytest.raises(Exception, match="stopped by SIGTERM"):
                train(objective(), config(), out, *hooks, At(cut, stop))
        train(objective(), config(), out, *hooks, resume=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_only_the_second_of_many_interrupts_raises() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)  # nothing that ends the run is interrupted
