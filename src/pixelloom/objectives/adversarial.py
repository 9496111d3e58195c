"""Adversarial training in two phases: a step of the discriminator D, then one of the generator G."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from pixelloom.core.errors import DataError
from pixelloom.core.types import Batch
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.objectives.base import Monitor, Objective, Phase, Stats, identity
from pixelloom.objectives.config import OptimConfig, Penalties, Policy
from pixelloom.objectives.diffaugment import augment, draw_noise
from pixelloom.objectives.gan_losses import Discriminator, Loss, gradient_penalty, precise, r1, r2


class StepCounter(nn.Module):
    """A counter in a buffer, so that checkpoints hold it and a resumed run continues it."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def next(self) -> int:
        """Return 0, 1, 2, ... on successive calls."""
        n = int(self.count)
        self.count += 1
        return n


@dataclass(frozen=True, eq=False)
class AdversarialObjective:
    """Losses of a discriminator D and a generator G, each with its own optimizer.

        phase D   minimizes   L_D(D(T x), D(T G(z))) + penalties
        phase G   minimizes   L_G(D(T G(z)), D(T x))

    T is the augmentation, drawn independently for each image. Logits and losses are float32 or wider.

    Statistics, means over the batch: ``D/adversarial`` and ``G/loss`` without penalties, ``D/loss`` with them; the
    logits ``D/real``, ``D/fake`` and ``G/fake``; the overfitting heuristic ``D/r_t``; and in steps with penalties their
    values without weights: ``D/r1`` and ``D/r2``, |grad D|^2, and ``D/gradient``, (|grad D| - 1)^2.

    Args:
        generator: (z [B, latent], labels int64 [B] or None) -> images [B, C, H, W] in [-1, 1]; has an attribute
            ``latent``.
        discriminator: (images [B, C, H, W], labels) -> logits [B].
        loss: one of :data:`pixelloom.objectives.gan_losses.LOSSES`.
        levels: number of levels of the training images.
        d_optimizer, g_optimizer: optimizers of D and of G.
        monitor: selects the best G.
        classes: number of classes; above 0 both networks are class-conditional, and generated images have the labels of
            the batch.
        penalties: regularization of D. Lazy penalties count steps in the part "steps".
        policy: augmentation of real and generated images, in both phases.
        d_steps: steps of D for each step of G. Every step of training is one of D, with images and noise of its own; G
            is updated in steps that are multiples of ``d_steps``.
        joint_batch: one pass of D over real and generated images. Without batch norm in D the result is the same; with
            it, the batch statistics are those of the mixture. The tutorials use two passes, the default.
        accumulate: micro-batches of a step, as in the training configuration; a lazy penalty is part of all or none.
        matching_aware: train D to reject real images with a wrong label too, with half the weight of the fake term:
            matching-aware discriminator, Reed et al. 2016 (1605.05396), algorithm 1. It needs two or more classes.
        prepare: see :class:`pixelloom.objectives.base.Objective`.
        steps: counts the calls of ``d_loss``, for lazy penalties.
    """

    generator: nn.Module
    discriminator: nn.Module
    loss: Loss
    levels: int
    d_optimizer: OptimConfig
    g_optimizer: OptimConfig
    monitor: Monitor
    _: KW_ONLY
    classes: int = 0
    penalties: Penalties = field(default_factory=Penalties)
    policy: Policy = field(default_factory=Policy)
    d_steps: int = 1
    joint_batch: bool = False
    accumulate: int = 1
    matching_aware: bool = False
    prepare: Callable[[nn.Module], nn.Module] = identity
    steps: StepCounter = field(default_factory=StepCounter)

    def build(self) -> Objective:
        """Return both phases as an objective whose EMA part is the generator."""
        phases = (
            Phase("D", self.discriminator, self.d_optimizer, self.d_loss),
            Phase("G", self.generator, self.g_optimizer, self.g_loss, self.d_steps),
        )
        parts = {"G": self.generator, "D": self.discriminator, "steps": self.steps}
        return Objective(phases, parts, "G", self.monitor, self.prepare)

    def d_loss(self, batch: Batch) -> tuple[Tensor, Stats]:
        """Return the discriminator's loss and statistics.

        Raises:
            DataError: if the model is class-conditional and the batch has no labels.
        """
        x, labels = self._real(batch)
        with torch.no_grad():  # this phase does not update G, so no graph of it is kept
            fake_x = self._generate(x, labels)
        noise = [draw_noise(len(x), x.device), draw_noise(len(x), x.device)]
        real, fake = self._logits_of_both(self._augment(x, noise[0]), self._augment(fake_x, noise[1]), labels)
        loss = self.loss.discriminator(real, fake)
        if self.matching_aware and self.classes > 1 and labels is not None:
            # Reed et al. 2016, algorithm 1: log s_r + (log(1 - s_w) + log(1 - s_f)) / 2, s_w for the wrong label
            wrong = self._logits(self._augment(x, noise[0]), self._wrong_labels(labels))
            loss = (loss + self.loss.discriminator(real, wrong)) / 2
        stats = {
            "D/adversarial": loss,
            "D/real": real.mean(),
            "D/fake": fake.mean(),
            "D/r_t": self.loss.r_t(real, fake),
        }
        interval = self.penalties.lazy_interval
        if self.penalties.on and self.steps.next() // self.accumulate % interval == 0:
            added, values = self._penalty(x, fake_x, labels, noise)
            # lazy regularization: 1/interval of the steps, interval times the weight (Karras et al. 2020, 1912.04958)
            loss, stats = loss + interval * added, stats | values
        return loss, {name: value.detach() for name, value in stats.items()}

    def g_loss(self, batch: Batch) -> tuple[Tensor, Stats]:
        """Return the generator's loss and statistics. Raises DataError as :meth:`d_loss` does."""
        x, labels = self._real(batch)
        fake_x = self._augment(self._generate(x, labels), draw_noise(len(x), x.device))
        if self.loss.paired:
            real_x = self._augment(x, draw_noise(len(x), x.device))
            real, fake = self._logits_of_both(real_x, fake_x, labels)
        else:
            real, fake = None, self._logits(fake_x, labels)
        return self.loss.generator(fake, real), {"G/fake": fake.mean().detach()}

    def _penalty(self, x: Tensor, fake_x: Tensor, labels: Tensor | None, noise: list[Tensor]) -> tuple[Tensor, Stats]:
        """Return the weighted sum of the penalties, and each without its weight.

        The gradient is that of y -> D(T y): with respect to the images before augmentation.
        """

        def through(noise: Tensor) -> Discriminator:
            return lambda y, labels: self._logits(self._augment(y, noise), labels)

        weights, terms = self.penalties, {}
        if weights.r1:
            terms["r1"] = (weights.r1 / 2, r1(through(noise[0]), x, labels))
        if weights.r2:
            terms["r2"] = (weights.r2 / 2, r2(through(noise[1]), fake_x, labels))
        if weights.gradient:
            u = torch.rand(len(x), device=x.device)
            terms["gradient"] = (weights.gradient, gradient_penalty(through(noise[0]), x, fake_x, labels, u))
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return total, {f"D/{name}": value for name, (_, value) in terms.items()}

    def _real(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return images in [-1, 1], float [B, C, H, W], and labels [B] if the model is class-conditional."""
        if not self.classes:
            return to_model(batch.images, self.levels, Scaling.symmetric()), None
        if batch.labels is None:
            raise DataError("train.classes: the training data has no labels")
        return to_model(batch.images, self.levels, Scaling.symmetric()), batch.labels

    def _wrong_labels(self, labels: Tensor) -> Tensor:
        """Draw for each label another one, uniformly from the other classes."""
        offset = torch.randint(1, self.classes, labels.shape, device=labels.device)
        return (labels + offset) % self.classes

    def _generate(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Generate as many images as x has, with the labels of the batch.

        The generator is in training mode in both phases, so its running statistics are updated in both.
        """
        z = torch.randn(len(x), cast(int, self.generator.latent), device=x.device)
        return precise(self.generator(z, labels))

    def _augment(self, x: Tensor, noise: Tensor) -> Tensor:
        return augment(x, self.policy, noise)

    def _logits(self, x: Tensor, labels: Tensor | None) -> Tensor:
        logits = precise(self.discriminator(x, labels))
        if logits.shape != (len(x),):  # [B, 1] - [B] would broadcast to [B, B]
            raise ValueError(f"a discriminator returns one logit per image, [{len(x)}], not {list(logits.shape)}")
        return logits

    def _logits_of_both(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.joint_batch:
            both = None if labels is None else torch.cat([labels, labels])  # [2 B]
            return cast(tuple[Tensor, Tensor], self._logits(torch.cat([real, fake]), both).chunk(2))
        return self._logits(real, labels), self._logits(fake, labels)
