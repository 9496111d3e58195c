"""The description of a pixel model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pixelloom.data.conditions import Condition
from pixelloom.data.pixels import Scaling
from pixelloom.heads.config import HeadConfig
from pixelloom.models.description import Description
from pixelloom.networks import PIXEL_NETWORKS

OWN = "own"
"""``PixelDescription.network`` of a model whose network is not in the table of networks."""


class OwnNetwork(BaseModel):
    """The settings of a network of one's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field("", max_length=1000, description="MODULE.NAME of its class; the class itself is not kept")


class PixelDescription(Description):
    """Everything needed to rebuild a pixel model around its weights, and its training record.

    A network of one's own (:data:`OWN`) is given again.
    """

    table = {**PIXEL_NETWORKS, OWN: (OwnNetwork,)}  # noqa: RUF012 - a ClassVar of the base

    family: Literal["pixel"] = "pixel"
    head: HeadConfig
    scaling: Scaling
    embedding: int = Field(0, ge=0, le=256)
    """Features of the learned vector of each level; 0 for scaled inputs."""
    orders: int = Field(1, ge=1, le=8)
    """Pixel orders that share the weights, symmetries of the raster order; p(x) is averaged over them."""
    null_class: bool = True
    """Whether a class-conditional network was trained with the null class too."""
    condition: str = "none"
    """Rule that derives the conditioning image from the image; see :mod:`pixelloom.data.conditions`."""

    @model_validator(mode="after")
    def _fits_the_images(self) -> PixelDescription:
        numbers = Scaling.numbers(self.image.levels)
        if self.embedding and self.scaling != numbers:
            raise ValueError(f"embedding={self.embedding} takes level indices, {numbers}, not {self.scaling}")
        self.conditioning_image()
        return self

    def conditioning_image(self) -> Condition | None:
        """The conditioning image that the network takes; None for none."""
        return None if self.condition == "none" else Condition(self.condition, self.image)
