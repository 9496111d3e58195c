"""The models of a page: found at the start, loaded at first use, and shared by all users, who only read them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pixelloom.core.errors import PixelloomError, UsageError
from pixelloom.layers.self_attention import attention_layers
from pixelloom.models import pretrained
from pixelloom.models.family import GenerativeModel
from pixelloom.models.registry import family_of, load_model
from pixelloom.runs.anomaly import Calibration
from pixelloom.runs.locate import find

T = TypeVar("T")
TABS = ("draw", "complete", "score", "compress", "interpolate", "attend", "compare", "train")
"""The tabs of the page, in their order."""


@dataclass
class Entry:
    """A model of the page.

    Attributes:
        name: as it was given.
        folder: its model folder.
        model: the model, on the CPU.
    """

    name: str
    folder: Path
    model: GenerativeModel
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _calibration: Calibration | PixelloomError | None = None

    def calibration(self, make: Callable[[], Calibration]) -> Calibration:
        """The calibration of the scores, made once.

        Raises:
            PixelloomError: that of ``make``, each time.
        """
        with self._lock:
            if self._calibration is None:
                try:
                    self._calibration = make()
                except PixelloomError as error:
                    self._calibration = error
        if isinstance(self._calibration, PixelloomError):
            raise self._calibration
        return self._calibration


class Library:
    """The models of a page, by name.

    Args:
        names: run folders, model folders, names of runs under ``runs/`` or of pretrained models.

    Raises:
        ModelError: if one is not found.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._folders = {name: find(name) for name in dict.fromkeys((*names, *pretrained.MODELS))}
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The given models, then the pretrained ones."""
        return list(self._folders)

    def entry(self, name: str) -> Entry:
        """A model by its name.

        Raises:
            UsageError: for a name that the page does not have; paths are not looked up.
            ModelError: if its files are damaged.
        """
        if name not in self._folders:
            raise UsageError(f"model {name!r}: the page has {', '.join(self._folders)}")
        with self._lock:
            if name not in self._entries:
                self._entries[name] = Entry(name, self._folders[name], load_model(self._folders[name]))
            return self._entries[name]


def tabs_of(model: GenerativeModel, *, train: bool = True) -> list[str]:
    """The tabs that a model has, by its abilities.

    Args:
        model: the model.
        train: whether the page trains models.
    """
    can, shown = model.can, {"compare"}
    if draws(model):
        shown.add("draw")
    if "completion" in can and (model.condition is None or model.condition.masks):
        shown.add("complete")
    if "likelihood" in can:
        shown |= {"score", "compress"}
    if "interpolate" in can:
        shown.add("interpolate")
    if "attention" in can and attention_layers(model.network):
        shown.add("attend")
    if train:
        shown.add("train")
    return [tab for tab in TABS if tab in shown]


def draws(model: GenerativeModel) -> bool:
    """Whether a model draws without a conditioning image."""
    return model.condition is None or model.condition.default is not None


def summary(entry: Entry) -> str:
    """One line about a model."""
    model, about = entry.model, entry.model.description
    spec, data = model.spec, about.training.data
    colors = "palette" if spec.palette else {1: "gray", 3: "RGB"}.get(spec.channels, f"{spec.channels} channels")
    parts = [
        f"{family_of(model).title}, {about.network}, {model.parameters:,} parameters",
        f"{spec.height} x {spec.width}, {colors}, {spec.levels} levels",
        f"trained on {data.source}" if data is not None and data.source else "",
        f"{about.classes} classes" if about.classes else "",
    ]
    return "; ".join(part for part in parts if part)
