"""From merged statistics and influences to estimates with intervals, and paired differences."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import ndtri, stdtrit

from rayapp.evaluate.metrics import METRICS, Statistics
from rayapp.evaluate.ranking import calibration_noise
from rayapp.evaluate.statistics import Floats, Moments
from rayapp.schemas.data import Task
from rayapp.schemas.release import Difference, Estimate

MIN_ROWS = 30
MIN_RARER_ROWS = 10
"""With fewer rows (for a ranked metric: of the rarer class) the normal approximation behind the
intervals is not worth its name: there is a value, but no interval, and so no gate can pass."""


@dataclass(frozen=True)
class Influences:
    """Moments of the rows' influence: on each metric, and on candidate − champion."""

    of_metric: Mapping[str, Moments]
    of_difference: Mapping[str, Moments]

    @classmethod
    def from_batch(
        cls, own: Mapping[str, Floats], champion: Mapping[str, Floats] | None
    ) -> "Influences":
        """own, champion: per metric an influence per row; the same rows in the same order."""
        paired = [] if champion is None else [name for name in own if name in champion]
        return cls(
            {name: Moments.from_batch(values_N) for name, values_N in own.items()},
            {name: Moments.from_batch(own[name] - champion[name]) for name in paired}
            if champion is not None
            else {},
        )

    def merge(self, other: "Influences") -> "Influences":
        return Influences(
            {n: m.merge(other.of_metric[n]) for n, m in self.of_metric.items()},
            {n: m.merge(other.of_difference[n]) for n, m in self.of_difference.items()},
        )


def measure(task: Task, y_N: Floats, scores_NK: Floats, confidence: float) -> tuple[Estimate, ...]:
    """Every metric of rows that are at hand in one process, as monitoring has them."""
    stats = Statistics.from_batch(task, y_N, scores_NK)
    influences = Influences.from_batch(stats.influences(y_N, scores_NK), None)
    return estimates(stats, influences, confidence)


def estimates(stats: Statistics, influences: Influences, confidence: float) -> tuple[Estimate, ...]:
    """One per metric of the task, in the order of METRICS."""
    values = stats.values()
    return tuple(
        _estimate(name, values[name], stats, influences.of_metric.get(name), confidence)
        for name in METRICS
        if name in values
    )


def differences(
    own: Statistics, champion: Statistics, influences: Influences, confidence: float
) -> tuple[Difference, ...]:
    """candidate − champion where both are defined and there are rows enough for an interval. The
    label rate has none: it belongs to the rows, not to a model."""
    mine, theirs = own.values(), champion.values()
    found = []
    for name in (n for n in METRICS if n != "label_rate"):
        moments = influences.of_difference.get(name)
        a, b = mine.get(name), theirs.get(name)
        if moments is None or a is None or b is None or not _has_interval(name, own):
            continue
        half = student(confidence, own.num_rows) * standard_error(moments)
        found.append(
            Difference(
                metric=name,
                value=a - b,
                low=a - b - half,
                high=a - b + half,
                num_rows=own.num_rows,
                confidence=confidence,
            )
        )
    return tuple(found)


def _has_interval(name: str, stats: Statistics) -> bool:
    enough = stats.num_rarer >= MIN_RARER_ROWS or not METRICS[name].is_ranked
    return stats.num_rows >= MIN_ROWS and enough


def _estimate(
    name: str,
    value: float | None,
    stats: Statistics,
    moments: Moments | None,
    confidence: float,
) -> Estimate:
    low = high = None
    if value is not None and moments is not None and _has_interval(name, stats):
        low, high = _bounds(name, value, standard_error(moments), stats, confidence)
    return Estimate(
        metric=name,
        value=value,
        low=low,
        high=high,
        num_rows=stats.num_rows,
        confidence=confidence,
    )


def _bounds(
    name: str, value: float, error: float, stats: Statistics, confidence: float
) -> tuple[float, float]:
    if METRICS[name].is_share:
        size = stats.num_rarer if METRICS[name].is_ranked else stats.num_rows
        return wilson(value, error, size, confidence)
    half = student(confidence, stats.num_rows) * error
    if name == "calibration_error":
        # The estimate is never below what chance alone gives, so the truth may lie that far under.
        return max(value - calibration_noise(stats.tables[-1]) - half, 0.0), value + half
    floor = 0.0 if name in ("mae", "rmse", "log_loss") else -math.inf
    return max(value - half, floor), value + half


def wilson(value: float, error: float, size: int, confidence: float) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927, JASA 22:209) at its effective sample size.

    The effective size is that of a binomial share with the same standard error (Korn & Graubard
    1998, Survey Methodology 24:193). Where the error is zero, as for a perfect ranking, `size`
    stands in, so that few rows never look like certainty.
    """
    value = min(max(value, 0.0), 1.0)
    effective = effective_size(value, error, size)
    z = float(ndtri((1 + confidence) / 2))
    centre = (value + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = (
        z
        / (1 + z**2 / effective)
        * math.sqrt(value * (1 - value) / effective + z**2 / (4 * effective**2))
    )
    return max(min(centre - half, value), 0.0), min(max(centre + half, value), 1.0)


def effective_size(value: float, error: float, size: int) -> float:
    """How many independent rows would give a share this standard error; `size` where there is none
    to go by."""
    return value * (1 - value) / error**2 if error > 0 and 0 < value < 1 else float(size)


def standard_error(moments: Moments) -> float:
    """Of the mean of the influences, whose own mean is zero up to rounding."""
    return math.sqrt(moments.variance / moments.count)


def student(confidence: float, num_rows: int) -> float:
    return float(stdtrit(num_rows - 1, (1 + confidence) / 2))
