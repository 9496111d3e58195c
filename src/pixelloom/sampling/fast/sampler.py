"""Drawing images with the fast sampler, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pixelloom.core.errors import UsageError
from pixelloom.core.threads import Pace, ThreadChoice
from pixelloom.core.types import Conditioning, ImageSpec
from pixelloom.heads.discrete import Head, check_temperature
from pixelloom.layers.reads import Marks
from pixelloom.sampling import sharing
from pixelloom.sampling.ancestral import OnStep
from pixelloom.sampling.fast.analysis import Dataflow, schedule
from pixelloom.sampling.fast.caches import Wavefront
from pixelloom.sampling.fast.planner import Plan
from pixelloom.sampling.fast.runtime import Incremental

ToModel = Callable[[Tensor], Tensor]
"""Levels -> values in model space, elementwise."""


LARGEST_BATCH = 256  # more at a time is hardly faster on a CPU
MEMORY = 1 << 30  # bytes that a batch may take where nobody says how much is free


def make_plan(
    network: nn.Module,
    head: Head,
    spec: ImageSpec,
    known: Marks | None = None,
    conditioning: Conditioning | None = None,
) -> Plan:
    """What to compute when, for a network of this structure with any weights.

    Args:
        network: maps pixels in model space [B, C, H, W] to parameters of the head.
        head: the distribution its output stands for.
        spec: shape and levels of the images.
        known: values that are known in all images, bool [C, H, W]; they and all that depends on them alone are computed
            at once.
        conditioning: further arguments of the network's forward, for one image; only names and shapes count.

    Raises:
        NotAutoregressiveError: if a pixel would have to be known before it is drawn.
        ModelError: if a layer does not say what it reads.
    """
    if known is not None and head.groups == 1:  # the channels of a pixel are drawn together
        known = np.broadcast_to(known.all(0), known.shape)
    return Plan(schedule(Dataflow(network, spec.shape, head.groups, conditioning), known), conditioning)


class FastSampler:
    """Draws images with the weights that the network has when its first batch begins.

    Noise and conditioning are arguments of :meth:`sample`, and buffers belong to one call at a time: callbacks and
    other threads may draw with the same sampler, or with another one of the same model, and no image changes. (On CUDA
    the second batch of a sampler is captured as graphs, which allows no other work on the device meanwhile.)

    Args:
        plan: made from the network, see :func:`make_plan`.
        head: as there.
        spec: as there.
        to_model: levels as the network takes them.
        dtype: of the network's weights.
        device: where they are.
        threads: CPU threads to use; None for what pays at the moment, of what may be used.
        choice: what chooses them and learns from it, for samplers of one network; None for one of its own.
        guidance: w of classifier-free guidance; each image is then run twice, as two rows of the batch that are always
            the same image: the first half of the rows conditional, the second half unconditional.
    """

    def __init__(
        self,
        plan: Plan,
        head: Head,
        spec: ImageSpec,
        to_model: ToModel,
        dtype: torch.dtype,
        device: torch.device,
        *,
        guidance: float = 0.0,
        threads: int | None = None,
        choice: ThreadChoice | None = None,
    ) -> None:
        self.plan, self.head, self.spec, self.to_model = plan, head, spec, to_model
        self.dtype, self.device, self.guidance = dtype, device, guidance
        self.threads = threads
        self._free: list[_Batch] = []  # buffers that no call is using
        self._choice = choice or ThreadChoice()

    @property
    def steps(self) -> int:
        """Of the schedule."""
        return self.plan.schedule.steps

    @property
    def bytes_per_image(self) -> int:
        """Memory that each image of a batch takes: caches, noise and levels, and the values of the widest step."""
        caches = self.plan.values_per_image() + self.plan.values_at_once()
        return caches * self.dtype.itemsize + self.spec.dims * (8 + 1 + 1)

    def batch(self, n: int) -> int:
        """How many of n images to draw at a time, so that memory stays bounded: a quarter of what CUDA has free."""
        memory, most = MEMORY, LARGEST_BATCH
        if self.device.type == "cuda":
            memory, most = torch.cuda.mem_get_info(self.device)[0] // 4, 16 * LARGEST_BATCH
        return max(1, min(n, most, memory // self.bytes_per_image // (2 if self.guidance else 1)))

    def sample(
        self,
        noise: Tensor,
        *,
        conditioning: Conditioning | None = None,
        temperature: float = 1.0,
        given: Tensor | None = None,
        mask: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw one image for each row of noise; arguments and result as those of the plain loop,
        :func:`pixelloom.sampling.ancestral.sample`.

        ``conditioning`` holds further arguments of the network's forward, of the names that the plan was made with: a
        row an image, or one for all; with guidance the conditional rows, then the unconditional ones.

        Raises:
            UsageError: for a temperature that is not positive, or conditioning for another number of images.
        """
        check_temperature(temperature)
        n, used = len(noise), list[_Batch]()
        self._check(conditioning or {}, n)
        given, mask = (None if planes is None else planes.expand(n, *self.spec.shape) for planes in (given, mask))

        def draw(rows: slice, report: OnStep, pace: Pace | None = None) -> Tensor:
            known, where = (None if planes is None else planes[rows] for planes in (given, mask))
            of_rows = None if not conditioning else _rows_of(conditioning, rows, n)
            used.append(batch := self._buffers((rows.stop - rows.start) * (2 if self.guidance else 1), of_rows))
            return batch.sample(noise[rows], known, where, temperature, report, pace)

        with self._choice.pace(self.threads, self.device) as pace:
            workers = sharing.workers(n, self.plan.grain, pace.most) if self.device.type == "cpu" else 1
            if workers > 1:
                begun = torch.zeros(n, *self.spec.shape, dtype=torch.uint8)
                if given is not None and mask is not None:
                    begun = torch.where(mask, given, 0)
                images = sharing.shared(draw, begun, workers, on_step)
            else:
                images = draw(slice(0, n), on_step or _nothing, pace)
        self._free = [] if conditioning else used
        return images

    def _check(self, conditioning: Conditioning, n: int) -> None:
        """Refuse conditioning of other names than the plan's, or of another number of images than n."""
        if set(conditioning) != self.plan.conditioned:
            wanted, found = (", ".join(sorted(names)) or "nothing" for names in (self.plan.conditioned, conditioning))
            raise UsageError(f"conditioning: the network is conditioned on {wanted}, and was given {found}")
        for name, value in conditioning.items():
            if len(value) not in (1, 2 * n if self.guidance else n):
                raise UsageError(f"{name}: what is given is for {len(value)} images, a batch has {n}")

    def _buffers(self, images: int, conditioning: Conditioning | None) -> _Batch:
        """For so many images, and for this call alone. The last ones serve again where they fit and nobody has them."""
        try:
            batch = self._free.pop()  # one step of the interpreter: no two threads get the same
        except IndexError:
            return _Batch(self, images, conditioning)
        fits = not conditioning and batch.images // 2 <= images <= batch.images
        return batch if fits else _Batch(self, images, conditioning)


class _Batch:
    """Buffers for so many images. On CUDA each step is captured as a graph once they have been used, and replayed."""

    def __init__(self, sampler: FastSampler, images: int, conditioning: Conditioning | None) -> None:
        self.sampler, self.images = sampler, images
        channels, height, width = sampler.spec.shape
        self.run = Incremental(sampler.plan, images, sampler.dtype, sampler.device, conditioning)
        planes = (height * width, images, channels)
        self.noise = torch.zeros(planes, dtype=torch.float64, device=sampler.device)
        self.levels = torch.zeros(planes, dtype=torch.uint8, device=sampler.device)
        self.kept = torch.zeros(planes, dtype=torch.bool, device=sampler.device)
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.used_at: float | None = None

    def sample(
        self,
        noise: Tensor,
        given: Tensor | None,
        mask: Tensor | None,
        temperature: float,
        on_step: OnStep,
        pace: Pace | None,
    ) -> Tensor:
        """Fewer images than there is room for leave the rest unused."""
        shown = len(noise)
        if self.sampler.guidance:
            noise = noise.repeat(2, 1, 1, 1)
            given, mask = (None if planes is None else planes.repeat(2, 1, 1, 1) for planes in (given, mask))
        if len(self.graphs) < self.sampler.steps:  # stopped while they were captured: rows had moved by then
            self.graphs.clear()
        n, spec = len(noise), self.sampler.spec
        self.noise[:, :n] = _planes(noise)
        self.levels.zero_()
        self.kept.zero_()
        if given is not None and mask is not None:
            self.kept[:, :n] = _planes(mask)
            self.levels[:, :n] = _planes(torch.where(mask, given, 0))
        self.run.begin(self.sampler.to_model(self.levels).to(self.sampler.dtype))
        images = self.levels.view(spec.height, spec.width, *self.levels.shape[1:])[:, :, :n].permute(2, 3, 0, 1)
        images = images[:shown]
        for step, work in enumerate(self.sampler.plan.values_of_steps):
            if pace is None:
                self._step(step, temperature)
            else:
                pace.run(work * n, partial(self._step, step, temperature))
            on_step(step + 1, self.sampler.steps, images)
        self.used_at = temperature
        return images.clone(memory_format=torch.contiguous_format)  # the buffers serve the next batch

    def _step(self, step: int, temperature: float) -> None:
        if self.sampler.device.type != "cuda" or self.used_at != temperature:
            self.graphs.clear()
            self._compute(step, temperature)
            return
        if step == len(self.graphs):
            graph = torch.cuda.CUDAGraph()
            pool = self.graphs[0].pool() if self.graphs else None
            with torch.cuda.graph(graph, pool=pool):
                self._compute(step, temperature)
            self.graphs.append(graph)
        self.graphs[step].replay()

    @torch.no_grad()
    def _compute(self, step: int, temperature: float) -> None:
        def draw(params: Tensor, wavefront: Wavefront, channels: tuple[int, ...]) -> Tensor:
            head = self.sampler.head if len(channels) == self.levels.shape[2] else self.sampler.head.of_channel()
            which = slice(channels[0], channels[-1] + 1)
            noise, levels, kept = (
                wavefront.of(planes[..., which])[:, :, None, None] for planes in (self.noise, self.levels, self.kept)
            )
            if self.sampler.guidance:
                cond, uncond = params.view(-1, self.images, params.shape[1]).chunk(2, dim=1)
                params = guided(cond, uncond, self.sampler.guidance).repeat(1, 2, 1).flatten(0, 1)
            drawn = head.draw(params[:, :, None, None], noise, temperature, (levels, kept))[:, :, 0, 0]
            wavefront.put(self.levels[..., which], drawn)
            return self.sampler.to_model(drawn).to(self.sampler.dtype)

        self.run.step(step, draw)


def _nothing(*_: object) -> None:
    """The callback of a call that has none."""


def _rows_of(conditioning: Conditioning, rows: slice, n: int) -> Conditioning:
    """The conditioning of some of n images; with guidance, of their conditional rows and then of the others."""

    def of(value: Tensor) -> Tensor:
        return value if len(value) == 1 else torch.cat([part[rows] for part in torch.split(value, n)])

    return {name: of(value) for name, value in conditioning.items()}


def guided(cond: Tensor, uncond: Tensor, weight: float) -> Tensor:
    """Logits of classifier-free guidance: (1 + w) cond - w uncond (Ho and Salimans 2022, eq. 6)."""
    return cond + weight * (cond - uncond)


def _planes(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [H * W, B, C]"""
    return images.flatten(2).permute(2, 0, 1)
