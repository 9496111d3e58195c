"""Pictures to go by: what an image is conditioned on, derived from the image itself.

    downsample@k    c[y, x] = floor(mean of the k x k block at (k y, k x) + 1/2), channel by channel, in the image's levels
    edges        c[y, x] = 1 where |v[y, x] - v'| >= (levels - 1) / 4 for v' = v[y, x + 1] or v[y + 1, x] in any channel

A small picture is repeated to the size of the image before a network reads it. All is integers up to there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling, to_model

_DOWNSAMPLE = re.compile(r"downsample@(\d{1,4})")
RULES = "none, downsample@K with K of 2 or more, or edges"


def check_rule(rule: str) -> str:
    """The rule, if it is one; raises ValueError otherwise."""
    if rule in ("none", "edges") or _factor(rule) >= 2:
        return rule
    raise ValueError(f"choose {RULES}, not {rule!r}")


def _factor(rule: str) -> int:
    found = _DOWNSAMPLE.fullmatch(rule)
    return int(found[1]) if found else 1


@dataclass(frozen=True)
class Condition:
    """What images of a shape are conditioned on, by a rule other than none.

    Raises:
        ValueError: for an unknown rule, or one that does not fit the images.
    """

    rule: str
    image: ImageSpec

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if self.rule == "none":
            raise ValueError("none is no condition")
        if self.image.height % self.factor or self.image.width % self.factor:
            raise ValueError(
                f"{self.rule} needs sides that {self.factor} divides, the images are {self.image.height}x"
                f"{self.image.width}; choose another factor, or other images by --size"
            )

    @property
    def factor(self) -> int:
        """Pixels of the image along a side of one of the condition."""
        return _factor(self.rule)

    @property
    def spec(self) -> ImageSpec:
        """Shape and levels of what an image is conditioned on."""
        if self.rule == "edges":
            return ImageSpec(1, self.image.height, self.image.width, 2)
        k = self.factor
        return ImageSpec(self.image.channels, self.image.height // k, self.image.width // k, self.image.levels)

    def of(self, images: Tensor) -> Tensor:
        """That of some images: levels uint8 [N, C, H, W] -> levels uint8 [N, c, h, w] of ``spec``."""
        if self.rule == "edges":
            return _edges(images, self.image.levels)
        (n, c, h, w), k = images.shape, self.factor
        total = images.reshape(n, c, h // k, k, w // k, k).sum((3, 5))  # int64
        return torch.div(2 * total + k * k, 2 * k * k, rounding_mode="floor").to(torch.uint8)

    def planes(self, levels: Tensor) -> Tensor:
        """As a network reads it, float32 [N, c, H, W]: in [0, 1], so that the margin around it is black."""
        return to_model(self._repeated(levels), self.spec.levels, Scaling.unit())

    def shown(self, levels: Tensor) -> Tensor:
        """As an image to look at, levels uint8 [N, C, H, W] of the image."""
        large = self._repeated(levels).expand(-1, self.image.channels, -1, -1)
        return large * (self.image.levels - 1) if self.rule == "edges" else large

    def _repeated(self, levels: Tensor) -> Tensor:
        return levels.repeat_interleave(self.factor, dim=2).repeat_interleave(self.factor, dim=3)

    def __str__(self) -> str:
        if self.rule == "edges":
            return "edges, of the image's size with 2 levels"
        k, spec = self.factor, self.spec
        return f"{self.rule}, the means of its {k}x{k} blocks: {spec}"


def _edges(images: Tensor, levels: int) -> Tensor:
    v, found = images.to(torch.int16), torch.zeros_like(images[:, :1], dtype=torch.bool)
    for axis in (2, 3):
        step = (4 * v.diff(dim=axis).abs() >= levels - 1).any(1, keepdim=True)
        found.narrow(axis, 0, step.shape[axis]).logical_or_(step)
    return found.to(torch.uint8)
