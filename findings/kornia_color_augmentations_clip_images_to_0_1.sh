#!/usr/bin/env bash
# kornia 0.9.0: color augmentations set the negative half of images in [-1, 1] to 0, silently.
#
# Discriminators see images in [-1, 1] (tanh), and differentiable augmentation needs operations that are defined there, as
# those of Zhao et al. 2020 are. One would guess that a brightness change of at most 1% moves values by 1%, or that values
# out of the range are refused. RandomBrightness, RandomContrast, RandomSaturation, RandomGamma, ColorJitter, ColorJiggle,
# RandomSharpness and RandomPosterize clip their result to [0, 1]: half of all values become 0, and the gradient to the
# generator is 0 there, so it cannot leave the dark half once it is in it. Geometric augmentations of the same package
# (flips, rotation, erasing) keep the range, so a pipeline that was checked with these seems to be right.
#
# Seen (the same in two runs):
#     kornia 0.9.0: random images in [-1, 1], half of the values negative
#     RandomBrightness     lowest value   0.00; values without a gradient:  50%
#     RandomContrast       lowest value   0.00; values without a gradient:  50%
#     RandomSaturation     lowest value   0.00; values without a gradient:  50%
#     RandomGamma          lowest value   0.00; values without a gradient:  50%
#     ColorJitter          lowest value   0.00; values without a gradient:  50%
#     ColorJiggle          lowest value   0.00; values without a gradient:  50%
#     RandomSharpness      lowest value   0.00; values without a gradient:  50%
#     RandomPosterize      lowest value   0.00; values without a gradient:  50%
#     RandomHorizontalFlip lowest value  -1.00; values without a gradient:   0%
#     RandomRotation       lowest value  -0.99; values without a gradient:   0%
#     RandomErasing        lowest value  -1.00; values without a gradient:  22%
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 kornia==0.9.0
cd "$work"
"$work/venv/bin/python" - 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import sys

import kornia
import kornia.augmentation as K
import torch

torch.manual_seed(0)
weak = (0.99, 1.01)
color = [
    K.RandomBrightness(weak, p=1.0), K.RandomContrast(weak, p=1.0), K.RandomSaturation(weak, p=1.0),
    K.RandomGamma(weak, p=1.0), K.ColorJitter(0.01, 0.01, 0.01, 0.0, p=1.0), K.ColorJiggle(0.01, 0.01, 0.01, 0.0, p=1.0),
    K.RandomSharpness(0.01, p=1.0), K.RandomPosterize(8, p=1.0),
]
geometric = [K.RandomHorizontalFlip(p=1.0), K.RandomRotation(5.0, p=1.0), K.RandomErasing(p=1.0)]
print(f"kornia {kornia.__version__}: random images in [-1, 1], half of the values negative")
expected = True
for augmentation in color + geometric:
    x = (2 * torch.rand(8, 3, 32, 32) - 1).requires_grad_()
    y = augmentation(x)
    y.sum().backward()
    lowest = y.min().item()
    dead = (x.grad == 0).float().mean().item()
    clipped = augmentation in color
    print(f"{type(augmentation).__name__:20} lowest value {lowest:6.2f}; values without a gradient: {100 * dead:3.0f}%")
    expected = expected and (lowest >= 0 if clipped else lowest < -0.8)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
