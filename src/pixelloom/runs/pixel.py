"""Runs of pixel models: maximum likelihood; the best model is selected by its bits/dim."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from PIL.Image import Image
from torch import nn

from pixelloom.core.errors import UsageError
from pixelloom.data.catalog import Dataset
from pixelloom.data.conditions import Condition
from pixelloom.data.masks import fixed_masks
from pixelloom.data.pixels import Scaling
from pixelloom.data.stream import Stream
from pixelloom.heads.discrete import make_head
from pixelloom.layers.compiled import uncompiled
from pixelloom.layers.copies import copy_of
from pixelloom.models.pixel import PixelModel
from pixelloom.models.pixel_description import PixelDescription
from pixelloom.models.training_record import TrainingRecord
from pixelloom.networks.symmetries import check_orders
from pixelloom.objectives.base import Monitor, Objective
from pixelloom.objectives.likelihood import likelihood as likelihood_objective
from pixelloom.runs.config import PixelRun
from pixelloom.runs.evaluate import scored
from pixelloom.runs.family import Setup, by_class, spaced_images
from pixelloom.runs.hidden import hidden_bits
from pixelloom.sampling.ancestral import OnStep
from pixelloom.viz.grid import grid, table

_log = logging.getLogger("pixelloom")
_FEW = 20  # training images


class PixelSetup(Setup[PixelRun, PixelModel]):
    """The setup of a pixel model's run."""

    def build(self) -> PixelModel:
        """Build the untrained model of :meth:`describe`."""
        if len(self.data.train) < _FEW:
            _log.warning(
                "%s: training images: only %d, and %d for validation. The model will repeat the training images, and "
                "its validation says little about others",
                *(self.data.name, len(self.data.train), len(self.data.val)),
            )
        return PixelModel.build(self.describe())

    def describe(self) -> PixelDescription:
        """The description of the model for these data.

        Raises:
            UsageError: if the condition does not fit the images.
        """
        config, data = self.config, self.data
        head = make_head(config.head, data.spec)
        check_orders(config.orders, data.spec)
        try:
            if config.condition != "none":
                Condition(config.condition, data.spec)  # raises if it does not fit the images
        except ValueError as error:
            raise UsageError(f"condition: {error}") from error
        model = config.model
        if config.condition == "mask" and getattr(model, "condition_encoder", None) == "auto":
            model = model.model_copy(
                update={"condition_encoder": "u-net"}
            )  # known pixels anywhere condition all others
        return PixelDescription(
            network=config.network,
            model=model,
            head=config.head.model_copy(update={"kind": head.kind}),
            image=data.spec,
            scaling=_scaling(config, data),
            classes=self.classes,
            null_class=config.label_dropout > 0 or not self.classes,
            embedding=config.embedding if config.inputs == "embedding" else 0,
            condition=config.condition,
            orders=config.orders,
            training=self.record(),
        )

    def objective(self) -> Objective:
        """The likelihood objective."""
        model = self.model
        return likelihood_objective(
            model.network,
            model.head,
            model.spec.levels,
            model.description.scaling,
            self.config.optim,
            Monitor("bits/dim", self.measure),
            classes=self.classes,
            label_dropout=self.config.label_dropout,
            condition=model.condition,
            noise_inputs=self.config.noise_inputs,
        )

    def measure(self, network: nn.Module) -> Mapping[str, float]:
        """Validation metrics of a network, in float32 whatever the precision of training."""
        model, limit = self.model_of(network), self.config.validated
        found = scored(model, self.data, "val", limit, on_images=self.on_images)
        bits = found.bits_per_dim
        if model.condition is not None and model.condition.masks:  # per hidden value, under fixed random masks
            bits = hidden_bits(model, self.data, "val", limit, self.on_images)
        return {"bits/dim": bits, "nats/image": found.nats_per_image}

    def measure_some(self, n: int) -> None:
        """Score n validation images."""
        if n and len(self.data.val):
            scored(self.model_of(self.model.network), self.data, "val", n)

    def model_of(self, network: nn.Module) -> PixelModel:
        """The model of a network. It is cached, so that sampling is planned once."""
        network = _scorable(network)
        if self.model.network is not network:
            self.model = PixelModel(network, self.model.description)
        return self.model

    def snapshot(self, network: nn.Module, record: TrainingRecord) -> PixelModel:
        """The model with its training record."""
        return PixelModel(_scorable(network), self.model.description.model_copy(update={"training": record}))

    def sample_grid(self, model: PixelModel, n: int, on_step: OnStep | None = None) -> Image:
        """A grid of n samples; without a null class, a row for each class.

        With conditioning images, a row has one of them, its samples, and the original image.
        """
        seed = self.config.train.seed
        if model.condition is None and model.description.null_class:
            return grid(model.sample(n, seed=seed, on_step=on_step).numpy(), model.spec.display)
        if model.condition is None:
            n = max(1, n // self.classes) * self.classes
            images = model.sample(n, seed=seed, labels=torch.arange(n) % self.classes, on_step=on_step)
            return by_class(images, self.data, model.spec.display)
        truth = spaced_images(self.data, "val", math.ceil(math.sqrt(n)))
        seen, rows = model.condition.of(truth), len(truth)
        if model.condition.masks:
            seen = model.condition.partly(truth, fixed_masks(rows, *model.spec.shape[1:]))
        row = torch.arange(max(1, n // rows) * rows) % rows
        labels = None if model.description.null_class else row % self.classes
        images = model.sample(len(row), seed=seed, condition=seen[row], labels=labels, on_step=on_step)
        left, right = model.condition.to_images(seen).numpy(), truth.numpy()
        return table(images.numpy(), model.spec.display, rows, left=left, right=right)


def _scorable(network: nn.Module) -> nn.Module:
    """The network, or a copy on the CPU: MPS has no float64, which samples and likelihoods need."""
    on_mps = next(network.parameters()).device.type == "mps"
    return copy_of(uncompiled(network)).to("cpu") if on_mps else network


def _scaling(config: PixelRun, data: Dataset) -> Scaling:
    if config.inputs == "unit":
        return Scaling.unit()
    if config.inputs == "symmetric":
        return Scaling.symmetric()
    if config.inputs == "embedding":
        return Scaling.numbers(data.spec.levels)
    # Through the stream, so that dynamic binarization is included.
    seen = Stream(data.train, data.spec, min(len(data.train), 10_000), dynamic=data.dynamic).batch_at(0)
    return Scaling.standard(seen.images.numpy(), data.spec.levels)
