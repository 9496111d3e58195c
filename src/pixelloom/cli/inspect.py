"""``pixelloom inspect``: what a source of images is taken for, before anything is trained."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelloom.cli import outputs
from pixelloom.cli.console import is_verbose, say, say_json, say_table
from pixelloom.cli.options import Flag, Index, OptionalCount
from pixelloom.cli.training_options import NO_DATA, DataOptions, data_settings
from pixelloom.core.errors import UsageError, shortened
from pixelloom.data.io.split_names import natural_order

if TYPE_CHECKING:
    from pixelloom.core.types import Levels
    from pixelloom.data.catalog import Dataset

_MOST_FILES = 5_000  # whose headers are read
_SHOWN = 5  # sizes, and names of a list
_BLOCK = 1_024  # images that are counted at once
_COLUMNS, _CLASSES = 8, 24  # of the contact sheet, at most
_MODES = {
    **{"1": "black and white", "L": "gray", "LA": "gray with transparency", "P": "palette", "RGB": "color"},
    **{"RGBA": "color with transparency", "CMYK": "CMYK", "I;16": "16-bit gray", "I": "32-bit gray", "F": "float gray"},
}
"""Names of Pillow's modes."""
_log = logging.getLogger("pixelloom")


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
    from pixelloom.data.catalog import DATASETS, check_source, load

    check_source(source)
    from pixelloom.data.hub_source import source_path
    from pixelloom.data.io.download import progress_bar
    from pixelloom.runs.evaluate import checked
    from pixelloom.viz.grid import save_png

    settings = data_settings(data)
    if "source" in settings:
        raise UsageError("--data: the source is the argument, as in `pixelloom inspect photos`")
    out = outputs.free(Path("inspect.png"), force=force) if out is None else out
    outputs.check_image(out, force)
    with progress_bar() as shown, _without_notes():
        config = checked({**settings, "source": source})
        found = load(config, shown)
    about = _about(found) | ({} if source in DATASETS else _files(source_path(config), config.image_column))
    sheet = _sheet(found, number or _COLUMNS, seed)
    outputs.probe(out.parent)
    with outputs.writing(out):
        save_png(sheet, out)
    about["sheet"] = str(out)
    if json:
        say_json(about)
        return
    for name, value in _for_people(about).items():
        if value:
            say(f"{name:13} {_words(value)}")
    if about["classes"]:
        rows = [[shortened(name, 40), *map(str, counts.values())] for name, counts in about["classes"].items()]
        say_table(("class", *about["images"]), rows)


@contextmanager
def _without_notes() -> Iterator[None]:
    """Leave out the warning on how images were read, which the note repeats."""

    def keeps(record: logging.LogRecord) -> bool:
        return record.levelno != logging.WARNING or record.funcName != "read_images"

    _log.addFilter(keeps)
    try:
        yield
    finally:
        _log.removeFilter(keeps)


def _for_people(about: dict[str, Any]) -> dict[str, Any]:
    """The lines of the text, without what says nothing new."""
    kinds = {_MODES.get(mode, mode): count for mode, count in about.get("file_modes", {}).items()}
    sizes, different = about.get("file_sizes", {}), about.get("different_sizes", 0)
    more = {"other sizes": different - len(sizes)} if different > len(sizes) else {}
    first, every = about.get("files_read", (0, 0))
    return {
        **{name.replace("_", " "): about[name] for name in ("source", "images", "shape", "levels_used")},
        "equal images": about["duplicates"] if any(about["duplicates"].values()) else "none",
        "file sizes": {f"of {size}": count for size, count in sizes.items()} | more,
        "file colors": kinds,
        "damaged": about.get("damaged"),
        "other files": about.get("other_files"),
        "files read": f"the headers of {first:,} of {every:,}" if first < every else "",
        "note": about["note"],
        "sheet": about["sheet"],
    }


def _words(value: Any) -> str:
    """A value for people: counts by name, or a list, of which a long one is shortened unless -v is given."""
    from pixelloom.data.io.reading import printable

    if isinstance(value, dict):
        return ", ".join(f"{item:,} {key}" for key, item in value.items())
    if not isinstance(value, list):
        return str(value)
    shown = value if is_verbose() else value[:_SHOWN]
    more = f" and {len(value) - _SHOWN:,} more (-v shows all)" if len(value) > len(shown) else ""
    return ", ".join(map(printable, shown)) + more


def _about(data: Dataset) -> dict[str, Any]:
    """What the data set says of itself."""
    import numpy as np

    from pixelloom.data.splits import NAMES, content_hashes

    counts = {name: np.bincount(_labels(data, name), minlength=len(data.classes)) for name in NAMES}
    values = np.zeros(data.source_levels, bool)
    hashes = {name: np.zeros(0, np.uint64) for name in NAMES}
    for name in NAMES:
        split = data.split(name)
        for start in range(0, len(split), _BLOCK):
            images, _ = split.take(np.arange(start, min(start + _BLOCK, len(split))))
            hashes[name] = np.append(hashes[name], content_hashes(images))
            values[images.reshape(-1)] = True
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


def _files(path: Path, column: str | None) -> dict[str, Any]:
    """Sizes and color modes of the files of a folder, archive, list or Parquet file, by their headers; other files."""
    import numpy as np
    from PIL import Image

    from pixelloom.data.io.decode import DamageError
    from pixelloom.data.io.folders import holds_arrays
    from pixelloom.data.io.scan import open_listing

    if holds_arrays(path, column):
        return {}
    sizes, modes, damaged = Counter[str](), Counter[str](), list[str]()
    with open_listing(path, column) as listing:
        count = len(listing.names)
        read = np.unique(np.linspace(0, count - 1, min(count, _MOST_FILES)).astype(int)).tolist()
        for i in read:
            try:
                with Image.open(BytesIO(listing.read(i))) as image:
                    sizes[f"{image.height}x{image.width}"] += 1
                    modes[image.mode] += 1
            except (DamageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                damaged.append(listing.names[i])
        others = natural_order(listing.others)
    return {
        "file_sizes": dict(sizes.most_common(_SHOWN)),
        "different_sizes": len(sizes),
        "file_modes": dict(modes),
        "damaged": damaged,
        "other_files": others,
        "files_read": (len(read), count),
    }


def _sheet(data: Dataset, columns: int, seed: int) -> Any:
    """A row of training images for each class, or for data without classes as many rows as columns."""
    import numpy as np

    from pixelloom.core import rng
    from pixelloom.viz.grid import grid, table

    order = rng.permutation(len(data.train), seed, rng.Stream.REFERENCE)
    labels, levels = data.train.labels, data.source_levels if data.dynamic else data.spec.display
    if labels is None or not data.classes:
        return grid(_take(data, order[: columns * columns]), levels, min(columns, len(order)))
    each = [order[np.asarray(labels)[order] == number][:columns] for number in range(len(data.classes))]
    rows = [(name, found) for name, found in zip(data.classes, each, strict=True) if len(found)][:_CLASSES]
    drawn = [_take(data, np.resize(found, columns)) for _, found in rows]  # few images are repeated
    images = np.stack(drawn, axis=1).reshape(-1, *data.spec.shape)  # [rows, n, ...] -> [n * rows, ...]
    return table(images, levels, len(rows), names=[str(name) for name, _ in rows])


def _take(data: Dataset, rows: Any) -> Levels:
    return data.train.take(rows)[0]
