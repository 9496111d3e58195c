"""The description that a model file holds besides the weights, and how a model of any family is rebuilt from both.

Nothing is allocated before the description is known to fit the weights, and no code is run from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import Tensor, nn

from pixelloom.core.errors import ModelError, UsageError, did_you_mean, explain, shortened
from pixelloom.core.types import ImageSpec
from pixelloom.engine.safetensors_io import check_keys, load_tensors
from pixelloom.models import files
from pixelloom.models.training_record import TrainingRecord

WEIGHTS, CONFIG = files.WEIGHTS, files.CONFIG
DISCRIMINATOR = "discriminator.safetensors"
CALIBRATION = "calibration.safetensors"
FILES = (WEIGHTS, CONFIG, DISCRIMINATOR, CALIBRATION, "README.md")
"""All files of a model folder, which are written as one unit: new weights remove the calibration of the old ones."""
LARGEST_SIDE = 65_536  # a damaged or hostile description may claim anything


class Description(BaseModel):
    """Everything needed to rebuild a model around its weights, and its training record.

    A subclass sets its name as ``family``, adds fields, and has the table of its networks, whose entries begin with the
    class of the network's settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    table: ClassVar[Mapping[str, tuple[Any, ...]]]

    family: str
    network: str
    model: Any
    image: ImageSpec
    classes: int = Field(0, ge=0, le=LARGEST_SIDE)
    """Number of classes of a class-conditional model; 0 for an unconditional one."""
    training: TrainingRecord = TrainingRecord()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; their numbers if the training record does not have the names."""
        known = self.training.classes
        return known if len(known) == self.classes else tuple(map(str, range(self.classes)))

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_network(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("model"), Mapping):
            name = str(data.get("network"))
            if name not in cls.table:
                raise ValueError(f"no network is called {name!r}.{did_you_mean(name, cls.table)}")
            return data | {"model": cls.table[name][0].model_validate(data["model"])}
        return data

    @field_validator("image")
    @classmethod
    def _sides_are_bounded(cls, image: ImageSpec) -> ImageSpec:
        if max(image.shape) > LARGEST_SIDE:
            raise ValueError(f"no side may exceed {LARGEST_SIDE}, this is {image}")
        return image


_PACKAGED = (Path(__file__).parent / "pretrained").resolve()


class Described(Protocol):
    """A model whose weights are those of ``network``."""

    network: nn.Module


D = TypeVar("D", bound=Description)
M = TypeVar("M", bound=Described)


def rebuild(path: Path, kind: type[D], build: Callable[[D], M]) -> M:
    """Rebuild the model of a file, on the CPU.

    Args:
        path: the file with weights and description.
        kind: class of the description.
        build: makes an untrained model from a description.

    Raises:
        ModelError: if the weights are missing, damaged, of another format, or do not fit their own description.
    """
    tensors, meta = load_tensors(path)
    wrong = f"{path}: its description is not one of a {kind.model_fields['family'].default} model"
    try:
        description = kind.model_validate(meta)
        # On the meta device nothing is allocated: a hostile description cannot claim more memory than the file holds.
        # Models of the package are exempt, since operations on that device import torch._dynamo, which takes a second.
        trusted = path.resolve().is_relative_to(_PACKAGED)
        with nullcontext() if trusted else torch.device("meta"), _initializing():
            model = build(description)
    except ValidationError as error:
        raise ModelError(f"{wrong} ({explain(error)})") from error
    except (UsageError, ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{wrong} ({shortened(str(error), 200)})") from error
    check_keys(path, model.network.state_dict(), tensors)
    check_finite(path, tensors)
    if not trusted:
        with _initializing():
            model = build(description)
    model.network.load_state_dict(tensors)
    return model


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises ModelError if a weight is NaN or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"{path}: its weights are not finite ({name}): the training diverged, or the file was edited; "
                "use another checkpoint"
            )


@contextmanager
def _initializing() -> Iterator[None]:
    """Weights are built in float32, whatever torch's default; the random generator is left unchanged."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and replaced
            yield
    finally:
        torch.set_default_dtype(before)
