"""The base class of a run's setup: data, model, objective, samples and training record."""

from __future__ import annotations

import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

import pixelloom
from pixelloom.core.errors import UsageError
from pixelloom.core.types import Display
from pixelloom.data.catalog import Dataset
from pixelloom.data.stream import ordered
from pixelloom.engine.state import Hook
from pixelloom.models.family import GenerativeModel
from pixelloom.models.registry import load_model
from pixelloom.models.training_record import TrainingRecord, ValidationRecord
from pixelloom.objectives.base import Objective
from pixelloom.runs import identity
from pixelloom.runs.config import RunConfig
from pixelloom.sampling.ancestral import OnStep
from pixelloom.viz.grid import table

C = TypeVar("C", bound=RunConfig)
M = TypeVar("M", bound=GenerativeModel)


class Setup(ABC, Generic[C, M]):
    """The parts of one run.

    Attributes:
        config: configuration of the run.
        data: training, validation and test data.
        model: the untrained model; ``objective`` trains its modules.
    """

    def __init__(self, config: C, data: Dataset) -> None:
        if config.classes and data.train.labels is None:
            raise UsageError(
                f"classes: {data.name} has no labels; use --no-classes, or labeled data, such as a folder with "
                "one folder per class"
            )
        self.config, self.data = config, data
        self.classes = len(data.classes) if config.classes else 0
        self.on_images: Callable[[int], None] = _ignore
        """Called during validation with the number of images that were measured."""
        self.start = config.start
        """The model that the run starts from, for the training record."""
        torch.manual_seed(config.train.seed)
        self.model = self.build()

    @abstractmethod
    def build(self) -> M:
        """Build the untrained model.

        Raises:
            UsageError: if the configuration does not fit the data.
        """

    @abstractmethod
    def objective(self) -> Objective:
        """The training objective."""

    @abstractmethod
    def model_of(self, network: nn.Module) -> M:
        """The model of a network that the engine passes to hooks (EMA weights, evaluation mode)."""

    @abstractmethod
    def snapshot(self, network: nn.Module, record: TrainingRecord) -> M:
        """The model to save, with its training record."""

    @abstractmethod
    def sample_grid(self, model: M, n: int, on_step: OnStep | None = None) -> Image:
        """A grid of about n samples; ``on_step`` is that of ``model.sample``."""

    def measure_some(self, n: int) -> None:
        """Do the work of a validation on n images with the untrained model, to time it."""

    def loaded(self, folder: Path) -> M:
        """The model of a folder that this run has saved, on the CPU."""
        return load_model(folder)  # type: ignore[return-value]

    def final_images(self, model: M, n: int, on_step: OnStep | None = None) -> Mapping[str, Image]:
        """Name -> image to save at the end of a run, of about n samples."""
        return {"final": self.sample_grid(model, n, on_step)}

    def hooks(self) -> Sequence[Hook]:
        """Additional hooks of the family."""
        return ()

    def validation(self, metrics: Mapping[str, float]) -> ValidationRecord:
        """Record of the metrics that :meth:`objective` monitors."""
        return ValidationRecord(metrics=dict(metrics), n=min(self.config.validated, len(self.data.val)))

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Content of the data, see :func:`pixelloom.runs.identity.fingerprint`."""
        return identity.fingerprint(self.data)

    def record(self) -> TrainingRecord:
        """The part of the training record that is known before training."""
        return TrainingRecord(
            recipe=self.config.recipe,
            data=self.config.data,
            path=identity.absolute(self.config.data.source),
            counts=self.data.counts(),
            content={name: split["images"] for name, split in self.fingerprint["splits"].items()},
            classes=tuple(map(str, self.data.classes)),
            note=self.data.note,
            start=self.start,
            seed=self.config.train.seed,
            pixelloom=pixelloom.__version__,
            command=_command(),
        )


def spaced_images(data: Dataset, split: str, n: int | None) -> Tensor:
    """n images at even spacing in a split, levels uint8 [n, C, H, W]; None for all."""
    return torch.cat([b.images for b in ordered(data.split(split), data.spec, 64, dynamic=data.dynamic, limit=n)])


def by_class(images: Tensor, data: Dataset, levels: Display) -> Image:
    """A table with one named row per class, of images of which number i has class i modulo the number of classes."""
    return table(images.numpy(), levels, len(data.classes), names=data.classes)


def _ignore(images: int) -> None:
    pass


def _command() -> str:
    """The command line that started this run."""
    program = Path(sys.argv[0]).name
    return shlex.join(["pixelloom" if program == "__main__.py" else program, *sys.argv[1:]])
