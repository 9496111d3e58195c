#!/usr/bin/env bash
# torch 2.13.0: the first operation under a TorchDispatchMode imports torch._dynamo, with some thousand modules.
#
# A dispatch mode sees each operation below autograd, and is the way to count or record what a model calls, as flop counters
# do. It has nothing to do with torch.compile, and importing torch does not import the compiler. But __init_subclass__ wraps
# __torch_dispatch__ of each subclass, so that the compiler would not trace it, and the wrapper imports the compiler at its
# first call: a second or more in a process that compiles nothing, seen as a slow first image. A class method
# _should_skip_dynamo that returns False leaves the wrapper out; with it nothing is imported, and the mode sees the same
# operations.
#
# Seen (the same in two runs):
#     torch 2.13.0
#     before the first operation: torch._dynamo False
#     own class, _should_skip_dynamo False: ['aten.ones.default', 'aten.add.Tensor'], torch._dynamo False
#     plain subclass: ['aten.ones.default', 'aten.add.Tensor'], torch._dynamo True, over 500 modules more: True
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
from torch.utils._python_dispatch import TorchDispatchMode


class Plain(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Without(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls):
        return False

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def loaded():
    return "torch._dynamo" in sys.modules


def seen_by(mode):
    with mode:
        torch.ones(2) + 1
    return mode.seen


print(f"torch {torch.__version__.split('+')[0]}")
before = loaded()
print(f"before the first operation: torch._dynamo {before}")
own = seen_by(Without())
without = loaded()
print(f"own class, _should_skip_dynamo False: {own}, torch._dynamo {without}")
count = len(sys.modules)
plain = seen_by(Plain())
many = len(sys.modules) - count > 500
print(f"plain subclass: {plain}, torch._dynamo {loaded()}, over 500 modules more: {many}")
expected = not before and not without and loaded() and many and own == plain
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
