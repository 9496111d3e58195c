"""GAN losses of logits, gradient penalties of the discriminator, and the overfitting heuristic, as pure functions.

A generator G maps a latent vector z to an image, a discriminator D maps an image x to a logit, larger for real images.
:class:`pixelloom.objectives.adversarial.AdversarialObjective` combines these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Discriminator: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""(images [B, C, H, W], labels int64 [B] or None) -> logits [B]."""


# Losses


@dataclass(frozen=True)
class Loss:
    """The losses of both networks, means over logits float [B].

    Args:
        discriminator: (logits of real images, logits of generated images) -> scalar.
        generator: (logits of generated images, logits of real images or None) -> scalar.
        boundary: the logit between "real" and "generated"; None if the loss depends on differences of logits only.
        paired: whether ``generator`` needs the logits of real images.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor | None], Tensor]
    boundary: float | None = 0.0
    paired: bool = False

    def r_t(self, real: Tensor, fake: Tensor) -> Tensor:
        """Overfitting heuristic r_t = mean sign(D(x) - boundary) over real x, in [-1, 1].

        0 is no overfitting; 1 means that D classifies every training image as real. Without a boundary it is
        mean sign(D(x) - D(G(z))) over pairs. Source: Karras et al. 2020 (2006.06676), eq. 1.
        """
        return (real - (fake if self.boundary is None else self.boundary)).sign().mean()


def non_saturating_d(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(D(x)) - log(1 - s(D(G(z)))), s the sigmoid: the sum of binary cross entropies with labels 1 and 0.

    Source: Goodfellow et al. 2014 (1406.2661), eq. 1.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-log s(D(G(z))): binary cross entropy with label 1.

    Its gradient does not vanish where D rejects generated images. Source: Goodfellow et al. 2014, section 3.
    """
    return F.softplus(-fake).mean()


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))).

    Source: Lim and Ye 2017 (1705.02894); Zhang et al. 2019, SAGAN (1805.08318), eq. 4.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-D(G(z)). Source: Zhang et al. 2019, eq. 4."""
    return -fake.mean()


def least_squares_d(real: Tensor, fake: Tensor) -> Tensor:
    """(D(x) - 1)^2 / 2 + D(G(z))^2 / 2. Source: Mao et al. 2017 (1611.04076), eq. 9."""
    return (real - 1).square().mean() / 2 + fake.square().mean() / 2


def least_squares_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """(D(G(z)) - 1)^2 / 2. Source: Mao et al. 2017, eq. 9."""
    return (fake - 1).square().mean() / 2


def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    """D(G(z)) - D(x), for a D that is kept 1-Lipschitz. Source: Arjovsky et al. 2017 (1701.07875), eq. 2."""
    return fake.mean() - real.mean()


def wasserstein_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-D(G(z)). Source: Arjovsky et al. 2017, theorem 3."""
    return -fake.mean()


def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-(D(x) - D(G(z)))), a mean over pairs (x, z).

    Source: Jolicoeur-Martineau 2018 (1807.00734), section 4; Huang et al. 2025, R3GAN (2501.05441), eq. 2.
    """
    return F.softplus(fake - real).mean()


def relativistic_g(fake: Tensor, real: Tensor | None) -> Tensor:
    """softplus(-(D(G(z)) - D(x))), a mean over pairs.

    Source: Jolicoeur-Martineau 2018, section 4.

    Raises:
        ValueError: without logits of real images.
    """
    if real is None:
        raise ValueError("the relativistic loss of the generator needs the logits of real images")
    return F.softplus(real - fake).mean()


LOSSES: Mapping[str, Loss] = {
    "non-saturating": Loss(non_saturating_d, non_saturating_g),
    "hinge": Loss(hinge_d, hinge_g),
    "least-squares": Loss(least_squares_d, least_squares_g, boundary=0.5),
    "wasserstein": Loss(wasserstein_d, wasserstein_g, boundary=None),
    "relativistic": Loss(relativistic_d, relativistic_g, boundary=None, paired=True),
}


# Penalties


def r1(discriminator: Discriminator, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Mean of |grad_x D(x)|^2 over real images [B, C, H, W], a differentiable scalar.

    Source: Mescheder, Geiger, Nowozin 2018 (1801.04406), eq. 9, where its weight is gamma / 2.
    """
    return _gradient(discriminator, x, labels).square().sum(1).mean()


def r2(discriminator: Discriminator, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Mean of |grad_x D(x)|^2 over generated images. Source: Mescheder et al. 2018, eq. 10."""
    return r1(discriminator, x, labels)


def gradient_penalty(
    discriminator: Discriminator, real: Tensor, fake: Tensor, labels: Tensor | None, noise: Tensor
) -> Tensor:
    """Mean of (|grad_y D(y)| - 1)^2 at y = u x + (1 - u) G(z), with u = ``noise`` [B], uniform in [0, 1).

    Source: Gulrajani et al. 2017 (1704.00028), eq. 3, where its weight is lambda = 10.
    """
    u = noise.view(-1, *[1] * (real.ndim - 1))  # [B] -> [B, 1, 1, 1]
    norm: Tensor = torch.linalg.vector_norm(_gradient(discriminator, u * real + (1 - u) * fake, labels), dim=1)
    return (norm - 1).square().mean()


def _gradient(discriminator: Discriminator, x: Tensor, labels: Tensor | None) -> Tensor:
    """Gradient of the sum of logits with respect to x, [B, C H W], with a graph for second derivatives.

    Row i is the gradient of logit i, unless batch norm in D makes a logit depend on other images.
    """
    with _full_precision(x.device.type):
        x = precise(x.detach()).requires_grad_()
        (gradient,) = torch.autograd.grad(precise(discriminator(x, labels)).sum(), x, create_graph=True)
    return gradient.flatten(1)  # [B, C, H, W] -> [B, C H W]


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Disable autocast, as bf16 loses squares of small gradients, and fused attention, without second derivatives."""
    with torch.autocast(device, enabled=False), sdpa_kernel(SDPBackend.MATH):
        yield


def precise(x: Tensor) -> Tensor:
    """Cast to float32 unless the type is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# Overfitting


class OverfittingWatch:
    """Warns once when the discriminator overfits the training images.

    The rule: an exponential moving average of r_t, with weight 1/``smooth`` for each step, has been above ``limit`` for
    ``patience`` consecutive steps. Karras et al. 2020 (2006.06676) strengthen the augmentation above r_t = 0.6.
    """

    def __init__(self, limit: float = 0.9, smooth: int = 50, patience: int = 200) -> None:
        self.limit, self.smooth, self.patience = limit, smooth, patience
        self.value = 0.0  # starts at "no overfitting", so that a high r_t in the first steps does not warn
        self._above = 0
        self._warned = False

    def update(self, r_t: float) -> str | None:
        """Add the ``D/r_t`` of a step. Returns the warning once, otherwise None."""
        self.value += (r_t - self.value) / self.smooth
        self._above = self._above + 1 if self.value > self.limit else 0
        if self._warned or self._above < self.patience:
            return None
        self._warned = True
        return (
            f"The discriminator has classified nearly all training images as real for {self._above} steps (D/r_t "
            f"{self.value:.2f}; 0 is chance, 1 is certainty): it probably overfits, and the generator learns little "
            "from it. Use more images, stronger augmentation, a larger R1 or a shorter run."
        )
