"""Splits and classes of folders by their names, as published data sets have them; labels in tables beside images."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from image_files import flat, put, zipped
from pixelloom.core.errors import DataError
from pixelloom.data.io.folders import DecodedImages, Reading, read_images
from pixelloom.data.io.layout import Labeling
from pixelloom.data.io.split_names import named_split, natural_order, split_of

READ = Reading()


def read(
    path: Path, names: list[str], labeling: Labeling | None = None, tables: dict[str, str] | None = None
) -> DecodedImages:
    """Images whose gray levels are their positions in ``names``."""
    contents = {name: flat(i) for i, name in enumerate(names)}
    source = put(path, contents | {name: text.encode() for name, text in (tables or {}).items()})
    return read_images(source, READ, None, labeling or Labeling())


def members(decoded: DecodedImages) -> dict[str, set[int]]:
    """The positions of the images of each split."""
    values = decoded.images[:, 0, 0, 0]
    return {name: set(values[rows].tolist()) for name, rows in (decoded.splits or {}).items()}


def labels(decoded: DecodedImages) -> dict[int, str]:
    """The class name of each image."""
    assert decoded.labels is not None
    values = decoded.images[:, 0, 0, 0].tolist()
    return {value: decoded.classes[label] for value, label in zip(values, decoded.labels.tolist(), strict=True)}


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train training Training_Set trainset X_train seg_train train2017 train-images TrainData images_train trn",
        ),
        ("val", "val valid validation dev eval val2017 Validation_Set valset x_val validset dev-set evaluation"),
        ("test", "test testing test_set testset X_test seg_test test2015 TestImages tst test_data images.test"),
    ],
)
def test_common_names_of_splits(split: str, names: str) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


@pytest.mark.parametrize(
    "name", ["trains", "tester", "contest", "valley", "develop", "2017", "", "train_test", "crash_test_dummy", "images"]
)
def test_names_that_are_no_split(name: str) -> None:
    assert named_split(name) is None


def test_other_words_beside_the_split_are_its_stem() -> None:
    assert named_split("asl_alphabet_train") == ("train", ("asl", "alphabet"))
    assert named_split("testA") == ("test", ("a",))
    assert split_of("cats_test") is None


PUBLISHED = {
    "kaggle": ("training_set", "test_set"),
    "seg": ("seg_train/seg_train", "seg_test/seg_test"),
    "coco": ("train2017", "val2017", "test2017"),
    "asl": ("asl_alphabet_train/asl_alphabet_train", "asl_alphabet_test/asl_alphabet_test"),
    "wrapped": ("data/X_train/images", "data/X_dev/images"),
    "roboflow": ("train/images", "valid/images", "test/images"),
}
TAKEN = {
    "kaggle": "split folders: training_set as train, test_set as test",
    "seg": "split folders: seg_train as train, seg_test as test",
    "coco": "split folders: train2017 as train, val2017 as val, test2017 as test",
    "asl": "split folders: asl_alphabet_train as train, asl_alphabet_test as test",
    "wrapped": "split folders: X_train as train, X_dev as val",
    "roboflow": "",
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(("name", "folders"), PUBLISHED.items(), ids=PUBLISHED)
def test_published_layouts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, folders: tuple[str, ...], kind: str
) -> None:
    contents = {
        f"{folder}/{animal}/1.png": flat(10 * i + j)
        for i, folder in enumerate(folders)
        for j, animal in enumerate(("cats", "dogs"))
    }
    source = put(tmp_path / "set", contents) if kind == "folder" else zipped(tmp_path / "set.zip", contents)
    decoded = read_images(source, READ)
    parts = [
        "val" if re.search("val|dev", folder) else ("train", "", "test")[2 * ("test" in folder)] for folder in folders
    ]
    assert members(decoded) == {part: {10 * i, 10 * i + 1} for i, part in enumerate(parts)}
    assert decoded.classes == ("cats", "dogs")
    assert decoded.labels is not None
    assert (decoded.labels == decoded.images[:, 0, 0, 0] % 10).all()
    assert decoded.note == TAKEN[name]
    assert TAKEN[name] in caplog.text


def test_splits_within_class_folders(tmp_path: Path) -> None:
    names = ["cats/test/a.png", "cats/train/a.png", "dogs/test/a.png", "dogs/train/a.png", "dogs/train/b.png"]
    decoded = read(tmp_path, names)
    assert members(decoded) == {"train": {1, 3, 4}, "test": {0, 2}}
    assert labels(decoded) == {0: "cats", 1: "cats", 2: "dogs", 3: "dogs", 4: "dogs"}
    assert decoded.note == "split folders within the class folders"
    deep = read(tmp_path / "deep", ["w/a/x/train_set/1.png", "w/b/y/val_set/1.png", "w/b/y/train_set/1.png"])
    assert members(deep) == {"train": {0, 2}, "val": {1}}
    assert labels(deep) == {0: "a", 1: "b", 2: "b"}
    assert deep.note == "split folders: train_set as train, val_set as val"


UNCLEAR = {
    "two of one split": (["train1/1.png", "train2/1.png"], "two folders name the same split: train1, train2; keep one"),
    "other stems": (["cats_train/1.png", "dogs_test/1.png"], "cats_train, dogs_test look like split folders"),
    "cyclegan": (["trainA/1.png", "trainB/1.png", "testA/1.png"], "testA, trainA, trainB look like split folders"),
    "a test folder beside classes": (["cats/1.png", "dogs/1.png", "test/1.png"], r"in cats/ are outside .* \(test\)"),
    "a test folder of the same stem": (["birds/1.png", "birds_test/1.png"], "birds_test look like split folders"),
    "images beside their test": (["images/1.png", "images_test/1.png"], r"in images/ are outside"),
    "some classes have splits": (
        ["a/train/1.png", "a/test/1.png", "b/1.png"],
        "test, train look like split folders, but images in b/ are outside of them",
    ),
    "ground truth": (
        ["a/train/good/1.png", "a/test/bad/1.png", "a/ground_truth/bad/1.png"],
        r"in ground_truth/ are outside the split folders \(test, train\)",
    ),
    "unlabeled": (["train2017/1.png", "unlabeled2017/1.png", "val2017/1.png"], "images in unlabeled2017/ are outside"),
}


@pytest.mark.parametrize(("names", "match"), UNCLEAR.values(), ids=UNCLEAR)
def test_unclear_splits_are_an_error_that_names_them(tmp_path: Path, names: list[str], match: str) -> None:
    with pytest.raises(DataError, match=match + r"(.|\n)*--splits train=FOLDER,test=FOLDER, or --splits none"):
        read(tmp_path, names)


CLASSES = {
    "train among classes": ["bus/1.png", "train/1.png"],
    "stations": ["bus_station/1.png", "train_station/1.png", "train_interior/1.png"],
    "a tube": ["bottle/1.png", "test_tube/1.png"],
}


@pytest.mark.parametrize("names", CLASSES.values(), ids=CLASSES)
def test_classes_whose_names_begin_like_splits(tmp_path: Path, names: list[str]) -> None:
    decoded = read(tmp_path, names)
    assert decoded.splits is None
    assert decoded.classes == tuple(sorted(name.split("/")[0] for name in names))


def test_splits_can_be_given(tmp_path: Path) -> None:
    names = ["s/2019/a/1.png", "s/2020/a/1.png", "s/2020/b/1.png", "s/2021/b/1.png"]
    given = Labeling(splits=(("2019", "test"), ("2020", "train")))
    decoded = read(tmp_path, names, given)
    assert members(decoded) == {"train": {1, 2}, "test": {0}}
    assert labels(decoded) == {0: "a", 1: "a", 2: "b"}
    assert decoded.note == "split folders: 2020 as train, 2019 as test; 1 image outside of them left out"
    with pytest.raises(DataError, match="no image is in a folder 2022, which --splits names"):
        read(tmp_path, names, Labeling(splits=(("2022", "train"),)))
    merged = read(
        tmp_path / "merged",
        ["train1/1.png", "train2/1.png", "test/1.png"],
        Labeling(splits=(("train1", "train"), ("train2", "train"), ("test", "test"))),
    )
    assert members(merged) == {"train": {0, 1}, "test": {2}}
    none = read(tmp_path / "none", ["train/1.png", "test/1.png"], Labeling(splits=()))
    assert (none.splits, none.classes) == (None, ("test", "train"))


# ---------------------------------------------------------------- classes


def test_numbers_are_sorted_as_numbers_and_names_are_kept(tmp_path: Path) -> None:
    decoded = read(tmp_path, [f"{c}/1.png" for c in range(1, 13)])
    assert decoded.classes == tuple(str(c) for c in range(1, 13))
    assert labels(decoded) == {c - 1: str(c) for c in range(1, 13)}
    assert natural_order(["10", "-1", "2", "02"]) == ["-1", "02", "2", "10"]
    assert natural_order(["b10", "b9", "a", "B1", "b9x"]) == ["B1", "a", "b9", "b9x", "b10"]


def test_the_level_of_the_class_can_be_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["set/bird/owl/1.png", "set/bird/jay/1.png", "set/cat/lion/1.png", "set/loose.png"]
    assert read(tmp_path, names).classes == ()
    assert "classes ignored, because some images are outside the class folders" in caplog.text
    kinds = read(tmp_path, names, Labeling(class_level=1))
    assert labels(kinds) == {0: "bird", 1: "bird", 2: "cat"}
    assert kinds.note == "1 image without a folder at level 1 left out"
    assert labels(read(tmp_path, names, Labeling(class_level=2))) == {0: "owl", 1: "jay", 2: "lion"}
    with pytest.raises(DataError, match="--class-level 3, but there are 2 levels of folders"):
        read(tmp_path, names, Labeling(class_level=3))


def test_the_warning_is_short_and_the_note_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{i}.png" for i in range(200)]
    put(tmp_path, {f"{'long name ' * 9}{i}.png": b"" for i in range(2)} | {f"{i}.{'x' * 60}": b"" for i in range(12)})
    with caplog.at_level(logging.INFO, "pixelloom"):
        note = read(tmp_path, names).note
    (warning,) = [record for record in caplog.records if record.name == "pixelloom"]
    assert warning.getMessage().endswith(f"{note[250:300]}... (in full with -v, and in the model card)")
    assert f"other files ignored: 12 .{'x' * 60}" in note
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "pixelloom"):
        read(tmp_path, names)
    *details, last = [record.getMessage() for record in caplog.records if record.name == "pixelloom"]
    assert last.endswith(note)
    assert [line.rpartition("skipped: ")[2] for line in details if "skipped" in line] == [
        f"{'long name ' * 9}{i}.png: 0 bytes" for i in range(2)
    ]
    assert [line.rpartition("ignored: ")[2] for line in details if "ignored" in line] == [
        f"{i}.{'x' * 60}" for i in range(12)
    ]


# ---------------------------------------------------------------- labels in tables

NAMES = ["00000/a.png", "00000/b.png", "00001/c.png"]
TABLES: dict[str, tuple[dict[str, str], dict[int, str]]] = {
    "stylegan": (
        {"dataset.json": json.dumps({"labels": [["00000/a.png", 10], ["00000/b.png", 2], ["00001/c.png", 10]]})},
        {0: "10", 1: "2", 2: "10"},
    ),
    "json object": (
        {"dataset.json": json.dumps({"00000/a.png": "x", "00000/b.png": "y", "00001/c.png": "x"})},
        {0: "x", 1: "y", 2: "x"},
    ),
    "one-hot": (
        {"dataset.json": json.dumps({"labels": [["a.png", [0, 1]], ["b.png", [1, 0]], ["c.png", [0, 1]]]})},
        {0: "1", 1: "0", 2: "1"},
    ),
    "imagefolder": (
        {"metadata.csv": 'file_name,text,label\n00000/a.png,"a, b",cat\n00000/b.png,,dog\n00001/c.png,,cat\n'},
        {0: "cat", 1: "dog", 2: "cat"},
    ),
    "jsonl": (
        {"metadata.jsonl": "".join(json.dumps({"file_name": n, "label": n[6]}) + "\n" for n in NAMES)},
        {0: "a", 1: "b", 2: "c"},
    ),
    "in subfolders": (
        {
            "00000/metadata.csv": "file_name,label\na.png,1\nb.png,2\n",
            "00001/metadata.csv": "file_name,label\nc.png,1\n",
        },
        {0: "1", 1: "2", 2: "1"},
    ),
    "without a header": ({"labels.csv": "a.png,3\nb.png,4\nc.png,3\n"}, {0: "3", 1: "4", 2: "3"}),
    "some without": ({"labels.csv": "image,class\na.png,3\nb.png,-1\nc.png,4\n"}, {0: "3", 2: "4"}),
}


@pytest.mark.parametrize(("tables", "expected"), TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_labels_in_tables(tmp_path: Path, kind: str, tables: dict[str, str], expected: dict[int, str]) -> None:
    contents = {name: flat(i) for i, name in enumerate(NAMES)} | {n: t.encode() for n, t in tables.items()}
    source = put(tmp_path / "set", contents) if kind == "folder" else zipped(tmp_path / "set.zip", contents)
    decoded = read_images(source, READ)
    assert labels(decoded) == expected
    assert decoded.classes == tuple(natural_order(set(expected.values())))
    assert f"labels from {', '.join(sorted(tables))}" in decoded.note
    assert ("1 image without a label left out" in decoded.note) == (len(expected) < 3)
    plain = read_images(source, READ, None, Labeling(labels="none"))
    assert (plain.classes, len(plain.images)) == ((), 3)


def test_a_table_of_other_things_is_ignored_and_said(tmp_path: Path) -> None:
    decoded = read(tmp_path, NAMES, tables={"metadata.csv": "file_name,text\n00000/a.png,hello\n"})
    assert decoded.classes == ("00000", "00001")
    reason = "no column of labels; name it label. Columns: file_name, text"
    assert f"ignored: metadata.csv: not a table of labels ({reason})" in decoded.note
    unlabeled = read(tmp_path / "none", NAMES, tables={"dataset.json": '{"labels": null}'})
    assert unlabeled.classes == ("00000", "00001")
    with pytest.raises(DataError, match=r"metadata.csv has no label of these images; it names z.png, the images are 0"):
        read(tmp_path / "other", NAMES, tables={"metadata.csv": "file_name,label\nz.png,1\n"})


def test_labels_of_a_given_file(tmp_path: Path) -> None:
    table = tmp_path / "mine.txt"
    table.write_text("# name label\na.png night\nb.png day\nc.png day\n")
    assert labels(read(tmp_path / "set", NAMES, Labeling(labels=str(table)))) == {0: "night", 1: "day", 2: "day"}
    with pytest.raises(DataError, match="labels cannot be read"):
        read(tmp_path / "set", NAMES, Labeling(labels=str(tmp_path / "nosuch.csv")))
    table = tmp_path / "many.json"
    table.write_text(json.dumps([["a.png", [1, 1, 0]], ["b.png", [0, 0, 0]], ["c.png", [1, 1, 1]]]))
    with pytest.raises(DataError, match="3 labels per image; choose one by --label-column"):
        read(tmp_path / "set", NAMES, Labeling(labels=str(table)))
    chosen = read(tmp_path / "set", NAMES, Labeling(labels=str(table), label_column=2))
    assert labels(chosen) == {0: "0", 1: "0", 2: "1"}


@pytest.mark.parametrize("separator", [" ", "\t", ", "])
def test_lines_of_path_and_label(tmp_path: Path, separator: str) -> None:
    put(tmp_path, {"a b.png": flat(1), "c.png": flat(2), "d e 5": flat(3)})
    lines = [f"c.png{separator}10", f"a b.png{separator}9", "d e 5", f"c.png{separator}-1"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    decoded = read_images(tmp_path / "list.txt", READ)
    assert decoded.classes == ("9", "10")
    assert decoded.labels is not None
    assert [decoded.images[:, 0, 0, 0].tolist(), decoded.labels.tolist()] == [[2, 1], [1, 0]]
    assert decoded.note == "labels from list.txt; 2 images without a label left out"
