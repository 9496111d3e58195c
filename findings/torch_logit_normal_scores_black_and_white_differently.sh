#!/usr/bin/env bash
# torch 2.13.0: a distribution on [0, 1] that is symmetric about 1/2 gives log_prob -3727 at 0 and -112 at 1.
#
# TransformedDistribution(Normal(0, 1), [SigmoidTransform()]) is the logit-normal of flows on pixels. Its density is 0 at
# both ends; one would guess -inf there (or NaN), and the same at x and 1 - x. SigmoidTransform clamps its argument to
# [tiny, 1 - eps] before the logit, silently, and the ends are within the support that is validated: 0 becomes logit -87.3,
# 1 becomes logit 15.9. So images with exact blacks and whites, such as MNIST without dequantization, get a finite
# likelihood that depends on the clamp alone, and inverting black and white changes it by 3,600 nats a pixel. In
# float64 the two numbers are -250,000 and -614. A flow whose loss is dominated by the number of black pixels looks as if
# it did not learn; nothing is infinite.
#
# Seen (the same in two runs):
#     torch 2.13.0: log_prob of the logit-normal(0, 1), symmetric about 1/2
#     torch.float32   at 0: -3727  at 0.001953: -14.12  at 0.25: 0.1516  at 0.75: 0.1516  at 0.998: -14.12  at 1: -112.1
#     torch.float64   at 0: -2.502e+05  at 0.001953: -14.12  at 0.25: 0.1516  at 0.75: 0.1516  at 0.998: -14.12  at 1: -614.4
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from torch.distributions import Normal, SigmoidTransform, TransformedDistribution

print(f"torch {torch.__version__.split('+')[0]}: log_prob of the logit-normal(0, 1), symmetric about 1/2")
found = {}
for dtype in (torch.float32, torch.float64):
    zero, one = torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)
    pixel = TransformedDistribution(Normal(zero, one), [SigmoidTransform()], validate_args=True)
    points = torch.tensor([0, 1 / 512, 0.25, 0.75, 511 / 512, 1], dtype=dtype)
    found[dtype] = pixel.log_prob(points).tolist()
    print(f"{str(dtype):14}" + "".join(f"  at {x:.4g}: {value:.4g}" for x, value in zip(points.tolist(), found[dtype])))
expected = (
    all(abs(row[1] - row[4]) < 1e-3 and abs(row[2] - row[3]) < 1e-3 for row in found.values())
    and -3800 < found[torch.float32][0] < -3700 and -120 < found[torch.float32][5] < -105
    and found[torch.float64][0] < -1e5 and found[torch.float64][5] > -1000
)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
