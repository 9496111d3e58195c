"""What a run is: the content of its data and its configuration, kept with each checkpoint and compared on a resume."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import pixelloom
from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import DATASETS
from pixelloom.data.config import DataConfig
from pixelloom.data.splits import NAMES, Dataset, Split
from pixelloom.hub.reference import is_reference
from pixelloom.models.training_record import TrainingRecord
from pixelloom.runs.config import RunConfig
from pixelloom.runs.matching import EVERY, split_of
from pixelloom.runs.plan import flat, is_free

_CHUNK = 1024  # images that are hashed at once
_MOST = 1 << 30  # bytes of a split that are hashed; of more, evenly spaced images
_log = logging.getLogger("pixelloom")


def fingerprint(data: Dataset) -> dict[str, Any]:
    """Class names, and of each split the number, shape, levels and SHA-256 of its images and labels.

    Images are hashed before quantization and binarization, which the configuration determines.
    """
    splits = {name: _of_split(data.split(name)) for name in NAMES}
    return {"classes": list(map(str, data.classes)), "splits": splits}


def absolute(source: str) -> str:
    """The absolute path of data; empty for a named data set and one of the Hugging Face hub."""
    return "" if source in DATASETS or is_reference(source) else str(Path(source).expanduser().absolute())


def about(config: RunConfig, content: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """What is kept with each checkpoint.

    Args:
        config: configuration of the run.
        content: the fingerprint of the data.
        start: the model that the run started from, with its SHA-256.
    """
    return {
        "pixelloom": pixelloom.__version__,
        "start": start,
        "config": config.model_dump(mode="json"),
        "data": {"path": absolute(config.data.source), **content},
    }


def comment(config: RunConfig, content: Mapping[str, Any]) -> str:
    """A line for ``config.yaml``: where the data are, and the beginning of the SHA-256 of each split."""
    splits = ", ".join(f"{name} {split['images'][:16]} (N={split['n']})" for name, split in content["splits"].items())
    return f"data: {absolute(config.data.source) or config.data.source}; SHA-256 of {splits}"


def with_palette(config: RunConfig, spec: ImageSpec) -> RunConfig:
    """The configuration with the colors of the palette that was fitted to the data, so that it can be repeated.

    Indices of a palette have no order, so a pixel network takes a learned vector for each.
    """
    if spec.palette is None:
        return config
    changes: dict[str, Any] = {"data": config.data.model_copy(update={"palette": spec.palette})}
    if "inputs" in type(config).model_fields:
        changes["inputs"] = "embedding"
    return config.model_copy(update=changes)


def original_data(config: RunConfig, before: Mapping[str, Any]) -> RunConfig:
    """The configuration with the path at which the run found its data, if a relative path now names another folder."""
    path, source = _part(before, "data").get("path"), config.data.source
    begun = _part(_part(before, "config"), "data").get("source")
    if not path or source != begun or path == absolute(source) or not Path(str(path)).exists():
        return config
    _log.warning("data: %s is %s, where the run was begun, not %s", source, path, absolute(source))
    return config.model_copy(update={"data": config.data.model_copy(update={"source": str(path)})})


def trained_on(record: TrainingRecord) -> str | None:
    """The data of a training record; their absolute path, if a relative path now names another folder."""
    if record.data is None or record.path in ("", absolute(record.data.source)) or not Path(record.path).exists():
        return None if record.data is None else record.data.source
    _log.warning("data: %s is %s, which the model was trained on", record.data.source, record.path)
    return record.path


def seen_in_training(record: TrainingRecord, config: DataConfig, data: Dataset, split: str) -> str:
    """A remark if a split is or contains the images of training, or if the data of training changed; else "".

    Whole splits are compared by their SHA-256, so a few images in common are not found.

    Args:
        record: the model's record.
        config: of ``data``.
        data: the data to evaluate on.
        split: the split, or ``all``.
    """
    if not record.content.get("train") or not record.counts.get("train"):
        return ""
    now = {name: _of_split(data.split(name))["images"] for name in NAMES}
    if now.get(split, _of_split(split_of(data, split))["images"]) == record.content["train"]:
        return "the model was trained on these images"
    if split == EVERY and (seen := [name for name in NAMES if now[name] == record.content["train"]]):
        return f"the model was trained on the images of the {seen[0]} split among these; choose --split test"
    changed = [name for name in NAMES if now[name] != record.content.get(name, now[name])]
    if not changed or record.data is None or not _is_same(config, record.data, record.path):
        return ""
    return (
        f"the data changed since training (other images of {', '.join(changed)}), so training images may be among these"
    )


def _is_same(config: DataConfig, trained: DataConfig, path: str) -> bool:
    """Whether data of the same path are read in the same way."""
    if config.source != trained.source and absolute(config.source) != path:
        return False
    places = {"source", "root", "cache"}
    return config.model_dump(exclude=places) == trained.model_dump(exclude=places)


def check_config(config: RunConfig, before: Mapping[str, Any], file: Path) -> None:
    """Check that a run has the configuration of its checkpoints, apart from fields that may change.

    Raises:
        UsageError: naming the fields that differ: ``file`` was cut or changed.
    """
    begun, now = flat(_part(before, "config")), flat(config.model_dump(mode="json"))
    if not begun:
        return
    free = {"data.source"}  # the content of the data is compared
    both = begun.keys() & now.keys()  # another version may have more fields
    wrong = sorted(key for key in both - free if begun[key] != now[key] and not is_free(key))
    if wrong:
        shown = "; ".join(f"{key} is {now[key]!r}, was {begun[key]!r}" for key in wrong[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UsageError(
            f"{file}: not the configuration that the checkpoints were written with, so it was cut or changed: "
            f"{shown}{more}; put the old values back"
        )


def with_choices(config: RunConfig, before: Mapping[str, Any]) -> RunConfig:
    """The configuration with the validations that the run chose when it was begun, where none are set."""
    begun = flat(_part(before, "config"))
    n, every = begun.get("validation_images"), begun.get("train.validate_every")
    changes: dict[str, Any] = {}
    if config.validation_images is None and n is not None:
        changes["validation_images"] = int(n)
        if config.train.validate_every is None and every is not None:
            changes["train"] = config.train.model_copy(update={"validate_every": int(every)})
    return config.model_copy(update=changes)


def check_data(config: RunConfig, data: Dataset, before: Mapping[str, Any], *, allow: bool) -> None:
    """Check that the data are those that a run was begun with, wherever they are now.

    Raises:
        DataError: naming what differs, unless ``allow`` is set.
    """
    begun = _part(before, "data")
    if not begun:
        return
    changes = list(_changes(begun, fingerprint(data)))
    if not changes:
        return
    text = f"{config.data.source}: the data changed since the run was begun: {'; '.join(changes)}"
    if allow:
        _log.warning("%s; continuing on the data as they are", text)
        return
    raise DataError(f"{text}. Put the data back, start another run, or add --allow-changed-data")


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = before.get("classes") or [], now["classes"]
    if len(old) != len(new):
        yield f"the data now have {_named(new)}, the run was begun with {_named(old)}"
    elif old != new:
        yield f"the classes are {', '.join(new)}, they were {', '.join(map(str, old))}"
    for name, found in now["splits"].items():
        kept = _part(_part(before, "splits"), name)
        if kept.get("shape") != found["shape"] or kept.get("levels") != found["levels"]:
            yield f"images of {name} are {_form(found)}, they were {_form(kept)}"
        elif kept.get("n") != found["n"]:
            yield f"{name} has {found['n']:,} images, not {kept.get('n')}"
        elif kept.get("images") != found["images"]:
            yield f"{name} has other images"
        elif kept.get("labels") != found["labels"]:
            yield f"images of {name} have other labels"


def _named(classes: list[str]) -> str:
    names = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    return f"{len(classes)} classes" + (f" ({names})" if names else "")


def _form(split: Mapping[str, Any]) -> str:
    return f"{'x'.join(map(str, split.get('shape') or []))} of {split.get('levels')} levels"


def _of_split(split: Split) -> dict[str, Any]:
    plain = replace(split, table=None, bits=None)
    shape = list(split.store.shape[1:])
    most = max(1, _MOST // max(1, int(np.prod(shape))))
    rows = np.arange(len(split)) if len(split) <= most else np.linspace(0, len(split) - 1, most).astype(np.int64)
    sha = hashlib.sha256()
    for start in range(0, len(rows), _CHUNK):
        sha.update(np.ascontiguousarray(plain.take(rows[start : start + _CHUNK])[0]).data)
    labels = "" if split.labels is None else hashlib.sha256(np.asarray(split.labels, np.int64).tobytes()).hexdigest()
    return {"n": len(split), "shape": shape, "levels": split.levels, "images": sha.hexdigest(), "labels": labels}


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}
