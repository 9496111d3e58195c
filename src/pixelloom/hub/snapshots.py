"""Downloads of a few named files of a repository into the cache of the hub; no other file, and no code is run.

The cache names each file by the hub's hash of its content, SHA-256 for large files and Git's SHA-1 for small ones, so
that files are verified at each use. The client itself compares only the number of bytes.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pixelloom.core.errors import ModelError, UsageError
from pixelloom.hub.client import Access, api, endpoint, explained, library
from pixelloom.hub.reference import Reference

MODEL_FILES: Mapping[str, int] = {"model.safetensors": 8 << 30, "config.json": 4 << 20, "README.md": 4 << 20}
"""The files of a model, and the bytes that each may have; no other file is downloaded."""
NEEDED = ("model.safetensors", "config.json")
_log = logging.getLogger("pixelloom")


def model_folder(reference: Reference, access: Access | None = None) -> Path:
    """The folder of a model of the hub in the cache; missing files are downloaded.

    Args:
        reference: the repository and its revision.
        access: cache folder, token, and whether to use the cache alone.

    Raises:
        ModelError: for each failure of network, hub and disk; names a cached copy if there is one.
        UsageError: if ``huggingface_hub`` is not installed.
    """
    library()
    access = (access or Access()).here()
    cached = _cached(reference, access)
    if access.local_files_only:
        if cached is None:
            other = _others(reference, access)
            raise ModelError(
                f"{reference}: not in the cache, and offline mode (HF_HUB_OFFLINE, local_files_only) allows no download"
                f"{f'; {other}' if other else '; connect once, or copy the model folder and name its path'}"
            )
        return _verified(cached, reference, None)
    if cached is not None and reference.is_commit:
        return _verified(cached, reference, access)
    with explained(reference, ModelError, _others(reference, access)):
        found = api(access.token).model_info(reference.repo, revision=reference.revision, files_metadata=True)
        sizes = {file.rfilename: file.size for file in found.siblings or ()}
        check_files(reference, sizes, MODEL_FILES, NEEDED)
        folders = {download(reference, name, access).parent for name in MODEL_FILES if name in sizes}
    if len(folders) != 1:
        raise ModelError(f"{reference}: the repository changed during the download; run again")
    return _verified(folders.pop(), reference, access)


def check_files(
    reference: Reference, sizes: Mapping[str, int | None], known: Mapping[str, int], needed: tuple[str, ...]
) -> None:
    """Check the names and sizes of a repository's files before any download; logs their size.

    Raises:
        ModelError: for a missing or too large file.
    """
    if missing := [name for name in needed if name not in sizes]:
        have = ", ".join(sorted(sizes)[:5]) or "no file"
        raise ModelError(f"{reference}: not a model of Pixelloom: {' and '.join(missing)} missing; it has {have}")
    for name, most in known.items():
        if (sizes.get(name) or 0) > most:
            raise ModelError(f"{reference}: {name} has {sizes[name]:,} bytes, and {most:,} are the most")
    total = sum(sizes.get(name) or 0 for name in known)
    _log.info("%s: %s bytes in %d files", reference, f"{total:,}", sum(name in sizes for name in known))


def download(reference: Reference, name: str, access: Access, *, force: bool = False) -> Path:
    """Download a file into the cache, unless it is there. An interrupted download is continued."""
    with _bars():
        found: str = library().hf_hub_download(
            reference.repo,
            name,
            repo_type=reference.kind,
            revision=reference.revision,
            cache_dir=access.cache_dir,
            token=access.token,
            endpoint=endpoint(),
            force_download=force,
        )
    return Path(found)


@contextmanager
def _bars() -> Iterator[None]:
    """Progress bars of the client on a terminal only."""
    from huggingface_hub import utils as modules

    utils: Any = modules
    hidden = utils.are_progress_bars_disabled()
    if not (hidden or sys.stderr.isatty()):
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if not (hidden or sys.stderr.isatty()):
            utils.enable_progress_bars()


def _cached(reference: Reference, access: Access) -> Path | None:
    """The cached folder of a revision that has all needed files."""
    found: Any = None
    for name in NEEDED:
        found = library().try_to_load_from_cache(
            reference.repo, name, cache_dir=access.cache_dir, revision=reference.revision
        )
        if not isinstance(found, str):
            return None
    return Path(found).parent


def _others(reference: Reference, access: Access) -> str:
    """What the cache has instead of a download, as the end of an error."""
    if (cached := _cached(reference, access)) is not None:
        return f"a copy of commit {cached.name[:7]} is in the cache: set HF_HUB_OFFLINE=1, or name {cached}"
    from huggingface_hub import constants

    root = Path(access.cache_dir or constants.HF_HUB_CACHE)
    folders = (root / f"models--{reference.repo.replace('/', '--')}" / "snapshots").glob(f"*/{NEEDED[0]}")
    newest = max((path.parent for path in folders), key=lambda path: path.stat().st_mtime, default=None)
    return "" if newest is None else f"the cache has another revision, commit {newest.name[:7]}: name {newest}"


def _verified(folder: Path, reference: Reference, access: Access | None) -> Path:
    """The folder, once each file has the content that the hub has recorded; a damaged file is downloaded once more.

    Raises:
        ModelError: for a file that remains damaged.
    """
    for name in MODEL_FILES:
        path = folder / name
        if not path.exists() or is_intact(path):
            continue
        remedy = f"remove {path.resolve()}, and load it again with a network"
        if access is not None:
            _log.warning("%s: the cached %s is damaged; it is downloaded again", reference, name)
            fixed = Reference(reference.repo, folder.name)
            with explained(reference, ModelError):
                download(fixed, name, access, force=True)
            remedy = "the hub sends other bytes than it has recorded; try again later"
            if is_intact(path):
                continue
        raise ModelError(f"{reference}: {name} is damaged: its content does not match its hash in the cache; {remedy}")
    return folder


def is_intact(path: Path) -> bool:
    """Whether the content of a cached file has the hash that names it; True if the cache has no such names."""
    if not path.is_symlink():
        return True
    blob = path.parent / path.readlink()  # one link only: it may lead on to a store with names of another hash
    name = blob.name
    if len(name) not in (40, 64) or set(name) - set("0123456789abcdef"):
        return True
    digest = hashlib.sha256() if len(name) == 64 else hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
    with blob.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == name


def push(
    reference: Reference,
    files: Mapping[str, Path | bytes],
    *,
    private: bool | None = None,
    message: str = "Upload a Pixelloom model",
    token: str | bool | None = None,
) -> str:
    """Upload files as one commit; the repository and the branch are created if they do not exist.

    Args:
        reference: the repository and its branch.
        files: name -> path or content.
        private: whether a new repository is private; default: as the account says.
        message: of the commit.
        token: access token with write access.

    Returns:
        the address of the commit.

    Raises:
        ModelError: if the upload fails, or the repository exists and is public although ``private`` is asked for.
        UsageError: if ``huggingface_hub`` is not installed, or the revision is a commit.
    """
    hub, client = library(), api(token)
    if reference.is_commit:
        raise UsageError(f"{reference}: a commit cannot be changed; name a branch")
    if Access().here().local_files_only:
        raise ModelError(f"{reference}: offline mode is on, so nothing is uploaded; unset HF_HUB_OFFLINE")
    adds = [hub.CommitOperationAdd(name, str(a) if isinstance(a, Path) else a) for name, a in files.items()]
    with explained(reference, ModelError), _bars():
        client.create_repo(reference.repo, private=private, exist_ok=True)
        # create_repo leaves the visibility of a repository that exists, without a message.
        if private and not client.model_info(reference.repo).private:
            raise ModelError(
                f"{reference}: the repository exists and is public, so nothing is uploaded; make it private at "
                f"{endpoint()}/{reference.repo}/settings, or leave --private out"
            )
        if reference.revision is not None:
            client.create_branch(reference.repo, branch=reference.revision, exist_ok=True)
        done = client.create_commit(
            reference.repo, operations=adds, commit_message=message, revision=reference.revision
        )
    return str(done.commit_url)
