"""Ancestral sampling, the plain loop: one full pass of the network per pixel. The reference of the fast sampler.

for each pixel i in raster order, each ordered channel c:    x[i, c] ~ p(x[i, c] | all values before it)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelloom.core.types import ImageSpec
from pixelloom.heads.discrete import Head, check_temperature

Predict = Callable[[Tensor], Tensor]
"""Levels uint8 [B, C, H, W] -> parameters of the head [B, outputs, H, W]."""

OnStep = Callable[[int, int, Tensor], None]
"""Called after each step with the number of steps done, of all steps, and the images so far, uint8 [B, C, H, W]."""


@torch.no_grad()
def sample(
    predict: Predict,
    head: Head,
    spec: ImageSpec,
    noise: Tensor,
    *,
    temperature: float = 1.0,
    given: Tensor | None = None,
    mask: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Draw one image for each row of noise.

    Args:
        predict: the network, in evaluation mode.
        head: the distribution that its output parametrizes.
        spec: shape and levels of the images.
        noise: uniform, float64 [B, C, H, W], see :func:`pixelloom.core.rng.image_noise`.
        temperature: logits are divided by it before each draw; below 1 likelier, above 1 more varied.
        given: a partly known image per row, levels uint8 [B, C, H, W].
        mask: bool [B, C, H, W], true where ``given`` is known; known values are kept, the rest is drawn.
        on_step: callback after each row of the image.

    Returns:
        Levels, uint8 [B, C, H, W].

    Raises:
        UsageError: for a temperature that is not positive.
    """
    check_temperature(temperature)
    x = torch.zeros(noise.shape, dtype=torch.uint8, device=noise.device)
    if given is not None and mask is not None:
        x = torch.where(mask, given, x)
    # An ordered channel depends on those before it, so each takes a pass; independent channels share one.
    passes = [slice(c, c + 1) for c in range(spec.channels)] if head.groups > 1 else [slice(0, spec.channels)]
    for i in range(spec.height):
        for j in range(spec.width):
            for c in passes:
                if mask is not None and bool(mask[:, c, i, j].all()):
                    continue
                at = (..., slice(i, i + 1), slice(j, j + 1))
                known = None if mask is None else (x[at], mask[at])
                x[:, c, i, j] = head.draw(predict(x)[at], noise[at], temperature, known)[:, c, 0, 0]
        if on_step is not None:
            on_step(i + 1, spec.height, x)
    return x
