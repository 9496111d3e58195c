"""Ensembles over pixel orders: networks that share weights between several orders, and the average of their models.

    p(x) = 1/K sum over orders o of p_o(x)            p_o(x) = prod over i of p(x_o(i) | x_o(1) .. x_o(i-1))

The average is one of probabilities of images. An average of logits, or of conditional probabilities, is no likelihood,
since each order predicts a pixel from other pixels.

Such a network has modules with several orders (:class:`Ordered`), numbered from 0, the raster order. In training they
use a random order for each batch, otherwise a fixed one. If pixels and weights are permuted into the sequence of an
order, the network is causal in raster order like any other. :class:`InSequence` does so, for sampling and for tests of
causality.

Source: Germain, Gregor, Murray, Larochelle 2015, "MADE", sections 4.2 and 6.2; Uria, Murray, Larochelle 2014, "A Deep
and Tractable Density Estimator".
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pixelloom.core import rng
from pixelloom.core.errors import UsageError
from pixelloom.core.rng import image_noise
from pixelloom.layers.compiled import uncompiled
from pixelloom.sampling.ancestral import OnStep

Numbers = npt.NDArray[np.int64]


@runtime_checkable
class Ordered(Protocol):
    """A module with several pixel orders.

    Attributes:
        orders: number of orders.
        order: the fixed order; None for a random one per batch in training, and the first one otherwise.
    """

    orders: int
    order: int | None

    def reorder(self, places: Tensor) -> None:
        """Permute the weights in place, for pixels in the sequence ``places``, int64 [H * W]."""

    def sequence(self, order: int) -> Tensor:
        """The sequence of the pixels in an order, int64 [H * W]."""


def orders(network: nn.Module) -> int:
    """Number of orders that a network averages over; 1 for a network without orders or with a fixed one."""
    return max((part.orders for part in _ordered(network) if part.order is None), default=1)


def members(network: nn.Module) -> list[nn.Module]:
    """One network per order, which share their weights; for a single order the network itself."""
    if (number := orders(network)) == 1:
        return [network]
    network = uncompiled(network)
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return [_kept(copy.deepcopy(network, dict(shared)), order) for order in range(number)]


def sequence(network: nn.Module, order: int, pixels: int) -> Tensor:
    """The sequence of the pixels in an order of a network, int64 [H * W]; raster order for a network of one order."""
    part = next(_ordered(network), None)
    if part is None or part.orders == 1:
        return torch.arange(pixels)
    return part.sequence(order if part.order is None else part.order)


def average(log_probs: Sequence[Tensor]) -> Tensor:
    """log p(x) of each image from its log p_o(x), each [N]: logsumexp_o log p_o(x) - log K."""
    if len(log_probs) == 1:
        return log_probs[0]
    return torch.stack(list(log_probs)).logsumexp(0) - math.log(len(log_probs))


def refuse(network: nn.Module, what: str) -> None:
    """Raises UsageError for a network of several orders, for which ``what`` is not defined."""
    if (number := orders(network)) > 1:
        raise UsageError(
            f"{what}: this model averages over {number} orders of the pixels, and in each a pixel is predicted from "
            "others; use a model of one order (model.orders=1)"
        )


def choose(number: int, seed: int, first: int, n: int) -> Numbers:
    """An order for each of images first .. first + n - 1, uniform, a function of (seed, image index)."""
    raw = [rng.bits(rng.Stream.ORDER_CHOICE, seed, index).random_raw() for index in range(first, first + n)]
    return np.array([int(bits) * number >> 64 for bits in raw], np.int64)


class InSequence:
    """A copy of a network of several orders, permuted so that one of its orders becomes the raster order.

    Args:
        network: the network; :meth:`renew` copies weights that have changed.
        order: the order.
    """

    def __init__(self, network: nn.Module, order: int) -> None:
        self._source = network
        self.network = _kept(copy.deepcopy(network), order)
        self.places = next(_ordered(network)).sequence(order)
        self.renew()

    def renew(self) -> None:
        """Copy weights, precision and device."""
        first = next(self._source.parameters())
        self.network.to(first.device, first.dtype)
        self.network.load_state_dict(self._source.state_dict())
        for part in _ordered(self.network):
            part.reorder(self.places)

    def taken(self, planes: Tensor) -> Tensor:
        """Permute the pixels of images [..., H, W] into the sequence of the order."""
        return planes.flatten(-2)[..., self.places.to(planes.device)].view(planes.shape)

    def put_back(self, planes: Tensor) -> Tensor:
        """The inverse of :meth:`taken`."""
        return planes.flatten(-2)[..., self.places.argsort().to(planes.device)].view(planes.shape)


class Drawers:
    """Samples each image in an order of its own, with one model per order, built at first use.

    Args:
        make: network in raster order -> model with a method ``draw`` and a ``spec``.
    """

    def __init__(self, make: Callable[[nn.Module], Any]) -> None:
        self._make = make
        self._free: dict[int, list[tuple[InSequence, Any]]] = {}  # order -> models that are not in use

    def sample(
        self,
        network: nn.Module,
        n: int,
        *,
        seed: int,
        first: int,
        batch: int,
        mask: Tensor | None,
        labels: Tensor | None,
        condition: Tensor | None,
        given: Tensor | None,
        where: Tensor | None,
        on_step: OnStep | None,
        **options: Any,
    ) -> Tensor:
        """Sample n images, uint8 [n, C, H, W]; image i and its order depend on (seed, first + i) alone.

        Args:
            network: a network of several orders.
            n: number of images.
            seed: seed of noise and orders.
            first: index of the first image.
            batch: images per batch.
            mask: must be None.
            labels: classes, int64 [n], or None.
            condition: conditioning images, uint8 [n or 1, c, h, w], or None.
            given: partly known images [n, C, H, W] that the conditioning images contain, or None.
            where: bool [n, C, H, W], the known values of ``given``, or None.
            on_step: callback for each step of each order in a batch, with the images of the batch.
            options: those of a model of one order.

        Raises:
            UsageError: for partly known images. Orders would have to be weighted by the probability of the known
                pixels, which is known only for orders that begin with these.
        """
        if mask is not None:
            refuse(network, "given")
        parts = []
        of_each = {"labels": labels, "condition": condition, "given": given, "mask": where}
        for start in range(0, n, batch):
            rows = torch.arange(start, min(start + batch, n))
            numbers = range(first + start, first + start + len(rows))
            parts.append(self._batch(network, seed, numbers, _rows(of_each, rows), on_step, options))
        return torch.cat(parts)

    def _batch(
        self,
        network: nn.Module,
        seed: int,
        numbers: range,
        of_each: dict[str, Tensor],
        on_step: OnStep | None,
        options: dict[str, Any],
    ) -> Tensor:
        """Sample the images of some indices, order after order."""
        chosen = torch.from_numpy(choose(orders(network), seed, numbers.start, len(numbers)))
        present = sorted(set(chosen.tolist()))
        images = torch.empty(0, dtype=torch.uint8)
        for turn, order in enumerate(present):
            rows = (chosen == order).nonzero()[:, 0]
            with self.model_of(network, order) as (way, model):

                def put(found: Tensor, way: InSequence = way, rows: Tensor = rows) -> Tensor:
                    nonlocal images
                    if not len(images):
                        images = torch.zeros(len(numbers), *found.shape[1:], dtype=torch.uint8)
                    images[rows] = way.put_back(found).cpu()
                    return images

                def report(
                    step: int, steps: int, found: Tensor, turn: int = turn, put: Callable[..., Tensor] = put
                ) -> None:
                    if on_step is not None:
                        on_step(turn * steps + step, len(present) * steps, put(found))

                noise = torch.cat([image_noise(model.spec, seed, numbers[row], 1) for row in rows.tolist()])
                of_rows = _rows(of_each, rows)
                of_rows |= {name: way.taken(of_rows[name]) for name in ("given", "mask") if name in of_rows}
                # The noise of a pixel does not depend on the order.
                put(model.draw(way.taken(noise), on_step=report, **of_rows, **options))
        return images

    @contextmanager
    def model_of(self, network: nn.Module, order: int) -> Iterator[tuple[InSequence, Any]]:
        """A model of an order with current weights, for exclusive use."""
        try:
            way, model = self._free.get(order, []).pop()  # atomic, so no two threads get the same model
        except IndexError:
            way = InSequence(network, order)
            model = self._make(way.network)
        else:
            way.renew()
        yield way, model
        self._free[order] = [(way, model)]


def _ordered(network: nn.Module) -> Iterator[Ordered]:
    return (part for part in network.modules() if isinstance(part, Ordered))


def _rows(of_each: Mapping[str, Tensor | None], rows: Tensor) -> dict[str, Tensor]:
    """What some images have, of tensors with one row for each image or one for all; None is left out."""
    present = {name: value for name, value in of_each.items() if value is not None}
    return {name: value if len(value) == 1 else value[rows.to(value.device)] for name, value in present.items()}


def _kept(network: nn.Module, order: int) -> nn.Module:
    for part in _ordered(network):
        part.order = order
    return network
