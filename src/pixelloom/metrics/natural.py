"""The network of the extractor ``natural``: a small classifier of photographs and drawings, and of distortions.

A classifier of objects alone maps noise and photographs to similar features. So the same 64 features also tell
undistorted images from noisy, blurred, shuffled, flat and pixelated ones. ``benchmarks/natural.py`` trains it.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelloom.core.errors import ModelError

NATURAL = "natural"
NATURAL_SHA256 = "e6853a1f9e020cd341ab91e3b546c04ad0eb5394a9bd5a83d2f6d509c21615bb"
SIDE = 32
CLASSES = 20
"""Ten classes of CIFAR-10, then ten of Fashion-MNIST."""
KINDS = ("undistorted", "with noise", "noise", "blurred", "shuffled blocks", "flattened", "pixelated")
"""What the second head tells apart."""
_WIDTHS = (24, 48, 96, 128)


class NaturalNetwork(nn.Module):
    """Four convolutions with batch norm, and a linear layer to 64 features, which are normalized after training.

    The features are a linear map of the mean activations of the first three stages and of the 2x2 means of the last, so
    they hold textures and fine noise beside objects. Heads: ``classes`` and ``kinds``.
    """

    num_features = 64

    def __init__(self) -> None:
        super().__init__()
        channels = (3, *_WIDTHS)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(channels, _WIDTHS, strict=False)
        )
        self.linear = nn.Linear(sum(_WIDTHS[:-1]) + 4 * _WIDTHS[-1], self.num_features, bias=False)
        self.norm = nn.BatchNorm1d(self.num_features, affine=False)
        self.classes = nn.Linear(self.num_features, CLASSES)
        self.kinds = nn.Linear(self.num_features, len(KINDS))

    def features(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] in [0, 1] -> [B, 64] of mean about 0 and variance about 1 over undistorted images."""
        found: Tensor = self.norm(self.embed(x))
        return found

    def embed(self, x: Tensor) -> Tensor:
        """The features before they are normalized."""
        y, pooled = 2 * x - 1, []
        for i, stage in enumerate(self.stages):
            y = stage(y if i == 0 else F.max_pool2d(y, 2))
            pooled.append(y.mean((2, 3)) if i < len(_WIDTHS) - 1 else F.avg_pool2d(y, 2).flatten(1))
        found: Tensor = self.linear(torch.cat(pooled, 1))
        return found

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, 32, 32] in [0, 1] -> logits of classes [B, 20] and of kinds [B, 7]."""
        y = F.relu(self.embed(x))
        return self.classes(y), self.kinds(y)


def trained() -> NaturalNetwork:
    """The network with the weights of the package, stored as float16, in float32.

    Raises:
        ModelError: if the file is damaged.
    """
    content = resources.files("pixelloom.metrics").joinpath(f"weights/{NATURAL}.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != NATURAL_SHA256:
        raise ModelError(f"features {NATURAL}: the weights in the package are damaged: install pixelloom again")
    network = NaturalNetwork()
    network.load_state_dict(safetensors.torch.load(content))
    return network
