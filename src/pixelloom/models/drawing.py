"""How a pixel model draws a batch: by the fast sampler, or by the plain loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.core.types import Conditioning
from pixelloom.heads.discrete import Head
from pixelloom.models.inputs import Precision, check_guidance, in_dtype, in_precision, with_null_class
from pixelloom.models.own_network import or_plain
from pixelloom.models.plain_loop import PlainLoop

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
    head: Head,
) -> tuple[Callable[..., Tensor], Callable[[int], int]]:
    """A function that samples a batch from noise and conditioning, and one from n to the batch size.

    Args:
        model: the model.
        method: "fast" or "plain".
        precision: of the network.
        where: bool [N, C, H, W], true where values are known; None for none.
        guidance: w of classifier-free guidance.
        threads: CPU threads; None chooses by measured time.
        head: the distribution that values are drawn from.

    Raises:
        UsageError: for another method, precision, or guidance that the model does not have.
        ModelError: with "fast", if the network is not autoregressive or the reads of a layer are unknown.
    """
    if method not in ("fast", "plain"):
        raise UsageError(f"method: 'fast' or 'plain', not {method!r}")
    classes = model.description.classes
    check_guidance(guidance, model.description, logits=model.head.kind != "logistics")
    make = partial(model.fast_sampler, precision, where, guidance, threads, head)
    if method == "fast" and (sampler := or_plain(model.network, model.description, make)):
        dtype = sampler.dtype

        def draw(noise: Tensor, *, conditioning: Conditioning, **options: Any) -> Tensor:
            both = with_null_class(conditioning, classes) if guidance else conditioning
            return sampler.sample(noise, conditioning=in_dtype(both, dtype), **options)

        return draw, sampler.batch
    network = in_precision(model.network, precision)

    def run(levels: Tensor, conditioning: Conditioning) -> Tensor:
        if not conditioning and network is model.network:
            return model.predict(levels)
        return model.forward(network, levels, conditioning)

    loop = PlainLoop(run, head, model.spec, classes, guidance, threads, model.passes)
    return loop.sample, lambda n: min(n, PLAIN_BATCH)
