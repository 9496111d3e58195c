"""Arrays, tables and files of published formats by their paths: each by its values, or by the advice of its error."""

from __future__ import annotations

import builtins
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_files import encoded, flat, put
from layouts import CIFAR_NAMES, cifar_batches, idx_bytes, write_cifar, write_idx
from pixelloom.core.errors import DataError
from pixelloom.data.catalog import DataConfig, load
from pixelloom.data.io.folders import DecodedImages, Reading, read_images
from pixelloom.data.io.layout import Labeling
from pixelloom.data.io.value_range import ValueRange

READ = Reading()
FLAT = Reading(shape=(28, 28))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path_factory.mktemp("cache")))


def counted(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


def saved(path: Path, array: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def read(path: Path, reading: Reading = READ, **labeling: Any) -> DecodedImages:
    return read_images(path, reading, None, Labeling(**labeling))


def names(decoded: DecodedImages) -> list[str]:
    """The class name of each image, "" without one."""
    assert decoded.labels is not None
    return ["" if label < 0 else decoded.classes[label] for label in decoded.labels.tolist()]


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 784), (5, 1, 1, 784), (5, 28, 28)])
def test_flat_images_with_a_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = counted(*shape)
    assert np.array_equal(read(saved(tmp_path / "a.npy", array), FLAT).images, array.reshape(5, 1, 28, 28))


def test_flat_color_images_with_a_shape(tmp_path: Path) -> None:
    array = counted(2, 3072)
    path = saved(tmp_path / "a.npy", array)
    assert np.array_equal(read(path, Reading(shape=(3, 32, 32))).images, array.reshape(2, 3, 32, 32))
    last = read(path, Reading(shape=(32, 32, 3))).images
    assert np.array_equal(last, array.reshape(2, 32, 32, 3).transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("array", "reading", "match"),
    [
        (counted(5, 784), READ, r"save \[N, H, W\], .* or set --data.shape 28x28 if these are flat images"),
        (counted(5, 3072), READ, "set --data.shape 3x32x32"),
        (counted(5, 700), READ, "set --data.shape HEIGHTxWIDTH"),
        (counted(3000, 1, 784), READ, r"of shape \[3000, 1, 784\] may be flat images; set --data.shape 28x28"),
        (counted(5, 1, 1, 784), READ, "may be flat images; set --data.shape 28x28"),
        (counted(5, 700), FLAT, r"has 700 values per image, but --data.shape 28x28 has 784"),
        (counted(784), FLAT, r"of shape \[784\] has 1 values per image"),
        (counted(32, 32, 3, 50), READ, r"seems to be \[H, W, C, N\]; save x.transpose\(3, 0, 1, 2\)"),
        (counted(3, 32, 32), READ, r"may be one image \[C, H, W\]; save gray images as \[N, H, W, 1\]"),
        (counted(32, 32, 3), READ, r"may be one image \[H, W, C\]"),
    ],
)
def test_shapes_that_are_refused(tmp_path: Path, array: np.ndarray, reading: Reading, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(saved(tmp_path / "a.npy", array), reading)


def test_rows_and_columns_can_be_swapped(tmp_path: Path) -> None:
    array = counted(4, 5, 7)
    decoded = read(saved(tmp_path / "a.npy", array), Reading(transpose=True))
    assert np.array_equal(decoded.images[:, 0], array.transpose(0, 2, 1))
    assert decoded.note == "images transposed"
    small = read(tmp_path / "a.npy", Reading(transpose=True, size=(7, 5)))
    assert np.array_equal(small.images, decoded.images)


@pytest.mark.parametrize("form", ["npy", "npz", "packed npz"])
def test_fortran_order(tmp_path: Path, form: str) -> None:
    array, labels = counted(9, 5, 7, 3), np.arange(18).reshape(9, 2)
    if form == "npy":
        path = saved(tmp_path / "a.npy", np.asfortranarray(array))
        saved(tmp_path / "a_labels.npy", np.asfortranarray(labels))
    else:
        path = tmp_path / "a.npz"
        save = np.savez if form == "npz" else np.savez_compressed
        save(path, images=np.asfortranarray(array), labels=np.asfortranarray(labels))
    assert b"'fortran_order': True" in path.read_bytes() or form == "packed npz"
    decoded = read(path, label_column=1)
    assert np.array_equal(decoded.images, array.transpose(0, 3, 1, 2))
    assert names(decoded) == [str(2 * i + 1) for i in range(9)]
    flat = saved(tmp_path / "flat.npy", np.asfortranarray(counted(5, 784)))
    assert np.array_equal(read(flat, FLAT).images, counted(5, 784).reshape(5, 1, 28, 28))


def test_a_large_array_in_fortran_order_is_copied_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelloom.data.io.cache.IN_MEMORY", 4096)
    monkeypatch.setattr("pixelloom.data.io.stacks.IN_MEMORY", 4096)
    array = counted(60, 9, 11)
    decoded = read(saved(tmp_path / "a.npy", np.asfortranarray(array)))
    assert np.array_equal(decoded.images[:, 0], array)
    assert isinstance(decoded.images, np.memmap)
    assert decoded.images.flags.c_contiguous  # an image is in one place


# ---------------------------------------------------------------- types and values

TWELVE = np.arange(0, 4096, 16, dtype=np.uint16).reshape(4, 8, 8)
TWELVE[0, 0, 1] = 4095
UNIT = np.linspace(0, 1, 256, dtype=np.float32).reshape(4, 8, 8)
ADVICE = {
    "uint16 of 12 bits": (TWELVE, r"values are 0 to 4095, set --range 0:4095$"),
    "int64 of bytes": (np.arange(256).reshape(4, 8, 8), r"save x.astype\('uint8'\), or set --range 0:255"),
    "negative integers": (np.arange(-5, 59).reshape(1, 8, 8), r"values are -5 to 58, set --range=-5:58$"),
    "floats of 0 to 1": (
        UNIT,
        r"save \(x \* 255\).round\(\).astype\('uint8'\), or set --range 0:1 \(values",
    ),
    "floats of 0 to 255": (UNIT * 255, r"save x.round\(\).astype\('uint8'\), or set --range 0:255"),
    "floats of -1 to 1": (
        UNIT * 2 - 1,
        r"\(\(x \+ 1\) \* 127.5\).round\(\).astype\('uint8'\), or set --range=-1:1",
    ),
    "other floats": (UNIT * 9 - 4, r"values are -4 to 5, set --range=-4:5$"),
    "nan": (np.full((2, 4, 4), np.nan), "values are NaN or infinite"),
    "complex": (np.zeros((2, 4, 4), complex), "is complex128; pixels must be uint8 or bool"),
}


@pytest.mark.parametrize(("array", "match"), ADVICE.values(), ids=ADVICE)
def test_the_advice_for_a_type_is_right_for_its_values(tmp_path: Path, array: np.ndarray, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(saved(tmp_path / "a.npy", array))


SCALED = {
    "12 bits": (TWELVE, "0:4095", TWELVE >> 4),
    "the largest": (TWELVE, "max", TWELVE >> 4),
    "bytes as int64": (np.arange(256).reshape(4, 8, 8), "0:255", np.arange(256).reshape(4, 8, 8)),
    "0 to 1": (UNIT, "0:1", np.arange(256).reshape(4, 8, 8)),
    "0 to 255": (np.rint(UNIT * 255), "0:255", np.arange(256).reshape(4, 8, 8)),
    "-1 to 1": (UNIT * 2 - 1, "-1:1", np.arange(256).reshape(4, 8, 8)),
}


@pytest.mark.parametrize(("array", "text", "expected"), SCALED.values(), ids=SCALED)
def test_values_are_scaled_by_a_range(tmp_path: Path, array: np.ndarray, text: str, expected: np.ndarray) -> None:
    decoded = read(saved(tmp_path / "a.npy", array), Reading(range=ValueRange.parse(text)))
    assert decoded.images.dtype == np.uint8
    assert np.array_equal(decoded.images[:, 0], expected)
    assert decoded.note == f"images scaled from --range {text}"


def test_values_outside_of_the_range_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"values 0 to 4095 are not within --range 0:1023; set --range 0:4095"):
        read(saved(tmp_path / "images.npy", TWELVE), Reading(range=ValueRange(0, 1023)))


def test_few_levels_are_resized_at_8_bits(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).random((300, 28, 28)) < 0.13
    path = saved(tmp_path / "bits.npy", bits)
    means = bits.reshape(-1, 14, 2, 14, 2).mean((2, 4))
    halved = read(path, Reading(size=(14, 14)))
    assert halved.source_levels == 2
    assert np.array_equal(halved.images[:, 0], means >= 0.5)
    data = load(DataConfig(source=str(path), size=14))
    assert data.spec.levels == 2
    share = np.concatenate([data.split(name).all()[0] for name in ("train", "val", "test")]).mean()
    assert share == pytest.approx((means >= 0.5).mean(), abs=1e-12)
    assert 0.07 < share < 0.1


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("a.npy", "a_labels.npy"),
        ("a.npy", "a-labels.npy"),
        ("X_train.npy", "y_train.npy"),
        ("images.npy", "labels.npy"),
        ("train_images.npy", "train_labels.npy"),
    ],
)
def test_labels_beside_an_array(tmp_path: Path, images: str, labels: str) -> None:
    saved(tmp_path / labels, np.array([10, 9, 10, 9]))
    decoded = read(saved(tmp_path / images, counted(4, 6, 6)))
    assert decoded.classes == ("9", "10")
    assert names(decoded) == ["10", "9", "10", "9"]
    assert decoded.note == f"labels from {labels}"
    assert read(tmp_path / images, labels="none").classes == ()


LABELS: dict[str, tuple[Any, list[str]]] = {
    "one-hot": (np.eye(3)[[2, 0, 2, 1]], ["2", "0", "2", "1"]),
    "one-hot integers": (np.eye(3, dtype=int)[[2, 0, 2, 1]], ["2", "0", "2", "1"]),
    "texts": (np.array(["b", "a10", "a9", "b"]), ["b", "a10", "a9", "b"]),
    "unlabeled": (np.array([5, -1, 1000, 5]), ["5", "", "1000", "5"]),
}


@pytest.mark.parametrize(("labels", "expected"), LABELS.values(), ids=LABELS)
def test_labels_of_a_given_file(tmp_path: Path, labels: np.ndarray, expected: list[str]) -> None:
    path = saved(tmp_path / "a.npy", counted(4, 6, 6))
    assert names(read(path, labels=str(saved(tmp_path / "l.npy", labels)))) == expected
    if labels.ndim == 1:
        (tmp_path / "l.txt").write_text("label\n" + "\n".join(map(str, labels)))
        assert names(read(path, labels=str(tmp_path / "l.txt"))) == expected


def test_unlabeled_images_are_left_out_and_said(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 5)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.resize([3, 7, -1, 7], 40))
    data = load(DataConfig(source=str(tmp_path / "a.npz")))
    assert data.classes == ("3", "7")
    assert sum(data.counts().values()) == 30
    assert "10 unlabeled images (label -1) left out" in data.note
    assert (
        sorted(np.concatenate([data.split(n).labels for n in ("train", "val", "test")]).tolist()) == [0] * 10 + [1] * 20
    )
    whole = load(DataConfig(source=str(tmp_path / "a.npz"), labels="none"))
    assert (whole.classes, sum(whole.counts().values())) == ((), 40)


def test_many_labels_per_image(tmp_path: Path) -> None:
    rng, parts = np.random.default_rng(0), {}
    for part, n in (("train", 12), ("val", 5), ("test", 4)):
        parts[f"{part}_images"] = rng.integers(0, 256, (n, 8, 8)).astype(np.uint8)
        parts[f"{part}_labels"] = rng.integers(0, 2, (n, 14)).astype(np.uint8)
    np.savez(tmp_path / "chest.npz", **parts)
    decoded = read(tmp_path / "chest.npz")
    assert (decoded.labels, decoded.classes) == (None, ())
    assert decoded.note == "labels ignored: 14 per image; choose one by --label-column 0 to 13"
    chosen = read(tmp_path / "chest.npz", label_column=3)
    assert names(chosen) == [str(v) for p in ("train", "val", "test") for v in parts[f"{p}_labels"][:, 3]]
    with pytest.raises(DataError, match="--label-column 14, but train_labels has columns 0 to 13"):
        read(tmp_path / "chest.npz", label_column=14)


# ---------------------------------------------------------------- folders of arrays


def test_one_file_per_class(tmp_path: Path) -> None:
    arrays = {name: counted(n, 784) for name, n in (("owl 10", 3), ("owl 9", 2), ("ant", 4))}
    for name, array in arrays.items():
        saved(tmp_path / f"{name}.npy", array)
    with pytest.raises(DataError, match=r"set --data.shape 28x28"):
        read(tmp_path)
    decoded = read(tmp_path, FLAT)
    assert decoded.classes == ("ant", "owl 9", "owl 10")
    assert names(decoded) == ["ant"] * 4 + ["owl 9"] * 2 + ["owl 10"] * 3
    assert np.array_equal(decoded.images.reshape(9, 784), np.concatenate([arrays[n] for n in decoded.classes]))
    assert decoded.note == "one class per file"


def test_one_file_per_class_in_split_folders(tmp_path: Path) -> None:
    for split, n in (("test_set", 2), ("train_set", 3)):
        for i, name in enumerate(("ant", "owl")):
            saved(tmp_path / split / f"{name}.npy", np.full((n, 6, 6), 10 * n + i, np.uint8))
    decoded = read(tmp_path)
    assert decoded.splits == {"train": slice(0, 6), "test": slice(6, 10)}
    assert decoded.images[:, 0, 0, 0].tolist() == [30] * 3 + [31] * 3 + [20] * 2 + [21] * 2
    assert names(decoded) == ["ant"] * 3 + ["owl"] * 3 + ["ant"] * 2 + ["owl"] * 2


def test_a_changed_file_of_a_folder_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelloom.data.io.cache.IN_MEMORY", 1)
    reading = Reading(transpose=True)
    saved(tmp_path / "set" / "ant.npy", np.full((3, 6, 6), 1, np.uint8))
    saved(tmp_path / "set" / "owl.npy", np.full((3, 6, 6), 2, np.uint8))
    assert read(tmp_path / "set", reading).images[:, 0, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]
    with (tmp_path / "set" / "owl.npy").open("r+b") as file:  # the folder keeps its time
        np.save(file, np.full((3, 6, 6), 3, np.uint8))
    assert read(tmp_path / "set", reading).images[:, 0, 0, 0].tolist() == [1, 1, 1, 3, 3, 3]


def test_arrays_of_a_folder_with_roles(tmp_path: Path) -> None:
    for part, n in (("train", 4), ("test", 2)):
        saved(tmp_path / f"x_{part}.npy", np.full((n, 6, 6), n, np.uint8))
        saved(tmp_path / f"y_{part}.npy", np.arange(n))
    decoded = read(tmp_path)
    assert decoded.splits == {"train": slice(0, 4), "test": slice(4, 6)}
    assert names(decoded) == ["0", "1", "2", "3", "0", "1"]
    saved(tmp_path / "one" / "sprites.npy", counted(4, 6, 6))
    saved(tmp_path / "one" / "sprites_labels.npy", np.eye(2)[[0, 1, 1, 0]])
    assert names(read(tmp_path / "one")) == ["0", "1", "1", "0"]


# ---------------------------------------------------------------- IDX, MATLAB, CSV


def idx_set(folder: Path, prefix: str = "", packed: bool = True) -> dict[str, np.ndarray]:
    arrays = {}
    suffix = ".gz" if packed else ""
    for split, n in (("train", 4), ("t10k" if not prefix else "test", 2)):
        arrays[split] = counted(n, 5, 7)
        write_idx(folder / f"{prefix}{split}-images-idx3-ubyte{suffix}", arrays[split], packed)
        write_idx(folder / f"{prefix}{split}-labels-idx1-ubyte{suffix}", np.arange(n, dtype=np.uint8) + 9, packed)
    return arrays


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("prefix", ["", "emnist-letters-"])
def test_idx_files_by_path(tmp_path: Path, prefix: str, packed: bool) -> None:
    arrays = idx_set(tmp_path, prefix, packed)
    file = tmp_path / f"{prefix}train-images-idx3-ubyte{'.gz' if packed else ''}"
    for source in (file, tmp_path):
        decoded = read(source)
        assert decoded.splits == {"train": slice(0, 4), "test": slice(4, 6)}
        assert np.array_equal(decoded.images[:, 0], np.concatenate(list(arrays.values())))
        assert decoded.classes == ("9", "10", "11", "12")
        assert names(decoded) == ["9", "10", "11", "12", "9", "10"]
    turned = read(tmp_path, Reading(transpose=True))
    assert np.array_equal(turned.images[:4, 0], arrays["train"].transpose(0, 2, 1))


def test_several_sets_of_idx_files_in_a_folder(tmp_path: Path) -> None:
    idx_set(tmp_path, "emnist-letters-")
    idx_set(tmp_path, "emnist-digits-")
    with pytest.raises(DataError, match="several sets: emnist-digits, emnist-letters; give the path of a file"):
        read(tmp_path)
    assert len(read(tmp_path / "emnist-digits-train-images-idx3-ubyte.gz").images) == 6


def test_other_idx_files(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_bytes(idx_bytes(counted(4, 5, 7)))
    decoded = read(tmp_path / "pictures")
    assert np.array_equal(decoded.images[:, 0], counted(4, 5, 7))
    assert decoded.labels is None
    (tmp_path / "labels").write_bytes(idx_bytes(np.array([1, 2, 1, 2], np.uint8)))
    assert names(read(tmp_path / "pictures", labels=str(tmp_path / "labels"))) == ["1", "2", "1", "2"]
    numbers = np.stack([np.arange(4), np.arange(4) + 100], 1).astype(">i4")  # QMNIST: class and further columns
    head = bytes([0, 0, 0x0C, 2]) + np.array([4, 2], ">u4").tobytes()
    (tmp_path / "qmnist-train-labels-idx2-int").write_bytes(head + numbers.tobytes())
    write_idx(tmp_path / "qmnist-train-images-idx3-ubyte", counted(4, 5, 7), packed=False)
    decoded = read(tmp_path / "qmnist-train-images-idx3-ubyte", label_column=0)
    assert names(decoded) == ["0", "1", "2", "3"]
    (tmp_path / "qmnist-train-images-idx3-ubyte").write_bytes(idx_bytes(counted(4, 5, 7))[:-1])
    with pytest.raises(DataError, match=r"ubyte: .*the file is damaged|more than the file can contain"):
        read(tmp_path / "qmnist-train-images-idx3-ubyte")


@pytest.mark.parametrize("layout", ["bin", "py", "bin-tar", "py-tar"])
def test_cifar_by_path(tmp_path: Path, layout: str) -> None:
    batches = cifar_batches(4)
    write_cifar(tmp_path / "c", batches, layout)
    images = np.concatenate([batches[name][0] for name in CIFAR_NAMES])
    labels = np.concatenate([batches[name][1] for name in CIFAR_NAMES])
    sources = [tmp_path / "c", *((tmp_path / "c").glob("*.tar.gz"))]
    assert len(sources) == (2 if layout.endswith("tar") else 1)
    for source in sources:
        decoded = read(source)
        assert np.array_equal(decoded.images, images)
        assert decoded.splits == {"train": slice(0, 20), "test": slice(20, 24)}
        assert decoded.classes[3] == "cat"
        assert decoded.labels is not None
        assert decoded.labels.tolist() == labels.tolist()


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy = pytest.importorskip("scipy.io")
    images, labels = counted(32, 32, 3, 5), np.array([[10], [1], [2], [10], [9]])
    scipy.savemat(tmp_path / "train_32x32.mat", {"X": images, "y": labels})
    decoded = read(tmp_path / "train_32x32.mat")
    assert np.array_equal(decoded.images, images.transpose(3, 2, 0, 1))
    assert names(decoded) == ["10", "1", "2", "10", "9"]
    assert decoded.classes == ("1", "2", "9", "10")
    scipy.savemat(tmp_path / "other.mat", {"A": images})
    with pytest.raises(DataError, match=r"needs X \[H, W, C, N\] .* it contains A"):
        read(tmp_path / "other.mat")
    put(tmp_path, {"bad.mat": b"no", "new.mat": b"MATLAB 7.3 MAT-file" + bytes(105) + b"\0\2IM" + bytes(400)})
    with pytest.raises(DataError, match=r"bad\.mat: not a readable \.mat file"):
        read(tmp_path / "bad.mat")
    with pytest.raises(DataError, match=r"version 7\.3; convert it once: f = h5py\.File"):
        read(tmp_path / "new.mat")
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DataError, match=r"needs SciPy \(pip install scipy\); or save .*transpose\(3, 0, 1, 2\)"):
        read(tmp_path / "train_32x32.mat")


def csv_text(images: np.ndarray, labels: list[int] | None, header: bool) -> str:
    rows = [
        ",".join(map(str, ([labels[i]] if labels else []) + image.reshape(-1).tolist()))
        for i, image in enumerate(images)
    ]
    columns = (["label"] if labels else []) + [f"pixel{i}" for i in range(images[0].size)]
    return "\n".join(([",".join(columns)] if header else []) + rows) + "\n"


@pytest.mark.parametrize("labels", [None, [10, 2, 10, 2]])
@pytest.mark.parametrize("header", [True, False])
def test_pixels_in_csv(tmp_path: Path, labels: list[int] | None, header: bool) -> None:
    images = counted(4, 6, 6)
    (tmp_path / "a.csv").write_text(csv_text(images, labels, header))
    decoded = read(tmp_path / "a.csv")
    assert np.array_equal(decoded.images[:, 0], images)
    assert decoded.classes == (("2", "10") if labels else ())
    if labels:
        assert names(decoded) == ["10", "2", "10", "2"]


def test_pixels_in_csv_of_another_shape(tmp_path: Path) -> None:
    images = counted(4, 4, 6)
    (tmp_path / "a.csv").write_text(csv_text(images, [0, 1, 0, 1], header=True))
    with pytest.raises(DataError, match=r"set --data.shape HEIGHTxWIDTH"):
        read(tmp_path / "a.csv")
    assert np.array_equal(read(tmp_path / "a.csv", Reading(shape=(4, 6))).images[:, 0], images)


def test_packed_pixels_with_splits(tmp_path: Path) -> None:
    lines = ["emotion,pixels,Usage"]
    for i, usage in enumerate(("Training", "PublicTest", "Training", "PrivateTest")):
        lines.append(f"{i % 2},{' '.join([str(i)] * 16)},{usage}")
    (tmp_path / "fer.csv").write_text("\n".join(lines))
    decoded = read(tmp_path / "fer.csv")
    assert decoded.splits == {"train": slice(0, 2), "val": slice(2, 3), "test": slice(3, 4)}
    assert decoded.images[:, 0, 3, 3].tolist() == [0, 2, 1, 3]
    assert names(decoded) == ["0", "0", "1", "1"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("label,p0,p1,p2,p3\n1,0,0,0,256\n", "a.csv, line 2: not 4 pixels of whole numbers from 0 to 255"),
        ("label,p0,p1,p2,p3\n1,0,0,0\n", "a.csv, line 2: not 4 pixels"),
        ("label,p0,p1,p2,p3\n1,0,0,0,x\n", "a.csv, line 2: not 4 pixels"),
        ("label,p0,p1,p2,p3\n1,0,0,0,0.5\n", "a.csv, line 2: not 4 pixels"),
        ("label,p0,p1,p2,p3\n", "no image found"),
        ("a,label\n1,2\n", "columns a, label are not pixels"),
        ("emotion,pixels,Usage\n1,1 2 3 4,Other\n", "line 2: unknown Usage 'Other'"),
    ],
)
def test_csv_that_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=match):
        read(tmp_path / "a.csv")


def test_a_csv_of_files(tmp_path: Path) -> None:
    put(tmp_path, {"p/a.png": flat(1), "p/b.png": flat(2)})
    (tmp_path / "list.csv").write_text("file_name,label\np/b.png,cat\np/a.png,dog\n")
    decoded = read(tmp_path / "list.csv")
    assert decoded.images[:, 0, 0, 0].tolist() == [2, 1]
    assert names(decoded) == ["cat", "dog"]


# ---------------------------------------------------------------- other files


def test_pages_of_a_tiff_are_a_source(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((6, 6), 10 * i, np.uint8)) for i in range(12)]
    put(tmp_path, {"stack.tif": encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])})
    assert read(tmp_path / "stack.tif").images[:, 0, 0, 0].tolist() == [10 * i for i in range(12)]
    data = load(DataConfig(source=str(tmp_path / "stack.tif")))
    assert min(data.counts().values()) >= 1
    put(tmp_path, {"one.tif": encoded(pages[0], "TIFF")})
    with pytest.raises(DataError, match=r"one.tif: a single image is not a data set"):
        read(tmp_path / "one.tif")


def test_a_tar_is_read_in_place(tmp_path: Path) -> None:
    def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))

    for mode, name in (("w", "set.tar"), ("w:gz", "packed.tar")):
        with tarfile.open(tmp_path / name, mode) as archive:
            for i, member in enumerate(["train_set/b/1.png", "../test_set/a/2.png", "train_set/a/3.png", "notes.md"]):
                add(archive, member, flat(i))
    decoded = read(tmp_path / "set.tar")
    assert decoded.images[:, 0, 0, 0].tolist() == [1, 2, 0]
    assert decoded.splits == {"train": slice(1, 3), "test": slice(0, 1)}
    assert names(decoded) == ["a", "a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed.tar", "set.tar"]
    with pytest.raises(DataError, match=r"packed.tar: not a readable tar file without compression .*; unpack it"):
        read(tmp_path / "packed.tar")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("a.h5", r"convert it once: f = h5py.File\(PATH\); numpy.savez"),
        ("a.pt", r"convert it once: x, y = torch.load"),
        ("a.tgz", "convert it once: tar -xf"),
    ],
)
def test_the_conversion_of_other_files_is_named(tmp_path: Path, name: str, match: str) -> None:
    put(tmp_path, {name: b"x"})
    with pytest.raises(DataError, match=rf"{name}: not read here; {match}"):
        read(tmp_path / name)


@pytest.mark.parametrize(("dtype", "largest", "said"), [("uint8", 1, True), ("bool", 1, False), ("uint8", 2, False)])
def test_bits_in_bytes_are_pointed_out(
    dtype: str, largest: int, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As 256 levels they are almost black; booleans are two levels."""
    values = np.random.default_rng(0).integers(0, largest + 1, (30, 4, 5)).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    found = load(DataConfig(source=str(tmp_path / "x.npy"), cache=str(tmp_path / "cache")))
    assert found.spec.levels == (2 if dtype == "bool" else 256)
    assert ("values are 0 and 1 of 256 levels, almost black" in caplog.text) == said
