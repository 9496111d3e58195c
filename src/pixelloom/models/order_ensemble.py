"""Networks that know several orders of the pixels: a model that averages over them.

    p(x) = 1/K sum over orders o of p_o(x)            p_o(x) = prod over i of p(x_o(i) | x_o(1) .. x_o(i-1))

It is a mean of probabilities of whole images. The mean of the logits, or of the conditional probabilities, would be no
likelihood: in each order a pixel is predicted from other pixels.

Such a network has modules that know orders (:class:`Ordered`), numbered from 0, which is raster order. While it trains
it draws an order for each batch; otherwise it keeps to one. An order is a sequence of the pixels: with the pixels taken
in that sequence, and the weights accordingly, the network is one in raster order like any other. That is how it is
drawn from (:func:`in_sequence`), and how it is shown to look at nothing but the past.

Source: Germain, Gregor, Murray, Larochelle 2015, "MADE", sections 4.2 and 6.2; Uria, Murray, Larochelle 2014, "A Deep
and Tractable Density Estimator".
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pixelloom.core import rng
from pixelloom.core.errors import UsageError
from pixelloom.core.rng import image_noise
from pixelloom.sampling.ancestral import OnStep

Numbers = npt.NDArray[np.int64]


@runtime_checkable
class Ordered(Protocol):
    """A module of a network that knows several orders.

    Attributes:
        orders: how many.
        order: the one it keeps to; None for one drawn for each batch in training, and the first otherwise.
    """

    orders: int
    order: int | None

    def reorder(self, places: Tensor) -> None:
        """Take the pixels in the sequence ``places``, int64 [H * W], from now on: weights move, in place."""

    def sequence(self, order: int) -> Tensor:
        """The pixels in the sequence of an order, int64 [H * W]."""


def orders(network: nn.Module) -> int:
    """How many orders a network averages over; 1 for one that keeps to one."""
    return max((part.orders for part in _ordered(network) if part.order is None), default=1)


def members(network: nn.Module) -> list[nn.Module]:
    """A network that keeps to each of the orders, with the same weights; of one order, the network itself."""
    if (number := orders(network)) == 1:
        return [network]
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return [_kept(copy.deepcopy(network, dict(shared)), order) for order in range(number)]


def average(log_probs: Sequence[Tensor]) -> Tensor:
    """log p(x) of each image from its log p_o(x), each [N]: logsumexp_o log p_o(x) - log K."""
    if len(log_probs) == 1:
        return log_probs[0]
    return torch.stack(list(log_probs)).logsumexp(0) - math.log(len(log_probs))


def refuse(network: nn.Module, what: str) -> None:
    """Raises UsageError where there are several orders: ``what`` has a meaning in one only."""
    if (number := orders(network)) > 1:
        raise UsageError(
            f"{what}: this model averages over {number} orders of the pixels, and in each a pixel is predicted from "
            "others; use a model of one order (model.orders=1)"
        )


def choose(number: int, seed: int, first: int, n: int) -> Numbers:
    """An order for each of the images first .. first + n - 1, all equally likely, by (seed, image index) alone."""
    raw = [rng.bits(rng.Stream.ORDER_CHOICE, seed, index).random_raw() for index in range(first, first + n)]
    return np.array([int(bits) * number >> 64 for bits in raw], np.int64)


class InSequence:
    """A network in raster order that does what another does in one of its orders.

    Args:
        network: of several orders; its weights may change, and are then taken over by :meth:`renew`.
        order: which.
    """

    def __init__(self, network: nn.Module, order: int) -> None:
        self._source = network
        self.network = _kept(copy.deepcopy(network), order)
        self.places = next(_ordered(network)).sequence(order)
        self.renew()

    def renew(self) -> None:
        """Take over weights, their precision and where they are."""
        first = next(self._source.parameters())
        self.network.to(first.device, first.dtype)
        self.network.load_state_dict(self._source.state_dict())
        for part in _ordered(self.network):
            part.reorder(self.places)

    def taken(self, planes: Tensor) -> Tensor:
        """Pictures [..., H, W] with their pixels in sequence, as the network takes them."""
        return planes.flatten(-2)[..., self.places.to(planes.device)].view(planes.shape)

    def put_back(self, planes: Tensor) -> Tensor:
        """The inverse of :meth:`taken`."""
        return planes.flatten(-2)[..., self.places.argsort().to(planes.device)].view(planes.shape)


class Drawers:
    """Draws each image in an order of its own, by a model of that order that is made when it is first needed.

    Args:
        make: the model of a network in raster order; it has a method ``draw`` from noise, and a ``spec``.
    """

    def __init__(self, make: Callable[[nn.Module], Any]) -> None:
        self._make = make
        self._free: dict[int, list[tuple[InSequence, Any]]] = {}  # models that no call is using, by order

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
        on_step: OnStep | None,
        **options: Any,
    ) -> Tensor:
        """n images, uint8 [n, C, H, W]; image i, and its order, by (seed, first + i) alone.

        Args:
            network: of several orders.
            n: how many.
            seed: chooses noise and orders.
            first: number of the first image.
            batch: images drawn at a time.
            mask: must be None.
            labels: of each image, int64 [n], or None.
            on_step: told of each step of each order in a batch, with the images of the batch.
            options: those of a model of one order.

        Raises:
            UsageError: for partly known images. Each order would have to count by how likely it makes what is known,
                and that can be computed only where all of it comes first.
        """
        if mask is not None:
            refuse(network, "given")
        parts = []
        for start in range(0, n, batch):
            rows = slice(start, min(start + batch, n))
            told = None if labels is None else labels[rows]
            numbers = range(first + rows.start, first + rows.stop)
            parts.append(self._batch(network, seed, numbers, told, on_step, options))
        return torch.cat(parts)

    def _batch(
        self,
        network: nn.Module,
        seed: int,
        numbers: range,
        labels: Tensor | None,
        on_step: OnStep | None,
        options: dict[str, Any],
    ) -> Tensor:
        """The images of some numbers, order after order."""
        chosen = torch.from_numpy(choose(orders(network), seed, numbers.start, len(numbers)))
        present = sorted(set(chosen.tolist()))
        images = torch.empty(0, dtype=torch.uint8)
        for turn, order in enumerate(present):
            rows = (chosen == order).nonzero()[:, 0]
            with self._model_of(network, order) as (way, model):

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
                of_rows = None if labels is None else labels[rows.to(labels.device)]
                # Each pixel has its own noise, wherever it comes in the sequence.
                put(model.draw(way.taken(noise), labels=of_rows, on_step=report, **options))
        return images

    @contextmanager
    def _model_of(self, network: nn.Module, order: int) -> Iterator[tuple[InSequence, Any]]:
        """The model of an order, with the weights that the network has now, for this call alone."""
        try:
            way, model = self._free.get(order, []).pop()  # one step of the interpreter: no two threads get the same
        except IndexError:
            way = InSequence(network, order)
            model = self._make(way.network)
        else:
            way.renew()
        yield way, model
        self._free[order] = [(way, model)]


def _ordered(network: nn.Module) -> Iterator[Ordered]:
    return (part for part in network.modules() if isinstance(part, Ordered))


def _kept(network: nn.Module, order: int) -> nn.Module:
    for part in _ordered(network):
        part.order = order
    return network
