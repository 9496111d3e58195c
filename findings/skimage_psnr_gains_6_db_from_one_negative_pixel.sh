#!/usr/bin/env bash
# scikit-image 0.26.0: peak_signal_noise_ratio of float images adds 6.02 dB if any target pixel is below 0.
#
# One would guess that the range of float images is taken for 1, or asked for (structural_similarity of the same package
# raises for floats). It is 1 if the smallest value of the target is at least 0, and 2 otherwise: (-1, 1) is the range of
# floats. So a target of [0, 1] with one value of -1e-6, from an interpolation or a network without clamping, is scored 6 dB
# better with the same errors. In a set of images of [-1, 1], as GANs have them, the bright images without a negative
# pixel are scored with a range of 1 and all others with 2: the mean PSNR depends on how many such images there are, and no
# fixed data_range gives it.
#
# Seen (the same in two runs):
#     scikit-image 0.26.0
#     target in [0, 1]:                     25.98 dB
#     one pixel of it set to -1e-6:         32.00 dB
#     8 targets in [-1, 1], same error:     32.00 32.00 32.00 32.00 25.98 25.98 25.98 25.98
#     structural_similarity of the first:   ValueError: asks for data_range
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
from skimage.metrics import peak_signal_noise_ratio as psnr
from skimage.metrics import structural_similarity as ssim

rng = np.random.default_rng(0)
error = 0.05 * rng.normal(size=(28, 28))
image = rng.random((28, 28))
touched = image.copy()
touched[0, 0] = -1e-6
signed = 2 * rng.random((8, 28, 28)) - 1  # [-1, 1]
bright = np.abs(signed[:4])  # also in [-1, 1], without a negative pixel
plain, one_pixel = psnr(image, image + error), psnr(touched, touched + error)
mixed = [psnr(x, x + error) for x in np.concatenate([signed[4:], bright])]
try:
    ssim(image, image + error)
    similarity = "a number"
except ValueError:
    similarity = "ValueError: asks for data_range"
print(f"scikit-image {skimage.__version__}")
print(f"target in [0, 1]:                     {plain:.2f} dB")
print(f"one pixel of it set to -1e-6:         {one_pixel:.2f} dB")
print(f"8 targets in [-1, 1], same error:     {' '.join(f'{value:.2f}' for value in mixed)}")
print(f"structural_similarity of the first:   {similarity}")
gain = 20 * np.log10(2)
expected = abs(one_pixel - plain - gain) < 0.01 and np.allclose(mixed[:4], mixed[4] + gain) and similarity != "a number"
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
