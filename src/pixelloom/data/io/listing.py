"""The image files of a source in a fixed order, and a function that reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from pixelloom.data.io.layout import Labeling, Layout

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """Image files in a fixed order. ``stamps`` are modification times in ns, or CRC-32 in a zip."""

    path: Path
    names: list[str]
    sizes: Indices
    stamps: Indices
    read: Callable[[int], bytes]
    """Reads file i. Raises DamageError if it is missing, modified since the scan, unreadable or too large."""
    others: list[str]
    """Names of other files."""
    notes: list[str]
    layout: bool
    """Whether folders name splits and classes; not in a text list."""
    tables: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    """Tables of labels by their relative names, and functions that read them."""
    labels: list[str] | None = None
    """The label of each file in a text list, "" without one; None if no line has a label."""
    arranged: Callable[[Labeling], Layout] | None = None
    """Splits and classes that the source states otherwise than by folders and tables."""

    def take(self, rows: Indices) -> Listing:
        """The listing of some files, in the given order."""
        at = rows.tolist()
        return replace(
            self,
            names=[self.names[i] for i in at],
            sizes=self.sizes[rows],
            stamps=self.stamps[rows],
            read=lambda i: self.read(at[i]),
            labels=None if self.labels is None else [self.labels[i] for i in at],
        )

    def other_kinds(self) -> str:
        """The numbers of other files by extension, as in ``3 .txt, 1 .md``; "" for none."""
        kinds = Counter(PurePosixPath(name).suffix.lower() or "no extension" for name in self.others)
        return ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common(5))
