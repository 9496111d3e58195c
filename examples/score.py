"""Score test images for anomaly, and the same images with their upper and lower halves exchanged.

    python examples/score.py --model runs/example --out scored.png

The threshold comes from the validation split: at most a share --false-alarms of normal images exceeds it. Exchanged
halves have the same pixel values, so only a model of images can tell them from the originals.
"""

import argparse
from pathlib import Path

import numpy as np

import pixelloom as pl
from pixelloom.data.catalog import load
from pixelloom.runs.evaluate import data_for

parser = argparse.ArgumentParser(description="Score images for anomaly.")
parser.add_argument("--model", default="runs/example", help="a run folder, or a model of the package")
parser.add_argument("--limit", type=int, default=1000, help="test images, evenly spaced over the split")
parser.add_argument("--false-alarms", type=float, default=0.02, help="share of normal images that may be flagged")
parser.add_argument("--count", type=int, default=8, help="images to show, of the highest and of the lowest scores")
parser.add_argument("--out", type=Path, default=Path("scored.png"))
options = parser.parse_args()

model = pl.load(options.model)
data = load(data_for(model)).test
n = min(options.limit, len(data))
images, _ = data.take(np.arange(n) * len(data) // n)  # levels uint8 [n, C, H, W]
exchanged = np.roll(images, images.shape[2] // 2, axis=2)

normal = pl.score(model, images, false_alarms=options.false_alarms)
odd = pl.score(model, exchanged, calibrate=normal.calibration, false_alarms=options.false_alarms)
flagged = f"{normal.flags.sum()} of {n} test images, {odd.flags.sum()} of {n} with halves exchanged"
print(f"flagged: {flagged} (threshold {normal.threshold:.3f})")
for kind, found in normal.against(odd).items():
    low, high = found.auroc_95
    print(f"{kind:10} AUROC {found.auroc:.3f} (95 % interval {low:.3f} to {high:.3f})")

order = np.argsort(normal.scores, kind="stable")
most = np.argsort(-normal.scores, kind="stable")[: options.count]
shown = np.concatenate([images[most], images[order[: options.count]]])
pl.grid(shown, model.spec.levels, columns=options.count).save(options.out)
print(f"{options.out}: the most anomalous test images above, the most usual ones below")
