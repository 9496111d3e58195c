"""Options of ``pixelloom train``, derived from the classes of a run's configuration.

An option is defined once, as a field of a configuration class: name, type, range and help come from there. Sections
(fields with fields of their own) take dotted options, such as ``--optim.lr 1e-3``, whose values are read as YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, make_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import Group, Parameter
from cyclopts.validators import Number
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pixelloom.cli.options import number, one_of, whole_number
from pixelloom.data.config import DataConfig
from pixelloom.engine.config import TrainConfig
from pixelloom.runs.families import RUN_FAMILIES

_DATA = Group("Data", sort_key=1)
_TRAINING = Group("Training", sort_key=2)
_FIELDS = Group("Other fields of the configuration (`pixelloom config RECIPE` prints all)", sort_key=3)
_DATA_NAMES = {"source": "data", "root": "data_root"}
_BOUNDS = {"gt": "gt", "ge": "gte", "lt": "lt", "le": "lte"}  # of pydantic -> of cyclopts


class Options:
    """Options of one group; an option that is not given is None."""

    def given(self) -> dict[str, Any]:
        """The options that are given."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if value is not None}


def data_settings(options: Options) -> dict[str, Any]:
    """The given options as fields of :class:`DataConfig`."""
    fields_of = {option: field for field, option in _DATA_NAMES.items()}
    return {fields_of.get(option, option): value for option, value in options.given().items()}


def dotted(options: Options) -> dict[str, Any]:
    """The given options as dotted fields, {"model.channels": "64", "samples": 9}; hyphens may stand for underscores."""
    found: dict[str, Any] = {}
    for name, value in options.given().items():
        if isinstance(value, dict):
            found |= {f"{name}.{key.replace('-', '_')}": item for key, item in value.items()}
        else:
            found[name] = value
    return found


def _derive(name: str, doc: str, group: Group, options: Iterable[tuple[str, FieldInfo]]) -> type[Options]:
    """A frozen dataclass with an optional field for each field of a configuration."""
    members: list[tuple[str, Any, Any]] = [(option, _annotation(option, info), None) for option, info in options]
    derived = make_dataclass(
        name, members, bases=(Options,), frozen=True, namespace={"__doc__": doc, "__module__": __name__}
    )
    return Parameter(name="*", group=group)(derived)


def _annotation(name: str, info: FieldInfo) -> Any:
    """The option's type, with its help and range."""
    kinds = _kinds(info.annotation)
    text = _sentence(info.description or "", kinds[0])
    if _is_section(info):
        known = "" if kinds[0] is Any else f"Fields: {', '.join(kinds[0].model_fields)}."
        return Annotated[dict[str, str] | None, Parameter(name=f"--{name}", help=f"{text} {known}".strip())]
    bounds = {_BOUNDS[key]: value for item in info.metadata for key, value in _range(item)}
    validator = Number(**bounds) if bounds else None
    kind = kinds[0] if len(kinds) == 1 and (kinds[0] in (int, float, bool) or get_origin(kinds[0]) is Literal) else str
    converter: Callable[..., Any] | None = {int: whole_number, float: number}.get(kind)
    if get_origin(kind) is Literal and all(isinstance(value, int) for value in get_args(kind)):
        converter = one_of(get_args(kind))
    limits = _in_words(bounds)
    return Annotated[kind | None, Parameter(help=f"{text[:-1]}{limits}.", validator=validator, converter=converter)]


def _is_section(info: FieldInfo) -> bool:
    """Whether a field has fields of its own."""
    kind = _kinds(info.annotation)[0]
    return kind is Any or (isinstance(kind, type) and issubclass(kind, BaseModel))


def _sentence(text: str, kind: Any) -> str:
    """A description as a sentence; values that it begins with stay as they are."""
    values = (*(str(value) for value in get_args(kind)), "none", "null")
    first = text.split(" ", maxsplit=1)[0].strip(":,")
    return text and (text if first in values else text[0].upper() + text[1:]) + "."


def _in_words(bounds: Mapping[str, float]) -> str:
    """A range for the help, as in ``(2 to 256)``; an empty text for none."""
    if {"gte", "lte"} <= bounds.keys():
        return f" ({bounds['gte']:g} to {bounds['lte']:g})"
    signs = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}
    shown = " and ".join(f"{sign} {bounds[key]:g}" for key, sign in signs.items() if key in bounds)
    return shown and f" ({shown})"


def _kinds(annotation: Any) -> list[Any]:
    """The members of a union without None."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [member for member in members if member is not type(None)]


def _range(bound: Any) -> list[tuple[str, float]]:
    return [(name, value) for name in _BOUNDS if (value := getattr(bound, name, None)) is not None]


def _fields_of(config: type[BaseModel], names: Mapping[str, str]) -> list[tuple[str, FieldInfo]]:
    """(option, field) for fields of a configuration."""
    return [(option, config.model_fields[field]) for field, option in names.items()]


def _run_fields() -> list[tuple[str, FieldInfo]]:
    """The fields of all families' configurations; sections come first."""
    found: dict[str, FieldInfo] = {}
    for family in RUN_FAMILIES.values():
        found = family.config.model_fields | found
    del found["recipe"], found["network"], found["start"]  # arguments of the command
    return sorted(found.items(), key=lambda item: not _is_section(item[1]))


_TRAIN = ("minutes", "images", "epochs", "seed", "precision", "device", "devices", "threads", "logger")
_SOURCE = (
    *(
        "source",
        "root",
        "levels",
        "palette",
        "binarize",
        "size",
        "gray",
        "fit",
        "resample",
        "background",
        "bits",
        "range",
    ),
    *("frames", "bad_images", "splits", "class_level", "labels", "label_column", "image_column"),
)

if TYPE_CHECKING:  # a type checker cannot read derived classes

    class DataOptions(Options):
        """Data and its transforms."""

    class ScoredDataOptions(Options):
        """Data to score, and their transforms."""

    class TrainOptions(Options):
        """Budget, seed and device."""

    class FieldOptions(Options):
        """All other fields of a run's configuration."""

else:
    DataOptions = _derive(
        "DataOptions",
        "Data and its transforms.",
        _DATA,
        _fields_of(DataConfig, {name: _DATA_NAMES.get(name, name) for name in _SOURCE}),
    )
    ScoredDataOptions = _derive(  # --background names a model there, and a palette is that of the model
        "ScoredDataOptions",
        "Data to score, and their transforms; default: those of training.",
        _DATA,
        _fields_of(
            DataConfig, {name: _DATA_NAMES.get(name, name) for name in _SOURCE if name not in ("background", "palette")}
        ),
    )
    TrainOptions = _derive(
        "TrainOptions", "Budget, seed and device.", _TRAINING, _fields_of(TrainConfig, {name: name for name in _TRAIN})
    )
    FieldOptions = _derive("FieldOptions", "All other fields of a run's configuration.", _FIELDS, _run_fields())

SECTIONS: dict[str, tuple[str, ...]] = {
    name: () if kind is Any else tuple(kind.model_fields)
    for name, info in _run_fields()
    if _is_section(info)
    for kind in _kinds(info.annotation)[:1]
}
"""Fields of each section; none for the model, whose fields depend on the network."""

NO_DATA, NO_TRAINING, NO_FIELDS = DataOptions(), TrainOptions(), FieldOptions()
NO_SCORED_DATA = ScoredDataOptions()
