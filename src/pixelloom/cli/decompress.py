"""``pixelloom decompress``: the images of a ``.pxl`` file, with the same names, modes and pixels."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from pixelloom.cli import outputs
from pixelloom.cli.compress import (
    STREAM,
    SUFFIX,
    Force,
    Keep,
    Named,
    Out,
    check_names,
    check_removal,
    no_terminal,
    signals,
)
from pixelloom.cli.console import say, say_json
from pixelloom.cli.options import Flag
from pixelloom.core.errors import CodecError, UsageError

if TYPE_CHECKING:
    from pixelloom.codec.protocols import BlockCodec
    from pixelloom.codec.reader import PxlFile

_log = logging.getLogger("pixelloom")
_SHOWN = 5  # losses in an error


@Parameter(name="*")
@dataclass(frozen=True)
class DecompressOptions:
    """Output, model and salvage of `decompress`."""

    out: Out = None
    """Folder to write to, or - for standard output of a single image; default: the name of the file without .pxl."""
    model: str | None = None
    """Exported model: path, or name of a packaged one. Default: the one that the file names, among the packaged models
    and the exports beside the file."""
    salvage: Flag = False
    """Write the images of intact blocks of a damaged file, and name what is lost; exit code 5 if anything is."""
    keep: Keep = False
    """Keep the compressed file, which is the default."""
    rm: Flag = False
    """Remove the compressed file once all images are written."""
    force: Force = False
    """Overwrite existing files."""
    json: Flag = False
    """Print one JSON object."""


DEFAULT = DecompressOptions()


def decompress(file: Named, /, *, options: DecompressOptions = DEFAULT) -> None:
    """Write the images of a .pxl file under their names. Of a damaged file nothing is written without --salvage.

    Args:
        file: File of `pixelloom compress`; - for standard input.
        options: Output, model and salvage.
    """
    from pixelloom.codec.archive import extract

    check_names([file], [field.name for field in fields(options)])
    check_removal(options.keep, options.rm)
    if options.rm and STREAM in (file, options.out):
        raise UsageError("--rm: is for files, not for standard input or output")
    with opened(file, options.model, salvage=options.salvage) as found:
        if options.out == STREAM:
            _to_stdout(found, options)
            return
        out = _folder(file, options.out)
        outputs.check_place(out)
        with signals(), outputs.storing(out):
            done = extract(found, out, force=options.force, salvage=options.salvage)
    if options.json:
        say_json({"folder": str(out), "files": done.files, "lost": done.lost})
    else:
        say(str(out))
    _log.info("%d files", done.files)
    if done.lost:
        more = f" and {len(done.lost) - _SHOWN} more" if len(done.lost) > _SHOWN else ""
        raise CodecError(
            f"{file}: {done.files} files are saved, lost are: {'; '.join(done.lost[:_SHOWN])}{more}; copy or download "
            "the file again for these"
        )
    if options.rm:
        Path(file).unlink()


@contextmanager
def opened(file: str, model: str | None, *, salvage: bool = False) -> Iterator[PxlFile]:
    """Open a compressed file, or standard input."""
    from pixelloom.codec.reader import PxlFile

    if file != STREAM:
        with PxlFile(Path(file), partial(_codec, model, Path(file)), salvage=salvage) as found:
            yield found
        return
    with tempfile.TemporaryFile() as copy:  # a pipe cannot seek
        shutil.copyfileobj(sys.stdin.buffer, copy)
        with PxlFile(copy, partial(_codec, model, None), name="standard input", salvage=salvage) as found:
            yield found


def _codec(model: str | None, beside: Path | None, identity: bytes) -> BlockCodec:
    from pixelloom.codec.lookup import find_codec

    return find_codec(model, identity, beside)


def _folder(file: str, out: str | None) -> Path:
    if out is not None:
        return Path(out)
    path = Path(file)
    if path.suffix != SUFFIX:
        raise UsageError(f"--out: name the folder to write to, as {file} does not end in {SUFFIX}")
    return path.with_suffix("")


def _to_stdout(file: PxlFile, options: DecompressOptions) -> None:
    """Write a single image to standard output."""
    from pixelloom.codec.archive import contents, entries_of

    if options.json or options.salvage:
        raise UsageError("-o -: standard output is the image; leave out --json and --salvage")
    entries = entries_of(file)
    if len(entries) != 1:
        raise UsageError(f"-o -: writes a single image, the file holds {len(entries)}; name a folder with -o FOLDER")
    no_terminal(sys.stdout.buffer)
    for _, data in list(contents(file, entries)):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
