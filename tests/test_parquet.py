"""Parquet files: images, labels, class names and splits by their values, or the error that says what to do."""

from __future__ import annotations

import builtins
import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

from image_files import encoded, flat, put  # noqa: E402
from parquet_files import features, hub_column, write  # noqa: E402
from pixelloom.core.errors import DataError  # noqa: E402
from pixelloom.data.catalog import DataConfig, load  # noqa: E402
from pixelloom.data.io.folders import DecodedImages, Reading, read_images  # noqa: E402
from pixelloom.data.io.layout import Labeling  # noqa: E402
from pixelloom.data.io.parquet_rows import shard_of  # noqa: E402
from pixelloom.data.io.value_range import ValueRange  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path_factory.mktemp("cache")))


def read(path: Path, reading: Reading | None = None, **labeling: Any) -> DecodedImages:
    return read_images(path, reading or Reading(), None, Labeling(**labeling))


def levels(decoded: DecodedImages) -> list[int]:
    """The upper left value of each image."""
    return decoded.images[:, 0, 0, 0].tolist()


def names(decoded: DecodedImages) -> list[str]:
    """The class name of each image, "" without one."""
    assert decoded.labels is not None
    return ["" if label < 0 else decoded.classes[label] for label in decoded.labels.tolist()]


# ---------------------------------------------------------------- encoded images


@pytest.mark.parametrize("kind", ["struct", "binary", "large_binary", "dictionary"])
def test_columns_of_encoded_images(tmp_path: Path, kind: str) -> None:
    contents = [flat(10 * i) for i in range(5)]
    column = {
        "struct": lambda: hub_column(contents),
        "binary": lambda: pa.array(contents, pa.binary()),
        "large_binary": lambda: pa.array(contents, pa.large_binary()),
        "dictionary": lambda: pa.array(contents, pa.binary()),
    }[kind]()
    path = write(
        tmp_path / "a.parquet", {"image": column, "id": pa.array(range(5))}, use_dictionary=kind == "dictionary"
    )
    decoded = read(path)
    assert levels(decoded) == [0, 10, 20, 30, 40]
    assert decoded.images.shape == (5, 1, 4, 4)
    assert decoded.labels is None
    assert decoded.splits is None


def test_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 6, 3)).astype(np.uint8)
    write(tmp_path / "a.parquet", {"img": hub_column([encoded(image) for image in images])}, row_group_size=3)
    assert np.array_equal(read(tmp_path / "a.parquet").images, images.transpose(0, 3, 1, 2))


def test_class_names_of_the_metadata(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        {"img": hub_column([flat(i) for i in range(5)]), "fine": pa.array([2, 0, None, -1, 1])},
        features(img=None, fine=["zebra", "ant", "cat"]),
    )
    decoded = read(path)
    assert decoded.classes == ("zebra", "ant", "cat")
    assert levels(decoded) == [0, 1, 4]
    assert names(decoded) == ["cat", "zebra", "ant"]
    assert "2 images without a label left out" in decoded.note
    assert read(path, labels="none").labels is None


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([10, 2, 10, 2], ["10", "2", "10", "2"]),
        (["b", "a", "b", "b"], ["b", "a", "b", "b"]),
        ([True, False, True, True], ["1", "0", "1", "1"]),
        ([1.0, 0.0, 3.0, 1.0], ["1", "0", "3", "1"]),
    ],
)
def test_labels_without_names(tmp_path: Path, labels: list[Any], expected: list[str]) -> None:
    columns = {"image": hub_column([flat(i) for i in range(4)]), "label": pa.array(labels)}
    decoded = read(write(tmp_path / "a.parquet", columns, {b"huggingface": b"{damaged"}))
    assert names(decoded) == expected


def test_one_of_several_columns_of_labels(tmp_path: Path) -> None:
    columns = {
        "img": hub_column([flat(i) for i in range(3)]),
        "fine_label": pa.array([0, 1, 2]),
        "coarse_label": pa.array([1, 0, 1]),
    }
    path = write(tmp_path / "a.parquet", columns)
    decoded = read(path)
    assert decoded.labels is None
    assert "columns fine_label, coarse_label; choose one by --label-column 0 to 1" in decoded.note
    assert names(read(path, label_column=0)) == ["0", "1", "2"]
    assert names(read(path, label_column=1)) == ["1", "0", "1"]
    many = write(tmp_path / "b.parquet", {"img": columns["img"], "labels": pa.array([[1, 0], [0, 1], [1, 1]])})
    assert "2 per image; choose one by --label-column 0 to 1" in read(many).note
    assert names(read(many, label_column=1)) == ["0", "1", "1"]


SPLITS: dict[str, dict[str, int]] = {
    "the hub's": {
        "data/train-00000-of-00002.parquet": 1,
        "data/train-00001-of-00002.parquet": 2,
        "data/test-00000-of-00001.parquet": 3,
        "data/validation-00000-of-00001.parquet": 4,
    },
    "with hashes": {
        "train-00000-of-00002-0f3ac12be9.parquet": 1,
        "train-00001-of-00002-1f3ac12be9.parquet": 2,
        "test-00000-of-00001-2f3ac12be9.parquet": 3,
        "val-00000-of-00001-3f3ac12be9.parquet": 4,
    },
    "converted": {
        "default/train/0000.parquet": 1,
        "default/train/0001.parquet": 2,
        "default/test/0000.parquet": 3,
        "default/validation/0000.parquet": 4,
    },
    "plain": {"train.parquet": 1, "train_0001.parquet": 2, "test.parquet": 3, "valid.parquet": 4},
}


@pytest.mark.parametrize("files", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("kind", ["files", "lists"])
def test_splits_by_names_of_files(tmp_path: Path, files: dict[str, int], kind: str) -> None:
    for name, value in files.items():
        column = hub_column([flat(value)] * 2) if kind == "files" else pa.array(np.full((2, 4, 4), value).tolist())
        write(tmp_path / name, {"image": column, "label": pa.array([value, 0])})
    decoded = read(tmp_path)
    assert decoded.splits is not None
    found = {split: levels(decoded)[rows] for split, rows in decoded.splits.items()}
    assert found == {"train": [1, 1, 2, 2], "test": [3, 3], "val": [4, 4]}
    assert {split: names(decoded)[rows] for split, rows in decoded.splits.items()} == {
        "train": ["1", "0", "2", "0"],
        "test": ["3", "0"],
        "val": ["4", "0"],
    }


def test_unclear_files_and_given_splits(tmp_path: Path) -> None:
    for value, name in enumerate(("train", "test", "extra")):
        write(tmp_path / f"{name}-00000-of-00001.parquet", {"image": hub_column([flat(value)] * 2)})
    with pytest.raises(DataError, match=r"images in extra/ are outside the split folders"):
        read(tmp_path)
    given = read(tmp_path, splits=(("extra", "train"), ("test", "test")))
    assert given.splits == {"train": slice(0, 2), "test": slice(2, 4)}
    assert levels(given) == [2, 2, 1, 1]
    assert "1 file outside of them left out" in given.note
    assert read(tmp_path, splits=()).splits is None
    assert sorted(levels(read(tmp_path, splits=()))) == [0, 0, 1, 1, 2, 2]


def test_one_file_of_several_is_split_by_content(tmp_path: Path) -> None:
    images = [encoded(np.full((4, 4), i)) for i in range(30)]
    path = write(tmp_path / "train-00001-of-00003.parquet", {"image": hub_column(images)})
    data = load(DataConfig(source=str(path)))
    assert sum(data.counts().values()) == 30
    assert min(data.counts().values()) >= 1
    assert "train has 1 of 3 files; give the folder with all" in data.note


def test_damaged_and_missing_images_are_named(tmp_path: Path) -> None:
    contents: list[bytes | None] = [flat(i) for i in range(300)]
    contents[7] = flat(7)[:40]
    path = write(tmp_path / "a.parquet", {"image": hub_column(contents)}, row_group_size=50)
    decoded = read(path)
    assert levels(decoded) == [i % 256 for i in range(300) if i != 7]
    assert "1 of 300 files skipped (a.parquet, row 7:" in decoded.note
    with pytest.raises(DataError, match=r"a\.parquet, row 7: .*; repair or remove it"):
        read(path, Reading(bad_images="error"))
    write(path, {"image": hub_column([flat(1), None, None, None])})
    with pytest.raises(DataError, match=r"a\.parquet, row 1: no bytes of an image"):
        read(path)


def test_gray_and_color_and_sizes(tmp_path: Path) -> None:
    """A second pass over the rows begins at the first again."""
    contents = [flat(9), flat(8), encoded(np.full((4, 4, 3), (1, 2, 3)))]
    write(tmp_path / "a.parquet", {"image": hub_column(contents)}, row_group_size=1)
    assert read(tmp_path / "a.parquet").images[:, :, 0, 0].tolist() == [[9, 9, 9], [8, 8, 8], [1, 2, 3]]
    write(tmp_path / "b.parquet", {"image": hub_column([flat(9), flat(8, 6, 6)])}, row_group_size=1)
    with pytest.raises(DataError, match=r"images of 2 sizes .*4x4 \(1\), 6x6 \(1\); set --size"):
        read(tmp_path / "b.parquet")


# ---------------------------------------------------------------- numbers


def test_lists_of_numbers(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 6, 3))
    for dtype, column in {
        "int64": pa.array(images.tolist()),
        "uint8": pa.array(images.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8())))),
        "fixed": pa.array(images.tolist(), pa.list_(pa.list_(pa.list_(pa.int32(), 3), 6), 5)),
    }.items():
        path = write(tmp_path / f"{dtype}.parquet", {"image": column, "label": pa.array([3] * 9)}, row_group_size=4)
        decoded = read(path)
        assert np.array_equal(decoded.images, images.transpose(0, 3, 1, 2)), dtype
        assert names(decoded) == ["3"] * 9


def test_flat_lists_and_columns_of_pixels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4))
    flat_list = write(tmp_path / "a.parquet", {"pixels": pa.array(images.reshape(6, 16).tolist())})
    with pytest.raises(DataError, match=r"set --data\.shape 4x4 if these are flat images"):
        read(flat_list)
    assert np.array_equal(read(flat_list, Reading(shape=(4, 4))).images[:, 0], images)
    columns = {f"pixel{i}": pa.array(images.reshape(6, 16)[:, i]) for i in range(16)}
    decoded = read(write(tmp_path / "b.parquet", {**columns, "class": pa.array(list("abcabc"))}))
    assert np.array_equal(decoded.images[:, 0], images)
    assert names(decoded) == list("abcabc")


def test_numbers_that_are_not_levels(tmp_path: Path) -> None:
    unit = np.linspace(0, 1, 64).reshape(4, 4, 4)
    path = write(tmp_path / "a.parquet", {"image": pa.array(unit.tolist())})
    with pytest.raises(DataError, match=r"images is float64; .* or set --range 0:1"):
        read(path)
    assert np.array_equal(read(path, Reading(range=ValueRange(0, 1))).images[:, 0], np.rint(unit * 255))
    twelve = np.arange(64).reshape(4, 4, 4) * 65
    path = write(tmp_path / "b.parquet", {"image": pa.array(twelve.tolist())})
    with pytest.raises(DataError, match="set --range 0:4095"):
        read(path)
    assert np.array_equal(read(path, Reading(range=ValueRange(0, 4095))).images[:, 0], twelve // 16)
    bits = twelve % 2 == 1
    decoded = read(write(tmp_path / "c.parquet", {"image": pa.array(bits.tolist())}))
    assert decoded.source_levels == 2
    assert np.array_equal(decoded.images[:, 0], bits)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([[[1, 2], [3, 4]], [[1, 2, 3], [4, 5, 6]]], "lists of several lengths or null: 2, 3"),
        ([[[1, 2], [3, None]]], "1 numbers are null"),
        ([[[1, 2], [3, 4]], None], "lists of several lengths or null: 2, None"),
    ],
)
def test_ragged_lists_are_an_error(tmp_path: Path, rows: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(write(tmp_path / "a.parquet", {"image": pa.array(rows)}))


# ---------------------------------------------------------------- errors and bounds


def test_columns_that_are_no_images(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": pa.array(["a", "b"]), "label": pa.array([1, 2])})
    with pytest.raises(DataError, match=r"no column of images: .*Columns: text \(string\), label \(int64\)"):
        read(path)
    images = hub_column([flat(1), flat(2)])
    path = write(tmp_path / "b.parquet", {"left": images, "right": images})
    with pytest.raises(DataError, match="several columns of images: left, right; choose one by --image-column"):
        read(path)
    assert levels(read(write(tmp_path / "c.parquet", {"mask": images, "image": hub_column([flat(3), flat(4)])}))) == [
        3,
        4,
    ]


def test_without_pyarrow_the_line_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": hub_column([flat(1)])})
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    for source in (path, tmp_path):
        with pytest.raises(
            DataError, match=r'pip install "pixelloom\[data\]"; or convert it once .*pandas\.read_parquet'
        ):
            read(source)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(50) + b"PAR1", b"<html>"])
def test_what_is_no_parquet_file(tmp_path: Path, data: bytes) -> None:
    put(tmp_path, {"a.parquet": data})
    with pytest.raises(DataError, match=r"a\.parquet: not a readable \.parquet file \("):
        read(tmp_path / "a.parquet")


def test_a_header_that_claims_more_rows_than_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"label": pa.array(np.zeros(1_000_000, np.int64))})
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"the header claims 1,000,000 rows, but the file has"):
        shard_of(path, path)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": hub_column([flat(1), flat(2)])})
    from pixelloom.data.io import parquet

    real = parquet.shard_of

    def changing(root: Path, file: Path) -> Any:
        found = real(root, file)
        write(path, {"image": hub_column([flat(3), flat(4), flat(5)])})
        return found

    monkeypatch.setattr(parquet, "shard_of", changing)
    with pytest.raises(DataError, match="modified while it was read"):
        read(path)


def test_a_folder_with_images_is_a_folder_of_images(tmp_path: Path) -> None:
    put(tmp_path, {"b.png": flat(2)})
    write(tmp_path / "a.parquet", {"image": hub_column([flat(1)])})
    decoded = read(tmp_path)
    assert levels(decoded) == [2]
    assert "other files ignored: 1 .parquet" in decoded.note


def test_memory_is_bounded_by_a_batch(tmp_path: Path) -> None:
    """20 MB of encoded images in one row group; pyarrow's own allocations are counted by its pool."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 180, 180, 3)).astype(np.uint8)
    path = write(
        tmp_path / "a.parquet",
        {"image": pa.array([encoded(image, "BMP") for image in noise], pa.binary())},
        row_group_size=1000,
        use_dictionary=False,
        compression="none",
        write_batch_size=10,  # rows of a page, the least that can be read at once
    )
    assert path.stat().st_size > 19e6
    before = pa.total_allocated_bytes()
    most = 0
    from pixelloom.data.io.parquet import parquet_listing

    listing = parquet_listing(path)
    tracemalloc.start()
    for i in range(200):
        with Image.open(io.BytesIO(listing.read(i))) as image:
            assert image.size == (180, 180)
        most = max(most, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10e6
    assert peak < 4e6
    assert pq.read_metadata(path).num_row_groups == 1
