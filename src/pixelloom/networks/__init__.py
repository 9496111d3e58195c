"""The two tables of networks: name -> (configuration, how to build it).

A pixel network follows :class:`pixelloom.networks.protocols.PixelNetwork`; a GAN has a
:class:`~pixelloom.networks.protocols.Generator` and a :class:`~pixelloom.networks.protocols.Discriminator`. A new
network is one file in ``pixel/`` or ``gan/`` and one line here.
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
from pixelloom.networks.gan.sagan import SAGANConfig, sagan_discriminator, sagan_generator
from pixelloom.networks.gan.sngan import SNGANConfig, SNGANDiscriminator, SNGANGenerator
from pixelloom.networks.pixel.gated import GatedPixelCNN, GatedPixelCNNConfig
from pixelloom.networks.pixel.made import MADE, MADEConfig
from pixelloom.networks.pixel.nade import NADE, NADEConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNN, PixelCNNConfig
from pixelloom.networks.pixel.pixelcnnpp import PixelCNNPlusPlus, PixelCNNPlusPlusConfig
from pixelloom.networks.pixel.pixelrnn import DiagonalBiLSTMConfig, RowLSTMConfig, diagonal_bilstm, row_lstm
from pixelloom.networks.pixel.pixelsnail import PixelSNAIL, PixelSNAILConfig
from pixelloom.networks.pixel.transformer import PixelTransformer, PixelTransformerConfig
from pixelloom.networks.symmetries import Symmetries, check_orders, joint_classes

PIXEL_NETWORKS: dict[str, tuple[type[BaseModel], Callable[..., nn.Module]]] = {
    "pixelcnn": (PixelCNNConfig, PixelCNN),
    "gated-pixelcnn": (GatedPixelCNNConfig, GatedPixelCNN),
    "row-lstm": (RowLSTMConfig, row_lstm),
    "diagonal-bilstm": (DiagonalBiLSTMConfig, diagonal_bilstm),
    "nade": (NADEConfig, NADE),
    "made": (MADEConfig, MADE),
    "pixelcnn-pp": (PixelCNNPlusPlusConfig, PixelCNNPlusPlus),
    "pixelsnail": (PixelSNAILConfig, PixelSNAIL),
    "pixel-transformer": (PixelTransformerConfig, PixelTransformer),
}
"""name -> (configuration, constructor)"""

GAN_NETWORKS: dict[str, tuple[type[BaseModel], Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "dcgan": (DCGANConfig, DCGANGenerator, DCGANDiscriminator),
    "sagan": (SAGANConfig, sagan_generator, sagan_discriminator),
    "sngan": (SNGANConfig, SNGANGenerator, SNGANDiscriminator),
    "r3gan": (R3GANConfig, R3GANGenerator, R3GANDiscriminator),
}
"""name -> (configuration, constructor of the generator, constructor of the discriminator)"""


def takes_condition(name: str) -> bool:
    """Whether the network of that name takes a conditioning image."""
    return "condition" in inspect.signature(PIXEL_NETWORKS[name][1]).parameters


def no_condition(name: str) -> str:
    """The error message for a network that takes no conditioning image."""
    able = ", ".join(filter(takes_condition, PIXEL_NETWORKS))
    return f"the network {name!r} takes no conditioning image; leave it out, or choose one that does: {able}"


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
    orders: int = 1,
) -> nn.Module:
    """Build and initialize the pixel network of that name.

    Args:
        name: a key of ``PIXEL_NETWORKS``.
        config: of the class that the table has for the name.
        spec: the images.
        outputs: as of :class:`pixelloom.networks.protocols.PixelNetwork`, like the next three.
        groups: ordered channels.
        classes: number of classes.
        condition: channels of the conditioning image.
        embedding: length of a learned vector for each level; the network then takes level indices. 0 for pixels in
            model space.
        orders: pixel orders that share the weights, symmetries of the raster order; the network is then conditioned on
            the order.

    Raises:
        UsageError: for an unknown name, or a configuration that does not fit the images.
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
    check_orders(orders, spec)
    if orders > 1 and getattr(config, "orders", 1) > 1:
        raise UsageError(f"orders: {orders} symmetries of the grid and model.orders cannot be combined; choose one")
    inner = replace(spec, channels=spec.channels * embedding, palette=None) if embedding else spec
    try:
        more = {"condition": condition} if condition else {}
        joint = joint_classes(orders, classes) if orders > 1 else classes
        network = module(config, inner, outputs=outputs, groups=groups, classes=joint, **more)
        network = Embedded(network, spec, embedding) if embedding else network
        return Symmetries(network, spec, orders, classes) if orders > 1 else network
    except ValueError as error:
        raise UsageError(f"model: {error}") from error


def build_pair(name: str, config: BaseModel, spec: ImageSpec, *, classes: int = 0) -> tuple[nn.Module, nn.Module]:
    """Build and initialize the generator and the discriminator of that name.

    Raises:
        UsageError: for an unknown name, or a configuration that does not fit the images.
    """
    if name not in GAN_NETWORKS:
        raise UsageError(
            f"no network is called {name!r}.{did_you_mean(name, GAN_NETWORKS)} Known: {', '.join(GAN_NETWORKS)}"
        )
    expected, generator, discriminator = GAN_NETWORKS[name]
    if not isinstance(config, expected):
        raise UsageError(f"network {name!r} takes a {expected.__name__}, not a {type(config).__name__}")
    try:
        return generator(config, spec, classes=classes), discriminator(config, spec, classes=classes)
    except ValueError as error:
        raise UsageError(f"model: {error}") from error
