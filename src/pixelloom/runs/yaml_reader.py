"""The one reader of YAML: configuration files and values of dotted options. It constructs plain data only.

It reads the part of YAML 1.2 that a configuration needs. Numbers are decimal and finite; ``yes``, ``010``, ``1:30``,
``0x1f``, ``1_0`` and dates are texts, which numeric fields then refuse. Aliases, tags and duplicate keys are errors.
Length and depth are bounded, so that a small file cannot take much memory.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from pixelloom.core.errors import shortened
from pixelloom.core.numbers import LONGEST, as_number

LARGEST = 200_000
"""Characters of a text, at most; a complete configuration has about 2,000."""
DEEPEST = 20
_NULLS, _TRUE, _FALSE = ("", "~", "null", "Null", "NULL"), ("true", "True", "TRUE"), ("false", "False", "FALSE")
_DIGITS = re.compile(r"[+-]?[0-9]+")


def read(text: str) -> Any:
    """Read a YAML document.

    Raises:
        ValueError: with a short message that has the line, for whatever is not plain data.
    """
    if len(text) > LARGEST:
        raise ValueError(f"{len(text):,} characters, and {LARGEST:,} are the most")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(_in_one_line(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _in_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    return f"{shortened(str(problem), 200)}{where}"


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with strict scalars."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise ConstructorError(None, None, f"the alias *{event.anchor}; write the value out", mark)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):  # "!" marks a quoted text
            raise ConstructorError(None, None, f"the tag {tag}; only plain data are read", mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise ConstructorError(None, None, f"more than {DEEPEST} levels of nesting", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise ConstructorError(None, None, "the key is not a plain text", key_node.start_mark)
            if key in found:
                raise ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    text: str = node.value
    if node.style is not None:  # quoted or a block
        return text
    if text in _NULLS:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) > LONGEST and _DIGITS.fullmatch(text):
        raise ConstructorError(None, None, f"a number of {len(text):,} digits", node.start_mark)
    number = as_number(text)
    return text if number is None else number
