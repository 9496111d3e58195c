"""The model card: network, training record and validation metrics of a model."""

from __future__ import annotations

from pixelloom.metrics.table import value_text
from pixelloom.models.family import GenerativeModel
from pixelloom.models.registry import family_of
from pixelloom.models.training_record import ValidationRecord


def model_card(model: GenerativeModel, sha256: str) -> str:
    """Markdown for the ``README.md`` of a model folder."""
    family = family_of(model)
    about = model.description
    record = about.training
    data, validation = record.data, record.validation
    asked = {} if data is None else {key: getattr(data, key) for key in ("levels", "binarize", "size", "gray", "limit")}
    form = ", ".join(f"{key}={value}" for key, value in asked.items() if value and value != "none")
    source = "unknown data" if data is None else data.source
    lines = [
        f"# {record.recipe or about.network} on {source}",
        "",
        "| | |",
        "|---|---|",
        f"| network | {about.network}, {model.parameters:,} parameters |",
        f"| images | {model.spec} |",
        *family.card_rows(model),
        f"| data | {source} ({form or 'as published'}) |",
        f"| split | {record.splits} |",
        f"| training | {record.images or 0:,} images seen, {record.epochs} epochs, {record.minutes} minutes, "
        f"seed {record.seed} |",
        f"| chosen on | {_chosen(validation)} |",
        f"| validation | {', '.join(value_text(name, value) for name, value in validation.metrics.items())} |",
        f"| date | {record.date} |",
        f"| command | `{record.command}` |",
        f"| weights | SHA-256 of contents {sha256} |",
        "",
    ]
    if record.note:
        lines += [f"Data: {record.note}", ""]
    return "\n".join(lines) + "\n" + family.card_usage


def _chosen(validation: ValidationRecord) -> str:
    if validation.split == "validation":
        return f"validation, {validation.n} images"
    measured = f"; validation: training, {validation.n} images" if validation.metrics else ""
    return f"nothing, the last model is kept{measured}"
