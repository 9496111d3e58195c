#!/usr/bin/env bash
# torch 2.13.0, onnxscript 0.7.2, onnxruntime 1.32.0: exported attention under a strictly causal mask reads the future.
#
# Pixel networks with attention (PixelSNAIL) mask a pixel from itself, so the first query may read nothing. One would guess
# that the exported network gives what the network gives: exactly 0 for that query, which is what torch defines for a row
# that is masked throughout. The exporter guards such rows against NaN, but a constant boolean mask is folded to the lowest
# finite float instead of -inf, so the guard never sees one: softmax of equal numbers is uniform, and the first pixel gets
# the mean of the values of ALL pixels. No NaN, no warning, all other rows equal. The exported model is not causal: samples
# that are drawn with it one pixel after another depend on what the canvas was filled with, and its likelihood of the first
# pixel cheats. With opset_version=23 the exporter writes the operator Attention, and the output is 0. (Rows of NaN were
# removed in 2025 by microsoft/onnxscript pull request 2479; those were at least seen.)
#
# Seen (the same in two runs):
#     torch 2.13.0, onnxscript 0.7.2, onnxruntime 1.32.0
#     largest output of the first pixel in torch: 0.000; it reads the pixels []
#     exported, default opset:                    0.729; it reads the pixels [0, 1, 2, 3, 4, 5]
#     exported, opset 23:                         0.000; it reads the pixels []
#     the exported output is the mean of all values: True; other pixels agree: True
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.3.5 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
"$work/venv/bin/python" - "$work/attention.onnx" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import sys
import warnings
from importlib.metadata import version

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import nn

warnings.simplefilter("ignore")


class Attention(nn.Module):
    def __init__(self, pixels):
        super().__init__()
        self.register_buffer("earlier", torch.ones(pixels, pixels, dtype=torch.bool).tril(-1))

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, attn_mask=self.earlier)


torch.manual_seed(0)
x = torch.randn(1, 1, 6, 8)
attention = Attention(6).eval()


def export(**options):
    torch.onnx.export(attention, (x,), sys.argv[1], dynamo=True, verbose=False, **options)
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


exported, exported_23 = export(), export(opset_version=23)


def first_row_reads(f):
    """The pixels whose change changes the output of the first pixel."""
    found = []
    for pixel in range(6):
        changed = x.clone()
        changed[0, 0, pixel] += 1
        if np.abs(np.asarray(f(changed))[0, 0, 0] - np.asarray(f(x))[0, 0, 0]).max() > 1e-4:
            found.append(pixel)
    return found


ours, theirs = attention(x).numpy(), exported(x)
rest = np.abs(ours - theirs)[0, 0, 1:].max()
from_mean = np.abs(theirs[0, 0, 0] - x[0, 0].mean(0).numpy()).max()
reads = [first_row_reads(f) for f in (attention, exported, exported_23)]
print(f"torch {version('torch').split('+')[0]}, onnxscript {version('onnxscript')}, onnxruntime {version('onnxruntime')}")
print(f"largest output of the first pixel in torch: {np.abs(ours[0, 0, 0]).max():.3f}; it reads the pixels {reads[0]}")
print(f"exported, default opset:                    {np.abs(theirs[0, 0, 0]).max():.3f}; it reads the pixels {reads[1]}")
at_23 = np.abs(exported_23(x)[0, 0, 0]).max()
print(f"exported, opset 23:                         {at_23:.3f}; it reads the pixels {reads[2]}")
print(f"the exported output is the mean of all values: {bool(from_mean < 1e-5)}; other pixels agree: {bool(rest < 1e-5)}")
expected = reads == [[], list(range(6)), []] and not ours[0, 0, 0].any() and from_mean < 1e-5 and rest < 1e-5
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
