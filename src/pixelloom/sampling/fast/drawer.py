"""How the pixels of a wavefront are drawn: noise, head and known values, as recorded calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pixelloom.heads.discrete import Head
from pixelloom.sampling.fast.recorder import Calls, Scratch, record
from pixelloom.sampling.fast.wavefronts import Wavefront
from pixelloom.sampling.particles import Particles

ToModel = Callable[[Tensor], Tensor]
"""Levels -> values in model space, elementwise."""


class _Recorded(NamedTuple):
    """The calls that draw the pixels of wavefronts of some size.

    Attributes:
        planes: what is read at the wavefront, [H * W, images, n] each.
        inputs: where it is put, [M, n] each.
        parameters: of the head, [M, outputs].
        calls: that draw.
        drawn: levels, uint8 [M, n].
        value: in model space, [M, n].
    """

    planes: list[Tensor]
    inputs: list[Tensor]
    parameters: Tensor
    calls: Calls
    drawn: Tensor
    value: Tensor


class Drawer:
    """Draws pixels of a batch.

    Args:
        head: the distribution of each pixel.
        to_model: levels -> values in model space.
        dtype: of the values.
        guidance: weight of classifier-free guidance, 0 for none.
        noise: uniform, float64 [H * W, images, C].
        levels: known and drawn levels, uint8 [H * W, images, C].
        kept: where they are known, bool [H * W, images, C].
    """

    def __init__(
        self,
        head: Head,
        to_model: ToModel,
        dtype: torch.dtype,
        guidance: float,
        noise: Tensor,
        levels: Tensor,
        kept: Tensor,
    ) -> None:
        self.head, self.to_model, self.dtype, self.guidance = head, to_model, dtype, guidance
        self.noise, self.levels, self.kept = noise, levels, kept
        self.temperature = 1.0
        self.known = True  # whether a value may be known
        self.scratch = Scratch(noise.device)
        self._recorded: dict[Any, _Recorded] = {}

    def draw(self, params: Tensor, wavefront: Wavefront, channels: tuple[int, ...]) -> Tensor:
        """Draw the pixels of a wavefront, from parameters [M, n]; their values in model space [M, channels]."""
        key = channels, wavefront.rows, self.temperature, self.known
        found = self._recorded.get(key)
        if found is None:
            found = self._recorded[key] = self._record(params, channels)
        found.parameters.copy_(params)
        position = wavefront.segments[0].y * wavefront.width + wavefront.segments[0].x
        single = wavefront.rows == wavefront.images
        for planes, values in zip(found.planes, found.inputs, strict=True):
            values.copy_(planes[position] if single else wavefront.gather(planes))
        for call in found.calls:
            call()
        levels = self._channels(self.levels, channels)
        if single:
            levels[position].copy_(found.drawn)
        else:
            wavefront.scatter(levels, found.drawn)
        return found.value

    def draw_weighed(
        self, params: Tensor, wavefront: Wavefront, channels: tuple[int, ...], particles: Particles, n: int
    ) -> Tensor:
        """As :meth:`draw`, and weigh the first n images by the probabilities of their known values."""
        noise, levels, kept = (
            wavefront.gather(self._channels(planes, channels)) for planes in (self.noise, self.levels, self.kept)
        )
        head = self._head(channels)
        drawn = self._draw(head, params, noise, levels, kept)
        wavefront.scatter(self._channels(self.levels, channels), drawn)
        nats = head.nats(params[:, :, None, None], drawn[:, :, None, None])[:, :, 0, 0] * kept
        # [M, channels] -> [positions, images, channels] -> [images]
        particles.weigh(-nats.double().view(-1, wavefront.images, len(channels)).sum((0, 2))[:n])
        return self._value(drawn)

    def _record(self, params: Tensor, channels: tuple[int, ...]) -> _Recorded:
        head, size = self._head(channels), (len(params), len(channels))
        params = params.clone(memory_format=torch.contiguous_format)  # a view of a cache moves, but no view of it
        planes = [self.noise, self.levels, self.kept] if self.known else [self.noise]
        inputs = [torch.zeros(size, dtype=one.dtype, device=params.device) for one in planes]
        drawn = torch.zeros(size, dtype=torch.uint8, device=params.device)
        value = torch.zeros(size, dtype=self.dtype, device=params.device)

        def draw(*values: Tensor) -> Tensor:
            return self._draw(head, *values)

        calls: Calls = []
        for function, origin, given, out in (
            (draw, head, [params, *inputs], drawn),
            (self._value, self.to_model, [drawn], value),
        ):
            recording = record(function, given, self.scratch, origin)
            if recording is None:
                calls.append(_Direct(function, given, out).run)
            else:
                calls += recording.into(out)
        return _Recorded([self._channels(one, channels) for one in planes], inputs, params, calls, drawn, value)

    def _draw(
        self, head: Head, params: Tensor, noise: Tensor, levels: Tensor | None = None, kept: Tensor | None = None
    ) -> Tensor:
        """Levels [M, n] from parameters [M, outputs], noise [M, n], and known levels [M, n], if any."""
        if self.guidance:
            # [M, n] -> [positions, images, n] -> two halves [positions, images / 2, n], and back
            cond, uncond = params.view(-1, self.noise.shape[1], params.shape[1]).chunk(2, dim=1)
            params = guided(cond, uncond, self.guidance).repeat(1, 2, 1).flatten(0, 1)
        # Heads take [M, n, 1, 1].
        known = None if levels is None or kept is None else (levels[:, :, None, None], kept[:, :, None, None])
        return head.draw(params[:, :, None, None], noise[:, :, None, None], self.temperature, known)[:, :, 0, 0]

    def _value(self, levels: Tensor) -> Tensor:
        return self.to_model(levels).to(self.dtype)

    def _head(self, channels: tuple[int, ...]) -> Head:
        return self.head if len(channels) == self.levels.shape[2] else self.head.of_channel()

    def _channels(self, planes: Tensor, channels: tuple[int, ...]) -> Tensor:
        return planes[..., channels[0] : channels[-1] + 1]


class _Direct:
    """A function that is called at each step."""

    def __init__(self, function: Callable[..., Tensor], inputs: list[Tensor], out: Tensor) -> None:
        self.function, self.inputs, self.out = function, inputs, out

    def run(self) -> None:
        """Call it on copies, which it may keep."""
        self.out.copy_(self.function(*(value.clone() for value in self.inputs)))


def guided(cond: Tensor, uncond: Tensor, weight: float) -> Tensor:
    """Logits of classifier-free guidance: (1 + w) cond - w uncond (Ho and Salimans 2022, eq. 6)."""
    return cond + weight * (cond - uncond)
