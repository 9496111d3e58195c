"""The table of metrics: what each is called, its group, unit and direction, and how it is printed.

A result of a metric that compares features carries the extractor in its name: ``kid-lenet-mnist`` is a result of
``kid``. Reports, curves and the command line look metrics up here by the name of a result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Group = Literal["likelihood", "distance", "share", "memorization", "accuracy", "discriminator"]
Direction = Literal["lower", "higher", "baseline", ""]


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        name: name of the metric; results of metrics in features are called ``name-extractor``.
        group: what is measured.
        better: "lower", "higher", "baseline" for the value of real images, or "" for a quantity of training.
        unit: unit of its values, "" for a number without one.
        by_features: whether it compares features of an extractor.
        selects: whether training selects the best model by it, on validation.
        form: format of its values.
    """

    name: str
    group: Group
    better: Direction
    unit: str = ""
    by_features: bool = True
    selects: bool = False
    form: str = ".4g"

    @property
    def arrow(self) -> str:
        """The direction as a sign."""
        return {"lower": "↓", "higher": "↑"}.get(self.better, "")

    def holds(self, result: str) -> bool:
        """Whether a result of that name is one of this metric."""
        return result == self.name or (self.by_features and result.startswith(f"{self.name}-"))


BITS, NATS, NATS_PER_IMAGE = "bits/dim", "nats/dim", "nats/image"
KID, FD, NEAREST, GAP, COPIED, ACCURACY = "kid", "fd", "nearest", "gap", "copied", "accuracy"
REAL, FAKE, R_T = "D/real", "D/fake", "D/r_t"

TABLE: tuple[Metric, ...] = (
    Metric(BITS, "likelihood", "lower", BITS, by_features=False, selects=True, form=".4f"),
    Metric(NATS, "likelihood", "lower", NATS, by_features=False, form=".4f"),
    Metric(NATS_PER_IMAGE, "likelihood", "lower", NATS_PER_IMAGE, by_features=False, form=".2f"),
    Metric(KID, "distance", "lower", selects=True),
    Metric(FD, "distance", "lower"),
    Metric("precision", "share", "higher"),
    Metric("recall", "share", "higher"),
    Metric("density", "share", "higher"),
    Metric("coverage", "share", "higher"),
    Metric(NEAREST, "memorization", "baseline", "distance"),
    Metric(GAP, "memorization", "baseline"),
    Metric(COPIED, "memorization", "baseline"),
    Metric(ACCURACY, "accuracy", "higher"),
    Metric(REAL, "discriminator", "", "logit", by_features=False),
    Metric(FAKE, "discriminator", "", "logit", by_features=False),
    Metric(R_T, "discriminator", "", by_features=False),
)


def metric_of(result: str) -> Metric | None:
    """The metric of a result by the result's name; None for other quantities, such as losses."""
    return next((metric for metric in TABLE if metric.holds(result)), None)


def in_group(group: Group) -> tuple[str, ...]:
    """Names of the metrics of a group, in the order of the table."""
    return tuple(metric.name for metric in TABLE if metric.group == group)


def selecting(results: Iterable[str]) -> list[str]:
    """The results by which training selects models, in the order given; for all of them lower is better."""
    return [name for name in results if (metric := metric_of(name)) is not None and metric.selects]


def is_distance(result: str) -> bool:
    """Whether a result is a distance between two sets of images."""
    metric = metric_of(result)
    return metric is not None and metric.group == "distance"


def value_text(result: str, value: float) -> str:
    """The value and the name of a result: ``0.1476 bits/dim``."""
    metric = metric_of(result)
    return f"{value:{metric.form if metric else '.4g'}} {result}"
