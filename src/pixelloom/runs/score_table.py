"""The table of scores as CSV, appended batch by batch, so that an interrupted command continues after its last batch.

``scores.csv.part`` begins with a line of the key of the command (weights, calibration, images); another key begins
again. The complete table is written to ``scores.csv`` at once, without that line.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from pixelloom.core.atomic import cannot_write, write_bytes

COLUMNS = ("image", "nats", "bits_per_dim", "coded_bits_per_dim", "background_bits_per_dim", "score", "p_value", "flag")
_log = logging.getLogger("pixelloom")


class Row(NamedTuple):
    """The scores of one image; all numbers are None for a file that cannot be read, ``background`` without one."""

    image: str
    nats: float | None = None
    bits: float | None = None
    coded: float | None = None
    background: float | None = None
    score: float | None = None
    p_value: float | None = None
    flag: bool = False

    def cells(self) -> list[str]:
        """The row as texts; numbers keep all digits."""
        numbers = ["" if value is None else repr(value) for value in self[1:7]]
        return [self.image, *numbers, str(int(self.flag))]

    @classmethod
    def of(cls, cells: list[str]) -> Self:
        """The row of texts; raises ValueError for a damaged one."""
        if len(cells) != len(COLUMNS) or cells[-1] not in ("0", "1"):
            raise ValueError("not a row of scores")
        return cls._make([cells[0], *(float(cell) if cell else None for cell in cells[1:7]), cells[-1] == "1"])


class ScoreTable:
    """A table that is being written; a context manager.

    Args:
        path: the CSV file.
        key: what the rows depend on.

    Attributes:
        rows: the rows so far, including those of an interrupted command with the same key.

    Raises:
        ModelError: if it cannot be written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self._first = f"# {key}\n"
        self.rows = self._kept()
        if self.rows:
            _log.info("%s: continuing after %d images", self.part, len(self.rows))
        try:
            write_bytes(self.part, (self._first + _lines(row.cells() for row in self.rows)).encode(errors=_ERRORS))
            self._file = self.part.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(self.part, 0, error) from error

    def _kept(self) -> list[Row]:
        """The complete rows of an interrupted command."""
        try:
            text = self.part.read_bytes().decode(errors=_ERRORS)
        except OSError:
            return []
        if not text.startswith(self._first):
            _log.warning("%s: is of another model, calibration or set of images; starting again", self.part)
            return []
        found: list[Row] = []
        lines = text[len(self._first) : text.rfind("\n") + 1].splitlines()
        for cells in csv.reader(lines):
            try:
                found.append(Row.of(cells))
            except ValueError:
                break
        return found

    def add(self, rows: list[Row]) -> None:
        """Append the rows of a batch."""
        content = _lines(row.cells() for row in rows).encode(errors=_ERRORS)
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            raise cannot_write(self.part, len(content), error) from error
        self.rows += rows

    def finish(self) -> None:
        """Write the complete table."""
        text = _lines([list(COLUMNS), *(row.cells() for row in self.rows)])
        write_bytes(self.path, text.encode(errors=_ERRORS))
        self.part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self.finish()


_ERRORS = "surrogateescape"  # keeps file names that are not UTF-8


def _lines(rows: Iterable[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def in_a_line(name: str) -> str:
    """A file name without line breaks."""
    return name.replace("\r", "\\r").replace("\n", "\\n")
