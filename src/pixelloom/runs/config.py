"""One run as data: everything that decides what ``pixelloom train`` does, checked before anything starts.

A run's configuration is built from a recipe, then a YAML file, then dotted overrides such as ``model.channels=64``;
each later one wins. Every fault names the field, what was given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pixelloom.core.errors import UsageError, did_you_mean, explain
from pixelloom.data.catalog import DataConfig
from pixelloom.data.conditions import RULES, check_rule
from pixelloom.engine.config import TrainConfig
from pixelloom.heads.discrete import HeadConfig
from pixelloom.networks import GAN_NETWORKS, PIXEL_NETWORKS, no_condition, takes_condition
from pixelloom.objectives.base import OptimConfig
from pixelloom.objectives.diffaugment import Policy
from pixelloom.objectives.gan_losses import Penalties

Overrides = Mapping[str, object]
"""Dotted field -> value, such as ``{"model.channels": 64}``; strings are read as YAML."""


class RunConfig(BaseModel):
    """What every training run has; ``config.yaml`` in a run folder is exactly one of its kinds, :data:`KINDS`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    table: ClassVar[Mapping[str, tuple[Any, ...]]]
    """The networks of the family; an entry begins with the class of a network's settings."""

    recipe: str = Field("", description="the recipe this came from, for the record")
    network: str
    data: DataConfig = DataConfig()
    model: Any = Field(
        default_factory=dict,
        validate_default=True,
        description="settings of the network; see `pixelloom config NETWORK`",
    )
    classes: bool = Field(False, description="tell the network the class of each image, from the labels of the data")
    train: TrainConfig = TrainConfig()
    validation_images: int = Field(1000, ge=1, description="images of the validation split measured while training")
    samples: int = Field(25, ge=0, description="images drawn at the end of the run")

    @field_validator("network")
    @classmethod
    def _in_the_table(cls, name: str) -> str:
        if name not in cls.table:
            known = [known for kind in KINDS for known in kind.table]
            raise ValueError(f"none is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
        return name

    @field_validator("model", mode="before")
    @classmethod
    def _settings_of_the_network(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.data.get("network"))  # absent if it was refused
        return cls.table[name][0].model_validate(value) if name in cls.table else value


class PixelRun(RunConfig):
    """A run of a network that knows each image's probability."""

    table = PIXEL_NETWORKS

    network: str = "pixelcnn"
    head: HeadConfig = HeadConfig()
    inputs: Literal["unit", "symmetric", "standard", "embedding"] = Field(
        "symmetric",
        description="model space: [0, 1], [-1, 1], the training set's mean 0 and deviation 1, or learned vectors",
    )
    embedding: int = Field(8, ge=1, le=256, description="with inputs=embedding: features of the vector of each level")
    label_dropout: float = Field(
        0.1, ge=0, lt=1, description="with classes: share of the images whose class is not told, for guidance"
    )
    condition: str = Field("none", description="picture that the network goes by: " + RULES)
    optim: OptimConfig = OptimConfig()

    @field_validator("condition")
    @classmethod
    def _a_rule_for_a_network_that_goes_by_pictures(cls, rule: str, info: ValidationInfo) -> str:
        name = info.data.get("network")
        if check_rule(rule) != "none" and name in PIXEL_NETWORKS and not takes_condition(name):
            raise ValueError(no_condition(name))
        if getattr(info.data.get("model"), "condition", 0):
            raise ValueError("leave model.condition at 0; this field says which picture the network goes by")
        return rule


class GANRun(RunConfig):
    """A run of two networks against each other, one of which makes images from noise."""

    table = GAN_NETWORKS

    network: str = "dcgan"
    loss: Literal["non-saturating", "hinge", "least-squares", "wasserstein", "relativistic"] = "non-saturating"
    penalties: Penalties = Penalties()
    augment: Policy | None = Field(
        None, description="of what the discriminator sees; null: by the number and channels of the training images"
    )
    d_steps: int = Field(1, ge=1, le=100, description="steps of the discriminator for one of the generator")
    joint_batch: bool = Field(False, description="one pass of the discriminator over real and generated images")
    matching_aware: bool = Field(
        False, description="with classes: real images told as another class than theirs count as generated ones too"
    )
    discriminator: OptimConfig = OptimConfig(lr=4e-4, betas=(0.0, 0.9))
    generator: OptimConfig = OptimConfig(lr=1e-4, betas=(0.0, 0.9))
    features: Literal["auto", "lenet-mnist", "random", "pixels"] = Field(
        "auto", description="by which the kernel distance that chooses the best model is measured"
    )


KINDS: tuple[type[RunConfig], ...] = (PixelRun, GANRun)


def kind_of(network: str) -> type[RunConfig]:
    """The kind of run that a network of that name has; of an unknown name the first."""
    return next((kind for kind in KINDS if network in kind.table), KINDS[0])


def compose(
    base: RunConfig, *, file: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """A run from a recipe, the contents of a configuration file, and dotted overrides.

    Args:
        base: where to start.
        file: nested settings as read from YAML.
        overrides: dotted path -> value; a string value is read as YAML, so "64" is a number and "[3, 3]" a list.

    Raises:
        UsageError: naming each field that is unknown, of a wrong type or out of range.
    """
    values = base.model_dump(mode="json")
    for patch in (dict(file or {}), _nested(overrides or {})):
        kind, name = kind_of(values["network"]), str(patch.get("network", values["network"]))
        if name != values["network"]:
            values["model"] = {}  # settings of another network mean nothing here: start from its own defaults
        if kind_of(name) is not kind:  # nor do those of another family
            values = {field: values[field] for field in RunConfig.model_fields}
        values = _merged(values, patch)
    network = str(values["network"])
    try:
        return kind_of(network).model_validate(values)
    except ValidationError as error:
        raise UsageError(f"configuration: {explain(error)}{_near_fields(error, network)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a configuration file.

    Raises:
        UsageError: if it is missing, no YAML, no mapping, or names a key twice.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"--config {path}: holds no settings; expected lines such as 'model: {{channels: 64}}'")
    return settings


def dump_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, refusing a key that stands twice (YAML would silently keep the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, list | dict):
                raise yaml.constructor.ConstructorError(None, None, f"the key on line {line} is no plain text")
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice, again on line {line}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """{"model.channels": "64"} -> {"model": {"channels": 64}}"""
    tree: dict[str, Any] = {}
    for path, value in overrides.items():
        *parents, leaf = path.split(".")
        node: Any = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UsageError(f"--{path}: {parent} is set to a value elsewhere and cannot have fields")
        try:
            node[leaf] = yaml.safe_load(value) if isinstance(value, str) else value
        except yaml.YAMLError:
            node[leaf] = value
    return tree


def _merged(values: Any, patch: Any) -> Any:
    if not (isinstance(values, dict) and isinstance(patch, dict)):
        return patch
    return values | {key: _merged(values.get(key), value) for key, value in patch.items()}


def _near_fields(error: ValidationError, network: str) -> str:
    """Suggestions for the first field that does not exist, and the fields there are."""
    for item in error.errors():
        if item["type"] == "extra_forbidden":
            *parents, leaf = (str(part) for part in item["loc"])
            known = fields_of(network, parents)
            return f".{did_you_mean(leaf, known)} Known here: {', '.join(known)}"
    return ""


def fields_of(network: str, path: list[str]) -> list[str]:
    """Names of the fields at a dotted path of a network's run; empty if the path leads nowhere."""
    kind: Any = kind_of(network)
    for name in path:
        if name == "model" and issubclass(kind, RunConfig) and network in kind.table:
            kind = kind.table[network][0]
            continue
        field = kind.model_fields.get(name)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()  # X, and X of `X | None`
        kind = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if kind is None:
            return []
    return list(kind.model_fields)


def elsewhere(network: str, path: str) -> str:
    """Of a dotted path in a field or section that another family has: what serves the same end here, or whose it is.

    Empty if no family has it.
    """
    here, (name, *rest) = kind_of(network), path.split(".")
    other = next((kind for kind in KINDS if kind is not here and name in kind.model_fields), None)
    if other is None or name in here.model_fields:
        return ""
    means = other.model_fields[name].annotation
    same = [field for field, info in here.model_fields.items() if info.annotation is means]
    if same and isinstance(means, type) and issubclass(means, BaseModel):
        return f" {network} has {' and '.join('--' + '.'.join((field, *rest)) for field in same)}."
    return f" It is for other networks: {', '.join(other.table)}."
