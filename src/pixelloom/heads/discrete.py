"""Heads: the distribution of each pixel, given the output of the network.

A head maps parameters [B, outputs, H, W] to a distribution over the levels 0 .. L-1 of every value of the image. All
heads have the same three methods, computed in float32 or float64 whatever the precision of the network:

    nats(params, x)       -log p of each value, [B, C, H, W]
    table(params)         all probabilities, [B, C, L, H, W], float64
    draw(params, noise)   one level per value from uniform noise, by inversion of the distribution function

``groups`` is the number of channel groups of the network: C if the channels of a pixel are ordered (R before G before
B, each conditional on those before it), 1 if they are independent given earlier pixels. A head that models the
dependence of channels by its own parameters needs one group; its table depends on the levels of the pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.heads.config import HeadConfig
from pixelloom.heads.logistic_mixture import Known, Logistics

Kind = Literal["bernoulli", "categorical", "logistics"]


class Head(Protocol):
    """The distribution of every value of an image, given the network's output."""

    @property
    def kind(self) -> Kind:
        """The name of the head in a configuration."""

    @property
    def outputs(self) -> int:
        """Number of parameters per position, all channels together."""

    @property
    def groups(self) -> int:
        """Number of ordered channel groups of the network: C, or 1."""

    def nats(self, params: Tensor, x: Tensor) -> Tensor:
        """-log p(x) of each value, float32 [B, C, H, W], from levels x uint8 [B, C, H, W]."""

    def table(self, params: Tensor, temperature: float = 1.0, x: Tensor | None = None) -> Tensor:
        """All probabilities, float64 [B, C, L, H, W].

        A head that models the dependence of channels needs the levels x, uint8 [B, C, H, W], of all but the last.
        """

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        """Levels uint8 [B, C, H, W] from noise uniform in [0, 1), float64 [B, C, H, W].

        Known levels are kept, and later channels of the pixel are conditional on them.
        """

    def of_channel(self) -> Head:
        """For ordered channels, the head of a single one, for its contiguous C-th part of the parameters."""


@dataclass(frozen=True)
class Categorical:
    """Softmax over all levels of each value: C x L parameters per position, channel by channel."""

    spec: ImageSpec
    channels: Literal["ordered", "independent"] = "ordered"

    @property
    def kind(self) -> Kind:
        """The name of the head in a configuration."""
        return "categorical"

    @property
    def outputs(self) -> int:
        """C x L."""
        return self.spec.channels * self.spec.levels

    @property
    def groups(self) -> int:
        """C when the channels are ordered, else 1."""
        return self.spec.channels if self.channels == "ordered" else 1

    def _logits(self, params: Tensor) -> Tensor:
        """[B, C * L, H, W] -> [B, H, W, C, L]; channels are contiguous, as in the masks of the network."""
        b, _, h, w = params.shape
        return params.permute(0, 2, 3, 1).reshape(b, h, w, self.spec.channels, self.spec.levels)

    def nats(self, params: Tensor, x: Tensor) -> Tensor:
        """-log softmax at x, [B, C, H, W]."""
        logits = self._logits(params).float()
        target = x.permute(0, 2, 3, 1).long()  # [B, C, H, W] -> [B, H, W, C]
        # [B, H, W, C, L] -> [B*H*W*C, L], and [B*H*W*C] -> [B, H, W, C] -> [B, C, H, W]
        nats = F.cross_entropy(logits.flatten(0, 3), target.flatten(), reduction="none")
        return nats.view(target.shape).permute(0, 3, 1, 2)

    def table(self, params: Tensor, temperature: float = 1.0, x: Tensor | None = None) -> Tensor:
        """Softmax of logits / temperature, float64 [B, C, L, H, W]."""
        logits = self._logits(params).double()
        if temperature != 1:
            logits = logits / temperature
        return F.softmax(logits, dim=-1).permute(0, 3, 4, 1, 2)  # [B, H, W, C, L] -> [B, C, L, H, W]

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        """The number of levels whose distribution function is at or below the noise, uint8 [B, C, H, W]."""
        cdf = self.table(params, temperature).cumsum(dim=2)
        # The total differs from 1 by rounding. Noise scaled by it stays below the total, so that no level of
        # probability zero is drawn.
        drawn = (cdf[:, :, :-1] <= noise[:, :, None] * cdf[:, :, -1:]).sum(dim=2).to(torch.uint8)
        return _kept(drawn, known)

    def of_channel(self) -> Categorical:
        """The head of one channel, with L parameters."""
        return Categorical(replace(self.spec, channels=1))


@dataclass(frozen=True)
class Bernoulli:
    """One logit per value of a binary image: p(1) = sigmoid(logit)."""

    spec: ImageSpec
    channels: Literal["ordered", "independent"] = "ordered"

    def __post_init__(self) -> None:
        if self.spec.levels != 2:
            raise UsageError(
                f"head.kind: a Bernoulli head needs 2 levels, these images have {self.spec.levels}; "
                "use head.kind=categorical, or binarize with --binarize"
            )

    @property
    def kind(self) -> Kind:
        """The name of the head in a configuration."""
        return "bernoulli"

    @property
    def outputs(self) -> int:
        """C."""
        return self.spec.channels

    @property
    def groups(self) -> int:
        """C when the channels are ordered, else 1."""
        return self.spec.channels if self.channels == "ordered" else 1

    def nats(self, params: Tensor, x: Tensor) -> Tensor:
        """softplus(-logit) where x is 1, softplus(logit) where it is 0, [B, C, H, W]."""
        return F.binary_cross_entropy_with_logits(params.float(), x.float(), reduction="none")

    def table(self, params: Tensor, temperature: float = 1.0, x: Tensor | None = None) -> Tensor:
        """(sigmoid(-logit), sigmoid(logit)), float64 [B, C, 2, H, W]."""
        logit = params.double() / temperature
        return torch.stack((torch.sigmoid(-logit), torch.sigmoid(logit)), dim=2)

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0, known: Known | None = None) -> Tensor:
        """1 where the noise is at or above p(0), uint8 [B, C, H, W]."""
        drawn = (torch.sigmoid(-params.double() / temperature) <= noise).to(torch.uint8)
        return _kept(drawn, known)

    def of_channel(self) -> Bernoulli:
        """The head of one channel, with one logit."""
        return Bernoulli(replace(self.spec, channels=1))


def make_head(config: HeadConfig, spec: ImageSpec) -> Head:
    """Build the head of a configuration for some images.

    Raises:
        UsageError: for a head that does not support these images, or independent channels.
    """
    if config.kind == "logistics":
        if config.channels == "independent" and spec.channels > 1:
            raise UsageError(
                "head.channels: a mixture of logistics orders the channels of a pixel; use head.channels=ordered, or "
                "head.kind=categorical"
            )
        if spec.palette is not None:
            raise UsageError("head.kind: logistics needs intensities, not a palette; use head.kind=categorical")
        return Logistics(spec, config.mixtures)
    binary = config.kind == "bernoulli" or (config.kind == "auto" and spec.levels == 2)
    return (Bernoulli if binary else Categorical)(spec, config.channels)


def _kept(drawn: Tensor, known: Known | None) -> Tensor:
    return drawn if known is None else torch.where(known[1], known[0], drawn)


def check_temperature(temperature: float) -> None:
    """Check a temperature.

    Raises:
        UsageError: unless 0 < temperature < infinity.
    """
    try:
        number = math.nan if isinstance(temperature, str | bool) else float(temperature)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(
            f"temperature: must be a positive number, not {temperature!r}; "
            "a small one such as 0.01 almost always draws the most likely level"
        )
