"""``pixelloom info``: describes a model and its receptive field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pixelloom.cli import outputs
from pixelloom.cli.common import check_model, position_of
from pixelloom.cli.console import say, say_json
from pixelloom.cli.options import Flag
from pixelloom.core.errors import UsageError, shortened

if TYPE_CHECKING:
    from pixelloom.models.family import GenerativeModel, ModelInfo
    from pixelloom.models.pixel import PixelModel
    from pixelloom.models.training_record import TrainingRecord

_MOST_CLASSES = 40  # in the text


def info(
    model: str,
    /,
    *,
    json: Flag = False,
    receptive_field: Path | None = None,
    position: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    force: Flag = False,
) -> None:
    """Describe a model: network, images, training record, validation metrics and checksum.

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        json: Print one JSON object.
        receptive_field: PNG of the receptive field of a position, to write.
        position: ROW,COLUMN of the position, from 0; default: the center.
        force: Overwrite an existing PNG.
    """
    check_model(model)
    from safetensors import safe_open

    from pixelloom.models.description import WEIGHTS
    from pixelloom.models.registry import family_of, load_model, require
    from pixelloom.runs.locate import find

    if receptive_field is None and position is not None:
        raise UsageError("--position: needs --receptive-field")
    if receptive_field is not None:
        outputs.check_image(receptive_field, force)
    folder = find(model)
    found = load_model(folder)
    with safe_open(str(folder / WEIGHTS), "pt") as file:
        sha256 = file.metadata()["sha256"]  # of the contents; loading has verified it
    about, details = found.description.model_dump(mode="json"), family_of(found).info(found)
    seen = {}
    if receptive_field:
        pixel = require(found, "receptive_field", "--receptive-field")
        seen = _draw_field(pixel, position_of(position, pixel.spec), receptive_field)
    if json:
        more = {"receptive_field": seen} if seen else {}
        header = {"folder": str(folder), "sha256": sha256, "parameters": found.parameters}
        say_json({**header, **details.values, **about, **more})
        return
    for name, value in _lines(found, details).items():
        if value:
            say(f"{name:11} {value}")
    say(f"{'sha256':11} {sha256}")
    say(f"{'folder':11} {folder}")
    if seen:
        _say_field(seen)
    if details.drawing:
        say(f"\n{details.drawing}")


def _draw_field(model: PixelModel, position: tuple[int, int], path: Path) -> dict[str, Any]:
    """Plot the receptive field of a position; returns its statistics."""
    from pixelloom.runs.explain import field_of
    from pixelloom.viz.receptive_field import FIELD_KINDS, field_kinds
    from pixelloom.viz.receptive_field import receptive_field as draw_field

    spec, schedule = model.spec, model.fast_sampler().plan.schedule
    field = field_of(schedule.flow, position)  # pixelloom.receptive_field has a network without labels only
    outputs.probe(path.parent)
    with outputs.writing(path):
        draw_field(field, position, path)
    kinds = field_kinds(field, position)
    _, seen, blind, far, *_ = (int((kinds == number).sum()) for number in range(len(FIELD_KINDS)))
    return {
        "image": str(path),
        "position": list(position),
        "before": seen + blind + far,
        "seen": seen,
        "blind_spot": blind,
        "out_of_reach": far,
        "pixels": spec.height * spec.width,
        "steps": schedule.steps,
    }


def _say_field(seen: dict[str, Any]) -> None:
    share = f" ({100 * seen['seen'] / seen['before']:.0f} %)" if seen["before"] else ""
    missed = f"{seen['blind_spot']:,} in the blind spot, {seen['out_of_reach']:,} out of reach"
    y, x = seen["position"]
    say(f"{'sees':11} {seen['seen']:,} of the {seen['before']:,} pixels before row {y}, column {x}{share}; {missed}")
    say(f"{'sampling':11} {seen['steps']:,} steps for {seen['pixels']:,} pixels")
    say(f"{'image':11} {seen['image']}")


def _training(record: TrainingRecord) -> str:
    """Budget, seed and date, as far as they are recorded."""
    parts = (
        ("", None if record.images is None else f"{record.images:,}", " images"),
        ("", record.epochs, " epochs"),
        ("", record.minutes, " minutes"),
        ("seed ", record.seed, ""),
        ("", record.date, ""),
    )
    return ", ".join(f"{before}{value}{after}" for before, value, after in parts if value is not None)


def _classes(names: Sequence[str]) -> str:
    """Number and names of classes, as in ``2 (0 cats, 1 dogs)``."""
    if not names:
        return ""
    if all(name == str(number) for number, name in enumerate(names)):
        return f"{len(names)} (0 to {len(names) - 1})"
    shown = ", ".join(f"{number} {shortened(name)}" for number, name in enumerate(names[:_MOST_CLASSES]))
    more = f" and {len(names) - _MOST_CLASSES} more; --json has all" if len(names) > _MOST_CLASSES else ""
    return f"{len(names)} ({shown}{more})"


def _lines(model: GenerativeModel, details: ModelInfo) -> dict[str, str]:
    """Name -> text; an empty text is not shown."""
    about = model.description
    record = about.training
    settings = ", ".join(f"{k}={v}" for k, v in about.model.model_dump(exclude_none=True).items())
    data = {} if record.data is None else record.data.model_dump()
    form = ", ".join(f"{k} {data[k]}" for k in ("size", "levels", "binarize") if data.get(k) not in (None, "none"))
    measured = record.validation
    validation = ", ".join(f"{value:.4f} {name}" for name, value in measured.metrics.items())
    if validation and measured.n is not None:
        split = "" if measured.split == "validation" else f", {measured.split} images"
        validation += f" (N={measured.n}{split})"
    return {
        "network": f"{about.network} ({settings})",
        "images": str(model.spec),
        **details.lines,
        "classes": _classes(about.class_names),
        "recipe": record.recipe,
        "data": f"{data.get('source', 'unknown')}{f' ({form})' if form else ''}",
        "splits": record.splits,
        "note": record.note,
        "training": _training(record),
        "validation": validation,
        "command": record.command,
    }
