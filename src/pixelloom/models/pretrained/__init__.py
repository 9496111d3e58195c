"""Models that come with the package: one folder each, as training writes it, with its card beside the weights."""

from __future__ import annotations

from pathlib import Path

PRETRAINED: dict[str, str] = {
    # SHA-256 of the contents of model.safetensors, which the file itself holds too.
    "binarized-mnist": "bb161cded67967bd6a54484896e80b774311a7c70406952e7c046eb957fb2962",
}


def folder(name: str) -> Path:
    """The model folder of a name in the table."""
    return Path(__file__).parent / name
