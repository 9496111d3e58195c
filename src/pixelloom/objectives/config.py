"""Settings of objectives. They do not import torch: the command line is derived from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(BaseModel):
    """An optimizer and its schedule: warm-up in images, decay by the share of the budget that is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["adam", "adamw", "muon", "sgd"] = Field("adam", description="optimizer")
    lr: float = Field(1e-3, gt=0, le=10, description="learning rate")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="decay rates of both moments; sgd: momentum, unused")
    eps: float = Field(1e-8, gt=0, le=1, description="added to the denominator of Adam")
    weight_decay: float = Field(0.0, ge=0, le=10, description="L2 penalty (adam, sgd) or decoupled decay (adamw, muon)")
    warmup: int = Field(0, ge=0, description="images over which the learning rate rises linearly from 0")
    decay: Literal["none", "cosine", "linear"] = Field("none", description="decay of the learning rate to 0")
    clip: float | None = Field(None, gt=0, description="largest total norm of the gradient; null does not clip")


class Policy(BaseModel):
    """Strength of each augmentation; 0 turns it off. There are no flips, since these change digits and letters.

    ``Policy()`` is no augmentation, ``Policy(translation=0.125, cutout=0.5, color=1)`` is that of the paper.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    translation: float = Field(0.0, ge=0, le=0.5, description="largest translation, as a share of the side")
    cutout: float = Field(0.0, ge=0, lt=1, description="side of the square that is cut out, as a share of the side")
    color: float = Field(0.0, ge=0, le=1, description="strength of brightness, saturation and contrast")

    @property
    def on(self) -> bool:
        """Whether any augmentation is on."""
        return bool(self.translation or self.cutout or self.color)


class Penalties(BaseModel):
    """Weights of the penalties in the discriminator's loss; 0 turns a penalty off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r1: float = Field(0.0, ge=0, description="R1: gamma in gamma/2 |grad D|^2 at real images")
    r2: float = Field(0.0, ge=0, description="R2: gamma in gamma/2 |grad D|^2 at generated images")
    gradient: float = Field(0.0, ge=0, description="WGAN-GP: lambda in lambda (|grad D| - 1)^2 between them")
    lazy_interval: int = Field(
        1, ge=1, description="lazy regularization: penalties in one of this many steps, with this many times the weight"
    )

    @property
    def on(self) -> bool:
        """Whether any penalty is on."""
        return bool(self.r1 or self.r2 or self.gradient)
