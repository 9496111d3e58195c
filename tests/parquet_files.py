"""Tiny Parquet files as the Hugging Face hub has them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def features(**named: Any) -> dict[bytes, bytes]:
    """The metadata of the library ``datasets``: ``image=None`` for an image, ``label=[names]`` for a label."""
    found = {
        name: {"_type": "Image"} if names is None else {"_type": "ClassLabel", "names": names}
        for name, names in named.items()
    }
    return {b"huggingface": json.dumps({"info": {"features": found}}).encode()}


def hub_column(contents: list[bytes | None]) -> pa.Array:
    """A column of structs {bytes, path}."""
    rows = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(contents)]
    return pa.array(rows, IMAGE)


def write(path: Path, columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, **options)
    return path


def as_bytes(columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), stream)
    return stream.getvalue()
