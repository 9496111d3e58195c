"""Models that come with the package: one folder each, as training writes it, with its card beside the weights."""

from __future__ import annotations

from pathlib import Path

PRETRAINED: dict[str, str] = {
    # SHA-256 of the contents of model.safetensors, which the file itself holds too.
    "binarized-mnist": "bf451d025392ccf9956fab4c354e153f2ee74a5fb72e1147e2b61cda60ac4ce5",
}


def folder(name: str) -> Path:
    """The model folder of a name in the table."""
    return Path(__file__).parent / name
