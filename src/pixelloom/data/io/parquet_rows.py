"""Files of Parquet: which files a source has, their splits by name, and their rows in batches of bounded size.

Source: https://parquet.apache.org/docs/file-format/.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError, shortened
from pixelloom.data.io.decode import ACCEPTED
from pixelloom.data.io.layout import Labeling, layout_of
from pixelloom.data.io.reading import listed, printable

SUFFIX = ".parquet"
CONVERSION = (
    "for i, (x, y) in enumerate(pandas.read_parquet(PATH)[['image', 'label']].values): "
    "p = pathlib.Path(f'out/{y}/{i}.png'); p.parent.mkdir(parents=True, exist_ok=True); p.write_bytes(x['bytes'])"
)
"""One line that converts a file of the hub to a folder of images."""

BLOCK = 4 << 20
"""Bytes of a batch of rows, about."""

_MOST_ROWS = 4096  # of a batch
_SHARD = re.compile(r"(?:^|[-_.])(?P<part>\d{4,})(?:[-_.]of[-_.](?P<parts>\d+))?(?:[-_.][0-9a-f]{8,})?$")


@dataclass(frozen=True)
class Shard:
    """One file: its path, its name in the source, numbers of rows, of rows in a batch and of bytes, and its time."""

    path: Path
    name: str
    rows: int
    batch: int
    size: int
    stamp: int


def is_parquet(path: Path) -> bool:
    """Whether a path is a Parquet file, or a folder with such files."""
    return path.suffix.lower() == SUFFIX if path.is_file() else bool(files_of(path))


def files_of(path: Path) -> list[Path]:
    """The Parquet files of a source; none in a folder with images. Hidden files are skipped."""
    if path.is_file():
        return [path]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  # a Path for each file is slow
            if name.startswith("."):
                continue
            if suffix in ACCEPTED:
                return []
            if suffix == SUFFIX:
                found.append(Path(folder, name))
    return sorted(found)


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Convert the exceptions of pyarrow on damaged files into DataError with the file name.

    Raises:
        DataError: also if pyarrow is missing.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f'{path}: reading Parquet files needs pyarrow: pip install "pixelloom[data]"; or convert it once where '
            f"pandas is: {CONVERSION}"
        ) from None
    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError, ArithmeticError) as error:
        text = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
        raise DataError(f"{path}: not a readable {SUFFIX} file ({text})") from error


def shard_of(root: Path, path: Path) -> Shard:
    """Read the number of rows of a file.

    Raises:
        DataError: for a damaged file, and one that claims many more rows than it has bytes.
    """
    with reading_errors(path):
        import pyarrow.parquet as pq

        status = path.stat()
        meta = pq.read_metadata(path)
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        rows = sum(group.num_rows for group in groups)
        if rows != meta.num_rows or min((group.num_rows for group in groups), default=0) < 0:
            raise ValueError(f"the header claims {meta.num_rows:,} rows, its parts {rows:,}")
        if rows > 64 * status.st_size:
            raise ValueError(f"the header claims {rows:,} rows, but the file has {status.st_size:,} bytes")
        size = max(1, sum(group.total_byte_size for group in groups) // max(rows, 1))
    name = path.name if path == root else path.relative_to(root).as_posix()
    return Shard(path, name, rows, min(max(1, BLOCK // size), _MOST_ROWS), status.st_size, status.st_mtime_ns)


def batches_of(shard: Shard, columns: Sequence[str]) -> Iterator[Any]:
    """Read columns of a file in ``pyarrow.RecordBatch``es.

    Raises:
        DataError: for a damaged file, or one that was modified since its header was read.
    """
    rows = 0
    with reading_errors(shard.path):
        import pyarrow.parquet as pq

        status = shard.path.stat()
        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.stamp):
            raise ValueError("modified while it was read")
        # Column chunks are read as they are decoded: a row group may be the whole file.
        with pq.ParquetFile(shard.path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(shard.batch, columns=list(columns), use_threads=False):
                rows += len(batch)
                yield batch
        if rows != shard.rows:
            raise ValueError(f"the header claims {shard.rows:,} rows, {rows:,} follow")


def splits_of(path: Path, shards: list[Shard], labeling: Labeling) -> tuple[tuple[str, ...], npt.NDArray[np.int8], str]:
    """The splits that names of files or folders state, the split of each file (-1 for one left out), and a note."""
    none = np.zeros(len(shards), np.int8)
    if labeling.splits == () or (path.is_file() and not labeling.splits):
        return (), none, ""
    names = []
    for shard in shards:
        *folders, file = shard.name.split("/")
        own = _SHARD.sub("", Path(file).stem)
        names.append("/".join([*folders, *([own] if own else []), file]))
    layout = layout_of(names, path, replace(labeling, class_level=None))
    note = layout.split_note.replace(" image outside", " file outside").replace(" images outside", " files outside")
    return layout.splits, layout.split, note


def missing_note(shards: Sequence[Shard]) -> str:
    """The note on parts that are missing, as in train-00000-of-00002.parquet alone."""
    stated: dict[tuple[str, int], int] = Counter()
    for shard in shards:
        stem = shard.name.removesuffix(shard.path.suffix)
        match = _SHARD.search(stem)
        if match and match["parts"]:
            stated[stem[: match.start()], int(match["parts"])] += 1
    missing = [
        f"{printable(name)} has {count} of {parts} files" for (name, parts), count in stated.items() if count < parts
    ]
    return f"{listed(missing)}; give the folder with all" if missing else ""
