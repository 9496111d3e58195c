"""Train a pixel model, evaluate it on the test split and save a grid of samples.

    python examples/train.py --data digits --images 20000 --out runs/example

`--data` also takes a folder, a zip or an array of your own images; then give `--size` and `--levels`, too.
"""

import argparse
from pathlib import Path

import pixelloom as pl

parser = argparse.ArgumentParser(description="Train a pixel model.")
parser.add_argument("--data", default="digits", help="name of a data set, or path of a folder, zip or array")
parser.add_argument("--size", type=int, help="height and width of the images; by default those of the data")
parser.add_argument("--levels", type=int, help="number of levels of a value; by default that of the data")
parser.add_argument("--images", type=int, default=20_000, help="training images, counted with repetition")
parser.add_argument("--out", type=Path, default=Path("runs/example"), help="the run folder")
options = parser.parse_args()

overrides: dict[str, object] = {
    "model.block": "gated",  # residual blocks with gates
    "model.kernel": 3,
    "model.blocks": 4,
    "model.positions": True,  # learned vectors of each position
    "model.dropout": 0.2,
    "optim.lr": 4e-3,
    "train.batch": 32,
}
if options.size:
    overrides["data.size"] = options.size
if options.levels:
    overrides["data.levels"] = options.levels

model = pl.train("pixelcnn", data=options.data, images=options.images, out=options.out, overrides=overrides)
result = pl.evaluate(model, split="test")
low, high = result.bits_per_dim_95
print(f"test: {result.bits_per_dim:.3f} bits/dim (95 %: {low:.3f} to {high:.3f}), {result.n} images")

images = model.sample(25, seed=0)  # uint8 levels [25, C, H, W]
pl.grid(images.numpy(), model.spec.levels).save(options.out / "examples.png")
print(f"samples: {options.out / 'examples.png'}")
