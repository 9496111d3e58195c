"""The model card: what a model is, what it was trained on, and figures that say how they were measured."""

from __future__ import annotations

from typing import Any

from pixelloom.models import PixelModel


def model_card(model: PixelModel, sha256: str) -> str:
    """Markdown for the ``README.md`` of a model folder."""
    about = model.description
    trained: dict[str, Any] = about.trained
    data, counts = trained.get("data", {}), trained.get("counts", {})
    found = trained.get("validation", {})
    asked = {key: data.get(key) for key in ("levels", "binarize", "size", "grey", "limit")}
    form = ", ".join(f"{key}={value}" for key, value in asked.items() if value and value != "none")
    lines = [
        f"# {trained.get('recipe') or about.network} on {data.get('source', 'unknown data')}",
        "",
        "| | |",
        "|---|---|",
        f"| network | {about.network}, {model.parameters:,} parameters |",
        f"| images | {model.spec} |",
        f"| head | {about.head.kind}, channels {about.head.channels} |",
        *([f"| condition | {model.condition}; all figures are given it |"] if model.condition else []),
        f"| data | {data.get('source')} ({form or 'as published'}) |",
        f"| split | {', '.join(f'{name} {n:,}' for name, n in counts.items())} |",
        f"| training | {trained.get('images', 0):,} images seen, {trained.get('epochs')} epochs, "
        f"{trained.get('minutes')} minutes, seed {trained.get('seed')} |",
        f"| chosen on | validation, {found.get('n')} images |",
        f"| validation | {found.get('bits/dim', float('nan')):.4f} bits/dim, "
        f"{found.get('nats/image', float('nan')):.2f} nats/image |",
        f"| date | {trained.get('date')} |",
        f"| command | `{trained.get('command')}` |",
        f"| weights | SHA-256 of contents {sha256} |",
        "",
    ]
    if trained.get("note"):
        lines += [f"Data: {trained['note']}", ""]
    lines += [
        "No test figure stands here, since the model was chosen without one: `pixelloom evaluate` measures it.",
        "",
        "    import pixelloom as pl",
        '    model = pl.load("PATH OF THIS FOLDER")',
        "    images = model.sample(16, seed=0)      # uint8 levels [16, C, H, W]",
        "    nats = -model.log_prob(images)         # one figure an image",
        "",
    ]
    return "\n".join(lines)
