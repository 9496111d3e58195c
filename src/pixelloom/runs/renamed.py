"""Names of configuration fields and values that earlier versions used, and what they are called now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pixelloom.core.errors import UsageError

SINCE = "0.2"

FIELDS: Mapping[str, str] = {
    "data.grey": "data.gray",
    "augment.colour": "augment.color",
    "penalties.every": "penalties.lazy_interval",
    "together": "joint_batch",
    "mismatched": "matching_aware",
}
"""Dotted field of Pixelloom 0.1 -> field."""

VALUES: Mapping[str, tuple[str, str]] = {"condition": ("smaller@", "downsample@")}
"""Dotted field -> how its values began in Pixelloom 0.1, and how they begin."""

OPTIONS: Mapping[str, str] = {
    "--grey": "--gray",
    "--no-grey": "--no-gray",
    "--together": "--joint-batch",
    "--no-together": "--no-joint-batch",
    "--mismatched": "--matching-aware",
    "--no-mismatched": "--no-matching-aware",
    "--neighbours": "--neighbors",
}
"""Option of Pixelloom 0.1 -> option."""


class RenamedError(UsageError):
    """A field or value of an earlier version."""


def check_file(settings: Mapping[str, Any], path: object) -> None:
    """Check the nested settings of a file.

    Raises:
        RenamedError: for a field or value of an earlier version.
    """
    for field, value in _flat(settings):
        if problem := renamed(field, value):
            raise RenamedError(f"{path}: {problem} (this file was written by 0.1)")


def renamed(field: str, value: object = None) -> str:
    """What a dotted field or its value is called now; an empty text if it was not renamed."""
    if field in FIELDS:
        return f"{field}: is called {FIELDS[field]} since Pixelloom {SINCE}"
    old, new = VALUES.get(field, ("", ""))
    if old and str(value).startswith(old):
        return f"{field}: {value} is called {new}{str(value).removeprefix(old)} since Pixelloom {SINCE}"
    return ""


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        yield f"{path}{key}", value
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
