"""Is what was drawn of a class read as that class? Only a reader that nobody trained on the samples can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.core.types import Labels
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.metrics.extractors import LENET, Images, LeNetMnist, as_levels
from pixelloom.metrics.results import Result

_READS = 0.9  # of real pictures, or else the reader is not fit for them


def digits_of(classes: Sequence[str]) -> tuple[int, ...]:
    """The digit that each class is named after.

    Raises:
        UsageError: if one is not, or there are none.
    """
    if not classes or not all(len(name) == 1 and name in "0123456789" for name in classes):
        named = f"classes are {', '.join(classes)}" if classes else "there are no classes"
        raise UsageError(f"metrics: 'accuracy' is read by {LENET}, which knows the digits 0 to 9; here {named}")
    return tuple(map(int, classes))


def accuracy(
    samples: Images,
    asked: Labels | Tensor,
    levels: int,
    real: tuple[Images, Labels | Tensor] | None = None,
) -> Result:
    """Share of samples that lenet-mnist reads as the digit that they were drawn for, with a 95 % interval (Wilson).

    Args:
        samples: uint8 [N, C, H, W].
        asked: the digit of each, int64 [N].
        levels: of the pictures.
        real: pictures with their digits; their share, the baseline, says how far the reader can be trusted.

    Raises:
        DataError: for pictures of another shape or of higher levels.
    """
    hits, digits = read(samples, levels) == torch.as_tensor(asked), torch.as_tensor(asked)
    each = {digit: float(hits[digits == digit].double().mean()) for digit in sorted(set(digits.tolist()))}
    worst = min(each, key=each.__getitem__)
    notes = [f"lowest: {each[worst]:.3f} of the {worst}s"] if len(each) > 1 else []
    baseline, right, n = None, 0, 0
    if real is None or not len(real[0]):
        notes.append("no labeled pictures for a baseline")
    else:
        right, n = int((read(real[0], levels) == torch.as_tensor(real[1])).sum()), len(real[0])
        baseline = right / n
        if baseline < _READS:
            notes.append(f"{LENET} is not fit for these: it misreads real ones too")
    return Result(
        f"accuracy-{LENET}",
        float(hits.double().mean()),
        len(hits),
        0,
        baseline,
        baseline_n=(n, 0) if n else None,
        note="; ".join(notes),
        interval=wilson(int(hits.sum()), len(hits)),
        baseline_interval=wilson(right, n) if n else None,
    )


@torch.no_grad()
def read(images: Images, levels: int, *, batch: int = 256) -> Tensor:
    """The digit that lenet-mnist reads in each picture, int64 [N]."""
    x = as_levels(images, levels, "pictures")
    reader = LeNetMnist(x.shape[1])
    parts = [reader.classify(to_model(part, levels, Scaling.unit())) for part in torch.split(x, batch)]
    return torch.cat(parts) if len(x) else torch.empty(0, dtype=torch.long)


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927): the shares p with |hits / n - p| <= z sqrt(p (1 - p) / n)."""
    share = hits / n
    middle = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    return max((middle - reach) / scale, 0.0), min((middle + reach) / scale, 1.0)
