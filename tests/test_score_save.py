"""``pixelloom score --save``: the calibration kept with the model is used as it is, or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import features

import pixelloom as pl
from commands import Command, caller
from pixelloom.engine.safetensors_io import load_tensors, save_tensors
from pixelloom.models.pixel import PixelModel
from pixelloom.runs import kept_calibration
from pixelloom.runs.anomaly import Scorer, calibrate
from pixelloom.runs.score import normals
from score_toys import DATA, INK, SPEC, folder, rows_of
from small_models import flat, save_run

FILE = Path("runs/flat/model/calibration.safetensors")
WORDS = ("score", "flat", "--data", "images")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    save_run(flat(SPEC, DATA.model_dump(mode="json"), ink=INK), Path("runs/flat"))
    folder("images", 12)
    return caller(capsys)


def check_the_same(monkeypatch: pytest.MonkeyPatch, run: Command) -> None:
    """Scores, p-values, flags and maps are those of the command that kept the calibration, which is not measured."""
    said = run(*WORDS, "--save", "--kind", "complexity", "--false-alarms", "0.05", "--csv", "a.csv", "--maps", "a")
    assert said.code == 0, said.err
    assert f"kept in {FILE}" in said.err
    assert f"kept in {FILE}" in said.out
    measure, images = Scorer.measure, 0

    def counted(self: Scorer, levels: np.ndarray) -> object:
        nonlocal images
        images += len(levels)
        return measure(self, levels)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "measure", counted)
        said = run(*WORDS, "--csv", "b.csv", "--maps", "b", "--json")
    assert said.code == 0, said.err
    assert images == 12
    assert f"calibration: as kept in {FILE}, by 75 images of digits, val" in said.err
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()
    found = json.loads(said.out)
    assert (found["kind"], found["false_alarms"], found["calibration"]["file"]) == ("complexity", 0.05, str(FILE))
    for row in rows_of("a.csv"):
        first, second = (Path(name) / f"{row['image']}.map.npy" for name in "ab")
        assert second.exists()
        assert np.array_equal(np.load(first), np.load(second))
    assert Path("a/a/000.png.map.png").read_bytes() == Path("b/a/000.png.map.png").read_bytes()  # one scale


def test_a_kept_calibration_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, run: Command) -> None:
    check_the_same(monkeypatch, run)
    assert sorted(path.name for path in FILE.parent.iterdir()) == ["calibration.safetensors", "config.json", WEIGHTS]
    # kind and rate of a command replace those kept
    found = json.loads(run(*WORDS, "--json", "--kind", "auto", "--false-alarms", "0.1").out)
    Path(FILE).rename("away")
    fresh = json.loads(run(*WORDS, "--json", "--kind", "auto", "--false-alarms", "0.1").out)
    assert fresh["calibration"]["file"] is None
    assert abs(found["threshold"] - fresh["threshold"]) < 1e-6
    assert [row["flag"] for row in found["scores"]] == [row["flag"] for row in fresh["scores"]]


WEIGHTS = "model.safetensors"


def test_a_calibration_on_request_is_measured_and_not_kept(run: Command) -> None:
    assert run(*WORDS, "--save", "--false-alarms", "0.05").code == 0
    kept = FILE.read_bytes()
    for words in (("--calibrate", "test"), ("--normals", "100")):
        said = run(*WORDS, *words, "--false-alarms", "0.1", "--json")
        assert said.code == 0, said.err
        assert f"not that kept in {FILE}" in said.err
        assert json.loads(said.out)["calibration"]["file"] is None
    assert FILE.read_bytes() == kept
    said = run("score", "flat", "--split", "val")
    assert said.code == 2
    assert "calibrate: digits, val are the images to score" in said.err
    assert run(*WORDS, "--save", "--false-alarms", "0.1", "--calibrate", "test").code == 0
    assert FILE.read_bytes() != kept
    assert f"as kept in {FILE}, by" in (said := run(*WORDS)).err
    assert "images of digits, test" in said.err


def check_other_weights_are_refused(run: Command) -> None:
    assert run(*WORDS, "--save", "--false-alarms", "0.05").code == 0
    kept = FILE.read_bytes()
    other = flat(SPEC, DATA.model_dump(mode="json"), ink=0.4)
    other.save("runs/flat/model")
    assert not FILE.exists()  # a new model has no calibration
    FILE.write_bytes(kept)
    said = run(*WORDS)
    assert (said.code, said.out) == (4, "")
    assert (
        f"{FILE}: is a calibration of other weights or settings of the model; calibrate again with --save" in said.err
    )


def test_other_weights_are_refused(run: Command) -> None:
    check_other_weights_are_refused(run)
    assert run(*WORDS, "--save", "--false-alarms", "0.05").code == 0
    assert run(*WORDS).code == 0


def test_another_background_data_or_compressor_is_refused(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*WORDS, "--save", "--false-alarms", "0.05").code == 0
    kept = FILE.read_bytes()
    save_run(flat(SPEC, DATA.model_dump(mode="json"), ink=0.6), Path("runs/other"))
    said = run(*WORDS, "--background", "other")
    assert said.code == 4
    assert f"{FILE}: is a calibration of no background model" in said.err
    with monkeypatch.context() as patch:
        patch.setattr(features, "version", lambda _: "0.0")
        said = run(*WORDS)
    assert said.code == 4
    assert "is a calibration of other lossless compressors (PNG by zlib " in said.err
    assert "; now PNG by zlib 0.0, WebP 0.0)" in said.err
    model = pl.load("flat")
    moved = DATA.model_copy(update={"binarize": "threshold@0.25"})
    record = model.description.training.model_copy(update={"data": moved})
    PixelModel(model.network, model.description.model_copy(update={"training": record})).save("runs/flat/model")
    FILE.write_bytes(kept)
    assert f"{FILE}: is a calibration of other training data of the model" in run(*WORDS).err
    # with a background model, and without it
    save_run(flat(SPEC, DATA.model_dump(mode="json"), ink=INK), Path("runs/flat"))
    words = (*WORDS, "--kind", "ratio", "--background", "other")
    assert run(*words, "--save", "--false-alarms", "0.05").code == 0
    assert "score ratio" in run(*WORDS, "--background", "other").out
    assert "is a calibration of a background model" in run(*WORDS).err


def check_settings_of_the_images(run: Command) -> None:
    folder("good", 60, side=12, seed=1)
    words = (*WORDS, "--calibrate", "good", "--save", "--false-alarms", "0.1", "--fit", "pad")
    assert run(*words).code == 0
    said = run(*WORDS)
    assert said.code == 4
    assert f"{FILE}: its images were read with other data settings (fit=pad)" in said.err
    assert "other data settings (fit=pad)" in run(*WORDS, "--fit", "resize").err
    assert "by 30 images of good" in run(*WORDS, "--fit", "pad").err


def test_settings_of_the_images_are_those_of_the_calibration(run: Command) -> None:
    check_settings_of_the_images(run)
    # those of a split of the training data do not depend on them
    assert run(*WORDS, "--save", "--false-alarms", "0.05").code == 0
    assert run(*WORDS, "--fit", "pad").code == 0


def damaged(how: str) -> None:
    content = FILE.read_bytes()
    tensors, meta = load_tensors(FILE)
    if how == "cut":
        FILE.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        FILE.write_bytes(b"")
    elif how == "a bit":
        FILE.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif how == "weights":
        FILE.write_bytes((FILE.parent / WEIGHTS).read_bytes())
    elif how == "a kind is missing":
        del tensors["scores.auto"]
        save_tensors(FILE, tensors, meta)
    elif how == "lengths":
        tensors["scores.likelihood"] = tensors["scores.likelihood"][1:]
        save_tensors(FILE, tensors, meta)
    elif how == "another size":
        tensors["expected"] = torch.zeros(4, 4, dtype=torch.float64)
        save_tensors(FILE, tensors, meta)
    elif how == "no number":
        tensors["scores.likelihood"][3] = torch.nan
        save_tensors(FILE, tensors, meta)
    elif how == "threshold":
        save_tensors(FILE, tensors, meta | {"threshold": meta["threshold"] + 1})
    else:
        save_tensors(FILE, tensors, meta | {"later": 1})


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("cut", "damaged or not a model file"),
        ("empty", "empty, 0 bytes"),
        ("a bit", "do not match their SHA-256"),
        ("weights", "is no calibration (kind: Field required"),
        ("a kind is missing", "its scores do not fit"),
        ("lengths", "its scores do not fit"),
        ("another size", "its scores do not fit"),
        ("no number", "its scores do not fit"),
        ("threshold", "its threshold is not that of its scores"),
        ("another field", "later: Extra inputs are not permitted"),
    ],
)
def test_a_damaged_file_is_named_with_a_remedy(how: str, text: str, run: Command) -> None:
    assert run(*WORDS, "--save", "--false-alarms", "0.05").code == 0
    damaged(how)
    said = run(*WORDS)
    assert (said.code, said.out) == (4, "")
    assert f"{FILE}: " in said.err
    assert text in said.err
    assert said.err.strip().endswith("; calibrate again with --save, or remove the file")
    assert run(*WORDS, "--save", "--false-alarms", "0.05").code == 0


def test_it_is_written_at_once_or_not_at_all(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*WORDS, "--save", "--false-alarms", "0.05").code == 0
    kept = FILE.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pixelloom.core.atomic.flush", full)
        said = run(*WORDS, "--save", "--false-alarms", "0.1")
    assert (said.code, said.out) == (2, "")
    assert f"{FILE}: cannot write" in said.err
    assert FILE.read_bytes() == kept
    assert len(list(FILE.parent.iterdir())) == 3


def test_packaged_models_and_classes_are_refused(run: Command) -> None:
    said = run("score", "binarized-mnist", "--save")
    assert said.code == 2
    assert "--save: binarized-mnist belongs to the installed package; save a copy" in said.err
    assert "--background and --save" in run("score", "flat", "--classify", "--save").err


def test_python_reads_the_kept_calibration(run: Command) -> None:
    model = pl.load("flat")
    assert isinstance(model, PixelModel)
    scorer = Scorer(model)
    assert kept_calibration.kept_by(Path("runs/flat/model"), scorer) is None
    with normals(model) as source:
        made = calibrate(scorer, source, 0.05)
    path = kept_calibration.keep(Path("runs/flat/model"), scorer, kept_calibration.Kept(made, "auto", 0.05))
    kept = kept_calibration.kept_by(path.parent, scorer, {"fit": "pad"})
    assert kept is not None
    assert (kept.kind, kept.false_alarms, kept.calibration.title) == ("auto", 0.05, "digits, val")
    assert kept.calibration.reference == made.reference
    assert kept.calibration.expected is None
    assert all(np.array_equal(scores, made.scores[kind]) for kind, scores in kept.calibration.scores.items())
    assert kept.threshold == replace(kept, calibration=made).threshold
