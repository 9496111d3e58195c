#!/usr/bin/env bash
# torch 2.13.0: autocast to bfloat16 keeps softmax, log_softmax, logsumexp, layer_norm and group_norm in bfloat16 on a CPU.
#
# The list of operations that autocast runs in float32 is known from CUDA, where these are on it; the CPU has a list of its
# own, without them. So a likelihood that is computed within autocast is right on a GPU and wrong on a CPU, silently: the
# probabilities of 256 levels sum to 1 within 0.003 only, and log-probabilities carry three digits. cross_entropy and
# binary_cross_entropy_with_logits are float32 on both, which hides the difference from whoever tests with them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import sys

import torch
import torch.nn.functional as F

torch.manual_seed(0)
logits = 3 * torch.randn(16, 256, 28, 28)
labels = torch.zeros(16, 28, 28, dtype=torch.long)
with torch.autocast("cpu", torch.bfloat16):
    y = F.conv2d(logits, torch.eye(256)[:, :, None, None])  # as it leaves the last layer of a network
    found = {
        "softmax": y.softmax(1).dtype,
        "log_softmax": y.log_softmax(1).dtype,
        "logsumexp": y.logsumexp(1).dtype,
        "layer_norm": F.layer_norm(y, y.shape[1:]).dtype,
        "group_norm": F.group_norm(y, 4).dtype,
        "cross_entropy": F.cross_entropy(y, labels).dtype,
        "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits(y, y.sigmoid().detach()).dtype,
    }
    off = (y.softmax(1).float().sum(1) - 1).abs().max().item()
    cast = (y.float().softmax(1).sum(1) - 1).abs().max().item()
print(f"torch {torch.__version__}")
for name, dtype in found.items():
    print(f"{name:33} {dtype}")
print(f"probabilities of 256 levels sum to 1 within {off:.4f}; of y.float() within {cast:.0e}")
half = {name for name, dtype in found.items() if dtype == torch.bfloat16}
expected = half == {"softmax", "log_softmax", "logsumexp", "layer_norm", "group_norm"} and 1e-3 < off < 1e-2 and cast < 1e-5
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
