"""``pixelloom list FILE``: blocks and files of a ``.pxl`` file, read without its model."""

from __future__ import annotations

from pixelloom.cli.console import is_verbose, say, say_json, say_table


def list_blocks(path: str, *, as_json: bool) -> None:
    """Print blocks with their images, bytes and bits/dim, and totals; with -v or as JSON the files as well."""
    from pathlib import Path

    from pixelloom.codec.archive import entries_of, in_blocks
    from pixelloom.codec.layout import NO_MODEL
    from pixelloom.codec.manifest import Stored
    from pixelloom.codec.reader import PxlFile

    with PxlFile(Path(path)) as file:
        spec, header = file.spec, file.header
        blocks = [
            {
                "block": block.number, "first": block.first, "images": block.n, "height": block.spec.height,
                "width": block.spec.width, "bytes": block.end - block.start,
                "bits_per_dim": 8 * (block.end - block.start) / (block.n * block.spec.dims),
                "coding": "raw" if block.raw else "model",
            }
            for block in file.index.blocks
        ]  # fmt: skip
        values = sum(block.n * block.spec.dims for block in file.index.blocks)
        sizes = {block.spec.shape[1:] for block in file.index.blocks} or {spec.shape[1:]}
        entries = entries_of(file) if file.index.manifest < file.index.end else []
    place = {id(entry): i for i, (entry, strip) in enumerate(in_blocks(entries)) if not strip}
    files = [
        {"name": entry.name, "stored": isinstance(entry.kind, Stored),
         "bytes": entry.kind.size if isinstance(entry.kind, Stored) else None, "image": place.get(id(entry))}
        for entry in entries
    ]  # fmt: skip
    model = None if header.identity == NO_MODEL else header.identity.hex()
    whole = 8 * file.size / values if values else None
    height, width = next(iter(sizes)) if len(sizes) == 1 else (None, None)
    if as_json:
        say_json({
            "file": path, "bytes": file.size, "images": len(file), "channels": spec.channels, "height": height,
            "width": width, "levels": spec.levels, "model": model, "profile": header.profile,
            "block": header.block, "bits_per_dim": whole, "blocks": blocks, "files": files,
        })  # fmt: skip
        return
    if blocks:
        rows = [
            [str(block["block"]), str(block["first"]), str(block["images"]), f"{block['height']}x{block['width']}",
             str(block["bytes"]), f"{block['bits_per_dim']:.4f}", str(block["coding"])]
            for block in blocks
        ]  # fmt: skip
        say_table(["block", "first", "images", "pixels", "bytes", "bits/dim", "coding"], rows)
        say("")
    stored = sum(bool(row["stored"]) for row in files)
    bits = "" if whole is None else f", {whole:.4f} bits/dim with everything"
    kind = f"{spec.channels}x{height}x{width}" if height else f"of {len(sizes)} sizes, {spec.channels} channels"
    say(
        f"{len(file)} images {kind} with {spec.levels} levels, {stored} stored files, {file.size} bytes{bits}; "
        f"model {model or 'none'}"
    )
    if is_verbose():
        for row in files:
            say(f"{row['name']}{' (stored)' if row['stored'] else ''}")
