"""What all wirings share, and what each of them has to say."""

from __future__ import annotations

import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

import pixelloom
from pixelloom.core.errors import UsageError
from pixelloom.data.catalog import Dataset
from pixelloom.data.stream import ordered
from pixelloom.engine.state import Hook
from pixelloom.models.family import GenerativeModel
from pixelloom.models.training_record import TrainingRecord, ValidationRecord
from pixelloom.objectives.base import Objective
from pixelloom.runs.config import RunConfig
from pixelloom.viz.grid import table

C = TypeVar("C", bound=RunConfig)
M = TypeVar("M", bound=GenerativeModel)


class Setup(ABC, Generic[C, M]):
    """One run's parts.

    Attributes:
        config: of the run.
        data: that it trains on.
        model: untrained at first; its modules are those that ``objective`` moves.
    """

    def __init__(self, config: C, data: Dataset) -> None:
        if config.classes and data.train.labels is None:
            raise UsageError(
                f"classes: {data.name} has no labels; train without them by --no-classes, or name data that has "
                "some, such as a folder with a folder for each class"
            )
        self.config, self.data = config, data
        self.classes = len(data.classes) if config.classes else 0
        torch.manual_seed(config.train.seed)
        self.model = self.build()

    @abstractmethod
    def build(self) -> M:
        """The untrained model that the configuration describes for these data.

        Raises:
            UsageError: if it does not fit them.
        """

    @abstractmethod
    def objective(self) -> Objective:
        """What is trained."""

    @abstractmethod
    def model_of(self, network: nn.Module) -> M:
        """A model around the part of the objective that users get, as the engine hands it to hooks."""

    @abstractmethod
    def snapshot(self, network: nn.Module, record: TrainingRecord) -> M:
        """The model to save: around that module, with everything that a model folder holds and a record."""

    @abstractmethod
    def draw(self, model: M, n: int) -> Image:
        """About n samples."""

    def pictures(self, model: M) -> Mapping[str, Image]:
        """What is drawn at the end of a run, by name."""
        return {"final": self.draw(model, self.config.samples)}

    def hooks(self) -> Sequence[Hook]:
        """Further ones that look on while a run of this kind goes on."""
        return ()

    def validation(self, metrics: Mapping[str, float]) -> ValidationRecord:
        """Record of the metrics that :meth:`objective` monitors."""
        return ValidationRecord(metrics=dict(metrics), n=min(self.config.validation_images, len(self.data.val)))

    def record(self) -> TrainingRecord:
        """The part of the training record that is known before training."""
        return TrainingRecord(
            recipe=self.config.recipe,
            data=self.config.data,
            counts=self.data.counts(),
            classes=tuple(map(str, self.data.classes)),
            note=self.data.note,
            seed=self.config.train.seed,
            pixelloom=pixelloom.__version__,
            command=_command(),
        )


def some(data: Dataset, split: str, n: int | None) -> Tensor:
    """So many images, evenly spaced over a split, or all of them, levels uint8 [n, C, H, W]."""
    return torch.cat([b.images for b in ordered(data.split(split), data.spec, 64, dynamic=data.dynamic, limit=n)])


def by_class(images: Tensor, data: Dataset, levels: int) -> Image:
    """Images of which number i is of class i modulo the number of classes: a named row each."""
    return table(images.numpy(), levels, len(data.classes), names=data.classes)


def _command() -> str:
    """How this run was started: a command of ours, or a script."""
    program = Path(sys.argv[0]).name
    return shlex.join(["pixelloom" if program == "__main__.py" else program, *sys.argv[1:]])
