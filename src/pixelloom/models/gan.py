"""A latent model as users hold it: draws an image in one step from a noise vector, joins images by paths, and shows
what its attention looks at. It knows no likelihood.

A model folder holds ``model.safetensors`` and ``config.json``, the generator and its description, and
``discriminator.safetensors``, which only maps of attention need. Loading never runs code from any of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor, nn

from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.threads import ThreadChoice
from pixelloom.core.types import ImageSpec, Levels
from pixelloom.data.conditions import Condition
from pixelloom.data.pixels import Scaling, from_model, to_model
from pixelloom.engine.safetensors_io import check_keys, load_tensors, save_described, save_tensors
from pixelloom.layers.self_attention import attention_maps
from pixelloom.models.description import CONFIG, WEIGHTS, Description, rebuild
from pixelloom.models.inputs import LabelsLike, at_least, check_labels, check_levels
from pixelloom.networks import GAN_NETWORKS, build_pair
from pixelloom.sampling.ancestral import OnStep
from pixelloom.sampling.exact import exact
from pixelloom.sampling.latent_noise import labels_of, latents, path

DISCRIMINATOR = "discriminator.safetensors"
BATCH = 64  # images at a time, unless told
Maps = list[tuple[str, Tensor]]
"""(layer, weights [B, H, W, h, w]): where each position of each image looks; every map [b, y, x] sums to 1."""


class GANDescription(Description):
    """Everything needed to rebuild a latent model around its weights, and what it was trained on."""

    table = GAN_NETWORKS

    family: Literal["gan"] = "gan"


@final
class GANModel:
    """A latent model: noise vector in, image out.

    Args:
        network: the generator, [B, latent] -> images in model space [B, C, H, W].
        description: what it is, for which images.
        discriminator: that of its training; None where it was not kept.
    """

    def __init__(self, network: nn.Module, description: GANDescription, discriminator: nn.Module | None = None) -> None:
        self.network = network.eval()
        self.discriminator = None if discriminator is None else discriminator.eval()
        self.description = description
        self.spec: ImageSpec = description.image
        self._passes = ThreadChoice()
        self.condition: Condition | None = None
        """A latent model goes by no picture."""

    @classmethod
    def build(cls, description: GANDescription) -> GANModel:
        """An untrained model with its discriminator."""
        generator, discriminator = build_pair(
            description.network, description.model, description.image, classes=description.classes
        )
        return cls(generator, description, discriminator)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> GANModel:
        """Move the weights, in place."""
        self.network.to(device)
        if self.discriminator is not None:
            self.discriminator.to(device)
        return self

    @property
    def parameters(self) -> int:
        """Number of trained values of the generator."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def latent(self) -> int:
        """Numbers in the noise vector of an image."""
        return int(self.network.latent)  # type: ignore[arg-type]

    def latents(self, n: int, *, seed: int = 0, first: int = 0, truncation: float | None = None) -> Tensor:
        """The noise vectors of images first .. first + n - 1, float32 [n, latent]."""
        for name, value, least in (("n", n, 1), ("seed", seed, 0), ("first", first, 0)):
            at_least(name, value, least)
        return latents(self.latent, seed, first, n, truncation=truncation)

    @torch.no_grad()
    def render(
        self,
        z: Tensor,
        labels: LabelsLike = None,
        *,
        batch: int = BATCH,
        threads: int | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """The images of noise vectors [n, latent], levels uint8 [n, C, H, W], on the CPU.

        Args:
            z: float [n, latent].
            labels: class of each image, int64 [n], or one for all; for a model with classes.
            batch: images at a time; another number may change a value by a level, as sums are taken in another order.
            threads: CPU threads to use; None for what pays at the moment, of what may be used.
            on_step: called with (1, 1, images) after each batch.

        Raises:
            UsageError: for vectors of another length, or labels that are missing or that the model does not know.
        """
        at_least("batch", batch, 1)
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise UsageError(f"z: the model takes [n, {self.latent}], not {list(z.shape)}")
        told = self._labels(labels, len(z))
        parts = []
        with self._passes.tuner(threads, self.device) as tuner:
            for images in tuner.batches(
                len(z), batch, lambda rows: self._pass(z[rows], None if told is None else told[rows])
            ):
                parts.append(from_model(images, self.spec.levels, Scaling.symmetric()).cpu())
                if on_step is not None:
                    on_step(1, 1, parts[-1])
        return torch.cat(parts) if parts else torch.empty(0, *self.spec.shape, dtype=torch.uint8)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        truncation: float | None = None,
        labels: LabelsLike = None,
        batch: int = BATCH,
        threads: int | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """n new images as levels, uint8 [n, C, H, W]; image i depends on (seed, first + i) alone.

        Args:
            n: how many.
            seed: chooses the noise.
            first: number of the first image, to go on where an earlier call stopped.
            truncation: the largest absolute value in a noise vector; None for no limit.
            labels: class of each image, int64 [n], or one for all; None for classes drawn at random.
            batch: images at a time; another number may change a value by a level, as sums are taken in another order.
            threads: as in :meth:`render`.
            on_step: called with (1, 1, images) after each batch, as a pixel model calls it after each of its steps.

        Raises:
            UsageError: for n < 1, batch < 1, seed < 0, first < 0, a truncation that is not positive, or labels that the
                model does not know.
        """
        z = self.latents(n, seed=seed, first=first, truncation=truncation)
        if labels is None and self.description.classes:
            labels = labels_of(self.description.classes, seed, first, n)
        return self.render(z, labels, batch=batch, threads=threads, on_step=on_step)

    def interpolate(
        self,
        stops: int = 5,
        steps: int = 8,
        *,
        seed: int = 0,
        first: int = 0,
        truncation: float | None = None,
        labels: LabelsLike = None,
    ) -> Tensor:
        """From image to image on great circles: uint8 [(stops - 1) * steps + 1, C, H, W].

        Images first, first + 1, ... of the seed, as :meth:`sample` draws them with the same truncation, stand at every
        ``steps``-th place; one class holds for all.
        """
        z = path(self.latents(stops, seed=seed, first=first, truncation=truncation), steps)
        if labels is None and self.description.classes:
            labels = labels_of(self.description.classes, seed, first, 1)
        return self.render(z, labels)

    @torch.no_grad()
    def attend(self, z: Tensor, labels: LabelsLike = None) -> tuple[Tensor, Maps]:
        """The images of noise vectors, uint8 [n, C, H, W], and the generator's maps of attention while it made them."""
        with attention_maps(self.network) as maps:
            images = self.render(z, labels, batch=max(1, len(z)))
        return images, maps

    @torch.no_grad()
    def attend_to(self, images: Tensor | Levels, labels: LabelsLike = None) -> tuple[Tensor, Maps]:
        """The discriminator's logits of images, uint8 [n, C, H, W] -> [n], and its maps of attention.

        Raises:
            UsageError: if the discriminator was not kept, or for images or labels that the model does not know.
        """
        if self.discriminator is None:
            raise UsageError(f"this model was kept without its discriminator ({DISCRIMINATOR})")
        x = to_model(check_levels(images, self.spec).to(self.device), self.spec.levels, Scaling.symmetric())
        told = self._labels(labels, len(x))
        with attention_maps(self.discriminator) as maps:
            logits: Tensor = self.discriminator(x) if told is None else self.discriminator(x, told)
        return logits, maps

    def _pass(self, z: Tensor, labels: Tensor | None) -> Tensor:
        z = z.to(self.device, next(self.network.parameters()).dtype)
        with exact(z.device):
            images: Tensor = self.network(z) if labels is None else self.network(z, labels)
        return images

    def _labels(self, labels: LabelsLike, n: int) -> Tensor | None:
        """As the networks take them; unlike a pixel model they know no "no class"."""
        classes = self.description.classes
        told = check_labels(labels, classes, n, self.device)
        if told is not None and (labels is None or (len(told) and int(told.max()) >= classes)):
            raise UsageError(f"labels: a class for each image, numbered 0 to {classes - 1}, is needed")
        return told

    def save(self, folder: Path) -> str:
        """Write the model folder; returns the SHA-256 of the generator's file.

        Raises:
            ModelError: if the folder cannot be written; what was there before stays whole.
        """
        config = self.description.model_dump(mode="json")
        sha256 = save_described(folder / WEIGHTS, folder / CONFIG, self.network.state_dict(), config)
        if self.discriminator is not None:
            save_tensors(folder / DISCRIMINATOR, self.discriminator.state_dict(), config)
        return sha256


def load_gan(folder: Path) -> GANModel:
    """The model of a folder written by :meth:`GANModel.save`, on the CPU; the discriminator only if it is there.

    Raises:
        ModelError: if weights are missing, damaged, of a newer format, or do not fit their own description.
    """
    model = rebuild(folder / WEIGHTS, GANDescription, GANModel.build)
    assert model.discriminator is not None
    beside = folder / DISCRIMINATOR
    if not beside.is_file():
        return GANModel(model.network, model.description)
    try:
        kept, _ = load_tensors(beside)
        check_keys(beside, model.discriminator.state_dict(), kept)
    except ModelError as error:
        raise ModelError(f"{error} Only maps of attention need this file: remove it, and the model draws.") from error
    model.discriminator.load_state_dict(kept)
    return model
