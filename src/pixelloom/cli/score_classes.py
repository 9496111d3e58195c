"""``pixelloom score --classify``: the class of each image by Bayes' rule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pixelloom.cli import outputs
from pixelloom.cli.console import Meter, say, say_json

if TYPE_CHECKING:
    from pixelloom.data.image_source import ImageSource
    from pixelloom.models.family import GenerativeModel
    from pixelloom.runs.classify import Classified


def classify_images(
    model: GenerativeModel, source: ImageSource, limit: int | None, csv: Path | None, *, as_json: bool
) -> None:
    """Classify images; print accuracy and number of images of each class, or one JSON object."""
    from pixelloom.runs.classify import classify

    with Meter(f"classifying {source.title}", min(len(source.names), limit or len(source.names))) as meter:
        found = classify(model, source, limit, lambda done, _: meter.show(done))
    if csv is not None:
        _write(found, csv)
    counts = {name: int((found.found == number).sum()) for number, name in enumerate(found.classes)}
    accuracy = found.accuracy
    if as_json:
        about: dict[str, object] = {"data": source.title, "images": len(found.names), "classes": counts}
        if accuracy is not None:
            about["accuracy"] = {"value": accuracy[0], "interval": accuracy[1], "n": accuracy[2]}
        if csv is None:
            about["probabilities"] = dict(zip(found.names, found.probabilities.tolist(), strict=True))
        say_json(about)
        return
    say(f"{source.title}: {len(found.names):,} images, class by likelihood under a uniform prior")
    for name, count in counts.items():
        say(f"  {name}: {count:,}")
    if accuracy is not None:
        share, (low, high), n = accuracy
        interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
        say(f"  accuracy {100 * share:.2f} % of {n:,} labeled images ({interval})")
    if csv is not None:
        say(str(csv))


def _write(found: Classified, path: Path) -> None:
    """A CSV file with the class, the label and p(class | x) of each image."""
    import csv
    import io

    from pixelloom.core.atomic import write_bytes

    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["image", "class", "label", *(f"p({name})" for name in found.classes)])
    labels = [-1] * len(found.names) if found.labels is None else found.labels.tolist()
    for name, number, label, row in zip(
        found.names, found.found.tolist(), labels, found.probabilities.tolist(), strict=True
    ):
        known = found.classes[label] if label >= 0 else ""
        table.writerow([name, found.classes[number], known, *map(repr, row)])
    with outputs.writing(path):
        write_bytes(path, buffer.getvalue().encode(errors="surrogateescape"))
