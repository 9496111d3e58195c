"""Runs of GANs; the best model is selected by its KID on validation images.

With too few validation images the last model is kept: KID against training images prefers copies of them. With too few
training images as well, KID is not measured.
"""

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
from pixelloom.core.errors import UsageError
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
from pixelloom.sampling.ancestral import OnStep
from pixelloom.sampling.latent_noise import labels_of, latents
from pixelloom.viz.grid import grid, table

_log = logging.getLogger("pixelloom")
_BATCHES, _BATCH = 16, 64  # batches for standing statistics, and their size
_EARLY = 0.2  # of a run's steps


class GANSetup(Setup[GANRun, GANModel]):
    """The setup of a GAN's run."""

    def build(self) -> GANModel:
        """Build the untrained generator and discriminator."""
        config, data = self.config, self.data
        if data.spec.palette is not None:
            raise UsageError("data.palette: a GAN generates intensities; remove it, or choose a pixel model")
        if config.matching_aware and self.classes < 2:
            raise UsageError("matching_aware: needs --classes, and data of two or more classes")
        if config.joint_batch and getattr(config.model, "deviation", False):
            raise UsageError("joint_batch: model.deviation compares batches of real and generated images; remove one")
        if config.penalties.lazy_interval > 1 and not config.penalties.on:
            raise UsageError("penalties.lazy_interval: needs a penalty; set penalties.r1, r2 or gradient")
        if config.validated < LEAST:
            raise UsageError(f"validation_images: {config.validated} are too few for KID, which needs {LEAST}")
        if self.few:
            more = (
                "" if self.policy.on else "; turn on differentiable augmentation (remove augment.* from the settings)"
            )
            _log.warning(
                "%s: training images: only %d (the others are left out, for validation and test). Samples will repeat "
                "them. KID needs %d images and cannot be estimated, so the last model is kept%s",
                *(data.name, len(data.train), LEAST, more),
            )
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
        """The adversarial objective, with a discriminator and a generator phase."""
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
            Monitor("", lambda _: {}, selects=False)
            if self.few
            else Monitor(self.figure, self.measure, selects=self.split == "val"),
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
        """Augmentation of the images that the discriminator sees."""
        return self.config.augment or policy_for(self.data.spec, len(self.data.train))

    def prepare(self, generator: nn.Module) -> nn.Module:
        """A copy with converged spectral norms and standing statistics, with classes as frequent as in training."""
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
        """The generator, without the discriminator."""
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
        """Name of the metric that selects the best model: KID, or its mean over classes.

        The KID of all classes together does not notice wrong classes. Source: Miyato, Koyama 2018 (intra FID).
        """
        return f"kid-{self.extractor}{'-by-class' if self._members else ''}"

    def measure(self, network: nn.Module) -> Mapping[str, float]:
        """KID between held-out images and as many samples of the same classes, in float32."""
        real, space = self._real, EXTRACTORS[self.extractor](self.data.spec.channels)
        labels = self._held_out.labels if self.classes else None
        samples = self.model_of(network).sample(
            len(real), seed=rng.Stream.VALIDATION, labels=labels, on_step=self._counted()
        )
        drawn = features(samples, self.data.spec.levels, space)
        found = {f"kid-{self.extractor}": kid(real, drawn)[0]}
        if self._members:
            each = [kid(real[rows], drawn[rows])[0] for rows in self._members]
            found[self.figure] = sum(each) / len(each)
        return found

    def _counted(self) -> OnStep:
        """A callback of sampling that counts images for ``on_images``."""
        images = 0

        def count(_: int, __: int, batch: Tensor) -> None:
            nonlocal images
            images += len(batch)
            self.on_images(images)

        return count

    def measure_some(self, n: int) -> None:
        """Sample n images, and compute their features; none: standing statistics."""
        if not n:
            self.prepare(self.model.network)
            return
        space = EXTRACTORS[self.extractor](self.data.spec.channels)
        labels = torch.arange(n) % self.classes if self.classes else None
        samples = self.model.sample(n, seed=rng.Stream.VALIDATION, labels=labels)
        features(samples, self.data.spec.levels, space)

    def validation(self, metrics: Mapping[str, float]) -> ValidationRecord:
        """Record of metrics measured against validation images, or training images where those are too few."""
        n = min(self.config.validated, len(self.data.split(self.split))) if metrics else 0
        return ValidationRecord(metrics=dict(metrics), n=n, split="validation" if self.split == "val" else "training")

    @property
    def few(self) -> bool:
        """Whether there are too few images of either split to estimate KID."""
        return max(len(self.data.val), len(self.data.train)) < LEAST

    @cached_property
    def split(self) -> str:
        """The split that validation metrics are measured on."""
        held = len(self.data.val)
        if held >= LEAST:
            return "val"
        if self.few:
            return "train"
        _log.warning(
            "%s: only %d images in the validation split, and KID needs %d: it is measured against training images and "
            "prefers copies of them, so the last model is kept instead of the best",
            *(self.data.name, held, LEAST),
        )
        return "train"

    @cached_property
    def _told(self) -> Tensor:
        """Labels of the training images."""
        return torch.from_numpy(np.array(self.data.train.labels, np.int64))

    @cached_property
    def _held_out(self) -> Batch:
        """The real images of validation metrics."""
        return self._some(self.config.validated)

    def _some(self, n: int) -> Batch:
        """n images at even spacing in the split, with their labels."""
        return next(ordered(self.data.split(self.split), self.data.spec, n, dynamic=self.data.dynamic, limit=n))

    @cached_property
    def _real(self) -> Tensor:
        """Features of the real images, float32 [n, d]."""
        space = EXTRACTORS[self.extractor](self.data.spec.channels)
        return features(self._held_out.images, self.data.spec.levels, space)

    @cached_property
    def _members(self) -> list[Tensor]:
        """Indices of the real images of each class; classes that are too small for KID are merged into one."""
        labels = self._held_out.labels if self.classes else None
        if labels is None:
            return []
        each = [(labels == c).nonzero()[:, 0] for c in range(self.classes)]
        large = [rows for rows in each if len(rows) >= LEAST]
        others = torch.cat([torch.empty(0, dtype=torch.long), *(rows for rows in each if len(rows) < LEAST)])
        return [*large, others] if large and len(others) >= LEAST else large

    def sample_grid(self, model: GANModel, n: int, on_step: OnStep | None = None) -> Image:
        """A grid of n samples; with classes, one row per class."""
        seed, levels = self.config.train.seed, model.spec.levels
        if not self.classes:
            return grid(model.sample(n, seed=seed, on_step=on_step).numpy(), levels)
        n = max(1, n // self.classes) * self.classes
        images = model.sample(n, seed=seed, labels=torch.arange(n) % self.classes, on_step=on_step)
        return by_class(images, self.data, levels)

    def final_images(self, model: GANModel, n: int, on_step: OnStep | None = None) -> Mapping[str, Image]:
        """The grid, and a row of held-out images above a row of samples of the same classes."""
        real = self._some(min(8, n))
        labels = real.labels if self.classes else None
        drawn = model.sample(len(real.images), seed=self.config.train.seed, labels=labels)
        rows = np.stack([real.images.numpy(), drawn.numpy()], axis=1)
        flat = rows.reshape(-1, *model.spec.shape)
        return {
            **super().final_images(model, n, on_step),
            "rows": table(flat, model.spec.levels, 2, names=("real", "generated")),
        }

    def hooks(self) -> Sequence[Hook]:
        """Warnings of the run; for losses without a boundary r_t says more about the generator than overfitting."""
        return (_Early(),) if LOSSES[self.config.loss].boundary is None else (_Overfitting(), _Early())


class _Overfitting(Hook):
    """Warns if the overfitting heuristic r_t (Karras et al. 2020) indicates overfitting."""

    def __init__(self) -> None:
        self.watch = OverfittingWatch()

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        warning = self.watch.update(stats["D/r_t"])
        if warning:
            _log.warning("%s", warning)


class _Early(Hook):
    """Warns at the end if the best model is an early one, which a GAN that never learned leaves too."""

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        state = run.state
        if run.progress >= 1 and state.best is not None and state.best_step < _EARLY * state.step:
            _log.warning(
                "the best model is from step %d of %d, and no later %s was lower: look at samples/ and curves.png "
                "before you use it; the last model is in last/",
                *(state.best_step, state.step, run.objective.monitor.name),
            )
