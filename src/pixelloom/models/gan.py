"""A trained GAN: samples and interpolates images from latent vectors, and gives attention maps.

A model folder holds ``model.safetensors`` and ``config.json`` (generator and description), and
``discriminator.safetensors``, which only attention maps need. Loading never runs code from any of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from pixelloom.core.atomic import whole_folder
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.threads import ThreadChoice
from pixelloom.core.types import ImageSpec, Levels
from pixelloom.data.conditions import Condition
from pixelloom.data.pixels import Scaling, from_model, to_model
from pixelloom.engine.safetensors_io import check_keys, digest_of, load_tensors, save_described, save_tensors
from pixelloom.layers.compiled import uncompiled
from pixelloom.layers.self_attention import attention_maps
from pixelloom.models.description import CONFIG, DISCRIMINATOR, FILES, WEIGHTS, Description, check_finite, rebuild
from pixelloom.models.family import Ability
from pixelloom.models.inputs import LabelsLike, at_least, check_labels, check_levels
from pixelloom.models.sharing import Shared
from pixelloom.models.truncation import Truncated
from pixelloom.networks import GAN_NETWORKS, build_pair
from pixelloom.sampling import latent_noise
from pixelloom.sampling.ancestral import OnStep
from pixelloom.sampling.exact import exact

BATCH = 64  # images per batch by default
Maps = list[tuple[str, Tensor]]
"""(layer, attention weights [B, H, W, h, w]); the weights [b, y, x] of each query position sum to 1."""


class GANDescription(Description):
    """Everything needed to rebuild a GAN around its weights, and its training record."""

    table = GAN_NETWORKS

    family: Literal["gan"] = "gan"


@final
class GANModel(Shared):
    """A generator, and the discriminator that it was trained with.

    Args:
        network: the generator, latent vectors [B, latent] -> images in model space [B, C, H, W].
        description: network, image shape and training record.
        discriminator: images in model space -> logits [B]; None if it was not kept.
    """

    def __init__(self, network: nn.Module, description: GANDescription, discriminator: nn.Module | None = None) -> None:
        self.network = network.eval()
        self.discriminator = None if discriminator is None else discriminator.eval()
        self.description = description
        self.spec: ImageSpec = description.image
        self._passes, self._truncated = ThreadChoice(), Truncated()
        self.condition: Condition | None = None
        """A GAN takes no conditioning image."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the weights and the description; torch does not pickle modules with spectral norm."""
        discriminator = None if self.discriminator is None else uncompiled(self.discriminator).state_dict()
        return _restored, (self.description, uncompiled(self.network).state_dict(), discriminator)

    @classmethod
    def build(cls, description: GANDescription) -> GANModel:
        """An untrained model with its discriminator."""
        generator, discriminator = build_pair(
            description.network, description.model, description.image, classes=description.classes
        )
        return cls(generator, description, discriminator)

    @property
    def can(self) -> frozenset[Ability]:
        """The abilities of this model."""
        found: set[Ability] = {"truncation", "interpolate", "attention"}
        return frozenset(found | {"classes"} if self.description.classes else found)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> GANModel:
        """Move the weights to a device, in place."""
        self.network.to(device)
        if self.discriminator is not None:
            self.discriminator.to(device)
        return self

    @property
    def parameters(self) -> int:
        """Number of trained parameters of the generator."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def latent(self) -> int:
        """Dimensions of a latent vector."""
        return int(self.network.latent)  # type: ignore[arg-type]

    def latents(self, n: int, *, seed: int = 0, first: int = 0, truncation: float | None = None) -> Tensor:
        """Latent vectors of images first .. first + n - 1, float32 [n, latent]."""
        for name, value, least in (("n", n, 1), ("seed", seed, 0), ("first", first, 0)):
            at_least(name, value, least)
        return latent_noise.latents(self.latent, seed, first, n, truncation=truncation)

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
        """Generate the images of latent vectors, levels uint8 [n, C, H, W] on the CPU.

        Args:
            z: latent vectors, float [n, latent].
            labels: class of each image, by name or number, or one for all; for a class-conditional model.
            batch: images per batch; another batch size may change a value by one level, by rounding.
            threads: CPU threads; None chooses by measured time.
            on_step: callback (1, 1, images), after each batch.

        Raises:
            UsageError: for latent vectors of another length, or labels that are missing or out of range.
        """
        at_least("batch", batch, 1)
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise UsageError(f"z: the model takes [n, {self.latent}], not {list(z.shape)}")
        classes = self._labels(labels, len(z))
        parts = []
        with self._passes.tuner(threads, self.device) as tuner:
            for images in tuner.batches(
                len(z), batch, lambda rows: self._pass(z[rows], None if classes is None else classes[rows])
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
        """Sample n images, levels uint8 [n, C, H, W]; image i depends on (seed, first + i) alone.

        Args:
            n: number of images.
            seed: seed of the latent vectors.
            first: index of the first image.
            truncation: bound on the absolute values of a latent vector; None for none. Batch norm then has the
                statistics of such vectors.
            labels: class of each image, by name or number, or one for all; None draws classes uniformly.
            batch: as in :meth:`render`.
            threads: as in :meth:`render`.
            on_step: as in :meth:`render`.

        Raises:
            UsageError: for n < 1, batch < 1, seed < 0, first < 0, truncation <= 0, or labels out of range.
        """
        z = self.latents(n, seed=seed, first=first, truncation=truncation)
        if labels is None and self.description.classes:
            labels = latent_noise.labels_of(self.description.classes, seed, first, n)
        return self._at(truncation).render(z, labels, batch=batch, threads=threads, on_step=on_step)

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
        """Interpolate between images on great circles of the latent space: uint8 [(stops - 1) * steps + 1, C, H, W].

        Every ``steps``-th image is one of the images first, first + 1, ... that :meth:`sample` gives for the same seed
        and truncation. All have one class.
        """
        z = latent_noise.path(self.latents(stops, seed=seed, first=first, truncation=truncation), steps)
        if labels is None and self.description.classes:
            labels = latent_noise.labels_of(self.description.classes, seed, first, 1)
        return self._at(truncation).render(z, labels)

    def _at(self, truncation: float | None) -> GANModel:
        """The model with the statistics of latent vectors of a truncation."""
        network = self._truncated.of(self.network, self.latent, self.description.classes, truncation)
        return self if network is self.network else GANModel(network, self.description)

    @torch.no_grad()
    def attend(self, z: Tensor, labels: LabelsLike = None) -> tuple[Tensor, Maps]:
        """Images of latent vectors, uint8 [n, C, H, W], and the attention maps of the generator."""
        with attention_maps(self.network) as maps:
            images = self.render(z, labels, batch=max(1, len(z)))
        return images, maps

    @torch.no_grad()
    def attend_to(self, images: Tensor | Levels, labels: LabelsLike = None) -> tuple[Tensor, Maps]:
        """Logits of the discriminator for images, uint8 [n, C, H, W] -> [n], and its attention maps.

        Raises:
            UsageError: if the discriminator was not kept, or for images or labels that do not fit the model.
        """
        if self.discriminator is None:
            raise UsageError(f"this model was kept without its discriminator ({DISCRIMINATOR})")
        x = to_model(check_levels(images, self.spec).to(self.device), self.spec.levels, Scaling.symmetric())
        classes = self._labels(labels, len(x))
        with attention_maps(self.discriminator) as maps:
            logits: Tensor = self.discriminator(x) if classes is None else self.discriminator(x, classes)
        return logits, maps

    def _pass(self, z: Tensor, labels: Tensor | None) -> Tensor:
        z = z.to(self.device, next(self.network.parameters()).dtype)
        with exact(z.device):
            images: Tensor = self.network(z) if labels is None else self.network(z, labels)
        return images

    def _labels(self, labels: LabelsLike, n: int) -> Tensor | None:
        """Labels as the networks take them, int64 [n]; there is no null class."""
        classes = self.description.classes
        found = check_labels(labels, self.description, n, self.device)
        if found is not None and (labels is None or (len(found) and int(found.max()) >= classes)):
            raise UsageError(f"labels: a class for each image, numbered 0 to {classes - 1}, is needed")
        return found

    def save(self, folder: Path | str) -> str:
        """Write the model folder; returns the SHA-256 of the generator's file.

        Raises:
            ModelError: if the folder cannot be written; earlier files are left unchanged.
        """
        config = self.description.model_dump(mode="json")
        with whole_folder(Path(folder), FILES) as target:
            sha256 = save_described(target / WEIGHTS, target / CONFIG, uncompiled(self.network).state_dict(), config)
            if self.discriminator is not None:
                meta = {**config, "generator": sha256}
                save_tensors(target / DISCRIMINATOR, uncompiled(self.discriminator).state_dict(), meta)
        return sha256


def _restored(
    description: GANDescription, generator: dict[str, Tensor], discriminator: dict[str, Tensor] | None
) -> GANModel:
    """A model with given weights, in their precision and on their device."""
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and replaced
        model = GANModel.build(description)
    model.network.load_state_dict(generator, assign=True)
    if discriminator is None or model.discriminator is None:
        return GANModel(model.network, description)
    model.discriminator.load_state_dict(discriminator, assign=True)
    return model


def load_gan(folder: Path) -> GANModel:
    """Load a model written by :meth:`GANModel.save`, onto the CPU; without discriminator if its file is missing.

    Raises:
        ModelError: if weights are missing, damaged, of another format, or do not fit their own description.
    """
    model = rebuild(folder / WEIGHTS, GANDescription, GANModel.build)
    assert model.discriminator is not None
    path = folder / DISCRIMINATOR
    if not path.is_file():
        return GANModel(model.network, model.description)
    try:
        kept, meta = load_tensors(path)
        check_keys(path, model.discriminator.state_dict(), kept)
        check_finite(path, kept)
        if meta.get("generator") != digest_of(folder / WEIGHTS):
            raise ModelError(f"{path}: belongs to another state of the generator; save the model again.")
    except ModelError as error:
        raise ModelError(f"{error} Only attention maps need this file; without it the model samples.") from error
    model.discriminator.load_state_dict(kept)
    return model
