"""What a kind of run makes of its configuration and data: description, model, objective, figures, pictures.

A new family is a kind of run in :mod:`pixelloom.runs.config`, a file in this folder and a line in SETUPS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pixelloom.data.catalog import Dataset
from pixelloom.runs.config import GANRun, PixelRun, RunConfig
from pixelloom.runs.family import Setup
from pixelloom.runs.gan import GANSetup
from pixelloom.runs.pixel import PixelSetup

SETUPS: Mapping[type[RunConfig], type[Setup[Any, Any]]] = {PixelRun: PixelSetup, GANRun: GANSetup}


def set_up(config: RunConfig, data: Dataset) -> Setup[Any, Any]:
    """The parts of a run, put together; nothing is trained yet.

    Raises:
        UsageError: for a configuration that does not fit the data.
    """
    return SETUPS[type(config)](config, data)
