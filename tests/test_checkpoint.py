"""The file format of models and checkpoints: it verifies itself, and a failed write leaves the old file alone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pixelloom.core.atomic import remove_parts
from pixelloom.core.errors import ModelError
from pixelloom.engine.safetensors_io import load_tensors, save_tensors

TENSORS = {
    "weight": torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, -0.25], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.empty(0, 3),
    "mask": torch.tensor([True, False]),
}
META = {"step": 3, "metrics": {"loss": 0.5}, "name": "café", "list": [1, None]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_tensors(path, TENSORS, META)
    return path


def test_round_trip_keeps_every_value_and_leaves_only_the_file(file: Path) -> None:
    tensors, meta = load_tensors(file)
    assert meta == META
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert torch.equal(safetensors.torch.load_file(file)["weight"], TENSORS["weight"])  # any tool can read it


def test_tied_weights_are_stored_under_both_names(tmp_path: Path) -> None:
    tied = torch.arange(4.0)
    save_tensors(tmp_path / "t", {"a": tied, "b": tied, "view": tied[1:]}, {})
    tensors, _ = load_tensors(tmp_path / "t")
    assert tensors["a"].tolist() == tensors["b"].tolist() == [0, 1, 2, 3]
    assert tensors["view"].tolist() == [1, 2, 3]


def test_digest_names_the_contents(file: Path) -> None:
    again = file.with_name("again")
    first = safetensors.safe_open(file, "pt").metadata()["sha256"]
    assert save_tensors(again, TENSORS, META) == first
    assert save_tensors(again, TENSORS | {"count": torch.tensor(8)}, META) != first
    assert save_tensors(again, TENSORS, META | {"step": 4}) != first
    renamed = {("masks" if k == "mask" else k): t for k, t in TENSORS.items()}
    assert save_tensors(again, renamed, META) != first
    assert save_tensors(again, TENSORS | {"weight": TENSORS["weight"].reshape(24)}, META) != first


def test_every_flipped_bit_is_noticed(file: Path) -> None:
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = {*range(header * 8, len(content) * 8), *rng.integers(0, header * 8, 600).tolist()}
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            load_tensors(file)


def test_every_truncation_is_noticed(file: Path) -> None:
    content = file.read_bytes()
    for length in range(0, len(content), 5):
        file.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            load_tensors(file)
    file.write_bytes(content + b"\0")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_tensors(file)


def test_a_newer_format_says_what_reads_it(file: Path) -> None:
    text = json.dumps({"format": 3, "needs": "0.9", "meta": {}})
    safetensors.torch.save_file({"a": torch.ones(1)}, file, {"pixelloom": text, "sha256": "of another recipe"})
    with pytest.raises(ModelError, match=r"needs pixelloom >= 0\.9"):
        load_tensors(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "truncated, damaged or not a model file"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "header of 4611686018427387904 bytes"),
        (safetensors.torch.save({"a": torch.ones(1)}), "has no checksum"),
        (safetensors.torch.save({"a": torch.ones(1)}, {"pixelloom": "{", "sha256": ""}), "metadata cannot be read"),
        (safetensors.torch.save({"a": torch.ones(1)}, {"pixelloom": "[" * 10**6, "sha256": ""}), "metadata cannot"),
        (b"\x80\x04\x95" + b"cposix\nsystem\n(S'false'\ntR." * 9, "not a model file"),
    ],
    ids=["empty", "html", "lfs pointer", "huge header", "plain safetensors", "bad json", "deep json", "pickle"],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "given.bin"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ModelError, match=path.name):
            load_tensors(path)


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if fails == "fsync" else (Path, "replace")), full)
    with pytest.raises(ModelError, match=r"cannot write \d{3,} bytes: No space left") as caught:
        save_tensors(file, TENSORS, {"step": 4})
    assert str(file) in str(caught.value)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_disk_quota_keeps_the_old_file(file: Path) -> None:
    """A real short write: the kernel refuses bytes beyond RLIMIT_FSIZE with EFBIG, as it does beyond a quota."""
    before = file.read_bytes()
    code = f"""
        import resource, torch
        from pathlib import Path
        from pixelloom.engine.safetensors_io import save_tensors
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        save_tensors(Path({str(file)!r}), {{"big": torch.zeros(50_000)}}, {{}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "ModelError" in done.stderr
    assert "cannot write 200" in done.stderr  # 200 kB and a header
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_remove_parts_takes_only_temporaries(tmp_path: Path) -> None:
    for name in (".step-1.safetensors.4711.part", "step-1.safetensors", ".hidden", "a.part"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"step-1.safetensors", ".hidden", "a.part"}


def test_half_storage_rounds_to_float16_and_loads_as_float32(tmp_path: Path) -> None:
    weights = torch.tensor([1 / 3, -2.0, 1e-3])
    path = tmp_path / "half"
    save_tensors(path, {"weights": weights, "count": torch.tensor(7), "half": TENSORS["half"]}, META, half=True)
    tensors, meta = load_tensors(path)
    assert meta == META
    assert tensors["weights"].dtype == torch.float32
    assert tensors["weights"].tolist() == [float(np.float16(value)) for value in (1 / 3, -2.0, 1e-3)]
    assert (tensors["count"].dtype, tensors["half"].dtype) == (torch.int64, torch.bfloat16)
    assert safetensors.torch.load_file(path)["weights"].dtype == torch.float16
    save_tensors(path, {"weights": weights}, META)
    assert torch.equal(load_tensors(path)[0]["weights"], weights)
