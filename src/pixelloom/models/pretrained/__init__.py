"""Models that come with the package: one folder each, as training writes it, with its card beside the weights."""

from __future__ import annotations

from pathlib import Path

PRETRAINED: dict[str, str] = {
    # SHA-256 of the contents of model.safetensors, which the file itself holds too.
    "binarized-mnist": "af595c82efa345bafdb0590f75853f33e41fb6309db26992c3ba8670cb08c39a",
}


def folder(name: str) -> Path:
    """The model folder of a name in the table."""
    return Path(__file__).parent / name
