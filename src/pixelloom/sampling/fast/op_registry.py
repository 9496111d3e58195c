"""What is known without a declaration: functions and layers of torch that act on each position alone, or whose window
is in their arguments; and how a layer that declares its reads is run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pixelloom.layers.reads import HERE, Earlier, Kernel, Offsets, Read
from pixelloom.sampling.fast.ir import Attention, Gathered, Linear, Local, Moved, Operation, Recurrence

# Each output value depends on the input values of the same feature and position alone.
ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid,
)  # fmt: skip
ELEMENTWISE = frozenset(
    """add sub mul truediv div neg pos pow abs square sqrt rsqrt exp log log1p expm1 sin cos sigmoid tanh erf relu relu6
    leaky_relu elu selu celu gelu silu mish softplus softsign hardtanh hardswish hardsigmoid logsigmoid clamp minimum
    maximum reciprocal sign where addcmul lerp clone""".split()  # noqa: SIM905
)
INPLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv"}
# Nothing at all, in evaluation mode.
NOTHING_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)
NOTHING = frozenset({"dropout", "dropout2d", "contiguous", "detach", "type_as"})  # a plan has one precision


def operation_of(module: Any, reads: tuple[Read, ...]) -> Operation | None:
    """How a layer that declares its reads is run, see :mod:`pixelloom.layers.reads`."""
    first = reads[0] if reads else None
    if hasattr(module, "kernel"):
        return Linear(module.kernel)
    if hasattr(module, "step"):
        return Recurrence(module.step, module.carried)
    if hasattr(module, "attend"):
        return Attention(module.attend, any(isinstance(read.where, Earlier) and read.where.own for read in reads))
    if hasattr(module, "at"):
        return Gathered(module.at)
    if all(read.where == HERE for read in reads):
        return Local(module)
    if first and len(reads) == 1 and first.features == "same" and isinstance(first.where, Offsets):
        return Moved(first.where) if len(first.where.taps) == 1 else None
    return None


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A batch norm with fixed statistics as scale and shift, each [features, 1, 1]."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale + (norm.bias if norm.bias is not None else 0)
    return scale[:, None, None], shift[:, None, None]


def convolution(conv: nn.Conv2d) -> tuple[Offsets, Tensor | None, Callable[[], Kernel]]:
    """What an ordinary convolution reads, and its kernel with the features of other groups filled by zeros."""
    (dh, dw), (kh, kw) = conv.dilation, conv.kernel_size
    # "same" puts the odd one out at the end; a number counts both sides.
    same, valid = (dh * (kh - 1) // 2, dw * (kw - 1) // 2), (0, 0)
    ph, pw = (same if conv.padding == "same" else valid) if isinstance(conv.padding, str) else conv.padding
    taps = tuple((y * dh - ph, x * dw - pw) for y in range(kh) for x in range(kw))
    stride = (conv.stride[0], conv.stride[1])
    features = None
    if conv.groups > 1:
        out_group = torch.arange(conv.out_channels) * conv.groups // conv.out_channels
        in_group = torch.arange(conv.in_channels) * conv.groups // conv.in_channels
        features = out_group[:, None] == in_group

    def kernel() -> Kernel:
        weight = conv.weight
        if features is not None:
            weight = weight.new_zeros(*features.shape, kh, kw)
            weight[features] = conv.weight.flatten(0, 1)
        return Kernel(taps, weight.permute(2, 3, 1, 0).flatten(0, 1), conv.bias, stride)

    return Offsets(taps, stride), features, kernel


def pixel_shuffle(shuffle: nn.PixelShuffle, features: int) -> tuple[Offsets, Tensor]:
    """Every output feature reads as many input features as there are positions that share one of the input."""
    r = shuffle.upscale_factor
    group = torch.arange(features * r * r) // (r * r)
    return Offsets(((0, 0),), up=(r, r)), torch.arange(features)[:, None] == group
