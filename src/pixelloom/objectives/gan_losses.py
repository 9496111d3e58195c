"""Adversarial training in pure functions: losses on logits, penalties on the discriminator's gradient.

A generator G turns noise z into a picture, a discriminator D turns a picture x into a logit, larger for more real. What
is made of these functions is :func:`pixelloom.objectives.base.adversarial`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Discriminator: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""A discriminator: pictures [B, C, H, W] and labels int64 [B], or None -> logits [B]."""


# Losses


@dataclass(frozen=True)
class Loss:
    """What either side lowers, as means over the batch of logits float [B].

    ``generator`` reads the logits of real pictures only if ``paired``. ``boundary`` is the logit at which D is
    undecided; None where only differences of logits mean something.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor | None], Tensor]
    boundary: float | None = 0.0
    paired: bool = False

    def r_t(self, real: Tensor, fake: Tensor) -> Tensor:
        """r_t = mean sign(D(x) - boundary), from -1 to 1: 0 is chance, 1 is a D that knows every training picture.

        Without boundary, mean sign(D(x) - D(G(z))) over the pairs. Source: Karras et al. 2020 (2006.06676), eq. 1.
        """
        return (real - (fake if self.boundary is None else self.boundary)).sign().mean()


def non_saturating_d(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(D(x)) - log(1 - s(D(G(z)))) with s the sigmoid: binary cross entropy with labels 1 and 0, summed.

    Source: Goodfellow et al. 2014 (1406.2661), eq. 1.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-log s(D(G(z))): binary cross entropy with label 1.

    Source: Goodfellow et al. 2014, section 3: its gradient does not vanish where D is sure.
    """
    return F.softplus(-fake).mean()


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))): nothing beyond the margins. Source: Lim and Ye 2017 (1705.02894)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-D(G(z)), without a margin. Source: Lim and Ye 2017."""
    return -fake.mean()


def least_squares_d(real: Tensor, fake: Tensor) -> Tensor:
    """(D(x) - 1)^2 / 2 + D(G(z))^2 / 2. Source: Mao et al. 2017 (1611.04076), eq. 9."""
    return (real - 1).square().mean() / 2 + fake.square().mean() / 2


def least_squares_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """(D(G(z)) - 1)^2 / 2. Source: Mao et al. 2017, eq. 9."""
    return (fake - 1).square().mean() / 2


def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    """D(G(z)) - D(x), for a D held near Lipschitz 1 by a penalty. Source: Arjovsky et al. 2017 (1701.07875), eq. 2."""
    return fake.mean() - real.mean()


def wasserstein_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-D(G(z)): the part of the distance that G moves. Source: Arjovsky et al. 2017."""
    return -fake.mean()


def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-(D(x) - D(G(z)))), pair by pair.

    Source: Jolicoeur-Martineau 2018 (1807.00734), section 4; as RpGAN in Huang et al. 2025, R3GAN (2501.05441).
    """
    return F.softplus(fake - real).mean()


def relativistic_g(fake: Tensor, real: Tensor | None) -> Tensor:
    """softplus(-(D(G(z)) - D(x))), pair by pair: the same game seen from the other side."""
    if real is None:
        raise ValueError("the relativistic loss compares pairs: it needs the logits of real pictures too")
    return F.softplus(real - fake).mean()


LOSSES: Mapping[str, Loss] = {
    "non-saturating": Loss(non_saturating_d, non_saturating_g),
    "hinge": Loss(hinge_d, hinge_g),
    "least-squares": Loss(least_squares_d, least_squares_g, boundary=0.5),
    "wasserstein": Loss(wasserstein_d, wasserstein_g, boundary=None),
    "relativistic": Loss(relativistic_d, relativistic_g, boundary=None, paired=True),
}


# Penalties


class Penalties(BaseModel):
    """What is added to the discriminator's loss; a weight of 0 leaves one out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r1: float = Field(0.0, ge=0, description="gamma of gamma/2 |grad D|^2 at real pictures")
    r2: float = Field(0.0, ge=0, description="gamma of gamma/2 |grad D|^2 at generated pictures")
    gradient: float = Field(0.0, ge=0, description="lambda of lambda (|grad D| - 1)^2 between the two")
    lazy_interval: int = Field(1, ge=1, description="rounds from one to the next; the weight is multiplied by as much")

    @property
    def on(self) -> bool:
        """Whether there is any."""
        return bool(self.r1 or self.r2 or self.gradient)


def r1(discriminator: Discriminator, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Mean over the batch of |grad_x D(x)|^2 at real pictures [B, C, H, W], a scalar that can be differentiated.

    Source: Mescheder, Geiger, Nowozin 2018 (1801.04406), eq. 9; its weight there is gamma / 2.
    """
    return _gradient(discriminator, x, labels).square().sum(1).mean()


def r2(discriminator: Discriminator, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """The same at generated pictures. Source: Mescheder et al. 2018, eq. 10."""
    return r1(discriminator, x, labels)


def gradient_penalty(
    discriminator: Discriminator, real: Tensor, fake: Tensor, labels: Tensor | None, noise: Tensor
) -> Tensor:
    """Mean over the batch of (|grad D(y)| - 1)^2 at y = u x + (1 - u) G(z), u = ``noise`` uniform in [0, 1), [B].

    Source: Gulrajani et al. 2017 (1704.00028), eq. 3; its weight there is lambda = 10.
    """
    u = noise.view(-1, *[1] * (real.ndim - 1))
    norm: Tensor = torch.linalg.vector_norm(_gradient(discriminator, u * real + (1 - u) * fake, labels), dim=1)
    return (norm - 1).square().mean()


def _gradient(discriminator: Discriminator, x: Tensor, labels: Tensor | None) -> Tensor:
    """d(sum of logits)/dx, [B, C H W], with a graph. Batch norm in D mixes the pictures' gradients."""
    with _full_precision(x.device.type):
        x = precise(x.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(precise(discriminator(x, labels)).sum(), x, create_graph=True)
    return slope.flatten(1)


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """No autocast, since squares of small gradients drown in bf16; attention by its formula, which alone of its kernels
    has a second derivative.
    """
    with torch.autocast(device, enabled=False), sdpa_kernel(SDPBackend.MATH):
        yield


def precise(x: Tensor) -> Tensor:
    """float32 instead of anything shorter."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# What the dial says


class OverfittingWatch:
    """Says once, in plain words, that D knows the training pictures by heart.

    The rule: the dial r_t, smoothed over ``smooth`` rounds, has been above ``limit`` for ``patience`` rounds on end.
    Karras et al. 2020 (2006.06676) strengthen the augmentation from 0.6 on.
    """

    def __init__(self, limit: float = 0.9, smooth: int = 50, patience: int = 200) -> None:
        self.limit, self.smooth, self.patience = limit, smooth, patience
        self.value = 0.0  # from chance: a few rounds of certainty at the start are no sign
        self._above = 0
        self._said = False

    def see(self, dial: float) -> str | None:
        """Take in a round's ``D/r_t``; the warning, once, or None."""
        self.value += (dial - self.value) / self.smooth
        self._above = self._above + 1 if self.value > self.limit else 0
        if self._said or self._above < self.patience:
            return None
        self._said = True
        return (
            f"The discriminator has been sure of nearly all training pictures for {self._above} rounds (D/r_t "
            f"{self.value:.2f}; 0 is chance, 1 is certainty): it has probably learned them by heart, and the generator "
            "learns little from it. More pictures, more augmentation, a larger R1 or a shorter run help."
        )
