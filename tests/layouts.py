"""Tiny files in the formats of the published data sets."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np


def noise(n: int, *shape: int, seed: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (n, *shape)).astype(np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(path: Path, array: np.ndarray, packed: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data, 1) if packed else data)


def write_mnist(folder: Path, train: int = 10_000, test: int = 2_100, packed: bool = True) -> None:
    """Sparse random images, mostly sevens and eights: 400 of each in a tenth of train, 900 of each in test."""
    for part, n, seed in (("train", train, 0), ("t10k", test, 1)):
        images = noise(n, 28, 28, seed=seed)
        images[:, :, 6:] = 0
        suffix = ".gz" if packed else ""
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images, packed)
        labels = np.resize(np.array([7, 8] * 10 + [0, 1, 9], np.uint8), n)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels, packed)


def cifar_records(images: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], 1).tobytes()


def cifar_pickle(images: np.ndarray, labels: np.ndarray) -> bytes:
    batch = {
        b"batch_label": b"training batch 1 of 5",
        b"labels": labels.tolist(),
        b"data": images.reshape(len(images), -1),
        b"filenames": [b"a_s_%06d.png" % i for i in range(len(images))],
    }
    return pickle.dumps(batch, protocol=2)


CIFAR_NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def cifar_batches(n: int = 8, seed: int = 5) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {name: (noise(n, 3, 32, 32, seed=seed + i), rng.integers(0, 10, n)) for i, name in enumerate(CIFAR_NAMES)}


def write_cifar(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]], layout: str) -> None:
    """``layout``: bin, py (plain files), bin-tar or py-tar."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = layout.startswith("bin")
    encode, suffix = (cifar_records, ".bin") if binary else (cifar_pickle, "")
    files = {f"{name}{suffix}": encode(*batch) for name, batch in batches.items()}
    if not layout.endswith("tar"):
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return
    inner = "cifar-10-batches-bin" if binary else "cifar-10-batches-py"
    write_tar(
        folder / f"cifar-10-{'binary' if binary else 'python'}.tar.gz", {f"{inner}/{k}": v for k, v in files.items()}
    )


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in reversed(files.items()):  # the published tars are not sorted
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def amat_bytes(bits: np.ndarray) -> bytes:
    return b"".join(b" ".join(b"%d" % bit for bit in row.reshape(-1)) + b"\n" for row in bits)


def write_binarized(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, (part, n) in enumerate((("train", 40), ("valid", 10), ("test", 12))):
        (folder / f"binarized_mnist_{part}.amat").write_bytes(amat_bytes(noise(n, 28, 28, seed=i, high=2)))


def write_root(root: Path) -> None:
    """All data sets that need files."""
    write_mnist(root / "mnist")
    write_mnist(root / "fashion-mnist", 120, 30)
    write_cifar(root / "cifar10", cifar_batches(), "bin")
    write_binarized(root / "binarized-mnist")
