"""The plain loop of a pixel model: one pass of the network per pixel, with conditioning and guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from pixelloom.core.threads import ThreadChoice
from pixelloom.core.types import Conditioning, ImageSpec
from pixelloom.heads.discrete import Head
from pixelloom.models.inputs import with_null_class
from pixelloom.sampling import ancestral
from pixelloom.sampling.fast.drawer import guided


@dataclass(frozen=True)
class PlainLoop:
    """Draws images with a network that is run once per pixel.

    Attributes:
        network: levels uint8 [B, C, H, W] and conditioning -> parameters of the head [B, outputs, H, W].
        head: the distribution that values are drawn from.
        spec: shape and levels of the images.
        classes: number of classes; the null class has this label.
        guidance: w of classifier-free guidance; 0 for none.
        threads: number of CPU threads; None chooses by measured time.
        choice: the choice of threads, shared by the passes of a model.
    """

    network: Callable[[Tensor, Conditioning], Tensor]
    head: Head
    spec: ImageSpec
    classes: int
    guidance: float
    threads: int | None
    choice: ThreadChoice

    def sample(self, noise: Tensor, *, conditioning: Conditioning, **options: Any) -> Tensor:
        """Draw one image for each row of noise, levels uint8 [B, C, H, W]; options are those of the plain loop."""
        with self.choice.tuner(self.threads, noise.device) as tuner:
            step = partial(self._predict, conditioning)
            return ancestral.sample(
                lambda levels: tuner.run(1, partial(step, levels)), self.head, self.spec, noise, **options
            )

    def _predict(self, conditioning: Conditioning, levels: Tensor) -> Tensor:
        if not self.guidance:
            return self.network(levels, conditioning)
        both = with_null_class(conditioning, self.classes)
        cond, uncond = self.network(levels.repeat(2, 1, 1, 1), both).chunk(2)
        return guided(cond, uncond, self.guidance)
