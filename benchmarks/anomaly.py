"""Anomaly scores of a model: areas against other data sets, and promised against seen false alarms.

    python benchmarks/anomaly.py --model MODEL --against NAME... [--background MODEL] [-n 1000] [--out FILE]

Normal images are -n of the model's test split, outliers -n of each other data set (its test split), all evenly spaced;
others are fitted as the training images. The calibration is that of `pixelloom score`: 2,000 validation images.

    detection       AUROC, AUPR and FPR at 95 % TPR of each kind of score, with 95 % intervals
    false_alarms    share of the normal images that the threshold of each kind flags, with its 95 % Wilson interval, for
                    promised rates of 0.1, 0.05 and 0.01
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pixelloom as pl
from machine import facts
from pixelloom.metrics.anomaly import threshold
from pixelloom.metrics.class_accuracy import wilson
from pixelloom.models.family import GenerativeModel
from pixelloom.runs.anomaly import Scorer, calibrate
from pixelloom.runs.score import ImageScores, normals, opened, score_images

RATES = (0.1, 0.05, 0.01)
OUT = Path(__file__).parent / "results" / "anomaly.json"


def alarms(scored: ImageScores) -> dict[str, Any]:
    """Seen rates of false alarms for each kind of score and promised rate."""
    calibration, found, n = scored.calibration, {}, len(scored.rows)
    for kind, own in calibration.scores.items():
        values = calibration.reference.score(kind, scored.statistics)
        hits = {rate: int((values > threshold(own, rate)).sum()) for rate in RATES}
        found[kind] = {str(rate): {"seen": count / n, "interval": wilson(count, n)} for rate, count in hits.items()}
    return found


def measured(model: GenerativeModel, against: list[str], background: GenerativeModel | None, n: int) -> dict[str, Any]:
    """All results of a model."""
    scorer = Scorer(model, background)
    with normals(model) as source:
        calibration = calibrate(scorer, source, min(RATES))
    with opened(model) as source:
        normal, title = score_images(scorer, calibration, source, limit=n), source.title
    detections: dict[str, Any] = {}
    for name in against:
        with opened(model, name) as source:
            outliers = score_images(scorer, calibration, source, limit=n)
        detections[name] = {kind: each.as_dict() for kind, each in normal.against(outliers).items()}
        for kind, each in detections[name].items():
            print(f"{title} against {name}, {kind}: AUROC {each['auroc']:.4f}", flush=True)
    return {
        "normal": title,
        "n": len(normal.rows),
        "calibration": {"data": calibration.title, "n": len(calibration.scores["auto"])},
        "detection": detections,
        "false_alarms": alarms(normal),
    }


def main() -> None:
    """Measure, and write one JSON file."""
    parser = argparse.ArgumentParser(description="Anomaly scores of a model.")
    parser.add_argument("--model", required=True, help="a run folder, or a model of the package")
    parser.add_argument("--against", nargs="+", required=True, help="names or paths of data with outliers")
    parser.add_argument("--background", help="background model for the kind ratio")
    parser.add_argument("-n", type=int, default=1000, help="images of each data set")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    background = None if options.background is None else pl.load(options.background)
    found = measured(pl.load(options.model), options.against, background, options.n)
    about = {"model": options.model, "background": options.background, "machine": facts()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
