#!/usr/bin/env bash
# torch 2.13.0: torch.onnx.export writes a fixed batch for a model that calls len(x), although a dynamic one is asked for.
#
# len() of a tensor is an int of Python, so tracing turns it into a constant. torch.export.export, given the same
# dynamic_shapes, refuses the model: "batch" was specialized to 2. torch.onnx.export(dynamo=True) meets the same error, goes
# on to its next strategy without the dimension, and returns a file whose input and output have a batch of 2; the error is
# raised nowhere. With x.shape[0] in place of len(x), the dimension is "batch" as asked. The file runs on two images,
# so a check with the example input does not show it.
#
# Seen (the same in two runs):
#     torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2
#     x.shape[0]: input ['batch', 4], output ['batch', 7]
#     len(x):     input [2, 4], output [2, 7]
#     torch.export.export of len(x): refused
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2
cd "$work"
"$work/venv/bin/python" - <<'PY'
import logging
import sys
import warnings

import onnx
import onnxscript
import torch
from torch import nn

logging.disable(logging.WARNING)
warnings.simplefilter("ignore")


class Begin(nn.Module):
    """Puts a learned row before each image, as attention over earlier pixels does."""

    def __init__(self, by_len):
        super().__init__()
        self.first, self.by_len = nn.Parameter(torch.zeros(1, 3)), by_len

    def forward(self, x):
        n = len(x) if self.by_len else x.shape[0]
        return torch.cat([self.first.expand(n, 3), x], 1)


def shapes(by_len):
    shape = {"x": {0: torch.export.Dim("batch")}}
    model = Begin(by_len).eval()
    graph = torch.onnx.export(
        model, (torch.zeros(2, 4),), dynamo=True, dynamic_shapes=shape, verbose=False
    ).model_proto.graph
    return [
        [size.dim_param or size.dim_value for size in end[0].type.tensor_type.shape.dim]
        for end in (graph.input, graph.output)
    ]


print(f"torch {torch.__version__.split('+')[0]}, onnx {onnx.__version__}, onnxscript {onnxscript.__version__}")
by_shape, by_len = shapes(False), shapes(True)
print(f"x.shape[0]: input {by_shape[0]}, output {by_shape[1]}")
print(f"len(x):     input {by_len[0]}, output {by_len[1]}")
try:
    torch.export.export(
        Begin(True), (torch.zeros(2, 4),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}, strict=False
    )
    refused = False
except Exception as error:
    refused = "specialized" in str(error)
print(f"torch.export.export of len(x): {'refused' if refused else 'accepted'}")
expected = by_shape == [["batch", 4], ["batch", 7]] and by_len == [[2, 4], [2, 7]] and refused
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
