"""The model card: what a model is, what it was trained on, and figures that say how they were measured."""

from __future__ import annotations

from torch import nn

from pixelloom.models.gan import GANModel
from pixelloom.models.pixel import PixelModel
from pixelloom.models.registry import Model

_PIXEL = """No test figure stands here, since the model was chosen without one: `pixelloom evaluate` measures it.

    import pixelloom as pl
    model = pl.load("PATH OF THIS FOLDER")
    images = model.sample(16, seed=0)      # uint8 levels [16, C, H, W]
    nats = -model.log_prob(images)         # one figure an image
"""
_LATENT = """Figures of samples depend on their number and on the features they are measured by: `pixelloom evaluate`
gives them beside those that real images get.

    import pixelloom as pl
    model = pl.load("PATH OF THIS FOLDER")
    images = model.sample(16, seed=0)      # uint8 levels [16, C, H, W]
    path = model.interpolate(5, 8)         # from image to image
"""


def model_card(model: Model, sha256: str) -> str:
    """Markdown for the ``README.md`` of a model folder."""
    rows, use = _latent(model) if isinstance(model, GANModel) else _pixel(model)
    about = model.description
    record = about.training
    data, validation = record.data, record.validation
    asked = {} if data is None else {key: getattr(data, key) for key in ("levels", "binarize", "size", "gray", "limit")}
    form = ", ".join(f"{key}={value}" for key, value in asked.items() if value and value != "none")
    source = "unknown data" if data is None else data.source
    lines = [
        f"# {record.recipe or about.network} on {source}",
        "",
        "| | |",
        "|---|---|",
        f"| network | {about.network}, {model.parameters:,} parameters |",
        f"| images | {model.spec} |",
        *rows,
        f"| data | {source} ({form or 'as published'}) |",
        f"| split | {', '.join(f'{name} {n:,}' for name, n in record.counts.items())} |",
        f"| training | {record.images or 0:,} images seen, {record.epochs} epochs, {record.minutes} minutes, "
        f"seed {record.seed} |",
        f"| chosen on | {validation.split}, {validation.n} images |",
        f"| validation | {', '.join(figure(name, value) for name, value in validation.metrics.items())} |",
        f"| date | {record.date} |",
        f"| command | `{record.command}` |",
        f"| weights | SHA-256 of contents {sha256} |",
        "",
    ]
    if record.note:
        lines += [f"Data: {record.note}", ""]
    return "\n".join(lines) + "\n" + use


def _pixel(model: PixelModel) -> tuple[list[str], str]:
    """Lines of the table, and how it is used."""
    head, condition = model.description.head, model.condition
    told = [f"| condition | {condition}; all figures are given it |"] if condition else []
    return [f"| head | {head.kind}, channels {head.channels} |", *told], _PIXEL


def _latent(model: GANModel) -> tuple[list[str], str]:
    judge = "" if model.discriminator is None else f"; a discriminator of {size(model.discriminator):,} beside it"
    return [f"| noise | {model.latent} numbers an image{judge} |"], _LATENT


def size(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in network.parameters())


def figure(name: str, value: float) -> str:
    """As in ``0.1476 bits/dim``."""
    return f"{value:.2f} {name}" if name == "nats/image" else f"{value:.4f} {name}"
