#!/usr/bin/env bash
# torchmetrics 1.9.0: PeakSignalNoiseRatio over 100 images gives 26 dB where the mean of the 100 PSNRs is 59 dB.
#
# Papers report the mean of the PSNRs of images; one would guess that a metric which is updated batch by batch and computed
# at the end gives that mean, since SSIM of the same package does. The squared errors of all pixels of all images are pooled
# and one logarithm is taken, so the images with the largest errors decide: 99 reconstructions of 60 dB and one failure of
# 6 dB give 26 dB. The log of a mean is at most the mean of logs: PSNR of a set is always lower than in papers, the more the
# images differ. dim=(1, 2, 3) gives the mean over images; reduction="elementwise_mean" alone, the default, has no effect
# without dim.
#
# Seen (the same in two runs):
#     torchmetrics 1.9.0, torch 2.13.0: 100 images in 5 batches
#     PSNR of the first image 6.0 dB, of each other one 60.0 dB, mean 59.5 dB
#     PeakSignalNoiseRatio: 26.0 dB; with dim=(1, 2, 3): 59.5 dB
#     SSIM of the set is the mean over its images: True
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 torchmetrics==1.9.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import torch
import torchmetrics
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

torch.manual_seed(0)
target = torch.rand(100, 1, 16, 16)
output = target + 0.001
output[0] = target[0] + 0.5  # one failure


def computed(metric):
    for i in range(0, 100, 20):
        metric.update(output[i : i + 20], target[i : i + 20])
    return metric.compute().item()


each = [computed_one.item() for computed_one in (-10 * (output - target).square().mean((1, 2, 3)).log10())]
mean = sum(each) / len(each)
pooled = computed(PeakSignalNoiseRatio(data_range=1.0))
with_dim = computed(PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3)))
ssim = StructuralSimilarityIndexMeasure(data_range=1.0)
ssim_each = [ssim(output[i : i + 1], target[i : i + 1]).item() for i in range(100)]
ssim.reset()
ssim_set = computed(ssim)
print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__.split('+')[0]}: 100 images in 5 batches")
print(f"PSNR of the first image {each[0]:.1f} dB, of each other one {each[1]:.1f} dB, mean {mean:.1f} dB")
print(f"PeakSignalNoiseRatio: {pooled:.1f} dB; with dim=(1, 2, 3): {with_dim:.1f} dB")
print(f"SSIM of the set is the mean over its images: {abs(ssim_set - sum(ssim_each) / 100) < 1e-4}")
expected = 25 < pooled < 27 and 59 < mean < 60 and abs(with_dim - mean) < 0.01
expected = expected and abs(ssim_set - sum(ssim_each) / 100) < 1e-4
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
