"""A run in one small folder, for machines that forget: what the next slice needs, in a few files of limited size.

``run.tgz.0``, ``run.tgz.1``, ... are the pieces of one archive (configuration, metrics, curves, last pictures, model,
newest checkpoint); ``parcel.json`` says how far the run is and holds the archive's SHA-256. It is written last.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from pixelloom.core.atomic import write_bytes
from pixelloom.core.errors import ModelError
from pixelloom.engine.safetensors_io import load_tensors

PIECE = 15 << 20  # bytes
PIECES = 7
LABEL, NAME = "parcel.json", "run.tgz"
_LAST_PICTURES = 3


def newest(run: Path) -> Path | None:
    """The newest checkpoint of a run folder."""
    return max((run / "checkpoints").glob("step-*.safetensors"), default=None)


def state_of(run: Path) -> dict[str, Any]:
    """How far a run is (step, images, seconds, best, best_step), from its newest checkpoint; empty without one."""
    path = newest(run)
    return load_tensors(path)[1]["state"] if path else {}


def pack(run: Path, parcel: Path) -> dict[str, Any]:
    """Write the parcel of a run folder; returns its label.

    Raises ModelError if the run has no checkpoint yet, or one that does not fit.
    """
    checkpoint = newest(run)
    if not checkpoint:
        raise ModelError(f"{run}: no checkpoint has been written yet, so there is nothing to pack")
    pictures = sorted((run / "samples").glob("*.png"))[-_LAST_PICTURES:]
    model = sorted(path for path in (run / "model").glob("*") if path.is_file())
    files = [checkpoint, run / "config.yaml", run / "metrics.jsonl", run / "curves.png", *pictures, *model]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for path in files:
            if path.exists():
                tar.add(path, path.relative_to(run).as_posix())
    content = archive.getvalue()
    pieces = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
    if len(pieces) > PIECES:
        raise ModelError(f"{run}: packed it takes {len(content)} bytes, {PIECES * PIECE} at most; copy the run folder")
    parcel.mkdir(parents=True, exist_ok=True)
    for old in parcel.glob(f"{NAME}.*"):
        old.unlink()
    for i, piece in enumerate(pieces):
        write_bytes(parcel / f"{NAME}.{i}", piece)
    label = state_of(run) | {"pieces": len(pieces), "sha256": hashlib.sha256(content).hexdigest()}
    write_bytes(parcel / LABEL, (json.dumps(label, indent=2) + "\n").encode())
    return label


def unpack(parcel: Path, run: Path) -> bool:
    """Put a parcel into a run folder, unless the folder is as far already; whether it did.

    Raises ModelError if the parcel is incomplete, damaged or hostile.
    """
    try:
        label = json.loads((parcel / LABEL).read_bytes())
        content = b"".join((parcel / f"{NAME}.{i}").read_bytes() for i in range(label["pieces"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{parcel}: no whole parcel of a run ({error}); take another copy") from error
    if hashlib.sha256(content).hexdigest() != label["sha256"]:
        raise ModelError(f"{parcel}: damaged: the pieces do not match their SHA-256; take another copy")
    if state_of(run).get("step", -1) >= label["step"]:
        return False
    run.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            tar.extractall(run, filter="data")  # refuses paths that lead out of the folder
    except tarfile.TarError as error:
        raise ModelError(f"{parcel}: not packed by this program: {error}") from error
    return True
