"""The one table of networks: name -> (configuration, module).

A module is built as ``Module(config, spec, outputs=..., groups=..., classes=...)`` and maps pixels in model space
[B, C, H, W], and a label for each image if there are classes, to the parameters of a distribution [B, outputs, H, W].
One that can go by a picture is built with ``condition=channels`` as well, and then takes ``condition`` [B, c, H, W].
A new network is one file in this folder and one line here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from pydantic import BaseModel
from torch import nn

from pixelloom.core.errors import UsageError, did_you_mean
from pixelloom.core.types import ImageSpec
from pixelloom.layers.level_embedding import Embedded
from pixelloom.networks.gan.dcgan import DCGANConfig, DCGANDiscriminator, DCGANGenerator
from pixelloom.networks.gan.r3gan import R3GANConfig, R3GANDiscriminator, R3GANGenerator
from pixelloom.networks.gan.sagan import SAGANConfig, SAGANDiscriminator, SAGANGenerator
from pixelloom.networks.gan.sngan import SNGANConfig, SNGANDiscriminator, SNGANGenerator
from pixelloom.networks.pixel.gated import GatedPixelCNN, GatedPixelCNNConfig
from pixelloom.networks.pixel.made import MADE, MADEConfig
from pixelloom.networks.pixel.nade import NADE, NADEConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNN, PixelCNNConfig
from pixelloom.networks.pixel.pixelcnnpp import PixelCNNPlusPlus, PixelCNNPlusPlusConfig
from pixelloom.networks.pixel.pixelrnn import DiagonalBiLSTMConfig, PixelRNN, RowLSTMConfig
from pixelloom.networks.pixel.pixelsnail import PixelSNAIL, PixelSNAILConfig
from pixelloom.networks.pixel.transformer import PixelTransformer, PixelTransformerConfig

PIXEL_NETWORKS: dict[str, tuple[type[BaseModel], Callable[..., nn.Module]]] = {
    "pixelcnn": (PixelCNNConfig, PixelCNN),
    "gated-pixelcnn": (GatedPixelCNNConfig, GatedPixelCNN),
    "row-lstm": (RowLSTMConfig, PixelRNN),
    "diagonal-bilstm": (DiagonalBiLSTMConfig, PixelRNN),
    "nade": (NADEConfig, NADE),
    "made": (MADEConfig, MADE),
    "pixelcnn-pp": (PixelCNNPlusPlusConfig, PixelCNNPlusPlus),
    "pixelsnail": (PixelSNAILConfig, PixelSNAIL),
    "pixel-transformer": (PixelTransformerConfig, PixelTransformer),
}


GAN_NETWORKS: dict[str, tuple[type[BaseModel], Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "dcgan": (DCGANConfig, DCGANGenerator, DCGANDiscriminator),
    "sagan": (SAGANConfig, SAGANGenerator, SAGANDiscriminator),
    "sngan": (SNGANConfig, SNGANGenerator, SNGANDiscriminator),
    "r3gan": (R3GANConfig, R3GANGenerator, R3GANDiscriminator),
}


def takes_condition(name: str) -> bool:
    """Whether the network of that name can go by a picture."""
    return "condition" in inspect.signature(PIXEL_NETWORKS[name][1]).parameters


def no_condition(name: str) -> str:
    """What to say of a network that cannot."""
    able = ", ".join(filter(takes_condition, PIXEL_NETWORKS))
    return f"the network {name!r} takes no picture to go by; leave it out, or choose one that does: {able}"


def build_network(
    name: str,
    config: BaseModel,
    spec: ImageSpec,
    *,
    outputs: int,
    groups: int,
    classes: int = 0,
    condition: int = 0,
    embedding: int = 0,
) -> nn.Module:
    """A freshly initialized network of that name; with classes, its forward takes labels [B] as well.

    With so many channels of a condition, it also takes a picture to go by, [B, condition, H, W]. With an embedding it
    takes numbers of levels, and makes a vector of so many features of each.

    Raises:
        UsageError: for an unknown name, or settings that do not fit the images.
    """
    if name not in PIXEL_NETWORKS:
        raise UsageError(
            f"no network is called {name!r}.{did_you_mean(name, PIXEL_NETWORKS)} Known: {', '.join(PIXEL_NETWORKS)}"
        )
    expected, module = PIXEL_NETWORKS[name]
    if not isinstance(config, expected):
        raise UsageError(f"network {name!r} takes a {expected.__name__}, not a {type(config).__name__}")
    if condition and not takes_condition(name):
        raise UsageError(f"condition: {no_condition(name)}")
    seen = replace(spec, channels=spec.channels * embedding) if embedding else spec
    try:
        more = {"condition": condition} if condition else {}
        network = module(config, seen, outputs=outputs, groups=groups, classes=classes, **more)
        return Embedded(network, spec, embedding) if embedding else network
    except ValueError as error:
        raise UsageError(f"model: {error}") from error


def build_pair(name: str, config: BaseModel, spec: ImageSpec, *, classes: int = 0) -> tuple[nn.Module, nn.Module]:
    """A freshly initialized generator and discriminator of that name.

    Raises:
        UsageError: for an unknown name, or settings that do not fit the images.
    """
    if name not in GAN_NETWORKS:
        raise UsageError(
            f"no network is called {name!r}.{did_you_mean(name, GAN_NETWORKS)} Known: {', '.join(GAN_NETWORKS)}"
        )
    expected, generator, discriminator = GAN_NETWORKS[name]
    if type(config) is not expected:
        raise UsageError(f"network {name!r} takes a {expected.__name__}, not a {type(config).__name__}")
    try:
        return generator(config, spec, classes=classes), discriminator(config, spec, classes=classes)
    except ValueError as error:
        raise UsageError(f"model: {error}") from error
