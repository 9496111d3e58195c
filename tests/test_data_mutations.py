"""Damaged files of every kind that is read as data: images, or one error of ours of bounded length."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import parquet_files
from image_files import encoded, flat, put
from layouts import idx_bytes
from pixelloom.core.errors import PixelloomError
from pixelloom.data.io.folders import Reading, read_images
from pixelloom.data.io.value_range import ValueRange

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 6, 6)).astype(np.uint8)


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, images=IMAGES, labels=np.eye(2)[[0, 1] * 3], classes=np.array(["a", "b"]))
    return stream.getvalue()


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, IMAGES.astype(np.uint16))
    return stream.getvalue()


def mat() -> bytes:
    scipy = pytest.importorskip("scipy.io")
    stream = io.BytesIO()
    scipy.savemat(stream, {"X": IMAGES.repeat(3).reshape(6, 6, 3, 6), "y": np.arange(6)[:, None]}, do_compression=True)
    return stream.getvalue()


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for i in range(4):
            data, info = flat(i), tarfile.TarInfo(f"{'ab'[i % 2]}/{i}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def tif() -> bytes:
    first, *rest = map(Image.fromarray, IMAGES)
    return encoded(first, "TIFF", save_all=True, append_images=rest, compression="tiff_lzw")


def csv() -> bytes:
    lines = [",".join(map(str, [i % 2, *image.reshape(-1).tolist()])) for i, image in enumerate(IMAGES)]
    return "\n".join([",".join(["label", *(f"p{i}" for i in range(36))]), *lines]).encode()


def hub() -> bytes:
    column = parquet_files.hub_column([encoded(image) for image in IMAGES])
    return parquet_files.as_bytes(
        {"image": column, "label": parquet_files.pa.array([0, 1] * 3)},
        parquet_files.features(image=None, label=["a", "b"]),
    )


def lists() -> bytes:
    column = parquet_files.pa.array(IMAGES.tolist())
    return parquet_files.as_bytes({"image": column, "label": parquet_files.pa.array(list("ababab"))})


def stylegan() -> bytes:
    return json.dumps({"labels": [["a.png", [1, 0]], ["b.png", [0, 1]], ["c.png", 3]]}).encode()


KINDS: dict[str, Callable[[], bytes]] = {
    "a.npz": npz,
    "a.npy": npy,
    "a.mat": mat,
    "a.tar": tar,
    "a.tif": tif,
    "a.csv": csv,
    "a-train-images-idx3-ubyte": lambda: idx_bytes(IMAGES),
    "a.parquet": hub,
    "b.parquet": lists,
    "list.txt": lambda: b"a.png,cat\nb.png,dog\nc.png cat\n",
    "list.csv": lambda: b"file_name,label\na.png,1\nb.png,2\n",
    "dataset.json": stylegan,
    "metadata.csv": lambda: b"file_name,label\na.png,1\nb.png,2\n",
    "metadata.jsonl": lambda: b'{"file_name": "a.png", "label": 1}\n{"file_name": "b.png", "label": 2}\n',
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four bytes or spans changed, removed, inserted, or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(changed) + 1), rng.random()
        if kind < 0.5 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind < 0.7:
            del changed[at : at + rng.randint(1, 20)]
        elif kind < 0.85:
            changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        else:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_images_or_one_error(tmp_path: Path, kind: str, count: int) -> None:
    sound, rng = KINDS[kind](), random.Random(count)
    put(tmp_path, {f"{name}.png": flat(ord(name)) for name in "abc"})
    source = tmp_path if "dataset" in kind or "metadata" in kind else tmp_path / kind
    longest = 0
    for i in range(count):
        (tmp_path / kind).write_bytes(mutated(sound, rng))
        reading = Reading(range=ValueRange(0, 255)) if i % 2 else Reading()
        try:
            found = read_images(source, reading, tmp_path / "cache")
        except PixelloomError as error:
            longest = max(longest, len(str(error)))
            continue
        assert found.images.dtype == np.uint8
        assert found.images.ndim == 4
        assert found.labels is None or found.labels.max() < len(found.classes)
    assert longest < 1500
