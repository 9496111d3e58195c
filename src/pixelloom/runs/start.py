"""Fine-tuning: a run that starts from the weights of another model."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from pixelloom.core.errors import UsageError
from pixelloom.engine.safetensors_io import digest_of
from pixelloom.layers.compiled import uncompiled
from pixelloom.models.description import WEIGHTS
from pixelloom.models.registry import load_model
from pixelloom.runs.family import Setup
from pixelloom.runs.locate import find

_SHOWN = 4  # names in a message
_log = logging.getLogger("pixelloom")


def start_from(setup: Setup[Any, Any], name: str) -> None:
    """Copy the weights of a model into the untrained one of a run, where name and shape agree; others are logged.

    The discriminator of a GAN is copied too if its file was kept. ``setup.start`` becomes the name with the SHA-256.

    Raises:
        UsageError: if the model is of another family, or no weight fits.
        ModelError: if there is no such model, or its file is damaged.
    """
    folder = find(name)
    source, model = load_model(folder), setup.model
    ours, theirs = model.description, source.description
    if ours.family != theirs.family:
        raise UsageError(
            f"start: {name} is of the family {theirs.family!r} ({theirs.network}), this run trains {ours.family!r} "
            f"({ours.network})"
        )
    _copy(name, "", source.network, model.network)
    _copy_discriminator(name, source, model)
    setup.start = f"{name}, SHA-256 {digest_of(folder / WEIGHTS)}"


def _copy_discriminator(name: str, source: Any, model: Any) -> None:
    target = getattr(model, "discriminator", None)
    if target is None:
        return
    if source.discriminator is None:
        _log.warning("start: %s was kept without its discriminator, which starts from its initialization", name)
    else:
        _copy(name, "discriminator.", source.discriminator, target)


def _copy(name: str, prefix: str, source: nn.Module, target: nn.Module) -> None:
    """Copy the entries of equal name and shape, and log the others."""
    found, own = uncompiled(source).state_dict(), uncompiled(target).state_dict()
    fitting = {key for key in own.keys() & found.keys() if own[key].shape == found[key].shape}
    trained = {key for key, _ in uncompiled(target).named_parameters()}
    if not fitting & trained:
        example = min(trained)
        raise UsageError(
            f"start: no weight of {name} fits this network: none has the name and the shape of {prefix}{example} "
            f"{list(own[example].shape)} or of another layer; choose the recipe or network of that model"
        )
    target.load_state_dict({**own, **{key: found[key] for key in fitting}})
    _log.info("start: %d of %d tensors from %s", len(fitting), len(own), f"{name}{prefix and ' (discriminator)'}")
    if fresh := sorted(own.keys() - fitting):
        _log.warning("start: left at their initialization: %s", _names(prefix, fresh))
    if unused := sorted(found.keys() - fitting):
        _log.warning("start: not used from %s: %s", name, _names(prefix, unused))


def _names(prefix: str, keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(prefix + key for key in keys[:_SHOWN]) + more
