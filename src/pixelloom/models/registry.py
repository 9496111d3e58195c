"""The families of models, and the one way to load a model of any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

from pixelloom.core.errors import ModelError, UsageError
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.models.description import WEIGHTS
from pixelloom.models.gan import GANModel, load_gan
from pixelloom.models.pixel import PixelModel, load_pixel

Model: TypeAlias = PixelModel | GANModel
"""What users hold. Both draw; what else they can do depends on the family."""

LOADERS: Mapping[str, Callable[[Path], Model]] = {"pixel": load_pixel, "gan": load_gan}
"""Family, as a model's file names it -> how its folder is loaded."""

KINDS: Mapping[type, str] = {PixelModel: "a pixel model", GANModel: "a latent model"}

M = TypeVar("M", PixelModel, GANModel)


def load_model(folder: Path) -> Model:
    """The model of a folder that one of them has saved, on the CPU.

    Raises:
        ModelError: if the weights are missing, damaged, of a newer format or of a family that is not known here, or do
            not fit their own description.
    """
    path = folder / WEIGHTS
    family = str(load_tensors(path)[1].get("family"))
    if family not in LOADERS:
        raise ModelError(f"{path}: holds a model of a family {family!r}; known are {', '.join(LOADERS)}")
    return LOADERS[family](folder)


def need(model: Model, kind: type[M], what: str) -> M:
    """The model, if it is of the family that ``what`` needs.

    Raises:
        UsageError: if it is not.
    """
    if not isinstance(model, kind):
        raise UsageError(f"{what} needs {KINDS[kind]}, and this is {KINDS[type(model)]} ({model.description.network})")
    return model
