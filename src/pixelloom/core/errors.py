"""Errors for the user. A message of one or two lines names the file or field, what is wrong and what to do.

The command line prints only the message and exits with the class's ``exit_code``; ``--debug`` shows the traceback.
All other code raises these errors and never prints or exits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_FINDINGS = 8  # of one validation, in a message


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


class CodecError(PixelloomError):
    """A compressed file is damaged, cut, of a newer version or of another model."""

    exit_code = 5


def shortened(text: str, length: int = 80) -> str:
    """A text for a message: characters that a terminal would act on are escaped, and the middle is left out."""
    if len(text) > length:
        text = f"{text[: length * 2 // 3]}...{text[len(text) - length // 3 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'digits'?"`` with the most similar known word, or "" if none is similar."""
    near = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def explain(error: object) -> str:
    """One line for a pydantic ``ValidationError``: for each finding the field path, what is wrong, the given value."""
    findings = []
    found = error.errors()  # type: ignore[attr-defined]
    for item in found[:_FINDINGS]:
        path = ".".join(shortened(str(part)) for part in item["loc"])
        given = item["input"]
        shown = ""
        if isinstance(given, str | int | float | bool | tuple | list):
            shown = f" (given: {shortened(repr(given))})"
        findings.append(f"{path}: {shortened(item['msg'].removeprefix('Value error, '), 400)}{shown}")
    more = f"; and {len(found) - _FINDINGS} more" if len(found) > _FINDINGS else ""
    return "; ".join(findings) + more
