"""Spectral norm: a layer whose weight is divided by its largest singular value, W / sigma(W).

sigma comes from the power iteration, one step for each use of the weight in training mode:

    u <- W v / |W v|,   v <- W' u / |W' u|,   sigma = u' W v

with W written as a matrix [outputs, everything else]. In eval mode u and v stand still, so sigma is right only if they
belong to the weights: after weights were averaged, :func:`refresh` makes them fit again.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", section 2 and appendix A.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", bound=nn.Module)

STEPS = 300
"""Of the power iteration, enough to bring sigma well within 1 % from a random start."""


class SpectralNorm(nn.Module):
    """W -> W / sigma(W), a parametrization of torch. Unlike torch's own it computes in the precision of W under
    autocast too, which would round the products that sigma is made of, and can be refreshed at little cost.

    Args:
        weight: as it is at first.
        axis: of the weight that belongs to outputs.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis
        rows, columns = self._matrix(weight).shape
        self.register_buffer("u", F.normalize(torch.randn(rows).to(weight), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(columns).to(weight), dim=0))
        self.refresh(weight, STEPS)

    def forward(self, weight: Tensor) -> Tensor:
        """Any shape of at least two axes -> same; in training mode after one step of the power iteration."""
        with _unrounded(weight):
            matrix = self._matrix(weight)
            if self.training:
                with torch.no_grad():
                    self.u.copy_(F.normalize(matrix @ self.v, dim=0))
                    self.v.copy_(F.normalize(self.u @ matrix, dim=0))
            # Copies, since another pass may move both before the gradient of this one is taken.
            return weight / (self.u.clone() @ (matrix @ self.v.clone()))

    @torch.no_grad()
    def refresh(self, weight: Tensor, steps: int) -> None:
        """Steps of the power iteration at once, on W W' or W' W, whichever is the smaller."""
        with _unrounded(weight):
            matrix, near, far = self._matrix(weight), self.u, self.v
            if len(near) > len(far):
                matrix, near, far = matrix.T, far, near
            square = matrix @ matrix.T
            square, vector = square / square.norm(), near
            for step in range(1, steps + 1):
                vector = square @ vector
                if step % 8 == 0 or step == steps:  # often enough, and cheap for small layers
                    # Where many values are alike, eight steps shorten it below the eps that normalize has by default.
                    vector = F.normalize(vector, dim=0, eps=torch.finfo(vector.dtype).tiny)
            near.copy_(vector)
            far.copy_(F.normalize(vector @ matrix, dim=0))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What to keep for a weight that is assigned: itself."""
        return weight

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.axis, 0).flatten(1)


def _unrounded(weight: Tensor) -> AbstractContextManager[Any]:
    """No autocast; a device that has none, such as meta, needs nothing."""
    device = weight.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def spectral(layer: Layer) -> Layer:
    """Put a layer's ``weight`` under spectral norm, and return the layer.

    Initialize the layer before: from here on ``layer.weight`` is computed anew at every use, and writing to it changes
    nothing. What is trained is ``layer.parametrizations.weight.original``.

    Raises:
        ValueError: if it is under spectral norm already.
    """
    if parametrize.is_parametrized(layer, "weight"):
        raise ValueError(f"the weight of this {type(layer).__name__} is computed already; wrap a layer once")
    weight = layer.weight
    assert isinstance(weight, Tensor)
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # its weight is [inputs, outputs, ...]
    parametrize.register_parametrization(layer, "weight", SpectralNorm(weight, axis))
    return layer


def spectral_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module, SpectralNorm, Tensor]]:
    """(name, layer, norm, the weight that is trained) of every layer of a module that is under spectral norm."""
    for name, layer in module.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            weights = layer.parametrizations["weight"]
            yield from ((name, layer, norm, weights.original) for norm in weights if isinstance(norm, SpectralNorm))


def refresh(module: nn.Module, steps: int = STEPS) -> None:
    """Fit u and v of every layer to its weight as it is now, for use in eval mode.

    An average of weights is another matrix than any of those that u and v followed.

    Args:
        module: the network, in any mode, which stays.
        steps: of the power iteration. A few do where u and v nearly fit; the default does from anywhere.
    """
    for _, _, norm, weight in spectral_layers(module):
        norm.refresh(weight, steps)
