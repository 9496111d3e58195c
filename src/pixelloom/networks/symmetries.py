"""One network for several pixel orders: the raster order of the image mirrored, turned and transposed.

In order o the image is first transformed by a symmetry g_o of the grid. The network is autoregressive in raster order,
and conditioned on the order by a vector, as on a class. Its output is transformed back:

    out(x) = g_o^-1 network(g_o x, class = (o, y), condition = g_o c)

with a class y and a conditioning image c, or without them.
The model is the average of the orders, p(x) = 1/K sum over o of p_o(x) (:mod:`pixelloom.models.order_ensemble`). In
training each image gets a random order. A region whose pixels come last in one of the orders, such as any half of the
image, is then completed exactly by ancestral sampling. Given a conditioning image, the orders are averaged likewise,
p(x | c) = 1/K sum over o of p_o(x | c).

Sources: Uria, Murray, Larochelle 2014, "A Deep and Tractable Density Estimator", for ensembles of orders; Jain, Abbeel,
Pathak 2020, "Locally Masked Convolution for Autoregressive Models", for eight orders of images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.layers.class_conditioning import check_given

SQUARE, RECTANGLE = 8, 4  # symmetries of the grid


def check_orders(orders: int, spec: ImageSpec) -> None:
    """Check the number of orders for images of a shape.

    Raises:
        UsageError: unless it is 1, 2, 4 or, for square images, 8.
    """
    most = SQUARE if spec.height == spec.width else RECTANGLE
    if orders not in (1, 2, 4, 8) or orders > most:
        allowed = "1, 2, 4 or 8" if most == SQUARE else "1, 2 or 4 (8 is for square images)"
        raise UsageError(f"orders: {allowed} for images of {spec.height}x{spec.width}, not {orders}")


def sequence(order: int, height: int, width: int) -> Tensor:
    """The pixel at each rank of an order, int64 [H * W].

    Order 0 is the raster order; 1 adds that rows run from right to left, 2 that they run from bottom to top, and 4 that
    columns take the place of rows.
    """
    grid = torch.arange(height * width).view(height, width)
    if order & 4:
        grid = grid.T
    if order & 2:
        grid = grid.flip(0)
    return (grid.flip(1) if order & 1 else grid).flatten()


class Symmetries(nn.Module):
    """A network in several orders; see :class:`pixelloom.networks.protocols.PixelNetwork`.

    Args:
        network: class-conditional with ``joint_classes(orders, classes)`` classes.
        spec: the images.
        orders: number of orders, 2, 4 or 8.
        classes: number of classes, or 0.

    Attributes:
        orders: number of orders.
        order: the order in use; None for one at random per image in training mode, and the first in eval mode.
    """

    def __init__(self, network: nn.Module, spec: ImageSpec, orders: int, classes: int = 0) -> None:
        super().__init__()
        self.network, self.orders, self.classes = network, orders, classes
        self.order: int | None = None
        self.in_sequence = False  # whether images come in the sequence of the order already
        places = torch.stack([sequence(order, spec.height, spec.width) for order in range(orders)])
        self.register_buffer("places", places, persistent=False)  # int64 [orders, H * W]
        self.register_buffer("ranks", places.argsort(1), persistent=False)
        self.register_buffer("own", torch.zeros(1, dtype=torch.long), persistent=False)  # the order, after reorder

    places: Tensor
    ranks: Tensor
    own: Tensor

    def forward(self, x: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]; the conditioning image is in raster order, always."""
        check_given("labels", labels, self.classes)
        if self.in_sequence or not (self.order or self.training):  # order 0 needs no permutation
            out: Tensor = self.network(x, self._joint(self.own, labels), **self._turned(condition, self.own))
            return out
        if self.order is None:
            order = torch.randint(self.orders, (len(x),), device=x.device)
        else:
            order = torch.full((len(x),), self.order, device=x.device)
        joint = self._joint(order, labels)
        out = self.network(_permuted(x, self.places[order]), joint, **self._turned(condition, order))
        return _permuted(out, self.ranks[order])

    def _turned(self, condition: Tensor | None, order: Tensor) -> dict[str, Tensor]:
        """The conditioning image in the sequence of the order of each image, int64 [B] or [1], as an argument."""
        return {} if condition is None else {"condition": _permuted(condition, self.places[order])}

    def _joint(self, order: Tensor, labels: Tensor | None) -> Tensor:
        """The class of the network for an order and a class: int64 [B]."""
        return order if labels is None else order * (self.classes + 1) + labels

    def sequence(self, order: int) -> Tensor:
        """The pixel at each rank of an order, int64 [H * W]."""
        return self.places[order]

    def reorder(self, places: Tensor) -> None:
        """Take images in the sequence of the order in use from now on; no weight belongs to a pixel."""
        if self.order is None or not torch.equal(places.to(self.places.device), self.places[self.order]):
            raise ValueError("the sequence must be that of the order in use")
        self.in_sequence = True
        self.own.fill_(self.order)


def joint_classes(orders: int, classes: int) -> int:
    """Classes of the network: each order with each class and the null class; its own null class is the last of them."""
    return orders * (classes + 1 if classes else 1) - 1


def _permuted(planes: Tensor, places: Tensor) -> Tensor:
    """Pixel r of image b becomes its pixel places[b, r]: [B or 1, features, H, W], int64 [B or 1, H * W]."""
    # [B or 1, features, H, W] -> [B or 1, features, H * W]; both -> [B, features, H * W]
    flat, index = torch.broadcast_tensors(planes.flatten(2), places[:, None])  # type: ignore[no-untyped-call]
    out: Tensor = flat.gather(2, index).unflatten(2, planes.shape[2:])
    return out.to(memory_format=torch.channels_last)
