"""Spectral norm: the weight of a layer divided by its largest singular value, W / sigma(W).

sigma is estimated by the power method (appendix A, algorithm 1), one step per use of the weight in training mode:

    u <- W v / |W v|,   v <- W' u / |W' u|,   sigma = u' W v

with W as a matrix [outputs, all other axes]. In eval mode u and v are constant, so sigma is right only if they belong
to the weights: for EMA weights, :func:`refresh` recomputes them.

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
"""Steps of the power method from a random start, enough for an error of sigma well below 1 %."""


class SpectralNorm(nn.Module):
    """W -> W / sigma(W), a parametrization of torch.

    sigma is computed in the precision of W under autocast too; torch's own uses half precision on CUDA devices, though
    not on CPUs. :meth:`refresh` is cheap.

    Args:
        weight: the initial weight.
        axis: the axis of the weight with the outputs.
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
        """Any shape of at least two axes -> same; training mode does one step of the power method before."""
        with _unrounded(weight):
            # Copies of u and v, because another forward pass may update them before the backward pass of this one.
            if not self.training:
                return weight / (self.u.clone() @ (self._matrix(weight) @ self.v.clone()))
            # The columns in the order of memory: flattening a weight in channels_last memory would copy it.
            moved = weight.movedim(self.axis, 0)
            order = sorted(range(1, moved.ndim), key=moved.stride, reverse=True)
            matrix = moved.permute(0, *order).flatten(1)
            v = self.v.view(moved.shape[1:]).permute([axis - 1 for axis in order])
            with torch.no_grad():
                self.u.copy_(F.normalize(matrix @ v.flatten(), dim=0))
                v.copy_(F.normalize(self.u @ matrix, dim=0).view(v.shape))  # in the buffer
            u, v = self.u.clone(), v.clone(memory_format=torch.contiguous_format).flatten()
            return weight * (u @ (matrix @ v)).reciprocal()  # the backward pass of a quotient takes twice the time

    @torch.no_grad()
    def refresh(self, weight: Tensor, steps: int) -> None:
        """Do steps of the power method on W W' or W' W, whichever is smaller."""
        if weight.is_meta:  # a model that is loaded: values come later, and a step takes a millisecond there
            return
        with _unrounded(weight):
            matrix, near, far = self._matrix(weight), self.u, self.v
            if len(near) > len(far):
                matrix, near, far = matrix.T, far, near
            square = matrix @ matrix.T
            square, vector = square / square.norm(), near
            for step in range(1, steps + 1):
                vector = square @ vector
                if step % 8 == 0 or step == steps:  # normalizing at each step would dominate the time of small layers
                    # With many similar singular values, eight steps reduce the norm below the default eps of normalize.
                    vector = F.normalize(vector, dim=0, eps=torch.finfo(vector.dtype).tiny)
            near.copy_(vector)
            far.copy_(F.normalize(vector @ matrix, dim=0))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The original weight for a weight that is assigned: itself."""
        return weight

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.axis, 0).flatten(1)  # -> [outputs, all other axes]


def _unrounded(weight: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast; devices without autocast, such as meta, need none."""
    device = weight.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def spectral(layer: Layer) -> Layer:
    """Apply spectral norm to the ``weight`` of a layer, and return the layer.

    Initialize the layer before: ``layer.weight`` is then computed at every use, and the parameter is
    ``layer.parametrizations.weight.original``.

    Raises:
        ValueError: if the weight has a parametrization already.
    """
    if parametrize.is_parametrized(layer, "weight"):
        raise ValueError(f"the weight of this {type(layer).__name__} is computed already; wrap a layer once")
    weight = layer.weight
    assert isinstance(weight, Tensor)
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # its weight is [inputs, outputs, ...]
    parametrize.register_parametrization(layer, "weight", SpectralNorm(weight, axis))
    return layer


def spectral_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module, SpectralNorm, Tensor]]:
    """(name, layer, norm, trained weight) of every layer of a module with spectral norm."""
    for name, layer in module.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            weights = layer.parametrizations["weight"]
            yield from ((name, layer, norm, weights.original) for norm in weights if isinstance(norm, SpectralNorm))


def refresh(module: nn.Module, steps: int = STEPS) -> None:
    """Recompute u and v of every layer for its current weight, for use in eval mode.

    Needed for EMA weights, whose u and v differ from those of the trained weights.

    Args:
        module: the network; its mode does not change.
        steps: of the power method. A few suffice if u and v are nearly right; the default suffices from any start.
    """
    for _, _, norm, weight in spectral_layers(module):
        norm.refresh(weight, steps)
