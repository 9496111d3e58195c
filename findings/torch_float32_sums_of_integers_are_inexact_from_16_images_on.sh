#!/usr/bin/env bash
# torch 2.13.0: without oneDNN, a float32 convolution of small integers is wrong from 16 images a batch on, exact below.
#
# Sums of products of integers below 2^24 are exact in float32 in whatever order they are taken, so a quantized network may
# be expected to give equal integers on every CPU. With oneDNN switched off, or in a build of torch without it, conv2d
# hands batches of 16 or more images to NNPACK where the processor has AVX2; its 3x3 convolutions are Winograd transforms,
# whose intermediate results are not integers. The same images in batches of 8 are exact, as are all batches once NNPACK
# is switched off too, or with oneDNN. So a decoder that was tested with small batches fails with large ones.
#
# Seen (the same in two runs; on a processor without AVX2 the second line has 0 too):
#     torch 2.13.0
#     batch  8, oneDNN off, NNPACK on : 0 of 200,704 sums differ from float64
#     batch 16, oneDNN off, NNPACK on : most of 401,408 sums differ, none by 1
#     batch 16, oneDNN off, NNPACK off: 0 of 401,408 sums differ from float64
#     batch 16, oneDNN on             : 0 of 401,408 sums differ from float64
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import torch
import torch.nn.functional as F

generator = torch.Generator().manual_seed(0)
images = torch.randint(-500, 501, (16, 32, 28, 28), generator=generator).float()
weight = torch.randint(-15, 16, (32, 32, 3, 3), generator=generator).float()
assert 500 * weight.abs().sum((1, 2, 3)).max() < 2**24  # every partial sum is an integer that float32 has
nnpack = "AVX2" in torch.__config__.show() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def wrong(n, onednn, with_nnpack):
    truth = F.conv2d(images[:n].double(), weight.double(), padding=1)
    torch.backends.mkldnn.set_flags(onednn, None, None, None)
    with torch.backends.nnpack.flags(enabled=with_nnpack):
        return (F.conv2d(images[:n], weight, padding=1).double() - truth).abs()


print(f"torch {torch.__version__.split('+')[0]}")
few, many, plain, usual = wrong(8, False, True), wrong(16, False, True), wrong(16, False, False), wrong(16, True, True)
share = (many > 0).double().mean()
print(f"batch  8, oneDNN off, NNPACK on : {int((few > 0).sum())} of {few.numel():,} sums differ from float64")
print(f"batch 16, oneDNN off, NNPACK on : {'most' if share > 0.5 else int((many > 0).sum())} of {many.numel():,} sums differ, none by 1")
print(f"batch 16, oneDNN off, NNPACK off: {int((plain > 0).sum())} of {plain.numel():,} sums differ from float64")
print(f"batch 16, oneDNN on             : {int((usual > 0).sum())} of {usual.numel():,} sums differ from float64")
exact = few.max() == plain.max() == usual.max() == 0
expected = exact and many.max() < 1 and (share > 0.5 or not nnpack)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
