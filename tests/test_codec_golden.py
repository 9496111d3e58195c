"""Golden files: exports and compressed images that one machine made give the same integers and pixels on this one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pixelloom as pl
from make_codec_golden import BLOCK, COUNT, FOLDER, MODELS
from pixelloom.codec.model import CARRIERS, CodecModel, answer_of

DIGESTS = json.loads((FOLDER / "levels.json").read_text())


def digest(levels: torch.Tensor) -> str:
    return hashlib.sha256(levels.contiguous().numpy().tobytes()).hexdigest()


def test_every_golden_model_is_here() -> None:
    assert set(DIGESTS) == set(MODELS)
    assert len(set(DIGESTS.values())) == len(MODELS) >= 5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_golden_file_decodes_and_encodes_to_the_same_bytes(name: str, carrier: str) -> None:
    codec = CodecModel.load(FOLDER / f"{name}.safetensors")
    assert answer_of(codec.execution(carrier)) == codec.answer
    codec.carrier = carrier
    content = (FOLDER / f"{name}.pxl").read_bytes()
    images = pl.decompress(content, codec)
    assert tuple(images.shape) == (COUNT, *codec.spec.shape)
    assert digest(images) == DIGESTS[name]
    assert pl.compress(images, codec, block=BLOCK) == content


@pytest.mark.parametrize("name", MODELS)
def test_a_golden_file_names_its_model_and_opens_in_the_middle(name: str) -> None:
    codec = CodecModel.load(FOLDER / f"{name}.safetensors")
    images = pl.decompress((FOLDER / f"{name}.pxl").read_bytes(), codec)
    with pl.open_pxl(FOLDER / f"{name}.pxl") as file:  # finds the export beside it
        assert len(file) == COUNT
        for index in (0, BLOCK + 1, COUNT - 1):
            assert torch.equal(file[index], images[index])


_OTHER = """
import sys
import torch
import pixelloom as pl
from make_codec_golden import FOLDER, MODELS
from test_codec_golden import DIGESTS, digest

torch.set_num_threads(int(sys.argv[1]))
for name in MODELS:
    assert digest(pl.decompress((FOLDER / f"{name}.pxl").read_bytes(), FOLDER / f"{name}.safetensors")) == DIGESTS[name]
print(torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.parametrize(("capability", "threads"), [("default", 1), ("default", 2), ("avx2", 2)])
def test_other_instructions_and_threads_give_the_same_pixels(capability: str, threads: int) -> None:
    paths = os.pathsep.join([str(FOLDER.parent), *sys.path])
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": paths}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", _OTHER, str(threads)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if capability == "default":
        assert done.stdout.strip() == "DEFAULT"


def test_golden_files_are_small() -> None:
    assert sum(path.stat().st_size for path in Path(FOLDER).iterdir()) < 1 << 20
