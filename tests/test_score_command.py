"""``pixelloom score`` and ``pl.score``: scores, p-values, maps and areas, with a model whose bits are known by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import pixelloom as pl
from commands import Command, caller
from gan_toys import PAIRS
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import load
from pixelloom.data.config import DataConfig
from pixelloom.metrics.anomaly import p_values, threshold
from pixelloom.metrics.scores import coded_bits
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelModel
from pixelloom.runs import anomaly
from pixelloom.runs.anomaly import Scorer, calibrate, parts
from pixelloom.runs.score import normals, opened, score_images
from pixelloom.viz.anomaly import overlay
from score_toys import DATA, INK, SPEC, bits_of, folder, rows_of
from small_models import flat, save_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


@pytest.fixture
def model(run: Command) -> PixelModel:
    found = flat(SPEC, DATA.model_dump(mode="json"), ink=INK)
    save_run(found, Path("runs/flat"))
    return found


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """The validation images: the reference, and those of the calibration scores."""
    images, _ = load(DATA).val.all()  # 151 images: 76 and 75
    chosen = [i * 151 // 76 for i in range(76)]
    return images[chosen], np.delete(images, chosen, axis=0)


def expected_scores(kind: str, images: np.ndarray) -> np.ndarray:
    """Scores by hand, of images uint8 [N, 1, 8, 8]."""
    reference, _ = held_out()
    bits, coded = bits_of(images), coded_bits(images, 2)
    if kind == "likelihood":
        return bits
    if kind == "typicality":
        return abs(bits - bits_of(reference).mean())
    if kind == "complexity":
        return bits - coded
    pairs = (bits_of(reference), bits), (bits_of(reference) - coded_bits(reference, 2), bits - coded)
    log_p = [stats.norm(known.mean(), math.sqrt(known.var(ddof=1) + 1e-6)).logsf(values) for known, values in pairs]
    two_sided = np.minimum(log_p[0], np.log1p(-np.exp(log_p[0])))
    return -(math.log(2) + two_sided) - log_p[1]


@pytest.mark.parametrize("kind", ["likelihood", "typicality", "complexity", "auto"])
def test_each_file_has_its_score_p_value_and_flag(kind: str, run: Command, model: PixelModel) -> None:
    images = folder("images", 12)
    said = run(
        "score", "flat", "--data", "images", "--kind", kind, "--csv", "s.csv", "--json", "--false-alarms", "0.05"
    )
    assert said.code == 0, said.err
    order = [*range(0, 12, 2), *range(1, 12, 2)]  # folder a, then b
    rows, found = rows_of("s.csv"), json.loads(said.out)
    assert [row["image"] for row in rows] == [f"{'ab'[i % 2]}/{i:03d}.png" for i in order]
    images = images[order]
    scores = expected_scores(kind, images)
    calibration = expected_scores(kind, held_out()[1])
    border = threshold(calibration, 0.05)
    assert np.allclose([float(row["nats"]) for row in rows], bits_of(images) * 64 * math.log(2), atol=1e-4)
    assert np.allclose([float(row["bits_per_dim"]) for row in rows], bits_of(images), atol=1e-5)
    assert np.array_equal([float(row["coded_bits_per_dim"]) for row in rows], coded_bits(images, 2))
    assert np.allclose([float(row["score"]) for row in rows], scores, rtol=1e-4, atol=1e-5)
    assert math.isclose(found["threshold"], border, rel_tol=1e-4)
    measured = pl.score(model, images, kind=kind, false_alarms=0.05)
    assert np.allclose(measured.scores, scores, rtol=1e-4, atol=1e-5)
    own = measured.calibration.scores[kind]
    assert len(own) == len(calibration)
    assert np.array_equal([float(row["p_value"]) for row in rows], p_values(measured.scores, own))
    assert [row["flag"] == "1" for row in rows] == list(measured.scores > threshold(own, 0.05))
    assert found["flagged"] == sum(row["flag"] == "1" for row in rows) == int(measured.flags.sum())
    assert found["calibration"] == {"data": "digits, val", "images": len(calibration), "file": None}


def test_the_threshold_is_not_of_the_training_split(run: Command, model: PixelModel) -> None:
    for split in ("train", "all"):
        said = run("score", "flat", "--calibrate", split)
        assert said.code == 2
        assert f"calibrate: the model was trained on images of '{split}'" in said.err
    said = run("score", "flat", "--json", "--kind", "complexity", "--false-alarms", "0.1", "--limit", 5)
    found = json.loads(said.out)["threshold"]
    train, _ = load(DATA).train.all()
    assert math.isclose(found, threshold(expected_scores("complexity", held_out()[1]), 0.1), rel_tol=1e-5)
    assert not math.isclose(found, threshold(expected_scores("complexity", train), 0.1), rel_tol=1e-5)


def test_calibration_on_the_images_of_training_is_refused(run: Command) -> None:
    folder("mine", 40)
    folder("others", 40, seed=1)
    small = {"model.channels": 4, "model.hidden": 4, "model.blocks": 1, "data.levels": 2}
    pl.train("digits", data="mine", images=64, out="runs/mine", overrides=small)
    images, _ = load(DataConfig(source="mine")).train.all()
    np.save("seen.npy", images)
    words = ("score", "mine", "--data", "others", "--false-alarms", "0.1", "--calibrate")
    said = run(*words, "seen.npy")
    assert said.code == 3
    assert "calibrate: seen.npy: the model was trained on these images" in said.err
    assert "mine, val: 3 held-out normal images; a false-alarm rate of 0.1 needs 19" in run(*words, "val").err
    folder("fresh", 40, seed=2)
    assert run(*words, "fresh").code == 0


def test_the_test_split_of_the_training_data_is_scored_from_any_folder(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder("mine", 40)
    small = {"model.channels": 4, "model.hidden": 4, "model.blocks": 1, "data.levels": 2}
    pl.train("digits", data="mine", images=64, out="runs/mine", overrides=small)
    run_folder, other = Path("runs/mine").absolute(), Path("elsewhere")
    other.mkdir()
    monkeypatch.chdir(other)
    model = pl.load(run_folder)
    for data in (None, run_folder.parents[1] / "mine", "../mine"):
        with opened(model, data) as source:
            assert source.title.endswith("mine, test")
            assert 0 < len(source.names) < 20


def test_maps_sum_to_the_likelihood_less_a_constant(run: Command, model: PixelModel) -> None:
    images = folder("images", 6)
    said = run(
        "score", "flat", "--data", "images", "--maps", "maps", "--csv", "s.csv", "--json", "--false-alarms", "0.05"
    )
    assert said.code == 0, said.err
    reference, calibration = held_out()
    cost = np.array([-math.log2(1 - INK), -math.log2(INK)])
    expected = cost[reference[:, 0]].mean(0)  # [8, 8]
    scale = np.quantile(abs(cost[calibration[:, 0]] - expected).max((1, 2)), 0.95)
    printed = json.loads(said.out)["map_scale"]
    assert math.isclose(printed, scale, rel_tol=1e-5)
    for row in rows_of("s.csv"):
        found = np.load(Path("maps") / f"{row['image']}.map.npy")
        image = images[int(row["image"][2:5])]
        assert (found.shape, found.dtype) == ((8, 8), np.float32)
        assert np.allclose(found, cost[image[0]] - expected, atol=1e-5)
        # the map sums to bits of the image minus mean bits of the reference
        assert math.isclose(found.sum(), 64 * (float(row["bits_per_dim"]) - bits_of(reference).mean()), abs_tol=1e-3)
        drawn = Image.open(Path("maps") / f"{row['image']}.map.png")
        assert np.array_equal(np.asarray(drawn), np.asarray(overlay(image, 2, found, printed)))


def test_the_overlay_has_one_scale_and_two_colors() -> None:
    image = np.full((1, 2, 2), 8, np.uint8)
    excess = np.array([[0.0, 2.0], [1.0, -9.0]], np.float32)
    drawn = np.asarray(overlay(image, 17, excess, 2.0)).astype(int)
    left, right = drawn[:, :224], drawn[:, 228:]
    assert drawn.shape == (224, 452, 3)
    assert (left == 128).all() or (left == 127).all()
    assert (right[0, 0] == left[0, 0]).all()
    full = np.round(0.15 * left[0, 0] + 0.85 * np.array([214, 39, 40]))
    half = np.round(0.575 * left[0, 0] + 0.425 * np.array([214, 39, 40]))
    blue = np.round(0.15 * left[0, 0] + 0.85 * np.array([31, 119, 180]))
    assert np.array_equal(right[0, -1], full)
    assert np.array_equal(right[-1, 0], half)
    assert np.array_equal(right[-1, -1], blue)


def test_areas_against_outliers(run: Command, model: PixelModel) -> None:
    folder("dense", 20)
    said = run("score", "flat", "--against", "dense", "--false-alarms", "0.1", "--limit", 15, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)["detection"]
    assert list(found) == ["likelihood", "typicality", "complexity", "auto"]
    test, _ = load(DATA).test.all()
    images = test[[i * len(test) // 15 for i in range(15)]]
    paths = sorted(Path("dense").rglob("*.png"))
    odd = np.stack([np.asarray(Image.open(paths[i * 20 // 15]))[None] > 127 for i in range(15)]).astype(np.uint8)
    for kind, each in found.items():
        inner, outer = expected_scores(kind, images).round(4), expected_scores(kind, odd).round(4)
        pairs = (outer[:, None] > inner).mean() + (outer[:, None] == inner).mean() / 2
        assert abs(each["auroc"] - pairs) < 0.01
        assert (each["normals"], each["outliers"]) == (15, 15)
    said = run("score", "flat", "--against", "dense", "--false-alarms", "0.1", "--limit", 15)
    assert f"{found['auto']['auroc']:.4f} (" in said.out


def test_an_interrupted_table_continues(run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder("images", 9)
    words = ("score", "flat", "--data", "images", "--csv", "s.csv", "--false-alarms", "0.1")
    monkeypatch.setattr(anomaly, "batch_size", lambda _: 2)
    assert run(*words).code == 0
    whole = Path("s.csv").read_bytes()
    assert not Path("s.csv.part").exists()
    Path("s.csv").unlink()
    count = 0
    measure = Scorer.measure

    def interrupted(self: Scorer, images: np.ndarray) -> object:
        nonlocal count
        count += 1
        if count == stop:
            raise KeyboardInterrupt
        return measure(self, images)

    monkeypatch.setattr(Scorer, "measure", interrupted)
    stop = 76 // 2 + 76 // 2 + 3  # batches of the reference and of the calibration, and the third of the files
    assert run(*words).code == 130
    part = Path("s.csv.part").read_bytes()
    assert 0 < part.count(b"\n") - 1 < 9
    assert not Path("s.csv").exists()
    Path("s.csv.part").write_bytes(part + b"a/003.png,1.5")  # a line that was cut
    before, stop = part.count(b"\n") - 1, 0
    count = 0
    said = run(*words)
    assert said.code == 0
    assert f"continuing after {before} images" in said.err
    assert Path("s.csv").read_bytes() == whole
    # another threshold, or another file: the old rows are of no use
    for change in ("rate", "file"):
        Path("s.csv").unlink()
        Path("s.csv.part").write_bytes(part)
        if change == "file":
            Image.new("L", (8, 8), 255).save("images/a/000.png")
        said = run(*words[:-1], "0.2" if change == "rate" else "0.1")
        assert said.code == 0
        assert "starting again" in said.err
        assert len(rows_of("s.csv")) == 9


def test_images_of_another_size_and_color_are_fitted_and_said(run: Command, model: PixelModel) -> None:
    Path("odd").mkdir()
    Image.new("RGB", (16, 12), "white").save("odd/0.png")
    Path("odd/1.png").write_bytes(b"no image")
    said = run("score", "flat", "--data", "odd", "--csv", "s.csv", "--false-alarms", "0.1")
    assert said.code == 0, said.err
    assert "1 image of another size fitted to 8x8 (crop)" in said.err
    assert "odd: not scored: 1.png" in said.err
    assert "2 images, score auto, 1 not readable" in said.out
    first, second = rows_of("s.csv")
    assert math.isclose(float(first["bits_per_dim"]), -math.log2(INK), rel_tol=1e-5)
    assert list(second.values()) == ["1.png", "", "", "", "", "", "", "0"]


def test_a_ratio_takes_the_bits_of_a_background_model(run: Command, model: PixelModel) -> None:
    other = flat(SPEC, DATA.model_dump(mode="json"), ink=0.6)
    save_run(other, Path("runs/other"))
    images = folder("images", 8)
    words = ("score", "flat", "--data", "images", "--kind", "ratio", "--false-alarms", "0.1")
    said = run(*words)
    assert said.code == 2
    assert "--kind ratio: needs a background model" in said.err
    said = run(*words, "--background", "other", "--csv", "s.csv")
    assert said.code == 0, said.err
    for row in rows_of("s.csv"):
        ink = images[int(row["image"][2:5])].mean()
        expected = ink * math.log2(0.6 / INK) + (1 - ink) * math.log2(0.4 / (1 - INK))
        assert math.isclose(float(row["score"]), expected, abs_tol=1e-5)
        own = bits_of(images[int(row["image"][2:5])][None])[0]
        assert math.isclose(float(row["background_bits_per_dim"]), own - expected, abs_tol=1e-5)


def test_fresh_normal_images_are_flagged_as_promised(model: PixelModel) -> None:
    """Images drawn from the model itself, calibrated on others of them."""
    drawn = model.sample(1600, seed=1, batch=400)
    found = pl.score(model, drawn[:800], calibrate=drawn[800:], false_alarms=0.1)
    assert abs(found.flags.mean() - 0.1) < 4 * math.sqrt(0.1 * 0.9 * (1 / 800 + 1 / 400))
    again = pl.score(model, drawn[:10], calibrate=found.calibration, false_alarms=0.1)
    assert np.array_equal(again.scores, found.scores[:10])


def test_the_api_takes_images_in_memory_in_their_order(model: PixelModel) -> None:
    images = np.zeros((3, 1, 8, 8), np.uint8)
    images[1] = 1
    found = pl.score(model, images, kind="likelihood", false_alarms=0.1)
    assert np.allclose(found.bits_per_dim, bits_of(images), atol=1e-5)
    assert found.names == ["all/0", "all/1", "all/2"]
    with opened(model, torch.from_numpy(images)) as source, normals(model, "val") as held:
        scorer = Scorer(model)
        calibration = calibrate(scorer, held, 0.1, 60)
        twice = score_images(scorer, calibration, source, "likelihood", 0.1)
        assert np.array_equal(twice.scores, found.scores)
        assert len(calibration.scores["auto"]) == 30
        assert [len(part.rows) for part in parts(scorer, source, [0, 2])] == [2]


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--false-alarms", "0"], 2, "false_alarms: a rate above 0 and below 1, not 0"),
        (["--false-alarms", "1"], 2, "false_alarms: a rate above 0 and below 1, not 1"),
        (["--false-alarms", "0.001"], 3, "151 held-out normal images; a false-alarm rate of 0.001 needs 1009"),
        (["--calibrate", "test"], 2, "digits, test are the images to score; calibrate on others"),
        (["--calibrate", "nothing"], 3, "nothing"),
        (["--calibrate", "empty"], 3, "no image found (it is empty)"),
        (["--data", "empty"], 3, "no image found (it is empty)"),
        (["--data", "nothing"], 3, "nothing"),
        (["--kind", "best"], 2, "--kind"),
        (["--csv", "a.txt"], 2, "--csv a.txt: writes a table"),
        (["--csv", "old.csv"], 2, "old.csv: exists already"),
        (["--maps", "old.csv"], 2, "--maps old.csv: is a file"),
        (["--maps", "full"], 2, "--maps full: is not empty"),
        (["--maps", "runs/flat/model"], 2, "is a model folder"),
        (["--limit", "0"], 2, "--limit"),
        (["--threshold", "3"], 2, "--threshold: is called --false-alarms"),
    ],
)
def test_what_is_wrong_is_named(options: list[str], code: int, text: str, run: Command, model: PixelModel) -> None:
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/a").write_text("")
    Path("old.csv").write_text("mine")
    said = run("score", "flat", *options)
    assert (said.code, said.out) == (code, "")
    assert text in said.err
    assert Path("old.csv").read_text() == "mine"


def test_models_without_likelihood_or_of_other_images_are_refused(run: Command, model: PixelModel) -> None:
    network, config = PAIRS["dcgan"]
    gan = GANModel.build(GANDescription(network=network, model=config, image=ImageSpec(1, 16, 16, 256)))
    gan.save("gan/model")
    said = run("score", "gan")
    assert said.code == 2
    assert "score: " in said.err
    assert "GAN" in said.err
    save_run(flat(ImageSpec(1, 8, 8, 4)), Path("runs/four"))
    said = run("score", "flat", "--background", "four")
    assert said.code == 2
    assert "background: its images are 1x8x8 with 4 levels, those of the model 1x8x8 with 2 levels" in said.err
