"""Small pairs of generator and discriminator, every kind of them, for the tests of networks and layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.spectral_norm import refresh, spectral_layers
from pixelloom.networks import build_pair
from pixelloom.networks.gan.dcgan import DCGANConfig
from pixelloom.networks.gan.r3gan import R3GANConfig
from pixelloom.networks.gan.sagan import SAGANConfig
from pixelloom.networks.gan.sngan import SNGANConfig

NARROW = {"latent": 5, "generator_width": 8, "discriminator_width": 8, "most_features": 32}
PAIRS: dict[str, tuple[str, BaseModel]] = {
    "dcgan": ("dcgan", DCGANConfig.model_validate(NARROW)),
    "sagan": ("sagan", SAGANConfig.model_validate(NARROW)),
    "sagan-paper": ("sagan", SAGANConfig.model_validate(NARROW | {"attention": "paper"})),
    "sngan": ("sngan", SNGANConfig(latent=6, generator_width=8, discriminator_width=6)),
    "sngan-doubling": ("sngan", SNGANConfig(latent=6, generator_width=4, discriminator_width=4, doubling=True)),
    "r3gan": ("r3gan", R3GANConfig(latent=5, width=8, most_features=32, blocks=2, group_width=8, embedding=6)),
}


def spec(size: int = 16, channels: int = 1) -> ImageSpec:
    return ImageSpec(channels, size, size, 256)


def pair(kind: str, size: int = 16, channels: int = 1, classes: int = 0) -> tuple[nn.Module, nn.Module]:
    """As they are before training."""
    name, config = PAIRS[kind]
    return build_pair(name, config, spec(size, channels), classes=classes)


def awake(network: nn.Module, deviation: float = 0.1) -> nn.Module:
    """As if trained: every parameter moved, so that nothing rests at a zero it started from; spectral norms fit."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(deviation * torch.randn(parameter.shape, generator=generator))
    refresh(network)
    return network


def matrices(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weight that each layer under spectral norm uses, as [outputs, everything else]."""
    for name, layer, _, _ in spectral_layers(network):
        weight = layer.weight.detach()
        yield name, (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(1)


def check_norms(network: nn.Module) -> int:
    """Every norm is 1 within 1 %; returns how many there were."""
    norms = {name: torch.linalg.matrix_norm(matrix, ord=2).item() for name, matrix in matrices(network)}
    for name, norm in norms.items():
        assert abs(norm - 1) < 0.01, (name, norm)
    return len(norms)


@contextmanager
def double() -> Iterator[None]:
    """New tensors are float64 inside ``with``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
