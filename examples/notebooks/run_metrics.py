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
# # Read a run's metrics
#
# A run writes one JSON object a line to `metrics.jsonl`. This notebook reads the file, plots training against
# validation, and finds the step at which the best model was saved.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import pixelloom as pl

run = Path(tempfile.mkdtemp()) / "run"
model = pl.train(
    "digits",
    images=1600,
    out=run,
    overrides={"model.channels": 32, "model.hidden": 16, "model.blocks": 2, "train.validate_every": 10},
)
sorted(path.name for path in run.iterdir())

# %% [markdown]
# Each line has `split` ("train" or "val"), `step`, `images` and `seconds`, and the values of that moment.

# %%
rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
training = [row for row in rows if row["split"] == "train" and "bits/dim" in row]
validation = [row for row in rows if row["split"] == "val" and "bits/dim" in row]
print(len(training), "lines of training,", len(validation), "of validation")
validation[-1]

# %%
figure, axes = plt.subplots(figsize=(6, 3))
for name, found in (("training", training), ("validation", validation)):
    axes.plot([row["images"] for row in found], [row["bits/dim"] for row in found], marker=".", label=name)
axes.set(xlabel="images", ylabel="bits/dim")
axes.legend()
figure.tight_layout()

# %% [markdown]
# Training lines are means over the batches since the line before, with dropout; validation scores the EMA weights. So
# validation may be below training. `model/` holds the model with the best validation result, which
# `pl.train` returns and `pl.load(run)` loads.

# %%
best = min(validation, key=lambda row: row["bits/dim"])
print(f"best: {best['bits/dim']:.3f} bits/dim after {best['images']:,} images")
assert best["bits/dim"] <= validation[0]["bits/dim"]

# %% [markdown]
# The result on the test split, which neither training nor selection used:

# %%
result = pl.evaluate(pl.load(run), split="test")
low, high = result.bits_per_dim_95
print(f"{result.bits_per_dim:.3f} bits/dim (95 %: {low:.3f} to {high:.3f}), {result.n} images")
assert low <= result.bits_per_dim <= high
