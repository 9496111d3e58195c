"""What all models have in common, and what a family of models has to define.

A model has the attributes of :class:`GenerativeModel`; its optional abilities are the set ``model.can``. Callers
ask for an ability (:func:`pixelloom.models.registry.require`), never for a class: a new family does not change them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec, Levels
from pixelloom.data.conditions import Condition
from pixelloom.models.description import Description
from pixelloom.models.inputs import LabelsLike

Ability = Literal[
    "likelihood",  # log_prob
    "classes",  # sample(labels=...)
    "condition",  # sample(condition=...), see GenerativeModel.condition
    "guidance",  # sample(guidance=...)
    "temperature",  # sample(temperature=...)
    "truncation",  # sample(truncation=...)
    "given",  # sample(given=..., mask=...)
    "completion",  # complete
    "method",  # sample(method="fast" or "plain")
    "precision",  # sample(precision=...)
    "interpolate",  # interpolate, between latent vectors
    "attention",  # attend and attend_to
    "receptive_field",  # fast_sampler().plan
]


class GenerativeModel(Protocol):
    """A model of any family.

    Attributes:
        network: the module that users get, in evaluation mode.
        spec: shape and levels of its images.
        condition: the conditioning image that it takes; None for none.
    """

    network: nn.Module
    spec: ImageSpec
    condition: Condition | None

    @property
    def description(self) -> Description:
        """Everything needed to rebuild the model around its weights."""

    @property
    def can(self) -> frozenset[Ability]:
        """The abilities of this model."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    @property
    def parameters(self) -> int:
        """Number of trained values."""

    def to(self, device: str | torch.device) -> Self:
        """Move the weights to a device, in place."""

    def sample(self, n: int, *args: Any, **options: Any) -> Tensor:
        """n images, uint8 [n, C, H, W]; image i depends on (seed, first + i) alone.

        Every family takes ``seed``, ``first``, ``labels``, ``batch``, ``threads`` and ``on_step``, as keywords. Further
        options need the ability of the same name.
        """

    def save(self, folder: Path) -> str:
        """Write the model folder; returns the SHA-256 of its contents."""


class LikelihoodModel(GenerativeModel, Protocol):
    """A model that can do "likelihood"."""

    def log_prob(
        self, images: Tensor | Levels, labels: LabelsLike = None, condition: Tensor | Levels | None = None
    ) -> Tensor:
        """Natural log-probability of each image, float64 [N]."""


@dataclass(frozen=True)
class SamplingCost:
    """What sampling takes: images per batch, the work for a batch in words, and the memory of an image if known."""

    batch: int
    work: str
    bytes_per_image: float | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What ``pixelloom info`` shows beyond the description.

    Attributes:
        lines: name -> text; an empty text is not shown.
        values: the same for JSON.
        drawing: a text drawing below the lines.
    """

    lines: Mapping[str, str]
    values: Mapping[str, Any] = field(default_factory=dict)
    drawing: str = ""


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        name: as model files have it.
        title: the name in a sentence, with its article.
        load: reads a model folder, onto the CPU.
        lacks: ability -> what to say if a model of this family lacks it: why, and what to do instead.
        sampling_cost: (model, n, batch or None, sampling options) -> cost.
        info: details of a model for ``pixelloom info``.
        card_rows: rows of the model card's table, as Markdown.
        card_usage: the end of the model card, as Markdown.
        any_batch: whether images are the same for any batch size; if not, a value may differ by rounding.
    """

    name: str
    title: str
    load: Callable[[Path], GenerativeModel]
    lacks: Mapping[Ability, str]
    sampling_cost: Callable[[Any, int, int | None, Mapping[str, Any]], SamplingCost]
    info: Callable[[Any], ModelInfo]
    card_rows: Callable[[Any], list[str]]
    card_usage: str
    any_batch: bool = False
