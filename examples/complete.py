"""Complete a hidden region of images from the known pixels.

    python examples/complete.py --model runs/example --data digits --out completed.png

The lower half comes last in raster order, so its pixels are drawn exactly from p(lower | upper). For another region,
such as --hide top, the model needs `--orders 8` or `--condition mask` in training; any other is sampled by particles.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import pixelloom as pl
from pixelloom.data.catalog import load
from pixelloom.data.masks import region
from pixelloom.runs.evaluate import data_for

parser = argparse.ArgumentParser(description="Complete a hidden region of images.")
parser.add_argument("--model", default="runs/example", help="a run folder, or a model of the package")
parser.add_argument("--data", help="name or path; by default the data that the model was trained on")
parser.add_argument("--hide", default="bottom", help="bottom, top, left, right, center, or a share such as 75%%")
parser.add_argument("--rows", type=int, default=5, help="images to complete, evenly spaced over the test split")
parser.add_argument("--draws", type=int, default=6, help="completions of each")
parser.add_argument("--out", type=Path, default=Path("completed.png"))
options = parser.parse_args()

model = pl.load(options.model)
data = load(data_for(model, options.data)).test
truth, _ = data.take(np.linspace(0, len(data) - 1, options.rows).astype(int))  # uint8 [rows, C, H, W]

hidden = region(options.hide, model.spec.height, model.spec.width)  # bool [H, W]
found = model.complete(torch.from_numpy(truth), hidden, options.draws, seed=0)
drawn = found.images.numpy()  # [rows, draws, C, H, W]
assert (drawn == truth[:, None])[..., ~hidden.numpy()].all()  # known pixels stay

known = np.where(hidden.numpy(), 0, truth)  # the known pixels, then the completions, then the truth
table = np.concatenate([known[:, None], drawn, truth[:, None]], axis=1)  # [rows, draws + 2, C, H, W]
pl.grid(table.reshape(-1, *model.spec.shape), model.spec.levels, columns=options.draws + 2).save(options.out)
nats = -found.log_prob.mean() / max(1, int(hidden.sum()) * model.spec.channels)
print(f"{options.out}: known pixels, {options.draws} completions, truth")
print(f"method {found.method}, {nats:.3f} nats per hidden value")
