"""Names of the rules that derive conditioning images. They do not import torch: the command line needs them."""

from __future__ import annotations

import re

_DOWNSAMPLE = re.compile(r"downsample@(\d{1,4})")
RULES = "none, mask, edges, or downsample@K with K of 2 or more"


def check_rule(rule: str) -> str:
    """Return a valid rule.

    Raises:
        ValueError: for an unknown rule.
    """
    if rule in ("none", "mask", "edges") or factor_of(rule) >= 2:
        return rule
    raise ValueError(f"choose {RULES}, not {rule!r}")


def factor_of(rule: str) -> int:
    """K of ``downsample@K``; 1 for another rule."""
    found = _DOWNSAMPLE.fullmatch(rule)
    return int(found[1]) if found else 1
