"""``pixelloom inspect``: what a source of images is taken for, before anything is trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelloom.cli import outputs
from pixelloom.cli.console import say, say_json, say_table
from pixelloom.cli.options import Flag, Index, OptionalCount
from pixelloom.cli.training_options import NO_DATA, DataOptions, data_settings
from pixelloom.core.errors import UsageError, shortened

if TYPE_CHECKING:
    from pixelloom.core.types import Levels
    from pixelloom.data.catalog import Dataset

_MOST_FILES = 5_000  # whose headers are read
_SHOWN = 5  # sizes, and files that are no images
_COLUMNS, _CLASSES = 8, 24  # of the contact sheet, at most


def inspect(
    source: str,
    /,
    *,
    out: Path | None = None,
    number: OptionalCount = None,
    seed: Index = 0,
    json: Flag = False,
    force: Flag = False,
    data: DataOptions = NO_DATA,
) -> None:
    """Show what a source of images is taken for: splits, classes, sizes, levels, duplicates; and write a contact sheet.

    Args:
        source: Name of a data set, or path of a folder, zip, array or list of images.
        out: PNG of the contact sheet, with a row for each class; default: inspect.png, or inspect-2.png and so on.
        number: Images per row of the contact sheet; default: 8.
        seed: Seed of the selection of images.
        json: Print one JSON object.
        force: Overwrite an existing PNG.
        data: Data and its transforms, as in training.
    """
    from pixelloom.data.catalog import load
    from pixelloom.data.io.download import progress_bar
    from pixelloom.runs.evaluate import checked
    from pixelloom.viz.grid import save_png

    settings = data_settings(data)
    if "source" in settings:
        raise UsageError("--data: the source is the argument, as in `pixelloom inspect photos`")
    out = outputs.free(Path("inspect.png"), force=force) if out is None else out
    outputs.check_image(out, force)
    with progress_bar() as shown:
        found = load(checked({**settings, "source": source}), shown)
    about = _about(found) | _files(Path(source).expanduser())
    sheet = _sheet(found, number or _COLUMNS, seed)
    outputs.probe(out.parent)
    with outputs.writing(out):
        save_png(sheet, out)
    about["sheet"] = str(out)
    if json:
        say_json(about)
        return
    for name, value in about.items():
        if name != "classes" and value:
            words = ", ".join(f"{key} {item:,}" for key, item in value.items()) if isinstance(value, dict) else value
            say(f"{name.replace('_', ' '):16} {words}")
    if about["classes"]:
        rows = [[shortened(name, 40), *map(str, counts.values())] for name, counts in about["classes"].items()]
        say_table(("class", *about["images"]), rows)


def _about(data: Dataset) -> dict[str, Any]:
    """What the data set says of itself."""
    import numpy as np

    from pixelloom.data.splits import NAMES, content_hashes

    counts = {name: np.bincount(_labels(data, name), minlength=len(data.classes)) for name in NAMES}
    hashes = {name: content_hashes(data.split(name).all()[0]) for name in NAMES}
    values = np.zeros(data.source_levels, bool)
    for name in NAMES:
        values[np.unique(data.split(name).all()[0])] = True
    used = np.flatnonzero(values)
    within = sum(len(found) - len(np.unique(found)) for found in hashes.values())
    every = np.concatenate([np.unique(found) for found in hashes.values()])
    return {
        "source": data.name,
        "images": data.counts(),
        "shape": str(data.spec),
        "levels_used": f"{len(used)} of {data.spec.levels}, from {used[0]} to {used[-1]}" if len(used) else "none",
        "duplicates": {"within splits": within, "across splits": len(every) - len(np.unique(every))},
        "classes": {
            str(name): {part: int(counts[part][number]) for part in NAMES} for number, name in enumerate(data.classes)
        },
        "note": data.note,
    }


def _labels(data: Dataset, name: str) -> Any:
    """Labels of a split, without those of unlabeled images."""
    import numpy as np

    labels = data.split(name).labels
    return np.zeros(0, np.int64) if labels is None else np.asarray(labels)[np.asarray(labels) >= 0]


def _files(path: Path) -> dict[str, Any]:
    """Sizes and color modes of the files of a folder, by their headers, and files that are no images."""
    from PIL import Image

    if not path.is_dir():
        return {}
    sizes, modes, odd = Counter[str](), Counter[str](), list[str]()
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    for file in files[:_MOST_FILES]:
        try:
            with Image.open(file) as image:
                sizes[f"{image.height}x{image.width}"] += 1
                modes[image.mode] += 1
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            odd.append(str(file.relative_to(path)))
    more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
    return {
        "file_sizes": dict(sizes.most_common(_SHOWN)),
        "different_sizes": str(len(sizes)),
        "file_modes": dict(modes),
        "no_images": ", ".join(map(shortened, odd[:_SHOWN])) + more,
        "files_read": f"{min(len(files), _MOST_FILES):,} of {len(files):,}",
    }


def _sheet(data: Dataset, columns: int, seed: int) -> Any:
    """A row of training images for each class, or for data without classes as many rows as columns."""
    import numpy as np

    from pixelloom.core import rng
    from pixelloom.viz.grid import grid, table

    order = rng.permutation(len(data.train), seed, rng.Stream.REFERENCE)
    labels, levels = data.train.labels, data.source_levels if data.dynamic else data.spec.levels
    if labels is None or not data.classes:
        return grid(_take(data, order[: columns * columns]), levels, min(columns, len(order)))
    each = [order[np.asarray(labels)[order] == number][:columns] for number in range(len(data.classes))]
    rows = [(name, found) for name, found in zip(data.classes, each, strict=True) if len(found)][:_CLASSES]
    drawn = [_take(data, np.resize(found, columns)) for _, found in rows]  # few images are repeated
    images = np.stack(drawn, axis=1).reshape(-1, *data.spec.shape)  # [rows, n, ...] -> [n * rows, ...]
    return table(images, levels, len(rows), names=[str(name) for name, _ in rows])


def _take(data: Dataset, rows: Any) -> Levels:
    return data.train.take(rows)[0]
