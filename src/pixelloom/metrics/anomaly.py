"""Detection of anomalies by a score (larger: more anomalous): p-values, threshold, AUROC, AUPR, FPR at 95 % TPR.

p-value and threshold are those of conformal prediction (Vovk et al. 2005; Laxhammar and Falkman 2010): with n
calibration scores c of normal images, exchangeable with a further normal image of score s,

    p(s) = (1 + #{c >= s}) / (n + 1),    threshold(a) = the k-th smallest c,  k = ceil((n + 1)(1 - a)),

p(s) <= a for at most a share a of normal images, and p(s) <= a if and only if s > threshold(a).

Outliers are the positives: TPR is the share of outliers with a score of at least t, FPR that of normal images.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pixelloom.core import rng
from pixelloom.core.errors import DataError, UsageError

Scores = npt.NDArray[np.float64]
"""Scores, float64 [N]."""
Interval = tuple[float, float]
_RESAMPLES = 1000  # of the bootstrap
_Z = 1.96
TPR = 0.95


def p_values(scores: Scores, calibration: Scores) -> Scores:
    """The p-value of each score among calibration scores of normal images, float64 [N]."""
    n = len(calibration)
    return (1.0 + n - np.searchsorted(np.sort(calibration), scores, side="left")) / (n + 1)


def needed(false_alarms: float) -> int:
    """The fewest calibration scores for a threshold with this false-alarm rate.

    Raises:
        UsageError: unless the rate is above 0 and below 1.
    """
    if not 0 < false_alarms < 1:
        raise UsageError(f"false_alarms: a rate above 0 and below 1, not {false_alarms:g}")
    return math.ceil(1 / _exact(false_alarms)) - 1


def threshold(calibration: Scores, false_alarms: float) -> float:
    """The score that at most a share ``false_alarms`` of normal images exceeds.

    Raises:
        UsageError: unless the rate is above 0 and below 1.
        DataError: for too few calibration scores.
    """
    n, least = len(calibration), needed(false_alarms)
    if n < least:
        raise DataError(
            f"false_alarms: a rate of {false_alarms:g} needs {least} calibration images or more, and there are {n}; "
            "calibrate on more normal images, or allow more false alarms"
        )
    k = n + 1 - math.floor((n + 1) * _exact(false_alarms))  # = ceil((n + 1)(1 - a))
    return float(np.sort(calibration)[k - 1])


def _exact(rate: float) -> Fraction:
    """The decimal fraction that was written: in floats 1 - 0.01 is not 0.99."""
    return Fraction(repr(float(rate)))


@dataclass(frozen=True)
class Detection:
    """How well a score separates outliers from normal images; intervals are of 95 %.

    Attributes:
        auroc: P(score of an outlier > that of a normal image), ties counted by half.
        auroc_95: its interval.
        aupr: average precision with outliers as positives; that of random scores is their share.
        aupr_95: its interval, by bootstrap.
        fpr95: share of normal images at or above the highest threshold that 95 % of the outliers reach.
        fpr95_95: its interval, by bootstrap.
        normals: number of normal images.
        outliers: number of outliers.
    """

    auroc: float
    auroc_95: Interval
    aupr: float
    aupr_95: Interval
    fpr95: float
    fpr95_95: Interval
    normals: int
    outliers: int

    def as_dict(self) -> dict[str, object]:
        """All values, for JSON."""
        return asdict(self)


def detection(normals: Scores, outliers: Scores) -> Detection:
    """Measure a score on normal images and on outliers.

    Raises:
        DataError: without scores of both kinds, or for a score that is not a number.
    """
    m, n = len(outliers), len(normals)
    if not m or not n:
        raise DataError("AUROC needs normal images and outliers, one of each or more")
    if np.isnan(normals).any() or np.isnan(outliers).any():
        raise DataError("AUROC: a score is not a number")
    table = _Table(normals, outliers)
    area = auroc(normals, outliers)
    aupr_95, fpr_95 = table.bootstrap()
    return Detection(
        area, auroc_interval(area, n, m), table.aupr(*table.counts), aupr_95, table.fpr(*table.counts), fpr_95, n, m
    )


def auroc(normals: Scores, outliers: Scores) -> float:
    """The area under the ROC curve: the share of pairs in which the outlier has the higher score, ties by half."""
    ranked = np.sort(normals)
    below = np.searchsorted(ranked, outliers, side="left")
    up_to = np.searchsorted(ranked, outliers, side="right")
    return float((below + up_to).sum() / 2 / (len(normals) * len(outliers)))


def auroc_interval(area: float, normals: int, outliers: int) -> Interval:
    """The 95 % interval of an AUROC: all A with |area - A| <= 1.96 sqrt(V(A)).

    V is the variance of Hanley and McNeil (1982), equations 1 and 2. As it is taken at A (Newcombe 2006, method 5), an
    area of 0 or 1 has an interval too.
    """

    def excess(value: float) -> float:
        return abs(area - value) - _Z * math.sqrt(_variance(value, normals, outliers))

    def bound(outer: float) -> float:
        inner = area
        if excess(outer) <= 0:
            return outer
        for _ in range(60):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if excess(middle) > 0 else (middle, outer)
        return (inner + outer) / 2

    return bound(0.0), bound(1.0)


def _variance(area: float, normals: int, outliers: int) -> float:
    two_outliers, two_normals = area / (2 - area), 2 * area * area / (1 + area)  # Q1 and Q2
    total = area * (1 - area) + (outliers - 1) * (two_outliers - area**2) + (normals - 1) * (two_normals - area**2)
    return max(total, 0.0) / (normals * outliers)


class _Table:
    """Numbers of outliers and normal images at each distinct score, from the highest score down.

    Attributes:
        counts: outliers and normal images, float64 [K] each.
    """

    def __init__(self, normals: Scores, outliers: Scores) -> None:
        values, place = np.unique(np.concatenate([outliers, normals]), return_inverse=True)
        place = len(values) - 1 - place.reshape(-1)
        self._places = place[: len(outliers)], place[len(outliers) :]
        self._k = len(values)
        self.counts = self._counted(*self._places)

    def _counted(self, outliers: npt.NDArray[np.int64], normals: npt.NDArray[np.int64]) -> tuple[Scores, Scores]:
        true = np.bincount(outliers, minlength=self._k).astype(np.float64)
        return true, np.bincount(normals, minlength=self._k).astype(np.float64)

    @staticmethod
    def aupr(true: Scores, false: Scores) -> float:
        """Average precision: the sum over thresholds of (increase of the recall) * precision."""
        hits = true.cumsum()
        precision = hits / np.maximum(hits + false.cumsum(), 1)
        return min(float((true / true.sum()) @ precision), 1.0)

    @staticmethod
    def fpr(true: Scores, false: Scores) -> float:
        """FPR at the highest threshold with TPR >= 95 %."""
        enough = int(np.searchsorted(true.cumsum(), math.ceil(true.sum() * Fraction(repr(TPR)))))
        return float(false[: enough + 1].sum() / false.sum())

    def bootstrap(self) -> tuple[Interval, Interval]:
        """Percentile intervals of AUPR and FPR; outliers and normal images are each resampled (Efron 1979)."""
        found = np.empty((_RESAMPLES, 2))
        for i in range(_RESAMPLES):
            m, n = map(len, self._places)
            u = rng.uniform(m + n, rng.Stream.DETECTION, i)
            rows = (u[:m] * m).astype(np.int64), (u[m:] * n).astype(np.int64)
            counts = self._counted(self._places[0][rows[0]], self._places[1][rows[1]])
            found[i] = self.aupr(*counts), self.fpr(*counts)
        low, high = np.quantile(found, [0.025, 0.975], axis=0)
        return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))
