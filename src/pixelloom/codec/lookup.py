"""Finding the model of a compressed file: by name, by path, or by the identity that the file names."""

from __future__ import annotations

from pathlib import Path

from pixelloom.codec.model import CodecModel
from pixelloom.codec.protocols import BlockCodec
from pixelloom.core.errors import CodecError, ModelError, PixelloomError
from pixelloom.data.io.reading import printable
from pixelloom.engine.safetensors_io import load_meta
from pixelloom.models import pretrained

SUFFIX = ".safetensors"
"""Of the files of exported models."""
EXPORT = f"codec{SUFFIX}"
"""Name of the export in a model folder."""
MOST = 1024
"""Files beside a compressed one, or in a folder, whose header is read to find an export."""


def packaged() -> dict[str, Path]:
    """Exported models of the package, by name."""
    paths = {name: pretrained.folder(name) / EXPORT for name in pretrained.MODELS}
    return {name: path for name, path in paths.items() if path.is_file()}


def load(path: Path) -> BlockCodec:
    """Load an exported model.

    Raises:
        ModelError: if it is missing or damaged.
    """
    return CodecModel.load(path)


def find_codec(model: str | Path | None, identity: bytes | None, beside: Path | None = None) -> BlockCodec:
    """The exported model of a name or path, or of an identity.

    Args:
        model: name of a packaged model, or path of an export; None looks for the identity among the packaged models
            and the exports beside the file.
        identity: SHA-256 that the model must have; None takes any.
        beside: path of the compressed file.

    Raises:
        ModelError: if the named model is missing or damaged.
        CodecError: if none has the identity; names it and says what to do.
    """
    file = "" if beside is None else f"{printable(str(beside))}: "
    if model is not None:
        found = load(export_of(model))
        if identity is not None and found.identity != identity:
            raise CodecError(
                f"{file}was compressed by the model {identity.hex()}, {model} is {found.identity.hex()}; "
                "give the export that the file was compressed with, --model PATH"
            )
        return found
    if identity is None:
        raise ModelError(f"--model: give the name of a packaged model ({names()}) or the path of an export")
    damaged = ""
    paths, left_out = _candidates(beside)
    for path in paths:
        if _identity(path) == identity.hex():
            try:
                return load(path)
            except ModelError as error:  # another copy may be intact
                damaged = f" ({error})"
    place = "" if beside is None else " or beside the file"
    if left_out:
        place += f" (the first {MOST} of {MOST + left_out} *{SUFFIX} there)"
    raise CodecError(
        f"{file}needs the model {identity.hex()}, which is not among the packaged ones ({names()}){place}{damaged}; "
        "give the export that the file was compressed with, --model PATH"
    )


def export_of(model: str | Path) -> Path:
    """The path of an export: a packaged name, a file, or a folder that holds one.

    Raises:
        ModelError: if there is none.
    """
    if str(model) in packaged():
        return packaged()[str(model)]
    path = Path(model)
    if path.is_dir():
        files = sorted((*path.glob(f"*{SUFFIX}"), *path.glob(f"*/*{SUFFIX}")))  # of a run, also in its model folder
        inside = [file for file in files[:MOST] if _identity(file)]
        if len(inside) == 1 and len(files) <= MOST:
            return inside[0]
        among = f" among the first {MOST} of {len(files)} *{SUFFIX}" if len(files) > MOST else ""
        raise ModelError(f"{path}: holds {len(inside)} exports{among}, not one; name the file")
    if path.is_file():
        return path
    raise ModelError(
        f"{path}: is no export of a model and no packaged one ({names()}); "
        f"`pixelloom export MODEL --codec FILE` makes one"
    )


def names() -> str:
    """Names of the packaged models, for messages."""
    return ", ".join(packaged()) or "none"


def _identity(path: Path) -> str | None:
    """The identity that an export claims; None for other files. Its tensors are not read."""
    try:
        found = load_meta(path).get("identity")
    except (PixelloomError, OSError):
        return None
    return found if isinstance(found, str) else None


def _candidates(beside: Path | None) -> tuple[list[Path], int]:
    """Files that may be the export of a compressed file, and the number of those that are left out."""
    found = list(packaged().values())
    if beside is None:
        return found, 0
    here = beside.resolve().parent
    files = sorted((*here.glob(f"*{SUFFIX}"), *here.glob(f"*/*{SUFFIX}")))
    return found + files[:MOST], max(0, len(files) - MOST)
