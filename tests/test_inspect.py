"""``pixelloom inspect``: what it says of a source whose contents are known, and its contact sheet."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import Command, caller
from image_files import encoded, flat, put, zipped
from parquet_files import hub_column, pa, write


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "cache"))
    return caller(capsys)


def test_a_folder_of_two_classes_and_an_odd_file(run: Command) -> None:
    noise = np.random.default_rng(0)
    for name, low, n in (("cats", 0, 20), ("dogs", 200, 30)):
        Path("photos", name).mkdir(parents=True)
        for i in range(n):
            image = noise.integers(low, low + 20, (8, 6 if i else 8)).astype(np.uint8)
            Image.fromarray(image).save(f"photos/{name}/{i}.png")
    Path("photos/notes.txt").write_text("mine")
    done = run("inspect", "photos", "--size", "8", "--json")
    assert done.code == 0
    facts = json.loads(done.out)
    assert sum(facts["images"].values()) == 50
    assert {name: sum(counts.values()) for name, counts in facts["classes"].items()} == {"cats": 20, "dogs": 30}
    assert facts["shape"] == "1x8x8 with 256 levels"
    assert facts["duplicates"] == {"within splits": 0, "across splits": 0}
    assert facts["file_sizes"] == {"8x6": 48, "8x8": 2}
    assert facts["file_modes"] == {"L": 50}
    assert facts["other_files"] == ["notes.txt"]
    with Image.open(facts["sheet"]) as sheet:
        pixels = np.asarray(sheet.convert("L"))
    assert pixels[: len(pixels) // 2, -40:].min() < 30  # cats are dark, dogs bright
    assert pixels[len(pixels) // 2 :, -40:].max() > 190
    text = run("inspect", "photos", "--size", "8").out
    assert "class  train  val  test" in text
    assert "inspect-2.png" in text


def photos() -> dict[str, bytes]:
    """Two classes of dark and bright images in two splits, a wrapper, two odd files and a damaged image."""
    noise = np.random.default_rng(0)
    found = {
        f"set/{split}/{name}/{i}.png": encoded(noise.integers(low, low + 20, (8, 8 if i else 6)))
        for split, n in (("train", 110), ("test", 5))
        for name, low in (("cats", 0), ("dogs", 200))
        for i in range(n)
    }
    return found | {"set/notes.md": b"mine", "set/train/cats/x.db": b"", "set/train/dogs/broken.png": b"text"}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "parquet"])
def test_a_folder_an_archive_and_a_table_say_the_same(run: Command, kind: str) -> None:
    contents = photos()
    if kind == "parquet":
        for split in ("train", "test"):
            rows = [(name, data) for name, data in contents.items() if split in name and name.endswith("png")]
            labels = pa.array([name.split("/")[2] for name, _ in rows])
            write(Path("set", f"{split}.parquet"), {"image": hub_column([data for _, data in rows]), "label": labels})
    elif kind == "tar":
        with tarfile.open("set.tar", "w") as archive:
            for name, data in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        put(Path(), contents) if kind == "folder" else zipped(Path("set.zip"), contents)
    source = {"zip": "set.zip", "tar": "set.tar"}.get(kind, "set")
    facts = json.loads(run("inspect", source, "--size", "8", "--json").out)
    assert sum(facts["images"].values()) == 230
    assert facts["images"]["test"] == 10
    assert {name: sum(counts.values()) for name, counts in facts["classes"].items()} == {"cats": 115, "dogs": 115}
    assert facts["file_sizes"] == {"8x8": 226, "8x6": 4}
    assert facts["file_modes"] == {"L": 230}
    broken = [name.rpartition("/")[2] for name in facts["damaged"]]
    assert broken == ["train.parquet, row 220" if kind == "parquet" else "broken.png"]
    others = sorted(name.rpartition("/")[2] for name in facts["other_files"])
    assert others == ([] if kind == "parquet" else ["notes.md", "x.db"])
    assert facts["files_read"] == [231, 231]
    text = run("inspect", source, "--size", "8").out
    assert "file sizes    226 of 8x8, 4 of 8x6\nfile colors   230 gray\n" in text


@pytest.mark.parametrize("flag", ["-v", "--verbose", None])
def test_long_lists_are_full_if_asked(run: Command, flag: str | None) -> None:
    put(Path("set"), {f"{i:02}.png": flat(i) for i in range(12)} | {f"note {i}.txt": b"" for i in range(12)})
    done = run("inspect", "set", *([flag] if flag else []))
    (line,) = (line for line in done.out.splitlines() if line.startswith("other files"))
    every = ", ".join(f"note {i}.txt" for i in range(12))
    short = ", ".join(f"note {i}.txt" for i in range(5)) + " and 7 more (-v shows all)"
    assert line == f"other files   {every if flag else short}"
    assert ("ignored: note 11.txt" in done.err) == bool(flag)
    assert "other files ignored: 12 .txt" in done.out  # the note
    assert "warning" not in done.err  # which says the same


def test_arrays_with_equal_images_and_few_levels(run: Command) -> None:
    images = np.random.default_rng(0).integers(0, 4, (40, 6, 6)).astype(np.uint8) * 80
    np.save("set.npy", np.concatenate([images, images[:5]]))
    facts = json.loads(run("inspect", "set.npy", "--json").out)
    assert sum(facts["images"].values()) == 45
    assert facts["duplicates"] == {"within splits": 5, "across splits": 0}
    assert facts["levels_used"] == "4 of 256, from 0 to 240"
    assert facts["classes"] == {}


def test_named_sets_and_wrong_usage(run: Command) -> None:
    done = run("inspect", "digits", "--levels", 2)
    assert done.code == 0
    assert "1x8x8 with 2 levels" in done.out
    for words, code, said in (
        (["inspect", "digits", "--data", "mnist"], 2, "the source is the argument"),
        (["inspect", "nosuch"], 3, "nosuch"),
        (["inspect", "digits", "--out", "x.jpg"], 2, ".jpg is lossy"),
    ):
        done = run(*words)
        assert done.code == code
        assert said in done.err
