"""The cache of decoded images: atomic entries, reuse, a new entry for changed files, bounded memory."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelloom.core.errors import DataError
from pixelloom.data.io import cache, folders, stacks
from pixelloom.data.io.cache import cache_folder, find, store
from pixelloom.data.io.decode import Reading
from pixelloom.data.io.folders import read_images

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data set counts as large, and a block has one image."""
    monkeypatch.setattr(cache, "IN_MEMORY", 1)
    monkeypatch.setattr(stacks, "IN_MEMORY", 1)
    monkeypatch.setattr(folders, "BLOCK", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six gray 4x4 images of two classes; the value of image i is i + 1."""
    for i in range(6):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), i + 1).save(path)
    return tmp_path / "set"


def blocks(*values: int) -> Iterator[np.ndarray]:
    for value in values:
        yield np.full((2, 1, 3, 3), value, np.uint8)


def summary() -> tuple[np.ndarray, str]:
    return np.arange(4), "a note"


def listing_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if an image is decoded from here on."""

    def decode(*_: Any) -> None:
        pytest.fail("an image was decoded again")

    monkeypatch.setattr(folders, "decode", decode)


def test_small_sets_stay_in_memory(tmp_path: Path, folder: Path) -> None:
    images = read_images(folder, Reading(), tmp_path / "cache").images
    assert not isinstance(images, np.memmap)
    assert images.flags.writeable
    assert listing_of(tmp_path / "cache") == []


@pytest.mark.usefixtures("tiny")
def test_large_sets_are_decoded_once_and_mapped(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "b" / "6.png").write_bytes(b"")
    first = read_images(folder, Reading(), tmp_path / "cache")
    assert len(listing_of(tmp_path / "cache")) == 4  # the entry with its three files; no lock, nothing temporary
    forbid(monkeypatch)
    caplog.clear()
    again = read_images(folder, Reading(), tmp_path / "cache")
    for found in (first, again):
        assert isinstance(found.images, np.memmap)
        assert not found.images.flags.writeable
        assert found.images.dtype == np.uint8
        assert (found.images == np.array([1, 3, 5, 2, 4, 6]).reshape(6, 1, 1, 1)).all()
        assert found.images.shape == (6, 1, 4, 4)
        assert found.labels is not None
        assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert "1 of 7 files skipped (b/6.png: 0 bytes)" in found.note
    assert "b/6.png" in caplog.text  # what was skipped is said each time, not only when it was found out


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "change",
    [
        lambda root: Image.new("L", (4, 4), 99).save(root / "a" / "0.png"),
        lambda root: os.utime(root / "a" / "0.png", ns=(5, 5)),
        lambda root: (root / "a" / "0.png").unlink(),
        lambda root: (root / "a" / "0.png").rename(root / "a" / "9.png"),
        lambda root: Image.new("L", (4, 4), 99).save(root / "a" / "new.png"),
    ],
    ids=["rewritten", "touched", "deleted", "renamed", "added"],
)
def test_any_change_of_a_file_is_another_key(tmp_path: Path, folder: Path, change: Any) -> None:
    read_images(folder, Reading(), tmp_path / "cache")
    change(folder)
    read_images(folder, Reading(), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.usefixtures("tiny")
def test_each_reading_has_its_key(tmp_path: Path, folder: Path) -> None:
    readings = [Reading(), Reading(size=(2, 2)), Reading(size=(2, 2), fit="pad"), Reading(background="red")]
    readings += [Reading(bits=8), Reading(frames="all"), Reading(bad_images="error"), Reading(gray=True)]
    for reading in readings:
        read_images(folder, reading, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == len(readings)


@pytest.mark.usefixtures("tiny")
def test_color_after_gray_leaves_one_right_entry(tmp_path: Path, folder: Path) -> None:
    Image.new("RGB", (4, 4), (7, 8, 9)).save(folder / "b" / "9.png")
    found = read_images(folder, Reading(), tmp_path / "cache")
    assert found.images[:, :, 0, 0].tolist() == [[v] * 3 for v in (1, 3, 5, 2, 4, 6)] + [[7, 8, 9]]
    assert len(listing_of(tmp_path / "cache")) == 4


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_arrays_go_through_the_cache_where_they_must_be_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    array = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
    path = tmp_path / f"a{suffix}"
    np.savez_compressed(path, images=array) if suffix == ".npz" else np.save(path, array)
    images = read_images(path, Reading(), tmp_path / "cache").images
    assert isinstance(images, np.memmap)
    assert np.array_equal(images[:, 0], array)
    assert bool(listing_of(tmp_path / "cache")) == (suffix == ".npz")
    monkeypatch.setattr(stacks, "read_blocks", lambda *_: pytest.fail("the array was read again"))
    assert np.array_equal(read_images(path, Reading(), tmp_path / "cache").images[:, 0], array)


@pytest.mark.parametrize(
    ("chosen", "environment", "expected"),
    [("/x/y", "/env", "/x/y"), (None, "/env", "/env"), (None, "", "~/.cache/pixelloom"), ("~/z", "", "~/z")],
)
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, chosen: str | None, environment: str, expected: str) -> None:
    monkeypatch.setenv("PIXELLOOM_CACHE", environment)
    assert cache_folder(Path(chosen) if chosen else None) == Path(expected).expanduser()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("damage", ["truncated", "no note", "no index", "not an array"])
def test_a_damaged_entry_is_made_again(
    tmp_path: Path, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = np.array(read_images(folder, Reading(), tmp_path / "cache").images)
    (entry,) = (tmp_path / "cache").iterdir()
    if damage == "truncated":
        os.truncate(entry / "images.npy", 150)
    elif damage == "not an array":
        (entry / "images.npy").write_bytes(b"<html>")
    else:
        (entry / ("note.json" if damage == "no note" else "index.npy")).unlink()
    assert np.array_equal(read_images(folder, Reading(), tmp_path / "cache").images, expected)
    assert "is damaged" in caplog.text
    assert find(tmp_path / "cache", entry.name) is not None


# ---------------------------------------------------------------- writing: whole or not at all


@pytest.mark.usefixtures("tiny")
def test_keep_holds_all_blocks_in_order(tmp_path: Path) -> None:
    kept = store(blocks(1, 2), summary, tmp_path, "key", 4)
    assert kept.images[:, 0, 0, 0].tolist() == [1, 1, 2, 2]
    assert (kept.index.tolist(), kept.note) == ([0, 1, 2, 3], "a note")
    assert listing_of(tmp_path) == ["key", "key/images.npy", "key/index.npy", "key/note.json"]
    assert np.array_equal(np.load(tmp_path / "key" / "images.npy"), kept.images)


@pytest.mark.usefixtures("tiny")
def test_an_error_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield from blocks(1, 2)
        raise DataError("halfway")

    with pytest.raises(DataError, match="halfway"):
        store(failing(), summary, tmp_path, "key", 4)
    assert listing_of(tmp_path) == []


@pytest.mark.usefixtures("tiny")
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"decoded images need 9,000,000,000,000,000 bytes, but .* are free; .*--size"):
        store(blocks(1, 2), summary, tmp_path, "key", 10**15)

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "flush", full)
    with pytest.raises(DataError, match=r"the disk is full.*PIXELLOOM_CACHE") as caught:
        store(blocks(1, 2), summary, tmp_path, "key", 4)
    assert str(tmp_path) in str(caught.value)
    assert listing_of(tmp_path) == []


@pytest.mark.usefixtures("tiny")
def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"decoded images cannot be stored here \(.*PIXELLOOM_CACHE"):
        read_images(folder, Reading(), tmp_path / "file" / "cache")


def test_a_cache_folder_that_may_not_be_searched(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def refusing(path: Path, **options: Any) -> Any:
        if "locked" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", refusing)
    assert len(read_images(folder, Reading(), tmp_path / "locked").images) == 6
    monkeypatch.setattr(cache, "IN_MEMORY", 1)
    monkeypatch.setattr(Path, "mkdir", lambda path, **_: path.stat())
    with pytest.raises(DataError, match=r"decoded images cannot be stored here \(Permission denied\)"):
        read_images(folder, Reading(), tmp_path / "locked")


def test_a_killed_writer_leaves_no_entry_and_its_remains_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys, signal, numpy as np; from pathlib import Path; from pixelloom.data.io import cache\n"
        "cache.IN_MEMORY = 1\n"
        "def blocks():\n"
        "    yield np.zeros((2, 1, 3, 3), np.uint8); yield np.zeros((2, 1, 3, 3), np.uint8)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.store(blocks(), lambda: (np.arange(4), ''), Path(sys.argv[1]), 'key', 4)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert any(name.endswith(".tmp") for name in listing_of(tmp_path))
    assert find(tmp_path, "key") is None
    monkeypatch.setattr(cache, "IN_MEMORY", 1)
    assert store(blocks(1, 2), summary, tmp_path, "key", 4).images[:, 0, 0, 0].tolist() == [1, 1, 2, 2]
    assert listing_of(tmp_path) == ["key", "key/images.npy", "key/index.npy", "key/note.json"]


@pytest.mark.usefixtures("tiny")
def test_the_second_writer_waits_and_takes_the_first_one_s_entry(tmp_path: Path) -> None:
    results: list[cache.CachedImages] = []

    def wasted() -> Iterator[np.ndarray]:
        yield from blocks(7)
        raise AssertionError("the second writer went on decoding")

    second = threading.Thread(target=lambda: results.append(store(wasted(), summary, tmp_path, "key", 4)))
    with cache._writer_lock(tmp_path, "key"):
        second.start()
        time.sleep(0.2)
        assert second.is_alive()
        cache._write(list(blocks(1, 2)), iter(()), summary, tmp_path, "key")
    second.join()
    assert results[0].images[:, 0, 0, 0].tolist() == [1, 1, 2, 2]


@pytest.mark.usefixtures("tiny")
def test_where_files_cannot_be_locked_the_first_rename_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)

    def late() -> Iterator[np.ndarray]:
        yield from blocks(7)
        store(blocks(1, 2), summary, tmp_path, "key", 4)  # another writer, done while this one is at work
        yield from blocks(7)

    assert store(late(), summary, tmp_path, "key", 4).images[:, 0, 0, 0].tolist() == [1, 1, 2, 2]
    assert listing_of(tmp_path) == ["key", "key/images.npy", "key/index.npy", "key/note.json"]


def test_a_large_folder_is_decoded_in_the_memory_of_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peaks of what numpy holds, and the same where nothing goes to the disk, which has all images at once."""
    folder, mib = tmp_path / "set" / "a", 1 << 20
    folder.mkdir(parents=True)
    for i in range(40):
        Image.new("RGB", (1024, 1024), (i, 0, 255)).save(folder / f"{i:02}.png", compress_level=1)

    def peak(cached: Path) -> float:
        tracemalloc.start()
        images = read_images(folder.parent, Reading(), cached).images
        most = tracemalloc.get_traced_memory()[1] / mib
        tracemalloc.stop()
        assert images.shape == (40, 3, 1024, 1024)
        assert images[:, :, 5, 7].tolist() == [[i, 0, 255] for i in range(40)]
        return most

    assert cache.IN_MEMORY / mib == 64
    assert peak(tmp_path / "cache") < 64 + 20
    monkeypatch.setattr(cache, "IN_MEMORY", 1 << 40)
    assert peak(tmp_path / "other") > 120


@pytest.mark.slow
def test_memory_stays_bounded_while_a_large_folder_is_decoded(tmp_path: Path) -> None:
    # Without the run that the script trains at the end: it takes most of the time, and none of it is judged here.
    short = (
        f"import json, sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import data_memory\n"
        "data_memory.TRAIN = f'print({json.dumps(dict(run_peak_kb=0))!r})'\n"
        "data_memory.main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", short, "--images", "3000", "--side", "128", "--folder", tmp_path / "set"],
        check=True,
        capture_output=True,
        text=True,
    )
    figures = json.loads(run.stdout)
    assert figures["decoded_mb"] > 147
    assert figures["checksums_agree"]
    # 64 MiB are buffered before an entry is written, then blocks of 4 MiB.
    assert figures["decoding_peak_mb_beside_torch"] < 110
