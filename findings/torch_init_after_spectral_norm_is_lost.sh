#!/usr/bin/env bash
# torch 2.13.0: nn.init on the weight of a layer with spectral_norm or weight_norm changes nothing, and raises nothing.
#
# GAN code builds its layers and then says net.apply(weights_init), which calls nn.init.normal_(m.weight, 0, 0.02)
# (Radford et al. 2015). With parametrizations.spectral_norm or weight_norm one would guess that this sets the weight, or
# fails because it is computed. `m.weight` is a fresh tensor at each access, so init fills a temporary: the layer keeps the
# default initialization. With the old torch.nn.utils.spectral_norm the same line WORKS until the first forward, because
# the attribute shares memory with weight_orig so far, and is lost after it. So a port from the old to the new function, or
# a forward pass for lazy shapes before the initialization, changes the scheme of initialization silently. What works is
# nn.init on parametrizations.weight.original, or the assignment `m.weight = tensor`.
#
# Seen (the same in two runs):
#     torch 2.13.0: does nn.init.normal_(layer.weight, 0, 0.02) change a parameter?
#     no wrapper                      before the first forward: True   after it: True
#     nn.utils.spectral_norm          before the first forward: True   after it: False
#     nn.utils.weight_norm            before the first forward: False  after it: False
#     parametrizations.spectral_norm  before the first forward: False  after it: False
#     parametrizations.weight_norm    before the first forward: False  after it: False
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import sys
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")


def initialized(wrap, after_forward):
    """Whether nn.init on `weight` changes any parameter of the layer."""
    torch.manual_seed(0)
    layer = wrap(nn.Conv2d(8, 8, 3))
    if after_forward:
        layer(torch.randn(1, 8, 5, 5))
    before = [p.detach().clone() for p in layer.parameters()]
    nn.init.normal_(layer.weight, 0, 0.02)
    return not all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


kinds = {
    "no wrapper": lambda layer: layer,
    "nn.utils.spectral_norm": nn.utils.spectral_norm,
    "nn.utils.weight_norm": nn.utils.weight_norm,
    "parametrizations.spectral_norm": nn.utils.parametrizations.spectral_norm,
    "parametrizations.weight_norm": nn.utils.parametrizations.weight_norm,
}
print(f"torch {torch.__version__.split('+')[0]}: does nn.init.normal_(layer.weight, 0, 0.02) change a parameter?")
found = {}
for name, wrap in kinds.items():
    found[name] = initialized(wrap, False), initialized(wrap, True)
    print(f"{name:31} before the first forward: {found[name][0]!s:5}  after it: {found[name][1]}")
expected = list(found.values()) == [(True, True), (True, False), (False, False), (False, False), (False, False)]
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
