"""Files of published data sets: addresses, search folders, and downloads.

An interrupted download is resumed. A file receives its name only after its checksum is verified.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import TypeAlias

from pixelloom.core.atomic import flush, locked
from pixelloom.core.errors import DataError

log = logging.getLogger("pixelloom")

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called during a download with (file name, bytes received, total bytes or None)."""

_BLOCK = 1 << 18


@dataclass(frozen=True)
class Remote:
    """A published file: its name, its addresses in order of preference, and its ``sha256:...`` or ``md5:...``."""

    name: str
    urls: tuple[str, ...]
    digest: str


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_LAROCHELLE = ("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",)
_KRIZHEVSKY = ("https://www.cs.toronto.edu/~kriz/",)


def _at(bases: tuple[str, ...], name: str, digest: str) -> Remote:
    return Remote(name, tuple(base + name for base in bases), digest)


# catalog.py depends on names and order. The checksums of CIFAR-10 and Fashion-MNIST are published by their authors;
# those of MNIST are in general use for the original files.
PUBLISHED: dict[str, tuple[Remote, ...]] = {
    "mnist": (
        _at(_MNIST, "train-images-idx3-ubyte.gz", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _at(_MNIST, "train-labels-idx1-ubyte.gz", "md5:d53e105ee54ea40749a09fcbcd1e9432"),
        _at(_MNIST, "t10k-images-idx3-ubyte.gz", "md5:9fb629c4189551a2d022fa330f9573f3"),
        _at(_MNIST, "t10k-labels-idx1-ubyte.gz", "md5:ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "fashion-mnist": (
        _at(_FASHION, "train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        _at(_FASHION, "train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe"),
        _at(_FASHION, "t10k-images-idx3-ubyte.gz", "md5:bef4ecab320f06d8554ea6380940ec79"),
        _at(_FASHION, "t10k-labels-idx1-ubyte.gz", "md5:bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    "binarized-mnist": (
        _at(
            _LAROCHELLE,
            "binarized_mnist_train.amat",
            "sha256:ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        ),
        _at(
            _LAROCHELLE,
            "binarized_mnist_valid.amat",
            "sha256:1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        ),
        _at(
            _LAROCHELLE,
            "binarized_mnist_test.amat",
            "sha256:e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        ),
    ),
    "cifar10": (_at(_KRIZHEVSKY, "cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),),
}


def data_roots(root: Path | None) -> list[Path]:
    """Folders searched for ``<name>/<file>``: ``root`` (default: $PIXELLOOM_DATA), then the cache folder."""
    chosen = root or (Path(os.environ["PIXELLOOM_DATA"]) if os.environ.get("PIXELLOOM_DATA") else None)
    cache = Path(os.environ.get("PIXELLOOM_CACHE") or "~/.cache/pixelloom") / "data"
    return [path.expanduser() for path in (chosen, cache) if path is not None]


def provide(name: str, root: Path | None, complete: Callable[[Path], bool], progress: Progress | None = None) -> Path:
    """Find or download the files of a published data set.

    Args:
        name: of the data set.
        root: first folder to search, and to download to.
        complete: whether a folder has all files.
        progress: called during downloads.

    Returns:
        The first complete ``<root>/<name>`` of ``data_roots``, or the first of them after the download.

    Raises:
        DataError: if files are missing and cannot be downloaded; lists them, their addresses and their folder.
    """
    folders = [base / name for base in data_roots(root)]
    for folder in folders:
        if complete(folder):
            return folder
    folder = folders[0]
    try:
        for remote in PUBLISHED[name]:
            fetch(remote, folder / remote.name, progress)
    except DataError as error:
        sites = " or ".join(url.rpartition("/")[0] + "/" for url in PUBLISHED[name][0].urls)
        files = ", ".join(remote.name for remote in PUBLISHED[name])
        raise DataError(
            f"{name}: not found in {' or '.join(map(str, folders))}, and not downloaded: {error}\n"
            f"Put {files} (from {sites}) into {folder}, or set their root folder by --data-root or PIXELLOOM_DATA"
        ) from None
    return folder


def fetch(remote: Remote, path: Path, progress: Progress | None = None, timeout: float = 20, tries: int = 4) -> Path:
    """Download a published file to ``path`` unless it exists, with ``tries`` attempts for each address.

    An incomplete download stays in ``<path>.part``, and a later call resumes it.

    Raises:
        DataError: if no address sends the file, or PIXELLOOM_OFFLINE is set.
    """
    if path.is_file():
        return path
    if os.environ.get("PIXELLOOM_OFFLINE"):
        raise DataError("PIXELLOOM_OFFLINE is set")
    part = path.with_name(path.name + ".part")
    reasons: list[str] = []
    with _disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a+b") as file, locked(file):
            if path.is_file():  # another process was first
                part.unlink(missing_ok=True)
                return path
            for url in remote.urls:
                reason = _from_one(url, file, remote, progress, timeout, tries)
                if reason is None:
                    flush(file)
                    part.replace(path)
                    _tag(part).unlink(missing_ok=True)
                    return path
                reasons.append(f"{url}: {reason}")
            if file.seek(0, os.SEEK_END) == 0:
                part.unlink(missing_ok=True)
    raise DataError("; ".join(reasons))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A ``Progress`` that draws bars on stderr from the first received byte on."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bars = Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def show(name: str, done: int, total: int | None) -> None:
        if name not in tasks:
            bars.start()
            tasks[name] = bars.add_task(name, total=total)
        bars.update(tasks[name], completed=done, total=total)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()


def _from_one(
    url: str, file: BufferedRandom, remote: Remote, progress: Progress | None, timeout: float, tries: int
) -> str | None:
    """Download to ``file`` from one address. Returns None on success, else the reason of the failure."""
    reason = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(min(0.25 * 2**attempt, 4))
        resumed = file.seek(0, os.SEEK_END) > 0
        try:
            complete = _receive(url, file, remote.name, progress, timeout)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # range not satisfiable: the stored part is not of this file
                _restart(file)
            elif error.code < 500 and error.code not in (408, 429):
                return reason
            continue
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, socket.gaierror):
                return "no network, or unknown host"
            reason = str(cause) or type(cause).__name__
            continue
        if not complete:
            reason = "the connection was interrupted"
        elif _digest(file, remote.digest) == remote.digest:
            return None
        else:
            _restart(file)
            reason = f"the checksum differs from the published {remote.digest}"
            if not resumed:  # the file itself differs
                return reason
    return reason


def _receive(url: str, file: BufferedRandom, name: str, progress: Progress | None, timeout: float) -> bool:
    """Send one request and append the answer to ``file``, or replace it if the server's file has changed.

    Returns whether the file is complete.
    """
    have, tag = file.seek(0, os.SEEK_END), _tag(Path(file.name))
    known = tag.read_text() if have and tag.is_file() else ""
    # If-Range: if the file on the server was replaced, all of it is sent, not the rest (RFC 9110, section 13.1.5).
    headers = {"Range": f"bytes={have}-", "If-Range": known} if known else {}
    request = urllib.request.Request(url, headers={"User-Agent": "pixelloom", "Accept-Encoding": "identity", **headers})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise http.client.HTTPException("the server sends a web page instead of the file")
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not resumed:
            _restart(file)
            have = 0
            etag = answer.headers.get("ETag", "")  # a weak tag (W/) does not guarantee equal bytes
            tag.write_text(etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", ""))
            if answer.status == 206:
                raise http.client.HTTPException("the server sends another range than requested")
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        while block := answer.read(_BLOCK):
            file.write(block)
            have += len(block)
            if progress is not None:
                progress(name, have, total)
    return total is None or have == total


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _restart(file: BufferedRandom) -> None:
    file.truncate(0)
    _tag(Path(file.name)).unlink(missing_ok=True)


def _digest(file: BufferedRandom, like: str) -> str:
    kind = like.partition(":")[0]
    file.seek(0)
    return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror or error})") from None
