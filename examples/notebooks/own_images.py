# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own images
#
# From a folder of images to a trained pixel model and its samples. The folder here holds small colored shapes that the
# first cell writes, so that the notebook runs anywhere; point `folder` at your own images instead.

# %%
import tempfile
from pathlib import Path

import numpy as np

import pixelloom as pl
from pixelloom.data.catalog import load

work = Path(tempfile.mkdtemp())
folder = work / "images"
shapes = load(pl.DataConfig(source="shapes", size=16)).train  # uint8 levels [N, 3, 16, 16], and a class of each image
images, labels = shapes.take(np.arange(300))
for i, (image, label) in enumerate(zip(images, labels, strict=True)):
    path = folder / f"class-{label}" / f"{i:04}.png"  # one folder for each class
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.grid(image[None], 256, scale=1, margin=0).save(path)

# %% [markdown]
# `--data` of the command line and `DataConfig` read folders, zips, arrays and lists of files. Fewer levels make a small
# model learn faster: here 4 a channel. Splits are cut by a hash of each image's content.

# %%
data = load(pl.DataConfig(source=str(folder), levels=4))
print(data.spec, data.counts())
pl.grid(data.train.take(np.arange(16))[0], data.spec.levels, columns=8)

# %% [markdown]
# Train. The budget is small; `minutes=10` would be a start for real images. With `plot=True`, curves and samples appear
# below and are updated while the run trains.

# %%
model = pl.train(
    "pixelcnn",
    data=folder,
    images=800,
    out=work / "run",
    plot=True,
    overrides={
        "data.levels": 4,
        "model.block": "gated",
        "model.channels": 24,
        "model.hidden": 12,
        "model.blocks": 2,
        "model.first_kernel": 5,
        "model.kernel": 3,
        "train.batch": 16,
    },
)

# %% [markdown]
# The exact likelihood of the test images. A uniform distribution over 4 levels costs 2 bits/dim.

# %%
result = pl.evaluate(model, split="test")
assert result.bits_per_dim < 2
print(f"{result.bits_per_dim:.3f} bits/dim on {result.n} test images")

# %% [markdown]
# Samples. The seed and the number of an image determine it, whatever the batch size.

# %%
samples = model.sample(16, seed=0)
pl.grid(samples.numpy(), model.spec.levels, columns=8)

# %% [markdown]
# The same with the command line:
#
#     pixelloom train pixelcnn --data images --levels 4 --minutes 10 --out runs/own
#     pixelloom evaluate runs/own --split test
#     pixelloom sample runs/own -n 16 --out samples.png
