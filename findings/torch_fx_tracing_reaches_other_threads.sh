#!/usr/bin/env bash
# torch.fx, torch 2.13.0: while one thread traces a module, the forward of ANOTHER module in ANOTHER thread fails.
#
# One would expect symbolic_trace to concern the module that it is given. It replaces nn.Module.__call__ and
# nn.Module.__getattr__ for the whole process until it is done, and its replacement asks every module for its name within
# the traced one. A server that traces one model while it answers with a second one gets
#     NameError: module is not installed as a submodule
# from the second. After the trace the same call works again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import sys
import threading

import torch
from torch import fx, nn

tracing, drawn, seen = threading.Event(), threading.Event(), []


class Slow(nn.Module):
    """Stays in its forward until the other thread has tried."""

    def forward(self, x):
        tracing.set()
        drawn.wait(30)
        return x + 1


bystander = nn.Sequential(nn.Linear(2, 2))


def other_thread():
    tracing.wait(30)
    try:
        seen.append(tuple(bystander(torch.zeros(1, 2)).shape))
    except Exception as error:
        seen.append(f"{type(error).__name__}: {error}")
    drawn.set()


thread = threading.Thread(target=other_thread)
thread.start()
fx.symbolic_trace(Slow())
thread.join()
after = tuple(bystander(torch.zeros(1, 2)).shape)
print(f"torch {torch.__version__}")
print(f"forward of an untouched module in another thread, during the trace: {seen[0]}")
print(f"the same after it: {after}")
expected = seen == ["NameError: module is not installed as a submodule"] and after == (1, 2)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
