#!/usr/bin/env bash
# torch 2.13.0: Categorical(probs=...) in bfloat16 scores uniform noise of 256 levels at 7.0 bits a pixel; 8 is the truth.
#
# One would guess that bfloat16 costs digits: 1/256 is a power of two, exact in bfloat16, so log_prob should be -8 bits.
# Distributions with `probs` clamp the probabilities to [eps, 1 - eps] before the logarithm, eps being that of the dtype:
# 0.0078 = 1/128 in bfloat16, twice the mean probability of a level. So no level can cost more than 7 bits, the "model" sums
# to 2, and a network is the better off the flatter it is. In float16 the bound is 10 bits, in float32 23 bits: an event of
# probability 0 costs 15.94 nats there, not infinity, so a wrong hard zero hides in a mean. Bernoulli(probs=...) does the
# same (pytorch/pytorch issue 186825 reports float32 and float64). With `logits` nothing is clamped. Under autocast, a head
# that ends in softmax and Categorical(probs=...) gets this on a CPU, where softmax stays in bfloat16.
#
# Seen (the same in two runs):
#     torch 2.13.0: uniform over 256 levels, in bits
#                    log_prob   their sum   with logits   of probability 0
#     torch.bfloat16      6.99        2.02            7.98                  7
#     torch.float16       8.00        1.00            8.00                 10
#     torch.float32       8.00        1.00            8.00                 23
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import math
import sys

import torch
from torch.distributions import Categorical

print(f"torch {torch.__version__.split('+')[0]}: uniform over 256 levels, in bits")
print(f"{'':14} log_prob   their sum   with logits   of probability 0")
found = {}
for dtype in (torch.bfloat16, torch.float16, torch.float32):
    uniform = torch.full((256,), 1 / 256, dtype=dtype)  # exact in each dtype
    zero = torch.tensor([0.5, 0.5, 0.0], dtype=dtype)
    bits = -Categorical(probs=uniform).log_prob(torch.arange(256)).double().mean().item() / math.log(2)
    mass = Categorical(probs=uniform).log_prob(torch.arange(256)).double().exp().sum().item()
    from_logits = -Categorical(logits=uniform.log()).log_prob(torch.tensor(0)).item() / math.log(2)
    never = -Categorical(probs=zero).log_prob(torch.tensor(2)).item() / math.log(2)
    found[dtype] = round(bits, 1), round(mass, 1), round(from_logits, 1), round(never)
    print(f"{str(dtype):14} {bits:9.2f} {mass:11.2f} {from_logits:15.2f} {never:18.0f}")
expected = list(found.values()) == [(7.0, 2.0, 8.0, 7), (8.0, 1.0, 8.0, 10), (8.0, 1.0, 8.0, 23)]
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
