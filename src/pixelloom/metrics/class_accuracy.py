"""Class accuracy: the share of class-conditional samples that a classifier, trained on real digits only, recognizes."""

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
from pixelloom.metrics.table import ACCURACY

_RECOGNIZES = 0.9  # of real images; below, the classifier does not fit them


def digits_of(classes: Sequence[str]) -> tuple[int, ...]:
    """The digit that each class is named after.

    Raises:
        UsageError: if one is not, or there are none.
    """
    if not classes or not all(len(name) == 1 and name in "0123456789" for name in classes):
        named = f"classes are {', '.join(classes)}" if classes else "there are no classes"
        raise UsageError(f"metrics: 'accuracy' is measured by {LENET}, which knows the digits 0 to 9; here {named}")
    return tuple(map(int, classes))


def accuracy(
    samples: Images,
    asked: Labels | Tensor,
    levels: int,
    real: tuple[Images, Labels | Tensor] | None = None,
) -> Result:
    """Share of samples that lenet-mnist classifies as the digit they were conditioned on, with a 95 % Wilson interval.

    Args:
        samples: uint8 [N, C, H, W].
        asked: digit that each sample was conditioned on, int64 [N].
        levels: number of levels.
        real: real images with their digits; their accuracy is the baseline, which bounds that of the samples.

    Raises:
        DataError: for images of another shape or with higher levels.
    """
    hits, digits = read(samples, levels) == torch.as_tensor(asked), torch.as_tensor(asked)
    each = {digit: float(hits[digits == digit].double().mean()) for digit in sorted(set(digits.tolist()))}
    worst = min(each, key=each.__getitem__)
    notes = [f"lowest: {each[worst]:.3f} of the {worst}s"] if len(each) > 1 else []
    baseline, right, n = None, 0, 0
    if real is None or not len(real[0]):
        notes.append("no labeled images for a baseline")
    else:
        right, n = int((read(real[0], levels) == torch.as_tensor(real[1])).sum()), len(real[0])
        baseline = right / n
        if baseline < _RECOGNIZES:
            notes.append(f"{LENET} does not fit these images: it misclassifies real ones too")
    return Result(
        f"{ACCURACY}-{LENET}",
        float(hits.double().mean()),
        len(hits),
        0,
        baseline,
        baseline_n=(n, 0) if n else None,
        note="; ".join(notes),
        interval=wilson(int(hits.sum()), len(hits)),
        baseline_interval=wilson(right, n) if n else None,
    )


def applies(result: Result) -> bool:
    """Whether the classifier recognizes the real images of a result, or none were given."""
    return result.baseline is None or result.baseline >= _RECOGNIZES


@torch.no_grad()
def read(images: Images, levels: int, *, batch: int = 256) -> Tensor:
    """The digit that lenet-mnist recognizes in each image, int64 [N]."""
    x = as_levels(images, levels, "images")
    classifier = LeNetMnist(x.shape[1])
    parts = [classifier.classify(to_model(part, levels, Scaling.unit())) for part in torch.split(x, batch)]
    return torch.cat(parts) if len(x) else torch.empty(0, dtype=torch.long)


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927): all p with |hits / n - p| <= z sqrt(p (1 - p) / n)."""
    share = hits / n
    middle = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    return max((middle - reach) / scale, 0.0), min((middle + reach) / scale, 1.0)
