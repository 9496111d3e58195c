"""Anomaly scores of a model: areas against other data sets and synthetic defects, promised against seen false alarms.

    python benchmarks/anomaly.py --model MODEL --against NAME... [--background MODEL] [-n 1000] [--out FILE]
    python benchmarks/anomaly.py --model MODEL --defects 600 [--maps FILE]
    python benchmarks/anomaly.py --model MODEL --classify 2000
    python benchmarks/anomaly.py --left-out MODEL=DATA... [-n 500]

Normal images are -n of the model's test split, outliers -n of each other data set (its test split), all evenly spaced;
others are fitted as the training images. The calibration is that of `pixelloom score`, by --normals validation images.

    detection       AUROC, AUPR and FPR at 95 % TPR of each kind of score, with 95 % intervals
    false_alarms    share of the normal images that the threshold of each kind flags, with its 95 % Wilson interval, for
                    promised rates of 0.1, 0.05 and 0.01
    defects         areas of half of the images with a synthetic defect against the other half, also by the largest mean
                    of a map over 3x3 pixels, and the AUROC of single pixels, of the maps and of these means; see
                    anomaly_defects.py
    classes         accuracy by Bayes' rule, and counts of (class, decision)
    left_out        for models that were trained without a class, DATA its images: the mean AUROC over the models with
                    its 95 % interval by Student's t
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import anomaly_defects
import pixelloom as pl
from machine import facts
from pixelloom.data.pixels import to_bytes
from pixelloom.metrics.anomaly import auroc, threshold
from pixelloom.metrics.class_accuracy import wilson
from pixelloom.models.family import GenerativeModel
from pixelloom.runs.anomaly import Calibration, Scorer, calibrate, spaced
from pixelloom.runs.classify import classify
from pixelloom.runs.defects import open_defects
from pixelloom.runs.evaluate import data_for
from pixelloom.runs.score import ImageScores, normals, opened, score_images
from pixelloom.viz.anomaly import overlay
from pixelloom.viz.canvas import hstack, vstack

RATES = (0.1, 0.05, 0.01)
OUT = Path(__file__).parent / "results" / "anomaly.json"
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 % of Student's t, 1 to 9 degrees


def calibrated(scorer: Scorer, images: int) -> Calibration:
    """The calibration on some validation images."""
    with normals(scorer.model) as source:
        return calibrate(scorer, source, min(RATES), images)


def alarms(scored: ImageScores) -> dict[str, Any]:
    """Seen rates of false alarms for each kind of score and promised rate."""
    calibration, found, n = scored.calibration, {}, len(scored.rows)
    for kind, own in calibration.scores.items():
        values = calibration.reference.score(kind, scored.statistics)
        hits = {rate: int((values > threshold(own, rate)).sum()) for rate in RATES}
        found[kind] = {str(rate): {"seen": count / n, "interval": wilson(count, n)} for rate, count in hits.items()}
    return found


def measured(scorer: Scorer, calibration: Calibration, against: list[str], n: int) -> dict[str, Any]:
    """Detection of other data sets, and false alarms."""
    model = scorer.model
    with opened(model) as source:
        normal, title = score_images(scorer, calibration, source, limit=n), source.title
    detections: dict[str, Any] = {}
    for name in against:
        with opened(model, name) as source:
            outliers = score_images(scorer, calibration, source, limit=n)
        data = Path(name).name
        detections[data] = {kind: each.as_dict() for kind, each in normal.against(outliers).items()}
        for kind, each in detections[data].items():
            print(f"{title} against {data}, {kind}: AUROC {each['auroc']:.4f}", flush=True)
    return {
        "normal": title,
        "n": len(normal.rows),
        "calibration": {"data": calibration.title, "n": len(calibration.scores["auto"])},
        "detection": detections,
        "false_alarms": alarms(normal),
    }


def smoothed(maps: np.ndarray) -> np.ndarray:
    """Means over 3x3 pixels, float64 [N, H, W]; borders are repeated."""
    wide = np.pad(maps.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = maps.shape[1:]
    return np.mean([wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)


def with_defects(scorer: Scorer, calibration: Calibration, n: int, drawn: Path | None = None) -> dict[str, Any]:
    """Detection of images with a synthetic defect, and of their pixels; ``drawn`` takes some maps as a PNG."""
    model = scorer.model
    with opened(model) as source:
        images = source.take(spaced(len(source.names), n)).images
    names: list[str] = []
    maps, shown = [], []

    def keep(some: list[str], levels: np.ndarray, excess: np.ndarray) -> None:
        names.extend(some)
        maps.append(excess)
        shown.extend(levels)

    with tempfile.TemporaryDirectory() as folder:
        anomaly_defects.write(Path(folder), to_bytes(images, model.spec.levels)[:, 0])
        with open_defects(data_for(model, folder), model.spec) as defects:
            scored = score_images(scorer, calibration, defects.images, on_maps=keep)
            masks = np.stack([defects.mask(name) for name in names])
    excess, kinds = np.concatenate(maps), np.array([name.split("/")[1] for name in names])
    good, largest, found = kinds == "good", smoothed(excess).max((1, 2)), {}
    for kind in (*anomaly_defects.KINDS, "all"):
        chosen = ~good if kind == "all" else kinds == kind
        areas = {"n": int(chosen.sum()), "good": int(good.sum()), "images": {}, "pixels": {}}
        for score in calibration.scores:
            values = calibration.reference.score(score, scored.statistics)
            areas["images"][score] = auroc(values[good], values[chosen])
        areas["images"]["largest"] = auroc(largest[good], largest[chosen])
        for name, each in (("map", excess.astype(np.float64)), ("3x3", smoothed(excess))):
            values, where = each[good | chosen], masks[good | chosen]
            areas["pixels"][name] = auroc(values[~where], values[where])
        print(f"defects, {kind}: images {areas['images']['auto']:.4f} pixels {areas['pixels']['map']:.4f}", flush=True)
        found[kind] = areas
    if drawn is not None:
        rows = [np.flatnonzero(kinds == kind)[:3] for kind in ("good", *anomaly_defects.KINDS)]
        tiles = [[overlay(shown[i], model.spec.levels, excess[i], calibration.scale) for i in row] for row in rows]
        vstack([hstack(row, gap=12) for row in tiles], gap=12).save(drawn)
    return found


def classified(model: GenerativeModel, n: int) -> dict[str, Any]:
    """Accuracy by Bayes' rule on the test split."""
    with opened(model) as source:
        found = classify(model, source, n)
    assert found.accuracy is not None
    assert found.labels is not None
    share, interval, count = found.accuracy
    counts = np.zeros((len(found.classes), len(found.classes)), int)
    known = found.labels >= 0
    np.add.at(counts, (found.labels[known], found.found[known]), 1)
    print(f"accuracy {share:.4f} of {count}", flush=True)
    return {"accuracy": share, "interval": interval, "n": count, "counts": counts.tolist()}


def left_out(pairs: list[str], n: int, images: int) -> dict[str, Any]:
    """Areas of the images that each model was trained without, and their means."""
    each: dict[str, dict[str, float]] = {}
    for pair in pairs:
        name, _, data = pair.partition("=")
        scorer = Scorer(pl.load(name))
        found = measured(scorer, calibrated(scorer, images), [data], n)["detection"][Path(data).name]
        each[Path(name).name] = {kind: values["auroc"] for kind, values in found.items()}
    means = {}
    for kind in next(iter(each.values())):
        areas = np.array([areas[kind] for areas in each.values()])
        half = _T[len(areas) - 2] * areas.std(ddof=1) / len(areas) ** 0.5 if 1 < len(areas) <= 10 else float("nan")
        means[kind] = {"mean": areas.mean(), "interval": [areas.mean() - half, areas.mean() + half]}
        print(f"left out, {kind}: mean AUROC {areas.mean():.4f} -+ {half:.4f}", flush=True)
    return {"n": n, "models": each, "mean": means}


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write one JSON file."""
    parser = argparse.ArgumentParser(description="Anomaly scores of a model.")
    parser.add_argument("--model", help="a run folder, or a model of the package")
    parser.add_argument("--against", nargs="+", help="names or paths of data with outliers")
    parser.add_argument("--background", help="background model for the kind ratio")
    parser.add_argument("--defects", type=int, help="number of images, half of them with a synthetic defect")
    parser.add_argument("--maps", type=Path, help="PNG file for some maps of images with defects")
    parser.add_argument("--classify", type=int, help="number of test images to classify")
    parser.add_argument("--left-out", nargs="+", metavar="MODEL=DATA", help="models trained without a class")
    parser.add_argument("-n", type=int, default=1000, help="images of each data set")
    parser.add_argument("--normals", type=int, default=2000, help="calibration images")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    if not (options.model and (options.against or options.defects or options.classify)) and not options.left_out:
        parser.error("--model with --against, --defects or --classify; or --left-out")
    found: dict[str, Any] = {"model": None, "background": None, "machine": facts()}
    for name in ("model", "background"):
        found[name] = None if getattr(options, name) is None else Path(getattr(options, name)).name
    model = None if options.model is None else pl.load(options.model)
    if model is not None and (options.against or options.defects):
        background = None if options.background is None else pl.load(options.background)
        scorer = Scorer(model, background, maps=options.defects is not None)
        calibration = calibrated(scorer, options.normals)
        if options.against:
            found |= measured(scorer, calibration, options.against, options.n)
        if options.defects:
            found["defects"] = with_defects(scorer, calibration, options.defects, options.maps)
    if model is not None and options.classify:
        found["classes"] = classified(model, options.classify)
    if options.left_out:
        found["left_out"] = left_out(options.left_out, options.n, options.normals)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
