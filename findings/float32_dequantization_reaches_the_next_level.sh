#!/usr/bin/env bash
# torch 2.13.0, numpy 2.3.5: (255 + uniform noise) / 256 in float32 is 1.0 for one white pixel in about 130,000 (2^17).
#
# Uniform noise is in [0, 1), so one would guess that dequantized levels are in [v, v + 1), images in [0, 1), and that a
# logit after them is finite. From level 128 on, float32 has steps of 2^-16, and a noise above 1 - 2^-17 rounds to the next
# level: floor gives back 129 for 128, and a white pixel becomes exactly 1.0. A flow on logits then has inf, and NaN in the
# loss: MNIST has 314,282 pixels of level 255 and meets it about twice in an epoch, so a run dies early or late by its seed.
# Levels of 64..127 reach the next one at half the rate, and so on down to level 0, which never does. Noise of numpy in
# float32 does it too; the sum in float64 does not, until it is cast to float32. Clamp the dequantized image below 1.
#
# Seen (the same in two runs):
#     torch 2.13.0, numpy 2.3.5: 10,000,000 pixels a level, noise in [0, 1)
#     level   0: floor(level + noise) is another level for 0 pixels
#     level  64: floor(level + noise) is another level for 36 pixels
#     level 128: floor(level + noise) is another level for 68 pixels
#     level 255: floor(level + noise) is another level for 68 pixels
#     white pixels that are 1.0: 68; their logit: inf
#     the same in numpy: 86; in float64: 0; in float64, then cast to float32: 68
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import torch

n = 10_000_000
u = torch.rand(n, generator=torch.Generator().manual_seed(0))
assert u.max() < 1
print(f"torch {torch.__version__.split('+')[0]}, numpy {np.__version__}: {n:,} pixels a level, noise in [0, 1)")
wrong = {}
for level in (0, 64, 128, 255):
    wrong[level] = ((level + u).floor() != level).sum().item()
    print(f"level {level:3}: floor(level + noise) is another level for {wrong[level]} pixels")
white = (255 + u) / 256
print(f"white pixels that are 1.0: {(white == 1).sum().item()}; their logit: {torch.logit(white).max().item()}")
noise = np.random.default_rng(0).random(n, dtype=np.float32)
in_numpy = int(((np.float32(255) + noise) / np.float32(256) == 1).sum())
in_double = (((255 + u.double()) / 256) == 1).sum().item()
cast = (((255 + u.double()) / 256).float() == 1).sum().item()
print(f"the same in numpy: {in_numpy}; in float64: {in_double}; in float64, then cast to float32: {cast}")
expected = (
    wrong[0] == 0 and 10 < wrong[64] < wrong[128] < 160 and wrong[128] == wrong[255] == (white == 1).sum().item()
    and torch.logit(white).max() == float("inf") and in_numpy > 30 and in_double == 0
)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
