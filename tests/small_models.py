"""Untrained models whose every figure is known: a network whose output layer is zero predicts what its bias says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.models.training_record import TrainingRecord
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig

TINY = {"model.channels": 4, "model.hidden": 2, "model.blocks": 1, "model.kernel": 3, "model.first_kernel": 3}
"""Overrides that make any recipe small."""


def flat(spec: ImageSpec, data: dict[str, Any] | None = None, ink: float = 0.5) -> PixelModel:
    """Every level equally likely, whatever the pixels before; for 2 levels a 1 has probability ``ink``."""
    binary = spec.levels == 2
    description = PixelDescription(
        network="pixelcnn",
        model=PixelCNNConfig(channels=4, blocks=1, kernel=3, first_kernel=3, hidden=3),
        head=HeadConfig(kind="bernoulli" if binary else "categorical"),
        image=spec,
        scaling=Scaling.symmetric(),
        training=TrainingRecord.model_validate({} if data is None else {"recipe": "flat", "data": data}),
    )
    model = PixelModel.build(description)
    if binary:
        bias = dict(model.network.named_parameters())["output.bias"]
        with torch.no_grad():
            bias.fill_(math.log(ink / (1 - ink)))
    return model


def save_run(model: PixelModel, run: Path) -> Path:
    """As ``train`` leaves it: the model in the run's folder ``model``."""
    model.save(run / "model")
    return run
