"""The models that the codec is tested on: each pixel network, narrowed, with random weights, and each head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.config import HeadConfig
from pixelloom.layers.output import Output
from pixelloom.models.pixel import PixelModel
from pixelloom.models.pixel_description import PixelDescription
from pixelloom.networks import PIXEL_NETWORKS
from pixelloom.networks.pixel.made import MaskedLinear
from settings import CONFIGS, live

GRAY, COLOR, BINARY = ImageSpec(1, 7, 6, 17), ImageSpec(3, 6, 5, 4), ImageSpec(1, 6, 7, 2)
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


def model_of(
    network: str, spec: ImageSpec, kind: str = "auto", *, embedding: int = 0, classes: int = 0, **more: object
) -> PixelModel:
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
            classes=classes,
        )
    )
    live(model.network, 1)
    calm(model.network)
    if kind == "logistics":  # of scales that are neither far below a level nor above all levels
        output = model.network.output
        (output.last if isinstance(output, Output) else output).weight.data.mul_(0.1)
    return model


def calm(network: torch.nn.Module) -> None:
    """Shrink weights where random ones would give probabilities below 2^-24, the least that integer tables have."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, MaskedLinear):
                module.weight.mul_(0.25)
            elif isinstance(module, Output):
                module.last.weight.mul_(0.3)


def cases() -> dict[str, Callable[[], PixelModel]]:
    """Name -> model: all settings of the PixelCNN, other networks in gray and color, heads, scalings, embeddings."""
    found: dict[str, Callable[[], PixelModel]] = {
        f"pixelcnn/{name}": setting.model for name, setting in CONFIGS.items()
    }
    for network in _SMALL:
        found[f"{network}/gray"] = partial(model_of, network, GRAY)
        found[f"{network}/color"] = partial(model_of, network, COLOR)
        found[f"{network}/binary"] = partial(model_of, network, BINARY)
    for network in ("gated-pixelcnn", "pixelcnn-pp", "row-lstm"):
        found[f"{network}/logistics"] = partial(model_of, network, ImageSpec(3, 6, 5, 256), "logistics")
    found["gated-pixelcnn/norm"] = partial(model_of, "gated-pixelcnn", GRAY, norm="channel", positions=True)
    found["gated-pixelcnn/embedded"] = partial(model_of, "gated-pixelcnn", COLOR, embedding=5)
    found["gated-pixelcnn/wide"] = partial(model_of, "gated-pixelcnn", BINARY, channels=64, layers=2)
    found["row-lstm/norm"] = partial(model_of, "row-lstm", GRAY, norm="channel", positions=True, kernel=5)
    found["diagonal-bilstm/plain"] = partial(model_of, "diagonal-bilstm", GRAY, wrap=False, norm="batch")
    found["pixelsnail/window"] = partial(
        model_of, "pixelsnail", GRAY, heads=2, window=1, rotary=True, norm="channel", activation="silu"
    )
    found["pixel-transformer/window"] = partial(
        model_of, "pixel-transformer", GRAY, window=1, every=2, positions="rotary", first_kernel=5, kernel=3
    )
    found["nade/silu"] = partial(model_of, "nade", GRAY, activation="silu")
    found["made/direct"] = partial(model_of, "made", COLOR, direct=True, activation="silu")
    return found


def images_of(spec: ImageSpec, n: int, seed: int = 0) -> Tensor:
    """Random images with structure: few levels in rows of equal values. Levels uint8 [n, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(spec.levels, (n, spec.channels, spec.height, 1), generator=generator)
    noise = torch.randint(spec.levels, (n, *spec.shape), generator=generator)
    return torch.where(torch.rand(n, *spec.shape, generator=generator) < 0.3, noise, rows).to(torch.uint8)
