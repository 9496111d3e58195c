"""Rank the images of a split by their exact likelihood under a pixel model; save the most and the least likely ones.

    python examples/likelihood.py --model runs/example --count 8 --out ranked.png

An image that the model finds unlikely is rare, or differs from the training images. In bits/dim, log2(levels) is the
cost under a uniform distribution.
"""

import argparse
import math
from pathlib import Path

import numpy as np

import pixelloom as pl
from pixelloom.data.catalog import load
from pixelloom.runs.evaluate import data_for

parser = argparse.ArgumentParser(description="Rank images by their likelihood.")
parser.add_argument("--model", default="runs/example", help="a run folder, or a model of the package")
parser.add_argument("--data", help="name or path; by default the data that the model was trained on")
parser.add_argument("--split", default="test", choices=("train", "val", "test"))
parser.add_argument("--limit", type=int, default=1000, help="images to score, evenly spaced over the split")
parser.add_argument("--count", type=int, default=8, help="images to show of either kind")
parser.add_argument("--out", type=Path, default=Path("ranked.png"))
options = parser.parse_args()

model = pl.load(options.model)
data = getattr(load(data_for(model, options.data)), options.split)  # in the form that the model was trained on
chosen = np.linspace(0, len(data) - 1, min(options.limit, len(data))).astype(int)
images, _ = data.take(chosen)

nats = -model.log_prob(images)  # float64 [N]
bits = nats / (math.log(2) * math.prod(images.shape[1:]))
print(f"{len(bits)} images: mean {bits.mean():.3f} bits/dim, {bits.min():.3f} to {bits.max():.3f}")
order = bits.argsort().numpy()
shown = np.concatenate([images[order[: options.count]], images[order[-options.count :]]])
pl.grid(shown, model.spec.levels, columns=options.count).save(options.out)
print(f"{options.out}: most likely above, least likely below")
