"""The tutorials' training steps, written plainly: what benchmarks/training.py compares with.

Pixel networks have whole kernels, the mask multiplied into ``weight.data`` at each forward pass. Latent ones send the
gradient of D's step through G too, let D collect gradients in G's step, and have attention by two products and a
softmax and spectral norm by ``torch.nn.utils.spectral_norm``. All are float32 in the default memory layout, trained by
Adam as it comes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from pixelloom.types import ImageSpec

Step = Callable[[], None]


# Pixel networks


class TutorialConv(nn.Conv2d):
    """A whole kernel whose masked taps are zeroed in place at every pass."""

    def __init__(self, mask: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        seen = torch.ones_like(self.weight)
        seen[:, :, kernel // 2, kernel // 2 + (mask == "B") :] = 0
        seen[:, :, kernel // 2 + 1 :] = 0
        self.register_buffer("seen", seen)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H, W]"""
        self.weight.data *= self.seen
        return super().forward(x)


class TutorialResidual(nn.Module):
    """The Keras example's bottleneck."""

    def __init__(self, features: int) -> None:
        super().__init__()
        half = features // 2
        self.branch = nn.Sequential(
            *(nn.Conv2d(features, half, 1), nn.ReLU()),
            *(TutorialConv("B", half, half, 3), nn.ReLU()),
            *(nn.Conv2d(half, features, 1), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        return x + self.branch(x)


def tutorial_gray() -> nn.Module:
    """Eight masked 7x7 layers with batch normalisation."""
    layers: list[nn.Module] = [TutorialConv("A", 1, 64, 7, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for _ in range(7):
        layers += [TutorialConv("B", 64, 64, 7, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 256, 1))


def tutorial_binary() -> nn.Module:
    """Five residual bottlenecks and two masked 3x3 layers."""
    layers: list[nn.Module] = [TutorialConv("A", 1, 128, 7), nn.ReLU(), *(TutorialResidual(128) for _ in range(5))]
    for _ in range(2):
        layers += [TutorialConv("B", 128, 128, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(128, 1, 1))


def pixel_step(network: nn.Module, levels: Tensor, n_levels: int) -> Step:
    """One optimiser step of a pixel network."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    x = levels.float() / (n_levels - 1)

    def step() -> None:
        out = network(x)
        loss = (
            F.binary_cross_entropy_with_logits(out, x) if n_levels == 2 else F.cross_entropy(out, levels[:, 0].long())
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


# Latent networks, for grey images of 64x64

LATENT = 20
"""Numbers in the noise vector."""

WIDTHS = (512, 256, 128, 64)
"""Features from 4x4 to 32x32."""


class TutorialAttention(nn.Module):
    """x + gamma * attention(x), as most renderings of SAGAN have it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(features, features // 8, 1)
        self.key = nn.Conv2d(features, features // 8, 1)
        self.value = nn.Conv2d(features, features, 1)
        self.softmax = nn.Softmax(dim=-1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        batch, features, height, width = x.shape
        query = self.query(x).view(batch, -1, height * width).permute(0, 2, 1)
        key = self.key(x).view(batch, -1, height * width)
        attention = self.softmax(torch.bmm(query, key))
        value = self.value(x).view(batch, -1, height * width)
        out = torch.bmm(value, attention.permute(0, 2, 1)).view(batch, features, height, width)
        return x + self.gamma * out


def tutorial_generator(sagan: bool) -> nn.Module:
    """[B, 20, 1, 1] -> [B, 1, 64, 64]; with spectral norm, and attention at 16x16 and 32x32, if it is SAGAN's."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise((LATENT, *WIDTHS))):
        conv = nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) if i else nn.ConvTranspose2d(a, b, 4)
        layers += [spectral_norm(conv) if sagan else conv, nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        if sagan and i >= 2:
            layers.append(TutorialAttention(b))
    return nn.Sequential(*layers, nn.ConvTranspose2d(WIDTHS[-1], 1, 4, stride=2, padding=1), nn.Tanh())


def tutorial_discriminator(sagan: bool) -> nn.Module:
    """[B, 1, 64, 64] -> [B, 1, 1, 1]; with spectral norm, and attention at 8x8 and 4x4, if it is SAGAN's."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise((1, *WIDTHS[::-1]))):
        conv = nn.Conv2d(a, b, 4, stride=2, padding=1)
        layers += [spectral_norm(conv) if sagan else conv, nn.LeakyReLU(0.1, inplace=True)]
        if sagan and i >= 2:
            layers.append(TutorialAttention(b))
    return nn.Sequential(*layers, nn.Conv2d(WIDTHS[0], 1, 4))


class TutorialGame:
    """G and D with a loss and an optimiser each; ``x`` is real images [B, 1, 64, 64] in [-1, 1]."""

    def __init__(self, sagan: bool) -> None:
        self.sagan = sagan
        self.generator, self.discriminator = tutorial_generator(sagan), tutorial_discriminator(sagan)
        self.g_optimiser = torch.optim.Adam(self.generator.parameters(), 1e-4, (0.0, 0.9))
        self.d_optimiser = torch.optim.Adam(self.discriminator.parameters(), 4e-4, (0.0, 0.9))

    def d_loss(self, x: Tensor, z: Tensor) -> Tensor:
        """On real images and on those made of ``z`` [B, 20, 1, 1], which keep their graph."""
        real = self.discriminator(x).view(-1)
        fake = self.discriminator(self.generator(z)).view(-1)
        if self.sagan:
            return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()
        entropy = F.binary_cross_entropy_with_logits
        return entropy(real, torch.ones_like(real)) + entropy(fake, torch.zeros_like(fake))

    def g_loss(self, z: Tensor) -> Tensor:
        """On images made of ``z`` [B, 20, 1, 1]."""
        fake = self.discriminator(self.generator(z)).view(-1)
        return -fake.mean() if self.sagan else F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))

    def round(self, x: Tensor) -> None:
        """A step of D, then one of G."""
        self._step(self.d_loss(x, torch.randn(len(x), LATENT, 1, 1)), self.d_optimiser)
        self._step(self.g_loss(torch.randn(len(x), LATENT, 1, 1)), self.g_optimiser)

    def _step(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
        self.g_optimiser.zero_grad()
        self.d_optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def latent_step(game: TutorialGame, levels: Tensor) -> Step:
    """One round of a latent network."""
    x = levels.float() / 127.5 - 1
    return lambda: game.round(x)


# All of them

IMAGES = {
    "mnist-gray": ImageSpec(1, 28, 28, 256),
    "mnist-binary": ImageSpec(1, 28, 28, 2),
    "dcgan": ImageSpec(1, 64, 64, 256),
    "sagan": ImageSpec(1, 64, 64, 256),
}
"""What each is trained on."""


def tutorial_step(name: str, levels: Tensor) -> Step:
    """A tutorial's step on images uint8 [B, C, H, W] of ``IMAGES[name]``: each call takes one."""
    match name:
        case "mnist-gray":
            return pixel_step(tutorial_gray(), levels, 256)
        case "mnist-binary":
            return pixel_step(tutorial_binary(), levels, 2)
        case _:
            return latent_step(TutorialGame(name == "sagan"), levels)
