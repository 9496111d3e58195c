"""Gates and concatenated ELU, with forward and backward passes for training on a CPU.

Torch computes these functions slowly on a CPU: of halves of the features in channels_last memory, which are strided,
and where it uses scalar code or functions of MKL that are slow on other processors, as for ``tanh``. The passes here
compute the same values by vectorized functions, up to rounding. They are used only where a gradient is needed; without
one, and when a graph is traced or compiled, the plain expression is evaluated.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_LOG2_E = 1 / math.log(2)


def sigmoid_gate(x: Tensor) -> Tensor:
    """a sigmoid(b) of the halves (a, b) of the features: [B, 2f, H, W] -> [B, f, H, W]"""
    if _training(x):
        out: Tensor = _SigmoidGate.apply(x)  # type: ignore[no-untyped-call]
        return out
    a, b = x.chunk(2, dim=1)
    return a * torch.sigmoid(b)


def glu(x: Tensor) -> Tensor:
    """The same as one function of torch, which differs by rounding in bfloat16."""
    if _training(x):
        out: Tensor = _SigmoidGate.apply(x)  # type: ignore[no-untyped-call]
        return out
    return F.glu(x, dim=1)


def tanh_gate(x: Tensor) -> Tensor:
    """tanh(a) sigmoid(b) of the halves (a, b) of the features: [B, 2f, H, W] -> [B, f, H, W]"""
    if _training(x):
        out: Tensor = _TanhGate.apply(x)  # type: ignore[no-untyped-call]
        return out
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def concat_elu(x: Tensor) -> Tensor:
    """elu(x) and elu(-x), concatenated: [B, f, H, W] -> [B, 2f, H, W]"""
    if _training(x):
        out: Tensor = _ConcatELU.apply(x)  # type: ignore[no-untyped-call]
        return out
    return F.elu(torch.cat((x, -x), dim=1))


def _training(x: Tensor) -> bool:
    return (
        isinstance(x, Tensor)  # not when the fast sampler traces a network
        and x.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not (torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None)
    )


class _SigmoidGate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        s = _sigmoid(b)
        ctx.save_for_backward(x, s)
        return a * s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, s = ctx.saved_tensors
        found = torch.empty_like(x)
        a_grad, b_grad = found.chunk(2, dim=1)
        torch.mul(grad, s, out=a_grad)
        torch.ops.aten.sigmoid_backward(grad * x.chunk(2, dim=1)[0], s, grad_input=b_grad)
        return found


class _TanhGate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        # tanh(a) = 2 sigmoid(2a) - 1, in fp32, where its error is 1e-7
        t = (a.float() * 2).sigmoid_().mul_(2).sub_(1)
        t, s = t.to(x.dtype), _sigmoid(b)
        ctx.save_for_backward(t, s)
        return t * s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        t, s = ctx.saved_tensors
        found = _doubled(t)
        a_grad, b_grad = found.chunk(2, dim=1)
        torch.ops.aten.tanh_backward(grad * s, t, grad_input=a_grad)
        torch.ops.aten.sigmoid_backward(grad * t, s, grad_input=b_grad)
        return found


class _ConcatELU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # e = exp(-|x|) - 1 is in (-1, 0], and x <= exp(x) - 1: hence elu(x) = max(x, e) and elu(-x) = max(-x, e)
        e = x.float().abs().mul_(-_LOG2_E).exp2_().sub_(1).to(x.dtype)
        out = _doubled(x)
        first, second = out.chunk(2, dim=1)
        torch.maximum(x, e, out=first)
        torch.maximum(-x, e, out=second)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        # of the results: 1 above 0, else elu + 1
        first, second = torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, True, out).chunk(2, dim=1)
        return torch.sub(first, second)


def _sigmoid(half: Tensor) -> Tensor:
    """The sigmoid of a half of the features. In bfloat16 a copy without gaps in memory comes first: torch's is slow."""
    if half.dtype != torch.bfloat16:
        return torch.sigmoid(half)
    layout = torch.channels_last if _is_channels_last(half) else torch.contiguous_format
    return torch.empty(half.shape, dtype=half.dtype, memory_format=layout).copy_(half).sigmoid_()


def _doubled(x: Tensor) -> Tensor:
    """An uninitialized tensor of twice the features, in the memory format of x."""
    layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    return torch.empty((len(x), 2 * x.shape[1], *x.shape[2:]), dtype=x.dtype, memory_format=layout)


def _is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1
