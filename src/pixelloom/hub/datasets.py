"""Data sets of the hub as Parquet files: those of the repository, or of the copy that the hub converts them to.

The header of a repository's card may divide its files into configurations and splits, by patterns. The converted copy
is the branch ``refs/convert/parquet``, with a folder for each configuration and split.

Source: https://huggingface.co/docs/hub/datasets-manual-configuration and
https://huggingface.co/docs/dataset-viewer/parquet.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pixelloom.core.errors import DataError, shortened
from pixelloom.hub.client import Access, api, explained, library
from pixelloom.hub.reference import Reference
from pixelloom.hub.snapshots import download, is_intact

CONVERTED = "refs/convert/parquet"
_CARD = "README.md"
_LARGEST_CARD = 4 << 20
_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class Files:
    """The Parquet files of a data set.

    Attributes:
        reference: repository and revision to download them from.
        commit: its commit.
        config: the configuration; "" if there is one only.
        splits: names of the files of each split in their order; under "" those whose own names state the split.
        sizes: bytes of each file.
    """

    reference: Reference
    commit: str
    config: str
    splits: dict[str, list[str]]
    sizes: Mapping[str, int | None]


def parquet_files(reference: Reference, access: Access) -> Files:
    """Find the Parquet files of a data set.

    Raises:
        DataError: if the hub cannot be reached, or has no Parquet files of it; for several configurations, naming them.
        UsageError: if ``huggingface_hub`` is not installed.
    """
    library()
    access = access.here()
    commit, sizes = _listed(reference, access)
    names = sorted(name for name in sizes if name.endswith(".parquet"))
    if names:
        stated = _stated(_header(reference, sizes, access), names)
        config = _chosen(reference, stated) if stated else ""
        splits = stated[config] if stated else {"": names}
        return Files(reference, commit, config, splits, sizes)
    if reference.revision is None:
        return _converted(reference, access)
    raise DataError(f"{reference}: has no Parquet files; without @REVISION, the copy that the hub converts is read")


def downloaded(files: Files, splits: Iterable[str], access: Access) -> dict[str, list[Path]]:
    """Download the files of some splits into the cache of the hub; the paths by split.

    Raises:
        DataError: if a file cannot be downloaded, or is damaged.
    """
    access = access.here()
    wanted = {split: files.splits[split] for split in splits}
    names = [name for part in wanted.values() for name in part]
    total = sum(files.sizes.get(name) or 0 for name in names)
    _log.info(
        "%s: %s bytes in %d Parquet files, commit %s", files.reference, f"{total:,}", len(names), files.commit[:7]
    )
    fixed = replace(files.reference, revision=files.commit)
    found: dict[str, list[Path]] = {}
    with explained(files.reference, DataError, "files that are complete stay in the cache"):
        for split, part in wanted.items():
            found[split] = [_whole(fixed, name, access) for name in part]
    return found


def _whole(reference: Reference, name: str, access: Access) -> Path:
    """A file whose content has the hash that the hub has recorded."""
    for force in (False, True):
        path = _cached(reference, name, access)
        if path is None or force:
            if access.local_files_only:
                raise DataError(
                    f"{reference}: {name} is {'damaged' if path else 'not'} in the cache; unset HF_HUB_OFFLINE"
                )
            path = download(reference, name, access, force=force)
        if is_intact(path):
            return path
    raise DataError(f"{reference}: {name}: the hub sends other bytes than it has recorded; try again later")


def _cached(reference: Reference, name: str, access: Access) -> Path | None:
    found = library().try_to_load_from_cache(
        reference.repo, name, cache_dir=access.cache_dir, revision=reference.revision, repo_type="dataset"
    )
    return Path(found) if isinstance(found, str) else None


def _listed(reference: Reference, access: Access) -> tuple[str, dict[str, int | None]]:
    """The commit of a revision and the sizes of its files; of the cached ones in offline mode."""
    if not access.local_files_only:
        with explained(reference, DataError, "offline mode (HF_HUB_OFFLINE=1) reads the cache alone"):
            found = api(access.token).dataset_info(reference.repo, revision=reference.revision, files_metadata=True)
            sizes = {file.rfilename: file.size for file in found.siblings or ()}
            if reference.revision != found.sha and _CARD in sizes:
                download(reference, _CARD, access)  # by its branch, which the cache then knows in offline mode
        return str(found.sha), sizes
    from huggingface_hub import constants

    root = Path(access.cache_dir or constants.HF_HUB_CACHE) / f"datasets--{reference.repo.replace('/', '--')}"
    revision = reference.revision or "main"
    try:
        commit = revision if reference.is_commit else (root / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = ""
    folder = root / "snapshots" / commit
    files = [path for path in folder.rglob("*") if path.is_file()] if commit else []
    if not any(path.suffix == ".parquet" for path in files) and revision != "main":
        raise DataError(f"{reference}: not in the cache, and offline mode allows no download; unset HF_HUB_OFFLINE")
    return commit, {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _header(reference: Reference, sizes: Mapping[str, int | None], access: Access) -> dict[str, Any]:
    """The YAML header of a repository's card; empty without one."""
    if not 0 < (sizes.get(_CARD) or 0) <= _LARGEST_CARD:
        return {}
    path = _cached(reference, _CARD, access) if access.local_files_only else None
    if path is None and not access.local_files_only:
        with explained(reference, DataError):
            path = download(reference, _CARD, access)
    text = "" if path is None else path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return {}
    try:
        found = yaml.safe_load(text[3:].partition("\n---")[0])
    except (yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _stated(header: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Configuration -> split -> files, as the header states them; the default configuration comes first."""
    configs = header.get("configs")
    found: dict[str, dict[str, list[str]]] = {}
    for one in configs if isinstance(configs, list) else []:
        if not isinstance(one, dict):
            continue
        base = str(one.get("data_dir") or "").strip("/")
        splits = {
            split: matching for split, patterns in _patterns(one) if (matching := _matching(patterns, base, names))
        }
        if splits:
            first = {str(one.get("config_name", "default")): splits}
            found = first | found if one.get("default") or one.get("config_name") == "default" else found | first
    return found


def _patterns(config: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(split, patterns) of a configuration, in each of the forms that the hub accepts."""
    data = config.get("data_files", "**" if config.get("data_dir") else None)
    if isinstance(data, dict):
        data = [{"split": split, "path": path} for split, path in data.items()]
    if isinstance(data, str) or (isinstance(data, list) and all(isinstance(item, str) for item in data)):
        return [("", [data] if isinstance(data, str) else list(data))] if data else []
    found = []
    for item in data if isinstance(data, list) else []:
        if isinstance(item, dict) and item.get("path"):
            paths = item["path"]
            found.append(
                (str(item.get("split", "train")), list(map(str, paths if isinstance(paths, list) else [paths])))
            )
    return found


def _matching(patterns: Sequence[str], base: str, names: Sequence[str]) -> list[str]:
    """The names that patterns match: ``*`` within a folder, ``**`` over folders."""
    kept: list[str] = []
    for pattern in patterns:
        whole = f"{base}/{pattern}" if base else pattern
        parts = re.split(r"(\*\*/?|\*|\?)", whole.removeprefix("./")[:1000])
        signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        form = re.compile("".join(signs.get(part, re.escape(part)) for part in parts))
        kept += [name for name in names if form.fullmatch(name) and name not in kept]
    return kept


def _chosen(reference: Reference, configs: Mapping[str, Any]) -> str:
    """The configuration that is named, the only one, or the default one.

    Raises:
        DataError: naming the configurations.
    """
    known = ", ".join(shortened(name, 40) for name in list(configs)[:10])
    if reference.config is not None:
        if reference.config not in configs:
            raise DataError(f"{reference}: has no configuration {reference.config!r}; choose {known}")
        return reference.config
    first = next(iter(configs))
    if len(configs) > 1 and first != "default":
        raise DataError(
            f"{reference}: has {len(configs)} configurations; choose one, as in hf:{reference.repo}:{first}: {known}"
        )
    return first


def _converted(reference: Reference, access: Access) -> Files:
    """The files of the copy that the hub converts.

    Raises:
        DataError: if there is none.
    """
    copy = replace(reference, revision=CONVERTED)
    try:
        commit, sizes = _listed(copy, access)
    except DataError as error:
        raise DataError(
            f"{reference}: has no Parquet files, and the hub no converted copy of them; download the images into a "
            f"folder, and name that ({error})"
        ) from error
    configs: dict[str, dict[str, list[str]]] = {}
    for name in sorted(name for name in sizes if name.endswith(".parquet") and name.count("/") == 2):
        config, split, _ = name.split("/")
        part = configs.setdefault(config, {}).setdefault(split.removeprefix("partial-"), [])
        part.append(name)
        if split.startswith("partial-") and len(part) == 1:
            _log.warning("%s: the hub has converted a part of the split %s only", reference, split)
    ordered = {name: configs[name] for name in sorted(configs, key=lambda name: name != "default")}
    if not ordered:
        raise DataError(f"{reference}: has no Parquet files, and its converted copy is empty")
    config = _chosen(reference, ordered)
    return Files(copy, commit, config, ordered[config], sizes)
