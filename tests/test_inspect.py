"""``pixelloom inspect``: what it says of a source whose contents are known, and its contact sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import Command, caller


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
    assert facts["no_images"] == "notes.txt"
    with Image.open(facts["sheet"]) as sheet:
        pixels = np.asarray(sheet.convert("L"))
    assert pixels[: len(pixels) // 2, -40:].min() < 30  # cats are dark, dogs bright
    assert pixels[len(pixels) // 2 :, -40:].max() > 190
    text = run("inspect", "photos", "--size", "8").out
    assert "class  train  val  test" in text
    assert "inspect-2.png" in text


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
