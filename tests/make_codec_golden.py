"""Make the golden files of the codec: ``python tests/make_codec_golden.py``. They do not change: old files must decode.

Each is an export of a small model with random weights, a ``.pxl`` file of 20 images, and the SHA-256 of their levels. A
machine on which a test of them fails computes other integers than the one that made them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

import pixelloom as pl
from codec_models import images_of, model_of
from pixelloom.codec.export import lower
from pixelloom.core.types import ImageSpec

FOLDER = Path(__file__).parent / "codec_golden"
COUNT, BLOCK = 20, 8

MODELS = {
    "pixelcnn": ("pixelcnn", ImageSpec(1, 8, 7, 2), "bernoulli",
                 {"block": "residual", "channels": 8, "hidden": 8, "blocks": 2, "kernel": 3, "first_kernel": 5}),
    "gated-pixelcnn": ("gated-pixelcnn", ImageSpec(1, 7, 8, 17), "categorical", {"norm": "channel", "positions": True}),
    "pixelcnn-pp": ("pixelcnn-pp", ImageSpec(3, 6, 5, 256), "logistics", {}),
    "diagonal-bilstm": ("diagonal-bilstm", ImageSpec(1, 6, 6, 4), "categorical", {}),
    "pixel-transformer": ("pixel-transformer", ImageSpec(3, 5, 5, 4), "categorical", {}),
}  # fmt: skip
"""Name -> network, images, head, settings."""


def main() -> None:
    """Write all golden files."""
    FOLDER.mkdir(exist_ok=True)
    digests = {}
    for number, (name, (network, spec, head, settings)) in enumerate(MODELS.items()):
        model = model_of(network, spec, head, **settings)
        codec = lower(model, images_of(spec, 64, number))
        codec.card = {"note": "random weights"}
        images = images_of(spec, COUNT, 100 + number)
        codec.save(FOLDER / f"{name}.safetensors")
        (FOLDER / f"{name}.pxl").write_bytes(pl.compress(images, codec, block=BLOCK))
        digests[name] = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    (FOLDER / "levels.json").write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
