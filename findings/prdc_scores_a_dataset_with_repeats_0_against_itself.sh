#!/usr/bin/env bash
# prdc 0.2: a data set in which each image occurs six times gets precision, recall and coverage 0 against itself; five: 1.
#
# One would guess that real features compared with the same features give 1 for all four numbers, as they do for a set
# without repeats. The radius of a sample is the distance to its nearest_k-th neighbor, and a sample lies in the ball if its
# distance is SMALLER than the radius. With more than nearest_k (5) copies of an image the radius is 0, and nothing is in
# the ball, not even the image. With features that are not integers, the distances of equal vectors are sums with rounding
# errors, 0 or about 1e-7, and chance decides: here 0.36 instead of 0. Sets with repeats are common: small classes that are
# oversampled, blank or padded tiles, binarized or few-level images, a "generated" set of a model that has collapsed, or
# one that has memorized (copies of training images score 0 where they should score 1).
#
# Seen (the same in two runs):
#     prdc 0.2, nearest_k=5: features against the same features
#     integers each 1 times: {'precision': 1.0, 'recall': 1.0, 'density': 0.91, 'coverage': 1.0}
#     integers each 5 times: {'precision': 1.0, 'recall': 1.0, 'density': 1.0, 'coverage': 1.0}
#     integers each 6 times: {'precision': 0.0, 'recall': 0.0, 'density': 0.0, 'coverage': 0.0}
#     normal   each 1 times: {'precision': 1.0, 'recall': 1.0, 'density': 1.0, 'coverage': 1.0}
#     normal   each 5 times: {'precision': 1.0, 'recall': 1.0, 'density': 1.0, 'coverage': 1.0}
#     normal   each 6 times: by rounding, below 1
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check prdc==0.2 numpy==2.3.5 scipy==1.17.1 scikit-learn==1.9.1
"$work/venv/bin/python" - <<'PY'
import contextlib
import io
import sys
from importlib.metadata import version

import numpy as np
from prdc import compute_prdc


def against_itself(features):
    with contextlib.redirect_stdout(io.StringIO()):
        found = compute_prdc(features, features, nearest_k=5)
    return {k: round(float(v), 2) for k, v in found.items()}


rng = np.random.default_rng(0)
integers = rng.integers(0, 3, size=(100, 64)).astype(float)  # for example, levels of small images
normal = rng.normal(size=(100, 64))
print(f"prdc {version('prdc')}, nearest_k=5: features against the same features")
found = {}
for name, features in (("integers", integers), ("normal", normal)):
    for copies in (1, 5, 6):
        found[name, copies] = against_itself(np.repeat(features, copies, axis=0))
        shown = found[name, copies] if name == "integers" or copies < 6 else "by rounding, below 1"
        print(f"{name:8} each {copies} times: {shown}")
full = {"precision": 1.0, "recall": 1.0, "coverage": 1.0}
expected = (
    all(full.items() <= found[name, copies].items() for name in ("integers", "normal") for copies in (1, 5))
    and set(found["integers", 6].values()) == {0.0}
    and all(value < 0.9 for value in found["normal", 6].values())
)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
