"""The families of runs: the class of their configuration, and the setup of a run.

To add a family: one entry in :data:`RUN_FAMILIES`, and one in :data:`pixelloom.models.registry.FAMILIES`. Setups are
imported when they are needed, so this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pixelloom.core.errors import UsageError, did_you_mean
from pixelloom.runs.config import OWN, GANRun, OwnRun, PixelRun, RunConfig

if TYPE_CHECKING:
    from pixelloom.data.catalog import Dataset
    from pixelloom.models.pixel import PixelModel
    from pixelloom.runs.family import Setup


@dataclass(frozen=True)
class RunFamily:
    """One family of runs.

    Attributes:
        name: that of the family of models.
        config: class of its configuration, with the table of its networks.
        setup: makes the setup of a run from its configuration and data.
    """

    name: str
    config: type[RunConfig]
    setup: Callable[[Any, Dataset], Setup[Any, Any]]


def _pixel(config: PixelRun, data: Dataset) -> Setup[Any, Any]:
    from pixelloom.runs.pixel import PixelSetup

    return PixelSetup(config, data)


def _gan(config: GANRun, data: Dataset) -> Setup[Any, Any]:
    from pixelloom.runs.gan import GANSetup

    return GANSetup(config, data)


RUN_FAMILIES: dict[str, RunFamily] = {
    family.name: family for family in (RunFamily("pixel", PixelRun, _pixel), RunFamily("gan", GANRun, _gan))
}


def set_up(config: RunConfig, data: Dataset, own: PixelModel | None = None) -> Setup[Any, Any]:
    """Build data, model and objective of a run; nothing is trained.

    Raises:
        UsageError: for a configuration that does not fit the data, or without the model of one's own that it trains.
    """
    if isinstance(config, OwnRun):
        from pixelloom.runs.own import OwnSetup

        return OwnSetup(config, data, own)
    family = next(family for family in RUN_FAMILIES.values() if type(config) is family.config)
    return family.setup(config, data)


def known_networks() -> list[str]:
    """The names of all networks."""
    return [name for family in RUN_FAMILIES.values() for name in family.config.networks()]


def config_of(network: str) -> type[RunConfig]:
    """The class of a network's configuration.

    Raises:
        UsageError: for an unknown network.
    """
    if network == OWN:
        return OwnRun
    found = next((f.config for f in RUN_FAMILIES.values() if network in f.config.networks()), None)
    if found is None:
        known = known_networks()
        raise UsageError(
            f"configuration: network: none is called {network!r}.{did_you_mean(network, known)} "
            f"Known: {', '.join(known)}"
        )
    return found
