"""The families of models, and loading a model of any of them.

To add a family: one entry in :data:`FAMILIES`, and one in :data:`pixelloom.runs.families.RUN_FAMILIES`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixelloom.core.errors import ModelError, UsageError, shortened
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.models.description import WEIGHTS
from pixelloom.models.family import Ability, Family, GenerativeModel
from pixelloom.models.gan_family import GAN
from pixelloom.models.own_network import NetworkLike
from pixelloom.models.pixel import load_pixel
from pixelloom.models.pixel_family import PIXEL

FAMILIES: dict[str, Family] = {family.name: family for family in (PIXEL, GAN)}


def load_model(folder: Path, network: NetworkLike | None = None) -> GenerativeModel:
    """Load the model of a folder, onto the CPU; one of a network of one's own into ``network``.

    Raises:
        ModelError: if the weights are missing, damaged, of another format or of an unknown family, or do not fit their
            own description.
    """
    path = folder / WEIGHTS
    family = str(load_tensors(path)[1].get("family"))
    if family not in FAMILIES:
        raise ModelError(f"{path}: its family is {shortened(family)!r}; known families: {', '.join(FAMILIES)}")
    if network is not None and family == PIXEL.name:
        return load_pixel(folder, network)
    return FAMILIES[family].load(folder)


def family_of(model: GenerativeModel) -> Family:
    """The family of a model."""
    return FAMILIES[model.description.family]


def require(model: GenerativeModel, ability: Ability, what: str) -> Any:
    """The model itself, as one that has an ability.

    Raises:
        UsageError: if it lacks the ability; the message begins with ``what``.
    """
    if ability not in model.can:
        family, network = family_of(model), model.description.network
        raise UsageError(
            f"{what}: {family.lacks.get(ability, f'this model has no {ability}')}; this is {family.title} ({network})"
        )
    return model
