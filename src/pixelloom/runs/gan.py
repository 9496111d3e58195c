"""Runs of latent models: a generator and a discriminator against each other, chosen by a kernel distance."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from pixelloom.core import rng
from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import Batch
from pixelloom.data.stream import ordered
from pixelloom.engine.state import Hook, Run
from pixelloom.layers.spectral_norm import refresh, spectral_layers
from pixelloom.layers.standing_stats import measure_statistics
from pixelloom.metrics.distances import LEAST, kid
from pixelloom.metrics.extractors import EXTRACTORS, choose, features
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.training_record import TrainingRecord, ValidationRecord
from pixelloom.objectives.adversarial import AdversarialObjective
from pixelloom.objectives.base import Monitor, Objective
from pixelloom.objectives.config import Policy
from pixelloom.objectives.diffaugment import policy_for
from pixelloom.objectives.gan_losses import LOSSES, OverfittingWatch
from pixelloom.runs.config import GANRun
from pixelloom.runs.family import Setup, by_class
from pixelloom.sampling.latent_noise import labels_of, latents
from pixelloom.viz.grid import grid, table

_log = logging.getLogger("pixelloom")
_BATCHES, _BATCH = 16, 64  # from which the statistics of batch norm are taken


class GANSetup(Setup[GANRun, GANModel]):
    """See :class:`Setup`."""

    def build(self) -> GANModel:
        """An untrained model with its discriminator."""
        config, data = self.config, self.data
        if config.matching_aware and self.classes < 2:
            raise UsageError("matching_aware: of which classes? it needs --classes, and data of two or more")
        if config.penalties.lazy_interval > 1 and not config.penalties.on:
            raise UsageError("penalties.lazy_interval: of which penalty? set penalties.r1, r2 or gradient too")
        if config.validation_images < LEAST:
            few = f"validation_images: {config.validation_images} are too few to choose a latent model by"
            raise UsageError(f"{few}: a kernel distance needs {LEAST}")
        if max(len(data.val), len(data.train)) < LEAST:
            few = f"{data.name}: {len(data.train)} training images and {len(data.val)} for validation are too few"
            raise DataError(f"{few} to choose a latent model by: a kernel distance needs {LEAST}; add pictures")
        self.extractor = choose(config.features, data.spec.channels, config.data.source)
        return GANModel.build(
            GANDescription(
                network=config.network,
                model=config.model,
                image=data.spec,
                classes=self.classes,
                training=self.record(),
            )
        )

    def objective(self) -> Objective:
        """Both phases."""
        config, model = self.config, self.model
        assert model.discriminator is not None
        free = not (config.penalties.gradient or any(spectral_layers(model.discriminator)))
        if config.loss == "wasserstein" and free:
            _log.warning(
                "loss: wasserstein, and nothing holds the slope of the discriminator near 1: its logits will run away; "
                "add --penalties.gradient 10, or train a network under spectral norm (sagan, sngan)"
            )
        return AdversarialObjective(
            model.network,
            model.discriminator,
            LOSSES[config.loss],
            model.spec.levels,
            config.discriminator,
            config.generator,
            Monitor(self.figure, self.measure),
            classes=self.classes,
            penalties=config.penalties,
            policy=self.policy,
            d_steps=config.d_steps,
            joint_batch=config.joint_batch,
            accumulate=config.train.accumulate,
            matching_aware=config.matching_aware,
            prepare=self.prepare,
        ).build()

    @property
    def policy(self) -> Policy:
        """What the discriminator sees of images."""
        return self.config.augment or policy_for(self.data.spec, len(self.data.train))

    def prepare(self, generator: nn.Module) -> nn.Module:
        """A copy whose spectral norms and batch statistics fit its weights, classes as frequent as in training."""
        ready = copy.deepcopy(generator)
        refresh(ready)
        device = next(ready.parameters()).device

        def noise(i: int) -> tuple[Tensor, Tensor | None]:
            z = latents(self.model.latent, rng.Stream.STANDING, i * _BATCH, _BATCH).to(device)
            if not self.classes:
                return z, None
            rows = labels_of(len(self._told), rng.Stream.STANDING, i * _BATCH, _BATCH)
            return z, self._told[rows].to(device)

        measure_statistics(ready, (noise(i) for i in range(_BATCHES)))
        return ready

    def model_of(self, network: nn.Module) -> GANModel:
        """The generator alone."""
        return GANModel(network, self.model.description)

    def snapshot(self, network: nn.Module, record: TrainingRecord) -> GANModel:
        """The generator with a copy of the current discriminator."""
        discriminator = copy.deepcopy(self.model.discriminator)
        assert discriminator is not None
        refresh(discriminator)
        description = self.model.description.model_copy(update={"training": record})
        return GANModel(network, description, discriminator)

    @property
    def figure(self) -> str:
        """By which the best model is chosen: the kernel distance, or, with classes, its mean over them.

        The distance of all classes at once does not see whether images are of the class that was asked for (intra-class
        distances: Miyato and Koyama 2018).
        """
        return f"kid-{self.extractor}{'-by-class' if self._members else ''}"

    def measure(self, network: nn.Module) -> Mapping[str, float]:
        """Kernel distances of as many samples as there are held-out images, of the same classes, in float32."""
        real, space = self._real, EXTRACTORS[self.extractor](self.data.spec.channels)
        labels = self._held_out.labels if self.classes else None
        samples = self.model_of(network).sample(len(real), seed=rng.Stream.VALIDATION, labels=labels)
        drawn = features(samples, self.data.spec.levels, space)
        found = {f"kid-{self.extractor}": kid(real, drawn)[0]}
        if self._members:
            each = [kid(real[rows], drawn[rows])[0] for rows in self._members]
            found[self.figure] = sum(each) / len(each)
        return found

    def validation(self, metrics: Mapping[str, float]) -> ValidationRecord:
        """Record of metrics measured against validation images, or training images where those are too few."""
        n = min(self.config.validation_images, len(self.data.split(self.split)))
        return ValidationRecord(metrics=dict(metrics), n=n, split="validation" if self.split == "val" else "training")

    @cached_property
    def split(self) -> str:
        """That figures are measured on."""
        held = len(self.data.val)
        if held >= LEAST:
            return "val"
        _log.warning(
            "%s: only %d in the validation split, and a kernel distance needs %d: it is measured against training "
            "images, and cannot tell a generator that copies them",
            *(self.data.name, held, LEAST),
        )
        return "train"

    @cached_property
    def _told(self) -> Tensor:
        """Labels of the training images."""
        return torch.from_numpy(np.array(self.data.train.labels, np.int64))

    @cached_property
    def _held_out(self) -> Batch:
        """The images that are measured against."""
        return self._some(self.config.validation_images)

    def _some(self, n: int) -> Batch:
        """So many images, evenly spaced over the split, with their labels if there are any."""
        return next(ordered(self.data.split(self.split), self.data.spec, n, dynamic=self.data.dynamic, limit=n))

    @cached_property
    def _real(self) -> Tensor:
        """Features of these images."""
        space = EXTRACTORS[self.extractor](self.data.spec.channels)
        return features(self._held_out.images, self.data.spec.levels, space)

    @cached_property
    def _members(self) -> list[Tensor]:
        """Which of these images are of each class; classes with too few of them count as one, so that they count."""
        labels = self._held_out.labels if self.classes else None
        if labels is None:
            return []
        each = [(labels == c).nonzero()[:, 0] for c in range(self.classes)]
        large = [rows for rows in each if len(rows) >= LEAST]
        others = torch.cat([torch.empty(0, dtype=torch.long), *(rows for rows in each if len(rows) < LEAST)])
        return [*large, others] if large and len(others) >= LEAST else large

    def draw(self, model: GANModel, n: int) -> Image:
        """A grid of n samples; with classes a row each."""
        seed, levels = self.config.train.seed, model.spec.levels
        if not self.classes:
            return grid(model.sample(n, seed=seed).numpy(), levels)
        n = max(1, n // self.classes) * self.classes
        return by_class(model.sample(n, seed=seed, labels=torch.arange(n) % self.classes), self.data, levels)

    def pictures(self, model: GANModel) -> Mapping[str, Image]:
        """The grid, and a row of held-out images above one of samples, of their classes if they have any."""
        n = min(8, self.config.samples)
        real = self._some(n)
        labels = real.labels if self.classes else None
        drawn = model.sample(len(real.images), seed=self.config.train.seed, labels=labels)
        rows = np.stack([real.images.numpy(), drawn.numpy()], axis=1)
        flat = rows.reshape(-1, *model.spec.shape)
        return {**super().pictures(model), "rows": table(flat, model.spec.levels, 2, names=("real", "drawn"))}

    def hooks(self) -> Sequence[Hook]:
        """One that warns when the discriminator has learned the training images by heart, where its dial can tell: that
        real ones outrank generated ones, which is all that some losses know, says more of the generator.
        """
        return () if LOSSES[self.config.loss].boundary is None else (_Overfitting(),)


class _Overfitting(Hook):
    """Lets a :class:`OverfittingWatch` look on."""

    def __init__(self) -> None:
        self.watch = OverfittingWatch()

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        said = self.watch.update(stats["D/r_t"])
        if said:
            _log.warning("%s", said)
