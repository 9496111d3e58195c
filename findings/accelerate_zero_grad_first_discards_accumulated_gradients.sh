#!/usr/bin/env bash
# accelerate 1.15.0: with gradient accumulation, zero_grad() before backward() discards all microbatches but the last.
#
# "zero_grad, backward, step" and "backward, step, zero_grad" are the same loop in torch, and the first one is what most
# GAN code has. The optimizers that accelerate returns ignore step() and zero_grad() until the last microbatch of a group,
# and obey both there: so a zero_grad() at the head of the loop wipes the gradients that the microbatches before have left,
# and the step is made with the last one alone, divided by the number of microbatches. The loss goes down all the same. The
# effective batch is 1/k of what was set, with 1/k of its gradient. In a GAN the same rule keeps a discriminator's
# optimizer from dropping the gradients that the generator's backward() has left in it. Known since 0.18
# (huggingface/accelerate issue 1299, still open).
#
# Seen (the same in two runs):
#     accelerate 1.15.0, torch 2.13.0
#     gradients of 4 microbatches: 100, 10, 1, 0; their mean is 27.75
#     backward, step, zero_grad: the step has the gradient 27.75
#     zero_grad, backward, step: the step has the gradient 0.0
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 accelerate==1.15.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import accelerate
import torch
from torch import nn


def gradient_of_step(zero_first, microbatches=(100.0, 10.0, 1.0, 0.0)):
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=len(microbatches), cpu=True)
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=1.0))
    for x in microbatches:  # the gradient of the weight is x
        with accelerator.accumulate(net):
            if zero_first:
                optimizer.zero_grad()
            accelerator.backward(net(torch.full((1, 1), x)).sum())
            optimizer.step()
            if not zero_first:
                optimizer.zero_grad()
    return 0.0 - net.weight.item()


last = gradient_of_step(zero_first=False)
first = gradient_of_step(zero_first=True)
print(f"accelerate {accelerate.__version__}, torch {torch.__version__.split('+')[0]}")
print("gradients of 4 microbatches: 100, 10, 1, 0; their mean is 27.75")
print(f"backward, step, zero_grad: the step has the gradient {last}")
print(f"zero_grad, backward, step: the step has the gradient {first}")
expected = (last, first) == (27.75, 0.0) and gradient_of_step(True, (100.0, 10.0)) == 5.0
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
