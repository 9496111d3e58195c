"""Errors for the user. A message of one or two lines names the file or field, what is wrong and what to do.

The command line prints only the message and exits with the class's ``exit_code``; ``--debug`` shows the traceback.
All other code raises these errors and never prints or exits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PixelloomError(Exception):
    """Base class of all errors whose message is written for the user."""

    exit_code = 1


class UsageError(PixelloomError):
    """An option, a configuration field or an argument is invalid, or the requested device is not available."""

    exit_code = 2


class DataError(PixelloomError):
    """A data set, an image file or an array is missing, damaged or unsuitable."""

    exit_code = 3


class ModelError(PixelloomError):
    """A model or checkpoint is missing, damaged or of another architecture, or training diverged."""

    exit_code = 4


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'digits'?"`` with the most similar known word, or "" if none is similar."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def explain(error: object) -> str:
    """One line for a pydantic ``ValidationError``: for each finding the field path, what is wrong, the given value."""
    findings = []
    for item in error.errors():  # type: ignore[attr-defined]
        path = ".".join(str(part) for part in item["loc"])
        given = item["input"]
        shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool | tuple | list) else ""
        findings.append(f"{path}: {item['msg'].removeprefix('Value error, ')}{shown}")
    return "; ".join(findings)
