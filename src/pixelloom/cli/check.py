"""``pixelloom test``: whether ``.pxl`` files are intact."""

from __future__ import annotations

import logging

from pixelloom.cli.compress import Named, check_names
from pixelloom.cli.console import say, say_json
from pixelloom.cli.decompress import opened
from pixelloom.cli.options import Flag
from pixelloom.core.errors import CodecError, DataError, UsageError

_log = logging.getLogger("pixelloom")


def check(*files: Named, model: str | None = None, json: Flag = False) -> None:
    """Decode .pxl files and compare all checksums, without writing anything.

    Args:
        files: Files of `pixelloom compress`; - for standard input.
        model: Exported model: path, or name of a packaged one. Default: as in decompress.
        json: Print one JSON object: a list of files.
    """
    if not files:
        raise UsageError("FILES: name .pxl files")
    check_names(files, ["model", "json"])
    rows: list[dict[str, object]] = []
    errors: list[CodecError | DataError] = []
    for file in files:
        images = stored = 0
        error: CodecError | DataError | None = None
        try:
            images, stored = _tested(file, model)
        except (CodecError, DataError) as found:
            error = found
            errors.append(found)
        rows.append({"file": file, "intact": error is None, "images": images, "stored": stored,
                     "error": None if error is None else str(error)})  # fmt: skip
        if not json and error is None:
            say(f"{file}: intact, {images} images" + (f", {stored} stored files" if stored else ""))
    if json:
        say_json(rows)
    for further in errors[:-1]:
        _log.error("%s", further)
    if errors:
        raise errors[-1]


def _tested(file: str, model: str | None) -> tuple[int, int]:
    """Number of images in blocks, and of stored files.

    Raises:
        CodecError: naming all that is damaged.
    """
    from pixelloom.codec.archive import Extracted, contents, entries_of, intact

    try:
        with opened(file, model) as found:
            entries = entries_of(found) if found.index.manifest < found.index.end else []
            if not entries:
                return sum(map(len, found.blocks())), 0
            return len(found), sum(1 for _ in contents(found, entries)) - len(found)
    except CodecError as error:
        if file == "-":
            raise
        done = Extracted()
        with opened(file, model, salvage=True) as found:
            for _ in intact(found, done):
                pass
        if len(done.lost) < 2:
            raise
        raise CodecError(f"{error}. Lost in all: {'; '.join(done.lost)}") from error
