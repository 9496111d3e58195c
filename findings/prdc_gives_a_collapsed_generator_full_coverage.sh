#!/usr/bin/env bash
# prdc 0.2: a generator that makes ONE image gets precision 1, coverage 1 and density 20 in 64 dimensions.
#
# Coverage (Naeem et al. 2020) is the share of real samples with a fake one within the distance of their k-th neighbor, and
# it is used as the number that shows mode collapse. One would guess 1/n to k/n for a generator whose samples are all the
# same. The mean of the data is nearer to each sample than the sample's 5th neighbor as soon as the dimension is in the
# tens (in d dimensions, sqrt(d) against sqrt(2d)), so the single "average image" lies in every ball: coverage 1. Density,
# whose expectation is 1 for equal distributions, reaches n/k. Only recall, the number that the paper replaces, says 0. In 2
# dimensions, as in the plots that explain these numbers, it is as one guesses; only data of a low intrinsic dimension are
# safe from it.
#
# Seen (the same in two runs):
#     prdc 0.2; 100 real samples from a normal distribution, nearest_k=5
#        2 dims, 100 copies of the mean: {'precision': 1.0, 'recall': 0.0, 'density': 0.6, 'coverage': 0.03}
#        2 dims, the true distribution:  {'precision': 0.95, 'recall': 1.0, 'density': 0.98, 'coverage': 0.97}
#       16 dims, 100 copies of the mean: {'precision': 1.0, 'recall': 0.0, 'density': 15.2, 'coverage': 0.76}
#       16 dims, the true distribution:  {'precision': 0.87, 'recall': 0.87, 'density': 1.0, 'coverage': 0.98}
#       64 dims, 100 copies of the mean: {'precision': 1.0, 'recall': 0.0, 'density': 20.0, 'coverage': 1.0}
#       64 dims, the true distribution:  {'precision': 0.83, 'recall': 0.86, 'density': 0.91, 'coverage': 0.99}
#     2048 dims, 100 copies of the mean: {'precision': 1.0, 'recall': 0.0, 'density': 20.0, 'coverage': 1.0}
#     2048 dims, the true distribution:  {'precision': 0.73, 'recall': 0.71, 'density': 1.05, 'coverage': 0.99}
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


def numbers(real, fake):
    with contextlib.redirect_stdout(io.StringIO()):
        return {k: round(float(v), 2) for k, v in compute_prdc(real, fake, nearest_k=5).items()}


rng = np.random.default_rng(0)
print(f"prdc {version('prdc')}; 100 real samples from a normal distribution, nearest_k=5")
found = {}
for dims in (2, 16, 64, 2048):
    real = rng.normal(size=(100, dims))
    found[dims, "one"] = numbers(real, np.zeros((100, dims)))
    found[dims, "same"] = numbers(real, rng.normal(size=(100, dims)))
    print(f"{dims:4} dims, 100 copies of the mean: {found[dims, 'one']}")
    print(f"{dims:4} dims, the true distribution:  {found[dims, 'same']}")
one = found[64, "one"]
expected = one == {"precision": 1.0, "recall": 0.0, "density": 20.0, "coverage": 1.0} == found[2048, "one"]
expected = expected and found[2, "one"]["coverage"] < 0.2 and found[64, "same"]["coverage"] < 1
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
