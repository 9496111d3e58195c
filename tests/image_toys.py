"""Images with structure to learn, data sets of one distribution, and models that sample from a fixed set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gan_toys import NARROW
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.data.splits import Dataset, Split, from_splits
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.training_record import TrainingRecord
from pixelloom.networks.gan.dcgan import DCGANConfig


def toy_images(n: int, seed: int, *, channels: int = 1, levels: int = 16) -> Tensor:
    """Noise on a ramp of random direction, uint8 [n, channels, 8, 8]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:8j, -1:1:8j]
    angle, light = rng.uniform(0, 2 * np.pi, (2, n, 1, 1, 1))
    ramp = 0.5 + 0.1 * np.cos(light) + 0.25 * (np.cos(angle) * x + np.sin(angle) * y)
    noisy = (ramp + rng.normal(0, 0.1, (n, channels, 8, 8))) * levels
    return torch.from_numpy(noisy.clip(0, levels - 1).astype(np.uint8))


def dataset(
    train: Tensor, val: Tensor, test: Tensor, levels: int = 16, *, labels: Tensor | None = None, classes: str = ""
) -> Dataset:
    """A data set of three splits; ``labels`` are of the test split, other labels are 0."""
    parts = []
    for images in (train, val, test):
        labels_here = torch.zeros(len(images), dtype=torch.long) if labels is None or images is not test else labels
        parts.append(Split(images.numpy(), labels_here.numpy() if classes else None, levels))
    return from_splits("mine", *parts, tuple(classes))


class Drawer(nn.Module):
    """A generator that returns an image of a fixed set, selected by u = Phi(z_0).

    With classes, the image is of ``sets[label]`` if Phi(z_1) < ``right``, else of the next class.
    """

    latent = 2

    def __init__(self, sets: list[Tensor], levels: int, right: float = 1.0) -> None:
        super().__init__()
        self.sets, self.right, self.unused = sets, right, nn.Parameter(torch.zeros(1))
        self.values = [to_model(images, levels, Scaling.symmetric()) for images in sets]

    def chosen(self, z: Tensor, labels: Tensor | None = None) -> list[tuple[int, int]]:
        """(set, image) of each image."""
        u = torch.special.ndtr(z.double())
        label = torch.zeros(len(z), dtype=torch.long) if labels is None else labels
        which = torch.where(u[:, 1] < self.right, label, (label + 1) % len(self.sets)).tolist()
        return [(s, int(x * len(self.sets[s]))) for s, x in zip(which, u[:, 0].tolist(), strict=True)]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.stack([self.values[s][i] for s, i in self.chosen(z, labels)])


def drawing(*sets: Tensor, levels: int = 16, classes: str = "", right: float = 1.0) -> GANModel:
    """A GAN model with known samples; ``classes`` are the class names, one letter each."""
    description = GANDescription(
        network="dcgan",
        model=DCGANConfig.model_validate(NARROW),
        image=ImageSpec(*sets[0].shape[1:], levels),
        classes=len(classes),
        training=TrainingRecord(classes=tuple(classes), data=DataConfig(source="mine")),
    )
    return GANModel(Drawer(list(sets), levels, right), description)
