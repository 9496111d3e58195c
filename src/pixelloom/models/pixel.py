"""A trained pixel model: exact log-probabilities and samples.

A model folder holds ``model.safetensors`` (weights and description, with a checksum) and ``config.json`` (the same
description, to be read by people and other programs). Loading never runs code from either.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from pixelloom.core.atomic import whole_folder
from pixelloom.core.errors import UsageError
from pixelloom.core.rng import image_noise
from pixelloom.core.threads import ThreadChoice
from pixelloom.core.types import Conditioning, ImageSpec, Levels
from pixelloom.data.conditions import Condition
from pixelloom.data.pixels import to_model
from pixelloom.engine.safetensors_io import save_described
from pixelloom.heads.discrete import Head, check_temperature, make_head
from pixelloom.heads.likeliest import likeliest
from pixelloom.layers.compiled import uncompiled
from pixelloom.layers.reads import Marks
from pixelloom.models import completion, order_ensemble
from pixelloom.models.description import CONFIG, FILES, WEIGHTS, rebuild
from pixelloom.models.drawing import drawer
from pixelloom.models.family import Ability
from pixelloom.models.inputs import (
    LabelsLike,
    Precision,
    at_least,
    check_condition,
    check_known,
    check_labels,
    in_dtype,
    in_precision,
    of_batch,
    with_float64,
)
from pixelloom.models.own_network import NetworkLike, OfOwnNetwork, builder
from pixelloom.models.pixel_description import PixelDescription
from pixelloom.models.scoring import of_values
from pixelloom.networks import build_network
from pixelloom.sampling import ancestral
from pixelloom.sampling.exact import exact
from pixelloom.sampling.fast import sampler as fast
from pixelloom.sampling.fast.planner import Plan


@final
class PixelModel(OfOwnNetwork):
    """An autoregressive network with its head and data scaling.

    Noise and conditioning are arguments of each call, so callbacks, threads and samplers can share one model.

    Args:
        network: maps pixels in model space [B, C, H, W] to parameters of the head [B, outputs, H, W].
        description: network, image shape, head, scaling and training record.
    """

    def __init__(self, network: nn.Module, description: PixelDescription) -> None:
        self.network = network.eval()
        self.description = description
        self.spec: ImageSpec = description.image
        self.head: Head = make_head(description.head, self.spec)
        self.passes, self._steps = ThreadChoice(), ThreadChoice()  # of the network, and of the fast sampler
        self._plans = fast.LastPlan()
        self.order_models = order_ensemble.Drawers(partial(PixelModel, description=description))
        self.condition: Condition | None = description.conditioning_image()
        """The conditioning image that the model takes; None for none."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the weights and the description; plans are made again."""
        return PixelModel, (uncompiled(self.network), self.description)

    @classmethod
    def build(cls, description: PixelDescription) -> PixelModel:
        """An untrained model."""
        head, condition = make_head(description.head, description.image), description.conditioning_image()
        network = build_network(
            description.network,
            description.model,
            description.image,
            outputs=head.outputs,
            groups=head.groups,
            classes=description.classes,
            embedding=description.embedding,
            condition=0 if condition is None else condition.spec.channels,
            orders=description.orders,
        )
        return cls(network.to(memory_format=torch.channels_last), description)  # type: ignore[call-overload]

    @property
    def can(self) -> frozenset[Ability]:
        """The abilities of this model."""
        found: set[Ability] = {"likelihood", "completion", "temperature", "method", "precision", "receptive_field"}
        if order_ensemble.orders(self.network) == 1:
            found.add("given")
        if self.description.classes:
            guided = self.head.kind != "logistics" and self.description.null_class
            found |= {"classes", "guidance"} if guided else {"classes"}
        return frozenset(found | {"condition"} if self.condition else found)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> PixelModel:
        """Move the weights to a device, in place; to the CPU instead of MPS, which has no float64."""
        self.network.to(with_float64(device))
        return self

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.network.parameters())

    def predict(self, levels: Tensor, labels: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Parameters of the head at every position, [B, outputs, H, W], for levels uint8 [B, C, H, W].

        Labels are int64 [B], conditioning images uint8 [B, c, h, w]. An ensemble of several pixel orders is refused.
        """
        order_ensemble.refuse(self.network, "predict")
        return self.forward(self.network, levels, self.conditioning(labels, condition))

    def conditioning(self, labels: Tensor | None, condition: Tensor | None) -> Conditioning:
        """Keyword arguments of the network, on its device."""
        found = {} if labels is None else {"labels": labels.to(self.device)}
        if self.condition is not None and condition is not None:
            found["condition"] = self.condition.planes(condition.to(self.device))
        return found

    def labels_of(self, labels: LabelsLike, n: int) -> Tensor | None:
        """Labels as the network takes them, int64 [n]; raises UsageError for those that the model lacks."""
        return check_labels(labels, self.description, n, self.device, null=self.description.null_class)

    def _to_model(self, levels: Tensor) -> Tensor:
        return to_model(levels, self.spec.levels, self.description.scaling)

    def forward(self, network: nn.Module, levels: Tensor, conditioning: Conditioning) -> Tensor:
        """Parameters of the head from a copy of the network, in another precision or another pixel order, say."""
        x = self._to_model(levels).to(next(network.parameters()).dtype)
        with exact(x.device):
            params: Tensor = network(x, **in_dtype(conditioning, x.dtype))
        return params

    @torch.no_grad()
    def log_prob(
        self,
        images: Tensor | Levels,
        labels: LabelsLike = None,
        condition: Tensor | Levels | None = None,
        *,
        batch: int = 64,
        threads: int | None = None,
    ) -> Tensor:
        """Natural log-probability of each image, float64 [N], from one parallel pass in float32.

        A conditional model gives log p(x | labels, condition); of a partly known image, log p(hidden | known).

        Args:
            images: levels, uint8 [N, C, H, W].
            labels: class of each image, by name or number, or one for all; None is the null class.
            condition: conditioning image of each image, levels uint8 [N, c, h, w], or one for all; None derives them
                from ``images``.
            batch: images per batch; bounds the memory, and changes the result by rounding only.
            threads: CPU threads; None chooses by measured time.

        Raises:
            UsageError: if images, labels or conditioning images do not fit the model, or for batch < 1.
        """

        def total(nats: list[Tensor]) -> Tensor:
            return order_ensemble.average([-each.double().flatten(1).sum(1) for each in nats])

        parts = of_values(self, images, labels, condition, batch, threads, total)
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)

    @torch.no_grad()
    def nats(
        self,
        images: Tensor | Levels,
        labels: LabelsLike = None,
        condition: Tensor | Levels | None = None,
        *,
        batch: int = 64,
        threads: int | None = None,
    ) -> Tensor:
        """-log p of each value given those before it, float32 [N, C, H, W]; their sum is -log p of the image.

        Arguments and errors are those of :meth:`log_prob`; an ensemble of several pixel orders is refused, since it
        has no probabilities of single values.
        """
        order_ensemble.refuse(self.network, "nats")
        parts = of_values(self, images, labels, condition, batch, threads, lambda nats: nats[0])
        return torch.cat(parts) if parts else torch.empty(0, *self.spec.shape)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        given: Tensor | Levels | None = None,
        mask: Tensor | None = None,
        labels: LabelsLike = None,
        guidance: float = 0.0,
        condition: Tensor | Levels | None = None,
        batch: int | None = None,
        method: Literal["fast", "plain"] = "fast",
        precision: Precision | None = None,
        threads: int | None = None,
        on_step: ancestral.OnStep | None = None,
    ) -> Tensor:
        """Sample n images, levels uint8 [n, C, H, W]; image i depends on (seed, first + i) alone.

        Args:
            n: number of images.
            seed: seed of the noise.
            first: index of the first image.
            temperature: divisor of the logits; below 1 for likelier images, above 1 for more varied ones.
            top_k: draw each value from its k likeliest levels. With it or ``top_p`` images do not follow the model's
                distribution, see :mod:`pixelloom.heads.likeliest`.
            top_p: draw each value from the fewest levels, the likeliest ones, whose probabilities sum to p or more.
            given: partly known images, levels uint8 [n or 1, C, H, W].
            mask: bool, broadcastable to [n, C, H, W], true where ``given`` is known. Values are sampled in raster order
                given those before; known values after a pixel are kept, but do not influence it. Not for an ensemble
                of several orders.
            labels: class of each image, by name or number, or one for all; None is the null class.
            guidance: w of classifier-free guidance, (1 + w) cond - w uncond, on logits; 0 for none.
            condition: conditioning image of each image, levels uint8 [n, c, h, w], or one for all; see
                ``model.condition.of``.
            batch: images per batch, without effect on the images; None for what fits a bounded memory.
            method: "fast" computes each feature once; "plain" runs the network once per pixel. The images are the same.
            precision: "fp32", "bf16" or "fp64"; None for that of the weights. Rounding may change a pixel.
            threads: CPU threads; None chooses by measured time.
            on_step: callback (steps done, steps of the batch, images of the batch), after each step; the images are a
                view of a buffer that later steps change.

        Raises:
            UsageError: for an argument out of its range, or shapes that do not fit.
            ModelError: with "fast", if the network is not autoregressive or the reads of a layer are unknown; a network
                of one's own is then sampled by "plain", with a warning.
        """
        least = {"n": (n, 1), "batch": (n if batch is None else batch, 1), "seed": (seed, 0), "first": (first, 0)}
        for name, bounds in least.items():
            at_least(name, *bounds)
        check_temperature(temperature)
        classes = self.labels_of(labels, n)
        cond = check_condition(condition, self.condition, n)
        known, where = check_known(given, mask, self.spec, n, self.device, cond, self.condition)
        draw, fitting = drawer(self, method, precision, where, guidance, threads, likeliest(self.head, top_k, top_p))
        size = fitting(n) if batch is None else batch
        if order_ensemble.orders(self.network) > 1:
            return self.order_models.sample(
                uncompiled(self.network), n, seed=seed, first=first, mask=mask, labels=classes, on_step=on_step,
                batch=size, temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance, method=method,
                precision=precision, threads=threads, condition=cond, given=known, where=where,
            )  # fmt: skip
        parts = []
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            drawn = draw(
                image_noise(self.spec, seed, first + start, rows.stop - start).to(self.device),
                conditioning=self.conditioning(None if classes is None else classes[rows], of_batch(cond, rows)),
                temperature=temperature,
                given=None if known is None else known[rows],
                mask=None if where is None else where[rows],
                on_step=on_step,
            )
            parts.append(drawn.cpu())
        return torch.cat(parts)

    def draw(
        self,
        noise: Tensor,
        *,
        given: Tensor | Levels | None = None,
        mask: Tensor | None = None,
        labels: LabelsLike = None,
        condition: Tensor | Levels | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 0.0,
        method: Literal["fast", "plain"] = "fast",
        precision: Precision | None = None,
        threads: int | None = None,
        on_step: ancestral.OnStep | None = None,
    ) -> Tensor:
        """Images of given noise, levels uint8 [n, C, H, W], in one batch; for a model of one order.

        ``noise`` is uniform in [0, 1), float64 [n, C, H, W]. Other arguments and errors are those of :meth:`sample`.
        """
        order_ensemble.refuse(self.network, "draw")
        if noise.ndim != 4 or tuple(noise.shape[1:]) != self.spec.shape or not len(noise):
            raise UsageError(f"noise: [n, {', '.join(map(str, self.spec.shape))}] is needed, not {list(noise.shape)}")
        cond = check_condition(condition, self.condition, len(noise))
        conditioning = self.conditioning(self.labels_of(labels, len(noise)), cond)
        partly, where = check_known(given, mask, self.spec, len(noise), self.device, cond, self.condition)
        draw, _ = drawer(self, method, precision, where, guidance, threads, likeliest(self.head, top_k, top_p))
        return draw(
            noise.to(self.device), conditioning=conditioning, temperature=temperature, given=partly, mask=where,
            on_step=on_step,
        )  # fmt: skip

    def complete(
        self,
        images: Tensor | Levels,
        mask: Tensor | Levels,
        n: int = 8,
        *,
        seed: int = 0,
        method: completion.Method = "auto",
        labels: LabelsLike = None,
        condition: Tensor | Levels | None = None,
        temperature: float = 1.0,
        particles: int = completion.PARTICLES,
    ) -> completion.Completions:
        """Draw the hidden pixels of images given the known ones; see :func:`pixelloom.models.completion.complete`."""
        found = completion.complete(
            self, images, mask, n, seed=seed, method=method, labels=labels, condition=condition,
            temperature=temperature, particles=particles,
        )  # fmt: skip
        completion.warn_of_collapse(found, particles)
        return found

    def of_network(self, network: nn.Module) -> PixelModel:
        """A model of the same description with another network."""
        return PixelModel(network, self.description)

    def fast_sampler(
        self,
        precision: Precision | None = None,
        mask: Tensor | None = None,
        guidance: float = 0.0,
        threads: int | None = None,
        head: Head | None = None,
    ) -> fast.FastSampler:
        """The sampler of method "fast", with its steps, memory per image and batch size.

        Arguments are those of :meth:`sample`; ``mask`` is bool [N, C, H, W], ``head`` None for that of the model.

        Raises:
            UsageError: for an unknown precision.
            ModelError: if the network is not autoregressive or a layer does not declare its reads.
        """
        network = in_precision(uncompiled(self.network), precision)
        first = next(network.parameters())
        return fast.FastSampler(
            self._plan(network, None if mask is None else mask.all(dim=0).cpu().numpy()),
            head or self.head,
            self.spec,
            self._to_model,
            first.dtype,
            first.device,
            guidance=guidance,
            threads=threads,
            choice=self._steps,
        )

    def _plan(self, network: nn.Module, known: Marks | None) -> Plan:
        """The sampling plan; the last one is reused while the network has the same layers."""
        conditioning = in_dtype(self._placeholders(), next(network.parameters()).dtype)
        plans = self._plans if network is uncompiled(self.network) else fast.LastPlan()
        return plans.of(network, self.head, self.spec, known, conditioning)

    def _placeholders(self) -> Conditioning:
        """The conditioning of one image, for its names and shapes."""
        labels = torch.zeros(1, dtype=torch.long) if self.description.classes else None
        shape = None if self.condition is None else self.condition.spec.shape
        return self.conditioning(labels, None if shape is None else torch.zeros(1, *shape, dtype=torch.uint8))

    def save(self, folder: Path | str) -> str:
        """Write the model folder; returns the SHA-256 of its contents.

        Raises:
            ModelError: if the folder cannot be written; earlier files are left unchanged.
        """
        config = self.description.model_dump(mode="json")
        with whole_folder(Path(folder), FILES) as target:
            return save_described(target / WEIGHTS, target / CONFIG, uncompiled(self.network).state_dict(), config)


def load_pixel(folder: Path, network: NetworkLike | None = None) -> PixelModel:
    """Load a model written by :meth:`PixelModel.save`, onto the CPU; one of a network of one's own into ``network``.

    Raises:
        ModelError: if the weights are missing, damaged, of another format, or do not fit their own description.
    """
    return rebuild(folder / WEIGHTS, PixelDescription, builder(folder, network, PixelModel.build, PixelModel))
