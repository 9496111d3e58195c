#!/usr/bin/env bash
# torch 2.13.0, torch-ema 0.3, ema-pytorch 0.8.3, diffusers 0.42.1: "EMA with decay 0.9999" is four different averages.
#
# One would guess that the weights of the last 5,000 updates have the share 1 - 0.9999^5000 = 39% in the EMA, as the formula
# says and as torch's AveragedModel does. torch-ema and diffusers take min(decay, (1 + n) / (10 + n)) by default: the share
# is 99.8%, since up to 90,000 updates, 9 / (1 - decay), the decay that is asked for plays no part, and the average covers
# about the last tenth of the training. ema-pytorch copies the weights for 100 steps, updates on every 10th step only
# without adapting the decay, and lets the decay grow as 1 - n^(-2/3): 74%. In a run of 1,000 steps the shares of the second
# half are 5%, 100%, 50% and 100%. So a decay from a paper's table means little in another library, a sweep over 0.999,
# 0.9999, 0.99999 in a run of 9,000 steps compares equal averages (torch-ema, diffusers), and results move when a project
# changes its EMA package.
#
# Seen (the same in two runs):
#     share of the second half of a run in an EMA of decay 0.9999
#     the formula           1,000 steps: 0.049   10,000 steps: 0.393
#     torch        2.13.0   1,000 steps: 0.049   10,000 steps: 0.393
#     torch-ema    0.3      1,000 steps: 0.998   10,000 steps: 0.998
#     ema-pytorch  0.8.3    1,000 steps: 0.500   10,000 steps: 0.740
#     diffusers    0.42.1   1,000 steps: 0.998   10,000 steps: 0.998
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 torch-ema==0.3 \
    ema-pytorch==0.8.3 diffusers==0.42.1
cd "$work"
"$work/venv/bin/python" - 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import sys
from importlib.metadata import version

import ema_pytorch
import torch
import torch_ema
from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DECAY = 0.9999


def with_torch(net):
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    return lambda: ema.update_parameters(net), lambda: ema.module.weight


def with_torch_ema(net):
    ema = torch_ema.ExponentialMovingAverage(net.parameters(), decay=DECAY)
    return ema.update, lambda: ema.shadow_params[0]


def with_ema_pytorch(net):
    ema = ema_pytorch.EMA(net, beta=DECAY)
    return ema.update, lambda: ema.ema_model.weight


def with_diffusers(net):
    ema = EMAModel(net.parameters(), decay=DECAY)
    return lambda: ema.step(net.parameters()), lambda: ema.shadow_params[0]


def share_of_second_half(start, steps):
    """The weight is 0 for half of the steps, then 1; the EMA is the share of the second half in it."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    update, average = start(net)
    for step in range(steps):
        with torch.no_grad():
            net.weight.fill_(step >= steps // 2)
        update()
    return average().item()


names = {"torch": with_torch, "torch-ema": with_torch_ema, "ema-pytorch": with_ema_pytorch, "diffusers": with_diffusers}
print("share of the second half of a run in an EMA of decay 0.9999")
print(f"{'the formula':12} {'':8} 1,000 steps: {1 - DECAY**500:.3f}   10,000 steps: {1 - DECAY**5000:.3f}")
found = []
for name, start in names.items():
    short, long = share_of_second_half(start, 1000), share_of_second_half(start, 10_000)
    found.append((round(short, 2), round(long, 2)))
    print(f"{name:12} {version(name).split('+')[0]:8} 1,000 steps: {short:.3f}   10,000 steps: {long:.3f}")
expected = found == [(0.05, 0.39), (1.0, 1.0), (0.5, 0.74), (1.0, 1.0)]
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
