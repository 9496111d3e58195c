"""The configuration of a training run: one class for each family, checked before anything starts.

Its fields are defined here alone: ``config.yaml``, dotted overrides and the options of ``pixelloom train`` are derived
from them. Nothing here imports torch; the networks' own settings are looked up when a run is validated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pixelloom.core.errors import did_you_mean
from pixelloom.data.condition_rules import RULES, check_rule
from pixelloom.data.config import DataConfig
from pixelloom.engine.config import TrainConfig
from pixelloom.heads.config import HeadConfig
from pixelloom.objectives.config import OptimConfig, Penalties, Policy

Networks = Mapping[str, tuple[Any, ...]]
"""Name -> entry of the table of networks; an entry begins with the class of the network's settings."""

Overrides = Mapping[str, object]
"""Dotted field -> value, such as ``{"model.channels": 64}``; strings are read as YAML."""


class RunConfig(BaseModel):
    """The settings that runs of every family have; ``config.yaml`` in a run folder holds one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field("", description="recipe that the run started from")
    network: str
    data: DataConfig = DataConfig()
    model: Any = Field(
        default_factory=dict,
        validate_default=True,
        description="settings of the network, as in --model.channels 64; `pixelloom config NETWORK` prints them",
    )
    start: str = Field(
        "", description="model whose weights the run starts from, for fine-tuning; layers that fit are loaded"
    )
    classes: bool = Field(False, description="train a class-conditional model on the labels of the data")
    train: TrainConfig = TrainConfig()
    validation_images: int | None = Field(
        None,
        ge=1,
        description="images of the validation split to measure on; null: 1000, fewer if they take too long",
    )
    samples: int = Field(25, ge=0, description="images to sample at the end of the run")

    @property
    def validated(self) -> int:
        """Number of images to measure on, if the split has as many."""
        return self.validation_images or 1000

    @classmethod
    @abstractmethod
    def networks(cls) -> Networks:
        """The networks of the family."""

    @classmethod
    @abstractmethod
    def of_network(cls, name: str) -> RunConfig:
        """The default run of a network that has no recipe of its own."""

    @field_validator("network")
    @classmethod
    def _in_the_table(cls, name: str) -> str:
        if name not in cls.networks():
            known = cls.networks()
            raise ValueError(f"none is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
        return name

    @field_validator("model", mode="before")
    @classmethod
    def _settings_of_the_network(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.data.get("network"))  # absent if it was refused
        return cls.networks()[name][0].model_validate(value) if name in cls.networks() else value


class PixelRun(RunConfig):
    """A run of a pixel model."""

    network: str = "pixelcnn"
    head: HeadConfig = HeadConfig()
    inputs: Literal["unit", "symmetric", "standard", "embedding"] = Field(
        "symmetric",
        description="scaling of the input: [0, 1], [-1, 1], mean 0 and deviation 1, or a learned vector for each level "
        "(always with a palette)",
    )
    embedding: int = Field(8, ge=1, le=256, description="with inputs=embedding: features of each level's vector")
    label_dropout: float = Field(
        0.1, ge=0, lt=1, description="with classes: probability of the null class in training, for guidance"
    )
    orders: Literal[1, 2, 4, 8] = Field(
        1, description="pixel orders that share the weights, symmetries of the grid; p(x) is averaged over them"
    )
    condition: str = Field("none", description="conditioning image, derived from each image: " + RULES)
    noise_inputs: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="probability that a pixel of a training image is replaced by random levels, for background models "
        "of score --kind ratio; 0.1 to 0.3",
    )
    optim: OptimConfig = OptimConfig()

    @classmethod
    def networks(cls) -> Networks:
        """The networks of pixel models."""
        from pixelloom.networks import PIXEL_NETWORKS

        return PIXEL_NETWORKS

    @classmethod
    def of_network(cls, name: str) -> PixelRun:
        """20 epochs with a cosine schedule."""
        optim = OptimConfig(lr=4e-3, betas=(0.9, 0.99), warmup=2_000, decay="cosine", clip=1.0)
        return cls(recipe=name, network=name, optim=optim, train=TrainConfig(epochs=20, ema=0.1))

    @field_validator("condition")
    @classmethod
    def _a_rule_for_a_network_that_takes_conditions(cls, rule: str, info: ValidationInfo) -> str:
        from pixelloom.networks import no_condition, takes_condition

        name = str(info.data.get("network"))
        if check_rule(rule) != "none" and name in cls.networks() and not takes_condition(name):
            raise ValueError(no_condition(name))
        if getattr(info.data.get("model"), "condition", 0):
            raise ValueError("leave model.condition at 0; this field sets the conditioning image")
        return rule


OWN = "own"
"""The network of a run that trains a network of one's own."""


class OwnRun(PixelRun):
    """A run of a pixel model with a network of one's own, by ``pl.train(model, data=...)``."""

    network: str = OWN

    @classmethod
    def networks(cls) -> Networks:
        """One entry, which has no constructor."""
        from pixelloom.models.pixel_description import OwnNetwork

        return {OWN: (OwnNetwork,)}


class GANRun(RunConfig):
    """A run of a generator and a discriminator."""

    network: str = "dcgan"
    loss: Literal["non-saturating", "hinge", "least-squares", "wasserstein", "relativistic"] = Field(
        "non-saturating", description="loss of both networks"
    )
    penalties: Penalties = Penalties()
    augment: Policy | None = Field(
        None, description="augmentation for the discriminator; null chooses by the number of images and channels"
    )
    d_steps: int = Field(1, ge=1, le=100, description="discriminator steps per generator step")
    joint_batch: bool = Field(False, description="real and generated images in one batch of the discriminator")
    matching_aware: bool = Field(
        False, description="with classes: matching-aware discriminator, real images with wrong labels are fake too"
    )
    discriminator: OptimConfig = OptimConfig(lr=4e-4, betas=(0.0, 0.9))
    generator: OptimConfig = OptimConfig(lr=1e-4, betas=(0.0, 0.9))
    features: Literal["auto", "lenet-mnist", "natural", "random", "pixels"] = Field(
        "auto", description="feature extractor of the KID that selects the best model"
    )

    @classmethod
    def networks(cls) -> Networks:
        """The networks of GANs."""
        from pixelloom.networks import GAN_NETWORKS

        return GAN_NETWORKS

    @classmethod
    def of_network(cls, name: str) -> GANRun:
        """120,000 images with the defaults."""
        return cls(recipe=name, network=name, train=TrainConfig(batch=32, images=120_000, ema=0.1))
