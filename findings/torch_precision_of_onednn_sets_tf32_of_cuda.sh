#!/usr/bin/env bash
# torch 2.13.0: torch.backends.mkldnn.fp32_precision writes the precision of all backends, but reads that of oneDNN alone.
#
# A program that allows reduced float32 precision on the CPU, by torch.backends.mkldnn.fp32_precision = "tf32", allows it
# for CUDA's matrix products as well, which are in full float32 by default: the getter of this attribute is that of
# ("mkldnn", "all"), its setter that of ("generic", "all"), which every backend inherits. On a machine with a GPU,
# likelihoods and other sums in float32 then have 10 bits of mantissa, and nothing says so. torch.backends.mkldnn.matmul
# and .conv, one level below, read and write their own entry.
#
# Seen (the same in two runs):
#     torch 2.13.0
#     at first                        generic none, mkldnn none, cuda.matmul none
#     mkldnn.fp32_precision = "tf32"  generic tf32, mkldnn tf32, cuda.matmul tf32
#     mkldnn.conv.fp32_precision      generic none, mkldnn none, cuda.matmul none
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
from torch import backends


def state():
    owners = {"generic": backends, "mkldnn": backends.mkldnn, "cuda.matmul": backends.cuda.matmul}
    return {name: owner.fp32_precision for name, owner in owners.items()}


print(f"torch {torch.__version__.split('+')[0]}")
first = state()
backends.mkldnn.fp32_precision = "tf32"
after = state()
backends.mkldnn.fp32_precision = "none"
backends.mkldnn.conv.fp32_precision = "tf32"
below = state()
for label, found in (("at first", first), ('mkldnn.fp32_precision = "tf32"', after), ("mkldnn.conv.fp32_precision", below)):
    print(f"{label:31} " + ", ".join(f"{name} {value}" for name, value in found.items()))
expected = after == dict.fromkeys(after, "tf32") and first == below == dict.fromkeys(first, "none")
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
