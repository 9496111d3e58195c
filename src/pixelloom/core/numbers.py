"""Numbers in texts of users: decimal notation alone.

Python's ``int`` takes ``1_0``, YAML 1.1 takes ``1:04`` (base 60) and ``010`` (octal), and pydantic takes ``true``; all
of them are refused here.
"""

from __future__ import annotations

import math
import re

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
LONGEST = 40
"""Characters of a number, at most."""


def as_integer(text: str) -> int | None:
    """The integer of a text such as ``-12``; None if it is not one."""
    return int(text) if len(text) <= LONGEST and _INTEGER.fullmatch(text) else None


def as_number(text: str) -> int | float | None:
    """The finite number of a text such as ``64``, ``0.5`` or ``1e-3``; None if it is not one."""
    if (integer := as_integer(text)) is not None:
        return integer
    if len(text) > LONGEST or not _NUMBER.fullmatch(text):
        return None
    found = float(text)
    return found if math.isfinite(found) else None
