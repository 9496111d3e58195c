"""What is trained, as data: an objective is a tuple of phases, and the loop runs phases without knowing the family.

A phase owns the module that moves, its optimiser and a loss. A likelihood objective has one phase; an adversarial one
has two, D then G. Adding a family means writing a function that returns an :class:`Objective`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.adversarial import Judge, Loss, Penalties, gradient_penalty, precise, r1, r2
from pixelloom.augment import Policy, augment, draw_noise
from pixelloom.data.conditions import Condition
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.errors import DataError
from pixelloom.likelihoods import Head
from pixelloom.types import Batch

Stats: TypeAlias = dict[str, Tensor]
"""Named scalars of one step (detached), written to metrics.jsonl and shown as progress."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(BaseModel):
    """One optimiser and its schedule; warm-up is counted in images seen, decay in the share of the budget used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["adam", "adamw", "muon", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0, le=10)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0, le=10)
    warmup: int = Field(0, ge=0, description="images over which the rate rises linearly from 0")
    decay: Literal["none", "cosine", "linear"] = "none"
    clip: float | None = Field(None, gt=0, description="largest total norm of the gradient")


@dataclass(frozen=True)
class Phase:
    """One optimiser's turn in a round.

    ``loss`` maps a batch to a scalar (a mean over the batch) and statistics. The loop seeds torch's generators from
    (seed, step, rank, phase) before it calls ``loss``, so a loss may draw noise freely and still be resumed exactly.
    """

    name: str
    module: nn.Module
    optimiser: OptimConfig
    loss: Callable[[Batch], tuple[Tensor, Stats]]
    every: int = 1


@dataclass(frozen=True)
class Monitor:
    """The figure by which the best model is chosen, on validation data; smaller is better.

    ``measure`` takes the deployed module (averaged weights, in eval mode) and returns named figures, ``name`` included.
    """

    name: str
    measure: Callable[[nn.Module], Mapping[str, float]]


def _as_it_is(module: nn.Module) -> nn.Module:
    return module


@dataclass(frozen=True)
class Objective:
    """Everything that training moves and keeps.

    ``parts`` are all modules that a checkpoint holds; ``deploy`` names the one whose averaged weights users get, made
    ready by ``prepare``, which must leave the module that it is given as it is.
    """

    phases: tuple[Phase, ...]
    parts: Mapping[str, nn.Module]
    deploy: str
    monitor: Monitor
    prepare: Callable[[nn.Module], nn.Module] = _as_it_is

    def __post_init__(self) -> None:
        if self.deploy not in self.parts:
            raise ValueError(f"deploy={self.deploy!r} is not among the parts {sorted(self.parts)}")


def likelihood(
    network: nn.Module,
    head: Head,
    levels: int,
    scaling: Scaling,
    optimiser: OptimConfig,
    monitor: Monitor,
    *,
    classes: int = 0,
    label_dropout: float = 0.0,
    condition: Condition | None = None,
) -> Objective:
    """Maximum likelihood: one phase that lowers -log p(x) of the batch, in nats a dimension.

    With classes the network is told each image's label, and for a share ``label_dropout`` of the images the number
    ``classes``, which stands for none: so one network learns both (Ho and Salimans 2022). With a condition it goes by
    that of each image, and the nats are those of p(x | condition of x).
    """

    def loss(batch: Batch) -> tuple[Tensor, Stats]:
        x = to_model(batch.images, levels, scaling)
        told: dict[str, Tensor] = {}
        if classes:
            if batch.labels is None:
                raise DataError("train.classes: the training data has no labels")
            dropped = torch.rand(len(x), device=x.device) < label_dropout
            told["labels"] = batch.labels.masked_fill(dropped, classes)
        if condition is not None:
            told["condition"] = condition.planes(condition.of(batch.images))
        params = network(x, **told)
        nats = head.nats(params, batch.images).mean()
        return nats, {"bits/dim": nats.detach() / math.log(2)}

    return Objective((Phase("network", network, optimiser, loss),), {"network": network}, "network", monitor)


class Rounds(nn.Module):
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
    together: bool
    accumulate: int
    mismatched: bool
    rounds: Rounds

    def critic(self, batch: Batch) -> tuple[Tensor, Stats]:
        """The discriminator's loss and figures."""
        x, labels = self._real(batch)
        with torch.no_grad():  # the generator's graph is neither needed nor kept in memory
            made = self._made(x, labels)
        noise = [self._noise(x), self._noise(x)]
        real, fake = self._judge_both(self._seen(x, noise[0]), self._seen(made, noise[1]), labels)
        loss = self.loss.discriminator(real, fake)
        if self.mismatched and labels is not None:
            wrong = self._judge(self._seen(x, noise[0]), self._other(labels))
            loss = (loss + self.loss.discriminator(real, wrong)) / 2
        stats = {
            "D/adversarial": loss,
            "D/real": real.mean(),
            "D/fake": fake.mean(),
            "D/dial": self.loss.dial(real, fake),
        }
        if self.penalties.on and self.rounds.next() // self.accumulate % self.penalties.every == 0:
            added, figures = self._penalty(x, made, labels, noise)
            loss, stats = loss + self.penalties.every * added, stats | figures
        return loss, {name: value.detach() for name, value in stats.items()}

    def maker(self, batch: Batch) -> tuple[Tensor, Stats]:
        """The generator's loss and figures."""
        x, labels = self._real(batch)
        made = self._seen(self._made(x, labels), self._noise(x))
        if self.loss.paired:
            real, fake = self._judge_both(self._seen(x, self._noise(x)), made, labels)
        else:
            real, fake = None, self._judge(made, labels)
        return self.loss.generator(fake, real), {"G/fake": fake.mean().detach()}

    def _penalty(self, x: Tensor, made: Tensor, labels: Tensor | None, noise: list[Tensor]) -> tuple[Tensor, Stats]:
        """The weighted sum of all penalties, and each without weight: of D as a function of pictures before T."""

        def through(noise: Tensor) -> Judge:
            return lambda y, labels: self._judge(self._seen(y, noise), labels)

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

    def _made(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """As many generated pictures, of the classes of the batch: so classes are as frequent as in the data.

        The generator is in training mode in either phase, so its running statistics follow every pass.
        """
        z = torch.randn(len(x), cast(int, self.generator.latent), device=x.device)
        return precise(self.generator(z, labels))

    def _noise(self, x: Tensor) -> Tensor:
        return draw_noise(len(x), x.device)

    def _seen(self, x: Tensor, noise: Tensor) -> Tensor:
        return augment(x, self.policy, noise)

    def _judge(self, x: Tensor, labels: Tensor | None) -> Tensor:
        logits = precise(self.discriminator(x, labels))
        if logits.shape != (len(x),):  # [B, 1] against [B] would compare every picture with every other, in silence
            raise ValueError(f"a discriminator gives one logit a picture, [{len(x)}], not {list(logits.shape)}")
        return logits

    def _judge_both(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.together:
            both = None if labels is None else torch.cat([labels, labels])
            return cast(tuple[Tensor, Tensor], self._judge(torch.cat([real, fake]), both).chunk(2))
        return self._judge(real, labels), self._judge(fake, labels)


def adversarial(
    generator: nn.Module,
    discriminator: nn.Module,
    loss: Loss,
    levels: int,
    optimisers: tuple[OptimConfig, OptimConfig],
    monitor: Monitor,
    *,
    classes: int = 0,
    penalties: Penalties | None = None,
    policy: Policy | None = None,
    d_steps: int = 1,
    together: bool = False,
    accumulate: int = 1,
    mismatched: bool = False,
    prepare: Callable[[nn.Module], nn.Module] = _as_it_is,
) -> Objective:
    """Two phases, each with its own optimiser; users get the generator.

        phase D   lowers   L_D(D(T x), D(T G(z))) + penalties
        phase G   lowers   L_G(D(T G(z)), D(T x))

    T is the augmentation, drawn anew for every picture. All is float32 or better from the logits on.

    Figures of a round, all means over its pictures: ``D/adversarial`` and ``G/loss`` without penalties, ``D/loss`` with
    them; the logits ``D/real``, ``D/fake`` and ``G/fake``; the dial ``D/dial``; and, in rounds that take them, the
    penalties without their weights, ``D/r1`` and ``D/r2``, |grad D|^2, and ``D/gradient``, (|grad D| - 1)^2.

    Args:
        generator: (z [B, latent], labels) -> pictures [B, C, H, W] in [-1, 1], with an attribute ``latent``.
        discriminator: (pictures, labels) -> logits [B].
        loss: one of :data:`pixelloom.adversarial.LOSSES`.
        levels: of the training pictures.
        optimisers: of D and of G.
        monitor: chooses the best G.
        classes: if any, both networks are told labels; generated pictures take those of the batch, in its order.
        penalties: on D; none by default. A lazy one counts rounds in the part "rounds".
        policy: augmentation of real and generated pictures, for D and for G; none by default.
        d_steps: steps of D for one of G. A round is one step of D, on pictures and noise of its own; G moves every
            ``d_steps``-th round, the first included.
        together: one pass of D over real and generated pictures. That is the same function and one call less, unless D
            has batch norm, whose statistics are then of the mixture; the tutorials take two passes, the default.
        accumulate: micro-batches of a round, as in the training configuration; lazy penalties take all or none.
        mismatched: half of what D sees as generated are real pictures told as another class than theirs, so it looks at
            classes from the start (Reed et al. 2016, 1605.05396, algorithm 1). That draws G to what is typical of one.
        prepare: what makes the averaged generator ready for use; see :class:`Objective`.
    """
    rounds = Rounds()
    game = _Game(
        generator,
        discriminator,
        loss,
        levels,
        classes,
        penalties or Penalties(),
        policy or Policy(),
        together,
        accumulate,
        mismatched and classes > 1,
        rounds,
    )
    phases = (
        Phase("D", discriminator, optimisers[0], game.critic),
        Phase("G", generator, optimisers[1], game.maker, d_steps),
    )
    return Objective(phases, {"G": generator, "D": discriminator, "rounds": rounds}, "G", monitor, prepare)
