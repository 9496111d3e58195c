"""Names of recipes and networks, torch-free, so that a typo is a fast error; a test holds them to the tables."""

from __future__ import annotations

import sys
from pathlib import Path

from pixelloom.core.errors import UsageError, did_you_mean

RECIPE_NAMES = (
    "mnist-gray",
    "mnist-binary",
    "mnist-binary-7x7",
    "colored-mnist",
    "rgb",
    "digits",
    "binarized-mnist",
    "best",
    "gated-pixelcnn",
    "mnist-superres",
    "mnist-complete",
    "completion",
    "row-lstm",
    "diagonal-bilstm",
    "nade",
    "made",
    "pixelcnn-pp",
    "pixelsnail",
    "pixel-transformer",
    "local",
    "pixelcnn-pp-cifar10",
    "dcgan-tutorial",
    "sagan-tutorial",
    "dcgan",
    "sagan",
    "sngan",
    "r3gan",
)
NETWORK_NAMES = (
    "pixelcnn",
    "gated-pixelcnn",
    "row-lstm",
    "diagonal-bilstm",
    "nade",
    "made",
    "pixelcnn-pp",
    "pixelsnail",
    "pixel-transformer",
    "dcgan",
    "sagan",
    "sngan",
    "r3gan",
)


def check_name(name: str) -> None:
    """Raises UsageError for a name that is neither a recipe nor a network; the message suggests the nearest one."""
    if "pixelloom.runs.recipes" not in sys.modules and name not in (*RECIPE_NAMES, *NETWORK_NAMES, "own"):
        raise unknown_name(name, [*RECIPE_NAMES, *NETWORK_NAMES])


def unknown_name(name: str, names: list[str]) -> UsageError:
    """The error for an unknown recipe, with the nearest of ``names``, or a hint if it is a path."""
    known = list(dict.fromkeys(names))
    if Path(name).exists():
        return UsageError(f"no recipe or network is called {name!r}; for these images: `pixelloom train --data {name}`")
    return UsageError(f"no recipe or network is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
