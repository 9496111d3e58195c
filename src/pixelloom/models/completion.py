"""Completion of partly known images: samples of the hidden pixels given all known ones.

Three methods:

    order       ancestral sampling, exact, in a pixel order of the model in which all hidden pixels come last
    mask        of a model that is conditioned on partly known images (``condition: mask``): exact under that model
    particles   sequential Monte Carlo with K particles, for any model and mask (:mod:`pixelloom.sampling.particles`)

``auto`` takes ``mask`` for a model with that condition, else ``order`` if the model has such an order, else
``particles``. Every known pixel of a result is that of the image.

With several orders o of which some have the hidden pixels h last, the samples follow

    p(h | known) = sum over these o of p_o(known) p_o(h | known) / sum over these o of p_o(known)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pixelloom.core import rng
from pixelloom.core.errors import UsageError
from pixelloom.core.rng import image_noise
from pixelloom.core.types import ImageSpec, Levels
from pixelloom.heads.discrete import check_temperature
from pixelloom.layers.compiled import uncompiled
from pixelloom.models import order_ensemble
from pixelloom.models.inputs import LabelsLike, at_least, booleans, check_condition, check_levels, in_dtype
from pixelloom.sampling.particles import Particles

if TYPE_CHECKING:
    from pixelloom.models.pixel import PixelModel
    from pixelloom.sampling.fast.sampler import FastSampler

Method = Literal["auto", "order", "mask", "particles"]
METHODS: tuple[Method, ...] = ("auto", "order", "mask", "particles")
PARTICLES = 256
DRAWN = 256  # images that are drawn together
_POOR = 0.1  # of the particles: a smaller effective sample size is reported
_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class Completions:
    """Completed images.

    Attributes:
        images: levels, uint8 [N, n, C, H, W].
        log_prob: log p(hidden | known) of each, in nats, float64 [N, n]; 0 without hidden pixels. With particles,
            log p(image) minus the estimate of log p(known).
        ess: smallest effective sample size of the particles at any step, or the effective number of their lineages at
            the end if it is smaller, float64 [N]; None for an exact method.
        method: ``order``, ``mask`` or ``particles``.
    """

    images: Tensor
    log_prob: Tensor
    ess: Tensor | None
    method: str


@dataclass(frozen=True)
class _Task:
    """What is asked for.

    Attributes:
        model: the model.
        images: [N, C, H, W].
        hidden: bool [N, 1, H, W].
        labels: int64 [N], or None.
        condition: conditioning images [N, c, h, w], or None; not with the rule ``mask``.
        n: completions of each image.
        seed: of the samples.
        temperature: of the samples.
        particles: K.
        first: index of the first image.
    """

    model: PixelModel
    images: Tensor
    hidden: Tensor
    labels: Tensor | None
    condition: Tensor | None
    n: int
    seed: int
    temperature: float
    particles: int
    first: int

    def conditioning(self, rows: Tensor) -> dict[str, Any]:
        """Labels and conditioning images of some images, as arguments of the model's methods."""
        found = {"labels": self.labels, "condition": self.condition}
        return {name: value[rows] for name, value in found.items() if value is not None}


def check_mask(mask: Tensor | Levels, spec: ImageSpec, n: int) -> Tensor:
    """A mask of hidden pixels as bool [n, 1, H, W], from [H, W], [1 or n, H, W] or [1 or n, 1, H, W].

    Raises:
        UsageError: for another shape, or values other than 0 and 1.
    """
    planes = booleans(mask, "true or 1 for hidden pixels and false or 0 for known ones; found other values")
    shape = tuple(planes.shape)
    if planes.ndim == 2:
        planes = planes[None]
    if planes.ndim == 3:
        planes = planes[:, None]
    if planes.ndim != 4 or planes.shape[1:] != (1, spec.height, spec.width) or planes.shape[0] not in (1, n):
        raise UsageError(f"mask: [{spec.height}, {spec.width}], one or {n} of them, is needed, not {list(shape)}")
    return planes.expand(n, 1, spec.height, spec.width)


def complete(
    model: PixelModel,
    images: Tensor | Levels,
    mask: Tensor | Levels,
    n: int = 8,
    *,
    seed: int = 0,
    method: Method = "auto",
    labels: LabelsLike = None,
    condition: Tensor | Levels | None = None,
    temperature: float = 1.0,
    particles: int = PARTICLES,
    first: int = 0,
) -> Completions:
    """Draw the hidden pixels of images given the known ones; see the top of this file.

    Args:
        model: a pixel model.
        images: levels, uint8 [N, C, H, W]; values of hidden pixels are not read.
        mask: true for hidden pixels, [H, W] for all images, or [N, H, W].
        n: completions of each image.
        seed: of the samples; completion k of image first + i depends on (seed, first + i, n, k) alone, with particles
            also on their number.
        method: ``auto``, ``order``, ``mask`` or ``particles``.
        labels: class of each image, or one for all.
        condition: conditioning images, for a model that needs other ones than the partly known images.
        temperature: as of ``sample``; not with particles.
        particles: K, the number of particles, n or more.
        first: index of the first image; those of a large set may be completed part by part.

    Raises:
        UsageError: for a mask or images that do not fit, n < 1, a method that the model or the mask does not allow, or
            particles at another temperature.
    """
    at_least("n", n, 1)
    at_least("seed", seed, 0)
    at_least("particles", particles, 2)
    at_least("first", first, 0)
    x = check_levels(images, model.spec)
    hidden = check_mask(mask, model.spec, len(x))
    if method not in METHODS:
        raise UsageError(f"method: {', '.join(METHODS)}, not {method!r}")
    check_temperature(temperature)
    masks = model.condition is not None and model.condition.masks
    if masks and condition is not None:
        raise UsageError("condition: this model is conditioned on the known pixels of the images themselves")
    cond = check_condition(condition, model.condition, len(x))
    cond = None if masks or cond is None else cond.expand(len(x), -1, -1, -1)
    labels = model.labels_of(labels, len(x))
    task = _Task(model, x, hidden, labels, cond, n, seed, temperature, particles, first)
    chosen = _method(task) if method == "auto" else method
    return {"order": _by_order, "mask": _by_mask, "particles": _by_particles}[chosen](task)


def _method(task: _Task) -> Method:
    condition = task.model.condition
    if condition is not None and condition.masks:
        return "mask"
    return "order" if all(_orders(task, i) for i in range(len(task.images))) else "particles"


# By order


def _orders(task: _Task, i: int) -> list[int]:
    """The orders in which all hidden pixels of image i come last."""
    hidden, network = task.hidden[i].flatten(), uncompiled(task.model.network)
    known = hidden.numel() - int(hidden.sum())
    orders = range(order_ensemble.orders(network))
    return [o for o in orders if bool(hidden[order_ensemble.sequence(network, o, hidden.numel())[known:]].all())]


def _by_order(task: _Task) -> Completions:
    count, n = len(task.images), task.n
    images = torch.zeros(count, n, *task.model.spec.shape, dtype=torch.uint8)
    log_prob = torch.zeros(count, n, dtype=torch.float64)
    alike: dict[bytes, list[int]] = {}  # images with the same mask are drawn together
    for i, mask in enumerate(task.hidden):
        alike.setdefault(mask.cpu().numpy().tobytes(), []).append(i)
    for rows in map(torch.tensor, alike.values()):
        orders = _orders(task, int(rows[0]))
        if not orders:
            raise UsageError(
                f"method: order: image {int(rows[0])} has known pixels after hidden ones in every pixel order of this "
                "model; use particles, or a model trained with --condition mask"
            )
        with _ways(task.model, orders) as ways:
            images[rows], log_prob[rows] = _in_orders(task, rows, ways)
    return Completions(images, log_prob, None, "order")


@dataclass(frozen=True)
class _InOrder:
    """A model in one of its pixel orders, for images in raster order.

    Attributes:
        model: the model in raster order.
        way: to the sequence of the order and back; None for raster order.
    """

    model: PixelModel
    way: order_ensemble.InSequence | None = None

    def log_prob(self, images: Tensor, where: Tensor, conditioning: dict[str, Any]) -> Tensor:
        """Log-probability of the values at some pixels, each given all before it in the order, float64 [N].

        Args:
            images: levels, uint8 [N, C, H, W].
            where: bool [1, 1, H, W].
            conditioning: labels and conditioning images.
        """
        nats = self.model.nats(self._taken(images), **conditioning)
        return -(nats.double() * self._taken(where)).flatten(1).sum(1)

    def draw(self, noise: Tensor, images: Tensor, hidden: Tensor, options: dict[str, Any]) -> Tensor:
        """Draw the hidden pixels, bool [1, 1, H, W], of images from noise: uint8 [N, C, H, W]."""
        given, known = self._taken(images), self._taken(~hidden)
        drawn = self.model.draw(self._taken(noise), given=given, mask=known, **options)
        return drawn.cpu() if self.way is None else self.way.put_back(drawn).cpu()

    def _taken(self, planes: Tensor) -> Tensor:
        return planes if self.way is None else self.way.taken(planes)


@contextmanager
def _ways(model: PixelModel, orders: list[int]) -> Iterator[list[_InOrder]]:
    """A model in some of its orders."""
    if order_ensemble.orders(model.network) == 1:
        yield [_InOrder(model)]
        return
    with ExitStack() as stack:
        network = uncompiled(model.network)
        found = [stack.enter_context(model.order_models.model_of(network, order)) for order in orders]
        yield [_InOrder(one, way) for way, one in found]


def _in_orders(task: _Task, rows: Tensor, ways: list[_InOrder]) -> tuple[Tensor, Tensor]:
    """Completions of images of one mask [R, n, C, H, W], and their log-probabilities [R, n].

    Args:
        task: what is asked for.
        rows: numbers of the images, int64 [R].
        ways: the model in the orders in which the hidden pixels come last.
    """
    spec, n = task.model.spec, task.n
    given, hidden, conditioning = task.images[rows], task.hidden[rows[:1]], task.conditioning(rows)
    known = torch.stack([way.log_prob(given, ~hidden, conditioning) for way in ways])  # [orders, R]
    index = ((task.first + rows)[:, None] * n + torch.arange(n)).flatten().tolist()  # [R * n]
    uniform = [float(rng.uniform(1, rng.Stream.COMPLETION_ORDER, task.seed, i)[0]) for i in index]
    # The order of each completion is drawn in proportion to p_o(known).
    below = known.softmax(0).cumsum(0)[:-1].repeat_interleave(n, 1)  # [orders - 1, R * n]
    chosen = (below <= torch.tensor(uniform, dtype=torch.float64)).sum(0)
    given, of_each = given.repeat_interleave(n, 0), rows.repeat_interleave(n)
    images, noise = torch.empty_like(given), torch.cat([image_noise(spec, task.seed, i, 1) for i in index])
    for number, way in enumerate(ways):
        at = (chosen == number).nonzero()[:, 0]
        for start in range(0, len(at), DRAWN):
            part = at[start : start + DRAWN]
            options = task.conditioning(of_each[part]) | {"temperature": task.temperature}
            images[part] = way.draw(noise[part], given[part], hidden, options)
    everything, conditioning = torch.ones_like(hidden), task.conditioning(of_each)
    joint = torch.stack([way.log_prob(images, everything, conditioning) for way in ways])
    log_prob = joint.logsumexp(0).view(-1, n) - known.logsumexp(0)[:, None]  # [R * n] -> [R, n]
    return images.view(len(rows), n, *spec.shape), log_prob


# By a conditioning image


def _by_mask(task: _Task) -> Completions:
    model, condition = task.model, task.model.condition
    if condition is None or not condition.masks:
        raise UsageError("method: mask: this model is not conditioned on partly known images; train --condition mask")
    images, hidden = (planes.repeat_interleave(task.n, 0) for planes in (task.images, task.hidden))
    given = condition.partly(images, hidden)
    labels = None if task.labels is None else task.labels.repeat_interleave(task.n)
    shape = (len(task.images), task.n)
    if not len(images):
        return Completions(
            images.view(*shape, *model.spec.shape), torch.empty(shape, dtype=torch.float64), None, "mask"
        )
    drawn = model.sample(  # keeps the known pixels
        len(images), seed=task.seed, first=task.first * task.n, labels=labels, condition=given,
        temperature=task.temperature,
    )  # fmt: skip
    log_prob = model.log_prob(drawn, labels, given)
    return Completions(drawn.view(*shape, *model.spec.shape), log_prob.view(shape), None, "mask")


# By particles


def _by_particles(task: _Task) -> Completions:
    if task.temperature != 1:
        raise UsageError("temperature: particles follow the model's own distribution; use temperature 1")
    if task.particles < task.n:
        raise UsageError(f"particles: {task.n} completions need as many particles or more, not {task.particles}")
    sampler, count = task.model.fast_sampler(), task.particles
    together = max(1, sampler.batch(len(task.images) * count) // count)  # images whose particles share a batch
    parts = [_of_particles(task, sampler, rows) for rows in _chunks(len(task.images), together)]
    images, log_prob, ess = (torch.cat(each) for each in zip(*parts, strict=True)) if parts else _none(task)
    return Completions(images, log_prob, ess, "particles")


def warn_of_collapse(found: Completions, particles: int) -> None:
    """Log a warning if few of the particles of some image have weight, or lines of their own."""
    poor = 0 if found.ess is None else int((found.ess < _POOR * particles).sum())
    if poor:
        _log.warning(
            "particles: in %d of %d images fewer than %g of %d particles have effective weight or lines of their own; "
            "their completions may be alike and far from the model's distribution; use more particles, or a model "
            "trained with --condition mask", poor, len(found.images), _POOR * particles, particles,
        )  # fmt: skip


def _of_particles(task: _Task, sampler: FastSampler, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Completions of R images [R, n, C, H, W], log-probabilities [R, n], smallest effective sample sizes [R].

    Noise and resampling of image i depend on (seed, i), whatever images share the batch.
    """
    model, count, n, of_each = task.model, task.particles, task.n, rows.repeat_interleave(task.particles)
    uniform = [rng.uniform(sampler.steps + 1, rng.Stream.RESAMPLING, task.seed, task.first + i) for i in rows.tolist()]
    numbers = torch.from_numpy(np.stack(uniform))  # [R, steps + 1]
    weights, conditioning = Particles(numbers[:, :-1], count), task.conditioning(of_each)
    planes = model.conditioning(conditioning.get("labels"), conditioning.get("condition", _nothing_known(model)))
    drawn = sampler.sample(
        image_noise(model.spec, task.seed, (task.first + int(rows[0])) * count, len(of_each)).to(model.device),
        conditioning=in_dtype(planes, sampler.dtype),
        given=task.images[of_each].to(model.device),
        mask=~task.hidden[of_each].to(model.device),
        particles=weights,
    )
    images = drawn.cpu()[weights.choose(n, numbers[:, -1]).flatten()]  # [R * n, C, H, W]
    log_prob = model.log_prob(images, **task.conditioning(rows.repeat_interleave(n))).view(len(rows), n)
    shape = (len(rows), n, *model.spec.shape)
    return (
        images.view(shape),
        log_prob - weights.evidence()[:, None],
        torch.minimum(weights.least_ess, weights.lineages()),
    )


def _nothing_known(model: PixelModel) -> Tensor | None:
    return None if model.condition is None else model.condition.default


def _chunks(n: int, size: int) -> Iterator[Tensor]:
    """0 .. n - 1 in parts of a size, int64."""
    return (torch.arange(start, min(start + size, n)) for start in range(0, n, size))


def _none(task: _Task) -> tuple[Tensor, Tensor, Tensor]:
    """The results without images."""
    empty = torch.empty(0, task.n, dtype=torch.float64)
    return torch.empty(0, task.n, *task.model.spec.shape, dtype=torch.uint8), empty, empty[:, 0]
