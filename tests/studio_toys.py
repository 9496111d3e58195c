"""Small models for the tests of the studio, and the images of its HTML."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gan_toys import PAIRS, awake
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import Scaling
from pixelloom.heads.config import HeadConfig
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelModel
from pixelloom.models.pixel_description import PixelDescription
from pixelloom.models.training_record import TrainingRecord
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig

DIGITS = ImageSpec(1, 8, 8, 17)
COLOR = ImageSpec(3, 6, 9, 256)
SPRITES = ImageSpec(1, 6, 9, 4, "#000000,#ff0000,#00c000,#ffffff")


def pixel_model(spec: ImageSpec, classes: tuple[str, ...] = (), data: str = "") -> PixelModel:
    """A small pixel model with random weights."""
    torch.manual_seed(3)
    record: dict[str, Any] = {"classes": classes}
    if data:
        record |= {"data": DataConfig(source=data, gray=spec.channels == 1, levels=spec.levels), "recipe": "digits"}
    description = PixelDescription(
        network="pixelcnn",
        model=PixelCNNConfig(channels=6, blocks=1, kernel=3, first_kernel=3, hidden=4),
        head=HeadConfig(kind="categorical"),
        image=spec,
        scaling=Scaling.symmetric(),
        classes=len(classes),
        training=TrainingRecord.model_validate(record),
    )
    model = PixelModel.build(description)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def gan_model() -> GANModel:
    """A small GAN with attention layers and random weights."""
    torch.manual_seed(4)
    name, config = PAIRS["sagan"]
    model = GANModel.build(GANDescription(network=name, model=config, image=ImageSpec(1, 16, 16, 256)))
    awake(model.network, 0.3)
    return model


def saved(folder: Path) -> dict[str, Path]:
    """Model folders: digits, color (two classes), sprites (a palette), gan."""
    models: dict[str, Any] = {
        "digits": pixel_model(DIGITS, data="digits"),
        "color": pixel_model(COLOR, ("red", "blue")),
        "sprites": pixel_model(SPRITES),
        "gan": gan_model(),
    }
    for name, model in models.items():
        model.save(folder / name)
    return {name: folder / name for name in models}


def pngs_in(html: str) -> list[bytes]:
    """The PNG files that HTML holds."""
    return [base64.b64decode(text) for text in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)]


def pixels_of(png: bytes) -> npt.NDArray[np.uint8]:
    """The bytes of an image, [H, W] or [H, W, 3]."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image).copy()
