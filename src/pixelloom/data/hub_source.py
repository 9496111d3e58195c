"""The path of a configuration's images; a data set ``hf:USER/NAME`` of the Hugging Face hub becomes a folder of links.

The folder has one folder for each split, so that it is read as a user's folder of Parquet files. The splits of the hub
are mapped by name: train, validation (val, valid, dev) and test. Others are left out unless ``--splits`` names them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from functools import lru_cache
from pathlib import Path

from pixelloom.core.errors import DataError
from pixelloom.data.config import DataConfig
from pixelloom.data.io.cache import cache_folder
from pixelloom.data.io.folders import expanded
from pixelloom.data.io.reading import listed
from pixelloom.data.io.split_names import split_of
from pixelloom.hub.client import Access, endpoint, offline
from pixelloom.hub.datasets import Files, downloaded, parquet_files
from pixelloom.hub.reference import Reference, is_reference

log = logging.getLogger("pixelloom")


def source_path(config: DataConfig) -> Path:
    """The path of the images of a configuration; a data set of the hub is downloaded first.

    Raises:
        DataError: if a data set of the hub cannot be read, or its splits are unclear.
    """
    if not is_reference(config.source):
        return expanded(Path(config.source))
    given = config.labeling.splits
    folders = None if given is None else tuple(folder for folder, _ in given)
    return _provided(config.source, folders, cache_folder(config.cache), endpoint(), offline())


@lru_cache(maxsize=16)  # a run asks several times, and reads one commit
def _provided(source: str, folders: tuple[str, ...] | None, cache: Path, _: str, __: bool) -> Path:
    """The folder of links.

    Args:
        source: the data set.
        folders: splits of the hub that are wanted; () for all as one; None for those of known names.
        cache: folder for the links.
    """
    reference, access = Reference.parse(source, "dataset"), Access()
    files = parquet_files(reference, access)
    splits = _wanted(reference, files, folders)
    paths = downloaded(files, splits, access)
    name = "--".join([*reference.repo.split("/"), files.config or "all", *sorted(filter(None, splits))])
    root = cache / "hub" / name / files.commit[:16]
    for split, found in paths.items():
        for number, path in enumerate(found):
            own = files.splits[split][number] if not split else f"{split}/{number:04d}.parquet"
            _link(root / own, path)
    return root


def _wanted(reference: Reference, files: Files, folders: tuple[str, ...] | None) -> list[str]:
    """The splits to read.

    Raises:
        DataError: for splits that do not exist, or whose names say nothing.
    """
    known = list(files.splits)
    if known == [""] or folders == ():
        return known
    if folders is not None:
        if missing := [name for name in folders if name not in known]:
            raise DataError(
                f"{reference}: has no split {listed(missing)}, which --splits names; it has {listed(known)}"
            )
        return list(folders)
    named = [name for name in known if split_of(name)]
    if not named and len(known) > 1:
        raise DataError(f"{reference}: its splits are {listed(known)}; choose by --splits train=NAME,test=NAME")
    if others := [name for name in known if named and name not in named]:
        log.warning("%s: split %s left out; choose by --splits train=NAME,test=NAME", reference, listed(others))
    return named or known


def _link(link: Path, path: Path) -> None:
    """Link to a file of the cache of the hub; copy it where links are not possible.

    Raises:
        DataError: if the folder cannot be written.
    """
    target = path.resolve()
    try:
        if link.exists() and link.resolve() == target:
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        try:
            temporary.symlink_to(target)
        except (OSError, NotImplementedError):
            shutil.copy2(target, temporary)
        temporary.replace(link)
    except OSError as error:
        raise DataError(
            f"{link}: cannot be written ({error.strerror}); set another folder by PIXELLOOM_CACHE"
        ) from error
