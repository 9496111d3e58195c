"""Errors that a user can act on: one or two lines that name the file or field, what is wrong and what to do.

The command line turns each class into an exit code and prints only the message; a traceback needs ``--debug``.
Code below the command line raises these and never prints or exits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PixelloomError(Exception):
    """Base of every error that is meant to be read by a user."""

    exit_code = 1


class UsageError(PixelloomError):
    """A flag, a configuration field or an argument is wrong, or a device that was asked for is absent."""

    exit_code = 2


class DataError(PixelloomError):
    """A data set, an image file or an array cannot be used as asked."""

    exit_code = 3


class ModelError(PixelloomError):
    """A model or checkpoint is missing, damaged, of another architecture, or diverged while training."""

    exit_code = 4


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'digits'?"`` for the nearest known word, or an empty string when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def explain(error: object) -> str:
    """The findings of a pydantic ``ValidationError`` in one line: field path, what is wrong, what was given."""
    findings = []
    for item in error.errors():  # type: ignore[attr-defined]
        path = ".".join(str(part) for part in item["loc"])
        given = item["input"]
        shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool | tuple | list) else ""
        findings.append(f"{path}: {item['msg'].removeprefix('Value error, ')}{shown}")
    return "; ".join(findings)
