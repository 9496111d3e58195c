#!/usr/bin/env bash
# torch 2.13.0: kaiming_normal_(mode="fan_in") of a ConvTranspose2d counts its OUTPUT channels; 512 -> 3 amplifies 6 times.
#
# fan_in is to keep the variance of activations in the forward pass, so one would guess that a decoder's or generator's
# transposed convolutions start with outputs of variance 1. The fans are read off the axes of the weight, second axis =
# inputs, as Linear and Conv2d have them; the weight of a transposed convolution is [inputs, outputs, ...], so "fan_in" is
# outputs x kernel area, and the stride is not taken into account by any mode. The last layer of a generator (many features
# to 1 or 3 channels) is hit worst: its tanh or sigmoid starts saturated. The default initialization of the layer has the
# same rule. mode="fan_out" counts the inputs, and is low by the stride instead.
#
# Seen (the same in two runs):
#     torch 2.13.0: standard deviation of the output, kernel 4, stride 2
#     512 ->   3 Conv2d          fan_in 0.99, fan_out 12.59, default 0.54
#     512 ->   3 ConvTranspose2d fan_in 6.61, fan_out 0.50, default 3.79
#     512 -> 256 Conv2d          fan_in 1.00, fan_out 1.43, default 0.58
#     512 -> 256 ConvTranspose2d fan_in 0.71, fan_out 0.50, default 0.41
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from torch import nn

torch.manual_seed(0)


def output_std(layer, mode):
    """Of inputs with standard deviation 1, far from the border."""
    if mode != "default":
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="linear")
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        return layer(torch.randn(8, 512, 16, 16))[:, :, 2:-2, 2:-2].std().item()


print(f"torch {torch.__version__.split('+')[0]}: standard deviation of the output, kernel 4, stride 2")
found = {}
for outputs in (3, 256):
    for kind in (nn.Conv2d, nn.ConvTranspose2d):
        for mode in ("fan_in", "fan_out", "default"):
            found[outputs, kind, mode] = output_std(kind(512, outputs, 4, 2, 1), mode)
        row = ", ".join(f"{mode} {found[outputs, kind, mode]:.2f}" for mode in ("fan_in", "fan_out", "default"))
        print(f"512 -> {outputs:3} {kind.__name__:15} {row}")
expected = (
    abs(found[3, nn.Conv2d, "fan_in"] - 1) < 0.1 and abs(found[256, nn.Conv2d, "fan_in"] - 1) < 0.1
    and found[3, nn.ConvTranspose2d, "fan_in"] > 6 and abs(found[3, nn.ConvTranspose2d, "fan_out"] - 0.5) < 0.05
    and found[3, nn.ConvTranspose2d, "default"] > 3
)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
