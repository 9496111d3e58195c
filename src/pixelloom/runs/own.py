"""Runs of a network of one's own: those of pixel models, but the model is given and not built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixelloom.core.errors import UsageError
from pixelloom.data.catalog import Dataset
from pixelloom.models.pixel import PixelModel, load_pixel
from pixelloom.models.pixel_description import OWN, PixelDescription
from pixelloom.runs.config import Overrides, OwnRun
from pixelloom.runs.pixel import PixelSetup

_KEPT = ("classes", "inputs", "embedding", "condition")


class OwnSetup(PixelSetup):
    """The setup of a run that trains a model of :meth:`pixelloom.models.pixel.PixelModel.of` in place."""

    def __init__(self, config: OwnRun, data: Dataset, own: PixelModel | None) -> None:
        if own is None:
            raise UsageError(
                "network: this run trains a network of your own, which only Python has: "
                "pl.train(pl.PixelModel.of(network, spec), data=...)"
            )
        if data.spec != own.spec:
            raise UsageError(
                f"data: {data.name} has images of {data.spec}, the model is made for {own.spec}; make it for these, "
                'or transform the data, as with overrides={"data.levels": 2, "data.size": "28x28"}'
            )
        if changed := [name for name in _KEPT if getattr(config, name) != OwnRun.model_fields[name].default]:
            raise UsageError(f"{changed[0]}: a network of your own is trained as PixelModel.of has made it")
        self.own = own
        super().__init__(config, data)

    def build(self) -> PixelModel:
        """The model that is given, with its weights."""
        return PixelModel(self.own.network, self.describe())

    def describe(self) -> PixelDescription:
        """The description of the model, with the record of this run."""
        return self.own.description.model_copy(update={"training": self.record()})

    def loaded(self, folder: Path) -> PixelModel:
        """The model of a folder, in the network that was given."""
        return restored(self.own, folder)


def restored(own: PixelModel, folder: Path) -> PixelModel:
    """The model itself with the weights and the record of a model folder, on the CPU."""
    own.description = load_pixel(folder, own.to("cpu").network).description
    return own


def own_overrides(model: Any) -> Overrides:
    """The fields of a run that a model of one's own determines.

    Raises:
        UsageError: for any other model.
    """
    about = getattr(model, "description", None)
    if not isinstance(about, PixelDescription) or about.network != OWN:
        raise UsageError(
            "recipe: the name of a recipe, or a model of a network of your own as PixelModel.of makes it, not "
            f"{type(model).__name__}{'' if about is None else f' of the network {about.network!r}'}"
        )
    head = {f"head.{name}": value for name, value in about.head.model_dump().items()}
    return {"model.kind": about.model.kind, **head}
