"""How a pixel model draws a batch: by the fast sampler, or by the plain loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.core.types import Conditioning
from pixelloom.models.inputs import Precision, check_guidance, in_dtype, in_precision, with_null_class
from pixelloom.sampling import ancestral
from pixelloom.sampling.fast import sampler as fast

if TYPE_CHECKING:
    from pixelloom.models.pixel import PixelModel

PLAIN_BATCH = 64  # images per batch of the plain loop, by default


def drawer(
    model: PixelModel,
    method: str,
    precision: Precision | None,
    where: Tensor | None,
    guidance: float,
    threads: int | None,
) -> tuple[Callable[..., Tensor], Callable[[int], int]]:
    """A function that samples a batch from noise and conditioning, and one from n to the batch size.

    Arguments are those of :meth:`pixelloom.models.pixel.PixelModel.sample`; ``where`` is its mask of known values.

    Raises:
        UsageError: for another method, precision, or guidance that the model does not have.
        ModelError: with "fast", if the network is not autoregressive or a layer does not declare its reads.
    """
    if method not in ("fast", "plain"):
        raise UsageError(f"method: 'fast' or 'plain', not {method!r}")
    classes = model.description.classes
    check_guidance(guidance, model.description, logits=model.head.kind != "logistics")
    if method == "fast":
        sampler = model.fast_sampler(precision, where, guidance, threads)
        dtype = sampler.dtype

        def draw(noise: Tensor, *, conditioning: Conditioning, **options: Any) -> Tensor:
            both = with_null_class(conditioning, classes) if guidance else conditioning
            return sampler.sample(noise, conditioning=in_dtype(both, dtype), **options)

        return draw, sampler.batch

    network = in_precision(model.network, precision)

    def predict(conditioning: Conditioning, levels: Tensor) -> Tensor:
        if not conditioning and network is model.network:
            return model.predict(levels)
        if not guidance:
            return model.forward(network, levels, conditioning)
        both = with_null_class(conditioning, classes)
        cond, uncond = model.forward(network, levels.repeat(2, 1, 1, 1), both).chunk(2)
        return fast.guided(cond, uncond, guidance)

    def draw_plainly(noise: Tensor, *, conditioning: Conditioning, **options: Any) -> Tensor:
        with model.passes.tuner(threads, noise.device) as tuner:
            step = partial(predict, conditioning)
            return ancestral.sample(
                lambda levels: tuner.run(1, partial(step, levels)), model.head, model.spec, noise, **options
            )

    return draw_plainly, lambda n: min(n, PLAIN_BATCH)
