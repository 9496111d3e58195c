"""The fast sampler: batches of images by a plan, on any number of threads, or as CUDA graphs."""

from __future__ import annotations

import operator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pixelloom.core.errors import UsageError
from pixelloom.core.threads import ThreadChoice, ThreadTuner
from pixelloom.core.types import Conditioning, ImageSpec
from pixelloom.heads.discrete import Head, check_temperature
from pixelloom.layers.reads import Marks
from pixelloom.sampling import sharding
from pixelloom.sampling.ancestral import OnStep
from pixelloom.sampling.fast.analysis import Dataflow, schedule
from pixelloom.sampling.fast.batching import batched
from pixelloom.sampling.fast.drawer import Drawer, ToModel
from pixelloom.sampling.fast.passes import fold_affine, fold_norms
from pixelloom.sampling.fast.planner import Plan
from pixelloom.sampling.fast.runtime import Runtime
from pixelloom.sampling.fast.trace import trace
from pixelloom.sampling.particles import Particles

LARGEST_BATCH = 256  # larger ones are hardly faster on a CPU
MEMORY = 1 << 30  # bytes of a batch on a CPU


def make_plan(
    network: nn.Module,
    head: Head,
    spec: ImageSpec,
    known: Marks | None = None,
    conditioning: Conditioning | None = None,
) -> Plan:
    """Compile a network: trace, analyze and plan it. The plan is valid for all weights of the same network.

    Args:
        network: maps pixels in model space [B, C, H, W] to parameters of the head.
        head: the distribution that its output parametrizes.
        spec: shape and levels of the images.
        known: values that are known in all images, bool [C, H, W]; features that depend on them alone are computed in
            the first step.
        conditioning: further arguments of the network's forward, for one image; only names and shapes are used.

    Raises:
        NotAutoregressiveError: if a pixel depends on itself or on a later one.
        ModelError: if a layer does not declare its reads.
    """
    if known is not None and head.groups == 1:  # the channels of a pixel are drawn together
        known = np.broadcast_to(known.all(0), known.shape)
    nodes = fold_norms(fold_affine(trace(network, spec.shape, conditioning)))
    return Plan(batched(schedule(Dataflow(nodes, spec.shape, head.groups), known)), conditioning)


class LastPlan:
    """The last plan of a network, which is reused while the network has the same layers and known pixels."""

    def __init__(self) -> None:
        self._made: tuple[tuple[nn.Module, ...], bytes, Plan] | None = None

    def of(
        self, network: nn.Module, head: Head, spec: ImageSpec, known: Marks | None, conditioning: Conditioning
    ) -> Plan:
        """The plan of :func:`make_plan`."""
        layers, places = tuple(network.modules()), b"" if known is None else known.tobytes()
        if self._made is not None:
            before, where, plan = self._made
            if where == places and len(before) == len(layers) and all(map(operator.is_, before, layers)):
                return plan
        plan = make_plan(network, head, spec, known, conditioning)
        self._made = layers, places, plan
        return plan


class FastSampler:
    """Draws images with the weights of the network at the first batch.

    Noise and conditioning are arguments of :meth:`sample`, and a buffer belongs to one call at a time. So callbacks and
    other threads may draw with the same sampler, or another one of the same model, and no image changes. (On CUDA the
    second batch of a sampler is captured as graphs; the device must do no other work meanwhile.)

    Args:
        plan: of the network, see :func:`make_plan`.
        head: the distribution that the network's output parametrizes.
        spec: shape and levels of the images.
        to_model: levels -> values in model space.
        dtype: of the network's weights.
        device: of the network's weights.
        guidance: w of classifier-free guidance. Each image then takes two rows of the batch: the first half of the rows
            is conditional, the second half unconditional.
        threads: number of CPU threads, None to tune it.
        choice: tuner that samplers of one network share, None for an own one.
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
        self._free: list[_Batch] = []  # buffers that no call uses
        self._choice = choice or ThreadChoice()

    @property
    def steps(self) -> int:
        """Number of steps of the schedule."""
        return self.plan.schedule.steps

    @property
    def bytes_per_image(self) -> int:
        """Memory per image of a batch: caches, the slots of the largest step, noise, levels and mask."""
        caches = self.plan.values_per_image() + self.plan.peak_values_per_image()
        return caches * self.dtype.itemsize + self.spec.dims * (8 + 1 + 1)

    def batch(self, n: int) -> int:
        """Batch size for n images within a bound on memory: 1 GiB on a CPU, a quarter of the free memory of CUDA."""
        memory, most = MEMORY, LARGEST_BATCH
        if self.device.type == "cuda":
            memory, most = torch.cuda.mem_get_info(self.device)[0] // 4, 16 * LARGEST_BATCH
        return max(1, min(n, most, memory // self.bytes_per_image // (2 if self.guidance else 1)))

    @torch.inference_mode(mode=False)  # memory that is kept is written to again, perhaps outside of that mode
    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        *,
        conditioning: Conditioning | None = None,
        temperature: float = 1.0,
        given: Tensor | None = None,
        mask: Tensor | None = None,
        on_step: OnStep | None = None,
        particles: Particles | None = None,
    ) -> Tensor:
        """Draw one image for each row of noise.

        Args:
            noise: uniform, float64 [B, C, H, W], as for :func:`pixelloom.sampling.ancestral.sample`.
            conditioning: further arguments of the network's forward, of the plan's names: one row per image, or one for
                all; with guidance the conditional rows, then the unconditional ones.
            temperature: as for the plain loop.
            given: as for the plain loop.
            mask: as for the plain loop.
            on_step: callback after each step of the schedule.
            particles: weights of the rows, by the probabilities of the known values at temperature 1; the rows are
                resampled by them. The plan must draw the known values too (``make_plan`` with ``known=None``).

        Returns:
            Levels, uint8 [B, C, H, W].

        Raises:
            UsageError: for a temperature that is not positive, or conditioning for another number of images.
        """
        check_temperature(temperature)
        n, used = len(noise), list[_Batch]()
        self._check(conditioning or {}, n)
        given, mask = (None if planes is None else planes.expand(n, *self.spec.shape) for planes in (given, mask))

        def draw(rows: slice, report: OnStep, tuner: ThreadTuner | None = None) -> Tensor:
            known, where = (None if planes is None else planes[rows] for planes in (given, mask))
            of_rows = None if not conditioning else _rows_of(conditioning, rows, n)
            used.append(batch := self._buffers((rows.stop - rows.start) * (2 if self.guidance else 1), of_rows))
            return batch.sample(noise[rows], known, where, temperature, report, tuner, particles)

        with self._choice.tuner(self.threads, self.device) as tuner:
            workers = 1  # particles are resampled together
            if self.device.type == "cpu" and particles is None:
                workers = sharding.shard_count(n, self.plan.grain, tuner.most)
            if workers > 1:
                begun = torch.zeros(n, *self.spec.shape, dtype=torch.uint8)
                if given is not None and mask is not None:
                    begun = torch.where(mask, given, 0)
                images = sharding.draw_sharded(draw, begun, workers, on_step)
            else:
                images = draw(slice(0, n), on_step or _nothing, tuner)
        self._free = [] if conditioning else used
        return images

    def _check(self, conditioning: Conditioning, n: int) -> None:
        """Raise UsageError for conditioning of other names than the plan's, or of another number of images than n."""
        if set(conditioning) != self.plan.conditioned:
            wanted, found = (", ".join(sorted(names)) or "nothing" for names in (self.plan.conditioned, conditioning))
            raise UsageError(f"conditioning: the network is conditioned on {wanted}, and was given {found}")
        for name, value in conditioning.items():
            if len(value) not in (1, 2 * n if self.guidance else n):
                raise UsageError(f"{name}: what is given is for {len(value)} images, a batch has {n}")

    def _buffers(self, images: int, conditioning: Conditioning | None) -> _Batch:
        """Buffers for this number of images, owned by the caller; those of an earlier call if they fit."""
        try:
            batch = self._free.pop()  # atomic: no two threads get the same one
        except IndexError:
            return _Batch(self, images, conditioning)
        fits = not conditioning and batch.images // 2 <= images <= batch.images
        return batch if fits else _Batch(self, images, conditioning)


class _Batch:
    """Buffers for a number of images. On CUDA, the second batch captures each step as a graph, and replays it."""

    def __init__(self, sampler: FastSampler, images: int, conditioning: Conditioning | None) -> None:
        self.sampler, self.images = sampler, images
        channels, height, width = sampler.spec.shape
        self.run = Runtime(sampler.plan, images, sampler.dtype, sampler.device, conditioning)
        planes = (height * width, images, channels)
        self.noise = torch.zeros(planes, dtype=torch.float64, device=sampler.device)
        self.levels = torch.zeros(planes, dtype=torch.uint8, device=sampler.device)
        self.kept = torch.zeros(planes, dtype=torch.bool, device=sampler.device)
        self.drawer = Drawer(
            sampler.head, sampler.to_model, sampler.dtype, sampler.guidance, self.noise, self.levels, self.kept
        )
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.used_at: float | None = None

    def sample(
        self,
        noise: Tensor,
        given: Tensor | None,
        mask: Tensor | None,
        temperature: float,
        on_step: OnStep,
        tuner: ThreadTuner | None,
        particles: Particles | None,
    ) -> Tensor:
        """Draw a batch of at most as many images as there are buffers for."""
        shown = len(noise)
        if self.sampler.guidance:
            noise = noise.repeat(2, 1, 1, 1)
            given, mask = (None if planes is None else planes.repeat(2, 1, 1, 1) for planes in (given, mask))
        if len(self.graphs) < self.sampler.steps:  # an interrupted capture, which rows of caches moved after
            self.graphs.clear()
        n, spec = len(noise), self.sampler.spec
        self.noise[:, :n] = _planes(noise)
        self.levels.zero_()
        self.kept.zero_()
        # A captured graph serves all batches, with known values and without.
        self.drawer.known = mask is not None or self.sampler.device.type == "cuda"
        if given is not None and mask is not None:
            self.kept[:, :n] = _planes(mask)
            self.levels[:, :n] = _planes(torch.where(mask, given, 0))
        self.run.begin(self.sampler.to_model(self.levels).to(self.sampler.dtype))
        # [H * W, images, C] -> [H, W, images, C] -> [images, C, H, W], a view that shows the progress
        images = self.levels.view(spec.height, spec.width, *self.levels.shape[1:])[:, :, :n].permute(2, 3, 0, 1)
        images = images[:shown]
        for step, work in enumerate(self.sampler.plan.values_per_step):
            compute = partial(self._step, step, temperature)
            if particles is not None:
                compute = partial(self._compute, step, temperature, particles, n)
            if tuner is None:
                compute()
            else:
                tuner.run(work * n, compute)
            if particles is not None and (rows := particles.ancestors()) is not None:
                self._reorder(rows.to(self.levels.device))
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

    def _reorder(self, rows: Tensor) -> None:
        """Row i continues row rows[i], int64 [n]."""
        self.levels[:, : len(rows)] = self.levels[:, rows]
        others = torch.arange(len(rows), self.images, device=rows.device)
        self.run.reorder(torch.cat((rows, others)))

    @torch.no_grad()
    def _compute(self, step: int, temperature: float, particles: Particles | None = None, n: int = 0) -> None:
        self.drawer.temperature = temperature
        if particles is None:
            self.run.step(step, self.drawer.draw)
        else:
            self.run.step(step, partial(self.drawer.draw_weighed, particles=particles, n=n))


def _nothing(*_: object) -> None:
    """The default callback."""


def _rows_of(conditioning: Conditioning, rows: slice, n: int) -> Conditioning:
    """The conditioning of a range of n images; with guidance, their conditional rows, then their unconditional rows."""

    def of(value: Tensor) -> Tensor:
        return value if len(value) == 1 else torch.cat([part[rows] for part in torch.split(value, n)])

    return {name: of(value) for name, value in conditioning.items()}


def _planes(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [H * W, B, C]"""
    return images.flatten(2).permute(2, 0, 1)
