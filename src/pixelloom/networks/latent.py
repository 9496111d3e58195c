"""The one table of networks that make images from noise: name -> (configuration, generator, discriminator).

    Generator(config, spec, classes=0):      z [B, latent] -> images [B, C, H, W] in model space
    Discriminator(config, spec, classes=0):  images [B, C, H, W] in model space -> logits [B], large for real images

A generator's attribute ``latent`` says how long z is. Both take labels, int64 [B], if and only if there are classes.
Images are squares of 16, 32, 64 or 128 pixels a side, of any number of channels. A new pair is one file in this folder
and one line here.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel
from torch import nn

from pixelloom.errors import UsageError, did_you_mean
from pixelloom.networks.dcgan import DCGANConfig, DCGANDiscriminator, DCGANGenerator
from pixelloom.networks.r3gan import R3GANConfig, R3GANDiscriminator, R3GANGenerator
from pixelloom.networks.sagan import SAGANConfig, SAGANDiscriminator, SAGANGenerator
from pixelloom.networks.sngan import SNGANConfig, SNGANDiscriminator, SNGANGenerator
from pixelloom.types import ImageSpec

LATENT: dict[str, tuple[type[BaseModel], Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "dcgan": (DCGANConfig, DCGANGenerator, DCGANDiscriminator),
    "sagan": (SAGANConfig, SAGANGenerator, SAGANDiscriminator),
    "sngan": (SNGANConfig, SNGANGenerator, SNGANDiscriminator),
    "r3gan": (R3GANConfig, R3GANGenerator, R3GANDiscriminator),
}


def build_pair(name: str, config: BaseModel, spec: ImageSpec, *, classes: int = 0) -> tuple[nn.Module, nn.Module]:
    """A freshly initialised generator and discriminator of that name.

    Raises:
        UsageError: for an unknown name, or settings that do not fit the images.
    """
    if name not in LATENT:
        raise UsageError(f"no network is called {name!r}.{did_you_mean(name, LATENT)} Known: {', '.join(LATENT)}")
    expected, generator, discriminator = LATENT[name]
    if type(config) is not expected:
        raise UsageError(f"network {name!r} takes a {expected.__name__}, not a {type(config).__name__}")
    try:
        return generator(config, spec, classes=classes), discriminator(config, spec, classes=classes)
    except ValueError as error:
        raise UsageError(f"model: {error}") from error
