"""``pixelloom list FILE``: blocks and files of a ``.pxl`` file, read without its model."""

from __future__ import annotations

from pixelloom.cli.console import is_verbose, say, say_json, say_table


def list_blocks(path: str, *, as_json: bool) -> None:
    """Print blocks with their images, bytes and bits/dim, and totals; with -v or as JSON the files as well."""
    from pathlib import Path

    from pixelloom.codec.archive import entries_of
    from pixelloom.codec.layout import NO_MODEL
    from pixelloom.codec.manifest import Stored
    from pixelloom.codec.reader import PxlFile

    with PxlFile(Path(path)) as file:
        spec, header = file.spec, file.header
        lengths = [block.head_size + block.length(spec) for block in file.index.blocks]
        blocks = [
            {
                "block": block.number, "first": block.first, "images": block.n, "bytes": length,
                "bits_per_dim": 8 * length / (block.n * spec.dims), "coding": "raw" if block.raw else "model",
            }
            for block, length in zip(file.index.blocks, lengths, strict=True)
        ]  # fmt: skip
        entries = entries_of(file) if file.index.manifest < file.index.end else []
    files = [
        {"name": entry.name, "stored": isinstance(entry.kind, Stored),
         "bytes": entry.kind.size if isinstance(entry.kind, Stored) else None}
        for entry in entries
    ]  # fmt: skip
    model = None if header.identity == NO_MODEL else header.identity.hex()
    whole = 8 * file.size / (len(file) * spec.dims) if len(file) else None
    if as_json:
        say_json({
            "file": path, "bytes": file.size, "images": len(file), "channels": spec.channels, "height": spec.height,
            "width": spec.width, "levels": spec.levels, "model": model, "profile": header.profile,
            "block": header.block, "bits_per_dim": whole, "blocks": blocks, "files": files,
        })  # fmt: skip
        return
    if blocks:
        rows = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in block.values()] for block in blocks]
        say_table(["block", "first", "images", "bytes", "bits/dim", "coding"], rows)
        say("")
    stored = sum(bool(row["stored"]) for row in files)
    bits = "" if whole is None else f", {whole:.4f} bits/dim with everything"
    say(f"{len(file)} images {spec}, {stored} stored files, {file.size} bytes{bits}; model {model or 'none'}")
    if is_verbose():
        for row in files:
            say(f"{row['name']}{' (stored)' if row['stored'] else ''}")
