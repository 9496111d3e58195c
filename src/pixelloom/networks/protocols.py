"""The calling conventions of networks: what each constructor and each ``forward`` takes and returns.

The networks of the tables in :mod:`pixelloom.networks` follow them, and document only what is their own. Shapes: B
images in the batch, C image channels, H x W pixels.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from pixelloom.core.types import ImageSpec


class PixelNetwork(Protocol):
    """A network of a pixel model: pixels -> the parameters of the distribution of each pixel.

    The output at position i depends only on pixels before i in raster order and, with channel groups, on the channels
    before each channel at i.

    Args:
        config: the configuration of the network, of its own class.
        spec: the shape and the levels of the images.
        outputs: parameters per position, all image channels together; the head determines their number.
        groups: number of ordered channels within a pixel; 1 if the network does not order them.
        classes: number of classes; 0 for an unconditional network.
        condition: channels of the conditioning image; 0 for none. Networks that take no conditioning image lack this
            argument.

    Raises:
        ValueError: for a configuration that does not fit the images.
    """

    def __init__(
        self, config: Any, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0, condition: int = 0
    ) -> None: ...

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]

        Args:
            x: pixels in model space.
            labels: int64 [B], from 0 to ``classes``, where the index ``classes`` is the null class of classifier-free
                guidance; None for an unconditional network.
            condition: conditioning image in model space [B, condition, H, W], of which every position may be read; None
                for a network built without.

        Raises:
            UsageError: for missing labels or conditioning, or if the network was built without them.
        """


class Generator(Protocol):
    """The generator of a GAN: latent vectors -> images in model space.

    Args:
        config: the configuration of both networks, of its own class.
        spec: the shape of the images.
        classes: number of classes; 0 for an unconditional network.

    Attributes:
        latent: length of z.

    Raises:
        ValueError: for images that are not squares of 16, 32, 64 or 128 pixels a side.
    """

    latent: int

    def __init__(self, config: Any, spec: ImageSpec, *, classes: int = 0) -> None: ...

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, latent] -> [B, C, H, W]

        Args:
            z: latent vectors from N(0, 1).
            labels: int64 [B]; None for an unconditional network.

        Raises:
            UsageError: for missing labels, or labels for a network built without classes.
        """


class Discriminator(Protocol):
    """The discriminator of a GAN: images in model space -> a score per image, larger for real images.

    Args:
        config: the configuration of both networks, of its own class.
        spec: the shape of the images.
        classes: number of classes; 0 for an unconditional network.

    Raises:
        ValueError: for images that are not squares of 16, 32, 64 or 128 pixels a side.
    """

    def __init__(self, config: Any, spec: ImageSpec, *, classes: int = 0) -> None: ...

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B]

        Args:
            x: images in model space.
            labels: int64 [B]; None for an unconditional network.

        Raises:
            UsageError: for missing labels, or labels for a network built without classes.
        """
