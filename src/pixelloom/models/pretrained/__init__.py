"""Pretrained models of the package: one model folder each, with its model card."""

from __future__ import annotations

from pathlib import Path

PRETRAINED: dict[str, str] = {
    # name -> SHA-256 of the contents of model.safetensors, which is also in the file
    "binarized-mnist": "bb161cded67967bd6a54484896e80b774311a7c70406952e7c046eb957fb2962",
    "binarized-mnist-complete": "bc7b44fa6fd6c76e46fa03e20ba7cde58bf99e319e0ca002e0321c45cfc0f07c",
}


def folder(name: str) -> Path:
    """The model folder of a name in :data:`PRETRAINED`."""
    return Path(__file__).parent / name
