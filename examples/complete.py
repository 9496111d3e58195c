"""Complete the lower half of images from the upper half.

    python examples/complete.py --model runs/example --data digits --out completed.png

Pixels are drawn in raster order, each given all before it, so given upper rows the lower ones are exact samples of
p(lower | upper).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import pixelloom as pl
from pixelloom.data.catalog import load
from pixelloom.runs.evaluate import data_for

parser = argparse.ArgumentParser(description="Complete the lower half of images.")
parser.add_argument("--model", default="runs/example", help="a run folder, or a model of the package")
parser.add_argument("--data", help="name or path; by default the data that the model was trained on")
parser.add_argument("--rows", type=int, default=5, help="images to complete, evenly spaced over the test split")
parser.add_argument("--draws", type=int, default=6, help="completions of each")
parser.add_argument("--out", type=Path, default=Path("completed.png"))
options = parser.parse_args()

model = pl.load(options.model)
data = load(data_for(model, options.data)).test
truth, _ = data.take(np.linspace(0, len(data) - 1, options.rows).astype(int))  # uint8 [rows, C, H, W]

mask = torch.zeros(model.spec.shape, dtype=torch.bool)  # true where a pixel is known
mask[:, : model.spec.height // 2] = True
given = torch.from_numpy(np.repeat(truth, options.draws, axis=0))  # [rows * draws, C, H, W]
drawn = model.sample(len(given), given=given, mask=mask, seed=0).numpy()
assert (drawn[:, :, : model.spec.height // 2] == given.numpy()[:, :, : model.spec.height // 2]).all()

upper = np.where(mask.numpy(), truth, 0)  # the known half, then the completions, then the truth
drawn = drawn.reshape(options.rows, options.draws, *model.spec.shape)
table = np.concatenate([upper[:, None], drawn, truth[:, None]], axis=1)  # [rows, draws + 2, C, H, W]
pl.grid(table.reshape(-1, *model.spec.shape), model.spec.levels, columns=options.draws + 2).save(options.out)
print(f"{options.out}: upper half, {options.draws} completions, truth")
