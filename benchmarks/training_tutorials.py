"""Plain implementations of the tutorials' networks, losses and training steps.

benchmarks/training.py compares the speed of four of them with ours, tests/test_tutorials.py the outputs of all. Pixel
networks have whole kernels, with the mask multiplied into ``weight.data`` at each forward pass. GANs backpropagate the
step of D through G too, accumulate gradients of D in the step of G, compute attention by two products and a softmax,
and use ``torch.nn.utils.spectral_norm``. All are float32 in the default memory format, trained by Adam.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from pixelloom.core.types import ImageSpec

Step = Callable[[], None]


# Pixel networks


class TutorialConv(nn.Conv2d):
    """A whole kernel whose masked taps are set to zero in place in every forward pass."""

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


class TutorialColorConv(TutorialConv):
    """The same for ordered channels: red, green and blue have a third of the features each, in this order.

    Within a pixel, features of a color read the colors before it, with mask B also their own.
    """

    def __init__(self, mask: str, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(mask, inputs, outputs, kernel)
        center = self.seen[:, :, kernel // 2, kernel // 2]
        center.zero_()
        third_in, third_out = inputs // 3, outputs // 3
        for color in range(3):
            read = third_in * (color + (mask == "B"))
            center[color * third_out : (color + 1) * third_out, :read] = 1


class TutorialBottleneck(nn.Module):
    """The residual block of the second tutorial, a bottleneck of half the features."""

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


class TutorialResidual(nn.Module):
    """The residual block of the third tutorial: three layers of one width, all masked, since color masks 1x1 too."""

    def __init__(self, conv: type[TutorialConv], features: int) -> None:
        super().__init__()
        self.branch = nn.Sequential()
        for kernel in (1, 7, 1):
            self.branch.extend([conv("B", features, features, kernel), nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        return x + self.branch(x)


def tutorial_gray() -> nn.Module:
    """Eight masked 7x7 layers with batch normalization."""
    layers: list[nn.Module] = [TutorialConv("A", 1, 64, 7, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for _ in range(7):
        layers += [TutorialConv("B", 64, 64, 7, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 256, 1))


def tutorial_binary() -> nn.Module:
    """Five residual bottlenecks and two masked 3x3 layers."""
    blocks = [TutorialBottleneck(128) for _ in range(5)]
    layers: list[nn.Module] = [TutorialConv("A", 1, 128, 7), nn.ReLU(), *blocks]
    for _ in range(2):
        layers += [TutorialConv("B", 128, 128, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(128, 1, 1))


def tutorial_third(channels: int, levels: int, layers: int, features: int) -> nn.Module:
    """The third tutorial's network: ``layers - 1`` residual blocks, then two 1x1 layers; channels are ordered."""
    conv = TutorialConv if channels == 1 else TutorialColorConv
    return nn.Sequential(
        *(conv("A", channels, features, 7), nn.ReLU()),
        *(TutorialResidual(conv, features) for _ in range(layers - 1)),
        *(conv("B", features, features, 1), nn.ReLU()),
        conv("B", features, channels * levels, 1),
    )


def tutorial_rgb() -> nn.Module:
    """Six masked 7x7 layers; the channels of a pixel are independent, so the masks are those of gray images."""
    layers: list[nn.Module] = [TutorialConv("A", 3, 64, 7), nn.ReLU()]
    for _ in range(5):
        layers += [TutorialConv("B", 64, 64, 7), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 3 * 256, 1))


def tutorial_pixel(name: str) -> nn.Module:
    """The pixel network of the tutorial that our recipe of that name follows."""
    match name:
        case "mnist-gray":
            return tutorial_gray()
        case "mnist-binary":
            return tutorial_binary()
        case "mnist-binary-7x7":
            return tutorial_third(channels=1, levels=2, layers=5, features=64)
        case "colored-mnist":
            return tutorial_third(channels=3, levels=4, layers=8, features=120)
        case _:
            return tutorial_rgb()


def pixel_loss(out: Tensor, levels: Tensor, n_levels: int) -> Tensor:
    """Mean nats per value of uint8 [B, C, H, W], of one logit each or of a softmax over levels for each channel."""
    if out.shape == levels.shape:
        return F.binary_cross_entropy_with_logits(out, levels.to(out.dtype))
    batch, channels, height, width = levels.shape
    if channels == 1:
        return F.cross_entropy(out, levels[:, 0].long())
    logits = out.view(batch, channels, n_levels, height, width).transpose(1, 2)
    return F.cross_entropy(logits, levels.long())


def third_loss(out: Tensor, levels: Tensor, n_levels: int) -> Tensor:
    """The loss of the third tutorial: nats summed over all values of the batch."""
    batch, channels, height, width = levels.shape
    log_p = F.log_softmax(out.view(batch, channels, n_levels, height, width), dim=2)
    return sum(
        (F.nll_loss(log_p[:, channel], levels[:, channel].long(), reduction="sum") for channel in range(channels)),
        start=torch.zeros((), dtype=out.dtype),
    )


def pixel_step(network: nn.Module, levels: Tensor, n_levels: int) -> Step:
    """One optimizer step of a pixel network."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x = levels.float() / (n_levels - 1)

    def step() -> None:
        loss = pixel_loss(network(x), levels, n_levels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


# GANs, for gray images of 64x64

LATENT = 20
"""Size of the latent vector."""

WIDTHS = (512, 256, 128, 64)
"""Features from 4x4 to 32x32."""


class TutorialAttention(nn.Module):
    """x + gamma * attention(x), as in most implementations of SAGAN."""

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


def d_loss(real: Tensor, fake: Tensor, hinge: bool) -> Tensor:
    """Loss of D from logits [B] of real and generated images: hinge (SAGAN) or cross entropy (DCGAN)."""
    if hinge:
        return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()
    entropy = F.binary_cross_entropy_with_logits
    return entropy(real, torch.ones_like(real)) + entropy(fake, torch.zeros_like(fake))


def g_loss(fake: Tensor, hinge: bool) -> Tensor:
    """Loss of G from logits [B] of generated images."""
    return -fake.mean() if hinge else F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


class TutorialGame:
    """G and D, each with a loss and an optimizer; ``x`` are real images [B, 1, 64, 64] in [-1, 1]."""

    def __init__(self, sagan: bool) -> None:
        self.sagan = sagan
        self.generator, self.discriminator = tutorial_generator(sagan), tutorial_discriminator(sagan)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), 1e-4, (0.0, 0.9))
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), 4e-4, (0.0, 0.9))

    def d_loss(self, x: Tensor, z: Tensor) -> Tensor:
        """Loss of D for real images and images generated from ``z`` [B, 20, 1, 1], with their graph."""
        real = self.discriminator(x).view(-1)
        fake = self.discriminator(self.generator(z)).view(-1)
        return d_loss(real, fake, hinge=self.sagan)

    def g_loss(self, z: Tensor) -> Tensor:
        """Loss of G for images generated from ``z`` [B, 20, 1, 1]."""
        return g_loss(self.discriminator(self.generator(z)).view(-1), hinge=self.sagan)

    def step(self, x: Tensor) -> None:
        """Update D, then G."""
        self._step(self.d_loss(x, torch.randn(len(x), LATENT, 1, 1)), self.d_optimizer)
        self._step(self.g_loss(torch.randn(len(x), LATENT, 1, 1)), self.g_optimizer)

    def _step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.g_optimizer.zero_grad()
        self.d_optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def latent_step(game: TutorialGame, levels: Tensor) -> Step:
    """Return the step of a GAN."""
    x = levels.float() / 127.5 - 1
    return lambda: game.step(x)


# All of them

IMAGES = {
    "mnist-gray": ImageSpec(1, 28, 28, 256),
    "mnist-binary": ImageSpec(1, 28, 28, 2),
    "dcgan": ImageSpec(1, 64, 64, 256),
    "sagan": ImageSpec(1, 64, 64, 256),
}
"""Training images of each."""


def tutorial_step(name: str, levels: Tensor) -> Step:
    """Return a function that runs one step of a tutorial on images uint8 [B, C, H, W] of ``IMAGES[name]``."""
    match name:
        case "mnist-gray":
            return pixel_step(tutorial_gray(), levels, 256)
        case "mnist-binary":
            return pixel_step(tutorial_binary(), levels, 2)
        case _:
            return latent_step(TutorialGame(name == "sagan"), levels)
