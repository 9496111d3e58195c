"""Masked convolutions as tutorials and repositories write them, and small networks of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

Maker = Callable[..., nn.Module]
"""(mask "A" or "B", in_channels, out_channels, kernel, padding=..., bias=...) -> a layer."""


def mask_of(weight: Tensor, kind: str) -> Tensor:
    mask, (row, column) = torch.ones_like(weight), (side // 2 for side in weight.shape[2:])
    mask[:, :, row, column + (kind == "B") :] = 0
    mask[:, :, row + 1 :] = 0
    return mask


class InPlace(nn.Conv2d):
    """``weight.data`` is multiplied in each forward."""

    mask: Tensor

    def __init__(self, kind: str, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("mask", mask_of(self.weight.data, kind))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class Product(InPlace):
    """The weights stay as they are."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.mask
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class PlainTensor(nn.Conv2d):
    """The mask is no buffer, and not called mask."""

    def __init__(self, kind: str, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.causal = mask_of(self.weight.data, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.causal, self.bias)


class FrozenParameter(nn.Conv2d):
    """The mask is a parameter that is not trained."""

    def __init__(self, kind: str, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.mask = nn.Parameter(mask_of(self.weight.data, kind), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(input=x, weight=self.mask * self.weight, bias=self.bias, padding=self.padding)


class BuiltInForward(nn.Conv2d):
    """The mask is kept nowhere."""

    def __init__(self, kind: str, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(self.kernel_size, dtype=self.weight.dtype)
        mask[len(mask) // 2, len(mask) // 2 + (self.kind == "B") :] = 0
        mask[len(mask) // 2 + 1 :] = 0
        with torch.no_grad():
            self.weight.mul_(mask)
        return super().forward(x)


class Wrapper(nn.Module):
    """A module around a convolution, whose weights it masks."""

    mask: Tensor

    def __init__(self, kind: str, *args: Any, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*args, **options)
        self.register_buffer("mask", mask_of(self.conv.weight.data, kind)[:1, :1])

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data *= self.mask
        out: Tensor = self.conv(x)
        return out


class Block(Wrapper):
    """Mask, convolution, norm and activation."""

    def __init__(self, kind: str, *args: Any, **options: Any) -> None:
        super().__init__(kind, *args, **options)
        self.norm = nn.BatchNorm2d(self.conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data.mul_(self.mask)
        return F.leaky_relu(self.norm(self.conv(x)))


class WithActivation(InPlace):
    """A subclass that is more than a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x))


class OwnWeight(nn.Module):
    """A weight of its own, and something before the convolution."""

    mask: Tensor

    def __init__(self, kind: str, inputs: int, outputs: int, kernel: int, padding: Any, bias: bool = True) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / 5)
        self.b = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("mask", mask_of(self.w.data, kind))
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x * 1.5, self.w * self.mask, self.b, padding=self.padding)


class Times(nn.Module):
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def parametrized(kind: str, *args: Any, **options: Any) -> nn.Module:
    conv = nn.Conv2d(*args, **options)
    return parametrize.register_parametrization(conv, "weight", Times(mask_of(conv.weight.data, kind)))


def weight_norm(kind: str, *args: Any, **options: Any) -> nn.Module:
    return parametrizations.weight_norm(Product(kind, *args, **options))  # type: ignore[no-any-return]


def weight_norm_by_hook(kind: str, *args: Any, **options: Any) -> nn.Module:
    return torch.nn.utils.weight_norm(Product(kind, *args, **options))


def by_hook(kind: str, *args: Any, **options: Any) -> nn.Module:
    conv = nn.Conv2d(*args, **options)
    mask = mask_of(conv.weight.data, kind)

    def masked(module: nn.Module, inputs: Any) -> None:
        conv = module.get_parameter("weight")
        conv.data.mul_(mask)

    conv.register_forward_pre_hook(masked)
    return conv


class Unfolded(OwnWeight):
    """What cannot be followed: an unfold, and a product of matrices whose shapes are read from the image."""

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.w.shape[-1], padding=self.padding)
        out = torch.einsum("oi,bip->bop", (self.w * self.mask).flatten(1), patches)
        return out.view(len(x), -1, *x.shape[2:])


READ: dict[str, Maker] = {
    "in place": InPlace,
    "product": Product,
    "plain tensor": PlainTensor,
    "frozen parameter": FrozenParameter,
    "built in forward": BuiltInForward,
    "wrapper": Wrapper,
    "block": Block,
    "with activation": WithActivation,
    "own weight": OwnWeight,
    "parametrized": parametrized,
    "weight norm": weight_norm,
    "weight norm by hook": weight_norm_by_hook,
    "hook": by_hook,
}
"""What is read from the masks."""


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def network_of(
    layer: Maker, first: str = "A", *, channels: int = 1, outputs: int = 1, padding: bool = False, bias: bool = True
) -> nn.Module:
    """A first layer, a norm, a residual block and a 1x1 convolution."""

    def conv(kind: str, inputs: int, features: int, kernel: int) -> nn.Module:
        return layer(kind, inputs, features, kernel, padding="same" if padding else kernel // 2, bias=bias)

    torch.manual_seed(0)
    network = nn.Sequential(
        conv(first, channels, 6, 5),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(),
        Residual(conv("B", 6, 6, 3), nn.LeakyReLU()),
        nn.Conv2d(6, outputs, 1),
    )
    return network.eval()


@torch.no_grad()
def stepped(network: nn.Module, seed: int) -> None:
    """Change all trained weights, masked ones too, as a step of an optimizer without regard for masks does."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) / 2)
