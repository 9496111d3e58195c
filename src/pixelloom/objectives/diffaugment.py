"""Differentiable augmentation: what a discriminator sees of real and of generated pictures alike, so that few pictures
are not learned by heart so soon, and the augmentation leaves no trace in generated ones.

    x' = cutout(translate(contrast(saturate(brighten(x)))))

Each function takes pictures in model space, float [B, C, H, W] in [-1, 1], and noise uniform in [-1, 1). It is
differentiable in x as often as one likes, which penalties on the gradient need. Whatever has left the picture is 0, mid
gray: a border that can be seen can be told from one that belongs to the pictures, a black one around digits could not,
and the generator would learn to shift them.

Source: Zhao, Liu, Lin, Zhu, Han 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (2006.10738). Their
choice of ranges: brightness +-0.5, saturation 0 to 2, contrast 0.5 to 1.5, shifts of 1/8 of a side, cutout of 1/2.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pixelloom.core.types import ImageSpec

NOISE = 7
"""Random numbers that one picture needs: brightness, saturation, contrast, shift (y, x), cutout (y, x)."""

ENOUGH = 20_000
"""Training pictures from which on augmentation is off by default."""

CUTOUT_FROM = 2_000
"""Training pictures below which cutout is off by default: holes leak into what is made after tiny sets."""


class Policy(BaseModel):
    """Which augmentations act, and how strongly; 0 leaves one out. There are no flips: they change digits and letters.

    ``Policy()`` is none at all, ``Policy(translation=0.125, cutout=0.5, color=1)`` is the paper's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    translation: float = Field(0.0, ge=0, le=0.5, description="largest shift, as a share of the side")
    cutout: float = Field(0.0, ge=0, lt=1, description="side of the square that is cut out, as a share of the side")
    color: float = Field(0.0, ge=0, le=1, description="strength of brightness, saturation and contrast")

    @property
    def on(self) -> bool:
        """Whether anything is changed."""
        return bool(self.translation or self.cutout or self.color)


def policy_for(spec: ImageSpec, images: int) -> Policy:
    """The default for ``images`` training pictures: none from 20,000 on; color for RGB only; no cutout below 2,000."""
    if images >= ENOUGH:
        return Policy()
    return Policy(
        translation=0.125, cutout=0.5 if images >= CUTOUT_FROM else 0.0, color=1.0 if spec.channels == 3 else 0.0
    )


def draw_noise(n: int, device: torch.device | str = "cpu") -> Tensor:
    """Noise for n pictures from torch's own generator, float32 [n, 7], uniform in [-1, 1)."""
    return 2 * torch.rand(n, NOISE, device=device) - 1


def augment(x: Tensor, policy: Policy, noise: Tensor) -> Tensor:
    """Augmented pictures, [B, C, H, W] like x, each by its own row of ``noise`` [B, 7] uniform in [-1, 1).

    Rows of zeros leave x as it is but for cutout, which then takes the center. Without policy, x itself comes back.

    Raises:
        ValueError: if there is not one row of seven numbers for each picture.
    """
    if noise.shape != (len(x), NOISE):
        raise ValueError(f"noise for {len(x)} pictures is [{len(x)}, {NOISE}], not {list(noise.shape)}")
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
    return x.to(memory_format=torch.channels_last)  # as pictures come in from data/pixels.py


def brighten(x: Tensor, noise: Tensor) -> Tensor:
    """x + noise / 2; noise [B]."""
    return x + noise[:, None, None, None] / 2


def saturate(x: Tensor, noise: Tensor) -> Tensor:
    """Away from, or towards, the gray value m = mean over channels: m + (1 + noise) (x - m); noise [B]."""
    gray = x.mean(1, keepdim=True)
    return gray + (1 + noise[:, None, None, None]) * (x - gray)


def contrast(x: Tensor, noise: Tensor) -> Tensor:
    """Away from, or towards, the picture's mean m: m + (1 + noise / 2) (x - m); noise [B]."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (1 + noise[:, None, None, None] / 2) * (x - mean)


def translate(x: Tensor, noise: Tensor, share: float) -> Tensor:
    """Down and to the right by whole pixels, each of -r..r as likely, r = share of the side; noise [B, 2] (y, x)."""
    (rows, shown_y), (columns, shown_x) = (_shifted(noise[:, a], x.shape[2 + a], share) for a in (0, 1))
    # Indices go around, so each pixel is taken once: the gradient adds nothing up, in no order.
    moved = x.gather(2, rows[:, None, :, None].expand_as(x)).gather(3, columns[:, None, None, :].expand_as(x))
    return moved * (shown_y[:, None, :, None] & shown_x[:, None, None, :])


def cut_out(x: Tensor, noise: Tensor, share: float) -> Tensor:
    """0 in a square of ``share`` of the sides, centered on any pixel with equal probability; noise [B, 2] (y, x)."""
    in_y, in_x = (_covered(noise[:, a], x.shape[2 + a], share) for a in (0, 1))
    return x * ~(in_y[:, None, :, None] & in_x[:, None, None, :])


def _shifted(noise: Tensor, side: int, share: float) -> tuple[Tensor, Tensor]:
    """For each position along a side the one that it shows after the shift, and whether that lies in the picture."""
    reach = _nearest(side * share)
    shift = _whole(noise, 2 * reach + 1) - reach
    source = torch.arange(side, device=noise.device) - shift[:, None]  # [B, side]
    return source % side, (source >= 0) & (source < side)


def _covered(noise: Tensor, side: int, share: float) -> Tensor:
    """Whether each position along a side lies in the square, [B, side]; as in the paper's code, which lets the center
    of an even square lie on the far edge too, so that it is cut on both ends alike.
    """
    width = _nearest(side * share)
    start = _whole(noise, side + 1 - width % 2)[:, None] - width // 2
    position = torch.arange(side, device=noise.device)
    return (position >= start) & (position < start + width)


def _whole(noise: Tensor, n: int) -> Tensor:
    """Noise in [-1, 1) -> 0..n-1, each for an equal part of the range, the middle one around 0."""
    return ((noise + 1) / 2 * n).long().clamp(0, n - 1)


def _nearest(value: float) -> int:
    return int(value + 0.5)
