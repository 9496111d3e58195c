"""What is kept beside a model's weights, and how a model is rebuilt from both, whatever its family.

Nothing is allocated for a description before it is known to fit the weights, and no code is run from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import nn

from pixelloom.core.errors import ModelError, UsageError, did_you_mean, explain
from pixelloom.core.types import ImageSpec
from pixelloom.engine.safetensors_io import check_keys, load_tensors
from pixelloom.models.training_record import TrainingRecord

WEIGHTS, CONFIG = "model.safetensors", "config.json"
LARGEST_SIDE = 65_536  # a damaged or hostile description may claim anything


class Description(BaseModel):
    """Everything needed to rebuild a model around its weights, and what it was trained on.

    A family adds what it needs, its name as ``family``, and the table of its networks, whose entries begin with the
    class of their settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    table: ClassVar[Mapping[str, tuple[Any, ...]]]

    network: str
    model: Any
    image: ImageSpec
    classes: int = Field(0, ge=0, le=LARGEST_SIDE)
    """How many the network is told of; 0 for a network that is told nothing."""
    training: TrainingRecord = TrainingRecord()

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
    def _an_image_of_this_world(cls, image: ImageSpec) -> ImageSpec:
        if max(image.shape) > LARGEST_SIDE:
            raise ValueError(f"no side may exceed {LARGEST_SIDE}, this is {image}")
        return image


class Described(Protocol):
    """A model of any family."""

    network: nn.Module


D = TypeVar("D", bound=Description)
M = TypeVar("M", bound=Described)


def rebuild(path: Path, kind: type[D], build: Callable[[D], M]) -> M:
    """The model whose weights and description lie in a file, on the CPU.

    Args:
        path: of the file.
        kind: what its description must be.
        build: an untrained model of a description.

    Raises:
        ModelError: if the weights are missing, damaged, of a newer format, or do not fit their own description.
    """
    tensors, meta = load_tensors(path)
    wrong = f"{path}: its description is not one of a {kind.model_fields['family'].default} model"
    try:
        description = kind.model_validate(meta)
        # On the meta device nothing is allocated: a hostile description cannot claim more memory than the file holds.
        with torch.device("meta"):
            expected = build(description).network.state_dict()
    except ValidationError as error:
        raise ModelError(f"{wrong} ({explain(error)})") from error
    except UsageError as error:
        raise ModelError(f"{wrong} ({error})") from error
    check_keys(path, expected, tensors)
    model = build(description)
    model.network.load_state_dict(tensors)
    return model
