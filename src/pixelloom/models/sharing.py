"""Saving, loading and publishing a model by the conventions of diffusers and timm.

A repository on the hub holds ``model.safetensors``, ``config.json`` and ``README.md``. Only these are downloaded,
loading is strict, and no code of a repository is run.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from pixelloom.core.atomic import whole_folder, write_bytes
from pixelloom.core.errors import ModelError
from pixelloom.engine.safetensors_io import digest_of
from pixelloom.hub.client import Access
from pixelloom.hub.reference import Reference, is_reference
from pixelloom.hub.snapshots import NEEDED, model_folder, push
from pixelloom.models.description import CONFIG, FILES, WEIGHTS

if TYPE_CHECKING:
    from pixelloom.models.family import GenerativeModel
    from pixelloom.models.own_network import NetworkLike

CARD = "README.md"
_HERE = "PATH OF THIS FOLDER"  # in the usage example of a card
_log = logging.getLogger("pixelloom")


class Shared:
    """Mixin of models that are saved, loaded and published by name."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        cache_dir: Path | str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        network: NetworkLike | None = None,
    ) -> Self:
        """Load a model of this family from a folder or from the Hugging Face hub, onto the CPU.

        Args:
            name: model folder, or a repository on the hub as USER/NAME or USER/NAME@REVISION; a folder comes first.
            revision: branch, tag or commit hash of the repository.
            cache_dir: cache folder of the hub; default: that of ``huggingface_hub``.
            local_files_only: use the cache alone.
            token: access token; default: $HF_TOKEN, or that of ``hf auth login``. False sends none.
            network: network of a model of :meth:`PixelModel.of`, see :func:`pixelloom.load`.

        Raises:
            ModelError: if it cannot be downloaded, is damaged, or is of another family.
            UsageError: if ``name`` is neither a folder nor the name of a repository.
        """
        from pixelloom.models.registry import load_model

        folder = Path(name)
        if is_reference(name) or not (folder / WEIGHTS).is_file():
            reference = Reference.parse(str(name)).at(revision)
            folder = model_folder(reference, Access(cache_dir, local_files_only, token))
        model: Any = load_model(folder, network)
        if not isinstance(model, cls):
            raise ModelError(f"{name}: holds a {type(model).__name__}, not a {cls.__name__}; pixelloom.load takes both")
        return model

    def save_pretrained(self, folder: Path | str, *, license: str | None = None) -> Path:
        """Write weights, ``config.json`` and a model card to a folder; returns the folder.

        Args:
            folder: the model folder; a model in it is replaced.
            license: identifier of the license on the hub, as in ``cc-by-4.0``, for the card.

        Raises:
            ModelError: if the folder cannot be written.
        """
        from pixelloom.models.hub_card import hub_card
        from pixelloom.models.model_card import model_card

        model = cast("GenerativeModel", self)
        with whole_folder(Path(folder), FILES) as target:
            sha256 = model.save(target)
            write_bytes(target / CARD, hub_card(model, model_card(model, sha256), license).encode())
        return Path(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a Pixelloom model",
        token: str | bool | None = None,
        license: str | None = None,
    ) -> str:
        """Upload weights, ``config.json`` and a model card as one commit; returns its address.

        Args:
            repo_id: USER/NAME; created if it does not exist.
            private: whether a new repository is private; default: as the account says.
            revision: branch, created if it does not exist; default: the main branch.
            commit_message: of the commit.
            token: access token with write access; default: $HF_TOKEN, or that of ``hf auth login``.
            license: identifier of the license on the hub, as in ``cc-by-4.0``, for the card.

        Raises:
            ModelError: if the upload fails.
            UsageError: if ``huggingface_hub`` is missing, or the name is not one of a repository.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.save_pretrained(Path(temporary) / "model", license=license)
            model = cast("GenerativeModel", self)
            return push_folder(
                folder, model, repo_id, private=private, revision=revision, message=commit_message, token=token
            )


def push_folder(
    folder: Path,
    model: GenerativeModel,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload a Pixelloom model",
    token: str | bool | None = None,
    license_: str | None = None,
) -> str:
    """Upload a folder that ``model`` was loaded from or saved to; its card gets the YAML header of the hub.

    Raises:
        ModelError: if the folder lacks a file, or the upload fails.
        UsageError: if ``huggingface_hub`` is missing, or the name is not one of a repository.
    """
    from pixelloom.models.hub_card import hub_card
    from pixelloom.models.model_card import model_card

    target = Reference.parse(repo).at(revision)
    try:
        card = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        card = model_card(model, digest_of(folder / WEIGHTS))
    files: dict[str, Any] = {name: folder / name for name in NEEDED}
    if not files[CONFIG].is_file():
        raise ModelError(f"{folder}: {CONFIG} is missing; save the model again")
    if path := model.description.training.path:
        _log.warning("%s: the training record names the data's path %s, which is published with it", folder, path)
    files[CARD] = hub_card(model, card.replace(_HERE, str(target)), license_).encode()
    return push(target, files, private=private, message=message, token=token)
