"""Data sets of the Hugging Face hub: Parquet files by configuration and split, by the real client on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

hub_client = pytest.importorskip("huggingface_hub")
pa = pytest.importorskip("pyarrow")

from huggingface_hub import constants  # noqa: E402

import pixelloom as pl  # noqa: E402
from commands import Command, caller  # noqa: E402
from fake_hub import TOKEN, Hub, serving  # noqa: E402
from image_files import flat  # noqa: E402
from parquet_files import as_bytes, features, hub_column  # noqa: E402
from pixelloom.core.errors import DataError, UsageError  # noqa: E402
from pixelloom.data import hub_source  # noqa: E402
from pixelloom.data.catalog import load  # noqa: E402
from pixelloom.data.splits import Dataset  # noqa: E402

CONVERTED = "refs/convert/parquet"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "PIXELLOOM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found
    hub_source._provided.cache_clear()


@pytest.fixture
def run(hub: Hub, capsys: pytest.CaptureFixture[str]) -> Command:
    return caller(capsys)


def shard(*values: int, names: tuple[str, ...] = ("zebra", "ant"), **columns: pa.Array) -> bytes:
    """A Parquet file of flat images; the label of an image is its value modulo 2."""
    image = hub_column([flat(value) for value in values])
    table = {"image": image, "label": pa.array([value % 2 for value in values])} | columns
    return as_bytes(table, features(image=None, label=list(names)))


def values(data: Dataset, split: str) -> list[int]:
    return sorted(np.asarray(data.split(split).all()[0])[:, 0, 0, 0].tolist())


def every(data: Dataset) -> list[int]:
    return sorted(value for part in ("train", "val", "test") for value in values(data, part))


def again() -> None:
    """As a new process, which asks the hub again."""
    hub_source._provided.cache_clear()


def read(source: str, **options: object) -> Dataset:
    again()
    return load(pl.DataConfig(source=source, **options))  # type: ignore[arg-type]


MNIST = {"mnist/train-00000-of-00002.parquet": shard(0, 1, 2, 3), "mnist/train-00001-of-00002.parquet": shard(4, 5)}
MNIST |= {"mnist/test-00000-of-00001.parquet": shard(20, 21, 22), "loading.py": b"raise SystemExit"}
CARD = b"""---
license: mit
configs:
- config_name: mnist
  data_files:
  - split: train
    path: mnist/train-*
  - split: test
    path: mnist/test-*
  default: true
---
# MNIST
"""


def test_splits_and_classes_by_the_card(hub: Hub) -> None:
    repo = hub.repo("ylecun/mnist", MNIST | {"README.md": CARD}, "dataset")
    data = read("hf:ylecun/mnist")
    assert values(data, "test") == [20, 21, 22]
    assert sorted(values(data, "train") + values(data, "val")) == [0, 1, 2, 3, 4, 5]
    assert data.classes == ("zebra", "ant")
    images, labels = data.test.all()
    assert labels is not None
    assert (labels == np.asarray(images)[:, 0, 0, 0] % 2).all()
    assert repo.branches["main"][:16] in data.note
    assert sorted(set(hub.fetched())) == sorted(
        {name.rpartition("/")[2] for name in MNIST} - {"loading.py"} | {"README.md"}
    )


def test_configurations(hub: Hub) -> None:
    card = b"""---
configs:
- config_name: small
  data_dir: a
- config_name: large
  data_files: {train: ["b/x-*"], validation: b/**/y.parquet}
---
"""
    files = {"a/train.parquet": shard(1, 2, 3, 4), "b/x-0.parquet": shard(5, 6, 7, 8), "b/c/y.parquet": shard(9)}
    hub.repo("user/two", files | {"README.md": card}, "dataset")
    with pytest.raises(DataError, match=r"has 2 configurations; choose one, as in hf:user/two:small: small, large"):
        read("hf:user/two")
    with pytest.raises(DataError, match=r"no configuration 'huge'; choose small, large"):
        read("hf:user/two:huge")
    large = read("hf:user/two:large")
    assert values(large, "val") == [9]
    assert sorted(values(large, "train") + values(large, "test")) == [5, 6, 7, 8]
    assert every(read("hf:user/two:small")) == [
        1,
        2,
        3,
        4,
    ]


def test_files_without_a_card_are_split_by_their_names(hub: Hub) -> None:
    hub.repo("user/plain", {k: v for k, v in MNIST.items() if k.startswith("mnist")}, "dataset")
    assert values(read("hf:user/plain"), "test") == [20, 21, 22]


def test_the_copy_that_the_hub_converts(hub: Hub) -> None:
    repo = hub.repo("user/images", {"train/cat/1.png": flat(3), "test/2.png": flat(4)}, "dataset")
    with pytest.raises(DataError, match=r"no Parquet files, and the hub no converted copy.*download the images"):
        read("hf:user/images")
    converted = {"default/train/0000.parquet": shard(*range(8)), "default/test/0000.parquet": shard(30)}
    repo.branches[CONVERTED] = repo.commit(converted, "converted")
    assert values(read("hf:user/images"), "test") == [30]
    with pytest.raises(DataError, match=r"has no Parquet files; without @REVISION"):
        read("hf:user/images@main")


def test_other_splits(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    repo = hub.repo("user/svhn", {"a.png": flat(1)}, "dataset")
    names = ("train", "test", "extra")
    converted = {f"default/{name}/0000.parquet": shard(*range(10 * i, 10 * i + 6)) for i, name in enumerate(names)}
    repo.branches[CONVERTED] = repo.commit(converted, "converted")
    with caplog.at_level("WARNING", "pixelloom"):
        assert values(read("hf:user/svhn"), "test") == [10, 11, 12, 13, 14, 15]
    assert "split extra left out; choose by --splits" in caplog.text
    assert sum("extra" in path for path in hub.requests) == 0
    data = read("hf:user/svhn", splits="train=extra,test=test")
    assert set(values(data, "train")) <= set(range(20, 26))
    with pytest.raises(DataError, match=r"no split ekstra, which --splits names; it has .*extra"):
        read("hf:user/svhn", splits="train=ekstra")


def test_a_revision_and_offline_mode(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.repo("ylecun/mnist", MNIST | {"README.md": CARD}, "dataset")
    first = repo.branches["main"]
    read("hf:ylecun/mnist")
    repo.commit({"mnist/test-00000-of-00001.parquet": shard(40)})
    assert values(read(f"hf:ylecun/mnist@{first}"), "test") == [20, 21, 22]
    assert values(read("hf:ylecun/mnist"), "test") == [40]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert values(read("hf:ylecun/mnist"), "test") == [40]
    assert values(read(f"hf:ylecun/mnist@{first}"), "test") == [20, 21, 22]
    with pytest.raises(DataError, match=r"offline mode|no converted copy"):
        read("hf:user/other")
    assert hub.requests == []


def test_faults_of_data(hub: Hub, run: Command) -> None:
    said = run("inspect", "hf:user/none")
    assert (said.code, "no such repository, or it is private (HTTP 404)" in said.err) == (3, True), said.err
    said = run("inspect", "hf:none")
    assert (said.code, "USER/NAME" in said.err) == (2, True), said.err
    repo = hub.repo("ylecun/mnist", MNIST | {"README.md": CARD}, "dataset")
    hub.flip = True
    again()
    said = run("inspect", "hf:ylecun/mnist")
    assert (said.code, "other bytes than it has recorded" in said.err) == (3, True), said.err
    hub.flip = False
    again()
    assert run("inspect", "hf:ylecun/mnist").code == 0
    repo.gated = True
    again()
    said = run("inspect", "hf:ylecun/mnist")
    assert (said.code, f"accept its terms at {hub.url}/datasets/ylecun/mnist" in said.err) == (3, True), said.err


def test_columns_that_are_ambiguous(hub: Hub) -> None:
    sides = {"left": hub_column([flat(v) for v in range(6)]), "right": hub_column([flat(10 * v) for v in range(6)])}
    labels = {"fine_label": pa.array([0, 1, 2] * 2), "coarse_label": pa.array([1, 0, 1] * 2)}
    hub.repo("user/pairs", {"train.parquet": as_bytes(sides | labels)}, "dataset")
    with pytest.raises(DataError, match=r"several columns of images: left, right; choose one by --image-column"):
        read("hf:user/pairs")
    with pytest.raises(DataError, match=r"--image-column middle: no such column; choose of left, right"):
        read("hf:user/pairs", image_column="middle")
    for name, factor in (("left", 1), ("right", 10)):
        data = read("hf:user/pairs", image_column=name)
        assert every(data) == [factor * v for v in range(6)]
        assert "columns fine_label, coarse_label; choose one by --label-column 0 to 1" in data.note
    assert read("hf:user/pairs", image_column="left", label_column=1).classes == ("0", "1")


def test_a_run_trains_on_a_data_set_of_the_hub(hub: Hub, run: Command) -> None:
    hub.repo("user/many", {"train.parquet": shard(*range(40)), "test.parquet": shard(*range(50, 60))}, "dataset")
    from small_models import TINY

    model = pl.train("pixelcnn", data="hf:user/many", images=64, overrides=TINY | {"samples": 0, "train.batch": 16})
    record = model.description.training
    assert (record.path, record.counts["test"]) == ("", 10)
    assert record.data is not None
    assert record.data.source == "hf:user/many"
    assert [path.name for path in Path("runs").iterdir()] == ["pixelcnn-many"]
    assert pl.evaluate(model).n == 10


def test_folders_of_splits_without_labels_are_no_classes(tmp_path: Path) -> None:
    """The loader `imagefolder` of the library `datasets` makes the classes 'test' and 'train' of these."""
    for k in range(20):
        for split in ("train", "test"):
            path = tmp_path / split / f"{k}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(flat(k if split == "train" else 100 + k))
    data = load(pl.DataConfig(source=str(tmp_path)))
    assert data.classes == ()
    assert data.test.labels is None
    assert values(data, "test") == list(range(100, 120))


def test_names_that_are_no_data_sets() -> None:
    with pytest.raises(UsageError, match="USER/NAME, :CONFIG and @REVISION optional"):
        load(pl.DataConfig(source="hf:mnist"))
