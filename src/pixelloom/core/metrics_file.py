"""The reader of ``metrics.jsonl``, which a run appends to: damaged lines are skipped and counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

_LARGEST = 1 << 53
_SPLITS = ("train", "val")


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read the metrics of a run.

    Returns:
        The lines ``{"split": "train" | "val", "images": number, "step": int (may be absent), ...}``, and the number of
        lines that are not of this form, such as the last one of a killed run. Other values are not checked.

    Raises:
        OSError: if the file cannot be read.
    """
    texts = [text for text in path.read_bytes().split(b"\n") if text.strip()]
    lines = [line for line in map(_line, texts) if line is not None]
    return lines, len(texts) - len(lines)


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):  # also of an integer with thousands of digits
        return None
    if not isinstance(line, dict) or line.get("split") not in _SPLITS:
        return None
    images, step = line.get("images"), line.get("step", 0)
    if isinstance(images, bool) or not isinstance(images, int | float) or not _counts(images):
        return None
    return line if type(step) is int and _counts(step) else None


def _counts(value: float) -> bool:
    return bool(0 <= value < _LARGEST and (isinstance(value, int) or math.isfinite(value)))
