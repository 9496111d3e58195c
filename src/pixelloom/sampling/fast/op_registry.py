"""The operations that are known: functions and layers of torch that need no declaration, since they act on each
position alone or state their window in their arguments; and the operation of a layer that declares its reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pixelloom.layers.reads import HERE, Earlier, Offsets, Read
from pixelloom.sampling.fast.ir import Attention, Custom, Linear, Operation, Pointwise, Recurrence, Shift

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
# The identity, in evaluation mode; a plan has one precision, hence type_as.
IDENTITY_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)
IDENTITY = frozenset({"dropout", "dropout2d", "contiguous", "detach", "type_as", "float"})


def operation_of(module: Any, reads: tuple[Read, ...]) -> Operation | None:
    """The operation of a layer that declares its reads, see :mod:`pixelloom.layers.reads`; None if it lacks a rule."""
    first = reads[0] if reads else None
    if hasattr(module, "kernel"):
        return Linear(module.kernel)
    if hasattr(module, "step"):
        return Recurrence(module.step, module.carried)
    if hasattr(module, "attend"):
        return Attention(module.attend, any(isinstance(read.where, Earlier) and read.where.own for read in reads))
    if hasattr(module, "at"):
        return Custom(module.at)
    if all(read.where == HERE for read in reads):
        return Pointwise(module)
    if first and len(reads) == 1 and first.features == "same" and isinstance(first.where, Offsets):
        return Shift(first.where) if len(first.where.taps) == 1 else None
    return None


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm with running statistics, each [features, 1, 1]."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale + (norm.bias if norm.bias is not None else 0)
    return scale[:, None, None], shift[:, None, None]


def pixel_shuffle(shuffle: nn.PixelShuffle, features: int) -> tuple[Offsets, Tensor]:
    """Reads of a pixel shuffle: output feature c reads the r * r input features c * r * r .. (c + 1) * r * r - 1."""
    r = shuffle.upscale_factor
    group = torch.arange(features * r * r) // (r * r)
    return Offsets(((0, 0),), up=(r, r)), torch.arange(features)[:, None] == group
