"""Configuration of heads. It does not import torch, because the command line is derived from it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class HeadConfig(BaseModel):
    """The kind of distribution, and the dependence between the channels of a pixel.

    ``kind="auto"`` is Bernoulli for images with two levels, else categorical.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["auto", "bernoulli", "categorical", "logistics"] = "auto"
    channels: Literal["ordered", "independent"] = "ordered"
    mixtures: int = Field(10, ge=1, le=256, description="components of a mixture of logistics")
