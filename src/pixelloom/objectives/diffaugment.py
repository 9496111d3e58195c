"""Differentiable augmentation of real and generated images alike.

D overfits a small training set later, and the augmentation does not leak into generated images.

    T x = cutout(translate(contrast(saturate(brighten(x)))))

Each function takes images in model space, float [B, C, H, W] in [-1, 1], and noise uniform in [-1, 1). It is twice
differentiable in x, which gradient penalties need. Pixels that are shifted in or cut out are 0, mid gray: a visible
border. A black one would look like the background of digits, and the generator would learn to shift them.

Source: Zhao, Liu, Lin, Zhu, Han 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (2006.10738). Their
ranges: brightness +-0.5, saturation 0 to 2, contrast 0.5 to 1.5, translation 1/8 of a side, cutout 1/2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelloom.core.types import ImageSpec
from pixelloom.objectives.config import Policy

NOISE = 7
"""Random numbers per image: brightness, saturation, contrast, translation (y, x), cutout (y, x)."""

ENOUGH = 20_000
"""Number of training images from which on augmentation is off by default."""

CUTOUT_FROM = 2_000
"""Number of training images below which cutout is off by default: on tiny sets it leaks into generated images."""


def policy_for(spec: ImageSpec, images: int) -> Policy:
    """Default for a number of training images: none from 20,000 on; color for RGB only; no cutout below 2,000."""
    if images >= ENOUGH:
        return Policy()
    return Policy(
        translation=0.125, cutout=0.5 if images >= CUTOUT_FROM else 0.0, color=1.0 if spec.channels == 3 else 0.0
    )


def draw_noise(n: int, device: torch.device | str = "cpu") -> Tensor:
    """Noise for n images from torch's global generator, float32 [n, 7], uniform in [-1, 1)."""
    return 2 * torch.rand(n, NOISE, device=device) - 1


def augment(x: Tensor, policy: Policy, noise: Tensor) -> Tensor:
    """Augment images [B, C, H, W], image i with row i of ``noise`` [B, 7], uniform in [-1, 1).

    Noise of zeros is the identity, except that cutout removes the center. With a policy that is off, returns x itself.

    Raises:
        ValueError: if ``noise`` has another shape.
    """
    if noise.shape != (len(x), NOISE):
        raise ValueError(f"noise for {len(x)} images is [{len(x)}, {NOISE}], not {list(noise.shape)}")
    if not policy.on:
        return x
    if policy.color:
        strength = policy.color * noise[:, :3].to(x.dtype)
        x = brighten(x, strength[:, 0])
        x = saturate(x, strength[:, 1])
        x = contrast(x, strength[:, 2])
    if policy.translation:
        x = translate(x, noise[:, 3:5], policy.translation)
    if policy.cutout:
        x = cut_out(x, noise[:, 5:7], policy.cutout)
    return x.to(memory_format=torch.channels_last)  # the memory format that data/pixels.py uses


def brighten(x: Tensor, noise: Tensor) -> Tensor:
    """x + noise / 2; noise [B]."""
    return x + noise[:, None, None, None] / 2


def saturate(x: Tensor, noise: Tensor) -> Tensor:
    """m + (1 + noise) (x - m) with m the mean over channels; noise [B]."""
    gray = x.mean(1, keepdim=True)
    return gray + (1 + noise[:, None, None, None]) * (x - gray)


def contrast(x: Tensor, noise: Tensor) -> Tensor:
    """m + (1 + noise / 2) (x - m) with m the mean of the image; noise [B]."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (1 + noise[:, None, None, None] / 2) * (x - mean)


def translate(x: Tensor, noise: Tensor, share: float) -> Tensor:
    """Shift down and right by integers uniform in -r..r, r = ``share`` of the side, rounded; noise [B, 2] (y, x)."""
    (rows, shown_y), (columns, shown_x) = (_shifted(noise[:, a], x.shape[2 + a], share) for a in (0, 1))
    # Indices wrap around, so that each pixel is read once: the backward pass is a permutation, hence deterministic.
    moved = x.gather(2, rows[:, None, :, None].expand_as(x)).gather(3, columns[:, None, None, :].expand_as(x))
    return moved * (shown_y[:, None, :, None] & shown_x[:, None, None, :])


def cut_out(x: Tensor, noise: Tensor, share: float) -> Tensor:
    """Set a rectangle of ``share`` of the sides to 0, its center uniform over pixels; noise [B, 2] (y, x)."""
    in_y, in_x = (_covered(noise[:, a], x.shape[2 + a], share) for a in (0, 1))
    return x * ~(in_y[:, None, :, None] & in_x[:, None, None, :])


def _shifted(noise: Tensor, side: int, share: float) -> tuple[Tensor, Tensor]:
    """Source index of each position along a side, modulo the side, and whether it lies in the image; each [B, side]."""
    reach = _nearest(side * share)
    shift = _whole(noise, 2 * reach + 1) - reach
    source = torch.arange(side, device=noise.device) - shift[:, None]  # [B, side]
    return source % side, (source >= 0) & (source < side)


def _covered(noise: Tensor, side: int, share: float) -> Tensor:
    """Whether each position along a side is cut out, bool [B, side].

    As in the paper's code, an even width has ``side + 1`` centers, which makes both borders equally likely.
    """
    width = _nearest(side * share)
    start = _whole(noise, side + 1 - width % 2)[:, None] - width // 2
    position = torch.arange(side, device=noise.device)
    return (position >= start) & (position < start + width)


def _whole(noise: Tensor, n: int) -> Tensor:
    """Map noise in [-1, 1) to integers 0..n-1, each for an interval of equal length."""
    return ((noise + 1) / 2 * n).long().clamp(0, n - 1)


def _nearest(value: float) -> int:
    return int(value + 0.5)
