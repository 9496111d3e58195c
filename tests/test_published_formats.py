"""Published formats are read exactly; damaged and malicious files raise errors, and no code of them runs."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from layouts import (
    amat_bytes,
    cifar_batches,
    cifar_pickle,
    cifar_records,
    idx_bytes,
    noise,
    write_cifar,
    write_idx,
    write_tar,
)
from pixelloom.core.errors import DataError
from pixelloom.data.io.idx import read_idx
from pixelloom.data.io.published_formats import CIFAR_TEST, CIFAR_TRAIN, find_cifar, read_amat, read_cifar

# -- IDX


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("shape", [(5, 3, 4), (7,)])
def test_idx_gives_the_array_back(tmp_path: Path, packed: bool, shape: tuple[int, ...]) -> None:
    array = noise(*shape)
    write_idx(tmp_path / "a", array, packed)
    got = read_idx(tmp_path / "a")
    assert got.dtype == np.uint8
    assert np.array_equal(got, array)


GOOD = idx_bytes(noise(5, 3, 4))
DAMAGED_IDX = {
    "empty": b"",
    "a web page": b"<!DOCTYPE html><html></html>",
    "truncated": GOOD[:-1],
    "trailing bytes": GOOD + b"\0",
    "floats": b"\0\0\x0d\x03" + GOOD[4:],
    "header cut off": GOOD[:9],
    "claims 2^96 values": b"\0\0\x08\x03" + b"\xff" * 12,
    "truncated gzip": gzip.compress(GOOD)[:-9],
    "gzip with a flipped bit": gzip.compress(GOOD)[:20] + b"\x55" + gzip.compress(GOOD)[21:],
    "gzip of a web page": gzip.compress(b"<html></html>"),
    "gzip that claims too much": gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 1 << 31)),
}


@pytest.mark.parametrize("data", DAMAGED_IDX.values(), ids=DAMAGED_IDX)
def test_damaged_idx_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        read_idx(tmp_path / "train-images-idx3-ubyte.gz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*No such file"):
        read_idx(tmp_path / "nowhere")


# -- amat

BITS = noise(6, 1, 3, 4, high=2)
TEXT = amat_bytes(BITS)


@pytest.mark.parametrize(
    "text",
    [TEXT, TEXT[:-1], TEXT.replace(b"\n", b" \n"), TEXT.replace(b"\n", b"\r\n"), TEXT.replace(b" ", b"  ") + b"\n\n"],
    ids=["as published", "no last newline", "trailing blanks", "windows", "wide and blank lines"],
)
def test_amat_gives_the_bits_back(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.amat").write_bytes(text)
    got = read_amat(tmp_path / "a.amat", 3, 4)
    assert got.dtype == np.uint8
    assert np.array_equal(got, BITS)


DAMAGED_AMAT = {
    "empty": b"",
    "blank": b"\n \n",
    "short line": TEXT + b"0 1 0\n",
    "missing value": TEXT[2:],
    "a two": TEXT[:-2] + b"2\n",
    "a letter": b"x" + TEXT[1:],
    "a fraction": TEXT.replace(b"0 ", b"0.5 ", 1),
    "joined": TEXT[:1] + b"1" + TEXT[2:],
    "a web page": b"<html>0 1</html>\n",
    "shifted newline": TEXT[:23] + b" " + TEXT[24:47] + b" " + TEXT[48:],
}


@pytest.mark.parametrize("text", DAMAGED_AMAT.values(), ids=DAMAGED_AMAT)
def test_damaged_amat_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "b.amat").write_bytes(text)
    with pytest.raises(DataError, match=r"b\.amat"):
        read_amat(tmp_path / "b.amat", 3, 4)


# -- CIFAR-10


@pytest.mark.parametrize(
    ("inner", "layout"),
    [
        ("", "bin"),
        ("", "py"),
        ("", "bin-tar"),
        ("", "py-tar"),
        ("cifar-10-batches-bin", "bin"),
        ("cifar-10-batches-py", "py"),
    ],
)
def test_every_cifar_layout_gives_the_same(tmp_path: Path, layout: str, inner: str) -> None:
    batches = cifar_batches()
    write_cifar(tmp_path / inner, batches, layout)
    for names in (CIFAR_TRAIN, CIFAR_TEST):
        places = find_cifar(tmp_path, names)
        assert places is not None
        images, labels = read_cifar(places)
        assert images.dtype == np.uint8
        assert np.array_equal(images, np.concatenate([batches[name][0] for name in names]))
        assert labels.tolist() == [int(label) for name in names for label in batches[name][1]]


def test_cifar_pickle_of_python_2(tmp_path: Path) -> None:
    """As published: byte strings as STRING opcodes, arrays by numpy.core.multiarray."""
    data = bytes(noise(2, 3072).reshape(-1))
    stream = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tb"
        b"U\x06labels]q\x07(K\x03K\x09eu."
    )
    (tmp_path / "data_batch_1").write_bytes(stream)
    images, labels = read_cifar([(tmp_path / "data_batch_1", "")])
    assert images.tobytes() == data
    assert labels.tolist() == [3, 9]


def test_no_cifar_is_none_and_half_of_it_too(tmp_path: Path) -> None:
    assert find_cifar(tmp_path, CIFAR_TRAIN) is None
    write_cifar(tmp_path, cifar_batches(), "bin")
    (tmp_path / "data_batch_3.bin").unlink()
    assert find_cifar(tmp_path, CIFAR_TRAIN) is None
    assert find_cifar(tmp_path, CIFAR_TEST) is not None


class Bomb:
    def __init__(self, *call: object):
        self.call = call

    def __reduce__(self) -> tuple[object, ...]:
        return self.call[0], self.call[1:]  # type: ignore[return-value]


@pytest.mark.parametrize("hidden", ["top", "in data", "in a list", "as a key's value"])
@pytest.mark.parametrize("call", ["os.system", "eval", "os.mkdir"])
def test_a_malicious_pickle_is_never_run(tmp_path: Path, hidden: str, call: str) -> None:
    trace = tmp_path / "owned"
    bomb = {
        "os.system": Bomb(os.system, f"touch {trace}"),
        "eval": Bomb(eval, f"open({str(trace)!r}, 'w')"),
        "os.mkdir": Bomb(os.mkdir, str(trace)),
    }[call]
    payload = {
        "top": bomb,
        "in data": {b"data": bomb, b"labels": [1]},
        "in a list": {b"data": noise(1, 3072), b"labels": [bomb]},
        "as a key's value": {b"data": noise(1, 3072), b"labels": [1], b"x": bomb},
    }[hidden]
    (tmp_path / "test_batch").write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(DataError, match=r"test_batch: not a CIFAR-10 batch \(it refers to \w+\.\w+"):
        read_cifar([(tmp_path / "test_batch", "")])
    assert not trace.exists()
    pickle.loads(pickle.dumps(bomb, protocol=2))  # the bomb is a real one
    assert trace.exists()


IMAGES, LABELS = noise(3, 3, 32, 32), np.array([1, 2, 3])
DAMAGED_CIFAR = {
    "empty.bin": b"",
    "truncated.bin": cifar_records(IMAGES, LABELS)[:-1],
    "label of 10.bin": cifar_records(IMAGES, np.array([1, 2, 10])),
    "empty": b"",
    "truncated": cifar_pickle(IMAGES, LABELS)[:-40],
    "web page": b"<!DOCTYPE html>",
    "two labels": cifar_pickle(IMAGES, LABELS[:2]),
    "negative label": cifar_pickle(IMAGES, np.array([1, 2, -1])),
    "no data": pickle.dumps({b"labels": [1]}, protocol=2),
    "a list": pickle.dumps([1, 2], protocol=2),
    "floats": pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}, protocol=2),
    "wrong width": pickle.dumps({b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]}, protocol=2),
    "fortran order": pickle.dumps({b"data": np.asfortranarray(noise(4, 3072)), b"labels": [1] * 4}, protocol=2),
    "object array": pickle.dumps({b"data": np.array([[None] * 3072]), b"labels": [1]}, protocol=2),
    "claims a terabyte": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 40) + b"xx",
}


@pytest.mark.parametrize("name", DAMAGED_CIFAR)
def test_damaged_cifar_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DAMAGED_CIFAR[name])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        read_cifar([(tmp_path / name, "")])


def test_random_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    rng, good = np.random.default_rng(0), cifar_pickle(noise(1, 3, 32, 32), np.array([4]))
    for i in range(400):
        broken = bytearray(good)
        for at in rng.integers(0, 400, 3):
            broken[at] = rng.integers(0, 256)
        (tmp_path / "b").write_bytes(broken if i % 2 else rng.bytes(60))
        try:
            read_cifar([(tmp_path / "b", "")])
        except DataError:
            continue


def test_damaged_and_hostile_tars(tmp_path: Path) -> None:
    write_cifar(tmp_path, cifar_batches(), "bin-tar")
    tar = tmp_path / "cifar-10-binary.tar.gz"
    data = tar.read_bytes()
    places = find_cifar(tmp_path, CIFAR_TRAIN)
    assert places is not None
    for broken in (data[: len(data) // 2], data[:-30_000], b"", b"<html>", gzip.compress(b"<html>")):
        tar.write_bytes(broken)
        with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz"):
            read_cifar(places)
    write_tar(tar, {"../../evil": b"x", "cifar-10-batches-bin/data_batch_1.bin": cifar_records(IMAGES, LABELS)})
    with pytest.raises(DataError, match=r"data_batch_2\.bin, data_batch_3\.bin, .* missing"):
        read_cifar(places)
    assert sorted(path.name for path in tmp_path.parent.rglob("*evil*")) == []
