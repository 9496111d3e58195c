"""``pixelloom compress``: image files into one ``.pxl`` file, without loss."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from cyclopts import Parameter
from cyclopts.validators import Number

from pixelloom.cli import outputs
from pixelloom.cli.console import Meter, memory, say, say_json
from pixelloom.cli.options import Flag, number, whole_number
from pixelloom.core.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from pixelloom.codec.archive import Compressed, Source
    from pixelloom.codec.model import CodecModel
    from pixelloom.codec.protocols import BlockCodec

_log = logging.getLogger("pixelloom")
STREAM = "-"
"""Standard input or output."""
SUFFIX = ".pxl"
Named = Annotated[str, Parameter(allow_leading_hyphen=True)]
Out = Annotated[str | None, Parameter(name=("--out", "-o"), allow_leading_hyphen=True)]
Force = Annotated[Flag, Parameter(name=("--force", "-f"))]
Keep = Annotated[Flag, Parameter(name=("--keep", "-k"))]


@Parameter(name="*")
@dataclass(frozen=True)
class CompressOptions:
    """Output, model and checks of `compress`."""

    out: Out = None
    """File to write, or - for standard output; default, for a single argument: its name with .pxl."""
    model: str | None = None
    """Exported model: path, or name of a packaged one. Default: the packaged one that takes most of 16
    images."""
    train_minutes: Annotated[float | None, Parameter(validator=Number(gt=0), converter=number)] = None
    """Train a model on the images for this long, and write its export beside the file, as NAME.safetensors."""
    block: Annotated[int, Parameter(validator=Number(gte=1, lte=4096), converter=whole_number)] = 64
    """Images a block: larger blocks are smaller, smaller ones are faster to read in the middle."""
    no_verify: Flag = False
    """Do not decode and compare what was written."""
    keep: Keep = False
    """Keep the source files, which is the default."""
    rm: Flag = False
    """Remove the source files once the file is written and verified."""
    force: Force = False
    """Overwrite an existing file."""
    json: Flag = False
    """Print one JSON object."""


DEFAULT = CompressOptions()


def compress(*images: Named, options: CompressOptions = DEFAULT) -> None:
    """Compress images without loss by a model, into one .pxl file that gives the same names, modes and pixels.

    Images that the model cannot take (alpha, 16 bit, another size than those of a model of one size) are stored as they
    are, and named with -v.

    Args:
        images: Image files or folders of them; - for one image from standard input.
        options: Output, model and checks.
    """
    from pixelloom.codec.archive import check_written, compress_files
    from pixelloom.core.atomic import whole_file

    check_names(images, [field.name for field in fields(options)])
    check_removal(options.keep, options.rm)
    if options.rm and (options.no_verify or STREAM in images or options.out == STREAM):
        raise UsageError("--rm: removes sources of verified files only; leave out --no-verify and -")
    if not images:
        raise UsageError("IMAGES: name image files, a folder of them, or - for standard input")
    out = _target(images, options)
    files = _sources(images)
    if out is not None and out.resolve() in {source.path.resolve() for source in files if source.content is None}:
        raise UsageError(f"{out}: is one of the images; choose another name")
    export = _export_of(out, options)
    own = None if export is None else _trained(export, files, options)
    codec = own if own is not None else _model(options.model, files)
    before = {source.path: _state(source.path) for source in files} if options.rm else {}
    with signals(), Meter(f"compressing {len(files)} files", len(files)) as meter:
        given = {"block": options.block, "verify": not options.no_verify, "progress": meter.show}
        if out is None:
            done = compress_files(files, codec, sys.stdout.buffer, **given)  # type: ignore[arg-type]
        else:
            outputs.probe(out.parent)
            with outputs.storing(out), whole_file(out) as file:
                done = compress_files(files, codec, file, **given)  # type: ignore[arg-type]
                if not options.no_verify:
                    check_written(file, done, str(out))
                if own is not None and export is not None:  # an earlier file keeps its model until this one is whole
                    own.save(export)
    for path, state in before.items():
        if _state(path) == state:
            path.unlink()
        else:
            _log.warning("%s: has changed meanwhile, and is kept", path)
    _report(done, codec, out, export, as_json=options.json)


def check_names(names: Sequence[str], options: Sequence[str]) -> None:
    """Raises UsageError for a name that begins with -- and is no file: a typo in an option, most likely."""
    for name in names:
        if name.startswith("--") and not Path(name).exists():
            word = name.split("=")[0]
            hint = did_you_mean(word, [f"--{option.replace('_', '-')}" for option in options])
            raise UsageError(f"{word}: neither an option nor a file.{hint}")


def _state(path: Path) -> tuple[int, int]:
    """Time of the last change and size of a file."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def check_removal(keep: bool, rm: bool) -> None:
    """Raises UsageError for both of --keep and --rm."""
    if keep and rm:
        raise UsageError("--keep, --rm: choose one")


@contextmanager
def signals() -> Iterator[None]:
    """A context that SIGTERM, SIGHUP and SIGINT leave by an exception, so that unfinished files are removed.

    Raises:
        Interrupted: with the exit code of the signal.
    """
    import signal

    from pixelloom.engine.signals import Interrupted, Signals, Stopped

    with Signals() as received:
        try:
            with received.interruptible():
                yield
        except Stopped:
            name = signal.Signals(received.received).name
            raise Interrupted(f"stopped by {name}; nothing is written", 128 + received.received) from None


def _target(images: Sequence[str], options: CompressOptions) -> Path | None:
    """The file to write; None for standard output."""
    if options.out == STREAM:
        if options.json:
            raise UsageError("--json: standard output is the compressed file; write to a file with -o FILE")
        no_terminal(sys.stdout.buffer)
        return None
    if options.out is None and (len(images) != 1 or images[0] == STREAM):
        raise UsageError("--out: name the file to write, such as -o images.pxl")
    out = Path(options.out) if options.out is not None else Path(images[0].rstrip("/") + SUFFIX)
    if options.out is None and out.name in (SUFFIX, "." + SUFFIX, ".." + SUFFIX):
        raise UsageError("--out: name the file to write, such as -o images.pxl")
    outputs.check_file(out, options.force)
    return out


def no_terminal(stream: BinaryIO) -> None:
    """Raises UsageError if bytes would go to a terminal."""
    if stream.isatty():
        raise UsageError("-o -: standard output is a terminal; redirect it, or write to a file with -o FILE")


def _sources(images: Sequence[str]) -> list[Source]:
    """The files to compress."""
    from pixelloom.codec.archive import Source, sources

    if STREAM in images:
        if len(images) > 1:
            raise UsageError("IMAGES: - is a single image from standard input; leave out the other names")
        return [Source(f"stdin{_suffix(data := _stdin())}", Path(STREAM), data)]
    found, others = sources([Path(image) for image in images])
    if others:
        _log.warning("%d other files are left out", others)
    return found


def _stdin() -> bytes:
    from pixelloom.data.io.decode import MAX_BYTES

    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if not data or len(data) > MAX_BYTES:
        raise DataError(f"standard input: {'is empty' if not data else f'has more than {MAX_BYTES} bytes'}; "
                        "give one image")  # fmt: skip
    return data


def _suffix(data: bytes) -> str:
    """The extension of an image file's content; .bin if it is none."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return {"JPEG": ".jpg", "PPM": ".pnm"}.get(str(image.format), f".{str(image.format).lower()}")
    except (OSError, SyntaxError, ValueError):
        return ".bin"


def _model(name: str | None, files: Sequence[Source]) -> BlockCodec:
    from pixelloom.codec.choice import choose
    from pixelloom.codec.lookup import find_codec

    if name is not None:
        return find_codec(name, None)
    chosen, codec = choose([source.read() for source in files[:16]])
    _log.info("model: %s", chosen)
    return codec


def _export_of(out: Path | None, options: CompressOptions) -> Path | None:
    """The export that --train-minutes writes beside the file; None without it."""
    from pixelloom.codec.lookup import SUFFIX as EXPORT_SUFFIX

    if options.train_minutes is None:
        return None
    if out is None or options.model is not None:
        raise UsageError("--train-minutes: writes a model beside the file; use it without --model, and with -o FILE")
    export = out.with_suffix(EXPORT_SUFFIX)
    if export.exists() and not options.force:
        raise UsageError(f"{export}: exists already; choose another --out, or add --force")
    return export


def _trained(export: Path, files: Sequence[Source], options: CompressOptions) -> CodecModel:
    from pixelloom.runs.own_codec import train_codec

    assert options.train_minutes is not None
    outputs.probe(export.parent)
    return train_codec((source.read() for source in files), options.train_minutes)


def _report(done: Compressed, codec: BlockCodec, out: Path | None, export: Path | None, *, as_json: bool) -> None:
    written, images = done.written, done.written.images
    bits = 8 * written.payload / written.values if images else None
    for name, reason in done.stored:
        _log.debug("stored as it is: %s (%s)", name, reason)
    if done.stored:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in done.reasons()[:5])
        _log.warning("%d of %d files are stored as they are: %s", len(done.stored), len(done.stored) + images, reasons)
    _log.info(
        "%d images in %d blocks%s; %s of files became %s; the model %s is needed to read them",
        images, written.blocks, "" if bits is None else f", {bits:.4f} bits/dim", memory(done.source_bytes),
        memory(written.size), codec.identity.hex()[:16],
    )  # fmt: skip
    whole = written.size + (0 if export is None else export.stat().st_size)
    if export is not None:
        _log.info("with the model %s: %s, which both sides need", export, memory(whole))
    if not as_json:
        if out is not None:
            say(str(out))
        return
    say_json({
        "file": str(out), "bytes": written.size, "images": images, "blocks": written.blocks, "raw_blocks": written.raw,
        "payload_bytes": written.payload, "bits_per_dim": bits, "source_bytes": done.source_bytes,
        "stored": [{"name": name, "reason": reason} for name, reason in done.stored],
        "stored_bytes": done.stored_bytes, "bytes_with_model": None if export is None else whole,
        "model": codec.identity.hex(), "profile": codec.profile,
    })  # fmt: skip
