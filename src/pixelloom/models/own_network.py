"""Models of a network of one's own: any module that is not in the table of networks.

A model file holds the weights and the name of the class, never its code. To load it, the network is given again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self, TypeVar
from weakref import WeakSet

import torch
from torch import nn

from pixelloom.core.errors import ModelError, UsageError, shortened
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.config import HeadConfig
from pixelloom.heads.discrete import Head, make_head
from pixelloom.layers.compiled import uncompiled
from pixelloom.models.pixel_description import OWN, OwnNetwork, PixelDescription
from pixelloom.models.sharing import Shared
from pixelloom.sampling.fast.analysis import assert_autoregressive
from pixelloom.sampling.fast.causality import NotAutoregressiveError
from pixelloom.sampling.fast.random_twin import evaluated
from pixelloom.sampling.fast.sampler import FastSampler

Inputs = Literal["symmetric", "unit", "levels"]
HeadLike = str | HeadConfig | Head
NetworkLike = nn.Module | Callable[[], nn.Module]
"""A network, or a class or function that makes it without arguments."""
_KINDS = ("auto", "bernoulli", "categorical", "logistics")
M = TypeVar("M")
_warned: WeakSet[nn.Module] = WeakSet()
_log = logging.getLogger("pixelloom")


class OfOwnNetwork(Shared):
    """A model that a network of one's own can be made into."""

    def __init__(self, network: nn.Module, description: PixelDescription) -> None:
        raise NotImplementedError

    @classmethod
    def of(
        cls,
        network: nn.Module,
        spec: ImageSpec,
        head: HeadLike = "auto",
        *,
        inputs: Inputs | Scaling = "symmetric",
    ) -> Self:
        """Make a model of a network of one's own: it scores, samples fast, and trains by ``pl.train(model, data=...)``.

        The network is used as it is, in evaluation mode, and is not copied. It maps images [B, C, H, W], scaled as
        ``inputs`` says, to parameters of the head [B, outputs, H, W]: logits, not probabilities. The weights of masked
        convolutions are observed, see :mod:`pixelloom.sampling.fast.convolutions`. A network whose layers cannot be
        read is checked by its gradient, and sampled with one pass per pixel; a warning says so.

        Args:
            network: the module.
            spec: channels, height, width and levels of the images.
            head: "bernoulli", "categorical" or "logistics", "auto" for Bernoulli if there are two levels and else
                categorical; or a :class:`~pixelloom.heads.config.HeadConfig` or a head. A categorical head takes C x
                levels logits per pixel, channel by channel; a Bernoulli head takes C.
            inputs: scaling of level v of L: "symmetric" is 2 v / (L - 1) - 1, in [-1, 1]; "unit" is v / (L - 1), in
                [0, 1]; "levels" is v; or a :class:`~pixelloom.data.pixels.Scaling`.

        Raises:
            UsageError: if the output does not have the shape that the head takes.
            NotAutoregressiveError: naming the layer and offset at fault, or the output and pixel.
        """
        about = describe(network, spec, head, inputs)
        check(network, about)
        return cls(network, about)


def describe(network: nn.Module, spec: ImageSpec, head: HeadLike, inputs: Inputs | Scaling) -> PixelDescription:
    """The description of a model, see :meth:`pixelloom.models.pixel.PixelModel.of`.

    Raises:
        UsageError: for an unknown head or scaling, or a network without parameters.
    """
    if not isinstance(network, nn.Module):
        raise UsageError(f"network: a torch module is needed, not {shortened(repr(network))}")
    if not any(True for _ in network.parameters()):
        raise UsageError("network: it has no parameters, so nothing can be trained")
    config = _head_config(head)
    scalings = {"symmetric": Scaling.symmetric(), "unit": Scaling.unit(), "levels": Scaling.numbers(spec.levels)}
    if not isinstance(inputs, Scaling) and inputs not in scalings:
        raise UsageError(f"inputs: {', '.join(scalings)} or a Scaling, not {inputs!r}")
    return PixelDescription(
        network=OWN,
        model=OwnNetwork(kind=class_name(network)),
        head=config.model_copy(update={"kind": make_head(config, spec).kind}),
        image=spec,
        scaling=inputs if isinstance(inputs, Scaling) else scalings[inputs],
    )


def class_name(network: nn.Module) -> str:
    """MODULE.NAME of a network's class."""
    kind = type(uncompiled(network))
    return f"{kind.__module__}.{kind.__qualname__}"


def check(network: nn.Module, about: PixelDescription) -> tuple[str, ...]:
    """Check that a network fits its description and is autoregressive; returns the checks that were made.

    Raises:
        UsageError: if the output does not have the shape that the head takes.
        NotAutoregressiveError: naming the layer and offset at fault, or the output and pixel.
    """
    head = make_head(about.head, about.image)
    first = next(network.parameters())
    with torch.no_grad(), evaluated(network):
        out = network(torch.zeros(1, *about.image.shape, dtype=first.dtype, device=first.device))
    needed = [1, head.outputs, *about.image.shape[1:]]
    found = list(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
    if found != needed:
        raise UsageError(
            f"network: gives {found} for one image of {about.image}; a {head.kind} head takes {needed}, "
            f"{head.outputs} outputs per pixel"
        )
    return assert_autoregressive(network, about.image, groups=head.groups)


def given_again(folder: Path, about: PixelDescription, network: NetworkLike | None) -> nn.Module:
    """The network that is given for a saved model.

    Raises:
        ModelError: if there is none, saying what to do.
        UsageError: if what is given is no network.
    """
    kind = about.model.kind
    if network is None:
        name = kind.rsplit(".", 1)[-1]
        raise ModelError(
            f"{folder}: its network is a class of your own, {shortened(kind)}; a model file holds weights, never code. "
            f'Give the network: pl.load("{folder}", network={shortened(name)}(...))'
        )
    made = network if isinstance(network, nn.Module) else network()
    if not isinstance(made, nn.Module):
        raise UsageError(f"network: a torch module is needed, not {shortened(repr(made))}")
    if class_name(made).rsplit(".", 1)[-1] != kind.rsplit(".", 1)[-1]:
        _log.warning("%s: was saved with a network of class %s; given is %s", folder, kind, class_name(made))
    return made


def builder(
    folder: Path,
    network: NetworkLike | None,
    build: Callable[[PixelDescription], M],
    wrap: Callable[[nn.Module, PixelDescription], M],
) -> Callable[[PixelDescription], M]:
    """How a saved model is built: by name, or around the network that is given again, which is checked."""
    made: list[nn.Module] = []

    def of(about: PixelDescription) -> M:
        if about.network != OWN:
            if network is not None:
                raise ModelError(f"{folder}: its network is {about.network!r}, by name; leave out network=")
            return build(about)
        if not made:
            with torch.device("cpu"):
                made.append(given_again(folder, about, network))
                check(made[0], about)
        return wrap(made[0], about)

    return of


def or_plain(network: nn.Module, about: PixelDescription, make: Callable[[], FastSampler]) -> FastSampler | None:
    """The fast sampler; None for a network of one's own whose layers cannot be read, with one warning per network.

    Raises:
        ModelError: for any other network whose layers cannot be read, and for one that is not autoregressive.
    """
    try:
        return make()
    except NotAutoregressiveError:
        raise
    except ModelError as error:
        if about.network != OWN:
            raise
        if network not in _warned:
            _warned.add(network)
            passes = about.image.height * about.image.width
            _log.warning("sampling takes %d passes of the network, since its layers cannot be read: %s", passes, error)
        return None


def _head_config(head: HeadLike) -> HeadConfig:
    if isinstance(head, HeadConfig):
        return head
    if isinstance(head, str):
        if head not in _KINDS:
            raise UsageError(f"head: {', '.join(_KINDS)} or a HeadConfig, not {head!r}")
        return HeadConfig.model_validate({"kind": head})
    values = {"kind": head.kind}
    values |= {name: getattr(head, name) for name in ("channels", "mixtures") if hasattr(head, name)}
    return HeadConfig.model_validate(values)
