"""Conditioning images, derived from the images themselves by a rule.

    mask          the known pixels, 0 elsewhere, and a last plane that is 1 where the pixel is known
    downsample@k  c[y, x] = floor(mean of the k x k block at (k y, k x) + 1/2), for each channel, in the image's levels
    edges         c[y, x] = 1 where |v[y, x] - v'| >= (levels - 1) / 4 in any channel, v' = v[y, x + 1] or v[y + 1, x]

With ``mask`` any pixels may be known; training hides random ones (:mod:`pixelloom.data.masks`), the loss is that of the
hidden ones, and by default nothing is known. Rules use integer arithmetic. A downsampled image is repeated to full size
(nearest neighbor) for the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pixelloom.core.types import ImageSpec
from pixelloom.data.condition_rules import check_rule, factor_of
from pixelloom.data.pixels import Scaling, to_model


@dataclass(frozen=True)
class Condition:
    """The conditioning image of images of one shape, by a rule other than none.

    Attributes:
        rule: ``mask``, ``downsample@K`` or ``edges``.
        image: shape and levels of the images.

    Raises:
        ValueError: for an unknown rule, or a factor that does not divide the sides of the images, or a palette.
    """

    rule: str
    image: ImageSpec

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if self.rule == "none":
            raise ValueError("the rule none has no conditioning image")
        if self.image.palette is not None:
            raise ValueError(f"{self.rule} needs intensities, but the images are indices of a palette")
        if self.image.height % self.factor or self.image.width % self.factor:
            raise ValueError(
                f"{self.rule} needs sides divisible by {self.factor}, but the images are {self.image.height}x"
                f"{self.image.width}; choose another factor, or another --size"
            )

    @property
    def factor(self) -> int:
        """Downsampling factor K; 1 for other rules."""
        return factor_of(self.rule)

    @property
    def spec(self) -> ImageSpec:
        """Shape and levels of the conditioning image."""
        if self.rule == "edges":
            return ImageSpec(1, self.image.height, self.image.width, 2)
        if self.masks:
            return replace(self.image, channels=self.image.channels + 1)
        k = self.factor
        return ImageSpec(self.image.channels, self.image.height // k, self.image.width // k, self.image.levels)

    @property
    def masks(self) -> bool:
        """Whether the conditioning image is a partly known image."""
        return self.rule == "mask"

    @property
    def default(self) -> Tensor | None:
        """The conditioning image where none is given, uint8 [1, c, h, w]: nothing known; None if one is needed."""
        return torch.zeros(1, *self.spec.shape, dtype=torch.uint8) if self.masks else None

    def partly(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Conditioning images of partly known images, with rule ``mask``.

        Args:
            images: levels, uint8 [N, C, H, W].
            hidden: bool [N or 1, 1, H, W].

        Returns:
            uint8 [N, C + 1, H, W].
        """
        known = ~hidden.expand(len(images), -1, -1, -1)
        return torch.cat((images * known, known.to(images.dtype)), dim=1)

    def known(self, levels: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Images and the known values of conditioning images of the rule ``mask``; None if nothing is known.

        uint8 [N, C + 1, H, W] -> uint8 [N, C, H, W] and bool [N, C, H, W].
        """
        known = ~self.hidden(levels)
        if not bool(known.any()):
            return None, None
        return levels[:, :-1], known.expand(-1, self.image.channels, -1, -1)

    @staticmethod
    def hidden(levels: Tensor) -> Tensor:
        """Hidden pixels of conditioning images of the rule ``mask``: uint8 [N, C + 1, H, W] -> bool [N, 1, H, W]."""
        return levels[:, -1:] == 0

    def of(self, images: Tensor) -> Tensor:
        """Conditioning images of images: uint8 [N, C, H, W] -> uint8 [N, c, h, w], as in ``spec``.

        With ``mask`` nothing is known.
        """
        if self.masks:
            return images.new_zeros(len(images), *self.spec.shape)
        if self.rule == "edges":
            return _edges(images, self.image.levels)
        (n, c, h, w), k = images.shape, self.factor
        # [N, C, H, W] -> [N, C, H/k, k, W/k, k] -> [N, C, H/k, W/k]
        total = images.reshape(n, c, h // k, k, w // k, k).sum((3, 5))  # int64
        # floor(total / k^2 + 1/2) = floor((2 total + k^2) / (2 k^2))
        return ((2 * total + k * k) // (2 * k * k)).to(torch.uint8)

    def planes(self, levels: Tensor) -> Tensor:
        """Input planes of a network, float32 [N, c, H, W] in [0, 1]: zero padding then stands for black."""
        planes = to_model(self._repeated(levels), self.spec.levels, Scaling.unit())
        if self.masks:
            planes[:, -1] = levels[:, -1]  # 0 or 1, whatever the number of levels
        return planes

    def to_images(self, levels: Tensor) -> Tensor:
        """Conditioning images at the shape and levels of the images, uint8 [N, C, H, W], for display.

        Hidden pixels of ``mask`` have the middle level.
        """
        if self.masks:
            return torch.where(self.hidden(levels), self.image.levels // 2, levels[:, :-1])
        large = self._repeated(levels).expand(-1, self.image.channels, -1, -1)
        return large * (self.image.levels - 1) if self.rule == "edges" else large

    def _repeated(self, levels: Tensor) -> Tensor:
        return levels.repeat_interleave(self.factor, dim=2).repeat_interleave(self.factor, dim=3)

    def __str__(self) -> str:
        if self.masks:
            return "mask, the known pixels and where they are"
        if self.rule == "edges":
            return "edges, at the image's size with 2 levels"
        k, spec = self.factor, self.spec
        return f"{self.rule}, the means of its {k}x{k} blocks: {spec}"


def _edges(images: Tensor, levels: int) -> Tensor:
    """uint8 [N, C, H, W] -> uint8 [N, 1, H, W]: 1 where a value differs from its right or lower neighbor by 1/4."""
    v, edges = images.to(torch.int16), torch.zeros_like(images[:, :1], dtype=torch.bool)
    for axis in (2, 3):
        jump = (4 * v.diff(dim=axis).abs() >= levels - 1).any(1, keepdim=True)  # one row or column less
        edges.narrow(axis, 0, jump.shape[axis]).logical_or_(jump)
    return edges.to(torch.uint8)
