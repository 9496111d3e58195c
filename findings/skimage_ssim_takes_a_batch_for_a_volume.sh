#!/usr/bin/env bash
# scikit-image 0.26.0: structural_similarity of a batch of gray images depends on the order of the images in the batch.
#
# One would guess that arrays of shape [n, height, width] give the mean SSIM of n pairs, or an error. They are taken for a
# volume: the window is a cube of 7x7x7 that reaches through seven neighboring images, their differences count as variance,
# and the number mixes pairs that have nothing to do with each other. The same 32 pairs in another order give another SSIM,
# here 0.96 and 0.68, while the mean over pairs is 0.60. A batch of at least 7 images raises no error, and 0.96 looks
# like a good reconstruction. (channel_axis=0 gives the mean over pairs; so does torchmetrics, which wants [n, 1, h, w].)
#
# Seen (the same in two runs):
#     scikit-image 0.26.0
#     SSIM of the arrays [32, 28, 28]:         0.96
#     the same pairs in another order:         0.68
#     mean over pairs:                         0.60
#     SSIM of the arrays with channel_axis=0:  0.60
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scikit-image==0.26.0 numpy==2.3.5 scipy==1.17.1
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import skimage
from skimage.metrics import structural_similarity as ssim

rng = np.random.default_rng(0)
target = rng.random((32, 28, 28))
target[::2] *= 0.1  # dark and bright images in turn
noisy = np.clip(target + 0.1 * rng.normal(size=target.shape), 0, 1)
order = np.argsort(np.arange(32) % 2, kind="stable")  # the same pairs, dark ones first
batch = ssim(target, noisy, data_range=1)
sorted_batch = ssim(target[order], noisy[order], data_range=1)
pairs = np.mean([ssim(a, b, data_range=1) for a, b in zip(target, noisy, strict=True)])
channels = ssim(target, noisy, data_range=1, channel_axis=0)
print(f"scikit-image {skimage.__version__}")
print(f"SSIM of the arrays [32, 28, 28]:         {batch:.2f}")
print(f"the same pairs in another order:         {sorted_batch:.2f}")
print(f"mean over pairs:                         {pairs:.2f}")
print(f"SSIM of the arrays with channel_axis=0:  {channels:.2f}")
expected = batch > 0.9 and sorted_batch < 0.75 and pairs < 0.65 and abs(channels - pairs) < 1e-9
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
