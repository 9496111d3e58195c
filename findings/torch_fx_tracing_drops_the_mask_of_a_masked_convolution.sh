#!/usr/bin/env bash
# torch 2.13.0: torch.fx traces a masked convolution without its mask; the traced PixelCNN sees the pixel it predicts.
#
# The usual masked convolution says `self.weight.data *= self.mask` in forward. One would guess that symbolic_trace records
# the product, or fails. A Proxy has no in-place operators, so `*=` becomes an ordinary product whose result is assigned
# to an attribute of a Proxy and lost: conv2d takes the unmasked weights. No error, no warning, and the graph even contains
# a `mul`, whose result nothing reads. After a trained model has run once its weights are masked in place and
# the traced twin agrees, so the usual comparison of both on one batch passes; it fails on a fresh model, on weights that
# come from an optimizer's step, and on a checkpoint of such weights. `weight * mask` as an expression is traced rightly;
# so is `weight.data.mul_(mask)`, a method.
#
# Seen (the same in two runs):
#     torch 2.13.0
#     AugmentedAssignment causal: True; traced: False; traced after one forward: True
#     Method              causal: True; traced: True; traced after one forward: True
#     Expression          causal: True; traced: True; traced after one forward: True
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import sys

import torch
import torch.nn.functional as F
from torch import nn


class Masked(nn.Conv2d):
    """Type A: reads what lies above and to the left."""

    def __init__(self):
        super().__init__(1, 1, 3, padding=1)
        mask = torch.zeros_like(self.weight)
        mask[:, :, 0], mask[:, :, 1, 0] = 1, 1
        self.register_buffer("mask", mask)


class AugmentedAssignment(Masked):
    def forward(self, x):
        self.weight.data *= self.mask
        return super().forward(x)


class Method(Masked):
    def forward(self, x):
        self.weight.data.mul_(self.mask)
        return super().forward(x)


class Expression(Masked):
    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


def causal(network):
    """Whether no output depends on its own pixel or a later one."""
    jacobian = torch.autograd.functional.jacobian(network, torch.zeros(1, 1, 5, 5)).reshape(25, 25)
    return not jacobian.triu().any().item()


print(f"torch {torch.__version__.split('+')[0]}")
found = {}
for kind in (AugmentedAssignment, Method, Expression):
    torch.manual_seed(0)
    traced = causal(torch.fx.symbolic_trace(kind()))
    torch.manual_seed(0)
    used = kind()
    eager = causal(used)
    found[kind.__name__] = eager, traced, causal(torch.fx.symbolic_trace(used))
    print(f"{kind.__name__:19} causal: {eager}; traced: {traced}; traced after one forward: {found[kind.__name__][2]}")
expected = found == {
    "AugmentedAssignment": (True, False, True), "Method": (True, True, True), "Expression": (True, True, True)
}
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
