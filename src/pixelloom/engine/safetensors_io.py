"""The file format of models and checkpoints: safetensors with a checksum, written atomically.

A file is plain safetensors with two entries in its ``__metadata__``: ``pixelloom``, JSON with the caller's metadata,
and ``sha256``, a digest of that JSON and of the name, dtype, shape and bytes of every tensor. The digest detects
flipped bits, which safetensors does not. Nothing is unpickled.

Weights may be stored in float16, half the size (``storage``); they are loaded as float32.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pixelloom.core.atomic import write_bytes
from pixelloom.core.errors import ModelError, shortened

FORMAT = 2
NEEDS = "0.2"  # first version that reads FORMAT; stored in each file, so that older versions can name it
LARGEST_HEADER = 100_000_000  # bytes; the limit of safetensors
HALF = "float16"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, half: bool = False) -> str:
    """Write dense tensors (any device, contiguous or not) and JSON-serializable ``meta`` to ``path``.

    Args:
        path: file to write.
        tensors: name -> tensor.
        meta: what else the file has.
        half: store float32 tensors as float16; values above 65,504 become infinite, and 11 bits are kept of the others.

    Returns:
        The SHA-256 of the contents.

    Raises:
        ModelError: if the disk is full or the folder cannot be written; an existing file is then unchanged.
    """
    # Copies, since safetensors accepts neither non-contiguous tensors nor shared memory (tied weights).
    kinds = {torch.float32: torch.float16} if half else {}
    whole = {k: torch.empty(t.shape, dtype=kinds.get(t.dtype, t.dtype)).copy_(t.detach()) for k, t in tensors.items()}
    storage = {"storage": HALF} if half else {}
    text = json.dumps({"format": FORMAT, "needs": NEEDS, "meta": dict(meta), **storage}, sort_keys=True)
    sha256 = _digest(text, whole)
    write_bytes(path, safetensors.torch.save(whole, {"pixelloom": text, "sha256": sha256}))
    return sha256


def save_described(
    path: Path, readable: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, half: bool = False
) -> str:
    """Call :func:`save_tensors`, and write ``meta`` and the digest to a JSON file ``readable``.

    Raises:
        ModelError: if the folder cannot be created or a file cannot be written. Each file is replaced whole or not at
            all, the tensors first.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"{path.parent}: cannot be created: {error.strerror}") from error
    sha256 = save_tensors(path, tensors, meta, half=half)
    write_bytes(readable, (json.dumps(dict(meta) | {"sha256": sha256}, indent=2) + "\n").encode())
    return sha256


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors (on the CPU) and metadata of a file written by :func:`save_tensors`.

    Raises:
        ModelError: if the file is missing, truncated, damaged, not of this format, or of another version of it.
    """
    content = _read(path)
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that this version of torch lacks
        why = shortened(str(error), 200)
        raise ModelError(f"{path}: damaged or not a model file ({why}); use another copy.") from None
    stored, meta = _metadata(path, content[8 : 8 + int.from_bytes(content[:8], "little")])
    if _digest(stored["pixelloom"], tensors) != stored["sha256"]:
        raise ModelError(f"{path}: damaged: its contents do not match their SHA-256; use another copy.")
    if json.loads(stored["pixelloom"]).get("storage") == HALF:
        tensors = {k: t.float() if t.dtype == torch.float16 else t for k, t in tensors.items()}
    return tensors, meta


def load_meta(path: Path) -> dict[str, Any]:
    """Return the metadata of a file; its tensors are not read, so its digest is not checked.

    Raises:
        ModelError: as :func:`load_tensors`.
    """
    return _metadata(path, _read(path, header_only=True)[8:])[1]


def digest_of(path: Path) -> str:
    """Return the SHA-256 that a file claims; it is not checked.

    Raises:
        ModelError: as :func:`load_tensors`.
    """
    return _metadata(path, _read(path, header_only=True)[8:])[0]["sha256"]


def _metadata(path: Path, header: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the entries of a safetensors header, and the metadata of its caller."""
    try:
        stored = json.loads(header).get("__metadata__") or {}
    except (ValueError, AttributeError, RecursionError):
        raise ModelError(f"{path}: damaged or not a model file; use another copy.") from None
    if not isinstance(stored, dict) or not {"pixelloom", "sha256"} <= stored.keys():
        raise ModelError(f"{path}: a safetensors file, but not one of Pixelloom: it has no checksum.")
    try:
        envelope = json.loads(stored["pixelloom"])
        version, needs = int(envelope["format"]), str(envelope["needs"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise ModelError(f"{path}: damaged: its metadata cannot be read; use another copy.") from None
    if version < FORMAT:
        raise ModelError(f"{path}: written by Pixelloom 0.1, whose names differ; train it again, or read it with 0.1.")
    if version > FORMAT:  # before the digest, which a newer format may compute in another way
        raise ModelError(f"{path}: written in format {version}, which needs pixelloom >= {needs}; upgrade to read it.")
    if not isinstance(meta := envelope.get("meta"), dict):
        raise ModelError(f"{path}: damaged: its metadata cannot be read; use another copy.")
    return stored, meta


def check_keys(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Check the names, shapes and dtypes of the tensors of a file.

    Raises:
        ModelError: with the first five differences.
    """
    wrong = []
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            wrong.append(f"{shortened(name)} is missing")
        elif name not in expected:
            wrong.append(f"{shortened(name)} is not part of this model")
        elif (a := _kind(found[name])) != (b := _kind(expected[name])):
            wrong.append(f"{shortened(name)} is {a}, needed {b}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ModelError(f"{path}: made by another model: {'; '.join(wrong[:5])}{more}.")


def _read(path: Path, *, header_only: bool = False) -> bytes:
    """Return the bytes of a file, or those of its header with its length, after a check of the first ones."""
    try:
        with path.open("rb") as file:
            start = file.read(256)
            if not start:
                raise ModelError(f"{path}: empty, 0 bytes; use another copy.")
            if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
                raise ModelError(f"{path}: a web page, not a model; download the file itself.")
            header = int.from_bytes(start[:8], "little")
            if header > min(LARGEST_HEADER, os.fstat(file.fileno()).st_size - 8):
                raise ModelError(f"{path}: truncated, damaged or not a model file (a header of {header} bytes).")
            if header_only:
                return (start + file.read(max(0, 8 + header - len(start))))[: 8 + header]
            return start + file.read()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}.") from error


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the metadata and of name, dtype, shape and bytes of each tensor, sorted by name."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
