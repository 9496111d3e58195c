"""Messages between a process and those that it starts: pickles with a length, on pipes that no other process has.

Objects that both sides keep, such as models, are sent once; later messages name them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO

_LENGTH = 8  # bytes


class _Pickler(pickle.Pickler):
    """Writes the numbers of objects that the other side has."""

    def __init__(self, file: io.BytesIO, kept: Mapping[int, int]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._kept = kept

    def persistent_id(self, obj: object) -> int | None:
        return self._kept.get(id(obj))


class _Unpickler(pickle.Unpickler):
    """Finds objects by their numbers."""

    def __init__(self, content: bytes, objects: Mapping[int, Any]) -> None:
        super().__init__(io.BytesIO(content))
        self._objects = objects

    def persistent_load(self, pid: int) -> Any:
        return self._objects[pid]


def dump(value: object, kept: Mapping[int, int] | None = None) -> bytes:
    """A value as bytes; ``kept`` maps the identity of objects to the numbers that the other side has them by."""
    file = io.BytesIO()
    _Pickler(file, kept or {}).dump(value)
    return file.getvalue()


def load(content: bytes, objects: Mapping[int, Any]) -> Any:
    """The value of bytes written by :func:`dump`, with ``objects`` in place of their numbers."""
    return _Unpickler(content, objects).load()


def write(file: BinaryIO, content: bytes) -> None:
    """Write a message."""
    file.write(len(content).to_bytes(_LENGTH, "little") + content)
    file.flush()


def read(file: BinaryIO) -> bytes | None:
    """Read a message; None at the end of the file, also within a message."""
    length = file.read(_LENGTH)
    if len(length) < _LENGTH:
        return None
    size = int.from_bytes(length, "little")
    content = file.read(size)
    return content if len(content) == size else None
