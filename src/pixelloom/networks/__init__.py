"""The one table of networks: name -> (configuration, module).

A module is built as ``Module(config, spec, outputs=..., groups=...)`` and maps pixels in model space [B, C, H, W] to
the parameters of a distribution [B, outputs, H, W]. A new network is one file in this folder and one line here.
"""

from __future__ import annotations

from pydantic import BaseModel
from torch import nn

from pixelloom.errors import UsageError, did_you_mean
from pixelloom.networks.pixelcnn import PixelCNN, PixelCNNConfig
from pixelloom.types import ImageSpec

NETWORKS = {
    "pixelcnn": (PixelCNNConfig, PixelCNN),
}


def build_network(name: str, config: BaseModel, spec: ImageSpec, *, outputs: int, groups: int) -> nn.Module:
    """A freshly initialised network of that name.

    Raises:
        UsageError: for an unknown name, or settings that do not fit the images.
    """
    if name not in NETWORKS:
        raise UsageError(f"no network is called {name!r}.{did_you_mean(name, NETWORKS)} Known: {', '.join(NETWORKS)}")
    expected, module = NETWORKS[name]
    if not isinstance(config, expected):
        raise UsageError(f"network {name!r} takes a {expected.__name__}, not a {type(config).__name__}")
    try:
        return module(config, spec, outputs=outputs, groups=groups)
    except ValueError as error:
        raise UsageError(f"model: {error}") from error
