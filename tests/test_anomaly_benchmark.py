"""benchmarks/anomaly.py on small models, and its synthetic defects."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import load
from pixelloom.data.config import DataConfig
from pixelloom.metrics.scores import Reference, Statistics
from pixelloom.models.pixel import PixelModel
from score_toys import DATA, INK, SPEC, bits_of
from scripts import script
from small_models import flat, save_run
from test_score_classes import of_classes


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out.json"


def area(normals: np.ndarray, outliers: np.ndarray) -> float:
    """By counting pairs."""
    a, b = normals.round(5), outliers.round(5)
    return float((b[:, None] > a).mean() + (b[:, None] == a).mean() / 2)


def test_areas_and_alarms_of_a_model_whose_bits_are_known(out: Path) -> None:
    save_run(flat(SPEC, DATA.model_dump(mode="json"), ink=INK), Path("runs/flat"))
    images = np.uint8(np.random.default_rng(0).random((60, 1, 8, 8)) < 0.6)
    np.save("dense.npy", images * np.uint8(255))
    benchmark = script("anomaly")
    benchmark.main(["--model", "flat", "--against", "dense.npy", "-n", "40", "--out", str(out)])
    found = json.loads(out.read_text())
    assert (found["normal"], found["n"], found["calibration"]["data"]) == ("digits, test", 40, "digits, val")
    test, _ = load(DATA).test.all()
    normal, odd = test[[i * len(test) // 40 for i in range(40)]], images[[i * 60 // 40 for i in range(40)]]
    areas = found["detection"]["dense.npy"]
    assert math.isclose(areas["likelihood"]["auroc"], area(bits_of(normal), bits_of(odd)), abs_tol=0.01)
    held, _ = load(DATA).val.all()
    calibration = np.delete(held, [i * 151 // 52 for i in range(52)], axis=0)
    border = np.sort(bits_of(calibration))[90 - 1]  # of 99
    seen = found["false_alarms"]["likelihood"]["0.1"]["seen"]  # equal bits may differ by rounding
    assert (bits_of(normal) > border + 1e-6).mean() <= seen <= (bits_of(normal) > border - 1e-6).mean()


def gray() -> PixelModel:
    """A flat model of gray digits of 16 levels: any level costs 4 bits."""
    data = DataConfig(source="digits", levels=16)
    return flat(ImageSpec(1, 8, 8, 16), data.model_dump(mode="json"))


def test_defects_of_a_flat_model_are_not_seen(out: Path) -> None:
    """Its maps are zero, so that the area of pixels is 1/2."""
    save_run(gray(), Path("runs/gray"))
    benchmark = script("anomaly")
    benchmark.main(["--model", "gray", "--defects", "60", "--maps", "maps.png", "--out", str(out)])
    found = json.loads(out.read_text())["defects"]
    assert list(found) == ["scratch", "spot", "texture", "patch", "all"]
    assert [each["n"] for each in found.values()] == [7, 7, 8, 8, 30]
    for each in found.values():
        assert each["good"] == 30
        assert abs(each["pixels"]["map"] - 0.5) < 0.02
        assert abs(each["images"]["likelihood"] - 0.5) < 0.2
    assert Path("maps.png").stat().st_size > 1000


def test_classes_and_left_out_ones(out: Path) -> None:
    model = of_classes()
    save_run(model, Path("runs/classes"))
    benchmark = script("anomaly")
    benchmark.main(["--model", "classes", "--classify", "30", "--out", str(out)])
    found = json.loads(out.read_text())["classes"]
    images, labels = load(DATA).test.all()
    chosen = [i * len(images) // 30 for i in range(30)]
    log_p = np.stack([model.log_prob(images[chosen], labels=k).numpy() for k in range(3)], axis=1)
    decided, truth = log_p.argmax(1), labels[chosen]
    counts = [[int(((truth == int(a)) & (decided == k)).sum()) for k in range(3)] for a in "207"]
    assert found["counts"] == counts
    assert found["accuracy"] == sum(counts[k][k] for k in range(3)) / found["n"]
    for name, ink in (("a", 0.3), ("b", 0.4)):
        save_run(flat(SPEC, DATA.model_dump(mode="json"), ink=ink), Path("runs") / name)
    odd = np.zeros((5, 8, 8), np.uint8)
    odd[range(5), 0, range(5)] = 255  # one pixel each: likelier than any digit
    np.save("odd.npy", odd)
    benchmark.main(["--left-out", "a=odd.npy", "b=odd.npy", "-n", "20", "--out", str(out)])
    found = json.loads(out.read_text())["left_out"]
    areas = [each["typicality"] for each in found["models"].values()]
    mean = found["mean"]["typicality"]
    assert mean["mean"] == np.mean(areas)
    assert math.isclose(mean["interval"][1] - mean["mean"], 12.706 * np.std(areas, ddof=1) / math.sqrt(2))
    assert found["models"]["a"]["likelihood"] == 0


@pytest.mark.parametrize("kind", ["scratch", "spot", "texture", "patch"])
def test_a_defect_is_where_its_mask_is(kind: str) -> None:
    defects = script("anomaly_defects")
    draw = np.random.default_rng(0)
    others = draw.integers(0, 256, (20, 28, 28)).astype(np.uint8)
    image = np.zeros((28, 28), np.uint8)
    image[8:20, 8:20] = 200
    for _ in range(50):
        found, mask = defects.with_defect(kind, image, others, draw)
        assert np.array_equal(mask, found != image)
        rows, columns = np.nonzero(mask)
        assert len(rows)
        side = {"scratch": 16, "spot": 7, "texture": 8, "patch": 8}[kind]
        assert max(np.ptp(rows), np.ptp(columns)) < side + 1
        assert len(rows) <= {"scratch": 24, "spot": 29, "texture": 64, "patch": 64}[kind]
        if kind in ("texture", "patch"):
            assert len(rows) > 50
        else:
            assert len(set(found[mask].tolist())) == 1
            assert 8 - side < rows.min() < 20 + side


def test_combinations_by_their_formulas() -> None:
    benchmark = script("anomaly_combinations")
    draw = np.random.default_rng(0)

    def found(n: int, bits: float, coded: float) -> Statistics:
        c = draw.normal(coded, 0.5, n)
        return Statistics(bits + 0.7 * (c - coded) + draw.normal(0, 0.1, n), c)

    normal, other = found(80, 2.0, 3.0), found(9, 2.5, 3.2)
    scores = {name: score(other) for name, score in benchmark.combinations(normal).items()}
    assert np.array_equal(scores["fisher"], Reference.of(normal).score("auto", other))
    plane = np.stack([normal.bits, normal.coded])
    away = np.stack([other.bits, other.coded], axis=1) - plane.mean(1)
    assert np.allclose(scores["mahalanobis"], [a @ np.linalg.inv(np.cov(plane)) @ a for a in away])
    density = stats.gaussian_kde(plane)(np.stack([other.bits, other.coded]))
    assert np.allclose(np.diff(scores["kde"]), -np.diff(np.log(density)))  # up to a constant
    line = stats.linregress(normal.coded, normal.bits)
    assert np.allclose(scores["residual"], other.bits - line.slope * other.coded - line.intercept)
    far = found(9, 9.0, 3.0)
    areas = benchmark.table(normal, other, {"far": far, "same": other}, ["same"])
    assert all(each["mean"] == each["auroc"]["far"] == 1 and each["auroc"]["same"] == 0.5 for each in areas.values())
    images = draw.integers(0, 256, (4, 1, 6, 6)).astype(np.uint8)
    turned = dict(benchmark.changed(images))
    assert np.array_equal(turned["turned"], np.rot90(images, axes=(2, 3)))
    assert np.array_equal(np.sort(turned["shuffled"].reshape(4, -1)), np.sort(images.reshape(4, -1)))
