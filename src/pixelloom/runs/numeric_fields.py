"""Numeric fields of a configuration take numbers only.

pydantic alone would read ``true`` as 1, ``"010"`` as 10 and ``64.0`` as 64.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from pixelloom.core.errors import UsageError, shortened
from pixelloom.runs.config import RunConfig

_LIKE_A_NUMBER = re.compile(r"[+-]?(0[0-9]+|[0-9][0-9_]*(:[0-9_]+)+|[0-9]+_[0-9_]*|0[xob][0-9a-fA-F]+)")


def check_numbers(values: Mapping[str, Any], kind: type[BaseModel], network: str, path: str = "") -> None:
    """Check the nested values of a configuration before its validation.

    Raises:
        UsageError: for a boolean or a text in a numeric field, a fraction in an integer field, or a number that is not
            finite; the message names the field.
    """
    for name, value in values.items():
        info = kind.model_fields.get(str(name))
        if info is None:  # the validation reports it
            continue
        kinds: list[Any] = _members(info.annotation)
        if name == "model" and issubclass(kind, RunConfig) and network in kind.networks():
            kinds = [kind.networks()[network][0]]
        if isinstance(value, Mapping):
            section = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
            if section is not None:
                check_numbers(value, section, network, f"{path}{name}.")
            continue
        items = value if isinstance(value, list | tuple) else [value]
        for item in items:
            if wrong := _wrong(item, kinds):
                raise UsageError(f"configuration: {path}{name}: {wrong} is needed (given: {shortened(repr(item))})")


def _members(annotation: Any) -> list[Any]:
    """The scalar types and classes of an annotation, without containers, and the types of a literal's values."""
    origin = get_origin(annotation)
    if origin is Literal:
        return [type(value) for value in get_args(annotation)]
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType) or origin in (tuple, list):
        return [kind for member in get_args(annotation) for kind in _members(member)]
    return [annotation]


def _wrong(value: Any, kinds: list[Any]) -> str:
    """What a field of these kinds takes instead of a value; an empty text if the value may be right."""
    numeric = int in kinds or float in kinds
    if not numeric:
        return ""
    needed = "a number" if float in kinds else "a whole number"
    if isinstance(value, bool):
        return "" if bool in kinds else needed
    if isinstance(value, str):
        return needed if str not in kinds or _LIKE_A_NUMBER.fullmatch(value) else ""
    if isinstance(value, float):
        if not math.isfinite(value):
            return "a finite number"
        return "" if float in kinds else needed
    return ""
