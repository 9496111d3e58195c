"""The models that the codec is tested on: each pixel network, narrowed, with random weights, and each head."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.config import HeadConfig
from pixelloom.models.pixel import PixelModel
from pixelloom.models.pixel_description import PixelDescription
from pixelloom.networks import PIXEL_NETWORKS
from settings import CONFIGS, live

GRAY, COLOR = ImageSpec(1, 7, 6, 17), ImageSpec(3, 6, 5, 4)
_SMALL: dict[str, dict[str, object]] = {
    "gated-pixelcnn": {"channels": 8, "layers": 3, "kernel": 3, "first_kernel": 5},
    "pixelcnn-pp": {"channels": 8, "blocks": 1},
    "pixelsnail": {"channels": 12, "blocks": 1, "layers": 2},
    "pixel-transformer": {"channels": 16, "layers": 2, "heads": 2},
    "row-lstm": {"hidden": 6, "layers": 2, "head": 12},
    "diagonal-bilstm": {"hidden": 6, "layers": 2, "head": 12},
    "made": {"hidden": 3, "layers": 2},
    "nade": {"hidden": 20},
}


def model_of(network: str, spec: ImageSpec, kind: str = "auto", *, embedding: int = 0, **more: object) -> PixelModel:
    """A small model with random weights."""
    config_class = PIXEL_NETWORKS[network][0]
    known = {name: value for name, value in _SMALL.get(network, {}).items() if name in config_class.model_fields}
    torch.manual_seed(0)
    model = PixelModel.build(
        PixelDescription(
            network=network,
            model=config_class.model_validate(known | more),
            head=HeadConfig(kind=kind, mixtures=3),  # type: ignore[arg-type]
            image=spec,
            scaling=Scaling.numbers(spec.levels) if embedding else Scaling.symmetric(),
            embedding=embedding,
        )
    )
    live(model.network, 1)
    return model


def cases() -> dict[str, PixelModel]:
    """Name -> model: all settings of the PixelCNN, other networks in gray and color, heads, scalings, embeddings."""
    found = {f"pixelcnn/{name}": setting.model() for name, setting in CONFIGS.items()}
    for network in ("gated-pixelcnn", "pixelcnn-pp"):
        found[f"{network}/gray"] = model_of(network, GRAY)
        found[f"{network}/color"] = model_of(network, COLOR)
        found[f"{network}/logistics"] = model_of(network, ImageSpec(3, 6, 5, 256), "logistics")
    found["gated-pixelcnn/norm"] = model_of("gated-pixelcnn", GRAY, norm="channel", positions=True)
    found["gated-pixelcnn/embedded"] = model_of("gated-pixelcnn", COLOR, embedding=5)
    found["gated-pixelcnn/bernoulli"] = model_of("gated-pixelcnn", ImageSpec(1, 6, 7, 2))
    return found


def images_of(spec: ImageSpec, n: int, seed: int = 0) -> Tensor:
    """Random images with structure: few levels in rows of equal values. Levels uint8 [n, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(spec.levels, (n, spec.channels, spec.height, 1), generator=generator)
    noise = torch.randint(spec.levels, (n, *spec.shape), generator=generator)
    return torch.where(torch.rand(n, *spec.shape, generator=generator) < 0.3, noise, rows).to(torch.uint8)
