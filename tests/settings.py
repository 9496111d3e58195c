"""The networks that every invariant is tested on: each tutorial's and our own, narrowed where width does not matter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig

BERNOULLI = HeadConfig(kind="bernoulli")
ORDERED = HeadConfig(kind="categorical", channels="ordered")
INDEPENDENT = HeadConfig(kind="categorical", channels="independent")


@dataclass(frozen=True)
class Setting:
    """A PixelCNN, its head and its images."""

    config: PixelCNNConfig
    head: HeadConfig
    image: ImageSpec

    @property
    def kernels(self) -> list[int]:
        """Sides of all mask B layers from the first block to the output."""
        inner = (self.config.kernel,) if self.config.block == "plain" else (1, self.config.kernel, 1)
        return [*inner * self.config.blocks, *self.config.head_kernels, 1]

    @property
    def ordered(self) -> bool:
        return self.head.channels == "ordered"

    def on(self, image: ImageSpec) -> Setting:
        """The same network for other images."""
        return Setting(self.config, self.head, image)

    def fresh(self, seed: int = 0) -> PixelModel:
        """As it is before training."""
        torch.manual_seed(seed)
        description = PixelDescription(
            network="pixelcnn", model=self.config, head=self.head, image=self.image, scaling=Scaling.symmetric()
        )
        return PixelModel.build(description)

    def model(self, seed: int = 0) -> PixelModel:
        """As if trained: see :func:`live`."""
        model = self.fresh(seed)
        live(model.network, seed)
        return model


def live(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic a random value.

    Output layers and gates start at zero, and so would every gradient: a test of causality would be vacuous.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 4:  # kernels
                parameter.copy_(math.sqrt(2 / parameter[0].numel()) * normal(parameter))
            else:  # biases, gains, positions
                parameter.copy_(0.4 * normal(parameter) + (1 if name.endswith("gain") else 0))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * normal(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return network


def _gated(channels: int, kernel: int = 3, blocks: int = 3, **more: object) -> PixelCNNConfig:
    return PixelCNNConfig.model_validate(
        {"block": "gated", "channels": channels, "first_kernel": 5, "kernel": kernel, "blocks": blocks} | more
    )


_GRAY = PixelCNNConfig(block="plain", channels=8, blocks=7, kernel=7, norm="batch", bias=False)
_RESIDUAL = PixelCNNConfig(block="residual", channels=12, hidden=8, blocks=5, kernel=3, head_kernels=(3, 3))
_BERKELEY = PixelCNNConfig(block="residual", channels=8, hidden=8, blocks=4, kernel=7, head_kernels=(1,))
_COLORED = PixelCNNConfig(block="residual", channels=24, hidden=24, blocks=7, kernel=7, head_kernels=(1,))
_PREACTIVATION = PixelCNNConfig(block="preactivation", channels=24, blocks=3, kernel=5, head_kernels=(1,))
_RGB = PixelCNNConfig(block="plain", channels=16, blocks=5, kernel=7)

CONFIGS = {
    "mnist-gray": Setting(_GRAY, ORDERED, ImageSpec(1, 9, 9, 256)),
    "mnist-binary": Setting(_RESIDUAL, BERNOULLI, ImageSpec(1, 9, 8, 2)),
    "mnist-binary-7x7": Setting(_BERKELEY, ORDERED, ImageSpec(1, 8, 9, 2)),
    "colored-mnist": Setting(_COLORED, ORDERED, ImageSpec(3, 6, 6, 4)),
    "rgb-ordered": Setting(_RGB, ORDERED, ImageSpec(3, 5, 6, 256)),
    "rgb-independent": Setting(_RGB, INDEPENDENT, ImageSpec(3, 5, 6, 256)),
    "preactivation": Setting(_PREACTIVATION, ORDERED, ImageSpec(3, 5, 6, 4)),
    "gated": Setting(_gated(8, positions=True, dropout=0.2), ORDERED, ImageSpec(1, 8, 8, 17)),
    "gated-norm": Setting(_gated(8, norm="channel", bias=False), BERNOULLI, ImageSpec(1, 8, 8, 2)),
    "gated-batch": Setting(_gated(8, norm="batch"), ORDERED, ImageSpec(1, 7, 7, 5)),
    "gated-rgb-20": Setting(_gated(20, norm="channel", positions=True, dropout=0.1), ORDERED, ImageSpec(3, 5, 5, 17)),
    "gated-rgb-64": Setting(_gated(64, hidden=20, blocks=2), ORDERED, ImageSpec(3, 5, 4, 4)),
    "gated-rgb-independent": Setting(_gated(20, norm="channel"), INDEPENDENT, ImageSpec(3, 5, 5, 4)),
    "gated-head": Setting(_gated(13, kernel=5, blocks=1, head_kernels=(3, 1)), BERNOULLI, ImageSpec(3, 5, 5, 2)),
}

BINARY_WORLD = ImageSpec(1, 2, 2, 2)
COLOR_WORLD = ImageSpec(3, 2, 1, 4)


def tiny(block: str, head: HeadConfig, image: ImageSpec, **more: object) -> Setting:
    """A network small enough to be asked about every image of a small world."""
    settings = {"block": block, "channels": 12, "first_kernel": 3, "kernel": 3, "blocks": 2, "head_kernels": (1,)}
    return Setting(PixelCNNConfig.model_validate(settings | more), head, image)


WORLDS = {
    "binary, Bernoulli, plain": tiny("plain", BERNOULLI, BINARY_WORLD, norm="batch", bias=False),
    "binary, Bernoulli, residual": tiny("residual", BERNOULLI, BINARY_WORLD),
    "binary, 2 levels, preactivation": tiny("preactivation", ORDERED, BINARY_WORLD),
    "binary, 2 levels, gated": tiny("gated", ORDERED, BINARY_WORLD, norm="channel", positions=True, dropout=0.3),
    "color, ordered, plain": tiny("plain", ORDERED, COLOR_WORLD),
    "color, ordered, preactivation": tiny("preactivation", ORDERED, COLOR_WORLD),
    "color, ordered, gated": tiny("gated", ORDERED, COLOR_WORLD, channels=20, norm="channel", positions=True),
    "color, independent, residual": tiny("residual", INDEPENDENT, COLOR_WORLD),
    "color, independent, gated": tiny("gated", INDEPENDENT, COLOR_WORLD),
    "color, Bernoulli, gated": tiny("gated", BERNOULLI, ImageSpec(3, 2, 2, 2)),
}
