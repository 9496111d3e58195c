"""Composes a run's configuration from a recipe, a YAML file and dotted overrides; each later one wins.

Errors name the field, what was given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pixelloom.core.errors import UsageError, did_you_mean, explain, shortened
from pixelloom.runs.config import RunConfig
from pixelloom.runs.families import RUN_FAMILIES, config_of
from pixelloom.runs.numeric_fields import check_numbers
from pixelloom.runs.renamed import check_file, renamed
from pixelloom.runs.yaml_reader import LARGEST, read


def compose(
    base: RunConfig, *, file: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Compose a run.

    Args:
        base: the run of a recipe.
        file: nested settings, as read from YAML.
        overrides: dotted path -> value; a string value is read as YAML, so "64" is a number and "[3, 3]" a list.

    Raises:
        UsageError: naming each field that is unknown, of a wrong type or out of range.
    """
    values = base.model_dump(mode="json")
    for field, value in (overrides or {}).items():
        if problem := renamed(field, value):
            raise UsageError(f"--{problem}")
    for patch in (dict(file or {}), _nested(overrides or {})):
        kind, name = config_of(values["network"]), patch.get("network", values["network"])
        if not isinstance(name, str):
            raise UsageError(f"configuration: network: is a name, not {shortened(repr(name))}")
        if name != values["network"]:
            values["model"] = {}  # settings belong to one network: start from the defaults of the new one
        if config_of(name) is not kind:  # and so do those of a family
            values = {field: values[field] for field in RunConfig.model_fields}
        values = _merged(values, patch)
    network = str(values["network"])
    check_numbers(values, config_of(network), network)
    try:
        return config_of(network).model_validate(values)
    except ValidationError as error:
        raise UsageError(f"configuration: {explain(error)}{_near_fields(error, network)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the settings of a configuration file.

    Raises:
        UsageError: if it is missing, not valid YAML, no mapping, has a key twice, or names of an earlier version.
    """
    try:
        with path.open("rb") as file:
            text = file.read(4 * LARGEST).decode("utf-8")  # 4 bytes of a character, at most
        settings = read(text)
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--config {path}: not valid YAML: not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise UsageError(f"--config {path}: not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"--config {path}: holds no settings; expected lines such as 'model: {{channels: 64}}'")
    check_file(settings, path)
    return settings


def dump_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """{"model.channels": "64"} -> {"model": {"channels": 64}}"""
    tree: dict[str, Any] = {}
    for path, value in overrides.items():
        *parents, leaf = path.split(".")
        node: Any = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UsageError(f"--{path}: {parent} is also set to a value, so it cannot have fields")
        try:
            node[leaf] = read(value) if isinstance(value, str) else value
        except ValueError:
            node[leaf] = value
    return tree


def _merged(values: Any, patch: Any) -> Any:
    if not (isinstance(values, dict) and isinstance(patch, dict)):
        return patch
    return values | {key: _merged(values.get(key), value) for key, value in patch.items()}


def _near_fields(error: ValidationError, network: str) -> str:
    """A suggestion for the first unknown field, and the known ones."""
    for item in error.errors():
        if item["type"] == "extra_forbidden":
            *parents, leaf = (str(part) for part in item["loc"])
            known = fields_of(network, parents)
            return f".{did_you_mean(leaf, known)} Known here: {', '.join(known)}"
    return ""


def fields_of(network: str, path: list[str]) -> list[str]:
    """Names of the fields at a dotted path of a network's run; empty for an unknown path."""
    kind: Any = config_of(network)
    for name in path:
        if name == "model" and issubclass(kind, RunConfig):
            kind = kind.networks()[network][0]
            continue
        field = kind.model_fields.get(name)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()  # X, and X of `X | None`
        kind = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if kind is None:
            return []
    return list(kind.model_fields)


def elsewhere(network: str, path: str) -> str:
    """A hint for a field of another family: the field with the same type here, or the networks that have the field.

    Empty for a field that no family has.
    """
    here, (name, *rest) = config_of(network), path.split(".")
    kinds = [family.config for family in RUN_FAMILIES.values()]
    other = next((kind for kind in kinds if kind is not here and name in kind.model_fields), None)
    if other is None or name in here.model_fields:
        return ""
    means = other.model_fields[name].annotation
    same = [field for field, info in here.model_fields.items() if info.annotation is means]
    if same and isinstance(means, type) and issubclass(means, BaseModel):
        return f" {network} has {' and '.join('--' + '.'.join((field, *rest)) for field in same)}."
    return f" It is for other networks: {', '.join(other.networks())}."
