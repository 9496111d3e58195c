"""Draw samples at several temperatures: a grid with one row for each.

    python examples/sample.py --model binarized-mnist --columns 10 --out temperatures.png

Image i depends on the seed and on i only, so the images of a column are drawn from the same noise. Temperature T
divides the logits by T: below 1 images are likelier and vary less; 1 is the distribution of the model.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import pixelloom as pl

parser = argparse.ArgumentParser(description="Draw samples at several temperatures.")
parser.add_argument("--model", default="binarized-mnist", help="a run folder, or a model of the package")
parser.add_argument("--temperatures", type=float, nargs="+", default=[0.7, 0.85, 1.0])
parser.add_argument("--columns", type=int, default=10, help="samples at each temperature")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("temperatures.png"))
options = parser.parse_args()

model = pl.load(options.model)
if not isinstance(model, pl.PixelModel):
    raise SystemExit("temperature needs a pixel model")

rows = []
for temperature in options.temperatures:
    start = time.perf_counter()
    images = model.sample(options.columns, seed=options.seed, temperature=temperature)  # uint8 [N, C, H, W]
    seconds = time.perf_counter() - start
    nats = -model.log_prob(images).mean()  # under the model at temperature 1
    print(f"temperature {temperature}: {nats:.1f} nats/image on average, {seconds:.2f} s")
    rows.append(images.numpy())

pl.grid(np.concatenate(rows), model.spec.levels, columns=options.columns).save(options.out)
print(f"{options.out}: one row for each temperature")
