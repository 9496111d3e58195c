"""Data sets of arrays and tensors in memory, and data that must be stated: equal images, names of named sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from image_files import flat, put
from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import DataConfig, Dataset, load, load_for
from pixelloom.data.memory import dataset_of

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 9, 3)).astype(np.uint8)
LABELS = np.arange(60) % 3


def together(data: Dataset) -> dict[bytes, int]:
    """Each image of all splits, and its label."""
    found = {}
    for name in ("train", "val", "test"):
        images, labels = data.split(name).all()
        found |= dict(
            zip((i.tobytes() for i in images), labels if labels is not None else [0] * len(images), strict=True)
        )
    return found


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES, LABELS),
        (torch.from_numpy(IMAGES), torch.from_numpy(LABELS)),
        (torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.eye(3)[LABELS]),
        (list(IMAGES), LABELS.tolist()),
        ([torch.from_numpy(image) for image in IMAGES], LABELS),
        ([Image.fromarray(image) for image in IMAGES], LABELS.astype(str)),
    ],
    ids=["arrays", "tensors", "channels first and one-hot", "lists", "list of tensors", "PIL images and texts"],
)
def test_images_and_labels_of_any_kind(given: tuple[Any, Any]) -> None:
    expected = {image.transpose(2, 0, 1).tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    for data in (dataset_of(given), dataset_of(given[0], given[1])):
        assert data.spec == ImageSpec(3, 8, 9, 256)
        assert data.classes == ("0", "1", "2")
        assert together(data) == expected
        assert min(data.counts().values()) >= 3


def test_names_of_classes_and_transforms() -> None:
    config = DataConfig(source="arrays", gray=True, size=4, levels=4, limit=10)
    data = dataset_of(IMAGES, LABELS, classes=["a", "b", "c"], config=config)
    assert data.classes == ("a", "b", "c")
    assert data.spec == ImageSpec(1, 4, 4, 4)
    assert len(data.train) == 10
    bits = dataset_of(torch.rand(20, 6, 6) < 0.5)
    assert bits.spec == ImageSpec(1, 6, 6, 2)
    assert set(np.unique(bits.train.all()[0])) == {0, 1}


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda x: x[::-1][::-1],
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: np.flip(np.flip(x, 2).copy(), 2),
        lambda x: x.transpose(0, 2, 1).copy().transpose(0, 2, 1),
        lambda x: x.astype(">u1"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_memory_layouts_of_arrays(view: Any, dtype: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256 if dtype is np.uint8 else 2, (30, 4, 6)).astype(dtype)
    given, expected = dataset_of(view(images)), dataset_of(images)
    for split in ("train", "val", "test"):
        assert np.array_equal(given.split(split).all()[0], expected.split(split).all()[0])
    found = np.concatenate([given.split(split).all()[0] for split in ("train", "val", "test")])
    assert sorted(map(bytes, found)) == sorted(map(bytes, images.astype(np.uint8)))


def test_floats_need_a_range() -> None:
    unit = torch.arange(256).reshape(4, 8, 8) / 255
    with pytest.raises(DataError, match=r"arrays: images is float32; .*set --range 0:1"):
        dataset_of(unit)
    data = dataset_of(unit.bfloat16().float(), config=DataConfig(source="x", range="0:1"))
    assert sum(data.counts().values()) == 4
    exact = dataset_of(unit, config=DataConfig(source="x", range="0:1"))
    assert together(exact).keys() == {image.to(torch.uint8).numpy().tobytes() for image in (unit * 255).round()}


def test_given_splits_are_kept() -> None:
    data = dataset_of({"train": (IMAGES[:40], LABELS[:40]), "test": (IMAGES[40:], LABELS[40:])})
    assert len(data.test) == 20
    assert len(data.train) + len(data.val) == 40
    assert np.array_equal(data.test.all()[0], IMAGES[40:].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: dataset_of(IMAGES, LABELS[:5]), DataError, r"arrays: labels is int64 \[5\]; save integers \[60\]"),
        (lambda: dataset_of((IMAGES, LABELS), LABELS[:]), UsageError, "labels are given twice"),
        (lambda: dataset_of({"training": IMAGES}), UsageError, "unknown split 'training'; choose train, val, test"),
        (lambda: dataset_of({"train": IMAGES}, LABELS), UsageError, "give labels with their split"),
        (lambda: dataset_of({}), DataError, "no images"),
        (
            lambda: dataset_of([IMAGES[0], IMAGES[1, :4]]),
            DataError,
            r"not an array of numbers \(list\); give",
        ),
        (lambda: dataset_of("folder"), DataError, r"not an array of numbers \(str\)"),
        (lambda: dataset_of(IMAGES[0]), DataError, r"may be one image \[H, W, C\]"),
        (lambda: dataset_of(IMAGES.reshape(60, -1)), DataError, "set --data.shape"),
    ],
)
def test_what_is_refused(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


# ---------------------------------------------------------------- what must be stated


def test_equal_images_are_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.default_rng(0).integers(65, 127, (30, 5, 5)).astype(np.uint8)
    np.save(tmp_path / "a.npy", images)
    assert "equal" not in load(DataConfig(source=str(tmp_path / "a.npy"), levels=8)).note
    assert not caplog.records
    data = load(DataConfig(source=str(tmp_path / "a.npy"), levels=4))
    assert data.note.endswith("all training images are equal at 4 levels")
    assert "all training images are equal at 4 levels" in caplog.text


def test_a_folder_beside_a_named_set_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    load(DataConfig(source="digits"))
    assert not caplog.records
    put(tmp_path / "digits", {f"{i}.png": flat(i) for i in range(5)})
    assert load(DataConfig(source="digits")).counts()["train"] == 1377
    assert "digits: the data set of this name is used, not the folder or file ./digits" in caplog.text
    assert sum(load(DataConfig(source="./digits")).counts().values()) == 5


def test_gray_images_get_three_channels_for_a_color_model(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (30, 5, 6)).astype(np.uint8)
    np.save(tmp_path / "a.npy", gray)
    config = DataConfig(source=str(tmp_path / "a.npy"), levels=4)
    colored, plain = load_for(ImageSpec(3, 5, 6, 4), config), load(config)
    for name in ("train", "val", "test"):
        assert np.array_equal(colored.split(name).all()[0], np.repeat(plain.split(name).all()[0], 3, 1))
    assert "converted from gray to RGB" in colored.note
    for spec, own in (
        (ImageSpec(3, 5, 5, 4), config),
        (ImageSpec(3, 5, 6, 2), DataConfig(source=config.source, binarize="static")),
    ):
        with pytest.raises(DataError, match="the model was trained on"):
            load_for(spec, own)


@pytest.mark.parametrize("kind", ["named", "array"])
def test_a_colored_border_makes_gray_images_colored(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (30, 8, 8)).astype(np.uint8))
    source = "digits" if kind == "named" else str(tmp_path / "a.npy")
    data = load(DataConfig(source=source, size="8x10", fit="pad", background="#ff0000"))
    images = data.train.all()[0]
    top = data.spec.levels - 1
    assert data.spec.shape == (3, 8, 10)
    assert (images[:, :, :, [0, 9]] == np.array([top, 0, 0])[:, None, None]).all()
    assert (images[:, 0, :, 1:9] == images[:, 1, :, 1:9]).all()


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("x" * 300, r"x{50}\.\.\.x{45}: cannot be read \(File name too long\)"),
        ("y" * 300 + "/a", "cannot be read"),
        ("~nosuchuser/x", "~nosuchuser/x: Could not determine home directory"),
        ("nosuch", r"'nosuch'\. Choose digits.* a folder of images \(\.png \.jpg .*\) or a file of \.zip"),
        ("./nosuch", r"no such file or folder; give a folder of images \(\.png"),
        ("nul\0", "no such file or folder|no data set or path"),
    ],
)
def test_paths_that_are_nothing(source: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        load(DataConfig(source=source))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"range": "5"}, "choose LOW:HIGH, such as 0:4095, or max"),
        ({"range": "0:4095", "bits": 8}, "bits=8 is range=0:65535; give one of bits and range"),
        ({"splits": "train=a,tests=b"}, "choose train=FOLDER,val=FOLDER,test=FOLDER"),
        ({"splits": "train=a,test=a"}, "choose train=FOLDER"),
        ({"splits": ""}, "choose train=FOLDER"),
        ({"shape": "28"}, "choose HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH, such as 28x28"),
        ({"shape": "0x28"}, "choose HEIGHTxWIDTH"),
        ({"class_level": 0}, "greater than or equal to 1"),
        ({"label_column": -1}, "greater than or equal to 0"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DataConfig(source="x", **fields)


def test_fields_as_options_of_reading() -> None:
    config = DataConfig(source="x", splits="train=a,train=b,test=c", shape="3x4x5", range="-1:1", transpose=True)
    assert config.labeling.splits == (("a", "train"), ("b", "train"), ("c", "test"))
    assert config.reading.shape == (3, 4, 5)
    assert str(config.reading.range) == "-1:1"
    assert config.reading.transpose
    assert DataConfig(splits="none").labeling.splits == ()
    assert DataConfig().labeling.splits is None
    assert DataConfig(**config.model_dump(mode="json")) == config
