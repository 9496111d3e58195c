"""What a kind of run makes of its configuration and data: description, model, objective, figures, pictures.

A new family is a kind of run in :mod:`pixelloom.config`, a file in this folder and a line in WIRINGS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pixelloom.config import LatentRun, PixelRun, RunConfig
from pixelloom.data.catalog import Dataset
from pixelloom.wiring.base import Wiring
from pixelloom.wiring.latent import LatentWiring
from pixelloom.wiring.pixel import PixelWiring

WIRINGS: Mapping[type[RunConfig], type[Wiring[Any, Any]]] = {PixelRun: PixelWiring, LatentRun: LatentWiring}


def wire(config: RunConfig, data: Dataset) -> Wiring[Any, Any]:
    """The parts of a run, put together; nothing is trained yet.

    Raises:
        UsageError: for a configuration that does not fit the data.
    """
    return WIRINGS[type(config)](config, data)
