"""Adversarial training: two phases, the discriminator and then the generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pixelloom.core.errors import DataError
from pixelloom.core.types import Batch
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.objectives.base import Monitor, Objective, OptimConfig, Phase, Stats, as_it_is
from pixelloom.objectives.diffaugment import Policy, augment, draw_noise
from pixelloom.objectives.gan_losses import Discriminator, Loss, Penalties, gradient_penalty, precise, r1, r2


class StepCounter(nn.Module):
    """Counts rounds, in a buffer: a checkpoint keeps it, so a resumed run goes on in step."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def next(self) -> int:
        """0, 1, 2, ..."""
        n = int(self.count)
        self.count += 1
        return n


@dataclass(frozen=True, eq=False)
class _Game:
    """Both losses; see :func:`adversarial` for the fields."""

    generator: nn.Module
    discriminator: nn.Module
    loss: Loss
    levels: int
    classes: int
    penalties: Penalties
    policy: Policy
    joint_batch: bool
    accumulate: int
    matching_aware: bool
    rounds: StepCounter

    def d_loss(self, batch: Batch) -> tuple[Tensor, Stats]:
        """The discriminator's loss and figures."""
        x, labels = self._real(batch)
        with torch.no_grad():  # the generator's graph is neither needed nor kept in memory
            made = self._generated(x, labels)
        noise = [self._noise(x), self._noise(x)]
        real, fake = self._logits_of_both(self._seen(x, noise[0]), self._seen(made, noise[1]), labels)
        loss = self.loss.discriminator(real, fake)
        if self.matching_aware and labels is not None:
            wrong = self._logits(self._seen(x, noise[0]), self._other(labels))
            loss = (loss + self.loss.discriminator(real, wrong)) / 2
        stats = {
            "D/adversarial": loss,
            "D/real": real.mean(),
            "D/fake": fake.mean(),
            "D/r_t": self.loss.r_t(real, fake),
        }
        if self.penalties.on and self.rounds.next() // self.accumulate % self.penalties.lazy_interval == 0:
            added, figures = self._penalty(x, made, labels, noise)
            loss, stats = loss + self.penalties.lazy_interval * added, stats | figures
        return loss, {name: value.detach() for name, value in stats.items()}

    def g_loss(self, batch: Batch) -> tuple[Tensor, Stats]:
        """The generator's loss and figures."""
        x, labels = self._real(batch)
        made = self._seen(self._generated(x, labels), self._noise(x))
        if self.loss.paired:
            real, fake = self._logits_of_both(self._seen(x, self._noise(x)), made, labels)
        else:
            real, fake = None, self._logits(made, labels)
        return self.loss.generator(fake, real), {"G/fake": fake.mean().detach()}

    def _penalty(self, x: Tensor, made: Tensor, labels: Tensor | None, noise: list[Tensor]) -> tuple[Tensor, Stats]:
        """The weighted sum of all penalties, and each without weight: of D as a function of pictures before T."""

        def through(noise: Tensor) -> Discriminator:
            return lambda y, labels: self._logits(self._seen(y, noise), labels)

        weights, terms = self.penalties, {}
        if weights.r1:
            terms["r1"] = (weights.r1 / 2, r1(through(noise[0]), x, labels))
        if weights.r2:
            terms["r2"] = (weights.r2 / 2, r2(through(noise[1]), made, labels))
        if weights.gradient:
            u = torch.rand(len(x), device=x.device)
            terms["gradient"] = (weights.gradient, gradient_penalty(through(noise[0]), x, made, labels, u))
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return total, {f"D/{name}": value for name, (_, value) in terms.items()}

    def _real(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        if not self.classes:
            return to_model(batch.images, self.levels, Scaling.symmetric()), None
        if batch.labels is None:
            raise DataError("train.classes: the training data has no labels")
        return to_model(batch.images, self.levels, Scaling.symmetric()), batch.labels

    def _other(self, labels: Tensor) -> Tensor:
        """For each label one of the others, all equally likely."""
        step = torch.randint(1, self.classes, labels.shape, device=labels.device)
        return (labels + step) % self.classes

    def _generated(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """As many generated pictures, of the classes of the batch: so classes are as frequent as in the data.

        The generator is in training mode in either phase, so its running statistics follow every pass.
        """
        z = torch.randn(len(x), cast(int, self.generator.latent), device=x.device)
        return precise(self.generator(z, labels))

    def _noise(self, x: Tensor) -> Tensor:
        return draw_noise(len(x), x.device)

    def _seen(self, x: Tensor, noise: Tensor) -> Tensor:
        return augment(x, self.policy, noise)

    def _logits(self, x: Tensor, labels: Tensor | None) -> Tensor:
        logits = precise(self.discriminator(x, labels))
        if logits.shape != (len(x),):  # [B, 1] against [B] would compare every picture with every other, in silence
            raise ValueError(f"a discriminator gives one logit a picture, [{len(x)}], not {list(logits.shape)}")
        return logits

    def _logits_of_both(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.joint_batch:
            both = None if labels is None else torch.cat([labels, labels])
            return cast(tuple[Tensor, Tensor], self._logits(torch.cat([real, fake]), both).chunk(2))
        return self._logits(real, labels), self._logits(fake, labels)


def adversarial(
    generator: nn.Module,
    discriminator: nn.Module,
    loss: Loss,
    levels: int,
    optimizers: tuple[OptimConfig, OptimConfig],
    monitor: Monitor,
    *,
    classes: int = 0,
    penalties: Penalties | None = None,
    policy: Policy | None = None,
    d_steps: int = 1,
    joint_batch: bool = False,
    accumulate: int = 1,
    matching_aware: bool = False,
    prepare: Callable[[nn.Module], nn.Module] = as_it_is,
) -> Objective:
    """Two phases, each with its own optimizer; users get the generator.

        phase D   lowers   L_D(D(T x), D(T G(z))) + penalties
        phase G   lowers   L_G(D(T G(z)), D(T x))

    T is the augmentation, drawn anew for every picture. All is float32 or better from the logits on.

    Figures of a round, all means over its pictures: ``D/adversarial`` and ``G/loss`` without penalties, ``D/loss`` with
    them; the logits ``D/real``, ``D/fake`` and ``G/fake``; the dial ``D/r_t``; and, in rounds that take them, the
    penalties without their weights, ``D/r1`` and ``D/r2``, |grad D|^2, and ``D/gradient``, (|grad D| - 1)^2.

    Args:
        generator: (z [B, latent], labels) -> pictures [B, C, H, W] in [-1, 1], with an attribute ``latent``.
        discriminator: (pictures, labels) -> logits [B].
        loss: one of :data:`pixelloom.objectives.gan_losses.LOSSES`.
        levels: of the training pictures.
        optimizers: of D and of G.
        monitor: chooses the best G.
        classes: if any, both networks are told labels; generated pictures take those of the batch, in its order.
        penalties: on D; none by default. A lazy one counts rounds in the part "rounds".
        policy: augmentation of real and generated pictures, for D and for G; none by default.
        d_steps: steps of D for one of G. A round is one step of D, on pictures and noise of its own; G moves every
            ``d_steps``-th round, the first included.
        joint_batch: one pass of D over real and generated pictures. That is the same function and one call less, unless D
            has batch norm, whose statistics are then of the mixture; the tutorials take two passes, the default.
        accumulate: micro-batches of a round, as in the training configuration; lazy penalties take all or none.
        matching_aware: half of what D sees as generated are real pictures told as another class than theirs, so it looks at
            classes from the start (Reed et al. 2016, 1605.05396, algorithm 1). That draws G to what is typical of one.
        prepare: what makes the averaged generator ready for use; see :class:`Objective`.
    """
    rounds = StepCounter()
    game = _Game(
        generator,
        discriminator,
        loss,
        levels,
        classes,
        penalties or Penalties(),
        policy or Policy(),
        joint_batch,
        accumulate,
        matching_aware and classes > 1,
        rounds,
    )
    phases = (
        Phase("D", discriminator, optimizers[0], game.d_loss),
        Phase("G", generator, optimizers[1], game.g_loss, d_steps),
    )
    return Objective(phases, {"G": generator, "D": discriminator, "rounds": rounds}, "G", monitor, prepare)
