"""Bad input and bad luck: streams that close, ports that are taken, values that are none, folders that fill up.

Numbers are those of the list of faults: 12 to 14 and 26 files, 15 settings, 17 disks, 18 memory, 19 numbers that are
not finite, 20 and 21 processes, 27 to 29 arguments, 32 outputs.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from checks import Method
from commands import Command, caller
from pixelloom.cli import main
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.networks.pixel.gated import GatedPixelCNNConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from pixelloom.runs.compose import compose
from pixelloom.runs.recipes import recipe
from pixelloom.runs.train import carry_out
from small_models import TINY, flat


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


# Streams, 17 and 32


@pytest.mark.parametrize("command", [["sample", "--help"], ["--help"], ["list", "recipes", "--json"]], ids=" ".join)
def test_a_pipe_that_closes_ends_quietly_in_every_command(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 32, in this process: help is written by rich, which would end the process with code 1."""
    read, write = os.pipe()
    os.close(read)
    errors = io.StringIO()
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "stderr", errors)
        assert main(command) == 0
    assert errors.getvalue() == ""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert main(["sample", "--help"]) == 0
    assert "--guidance" in sys.stdout.getvalue()  # type: ignore[attr-defined]  # a later call is not silent


def test_streams_that_are_closed_or_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 17 and 32: as by `>&-`, `2>&-` and `> /dev/full`."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list", "recipes"]) == 0
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["list", "nonsense"]) == 2
    errors = io.StringIO()
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", errors)
        assert main(["list", "recipes"]) == 2
    assert errors.getvalue() == "pixelloom: writing failed: No space left on device; free space, or write elsewhere\n"


# Checkpoints and models, 12 to 14 and 26


class Trap:
    """What leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


def archive() -> bytes:
    """A zip, as torch.save writes, with a pickle that acts and a name that leads out of the folder."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Trap()))
        file.writestr("../../outside.txt", "x")
    return content.getvalue()


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda content: content[:-100], "damaged or not a model file"),
    "cut in the header": (lambda content: content[:60], "truncated, damaged or not a model file"),
    "empty": (lambda content: b"", "empty, 0 bytes"),
    "a web page": (lambda content: b"\n <!DOCTYPE html><html>", "a web page, not a model"),
    "a flipped bit": (lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:], "SHA-256"),
    "a pickle": (lambda content: pickle.dumps(Trap()), "not a model file"),
    "an archive": (lambda content: archive(), "not a model file"),
    "a huge header": (lambda content: (1 << 62).to_bytes(8, "little") + content[8:], "a header of 4611686018427387904"),
    "a newer format": (
        lambda content: content.replace(rb"\"format\": 2, \"meta\"", rb"\"format\": 9, \"meta\""),
        "written in format 9, which needs pixelloom >= ",
    ),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints and the best one."""
    out = tmp_path_factory.mktemp("faults") / "run"
    fields = TINY | {"train.batch": 8, "train.threads": 1, "train.checkpoint_every": 8, "data.limit": 40, "samples": 0}
    overrides = fields | {"train.validate_every": 16, "train.images": 24, "train.precision": "fp32"}
    carry_out(compose(recipe("pixelcnn"), overrides=overrides | {"data.source": "digits"}), out)
    assert len(list((out / "checkpoints").glob("step-*"))) == 2
    return out


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    damage: str, trained: Path, tmp_path: Path, run: Command
) -> None:
    change, said = DAMAGE[damage]
    out = Path(shutil.copytree(trained, tmp_path / "run"))
    before, newest = sorted((out / "checkpoints").glob("step-*"))
    newest.write_bytes(change(newest.read_bytes()))
    done = run("train", "--resume", "--out", out)
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if line.startswith("warning: "))
    assert line.startswith(f"warning: {newest}: ")
    assert said in line
    assert line.endswith(f"Resuming from {before} instead.")
    again, once = (load_tensors(folder / "checkpoints" / newest.name)[0] for folder in (out, trained))
    assert again.keys() == once.keys()
    assert all(torch.equal(again[name], value) for name, value in once.items())  # as if nothing had happened
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_a_good_checkpoint_nothing_is_begun(damage: str, trained: Path, tmp_path: Path, run: Command) -> None:
    change, said = DAMAGE[damage]
    out = Path(shutil.copytree(trained, tmp_path / "run"))
    files = sorted((out / "checkpoints").iterdir())
    for file in files:
        file.write_bytes(change(file.read_bytes()))
    there = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = run("train", "--resume", "--out", out, "--images", 32)
    assert done.code == 4
    assert all(f"{file}: " in done.err for file in files)
    assert said in done.err
    assert "Traceback" not in done.err
    checkpoints = {path: content for path, content in there.items() if path.parent.name in ("checkpoints", "model")}
    assert {path: path.read_bytes() for path in checkpoints} == checkpoints
    assert not Path("unpickled").exists()
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize("command", ["sample", "evaluate", "info", "explain"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_refused_by_every_command(
    damage: str, command: str, trained: Path, tmp_path: Path, run: Command
) -> None:
    change, said = DAMAGE[damage]
    file = Path(shutil.copytree(trained / "model", tmp_path / "damaged")) / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))
    done = run(command, file.parent)
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith(f"pixelloom: {file}: ")
    assert said in done.err
    assert len(done.err.splitlines()) <= 2
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("field", ["head_kernels", "condition_kernels"])
def test_a_list_of_layers_has_an_end(field: str) -> None:
    """FAULTS 13: a description of a million layers took minutes to be refused by its weights."""
    config = PixelCNNConfig if field == "head_kernels" else GatedPixelCNNConfig
    assert len(getattr(config.model_validate({field: [1] * 64}), field)) == 64
    with pytest.raises(ValidationError, match="at most 64 items"):
        config.model_validate({field: [1] * 65})


# Arguments, 27 and 28


LEVELS = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
KNOWN = torch.ones(4, 4, dtype=torch.bool)
WRONG: list[tuple[str, dict[str, Any], str]] = [
    *(("sample", {"temperature": t}, "temperature: must be a positive number") for t in (0, -1, math.nan, "1", None)),
    ("sample", {"temperature": True}, "temperature: must be a positive number"),
    ("sample", {"threads": 0}, "threads: must be 1 or more"),
    ("sample", {"given": LEVELS}, "given, mask: give both"),
    ("sample", {"given": LEVELS, "mask": "x"}, "mask: a tensor of booleans is needed, not 'x'"),
    ("sample", {"given": LEVELS, "mask": KNOWN * math.nan}, "mask: true or 1 where values are known"),
    ("sample", {"given": LEVELS, "mask": 0.5 * KNOWN}, "mask: true or 1 where values are known"),
    ("sample", {"given": LEVELS, "mask": KNOWN[1:]}, r"given, mask: shapes \(1, 1, 4, 4\) and \(3, 4\) do not fit"),
    ("sample", {"given": [0], "mask": KNOWN}, "images: levels are a tensor or an array of integers, not \\[0\\]"),
    ("sample", {"given": LEVELS + 17, "mask": KNOWN}, "images: levels go from 0 to 16, found 17 to 17"),
    ("sample", {"given": LEVELS.expand(1, 3, 4, 4), "mask": KNOWN}, "images: the model takes .N, 1, 4, 4., not"),
    ("log_prob", {"images": LEVELS + 17}, "images: levels go from 0 to 16, found 17 to 17"),
    ("log_prob", {"images": LEVELS.int() - 1}, "images: levels go from 0 to 16, found -1 to -1"),
    ("log_prob", {"images": LEVELS.float()}, "images: levels are integers 0..16, not torch.float32"),
    ("log_prob", {"images": LEVELS.expand(1, 3, 4, 4)}, "images: the model takes .N, 1, 4, 4., not .1, 3, 4, 4."),
    ("log_prob", {"images": None}, "images: levels are a tensor or an array of integers, not None"),
    ("log_prob", {"images": LEVELS, "threads": 0}, "threads: must be 1 or more"),
]


@pytest.mark.parametrize(("method", "given", "said"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_arguments_that_are_none(method: str, given: dict[str, Any], said: str) -> None:
    model = flat(ImageSpec(1, 4, 4, 17))
    call = partial(model.sample, 1) if method == "sample" else model.log_prob
    with pytest.raises(UsageError, match=said):
        call(**given)


@pytest.mark.parametrize("method", ["fast", "plain"])
def test_masks_of_all_and_of_none(method: Method) -> None:
    model = flat(ImageSpec(1, 4, 4, 17))
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    for whole in (KNOWN, KNOWN.int(), KNOWN.double()):
        assert torch.equal(model.sample(3, given=image, mask=whole, method=method), image.expand(3, 1, 4, 4))
        assert torch.equal(model.sample(3, given=image, mask=0 * whole, method=method), model.sample(3))
    with pytest.raises(UsageError, match="n: must be 1 or more, not 0"):
        model.sample(0, given=image, mask=KNOWN, method=method)
