#!/usr/bin/env bash
# torch 2.13.0: bicubic interpolation with antialias=True uses another cubic (a = -0.5) than without (a = -0.75).
#
# antialias widens the filter when an image shrinks, so one would guess that it changes nothing when an image grows, as it
# is with bilinear. With bicubic the kernel itself changes: enlarging a step from 0 to 1 overshoots by 0.07 with
# antialias=True and by 0.11 without, and up to 6% of the range lie between the two results for noise. antialias=True is the
# filter of Pillow's BICUBIC, antialias=False that of OpenCV's INTER_CUBIC. So FID features, super-resolution baselines and
# "the same bicubic" low-resolution inputs differ by a flag that "should only matter for downsampling".
#
# Seen (the same in two runs):
#     torch 2.13.0, pillow 13.0.0: 16x16 enlarged to 32x32
#     bilinear noise: antialias True and False differ by at most 0.000
#     bicubic  noise: antialias True and False differ by at most 0.066
#     bicubic, a step: overshoot 0.070 with antialias, 0.105 without
#     bicubic, from Pillow: 0.000 with antialias, 0.066 without
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 pillow==13.0.0
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image


def enlarge(image, mode, antialias):
    return F.interpolate(image[None, None], scale_factor=2, mode=mode, antialias=antialias)[0, 0]


torch.manual_seed(0)
noise = torch.rand(16, 16)
step = torch.zeros(16, 16)
step[:, 8:] = 1
print(f"torch {torch.__version__.split('+')[0]}, pillow {PIL.__version__}: 16x16 enlarged to 32x32")
apart = {}
for mode in ("bilinear", "bicubic"):
    apart[mode] = (enlarge(noise, mode, True) - enlarge(noise, mode, False)).abs().max().item()
    print(f"{mode:8} noise: antialias True and False differ by at most {apart[mode]:.3f}")
over = {flag: enlarge(step, "bicubic", flag).max().item() - 1 for flag in (True, False)}
print(f"bicubic, a step: overshoot {over[True]:.3f} with antialias, {over[False]:.3f} without")
pillow = np.asarray(Image.fromarray(noise.numpy()).resize((32, 32), Image.Resampling.BICUBIC))
to_pillow = {flag: np.abs(enlarge(noise, "bicubic", flag).numpy() - pillow).max() for flag in (True, False)}
print(f"bicubic, from Pillow: {to_pillow[True]:.3f} with antialias, {to_pillow[False]:.3f} without")
expected = apart["bilinear"] < 1e-6 and apart["bicubic"] > 0.03 and to_pillow[True] < 1e-5 and to_pillow[False] > 0.03
expected = expected and over[False] > 1.4 * over[True] > 0.05
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
