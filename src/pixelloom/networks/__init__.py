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

from pixelloom.errors import UsageError, did_you_mean
from pixelloom.layers.embedding import Embedded
from pixelloom.networks.gated import GatedPixelCNN, GatedPixelCNNConfig
from pixelloom.networks.made import MADE, MADEConfig
from pixelloom.networks.nade import NADE, NADEConfig
from pixelloom.networks.pixelcnn import PixelCNN, PixelCNNConfig
from pixelloom.networks.pixelcnnpp import PixelCNNPlusPlus, PixelCNNPlusPlusConfig
from pixelloom.networks.pixelrnn import DiagonalBiLSTMConfig, PixelRNN, RowLSTMConfig
from pixelloom.networks.pixelsnail import PixelSNAIL, PixelSNAILConfig
from pixelloom.networks.transformer import PixelTransformer, PixelTransformerConfig
from pixelloom.types import ImageSpec

NETWORKS: dict[str, tuple[type[BaseModel], Callable[..., nn.Module]]] = {
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


def takes_condition(name: str) -> bool:
    """Whether the network of that name can go by a picture."""
    return "condition" in inspect.signature(NETWORKS[name][1]).parameters


def no_condition(name: str) -> str:
    """What to say of a network that cannot."""
    able = ", ".join(filter(takes_condition, NETWORKS))
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
    """A freshly initialised network of that name; with classes, its forward takes labels [B] as well.

    With so many channels of a condition, it also takes a picture to go by, [B, condition, H, W]. With an embedding it
    takes numbers of levels, and makes a vector of so many features of each.

    Raises:
        UsageError: for an unknown name, or settings that do not fit the images.
    """
    if name not in NETWORKS:
        raise UsageError(f"no network is called {name!r}.{did_you_mean(name, NETWORKS)} Known: {', '.join(NETWORKS)}")
    expected, module = NETWORKS[name]
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
