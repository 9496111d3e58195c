"""A model whose bits are known by hand, folders of images to score, and tables of scores."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
from PIL import Image

from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig

SPEC = ImageSpec(1, 8, 8, 2)
DATA = DataConfig(source="digits", binarize="threshold@0.5")
INK = 0.3


def bits_of(images: np.ndarray) -> np.ndarray:
    """Bits/dim of images under ``flat(ink=INK)``."""
    ink = images.reshape(len(images), -1).mean(1)
    return -ink * math.log2(INK) - (1 - ink) * math.log2(1 - INK)


def folder(name: str, n: int = 10, side: int = 8, seed: int = 0) -> np.ndarray:
    """A folder of random black-and-white PNGs of more ink from image to image, uint8 [n, 1, side, side]."""
    draw = np.random.default_rng(seed)
    images = np.stack([draw.random((side, side)) < (i + 1) / (n + 1) for i in range(n)])
    for i, image in enumerate(images):
        path = Path(name) / "ab"[i % 2] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(image) * 255).save(path)
    return np.uint8(images)[:, None]


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))
