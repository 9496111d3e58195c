#!/usr/bin/env bash
# torch 2.13.0: MultiheadAttention gives NaN or 0 for a query that may read nothing, by the flag need_weights.
#
# need_weights says whether the attention weights are returned as well, so one would guess that it does not touch the output.
# With need_weights=True, the default, the output of a fully masked query is NaN; with need_weights=False it is the bias of
# the output projection, since scaled_dot_product_attention defines such rows as 0 (since torch 2.5). The first pixel under
# a strictly causal mask (PixelSNAIL) is such a query, and so is a patch whose neighborhood is masked. The same in training
# and in eval mode. So a network that trains well with need_weights=False gives NaN as soon as somebody asks for an
# attention map, and the first pixel's NaN makes the loss of the whole batch NaN.
#
# Seen (the same in two runs):
#     torch 2.13.0: MultiheadAttention under a strictly causal mask
#     train need_weights=True  NaN in the first pixel: True  in the others: False
#     train need_weights=False NaN in the first pixel: False in the others: False
#     eval  need_weights=True  NaN in the first pixel: True  in the others: False
#     eval  need_weights=False NaN in the first pixel: False in the others: False
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(2, 6, 8)  # 2 images of 6 pixels
attention = nn.MultiheadAttention(8, 2, batch_first=True)
forbidden = torch.ones(6, 6, dtype=torch.bool).triu()  # a pixel reads the pixels before it
print(f"torch {torch.__version__.split('+')[0]}: MultiheadAttention under a strictly causal mask")
expected = True
for training in (True, False):
    attention.train(training)
    outputs = {}
    for flag in (True, False):
        y = outputs[flag] = attention(x, x, x, attn_mask=forbidden, need_weights=flag)[0].detach()
        first, others = y[:, 0].isnan().all().item(), y[:, 1:].isnan().any().item()
        mode = "train" if training else "eval"
        print(f"{mode:5} need_weights={flag!s:5} NaN in the first pixel: {first!s:5} in the others: {others}")
    expected = expected and outputs[True][:, 0].isnan().all().item()
    expected = expected and torch.equal(outputs[False][:, 0], attention.out_proj.bias.detach().expand(2, 8))
    expected = expected and torch.allclose(outputs[True][:, 1:], outputs[False][:, 1:], atol=1e-6)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
